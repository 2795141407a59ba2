"""Users whose destination takes long to answer, beside the healthy ones.

Each slow user takes one of the worker's attempts at once for as long as the answer takes. With
fewer of them than attempts at once the others have what is left; with more, nothing may be left
for most of the time. That is shown, not hidden: events that don't arrive in time count with the
time that they have waited.
"""

from __future__ import annotations

from typing import Final

from bench.beside import Accepted, Beside, Setup, figures_of
from bench.events import SLOW
from bench.figures import Figure
from bench.latency import receiver_url
from bench.parts import receiver
from bench.processes import Keylane, LivingPart
from bench.scale import CONCURRENCY, USERS
from bench.stage import HOST, Stage

SECTION: Final = "users slow"
#: Half of the worker's attempts at once, and twice as many.
SLOW_USERS: Final = (CONCURRENCY // 2, CONCURRENCY * 2)
EVENTS_EACH: Final = 20


class Slow:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._slow_s = stage.scale.slow_s

    def run(self) -> list[Figure]:
        # A receiver of its own each, so that its counts are of this worker.
        return [figure for users in SLOW_USERS for figure in self._run(users)]

    def _run(self, users: int) -> list[Figure]:
        with LivingPart(receiver, receiver.Options(HOST, self._slow_s)) as target:
            url = receiver_url(target.hear(receiver.Listening).port)
            return self._measure(target, url, users)

    def _measure(self, target: LivingPart, url: str, users: int) -> list[Figure]:
        setup = Setup(
            f"{users} {SECTION}",
            USERS,
            # Not one attempt times out, and none is waited for at the end.
            ("--timeout", str(2 * self._slow_s), "--drain-timeout", "1"),
            1,
            patience_s=2 * self._slow_s,
        )

        def hinder(beside: Beside, _worker: Keylane) -> None:
            beside.put("slow", users, users * EVENTS_EACH, SLOW)
            beside.wait_slow(min(users, CONCURRENCY))

        arms = Beside(self._stage, target, url, setup).measure(hinder)
        where = f"{users} users slow by {self._slow_s:g} s"
        _, beside = arms
        rate = self._stage.scale.steady_rate
        return [
            *figures_of(SECTION, where, rate, arms, Accepted()),
            *(
                Figure(
                    SECTION,
                    f"arrived within {setup.patience_s:g} s, {how}, {where}",
                    "%",
                    [served.arrived_percent],
                )
                for how, served in (
                    (f"{rate:.0f}/s", beside.steady),
                    ("at once", beside.burst),
                )
            ),
        ]
