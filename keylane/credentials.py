"""How we prove to the broker who we are: with a token that is given, kept in a file, or issued.

The client's own OAuth 2.0 is not used: it never asks again once the issuer was away at its first
question, needs an expiry that issuers may leave out, and logs answers that it can't read, tokens
and all.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import orjson
from pydantic import SecretStr

from keylane.errors import BrokerUnavailable
from keylane.masking import mask_url
from keylane.settings import PulsarSettings
from keylane.tls import issuer_context

#: Seconds for each of the issuer's two answers.
ISSUER_TIMEOUT_S: Final = 5.0
#: A token is replaced when so much of its life is left: a part of it, but never more than a minute.
RENEWAL_PART: Final = 0.2
RENEWAL_S: Final = 60.0
#: What an issuer that doesn't say how long its token lives is taken to mean.
LIFETIME_S: Final = 60.0
#: A token's answer is small; what is longer is none.
_ANSWER_BYTES: Final = 1_000_000


class Credentials(Protocol):
    """Where the token comes from that the broker is shown."""

    def token(self) -> str:
        """The token that counts now, from any thread; may block for some seconds.

        Raises `BrokerUnavailable` when there is none now.
        """
        ...


def credentials_of(pulsar: PulsarSettings) -> Credentials | None:
    """What the settings name; None when the broker asks for no token."""
    if pulsar.token is not None:
        return GivenToken(pulsar.token)
    if pulsar.token_file is not None:
        return TokenFile(pulsar.token_file)
    if pulsar.oauth2_issuer_url is not None:
        return IssuedToken(pulsar)
    return None


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token that stays what it is."""

    secret: SecretStr

    def token(self) -> str:
        return self.secret.get_secret_value()


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file in which somebody else keeps the token fresh."""

    path: Path

    def token(self) -> str:
        try:
            found = self.path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BrokerUnavailable(
                f"The token in {self.path} can't be read ({_reason(error)}); nothing was sent. "
                "Write it again, or correct KEYLANE_PULSAR__TOKEN_FILE."
            ) from error
        if not found:
            raise BrokerUnavailable(f"There is no token in {self.path}; nothing was sent.")
        return found


class IssuedToken:
    """OAuth 2.0 client credentials: a token of an issuer, kept until shortly before its end."""

    def __init__(self, pulsar: PulsarSettings) -> None:
        self._issuer = (pulsar.oauth2_issuer_url or "").rstrip("/")
        secret = pulsar.oauth2_client_secret
        asked = {
            "grant_type": "client_credentials",
            "client_id": pulsar.oauth2_client_id,
            "client_secret": secret.get_secret_value() if secret else None,
            "audience": pulsar.oauth2_audience,
            "scope": pulsar.oauth2_scope,
        }
        self._question = urlencode({k: v for k, v in asked.items() if v is not None}).encode()
        self._context = issuer_context(pulsar)
        self._lock = threading.Lock()
        self._token = ""
        self._renewed_at = self._ends_at = 0.0

    def token(self) -> str:
        with self._lock:
            if time.monotonic() >= self._renewed_at:
                try:
                    self._renew()
                except BrokerUnavailable:
                    # The one at hand may still do, and the issuer be back before it ends.
                    if time.monotonic() >= self._ends_at:
                        raise
            return self._token

    def _renew(self) -> None:
        asked_at = time.monotonic()
        where = self._ask(f"{self._issuer}/.well-known/openid-configuration").get("token_endpoint")
        if not isinstance(where, str) or not where.startswith(("https://", "http://")):
            raise self._unusable("it names no token_endpoint")
        answer = self._ask(where, self._question)
        found = answer.get("access_token")
        if not isinstance(found, str) or not found:
            raise self._unusable("its answer holds no access_token")
        lifetime_s = _seconds(answer.get("expires_in"))
        self._token = found
        self._ends_at = asked_at + lifetime_s
        self._renewed_at = self._ends_at - min(RENEWAL_S, lifetime_s * RENEWAL_PART)

    def _ask(self, url: str, question: bytes | None = None) -> Mapping[str, Any]:
        request = Request(url, question, {"accept": "application/json"})  # noqa: S310  http only
        context = self._context if url.startswith("https:") else None
        try:
            with urlopen(request, timeout=ISSUER_TIMEOUT_S, context=context) as response:  # noqa: S310
                body = response.read(_ANSWER_BYTES)
        except HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, ValueError) as error:
            raise self._unusable(_reason(error)) from error
        answer = _decoded(body)
        if answer is None:
            raise self._unusable("its answer is no JSON object")
        return answer

    def _refusal(self, error: HTTPError) -> BrokerUnavailable:
        with error:
            # RFC 6749's own word for it; nothing else of the answer is known to be harmless.
            said = (_decoded(error.read(_ANSWER_BYTES)) or {}).get("error")
        word = said if isinstance(said, str) and said.replace("_", "").isalpha() else ""
        return BrokerUnavailable(
            f"The issuer at {mask_url(self._issuer)} gives us no token: not authorized "
            f"({f'{error.code} {word}'.strip()}); nothing was sent. Correct "
            "KEYLANE_PULSAR__OAUTH2_CLIENT_ID and KEYLANE_PULSAR__OAUTH2_CLIENT_SECRET."
        )

    def _unusable(self, reason: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"The issuer at {mask_url(self._issuer)} gave us no token ({reason}); nothing was "
            "sent. Start it, or correct KEYLANE_PULSAR__OAUTH2_ISSUER_URL."
        )


def _decoded(body: bytes) -> Mapping[str, Any] | None:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, Mapping) else None


def _seconds(given: object) -> float:
    try:
        return max(0.0, float(str(given)))
    except ValueError:
        return LIFETIME_S


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__
