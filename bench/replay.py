"""A replay beside live traffic: whether it is whole and in order, and what live events notice.

First so many events are put on the topic and delivered; then live events come at a steady rate,
and in the middle of that the first ones are replayed, no faster than `--rate` says.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from bench.errors import BenchError
from bench.figures import Figure, percentile
from bench.latency import receiver_url
from bench.parts import receiver, sender
from bench.processes import LivingPart
from bench.scale import CONCURRENCY, PARTITIONS, USERS
from bench.stage import Stage

SECTION: Final = "replay"
_BESIDE: Final = "before it"
_QUIET_S: Final = 30.0
_WITHIN_S: Final = 300.0
_POLL_S: Final = 0.1


class Replay:
    def __init__(self, stage: Stage, target: LivingPart) -> None:
        self._stage = stage
        self._target = target
        self._topic = stage.topic(SECTION)
        scale = stage.scale
        self._kept = scale.replay_events
        self._rate = scale.replay_rate
        self._live_rate = scale.steady_rate
        self._live = round((2 * _QUIET_S + self._kept / self._rate) * self._live_rate)

    def run(self) -> list[Figure]:
        url = receiver_url(self._target.hear(receiver.Listening).port)
        options = ("--concurrency", str(CONCURRENCY))
        with self._stage.dispatch(self._topic, SECTION, url, *options) as worker:
            worker.wait_ready()
            began = _now()
            self._target.tell(receiver.Expect(0))
            self._stage.tell(f"{self._kept:,} events to be replayed later")
            self._send(0, self._kept, None)
            self._wait_arrived(self._kept)
            time.sleep(1)
            return self._measure(began, _now())

    def _send(self, first: int, count: int, rate: float | None) -> LivingPart:
        options = sender.Options(
            self._stage.service_url, self._topic, PARTITIONS, USERS, first, count, rate or 0.0
        )
        sending = LivingPart(sender, options)
        if rate is None:
            with sending:
                sending.hear(sender.Result)
        return sending

    def _measure(self, began: str, ended: str) -> list[Figure]:
        self._target.tell(receiver.Expect(0))
        self._stage.tell(f"{self._live:,} live events at {self._live_rate:.0f}/s")
        with self._send(self._kept, self._live, self._live_rate) as sending:
            time.sleep(_QUIET_S)
            replay_at = time.monotonic()
            self._stage.tell(f"the replay, at {self._rate:.0f}/s")
            told = self._replay(began, ended)
            over_at = time.monotonic()
            sent = sending.hear(sender.Result).sent
        self._wait_arrived(self._kept + self._live)
        self._target.tell(receiver.Take())
        taken = self._target.hear(receiver.Taken)
        phases = self._latencies(taken, sent, replay_at, over_at)
        return self._figures(told, taken, phases)

    def _replay(self, began: str, ended: str) -> dict[str, Any]:
        stage = self._stage
        where = ("--service-url", stage.service_url, "--admin-url", stage.admin_url)
        window = ("--from", began, "--to", ended, "--rate", str(self._rate), "--yes", "--wait")
        command = [
            *(sys.executable, "-P", "-m", "operate", "replay", SECTION, *window),
            *("--json", "--topic", self._topic, *where),
        ]
        done = subprocess.run(command, capture_output=True, check=False, timeout=_WITHIN_S)
        if done.returncode:
            raise BenchError(f"the replay ended with {done.returncode}: {done.stderr.decode()}")
        told: dict[str, Any] = msgspec.json.decode(done.stdout)
        return told

    def _wait_arrived(self, count: int) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while True:
            self._target.tell(receiver.Count())
            arrived = self._target.hear(receiver.Counted).arrived
            if arrived >= count:
                return
            if time.monotonic() > deadline:
                raise BenchError(f"{arrived:,} of {count:,} events arrived")
            time.sleep(_POLL_S)

    def _latencies(
        self, taken: receiver.Taken, sent: list[float], replay_at: float, over_at: float
    ) -> dict[str, list[float]]:
        phases: dict[str, list[float]] = {_BESIDE: [], "during it": []}
        warm_until = sent[0] + _QUIET_S / 4
        for number, arrived in zip(taken.numbers, taken.moments, strict=True):
            if number < self._kept or (at := sent[number - self._kept]) < warm_until:
                continue
            if at < over_at:
                phases[_BESIDE if at < replay_at else "during it"].append((arrived - at) * 1000)
        return phases

    def _figures(
        self, told: dict[str, Any], taken: receiver.Taken, phases: dict[str, list[float]]
    ) -> list[Figure]:
        counts = Counter(number for number in taken.numbers if number < self._kept)
        before, during = phases[_BESIDE], phases["during it"]
        return [
            _plain("events kept and not replayed, or twice", self._kept - _once(counts)),
            _plain("beside what the command told", abs(told["events"] - len(counts))),
            _plain("inversions", _inversions(taken.numbers, self._kept)),
            *(
                Figure(
                    SECTION,
                    f"live send to delivery p{percent} during it",
                    "ms",
                    [percentile(during, percent)],
                    _BESIDE,
                    [percentile(before, percent)],
                    at_most=1.2 if percent == 99 else None,
                )
                for percent in (50, 99)
            ),
        ]


def _plain(name: str, value: float) -> Figure:
    return Figure(SECTION, name, "", [value], value_at_most=0)


def _once(counts: Counter[int]) -> int:
    return sum(count == 1 for count in counts.values())


def _inversions(numbers: list[int], kept: int) -> int:
    """Among the replayed events, and among the live ones."""
    last: dict[tuple[int, bool], int] = {}
    inversions = 0
    for number in numbers:
        stream = number % USERS, number < kept
        inversions += number <= last.get(stream, -1)
        last[stream] = number
    return inversions


def _now() -> str:
    return datetime.now(UTC).isoformat()
