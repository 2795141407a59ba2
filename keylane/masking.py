"""What may be shown of a value that holds a secret."""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"
_USERINFO = re.compile(r"://(?:([^/?#\s:@]+):)?[^/?#\s@]*@")
_QUERY_VALUE = re.compile(r"([?&][^=&#\s]+=)[^&#\s]+")
#: Schemes whose path is an address; in those of chats and mailers it holds tokens.
_PLAIN_SCHEMES: Final = frozenset({"pulsar", "pulsar+ssl", "http", "https", "file"})


def mask_url(url: str) -> str:
    """The URL as it may be shown: no password, no query values, and of a chat only the scheme."""
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower() not in _PLAIN_SCHEMES:
        return f"{scheme}://{MASK}"
    return _QUERY_VALUE.sub(rf"\1{MASK}", mask_userinfo(url))


def mask_userinfo(text: str) -> str:
    """The text with the password, or the token that stands for one, of every URL in it masked."""
    return _USERINFO.sub(lambda found: f"://{found[1] + ':' if found[1] else ''}{MASK}@", text)
