"""What was said of a destination and its users, and holds for all its workers until taken back.

It is kept by the broker, in a table of the topic's destinations (keylane/controlrecord.py): a
worker that starts later, or anywhere else, finds it there. A worker goes by what it has heard, also
of what it says itself, so that all see one order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import orjson

from dispatch.admission import Admission
from dispatch.connections import Subscription
from dispatch.deadletter import AttemptHistory
from dispatch.delivery import Delivery
from dispatch.orders import Orders
from dispatch.pace import Pace
from keylane.broker import Broker, Table
from keylane.controlrecord import (
    NOTHING,
    About,
    Key,
    Order,
    Pause,
    Standing,
    UserRecord,
    now,
)
from keylane.errors import BrokerError, BrokerUnavailable, ContractError
from keylane.names import control_topic

#: Seconds for what was said to be heard here.
ECHO_TIMEOUT_S: Final = 5.0


def disabled(reason: str) -> bytes:
    """What the table keeps of a destination that wants nothing more."""
    return orjson.dumps({"disabled": reason, "at": now()})


class Control:
    """Hears for one worker, and says what its destination answered and what became of users.

    `must_hear` says that without the table nothing may be delivered.
    """

    def __init__(
        self,
        broker: Broker,
        subscription: Subscription,
        pace: Pace,
        admission: Admission,
        orders: Orders,
        log: Any,
        step_soon: Callable[[], None],
        *,
        must_hear: bool = False,
    ) -> None:
        self._broker = broker
        self._subscription = subscription
        self._pace = pace
        self._admission = admission
        self._orders = orders
        self._log = log
        self._step_soon = step_soon
        self._must_hear = must_hear
        self._loop = asyncio.get_running_loop()
        self._table: Table | None = None
        self._saying: set[asyncio.Task[None]] = set()
        self._echoes: dict[tuple[str, bytes], asyncio.Future[None]] = {}
        #: The keys of what holds, by the token that its records have.
        self._keys: dict[str, str] = {}

    async def open(self) -> None:
        """Without a table everything goes on, and a destination is disabled for one worker.

        Raises `BrokerError` if that must not be.
        """
        try:
            topic = control_topic(self._subscription.topic)
            self._table = await self._broker.table(topic, self._hear)
        except BrokerError as error:
            if self._must_hear:
                raise
            self._log.warning(
                "control.unavailable",
                error=str(error),
                consequence="this worker hears of no pause, hold or redrive, and a destination "
                "that is disabled is so for this worker only",
            )

    async def close(self) -> None:
        await asyncio.gather(*self._saying, return_exceptions=True)
        if self._table:
            await self._table.close()

    async def catch_up(self) -> None:
        """Return when all that was said before this call holds here; raises `BrokerUnavailable`."""
        if self._table is None:
            raise BrokerUnavailable("The control table is not open.")
        await self._table.catch_up()

    def is_in_force(self, key: str, token: str) -> bool:
        """Whether what has this token, or else what is under the key, is gone by here.

        To be asked after a `catch_up`.
        """
        if not token:
            return key not in self._keys
        keys = [Key.read(key) for key, found in self._keys.items() if found == token]
        return all(
            key is None
            or key.about is About.PAUSE
            or (key.about is About.USER and self._admission.is_at_rest(key.of))
            for key in keys
        )

    # What this worker says

    def disable(self, reason: str) -> None:
        """Start no attempt until somebody resumes the destination, here and elsewhere."""
        if self._pace.suspended_because is not None:
            return
        self._suspend(reason)
        if self._table is not None:
            self._say_soon(self._subscription.name, disabled(reason))

    async def hold(self, delivery: Delivery, history: AttemptHistory) -> None:
        """Let what comes after this event follow it into the dead letters.

        Every worker goes by it that attempts something of the user after this returned. Raises
        `BrokerError` if that is not sure.
        """
        user = delivery.message.key
        found = self._admission.users.get(user)
        if not user or (found is not None and found.standing == Standing.HELD):
            return
        if found is not None and delivery.is_once_more:
            if found.has_failed:
                return
            record = replace(found, has_failed=True)
        else:
            record = UserRecord(
                Standing.HELD,
                now(),
                position=delivery.position,
                reason=history.given_up_because,
                attempts=delivery.attempt,
                status=history.last_status,
                error=history.last_error[:500],
            )
        await self._say(str(self._key(About.USER, user)), record.encoded())
        self._log.warning("user.held", user=user, because=history.given_up_because)

    async def end_redrive(self, user: str, token: str) -> None:
        """All of the user's events of this redrive are done; raises `BrokerError`."""
        found = self._admission.users.get(user)
        if found is None or found.token != token or found.standing != Standing.WAITING:
            return
        key = str(self._key(About.USER, user))
        if found.has_failed:
            held = replace(found, standing=Standing.HELD, token="", has_failed=False)
            await self._say(key, held.encoded())
            self._log.warning("user.held", user=user, because="the redrive failed again")
        else:
            await self._say(key, NOTHING)
            self._log.info("user.released", user=user)

    def carried_out(self, user: str) -> None:
        """What was ordered for the head of the user's lane is done, or can't be any more."""
        if self._table is not None:
            self._say_soon(str(self._key(About.ORDER, user)), NOTHING)

    def _key(self, about: About, of: str) -> Key:
        return Key(self._subscription.name, about, of)

    async def _say(self, key: str, value: bytes) -> None:
        if self._table is None:
            raise BrokerUnavailable("The control table is not open; nothing was said.")
        heard = self._echoes.setdefault((key, value), self._loop.create_future())
        try:
            await self._table.put(key, value)
            async with asyncio.timeout(ECHO_TIMEOUT_S):
                await asyncio.shield(heard)
        except TimeoutError as error:
            raise BrokerUnavailable("The control table was said something it does not say.") from (
                error
            )
        finally:
            self._echoes.pop((key, value), None)

    def _say_soon(self, key: str, value: bytes) -> None:
        task = self._loop.create_task(self._try_to_say(key, value))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def _try_to_say(self, key: str, value: bytes) -> None:
        try:
            await self._say(key, value)
        except BrokerError as error:
            self._log.warning(
                "control.unconfirmed",
                error=str(error),
                consequence="other workers find out by themselves",
            )

    # What it hears

    def _hear(self, name: str, value: bytes) -> None:
        key = Key.read(name)
        try:
            if key is not None and key.destination == self._subscription.name:
                self._obey(key, value)
        except (ContractError, ValueError, KeyError, TypeError) as error:
            # Anybody may publish there; no worker must end of it.
            self._log.warning("control.unreadable", key=name, error=str(error))
        if (heard := self._echoes.get((name, value))) and not heard.done():
            heard.set_result(None)

    def _obey(self, key: Key, value: bytes) -> None:
        token: str | None = None
        match key.about:
            case About.DESTINATION:
                reason = str(orjson.loads(value)["disabled"]) if value else None
                token = "" if value else None
                self._set_disabled(reason)
            case About.PAUSE:
                pause = Pause.decoded(value) if value else None
                token = pause.token if pause else None
                self._set_paused(pause)
            case About.USER:
                record = UserRecord.decoded(value) if value else None
                Standing(record.standing if record else Standing.HELD)
                token = record.token if record else None
                self._admission.say(key.of, record, self._loop.time())
            case About.ORDER:
                order = Order.decoded(value) if value else None
                token = order.token if order else None
                self._orders.say(key.of, order)
            case _:
                return
        if token is None:
            self._keys.pop(str(key), None)
        else:
            self._keys[str(key)] = token
        self._step_soon()

    def _set_disabled(self, reason: str | None) -> None:
        if reason is not None:
            self._suspend(reason)
        elif self._pace.suspended_because is not None:
            self._pace.suspended_because = None
            self._log.info("destination.resumed", consequence="attempts go on")

    def _set_paused(self, pause: Pause | None) -> None:
        is_live_stopped = pause is not None and pause.live_only
        is_paused = pause is not None and not pause.live_only
        self._admission.stop_live(is_stopped=is_live_stopped, now=self._loop.time())
        if is_paused is not self._pace.is_paused:
            self._pace.is_paused = is_paused
            self._log.info("destination.paused" if is_paused else "destination.unpaused")

    def _suspend(self, reason: str) -> None:
        if self._pace.suspended_because is None:
            self._log.error(
                "destination.disabled",
                reason=reason,
                consequence="no attempts, none is counted; events wait in order",
                what_to_do=f"keylane destination resume {self._subscription.name}",
            )
        self._pace.suspended_because = reason
