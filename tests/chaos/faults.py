"""What a bad day brings. Each fault begins, lasts and is healed; then the scene is as before.

A fault notes what it explains: the cuts that it made, and when users had to wait for it. It fails
if the product does not show what it has to, and if the fault itself was none.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Final, TypeAlias

import aiohttp

from keylane.admin import PulsarAdmin
from keylane.names import dead_letter_topic, full_topic
from keylane.topics import BACKLOG_BYTES
from tests.chaos.crew import AT_MOST, DESTINATION, Worker
from tests.chaos.explain import NOTICED_WITHIN_S, UNSAVED_S, Absence, Cut
from tests.chaos.scene import PARTITIONS, Scene
from tests.chaos.watch import Watch
from tests.verifying import Answer, Manner
from tests.waiting import until

Fault: TypeAlias = Callable[[Scene, Random], Awaitable[None]]

#: The longest backoff, an attempt that ran into its timeout, and the redelivery.
_RETRIED_WITHIN_S: Final = 5.0
#: Clients double the time between two attempts to connect while the broker is away, up to this: so
#: they come back after as long as it was away, at most.
_FOUND_WITHIN_S: Final = 60.0
#: Another fault may have taken the broker away meanwhile.
_CONNECTED_WITHIN_S: Final = 180.0
#: Reading all logs takes a while.
_LOOKED_AT_EVERY_S: Final = 0.3
_FAILS_IN_S: Final = 0.01
_SLOW_S: Final = 1.0
_FAR_S: Final = 0.2


async def _some_time(scene: Scene, rng: Random, least_s: float, most_s: float) -> None:
    await asyncio.sleep(rng.uniform(least_s, most_s) * scene.pace.share)


def _times(scene: Scene, rng: Random) -> int:
    """How often a worker is started anew, which takes seconds."""
    return max(1, round(rng.randint(2, 4) * scene.pace.share))


# The broker


async def _broker_goes(
    scene: Scene, rng: Random, end: Callable[[], None], unsaved_s: float
) -> None:
    async with scene.broker_turn:
        # Those that another fault has may be unable to notice it.
        at_hand = scene.crew.at_hand()
        began_at = time.monotonic()
        await asyncio.to_thread(end)
        gone_at = time.monotonic()
        await _some_time(scene, rng, 0, 5)
        scene.absences += [
            Absence(sender, partition, gone_at + NOTICED_WITHIN_S, time.monotonic())
            for sender in at_hand
            for partition in range(PARTITIONS)
        ]
        ended = [(began_at, gone_at)]
        try:
            ended += await asyncio.to_thread(scene.broker.restart)
        finally:
            back_at = time.monotonic()
            # One that fights itself stores nothing, but workers may have delivered what it sent.
            scene.cuts += [Cut(None, at, at, to, unsaved_s, back_at) for at, to in ended]
            found_within_s = min(back_at - began_at, _FOUND_WITHIN_S)
            scene.troubled.append((began_at, back_at + found_within_s))


async def broker_killed(scene: Scene, rng: Random) -> None:
    await _broker_goes(scene, rng, scene.broker.kill, UNSAVED_S)


async def broker_terminated(scene: Scene, rng: Random) -> None:
    """In an orderly end a broker saves what it was told."""
    await _broker_goes(scene, rng, scene.broker.terminate, Cut.at(0.0).unsaved_s)


async def topic_unloaded(scene: Scene, rng: Random) -> None:
    for _ in range(rng.randint(3, 6)):
        async with scene.broker_turn:
            began_at = time.monotonic()
            await _unload(scene)
            scene.cuts.append(Cut(None, began_at, began_at, time.monotonic()))
        await _some_time(scene, rng, 1, 6)


async def _unload(scene: Scene) -> None:
    topic = full_topic(scene.stage.topic).replace("://", "/")
    said = ""

    async def is_unloaded() -> bool:
        nonlocal said
        async with http.put(f"{scene.broker.admin_url}/admin/v2/{topic}/unload") as answer:
            said = await answer.text()
            return answer.ok

    # A broker that has just come back may not have its storage yet.
    async with aiohttp.ClientSession() as http:
        await until(is_unloaded, 30.0, lambda: said)


# Workers


async def worker_killed(scene: Scene, rng: Random) -> None:
    for _ in range(_times(scene, rng)):
        async with scene.crew.borrow(rng) as worker:
            scene.cuts.append(Cut.at(await worker.process.kill(), worker.sender))
            scene.crew.dismiss(worker)
            await _some_time(scene, rng, 0, 5)
            await scene.crew.launch(worker.name)


async def worker_terminated(scene: Scene, rng: Random) -> None:
    """An orderly end, and the beginning after it, explain nothing."""
    for _ in range(_times(scene, rng)):
        async with scene.crew.borrow(rng) as worker:
            await scene.crew.stop(worker)
            await _some_time(scene, rng, 0, 5)
            await scene.crew.launch(worker.name)


async def workers_scaled(scene: Scene, rng: Random) -> None:
    counts = [1, AT_MOST, 2, 3]
    for count in counts:
        await scene.crew.become(count, rng)
        await _some_time(scene, rng, 1, 6)


async def _silenced(
    scene: Scene,
    rng: Random,
    silence: Callable[[Worker], None],
    wake: Callable[[Worker], None],
    *,
    is_stop: bool = False,
) -> None:
    """One worker is not heard of, for longer than the broker's keep-alive, while others go on."""
    async with scene.crew.borrow(rng, beside=1) as worker:
        watch = Watch(scene.stage, DESTINATION, worker.name, worker.sender)
        async with watch.watching():
            await watch.is_there(_CONNECTED_WITHIN_S)
            began_at = time.monotonic()
            try:
                with scene.trying():
                    silence(worker)
                    await watch.is_gone(scene.pace.dropped_within_s)
                await scene.goes_on(100, _CONNECTED_WITHIN_S)
                await _some_time(scene, rng, 1, 10)
            finally:
                wake(worker)
                scene.cuts.append(
                    Cut(
                        frozenset([worker.sender]),
                        began_at,
                        *watch.dropped,
                        healed_at=time.monotonic(),
                        is_stop=is_stop,
                    )
                )
            try:
                await watch.is_there(_CONNECTED_WITHIN_S)
            finally:
                scene.absences += watch.absences()


