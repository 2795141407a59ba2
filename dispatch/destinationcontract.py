"""What every kind of destination must do, as a suite that its author runs.

Subclass `DestinationContract` in a test module, under a name that begins with `Test`, and say in
`counterpart` what the destination delivers to. Any runner of methods called `test_...` will do;
each runs an event loop of its own, so that no plugin for asynchronous tests is needed:

    class TestMyKind(DestinationContract):
        def counterpart(self):
            return my_server()  # an asynchronous context manager of a `Counterpart`

A check that fails raises `AssertionError`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

from typing_extensions import override

from dispatch.delivery import Delivery
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.opening import Opening
from dispatch.outcome import Delivered, Malformed, Outcome, Refused, Unavailable
from keylane.broker import Broker, Position
from keylane.destinationsettings import ChannelSettings
from keylane.errors import ContractError
from keylane.event import Event, to_message
from keylane.memory import MemoryBroker

#: Around each check, so that a destination which hangs fails instead of hanging its tests.
WITHIN_S: Final = 30.0
TIMEOUT_S: Final = 5.0
#: For the check that an attempt ends by itself; `_SLACK_S` is granted on top.
_SHORT_TIMEOUT_S: Final = 0.5
_SLACK_S: Final = 2.0
_LARGE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Arrival:
    """One delivery as the other side got it; `None` for what the kind does not carry."""

    payload: bytes | None = None
    id: str | None = None
    user: str | None = None
    attempt: int | None = None


class Counterpart(ABC):
    """The other side of a destination, made for tests: a server, a folder, a service's sandbox."""

    @abstractmethod
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        """A new destination that delivers here, such as the plugin's own function makes it."""

    @abstractmethod
    async def received(self) -> Sequence[Arrival]:
        """Everything that has arrived until now, in order."""

    async def go_away(self) -> None:
        """Be out of reach from now on. Only called if `can_go_away`."""
        raise NotImplementedError

    async def stall(self) -> None:
        """Take what comes and answer nothing from now on. Only called if `can_stall`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ContractMessage:
    """A message as a broker would hand it over."""

    key: str = "Ada"
    payload: bytes = b"{}"
    attributes: Mapping[str, str] = field(default_factory=dict)
    position: Position = (7, 3, -1)
    redelivery_count: int = 0
    event_time_ms: int = 1_700_000_000_000
    publish_time_ms: int = 1_700_000_000_500

    def value(self) -> bytes:
        return self.payload

    def properties(self) -> dict[str, str]:
        return dict(self.attributes)


class UnreadableMessage(ContractMessage):
    """Another producer's, with properties that are not UTF-8."""

    @override
    def properties(self) -> dict[str, str]:
        return {"name": b"\xff".decode()}


def delivery_of(
    payload: bytes = b'{"n": 1}', *, user: str = "Ada", event_id: str = "event-1", attempt: int = 1
) -> Delivery:
    """One attempt at an event made for a test."""
    sent = to_message(Event(event_id, user, payload, accepted_at_ms=1_700_000_000_000))
    return Delivery(ContractMessage(sent.key, sent.value, sent.properties), 0, attempt)


def opening_of(
    to: str, *, timeout_s: float = TIMEOUT_S, broker: Broker | None = None, **settings: Any
) -> Opening:
    """What a kind is opened with; `settings` are those of a channel, `options` among them."""
    return Opening(
        destination="contract",
        channel="",
        to=to,
        settings=ChannelSettings(to=to, **settings),
        timeout_s=timeout_s,
        concurrency=16,
        is_guarded=False,
        broker=broker or MemoryBroker(),
    )


_Opened: TypeAlias = Destination | ImmediateDestination
_Check: TypeAlias = Callable[[Counterpart, _Opened], Awaitable[None]]


