"""Replays beside live traffic: whether they are whole and in order, and what live events notice.

First events are put on the topic, a window of time after the other, and delivered. Then live events
come at a steady rate, and by turns nothing else happens or one window is replayed, no faster than
`--rate` says. Where the host took processors away for a while that is left out: it costs ten times
what is looked for.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec

from bench.errors import BenchError
from bench.figures import Figure, percentile
from bench.latency import receiver_url
from bench.parts import receiver, sender
from bench.processes import LivingPart
from bench.scale import CONCURRENCY, PARTITIONS, USERS
from bench.stage import Stage
from bench.stolen import Stolen
from bench.waiting import wait_arrived

SECTION: Final = "replay"
_BESIDE: Final = "before each"
_WITHIN_S: Final = 300.0
#: Of so many seconds it is judged whether they are left out: if more than so much was stolen.
_WINDOW_S: Final = 5.0
_STOLEN_AT_MOST: Final = 0.01


#: When each was sent, and the milliseconds until it was delivered.
Latencies: TypeAlias = list[tuple[float, float]]
#: Times from one moment to another.
Spans: TypeAlias = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Turn:
    """When it was quiet, and from when to when a window was replayed."""

    quiet_at: float
    replay_at: float
    over_at: float


class Replay:
    def __init__(self, stage: Stage, target: LivingPart) -> None:
        self._stage = stage
        self._target = target
        self._topic = stage.topic(SECTION)
        scale = stage.scale
        self._each = scale.replay_events // scale.replay_turns
        self._kept = self._each * scale.replay_turns
        self._rate = scale.replay_rate
        self._quiet_s = scale.replay_quiet_s
        turn_s = self._quiet_s + self._each / self._rate + scale.replay_slack_s
        self._live_rate = scale.steady_rate
        self._live = round((self._quiet_s + scale.replay_turns * turn_s) * self._live_rate)
        self._told = 0
        self._stolen = Stolen()

    def run(self) -> list[Figure]:
        url = receiver_url(self._target.hear(receiver.Listening).port)
        options = ("--concurrency", str(CONCURRENCY))
        with self._stage.dispatch(self._topic, SECTION, url, *options) as worker:
            worker.wait_ready()
            self._target.tell(receiver.Expect(0))
            self._stage.tell(f"{self._kept:,} events to be replayed later")
            return self._measure([self._keep(first) for first in self._firsts()])

    def _firsts(self) -> range:
        return range(0, self._kept, self._each)

    def _keep(self, first: int) -> tuple[str, str]:
        """Returns the window of time in which the events lie."""
        began = _now()
        with self._send(first, self._each) as sending:
            sending.hear(sender.Result)
        wait_arrived(self._target, first + self._each, _WITHIN_S)
        time.sleep(1)  # so that no two windows touch
        return began, _now()

    def _send(self, first: int, count: int, rate: float = 0.0) -> LivingPart:
        options = sender.Options(
            self._stage.service_url, self._topic, PARTITIONS, USERS, first, count, rate
        )
        return LivingPart(sender, options)

    def _measure(self, windows: list[tuple[str, str]]) -> list[Figure]:
        self._target.tell(receiver.Expect(0))
        self._stage.tell(f"{self._live:,} live events at {self._live_rate:.0f}/s")
        live = self._send(self._kept, self._live, self._live_rate)
        with self._stolen.watching(), live as sending:
            time.sleep(self._quiet_s)
            turns = [self._take_turn(*window) for window in windows]
            sent = sending.hear(sender.Result).sent
        wait_arrived(self._target, self._kept + self._live, _WITHIN_S)
        self._target.tell(receiver.Take())
        taken = self._target.hear(receiver.Taken)
        if sent[-1] < turns[-1].over_at:
            raise BenchError("the last replay went on when no live events came any more")
        return self._figures(taken, sent, turns)

    def _take_turn(self, began: str, ended: str) -> _Turn:
        self._stage.tell(f"nothing but live events for {self._quiet_s:.0f} s")
        quiet_at = time.monotonic()
        time.sleep(self._quiet_s)
        self._stage.tell(f"a replay of {self._each:,} events, at {self._rate:.0f}/s")
        replay_at = time.monotonic()
        self._told += self._replay(began, ended)["events"]
        return _Turn(quiet_at, replay_at, time.monotonic())

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

    def _figures(
        self, taken: receiver.Taken, sent: list[float], turns: list[_Turn]
    ) -> list[Figure]:
        counts = Counter(number for number in taken.numbers if number < self._kept)
        live = sorted(
            (sent[number - self._kept], (arrived - sent[number - self._kept]) * 1000)
            for number, arrived in zip(taken.numbers, taken.moments, strict=True)
            if number >= self._kept
        )
        before = [(turn.quiet_at, turn.replay_at) for turn in turns]
        during = [(turn.replay_at, turn.over_at) for turn in turns]
        kept = self._left(live, before), self._left(live, during)
        return [
            _plain("events kept and not replayed, or twice", self._kept - _once(counts)),
            _plain("beside what the commands told", abs(self._told - len(counts))),
            _plain("inversions", _inversions(taken.numbers, self._kept)),
            *(
                Figure(
                    SECTION,
                    f"live send to delivery p{percent} {what}",
                    "ms",
                    [percentile(of_during, percent)],
                    _BESIDE,
                    [percentile(of_before, percent)],
                    at_most=at_most,
                )
                for percent, what, (of_before, of_during), at_most in (
                    (50, "during them", kept, None),
                    (99, "during them", kept, 1.2),
                    (99, "with what was stolen", (_sent(live, before), _sent(live, during)), None),
                )
            ),
        ]

    def _left(self, live: Latencies, spans: Spans) -> list[float]:
        """Latencies of windows in which next to nothing was stolen; of all if there is none."""
        windows = [
            (at, min(at + _WINDOW_S, ended))
            for began, ended in spans
            for at in _steps(began, ended, _WINDOW_S)
        ]
        quiet = [span for span in windows if self._stolen.share(*span) <= _STOLEN_AT_MOST]
        self._stage.tell(f"{len(windows) - len(quiet)} of {len(windows)} windows are left out")
        return _sent(live, quiet or windows)


def _steps(began: float, ended: float, step: float) -> list[float]:
    return [began + step * number for number in range(math.ceil((ended - began) / step))]


def _sent(live: Latencies, spans: Spans) -> list[float]:
    """Of what was sent in one of these times."""
    return [ms for began, ended in spans for at, ms in live if began <= at < ended]


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
