"""Credentials, TLS and the proxy: what the settings say, checked, as options of libcurl."""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import SplitResult, quote, unquote, urlsplit

import pycurl

from dispatch.destinations.http.headers import extra_headers
from keylane.destinationsettings import HttpSettings
from keylane.errors import ConfigurationError

_PORTS: Final = {"http": 80, "https": 443}
#: Where systems keep the certificates that they trust, for a Python that doesn't know.
_TRUSTED: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)


@dataclass(frozen=True, slots=True)
class Connection:
    """`options` are libcurl's; `headers` go with every request.

    `secrets` are the texts that no reason may hold. `host` is the URL's.
    """

    options: dict[int, int | str | bytes]
    headers: list[str]
    secrets: tuple[str, ...]
    host: str
    is_proxied: bool


def connection_to(url: str, http: HttpSettings) -> Connection:
    """Raises `ConfigurationError` for what can never work, and names no secret."""
    parts = _checked(url)
    authorization, secrets = _authorization(http, parts)
    extra = {name: value.get_secret_value() for name, value in http.headers.items()}
    headers = extra_headers(extra.items(), has_credentials=bool(authorization or parts.username))
    options: dict[int, int | str | bytes] = {pycurl.URL: _encoded(url), **_proxy(http)}
    if parts.scheme.lower() == "https":
        options |= _tls(http)
    if http.proxy:
        secrets.append(urlsplit(http.proxy.get_secret_value()).password or "")
    secrets += [*extra.values(), parts.password or "", unquote(parts.password or "")]
    return Connection(
        options,
        headers + ([f"authorization: {authorization}"] if authorization else []),
        tuple(secrets),
        parts.hostname or "",
        http.proxy is not None,
    )


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good, parts = False, SplitResult("", "", "", "", "")
    if not is_good or parts.scheme.lower() not in ("http", "https"):
        raise ConfigurationError("a webhook's URL should be http(s)://HOST[:PORT]/PATH")
    _parse(_encoded(url), parts.port or _PORTS[parts.scheme.lower()])
    return parts


def _encoded(url: str) -> bytes:
    """With what isn't ASCII in the path and the query encoded; in the host libcurl does it."""
    parts = urlsplit(url)
    safe = "".join(map(chr, range(0x21, 0x7F)))
    return (
        parts._replace(
            path=quote(parts.path, safe=safe), query=quote(parts.query, safe=safe), fragment=""
        )
        .geturl()
        .encode()
    )


def _parse(url: bytes, port: int) -> None:
    """Let libcurl read the URL, and stop it where it would connect."""
    curl = pycurl.Curl()
    try:
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.RESOLVE, [f"*:{port}:127.0.0.1"])
        curl.setopt(pycurl.OPENSOCKETFUNCTION, lambda _purpose, _address: pycurl.SOCKET_BAD)
        curl.setopt(pycurl.URL, url)
        curl.perform()
    except pycurl.error as error:
        if error.args[0] in (pycurl.E_URL_MALFORMAT, pycurl.E_UNSUPPORTED_PROTOCOL):
            raise ConfigurationError(f"a webhook's {error.args[1]}") from None
    finally:
        curl.close()


def _authorization(http: HttpSettings, parts: SplitResult) -> tuple[str, list[str]]:
    """The header's value, and the secrets in it."""
    if sum((http.bearer is not None, http.basic is not None, bool(parts.username))) > 1:
        raise ConfigurationError("only one of http.bearer, http.basic and USER@ in the URL")
    if http.bearer:
        token = http.bearer.get_secret_value()
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ConfigurationError("http.bearer should be visible ASCII without spaces")
        return f"Bearer {token}", [token]
    if http.basic:
        pair = http.basic.get_secret_value()
        if ":" not in pair or not pair.isprintable():
            raise ConfigurationError("http.basic should be USER:PASSWORD")
        encoded = base64.b64encode(pair.encode()).decode()
        return f"Basic {encoded}", [encoded, pair.partition(":")[2]]
    return "", []


def _proxy(http: HttpSettings) -> dict[int, int | str | bytes]:
    if http.proxy is None:
        return {pycurl.PROXY: ""}  # else the environment's
    url = http.proxy.get_secret_value()
    try:
        parts = urlsplit(url)
        is_good = parts.scheme.lower() == "http" and bool(parts.hostname and parts.port)
    except ValueError:
        is_good = False
    if not is_good or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError("http.proxy should be http://[USER:PASSWORD@]HOST:PORT")
    return {
        pycurl.PROXY: url,
        pycurl.NOPROXY: "",  # else the environment's, which also bypasses a proxy that is set
    }


def _tls(http: HttpSettings) -> dict[int, int | str | bytes]:
    options: dict[int, int | str | bytes] = {
        pycurl.SSL_VERIFYPEER: 1,
        pycurl.SSL_VERIFYHOST: 2,
        pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
        **_trusted(http.ca_file),
    }
    if http.cert_file is None:
        if http.key_file is not None:
            raise ConfigurationError("http.key_file is set without http.cert_file")
        return options
    key = http.key_file or http.cert_file
    _check_pair(http.cert_file, key)
    return options | {pycurl.SSLCERT: str(http.cert_file), pycurl.SSLKEY: str(key)}


def _trusted(ca_file: Path | None) -> dict[int, int | str | bytes]:
    if ca_file is not None:
        try:
            ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # an SSLError is one
            _unreadable("http.ca_file", ca_file, error)
        return {pycurl.CAINFO: str(ca_file)}
    system = ssl.get_default_verify_paths()
    for file in (system.cafile, *_TRUSTED):
        if file and Path(file).is_file():
            # The paths that this build of libcurl has by itself may not be this system's.
            return {pycurl.CAINFO: file}
    if system.capath:
        return {pycurl.CAPATH: system.capath}
    raise ConfigurationError("no trusted certificates on this system; set http.ca_file")


def _check_pair(certificate: Path, key: Path) -> None:
    def ask() -> str:
        raise ConfigurationError(f"http.key_file: {key} is encrypted, which is not supported")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, ask)
    except OSError as error:
        _unreadable("http.cert_file, http.key_file", certificate, error)


def _unreadable(setting: str, path: Path, error: OSError) -> NoReturn:
    if isinstance(error, ssl.SSLError):
        raise ConfigurationError(f"{setting}: {path} is no PEM file that fits") from error
    raise ConfigurationError(f"{setting}: {error.filename or path}: {error.strerror}") from error
