"""One call of `keylane replay`: count, ask, publish, wait; or list, or cancel.

What is asked of a person is asked outside the event loop, where Ctrl-C ends a wait for input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import typer

from keylane.errors import BrokerError
from keylane.settings import Settings
from operate.exits import DONE, FAILED, INTERRUPTED, TRY_AGAIN, USAGE
from operate.overseeing.overseer import Overseer, overseeing
from operate.overseeing.pausing import pause_in
from operate.progress import counting
from operate.replaying import telling
from operate.replaying.copying import Cancelled
from operate.replaying.live import NotNow, PausedOtherwise
from operate.replaying.plan import Count, Replay
from operate.replaying.run import Replays, Run
from operate.replaying.window import Wanted

#: More events than these are replayed only after a person, or --yes, has agreed.
ASK_ABOVE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Manner:
    """How a replay runs. `rate` is events a second over all partitions, None for no limit."""

    rate: float | None = None
    dry_run: bool = False
    instead: bool = False
    wait: bool = False
    yes: bool = False
    as_json: bool = False


class Session:
    """What one call has opened: a loop, and an overseer of the destination's workers on it."""

    def __init__(
        self, runner: asyncio.Runner, settings: Settings, overseer: Overseer, name: str
    ) -> None:
        self._runner = runner
        self._overseer = overseer
        self._name = name
        self.replays = Replays(settings, overseer, name)
        self._began = time.monotonic()

    def begin(self, wanted: Wanted, asked: tuple[str, str], manner: Manner) -> int:
        """Count and publish, or go on with what the same command began; returns the exit code."""
        instead = manner.instead
        begun = self.replays.unfinished(wanted, asked, instead=instead)
        if begun and not manner.dry_run:
            telling.note(
                f"Going on with replay {begun.id}, which was begun at {begun.started}. For a new "
                f"one end it first: `keylane replay {self._name} --cancel {begun.id}`."
            )
            return self._go_on(begun, manner)
        with counting("counting, events read") as tell:
            count = self._runner.run(
                self.replays.count(wanted, manner.rate, lambda n: tell(n, None))
            )
        if not manner.as_json:
            typer.echo(telling.counted(self._name, wanted, count))
        for remark in telling.remarks(count):
            telling.note(remark)
        if manner.dry_run or not count.events:
            self._conclude(wanted, count, None, manner)
            return DONE
        refusal = None if manner.yes else _ask(count.events, self._name)
        if refusal is not None:
            return refusal
        replay = self.replays.new(wanted, asked, count, instead=instead)
        return self._run(Run(replay, goes_on=False), count, manner)

    def go_on_with(self, replay: str, manner: Manner) -> int:
        """Go on with one that is not done; returns the exit code."""
        found = self.replays.named(replay)
        if found.finished:
            telling.note(f"Replay {replay} is done since {found.finished}.")
            return DONE
        return self._go_on(found, manner)

    def _go_on(self, replay: Replay, manner: Manner) -> int:
        return self._run(Run(replay, goes_on=True), replay.count, manner)

    def _run(self, run: Run, count: Count, manner: Manner) -> int:
        try:
            self._publish(run, manner)
        except KeyboardInterrupt:
            telling.note(f"Interrupted. {self._rest(run)}")
            return INTERRUPTED
        except PausedOtherwise as error:
            telling.note(f"keylane: {error}")
            return FAILED
        except Cancelled:
            telling.note(
                f"keylane: Replay {run.replay.id} was cancelled; {run.copied.events:,} events are "
                "published and delivered all the same."
            )
            return FAILED
        except NotNow as error:
            telling.note(f"keylane: {error}")
            return TRY_AGAIN
        except BrokerError:
            telling.note(self._rest(run))
            raise
        self._conclude(run.replay.wanted, count, run, manner)
        return DONE

    def _rest(self, run: Run) -> str:
        if run.replay.id not in self.replays.known():
            return "Nothing was published."
        if run.replay.finished:
            return f"All copies of replay {run.replay.id} are published, and will be delivered."
        return telling.how_to_go_on(self._name, run)

    def _publish(self, run: Run, manner: Manner) -> None:
        events = run.replay.count.events
        with counting("publishing") as tell:
            publishing = self.replays.publish(run, manner.rate, lambda done: tell(done, events))
            self._runner.run(publishing)
        # What is published needs this process no more, unless live events wait for it.
        if not run.replay.instead:
            self._runner.run(self.replays.finish(run))
        self._note_hindrances()
        if manner.wait or run.replay.instead:
            with counting("delivering, left") as tell:
                waiting = self.replays.wait_until_delivered(run, lambda left: tell(left, None))
                self._runner.run(waiting)
        if run.replay.instead:
            self._runner.run(self.replays.finish(run))

    def _note_hindrances(self) -> None:
        name = self._name
        found = pause_in(self._overseer.control, name)
        if found is not None and not found.live_only:
            telling.note(f"{name} is paused; nothing is delivered before `keylane resume {name}`.")
        if not self._runner.run(self._overseer.running(name)):
            telling.note(f"No worker of {name} runs; start one: `keylane dispatch {name}`.")

    def _conclude(self, wanted: Wanted, count: Count, run: Run | None, manner: Manner) -> None:
        seconds = time.monotonic() - self._began
        if manner.as_json:
            typer.echo(json.dumps(telling.as_dict(self._name, wanted, count, run, seconds)))
            return
        if run is None:
            typer.echo("Nothing was published.")
            return
        for line in telling.ended(self._name, run, seconds):
            typer.echo(line)

    def list(self, *, as_json: bool) -> int:
        rows = self._runner.run(self.replays.listed())
        if as_json:
            typer.echo(json.dumps({"destination": self._name, "replays": rows}))
            return DONE
        if rows:
            telling.table(rows)
        typer.echo(f"{self._name} has {len(rows)} replay{'s' * (len(rows) != 1)} on record.")
        return DONE

    def cancel(self, replay: str, *, as_json: bool) -> int:
        found = self.replays.named(replay)
        self._runner.run(self.replays.cancel(found))
        if as_json:
            typer.echo(json.dumps({"destination": self._name} | found.as_dict()))
        elif found.finished:
            typer.echo(f"Replay {replay} was done since {found.finished}; it is forgotten.")
        else:
            typer.echo(
                f"Replay {replay} is cancelled: no more is published, and what is published is "
                "delivered."
            )
        return DONE


