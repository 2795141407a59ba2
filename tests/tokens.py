"""JSON Web Tokens, as a broker of the tests wants them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Final

SECRET: Final = b"a secret of the broker, of 32 bytes or more"
#: The same as the broker's `tokenSecretKey`.
SECRET_KEY: Final = f"data:;base64,{base64.b64encode(SECRET).decode()}"


def token_for(role: str, lives_s: float = 3_600, secret: bytes = SECRET) -> str:
    claims = {"sub": role, "exp": int(time.time() + lives_s)}
    parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, _base64(signature)]).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
