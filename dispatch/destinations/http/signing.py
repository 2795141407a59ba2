"""`webhook-signature` (Standard Webhooks)."""

from __future__ import annotations

import base64
import hmac
from typing import Final

from standardwebhooks import Webhook

from keylane.errors import ConfigurationError

_PREFIX: Final = "whsec_"


class _Key(Webhook):
    """The library signs only text; a payload may be any bytes."""

    def sign_bytes(self, signed: bytes) -> str:
        digest = hmac.digest(self._whsecret, signed, "sha256")
        return "v1," + base64.b64encode(digest).decode()


class Signer:
    """Signs with every secret, so that a receiver may check with any: that is how one is changed.

    `secrets` has white space between. Raises `ConfigurationError`, which names none of them.
    """

    def __init__(self, secrets: str) -> None:
        self._keys = [_key(secret) for secret in secrets.split()]
        if not self._keys:
            raise ConfigurationError("the secret to sign with is empty")

    def signature(self, message_id: str, timestamp: str, payload: bytes) -> str:
        """The header's value; one signature a secret, in their order."""
        signed = b"%b.%b.%b" % (message_id.encode(), timestamp.encode(), payload)
        if len(self._keys) == 1:
            return self._keys[0].sign_bytes(signed)
        return " ".join(key.sign_bytes(signed) for key in self._keys)


def _key(secret: str) -> _Key:
    encoded = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        # The library skips what is not Base64, and would sign with another key than was meant.
        is_key = bool(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
    except ValueError:
        is_key = False
    if not is_key:
        # Without the cause, which may quote it.
        raise ConfigurationError(f"a secret to sign with should be {_PREFIX} and Base64 behind it")
    return _Key(secret)