async def worker_frozen(scene: Scene, rng: Random) -> None:
    await _silenced(
        scene,
        rng,
        lambda worker: worker.process.signal(signal.SIGSTOP),
        lambda worker: worker.process.signal(signal.SIGCONT),
        is_stop=True,
    )


async def worker_cut_off(scene: Scene, rng: Random) -> None:
    await _silenced(scene, rng, lambda worker: worker.link.cut(), lambda worker: worker.link.mend())


async def connections_reset(scene: Scene, rng: Random) -> None:
    async with scene.crew.borrow(rng) as worker:
        watch = Watch(scene.stage, DESTINATION, worker.name, worker.sender)
        async with watch.watching():
            for _ in range(rng.randint(3, 6)):
                scene.cuts.append(Cut.at(time.monotonic(), worker.sender))
                worker.link.reset()
                await _some_time(scene, rng, 0.5, 6)
            await watch.is_there(_CONNECTED_WITHIN_S)


async def broker_far(scene: Scene, rng: Random) -> None:
    async with scene.crew.borrow(rng) as worker:
        worker.link.delay_s = _FAR_S
        try:
            await _some_time(scene, rng, 10, 20)
        finally:
            worker.link.delay_s = 0.0


# The receiver


async def _answering(scene: Scene, rng: Random, answer: Answer) -> None:
    async with scene.receiver_turn:
        with scene.trying(_RETRIED_WITHIN_S):
            scene.trouble = answer
            try:
                await _some_time(scene, rng, 5, 15)
            finally:
                scene.trouble = None


async def receiver_failing(scene: Scene, rng: Random) -> None:
    await _answering(scene, rng, Answer(500, _FAILS_IN_S))


async def receiver_resetting(scene: Scene, rng: Random) -> None:
    await _answering(scene, rng, Answer(delay_s=_FAILS_IN_S, manner=Manner.RESET))


async def receiver_hanging(scene: Scene, rng: Random) -> None:
    await _answering(scene, rng, Answer(manner=Manner.HANG))


async def receiver_slow(scene: Scene, rng: Random) -> None:
    await _answering(scene, rng, Answer(delay_s=_SLOW_S))


async def receiver_closed(scene: Scene, rng: Random) -> None:
    async with scene.receiver_turn:
        with scene.trying(_RETRIED_WITHIN_S):
            async with scene.receiver.shut():
                await _some_time(scene, rng, 5, 15)


# What the broker refuses


async def _refusing(
    scene: Scene, rng: Random, topic: str, is_seen: Callable[[], bool], otherwise: str
) -> None:
    """The topic's backlog is over its quota, until it is lifted again."""

    async def is_refused() -> bool:
        await asyncio.sleep(_LOOKED_AT_EVERY_S)
        return is_seen()

    async with scene.stage.admin() as admin:
        try:
            async with scene.broker_turn:
                await _limit(admin, topic, 1)
                await until(is_refused, 60.0, lambda: otherwise)
            await _some_time(scene, rng, 2, 10)
        finally:
            await _limit(admin, topic, BACKLOG_BYTES)


async def _limit(admin: PulsarAdmin, topic: str, size: int) -> None:
    quota = {"limitSize": size, "limitTime": -1, "policy": "producer_exception"}
    await admin.set_policy(topic, "backlogQuota?backlogQuotaType=destination_storage", quota)


async def dead_letters_refused(scene: Scene, rng: Random) -> None:
    topic = dead_letter_topic(scene.stage.topic, DESTINATION)
    async with scene.stage.admin() as admin:

        async def has_some() -> bool:
            return bool((await admin.stats(topic))["backlogSize"])

        await until(has_some, 60.0)
    before = scene.crew.logged("dead_letter.unconfirmed")
    await _refusing(
        scene,
        rng,
        topic,
        lambda: scene.crew.logged("dead_letter.unconfirmed") > before,
        "no dead letter was refused",
    )


async def topic_full(scene: Scene, rng: Random) -> None:
    """Ingest has to say so; whatever else it answers the ledger does not take."""
    refusals = scene.ledger.refusals
    before = len(refusals)
    await _refusing(
        scene, rng, scene.stage.topic, lambda: 503 in refusals[before:], "no 503 was answered"
    )
    accepted = len(scene.ledger.promised)
    await until(lambda: len(scene.ledger.promised) > accepted, 90.0)


FAULTS: Final[Mapping[str, Fault]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        broker_killed,
        broker_terminated,
        topic_unloaded,
        worker_killed,
        worker_terminated,
        worker_frozen,
        worker_cut_off,
        connections_reset,
        broker_far,
        workers_scaled,
        receiver_failing,
        receiver_resetting,
        receiver_hanging,
        receiver_slow,
        receiver_closed,
        dead_letters_refused,
        topic_full,
    )
}
