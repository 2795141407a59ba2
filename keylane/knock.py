"""Why a broker can't be used, found out by knocking at its door.

The broker's client tells a refused certificate, or a refused token, no differently from a broker
that is away: it tries until its time is over. So after it failed the handshake is made once more,
TLS and Pulsar's CONNECT command, to hear what is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final
from urllib.parse import urlsplit

from keylane.credentials import Credentials
from keylane.errors import BrokerUnavailable
from keylane.masking import mask_url
from keylane.settings import PulsarSettings
from keylane.tls import BrokerTrust

#: Seconds for the whole of it.
_PATIENCE_S: Final = 2.0
_PORTS: Final = {"pulsar": 6650, "pulsar+ssl": 6651}
#: Numbers of Pulsar's binary protocol: kinds of commands, and the version we speak.
_CONNECT: Final = 2
_ERROR: Final = 14
_VERSION: Final = 19
_LENGTH_BYTES: Final = 4


async def why_shut_out(
    access: PulsarSettings, credentials: Credentials | None, context: BrokerTrust
) -> BrokerUnavailable | None:
    """What to say to somebody whom the broker does not let in; None if that is not the matter.

    Of several hosts the first one is asked.
    """
    url = mask_url(access.service_url)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            greeting = await asyncio.to_thread(_greeting, access, credentials)
            is_welcome = await _knock(access.service_url, context, greeting)
    except ssl.SSLError as error:
        return BrokerUnavailable(
            f"TLS with the broker at {url} fails ({_said(error)}); nothing was done. Correct "
            "KEYLANE_PULSAR__TLS_TRUST_CERTS, or what else is set of KEYLANE_PULSAR__TLS_*."
        )
    except (OSError, TimeoutError, asyncio.IncompleteReadError, BrokerUnavailable):
        return None
    return None if is_welcome else not_authorized(url)


def not_authorized(url: str, reason: str = "") -> BrokerUnavailable:
    return BrokerUnavailable(
        f"The broker at {url} does not let us in: not authorized{f' ({reason})' if reason else ''};"
        " nothing was done. Correct KEYLANE_PULSAR__TOKEN, or what else it should know us by."
    )


def _said(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).lower().replace("_", " ")


async def _knock(service_url: str, context: BrokerTrust, greeting: bytes) -> bool:
    url = urlsplit(service_url.partition(",")[0])
    reader, writer = await asyncio.open_connection(
        url.hostname,
        url.port or _PORTS[url.scheme],
        ssl=context if url.scheme == "pulsar+ssl" else None,
    )
    try:
        writer.write(greeting)
        size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
        answer = await reader.readexactly(size)
    finally:
        with contextlib.suppress(OSError):
            writer.transport.abort()
    return not answer[_LENGTH_BYTES:].startswith(_number(1, _ERROR))


def _greeting(access: PulsarSettings, credentials: Credentials | None) -> bytes:
    method, shown = "none", ""
    if credentials is not None:
        method, shown = "token", credentials.token()
    elif access.tls_certificate is not None:
        method = "tls"
    connect = (
        _text(1, "keylane") + _text(3, shown) + _number(4, _VERSION) + _text(5, method)
    )  # client_version, auth_data, protocol_version, auth_method_name
    command = _number(1, _CONNECT) + _block(2, connect)
    size = len(command)
    return (size + _LENGTH_BYTES).to_bytes(_LENGTH_BYTES) + size.to_bytes(_LENGTH_BYTES) + command


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _block(field, value.encode())


def _block(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:  # noqa: PLR2004  seven bits a byte
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
