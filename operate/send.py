"""Sending the events of a file, in its order.

One request is under way at a time, so the order of the file is the order on the topic. An event
without `ID` is given one before its first request: sent again because nobody knows whether it was
stored, it is still recognisable as the same event. Nothing is lost silently: every element ends as
accepted, as refused with its place and reason, or in what is left to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, BinaryIO, Final, Protocol

import orjson
from tenacity import AsyncRetrying, retry_if_exception_type, stop_before_delay

from keylane.event import new_event_id
from operate import exits, interrupt
from operate.eventfile import Element, open_reader, read_pieces
from operate.post import Answer, Poster, Stopped, Temporary, wait_s

#: Events of one request: enough that a request costs little beside its events.
CHUNK_EVENTS: Final = 500
#: Bytes of one request, unless a single event is larger.
CHUNK_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Refused:
    """An element that was not accepted and would not be the next time."""

    number: int
    reason: str


@dataclass(slots=True)
class Report:
    """What became of the file so far; `unit` is what places are counted in."""

    unit: str = "line"
    accepted: int = 0
    refused: list[Refused] = field(default_factory=list)
    read_bytes: int = 0
    #: Why sending ended before the file did, and the first element that is left.
    stopped: str | None = None
    resume_at: int | None = None
    was_interrupted: bool = False

    @property
    def exit_code(self) -> int:
        if self.was_interrupted:
            return exits.INTERRUPTED
        if self.stopped:
            return exits.TRY_AGAIN if self.accepted or self.refused else exits.UNAVAILABLE
        return exits.BAD_DATA if self.refused else exits.DONE

    def as_dict(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "refused": [{self.unit: r.number, "reason": r.reason} for r in self.refused],
            "stopped": self.stopped,
            "resume_at": self.resume_at,
        }


class Watcher(Protocol):
    """Is told how far it is after every request; must be quick."""

    def __call__(self, report: Report) -> None: ...


def send_file(
    file: BinaryIO, url: str, watch: Watcher, *, start_at: int = 1, give_up_after_s: float = 60.0
) -> Report:
    """Send what the file holds from element `start_at` on; returns what became of it.

    A request without answer, or answered 429 or 5xx, is repeated for `give_up_after_s` seconds.
    """
    report = Report()
    # Reading blocks outside the event loop, where Ctrl-C ends a wait for input at once.
    with interrupt.noticed() as signals, asyncio.Runner() as runner:
        runner.get_loop().add_reader(signals, interrupt.forget, signals)
        poster = Poster(url)
        sender = _Sender(report, poster, watch, give_up_after_s)
        runner.run(poster.open())
        try:
            _send_pieces(read_pieces(_Input(file, signals)), sender, runner, start_at)
        except Stopped as error:
            report.stopped = str(error)
        except KeyboardInterrupt:
            report.was_interrupted = True
            report.stopped = "Interrupted."
        finally:
            runner.run(poster.close())
            runner.get_loop().remove_reader(signals)
        if report.stopped:
            report.resume_at = max(start_at, sender.first_left)
    return report


class _Input:
    """A file whose wait for more ends with a signal, whenever that comes."""

    def __init__(self, file: BinaryIO, signals: socket.socket) -> None:
        self._file = file
        self._signals = signals
        # `read1` of a pipe returns what is there instead of waiting for all of it.
        self._read = getattr(file, "read1", file.read)

    def read(self, size: int, /) -> bytes:
        with contextlib.suppress(io.UnsupportedOperation):  # in memory nothing waits
            interrupt.wait_for(self._file.fileno(), self._signals)
        return bytes(self._read(size))


def _send_pieces(
    pieces: Iterator[bytes], sender: _Sender, runner: asyncio.Runner, start_at: int
) -> None:
    head = next(pieces)
    reader, rest = open_reader(head)
    sender.report.unit = reader.unit
    sender.report.read_bytes = len(head)
    runner.run(sender.send(_from(start_at, reader.feed(rest))))
    for piece in pieces:
        sender.report.read_bytes += len(piece)
        runner.run(sender.send(_from(start_at, reader.feed(piece))))
    runner.run(sender.send(_from(start_at, reader.finish())))


def _from(start_at: int, elements: Iterable[Element]) -> Iterable[Element]:
    return (element for element in elements if element.number >= start_at)


class _Sender:
    """Turns elements into requests, and their answers into the report."""

    def __init__(
        self, report: Report, poster: Poster, watch: Watcher, give_up_after_s: float
    ) -> None:
        self.report = report
        self._poster = poster
        self._watch = watch
        self._give_up_after_s = give_up_after_s
        self._queue: deque[Element] = deque()
        self._chunk: list[Element] = []
        self._chunk_events = CHUNK_EVENTS
        self._last_seen = 0

    @property
    def first_left(self) -> int:
        """The first element that is neither accepted nor refused."""
        left = [*self._chunk, *self._queue]
        return left[0].number if left else self._last_seen + 1

    async def send(self, elements: Iterable[Element]) -> None:
        """Return when each is accepted or refused; raises `Stopped` when some are left."""
        self._queue.extend(_with_id(element) for element in elements)
        if self._queue:
            self._last_seen = self._queue[-1].number
        while self._queue:
            self._take_chunk()
            while self._chunk:
                await self._post_chunk()
            self._watch(self.report)

    def _take_chunk(self) -> None:
        size = 0
        while self._queue and len(self._chunk) < self._chunk_events:
            element = self._queue[0]
            size += len(element.raw)
            if self._chunk and size > CHUNK_BYTES:
                return
            self._queue.popleft()
            if element.fault:
                self._refuse(element, element.fault)
            else:
                self._chunk.append(element)

    async def _post_chunk(self) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Temporary),
            stop=stop_before_delay(self._give_up_after_s),
            wait=wait_s,
            reraise=True,
        )
        try:
            await retrying(self._attempt)
        except Temporary as error:
            raise Stopped(f"{error}, for {self._give_up_after_s:g} s.") from error

    async def _attempt(self) -> None:
        answer = await self._poster.post([element.raw for element in self._chunk])
        if answer.is_acceptance_of(len(self._chunk)):
            self.report.accepted += len(self._chunk)
            self._chunk = []
            return
        is_clearer = self._settle_named(answer)
        if answer.is_temporary:
            if self._chunk:
                said = f"{self._poster.shown_url} answered {answer.status} ({answer.reason})"
                raise Temporary(said, answer.retry_after_s)
        elif not is_clearer:
            self._narrow_down(answer)

    def _settle_named(self, answer: Answer) -> bool:
        """Take out of the chunk what the answer settles element by element; whether it did any."""
        bad = answer.bad_elements()
        fates = answer.fates()
        left = []
        for index, element in enumerate(self._chunk):
            if index in bad:
                self._refuse(element, bad[index])
            elif fates.get(index) == "confirmed":
                self.report.accepted += 1
            elif fates.get(index) == "too-large":
                self._refuse(element, answer.reason)
            else:
                left.append(element)
        is_clearer = len(left) < len(self._chunk)
        self._chunk = left
        return is_clearer

    def _narrow_down(self, answer: Answer) -> None:
        """Find what a refusal as a whole is about by sending less at once."""
        if answer.status not in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
            raise Stopped(
                f"{self._poster.shown_url} answered {answer.status} ({answer.reason}): is this "
                "the address of Keylane's HTTP service?"
            )
        if len(self._chunk) == 1:
            self._refuse(self._chunk.pop(), answer.reason)
            return
        half = len(self._chunk) // 2
        self._queue.extendleft(reversed(self._chunk[half:]))
        self._chunk = self._chunk[:half]
        if answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            # What is too much for one request is too much for the next.
            self._chunk_events = half

    def _refuse(self, element: Element, reason: str) -> None:
        self.report.refused.append(Refused(element.number, reason))


def _with_id(element: Element) -> Element:
    if element.fault:
        return element
    value = orjson.loads(element.raw)
    if not isinstance(value, dict) or not value or "ID" in value:
        return element
    # Put in front of the first member, so that every byte of the rest stays as it is.
    named = b'{"ID":"' + new_event_id().encode() + b'",' + element.raw[1:]
    return Element(element.number, named)
