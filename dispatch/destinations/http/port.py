"""What posts requests, as the destination sees it; one adapter stands behind it (engine.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

#: Bytes of an answer's body that are kept; a longer one is not read to its end.
MAX_ANSWER_BYTES: Final = 16 * 1024


class Trouble(Enum):
    """Why there is no answer."""

    TIMEOUT = auto()
    NAME = auto()
    CONNECTION = auto()
    TLS = auto()
    FORBIDDEN = auto()
    WITHDRAWN = auto()
    """`may_send` said no."""


class Answer(NamedTuple):
    """A whole answer, or the beginning of one that was longer than what is kept.

    `head` is its lines as they came, with those of provisional (1xx) answers before. The body is
    never decompressed.
    """

    status: int
    head: Sequence[bytes]
    body: bytes


class NoAnswer(NamedTuple):
    """Nothing, or only a part of an answer. `text` says why and holds no secret.

    `is_sent` says that there was a connection to send on: the request may have arrived.
    """

    trouble: Trouble
    text: str
    is_sent: bool = False


class Engine(Protocol):
    """Posts to one URL, many requests at once.

    Never follows a redirect, keeps no cookie, uses no proxy that it wasn't given, and sends a
    request at most once.
    """

    async def post(
        self, headers: Sequence[str], body: bytes, may_send: Callable[[], bool] = lambda: True
    ) -> Answer | NoAnswer:
        """Ends by itself within the timeouts; cancelled, it leaves nothing running behind.

        `headers` are `NAME: VALUE` each, the content type first, and hold no line break. What else
        an HTTP client says by itself can't be among them.
        `may_send` is asked when there is a connection, right before the request is sent on it.
        """
        ...

    async def close(self) -> None:
        """Ends what still runs, and closes every connection."""
        ...
