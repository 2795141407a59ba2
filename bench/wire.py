"""As much HTTP/1.1 as a load client needs, and no more: it must not be what is measured."""

from __future__ import annotations

from typing import Final

from bench.errors import BenchError

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_STATUS: Final = slice(9, 12)


def post(host: str, port: int, path: str, body: bytes) -> bytes:
    """The bytes of one request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class AnswerReader:
    """Takes what one connection receives, in whatever pieces, and gives the answers' statuses."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[int]:
        """The statuses of the answers that are complete with this piece."""
        if self._rest:
            data = self._rest + data
        statuses = []
        start = 0
        while (head_end := data.find(_HEAD_END, start)) >= 0:
            head = data[start:head_end]
            end = head_end + len(_HEAD_END) + _content_length(head)
            if len(data) < end:
                break
            statuses.append(int(head[_STATUS]))
            start = end
        self._rest = data[start:]
        return statuses


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(_LENGTH)
    if not found:
        raise BenchError(f"an answer without content-length: {head!r}")
    return int(rest.partition(b"\r\n")[0])
