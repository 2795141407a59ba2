"""`python -m tests.chaos`: every fault alone, then mixes of them until the time is over."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from keylane.errors import KeylaneError
from operate.broker.local import LocalBroker, LocalBrokerOptions, start_local_broker
from operate.exits import DONE, FAILED, INTERRUPTED, exit_code_of
from operate.interrupt import sigterm_is_ctrl_c
from tests.chaos.control import NAME as CONTROL
from tests.chaos.control import control_arm
from tests.chaos.faults import FAULTS
from tests.chaos.pace import LIFELIKE, SHORT, Pace
from tests.chaos.report import Report, as_tree
from tests.chaos.run import MIX, Row, alone, drawn, mixed, play, quiet

RESULTS: Final = Path("results")
MINUTES: Final = 30.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Break what can break while a verifying receiver and a ledger watch.",
        epilog="Exit code 1 says that something was lost, reordered, repeated or held up that "
        "no fault explains, or that the control arm was not caught.",
    )
    parser.add_argument("--seed", type=int, help="of all that is drawn; a new one by default")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"go on with mixes for so long ({MINUTES:g}); with --fault, with what it names",
    )
    parser.add_argument(
        "--fault",
        type=_names,
        metavar="NAME",
        help=f"only this one, or several with commas, once: {', '.join([*FAULTS, MIX])}",
    )
    parser.add_argument("--short", action="store_true", help="faults of seconds, as in the tests")
    parser.add_argument("--keep", action="store_true", help="keep all logs, not only of failures")
    parser.add_argument("--output", type=Path, default=RESULTS / "chaos.json", help="JSON file")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - {*FAULTS, MIX}:
        raise argparse.ArgumentTypeError(f"there is no fault {', '.join(sorted(unknown))}")
    return names


def rows_to_play(
    seed: int, only: Sequence[str] | None, minutes: float | None
) -> Iterator[tuple[str, int]]:
    """Names and seeds: what is asked for, or everything and then mixes until the end.

    What is asked for is played once, or again and again if minutes are asked for too.
    """
    until = time.monotonic()
    for name in only or FAULTS:
        yield name, seed
    if not only:
        until, minutes = time.monotonic(), minutes or MINUTES
    rng = random.Random(seed)
    while minutes and time.monotonic() < until + minutes * 60:
        for name in only or [MIX]:
            yield name, rng.randrange(10**9)


class Suite:
    """Plays rows one after the other on one broker."""

    def __init__(
        self, broker: LocalBroker, pace: Pace, report: Report, kept: Path, *, keeps_all: bool
    ) -> None:
        self._broker = broker
        self._pace = pace
        self._report = report
        self._kept = kept
        self._keeps_all = keeps_all

    async def control(self, seed: int) -> None:
        with _folder() as folder, self._report.doing(CONTROL), quiet(folder):
            row = await control_arm(self._broker, folder, seed)
        self._report.add(row)

    async def play(self, name: str, seed: int) -> None:
        steps = drawn(seed, self._pace) if name == MIX else []
        row = Row(name, seed, [str(step) for step in steps])
        deeds = mixed(steps) if name == MIX else alone(name, seed)
        with _folder() as folder:
            with self._report.doing(f"{name}, seed {seed}"):
                await play(self._broker, folder, row, self._pace, deeds)
            self._report.add(row)
            if row.wrong or self._keeps_all:
                kept = self._kept / f"{name}-{seed}"
                shutil.copytree(folder, kept, dirs_exist_ok=True)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keylane-chaos-") as folder:
        yield Path(folder)


async def broker_version(broker: LocalBroker) -> str:
    url = f"{broker.admin_url}/admin/v2/brokers/version"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return await answer.text()


async def _run(suite: Suite, seed: int, options: argparse.Namespace) -> None:
    await suite.control(seed)
    for name, row_seed in rows_to_play(seed, options.fault, options.minutes):
        await suite.play(name, row_seed)


def main() -> int:
    options = _arguments()
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    pace = SHORT if options.short else LIFELIKE
    report = Report()
    began_at = time.monotonic()
    kept = options.output.with_suffix("")
    version = ""
    try:
        with (
            sigterm_is_ctrl_c(),
            start_local_broker(LocalBrokerOptions(extra_conf=pace.broker_conf())) as broker,
        ):
            version = asyncio.run(broker_version(broker))
            report.begin()
            suite = Suite(broker, pace, report, kept, keeps_all=options.keep)
            asyncio.run(_run(suite, seed, options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except KeylaneError as error:
        sys.stderr.write(f"{error}\n")
        return exit_code_of(error)
    finally:
        seconds = time.monotonic() - began_at
        options.output.parent.mkdir(parents=True, exist_ok=True)
        tree = as_tree(report.rows, seed, options.minutes, seconds, version)
        options.output.write_bytes(orjson.dumps(tree, option=orjson.OPT_INDENT_2) + b"\n")
    return FAILED if any(row.wrong for row in report.rows) else DONE


if __name__ == "__main__":
    sys.exit(main())