def _ask(events: int, destination: str) -> int | None:
    """None if they are few, or a person agrees; else the exit code."""
    if events <= ASK_ABOVE:
        return None
    if not sys.stdin.isatty():
        telling.note(
            f"keylane: {events:,} events are more than {ASK_ABOVE:,}, and there is no terminal to "
            "ask at; nothing was published. Give --yes, or a narrower window."
        )
        return USAGE
    if typer.confirm(f"Deliver these {events:,} events to {destination} again?", err=True):
        return None
    telling.note("Nothing was published.")
    return FAILED


@contextlib.contextmanager
def session(settings: Settings, destination: str) -> Iterator[Session]:
    """Raises `KeylaneError` if the destination or the broker is not there."""
    with asyncio.Runner() as runner:
        opened = overseeing(settings)
        overseer = runner.run(opened.__aenter__())
        try:
            runner.run(overseer.require(destination))
            yield Session(runner, settings, overseer, destination)
        finally:
            runner.run(opened.__aexit__(None, None, None))


def with_session(settings: Settings, destination: str, work: Callable[[Session], int]) -> int:
    """The exit code of the work; 130 if Ctrl-C came before anything was published."""
    try:
        with session(settings, destination) as opened:
            return work(opened)
    except KeyboardInterrupt:
        telling.note("Interrupted; nothing was published.")
        return INTERRUPTED
