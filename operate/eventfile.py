"""Events out of a file: a JSON array, or one JSON object a line.

Readers are fed bytes as they come and give each element's own bytes, so that a file of any size
passes through and a payload is sent as it is written in the file. What can't be an element comes
out as well, with its fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import orjson

#: Read at once; a pipe gives what it has.
READ_BYTES: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"
_WHITESPACE: Final = b" \t\r\n"
# No possessive groups: Python before 3.11.5 mistakes their end where there is something in them to
# go back to. Nothing here can be read in two ways, but what could be gone back to takes memory.
_AT_ONCE = rb"{0,100}"
_IN_STRING = rb'[^"\\]*(?:\\.[^"\\]*)' + _AT_ONCE
_STRING = rb'"' + _IN_STRING + rb'"'
_REST_OF_STRING = re.compile(_IN_STRING, re.DOTALL)
#: What stands between two brackets, and at the top level between two commas as well. It stops at
#: the quote of a string that does not end, or that is one of many.
_NESTED = re.compile(rb'[^"\[\]{}]*(?:' + _STRING + rb'[^"\[\]{}]*)' + _AT_ONCE, re.DOTALL)
_TOP = re.compile(rb'[^"\[\]{},]*(?:' + _STRING + rb'[^"\[\]{},]*)' + _AT_ONCE, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its line, or its place in the array, from 1; its bytes, or why it has none."""

    number: int
    raw: bytes
    fault: str | None = None


class Reader(Protocol):
    """Takes a file piece by piece."""

    @property
    def unit(self) -> str:
        """What an element's number counts: `line` or `element`."""
        ...

    def feed(self, data: bytes) -> list[Element]:
        """The elements that are complete with this piece."""
        ...

    def finish(self) -> list[Element]:
        """What is left at the end of the file."""
        ...


class Lines:
    """Reads JSON lines; blank lines count but are no elements."""

    unit = "line"

    def __init__(self) -> None:
        self._tail = b""
        self._number = 0

    def feed(self, data: bytes) -> list[Element]:
        *complete, self._tail = (self._tail + data).split(b"\n")
        return [element for line in complete if (element := self._element(line))]

    def finish(self) -> list[Element]:
        element = self._element(self._tail)
        return [element] if element else []

    def _element(self, line: bytes) -> Element | None:
        self._number += 1
        raw = line.strip(_WHITESPACE)
        return Element(self._number, raw, _fault_of(raw)) if raw else None


class Array:
    """Reads the elements of one JSON array, finding their ends by brackets and quotes alone."""

    unit = "element"

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._is_in_string = False  # at `_scanned`: a long one is not to be scanned once a piece
        self._depth = 0
        self._number = 0
        self._is_closed = False

    def feed(self, data: bytes) -> list[Element]:
        self._buffer += data
        found: list[Element] = []
        start = 0
        while not self._is_closed and (end := self._next_end()) is not None:
            is_last = self._buffer[end : end + 1] == b"]"
            found += self._element(bytes(self._buffer[start:end]), is_last=is_last)
            start = end + 1
            self._is_closed = is_last
        del self._buffer[:start]
        self._scanned -= start
        return found

    def finish(self) -> list[Element]:
        left = bytes(self._buffer).strip(_WHITESPACE)
        if not self._is_closed:
            return [Element(self._number + 1, left, "the file ends before the array does")]
        return [Element(self._number + 1, left, "stands behind the array's end")] if left else []

    def _next_end(self) -> int | None:
        """Where the element ends that is being scanned; None if the buffer does not tell yet."""
        while token := self._next_token():
            if token == b'"':
                self._is_in_string = not self._is_in_string
            elif self._depth == 0 and token in b",]":
                # The opening bracket of the array itself is not fed.
                return self._scanned - 1
            else:
                self._depth = max(0, self._depth + (1 if token in b"[{" else -1))
        return None

    def _next_token(self) -> bytes:
        """The next bracket, comma or quote that tells something; empty if none is here yet."""
        outside = _NESTED if self._depth else _TOP
        pattern = _REST_OF_STRING if self._is_in_string else outside
        while found := pattern.match(self._buffer, self._scanned):
            self._scanned = found.end()
            token = bytes(self._buffer[self._scanned : self._scanned + 1])
            if token != b"\\":
                self._scanned += len(token)
                return token
            if self._scanned == found.start():  # what it escapes is in the next piece
                return b""
        return b""

    def _element(self, raw: bytes, *, is_last: bool) -> list[Element]:
        raw = raw.strip(_WHITESPACE)
        if not raw and is_last and self._number == 0:
            return []
        self._number += 1
        return [Element(self._number, raw, _fault_of(raw))]


def _fault_of(raw: bytes) -> str | None:
    if not raw:
        return "is empty"
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return f"is no JSON ({error})"
    return None


def open_reader(head: bytes) -> tuple[Reader, bytes]:
    """The reader that the first bytes of a file ask for, and what of them it is to be fed."""
    rest = head.removeprefix(_BOM)
    if rest.lstrip(_WHITESPACE).startswith(b"["):
        return Array(), rest.lstrip(_WHITESPACE)[1:]
    return Lines(), rest


class Readable(Protocol):
    """Where events come from."""

    def read(self, size: int, /) -> bytes:
        """What is there, at most so many bytes of it; nothing at the end."""
        ...


def read_pieces(file: Readable) -> Iterator[bytes]:
    """The file in pieces, the first with more than white space in it if the file has any."""
    head = b""
    while data := file.read(READ_BYTES):
        head += data
        if head.removeprefix(_BOM).strip(_WHITESPACE) and not _BOM.startswith(head):
            yield head
            break
    else:
        yield head
        return
    while data := file.read(READ_BYTES):
        yield data
