"""A redrive: each user's dead letters once more to their destination, before what is live.

The order of the steps is what makes it safe to be killed between any two:

1. The run is put on record, and then each user's wait. Workers confirm that nothing live of them is
   under way, so nothing more comes to their dead letters.
2. The dead letters are read, and the record says how far.
3. Each is published, the end mark behind a user's last one, each under a number of its own that the
   topic stores once. Only what is confirmed is acknowledged.
4. When the broker shows all of it as acknowledged the record says that the run is finished.

The next redrive finishes one that did not come to its end, before its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from keylane.controlrecord import About, Key, new_token, now
from keylane.errors import BrokerError, ContractError
from keylane.names import redrive_topic, subscription_name
from keylane.pulsarlog import BATCH
from operate.controlsession import CONFIRM_WITHIN_S, ControlSession
from operate.deadletters.filters import Filters
from operate.deadletters.letter import DeadLetter
from operate.deadletters.outbox import Outbox
from operate.deadletters.plan import Figures, batches, plan_of, without_torn
from operate.deadletters.run import Run, awaited_by, is_held, waits_for_another
from operate.deadletters.sent import Sent, sent_by
from operate.deadletters.session import Looking, Taking
from operate.deadletters.waiting import Waiting
from operate.pacing import Pacing

#: Is told how many events of how many are on their way; must be quick.
Tell = Callable[[int, int], None]
#: Of dead letters without a key.
_NOBODY: Final = ""


class Unconfirmed(BrokerError):  # noqa: N818  named by the fact
    """Workers did not confirm that users wait; nothing was redriven."""

    def __init__(self, workers: Collection[str]) -> None:
        self.workers = sorted(workers)
        super().__init__(
            f"No word of {', '.join(self.workers)}, so events of these users may be under way; "
            "nothing was redriven, and nobody waits. Look whether they hang (`keylane status`), "
            "end or restart them, then try again."
        )


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one run. `sent_before` were sent already when it was taken up again.

    `waiting` are users left out because an earlier redrive is not delivered yet, `torn` dead
    letters left out because they share an entry with others that were not asked for.
    """

    run: Run
    figures: Figures
    waiting: tuple[str, ...] = ()
    torn: int = 0
    sent_before: int = 0


@dataclass(frozen=True, slots=True)
class _Target:
    """A run with the users that it is about, and those that have to be left out."""

    run: Run
    users: frozenset[str]
    waiting: tuple[str, ...] = ()
    torn: int = 0

    def concerns(self, letter: DeadLetter) -> bool:
        return letter.user in self.users and self.run.concerns(letter)


