"""Users that wait for a redrive: put into the control table, confirmed by workers, taken back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from keylane.controlrecord import NOTHING, About, Key, Standing, UserRecord, now
from keylane.errors import BrokerUnavailable
from operate.controlsession import CONFIRM_WITHIN_S, ControlSession
from operate.deadletters.run import is_held, user_records, waits_for

#: Records on their way to the table at once.
_AT_ONCE: Final = 200
#: A worker may hold a user at the same moment and say so after us; then it is said again.
_TRIES: Final = 5


def waiting(found: UserRecord | None, token: str) -> UserRecord:
    """What began a hold is kept: the user is held again if the redrive is called off."""
    if found is None:
        return UserRecord(Standing.WAITING, now(), token=token)
    return replace(found, standing=Standing.WAITING, at=now(), token=token, has_failed=False)


def called_off(found: UserRecord) -> bytes:
    """What to say of a user that waits for a redrive which does not come."""
    if is_held(found, found.token):
        return replace(found, standing=Standing.HELD, token="").encoded()
    return NOTHING


class Waiting:
    """The users of one destination that one redrive makes wait."""

    def __init__(
        self,
        control: ControlSession,
        destination: str,
        token: str,
        confirm_within_s: float = CONFIRM_WITHIN_S,
    ) -> None:
        self._control = control
        self._confirm_within_s = confirm_within_s
        self._destination = destination
        self._token = token

    def records(self) -> dict[str, UserRecord]:
        """How the users stand by what has been heard so far."""
        return user_records(self._control.of(self._destination, About.USER))

    def behind(self, users: Iterable[str]) -> set[str]:
        """Those of them that don't wait for this redrive."""
        records = self.records()
        return {user for user in users if not waits_for(records.get(user), self._token)}

    async def put(self, users: Iterable[str]) -> set[str]:
        """Return when all wait everywhere: nothing live of them is under way any more.

        Returns the workers that did not confirm it; empty is as it should be. Raises `BrokerError`.
        """
        wanted, is_confirmed = set(users), False
        for _ in range(_TRIES):
            if behind := self.behind(wanted):
                records = self.records()
                said = {u: waiting(records.get(u), self._token).encoded() for u in behind}
                await self._say(said)
            elif is_confirmed:
                return set()
            missing = await self._control.unconfirmed(
                self._destination, self._token, self._confirm_within_s
            )
            if missing:
                return missing
            is_confirmed = True
        raise BrokerUnavailable(
            "Workers say otherwise of users as often as they are made to wait; nothing was "
            "redriven. Run the same command again."
        )

    async def call_off(self) -> None:
        """Let everybody who waits for this redrive go on as before it."""
        records = self.records().items()
        ours = {user: one for user, one in records if waits_for(one, self._token)}
        await self._say({user: called_off(one) for user, one in ours.items()})

    async def _say(self, values: Mapping[str, bytes]) -> None:
        puts = (
            self._control.put(Key(self._destination, About.USER, user), value)
            for user, value in sorted(values.items())
        )
        while some := list(itertools.islice(puts, _AT_ONCE)):
            await asyncio.gather(*some)