class DestinationContract:
    """The checks. What a kind can't do by its nature is said by the switches."""

    #: Whether the counterpart can be out of reach.
    can_go_away: ClassVar[bool] = True
    #: Whether it can leave an attempt without an answer.
    can_stall: ClassVar[bool] = True

    def counterpart(self) -> AbstractAsyncContextManager[Counterpart]:
        """A new counterpart, which the context ends."""
        raise NotImplementedError

    def test_an_event_arrives_as_it_was_sent(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            payload = '{"b": 1.0, "a": "Zoë \\n"}'.encode()
            _is_delivered(await _attempt(opened, delivery_of(payload, user="Zoë", attempt=3)))
            (arrival,) = await other.received()
            _is(arrival, Arrival(payload, "event-1", "Zoë", 3))

        self._run(check)

    def test_events_of_several_users_go_at_the_same_time(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            users = [f"user-{n}" for n in range(8)]
            attempts = [
                _attempt(opened, delivery_of(b"%d" % n, user=user, event_id=f"event-{n}"))
                for n, user in enumerate(users)
            ]
            for outcome in await asyncio.gather(*attempts):
                _is_delivered(outcome)
            arrived = await other.received()
            _require(len(arrived) == len(users), f"{len(arrived)} of {len(users)} events arrived")
            by_payload = {arrival.payload: arrival for arrival in arrived}
            for n, user in enumerate(users):
                if None not in by_payload:
                    _is(by_payload[b"%d" % n], Arrival(b"%d" % n, f"event-{n}", user, 1))

        self._run(check)

    def test_a_repeated_attempt_is_one_more_delivery_with_its_number(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            for attempt in (1, 2):
                _is_delivered(await _attempt(opened, delivery_of(attempt=attempt)))
            first, second = await other.received()
            _is(first, Arrival(b'{"n": 1}', "event-1", "Ada", 1))
            _is(second, Arrival(b'{"n": 1}', "event-1", "Ada", 2))

        self._run(check)

    def test_a_large_payload_arrives_whole_or_is_refused(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            payload = b'"' + b"x" * _LARGE_BYTES + b'"'
            outcome = await _attempt(opened, delivery_of(payload))
            await _is_whole_or_refused(other, outcome, payload)

        self._run(check)

    def test_any_payload_arrives_whole_or_is_refused(self) -> None:
        for payload in (b"", b"null", b"plain", b"\xff\x00\xfe", b"[" * 5_000, b'"\xe2\x80\xa8"'):

            async def check(other: Counterpart, opened: _Opened, payload: bytes = payload) -> None:
                outcome = await _attempt(opened, delivery_of(payload))
                await _is_whole_or_refused(other, outcome, payload)

            self._run(check)

    def test_any_user_and_id_arrive_whole_or_are_refused(self) -> None:
        for name in ("a\r\nb: c", "\x00", "é\u2028€😀", "a" * 256, ' "%,;=<>', "../.."):

            async def check(other: Counterpart, opened: _Opened, name: str = name) -> None:
                outcome = await _attempt(opened, delivery_of(user=name, event_id=name))
                if await _is_whole_or_refused(other, outcome, b'{"n": 1}'):
                    (arrival,) = await other.received()
                    _is(arrival, Arrival(b'{"n": 1}', name, name, 1))

            self._run(check)

    def test_a_message_that_is_no_event_is_malformed(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            outcome = await _attempt(opened, Delivery(UnreadableMessage(), 0, 1))
            _require(isinstance(outcome, Malformed), f"a broken message came to {outcome}")
            _require(not await other.received(), "a broken message was delivered")

        self._run(check)

    def test_a_counterpart_out_of_reach_is_worth_another_attempt(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            # Once before, so that a kept connection is lost too.
            _is_delivered(await _attempt(opened, delivery_of()))
            await other.go_away()
            for attempt in (2, 3):
                outcome = await _attempt(opened, delivery_of(attempt=attempt))
                _require(isinstance(outcome, Unavailable), f"out of reach came to {outcome}")

        if self.can_go_away:
            self._run(check)

    def test_an_attempt_without_an_answer_ends_in_time(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            await other.stall()
            async with asyncio.timeout(_SHORT_TIMEOUT_S + _SLACK_S):
                outcome = await _attempt(opened, delivery_of())
            _require(isinstance(outcome, Unavailable), f"no answer came to {outcome}")

        if self.can_stall:
            self._run(check, timeout_s=_SHORT_TIMEOUT_S)

    def test_a_cancelled_attempt_leaves_nothing_running(self) -> None:
        async def check(other: Counterpart, opened: _Opened) -> None:
            await other.stall()
            begun = _tasks_begun()
            attempt = asyncio.ensure_future(_attempt(opened, delivery_of()))
            await asyncio.sleep(0.1)
            attempt.cancel()
            await asyncio.wait([attempt], timeout=_SLACK_S)
            _require(attempt.done(), "a cancelled attempt goes on")
            _require(attempt.cancelled(), "an attempt swallows that it is cancelled")
            # What was told to end has a moment to do so.
            await asyncio.sleep(0.1)
            left = [task for task in begun if not task.done()]
            _require(not left, f"a cancelled attempt leaves tasks: {left}")

        if self.can_stall:
            self._run(check)

    def test_closing_it_again_does_no_harm(self) -> None:
        async def check(_: Counterpart, opened: _Opened) -> None:
            _is_delivered(await _attempt(opened, delivery_of()))
            await opened.close()
            await opened.close()

        self._run(check)

    def test_one_that_was_never_used_can_be_closed(self) -> None:
        async def check(_other: Counterpart, _opened: _Opened) -> None:
            pass

        self._run(check)

    def _run(self, check: _Check, timeout_s: float = TIMEOUT_S) -> None:
        async def run() -> None:
            async with (
                asyncio.timeout(WITHIN_S),
                self.counterpart() as other,
                _closing(other.open(timeout_s=timeout_s)) as opened,
            ):
                await check(other, opened)

        asyncio.run(run())


@asynccontextmanager
async def _closing(opened: _Opened) -> AsyncIterator[_Opened]:
    try:
        yield opened
    finally:
        await opened.close()


_is_own: ContextVar[bool] = ContextVar("_is_own", default=False)


def _tasks_begun() -> Sequence[asyncio.Task[Any]]:
    """Fills with the tasks that the caller begins from now on, or they, or their callbacks.

    The counterpart's own, which may run on the same loop, are not among them.
    """
    begun: list[asyncio.Task[Any]] = []

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        if _is_own.get():
            begun.append(task)
        return task

    _is_own.set(True)
    asyncio.get_running_loop().set_task_factory(make)
    return begun


async def _attempt(opened: _Opened, delivery: Delivery) -> Outcome:
    """As a worker does: an error of the contract is an outcome, any other is a bug."""
    try:
        if isinstance(opened, ImmediateDestination):
            (outcome,) = opened.attempt_all([delivery])
            return outcome
        return await opened.attempt(delivery)
    except ContractError as error:
        return Malformed(str(error))


async def _is_whole_or_refused(other: Counterpart, outcome: Outcome, payload: bytes) -> bool:
    """Whether it was delivered; fails if it was and is not whole, or if it may never be known."""
    arrived = await other.received()
    if not isinstance(outcome, Delivered):
        _require(isinstance(outcome, (Refused, Malformed)), f"it came to {outcome}")
        _require(not arrived, f"it came to {outcome}, and was delivered")
        return False
    _require(len(arrived) == 1, f"{len(arrived)} arrived instead of 1")
    _is(arrived[0], Arrival(payload))
    return True


def _is_delivered(outcome: Outcome) -> None:
    _require(isinstance(outcome, Delivered), f"it was not delivered but {outcome}")


def _is(arrival: Arrival, sent: Arrival) -> None:
    """What the kind carries, and the check knows, is the same."""
    for name in ("payload", "id", "user", "attempt"):
        got, expected = getattr(arrival, name), getattr(sent, name)
        if got is not None and expected is not None:
            _require(got == expected, f"{name} is {got!r:.200} instead of {expected!r:.200}")


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