class Redrive:
    """For one command. `taking` is None for one that only counts."""

    def __init__(
        self, found: Looking, control: ControlSession, taking: Taking | None = None
    ) -> None:
        self._admin = found.admin
        self._logs = found.logs
        self._view = found.view
        self._control = control
        self._taking = taking
        self._topic = found.settings.topic
        self._destination = subscription_name(found.destination)
        self._redriven = redrive_topic(self._topic, self._destination)
        self._confirm_within_s = CONFIRM_WITHIN_S + _attempt_s(found)

    # What there is

    def unfinished(self) -> Run | None:
        """The run that did not come to its end; raises `ContractError` if it can't be read."""
        value = self._control.kept.get(str(Key(self._destination, About.REDRIVE)))
        if value is None:
            return None
        try:
            run = Run.decoded(value)
        except ContractError as error:
            raise ContractError(
                f"The record of the last redrive of '{self._destination}' can't be read, so nobody "
                f"knows whether it was finished; nothing was done. {error}"
            ) from error
        return None if run.finished else run

    async def undelivered(self) -> int:
        """How much of what it is to get once more the destination has not got; end marks count."""
        if await self._admin.partitions(self._redriven) is None:
            return 0
        found = await self._admin.subscription_stats(self._redriven, self._destination)
        return int(found["msgBacklog"]) if found else 0

    async def count(self, filters: Filters) -> tuple[Done, Done | None]:
        """What `run` would do now, and what `finish` would before it; nothing is changed."""
        before, earlier, finished = self.unfinished(), None, None
        if before is not None:
            earlier = self._taken_up(before, Sent())
            old = await self._read(earlier, with_payload=False)
            finished = Done(before, Figures.of(plan_of(old)))
        target = await self._look(Run(new_token(), filters, now()), but=earlier)
        letters = await self._read(target, with_payload=False)
        left = [one for one in letters if earlier is None or not earlier.concerns(one)]
        return Done(target.run, Figures.of(plan_of(left)), target.waiting, target.torn), finished

    async def _look(self, run: Run, but: _Target | None = None) -> _Target:
        """Which users the run is about now, and which of them are held.

        What another run will have sent before is passed over.
        """
        records = self._waiting(run).records()
        users: set[str] = set()
        shared = []
        async for letter in self._view.letters():
            if not run.concerns(letter) or (but is not None and but.concerns(letter)):
                continue
            if letter.place.is_shared:
                shared.append(letter.bare())
            else:
                users.add(letter.user)
        whole, torn = without_torn(shared, self._view.batches)
        users |= {letter.user for letter in whole}
        others = {user for user in users if waits_for_another(records.get(user), run.token)}
        if others and not await self.undelivered():
            # Somebody has skipped or cleared their end marks, so nothing else ends their wait.
            others = set()
        target = _Target(run, frozenset(users - others), tuple(sorted(others)), torn)
        return self._with_held(target)

    def _with_held(self, target: _Target) -> _Target:
        """Of a user that is held everything goes: behind the first one lies what came later."""
        run, records = target.run, self._waiting(target.run).records()
        held = {user for user in target.users if is_held(records.get(user), run.token)}
        return replace(target, run=replace(run, whole=tuple(sorted({*run.whole, *held}))))

    def _taken_up(self, run: Run, sent: Sent) -> _Target:
        """Whom a run is about that was killed: who still waits for it, or has its end mark."""
        awaited = awaited_by(self._waiting(run).records(), run.token)
        return _Target(run, frozenset({_NOBODY, *awaited, *sent.ended}))

    async def _read(self, target: _Target, *, with_payload: bool) -> list[DeadLetter]:
        letters = [
            letter if with_payload else letter.bare()
            async for letter in self._view.letters()
            if target.concerns(letter)
        ]
        whole, _ = without_torn(letters, self._view.batches)
        return whole

    def _waiting(self, run: Run) -> Waiting:
        return Waiting(self._control, self._destination, run.token, self._confirm_within_s)

    # What is done

    async def run(self, filters: Filters, tell: Tell, rate: float | None = None) -> Done:
        """Redrive what matches; raises `Unconfirmed` if workers don't say that they heard."""
        target = await self._look(Run(new_token(), filters, now()))
        if not target.users:
            return Done(target.run, Figures.of(()), target.waiting, target.torn)
        return await self._begin(target, tell, rate)

    async def finish(self, run: Run, tell: Tell, rate: float | None = None) -> Done:
        """Bring a run to its end that did not come there."""
        if run.through is None:
            return await self._begin(await self._look(run), tell, rate)
        sent = await sent_by(self._logs, self._redriven, self._topic, run.token, run.at)
        target = self._taken_up(run, sent)
        letters = await self._read(target, with_payload=True)
        done = Done(run, Figures.of(()))
        return await self._publish(done, letters, sent, tell, rate)

    async def _begin(self, target: _Target, tell: Tell, rate: float | None) -> Done:
        waiting = self._waiting(target.run)
        try:
            await self._record(target.run)
            target, letters = await self._gather(target, waiting)
        except BaseException:
            # Nothing was sent, so nobody is to wait for it.
            with contextlib.suppress(BrokerError):
                await waiting.call_off()
                await self._record(replace(target.run, finished=now()))
            raise
        run = replace(target.run, through=dict(self._view.ends))
        await self._record(run)
        done = Done(run, Figures.of(()), target.waiting, target.torn)
        return await self._publish(done, letters, Sent(), tell, rate)

    async def _gather(self, target: _Target, waiting: Waiting) -> tuple[_Target, list[DeadLetter]]:
        """The dead letters of the users, read when all of these wait and no more can come."""
        users = target.users - {_NOBODY}
        while True:
            if missing := await waiting.put(users):
                raise Unconfirmed(missing)
            target = self._with_held(target)
            letters = await self._read(target, with_payload=True)
            if not waiting.behind(users):
                return target, letters

    async def _record(self, run: Run) -> None:
        await self._control.put(Key(self._destination, About.REDRIVE), run.encoded())

    async def _publish(
        self, done: Done, letters: list[DeadLetter], sent: Sent, tell: Tell, rate: float | None
    ) -> Done:
        run, plan = done.run, plan_of(letters)
        outbox = Outbox(self._logs, self._redriven, run.token, self._view.parts, sent)
        pacing, taking, gone, new = Pacing(rate), self._take(), 0, 0
        for batch in batches(plan, pacing.at_most(BATCH)):
            unsent = await outbox.unsent(batch)
            await pacing.turn(unsent)
            await outbox.send(batch)
            # Not before the end mark behind it is there too: what is left says what is left to do.
            await taking.acknowledge(place for one in batch for place in one.places)
            gone, new = gone + len(batch), new + unsent
            tell(gone, len(plan))
        awaited = set(awaited_by(self._waiting(run).records(), run.token))
        await outbox.end(awaited - {one.letter.user for one in plan})
        await taking.confirm(place for one in plan for place in one.places)
        await self._record(replace(run, finished=now()))
        return replace(done, figures=Figures.of(plan), sent_before=len(plan) - new)

    def _take(self) -> Taking:
        if self._taking is None:
            raise RuntimeError("a Redrive without `taking` only counts")
        return self._taking


def _attempt_s(found: Looking) -> float:
    """How long an attempt may take that is under way; a worker confirms when it has ended."""
    settings = found.settings
    own = settings.destinations.get(found.destination)
    return max(settings.dispatch.timeout_s, (own and own.timeout_s) or 0.0)
