"""The faults that matter most, short: what only a longer time shows is `make chaos`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from operate.broker.local import LocalBroker, LocalBrokerOptions, start_local_broker
from tests.chaos.control import control_arm
from tests.chaos.faults import FAULTS
from tests.chaos.pace import SHORT
from tests.chaos.run import Deeds, Row, Step, mixed, play
from tests.chaos.scene import Scene

# A fault is followed by everything that was accepted meanwhile.
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(240)]

SEED = 7


@pytest.fixture(scope="module")
def own_broker() -> Iterator[LocalBroker]:
    """One that may be killed, and that drops silent connections sooner."""
    options = LocalBrokerOptions(extra_conf=SHORT.broker_conf(), is_short_lived=True)
    with start_local_broker(options) as broker:
        yield broker


def doing(*names: str) -> Deeds:
    """These faults, one after the other."""

    async def do(scene: Scene) -> None:
        for name in names:
            await FAULTS[name](scene, Random(f"{SEED} {name}"))

    return do


async def assert_kept_through(broker: LocalBroker, folder: Path, *names: str) -> Row:
    row = await play(broker, folder, Row(", ".join(names), SEED), SHORT, doing(*names))
    assert row.wrong == [], row
    return row


async def test_order_is_kept_while_the_topic_is_unloaded_and_worker_and_broker_are_killed(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    # The broker last: on a busy machine it has no storage to save anything in for seconds after.
    await assert_kept_through(
        own_broker, tmp_path, "topic-unloaded", "worker-killed", "broker-killed"
    )


@pytest.mark.long
async def test_order_is_kept_while_workers_are_stopped_scaled_and_their_connections_reset(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    await assert_kept_through(
        own_broker, tmp_path, "worker-terminated", "workers-scaled", "connections-reset"
    )


@pytest.mark.long
async def test_workers_that_were_frozen_or_cut_off_start_nothing_that_another_has_taken_over(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    """Both at once: the third one goes on."""
    row = Row("worker-frozen beside worker-cut-off", SEED)
    steps = [
        Step(beside, 0.0, name, f"{SEED} {name}")
        for beside, name in enumerate(("worker-frozen", "worker-cut-off"))
    ]
    await play(own_broker, tmp_path, row, SHORT, mixed(steps))
    assert row.wrong == [], row


@pytest.mark.long
async def test_order_is_kept_while_dead_letters_and_events_are_refused(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    row = await assert_kept_through(own_broker, tmp_path, "dead-letters-refused", "topic-full")
    assert row.dead_lettered


@pytest.mark.long
async def test_order_is_kept_while_the_receiver_hangs_and_is_closed(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    await assert_kept_through(own_broker, tmp_path, "receiver-hanging", "receiver-closed")


async def test_without_lanes_the_same_traffic_is_caught_out_of_order(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    row = await control_arm(own_broker, tmp_path, SEED)

    assert row.inversions > 0
    assert row.wrong == []
