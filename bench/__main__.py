"""`python -m bench`: measure everything once, print a table, write JSON.

`python -m bench depth cost` measures these parts only.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import orjson

from bench import admin, machine, report
from bench.clients import Clients
from bench.cost import Cost
from bench.depth import Depth
from bench.drain import Drain
from bench.errors import BenchError
from bench.failing import Failing
from bench.figures import Figure
from bench.growth import Growth
from bench.ingest import Ingest
from bench.latency import Latency, rates_to_measure, receiver_url
from bench.outage import Outage
from bench.parts import receiver
from bench.produce import measure_single_rate
from bench.replay import Replay
from bench.scale import FULL, QUICK, Scale
from bench.slow import Slow
from bench.stage import Stage
from bench.webhook import Webhooks, start_receiver
from keylane.errors import KeylaneError
from operate.broker.local import start_local_broker
from operate.exits import DONE, FAILED, INTERRUPTED, exit_code_of
from operate.interrupt import sigterm_is_ctrl_c
from operate.running import Tell

RESULTS: Final = Path("results")
#: Need no broker, and are measured when that is gone.
ALONE: Final[dict[str, Callable[[Scale, Tell], Clients | Cost]]] = {
    "clients": Clients,
    "cost": Cost,
}


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Of the command line; exits with a message if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Keylane beside the bare clients, on a local Apache Pulsar.",
        epilog="The ratio is what counts: figures of different machines, or of one at different "
        "times, can't be compared. Run it on a machine that does nothing else.",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"what is measured: {', '.join([*PARTS, *ALONE])}; without any everything",
    )
    parser.add_argument("--output", type=Path, help=f"JSON file ({RESULTS}/bench.json)")
    parser.add_argument("--quick", action="store_true", help="show that it runs; measures nothing")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a ratio is below what is accepted"
    )
    parser.add_argument("--service-url", help="a broker that runs, beside --admin-url")
    parser.add_argument("--admin-url", help="its admin interface; none is asked for a token")
    read = parser.parse_args(arguments)
    if bool(read.service_url) != bool(read.admin_url):
        parser.error("--service-url and --admin-url belong together")
    if unknown := [part for part in read.parts if part not in (*PARTS, *ALONE)]:
        parser.error(f"no such part: {', '.join(unknown)}")
    name = "-".join(["bench", *read.parts])
    read.output = read.output or RESULTS / f"{name}.json"
    read.parts = read.parts or [*PARTS, *ALONE]
    return read


def main() -> int:
    arguments = read_arguments(sys.argv[1:])
    try:
        with sigterm_is_ctrl_c():
            return _run(arguments)
    except KeyboardInterrupt:
        _tell("interrupted; everything that was started is stopped")
        return INTERRUPTED
    except KeylaneError as error:
        _tell(f"bench: {error}")
        return exit_code_of(error)
    except BenchError as error:
        _tell(f"bench: {error}")
        return FAILED


def _run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    scale = QUICK if arguments.quick else FULL
    facts, figures = machine.facts(), []
    if parts := [part for part in PARTS if part in arguments.parts]:
        with _stage(arguments, scale) as stage:
            facts["broker"] = admin.version(stage.admin_url)
            figures += [figure for part in parts for figure in PARTS[part](stage)]
    for part in [part for part in ALONE if part in arguments.parts]:
        figures += ALONE[part](scale, _tell).run()
    tree = report.as_tree(figures, facts, scale, time.monotonic() - began)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(orjson.dumps(tree, option=orjson.OPT_INDENT_2) + b"\n")
    print(report.as_table(figures, facts))
    _tell(f"wrote {arguments.output}")
    is_missed = not all(figure.is_accepted for figure in figures)
    return FAILED if arguments.check and is_missed else DONE


def _ingest(stage: Stage) -> list[Figure]:
    return Ingest(stage).run()


def _growth(stage: Stage) -> list[Figure]:
    topic = stage.topic("growth")
    with stage.ingest(topic) as ingest, stage.memory_ingest(forgets=True) as remembering:
        return Growth(stage, ingest, remembering).run()


def _flow(stage: Stage) -> list[Figure]:
    """What goes out and how long it takes from end to end, when nothing fails."""
    single_rate = measure_single_rate(stage)
    figures = Drain(stage).run()
    with start_receiver() as target:
        url = receiver_url(target.hear(receiver.Listening).port)
        webhooks = Webhooks(stage, target, url)
        figures += webhooks.run()
        half_load = min(single_rate, webhooks.rate) / 2
        rates = rates_to_measure(half_load, stage.scale.latency_rate)
        figures += Latency(stage, target, url, rates).run()
    # What belongs together stands together; what is found out last stands last.
    return sorted(figures, key=lambda figure: figure.section == "memory")


def _depth(stage: Stage) -> list[Figure]:
    with start_receiver() as target:
        return Depth(stage, target, receiver_url(target.hear(receiver.Listening).port)).run()


def _failing(stage: Stage) -> list[Figure]:
    with start_receiver() as target:
        return Failing(stage, target, receiver_url(target.hear(receiver.Listening).port)).run()


def _slow(stage: Stage) -> list[Figure]:
    return Slow(stage).run()


def _outage(stage: Stage) -> list[Figure]:
    with start_receiver() as failing, start_receiver() as healthy:
        return Outage(stage, failing, healthy).run()


def _replay(stage: Stage) -> list[Figure]:
    with start_receiver() as target:
        return Replay(stage, target).run()


#: In the order in which they are measured.
PARTS: Final[dict[str, Callable[[Stage], list[Figure]]]] = {
    "ingest": _ingest,
    "growth": _growth,
    "flow": _flow,
    "depth": _depth,
    "failing": _failing,
    "slow": _slow,
    "outage": _outage,
    "replay": _replay,
}


@contextlib.contextmanager
def _stage(arguments: argparse.Namespace, scale: Scale) -> Iterator[Stage]:
    with _folder() as folder, _broker(arguments) as (service_url, admin_url):
        stage = Stage(service_url, admin_url, scale, folder, _tell)
        try:
            yield stage
        finally:
            if arguments.service_url and stage.topics:
                _delete_topics(stage)


def _delete_topics(stage: Stage) -> None:
    try:
        admin.delete_topics(stage.admin_url, stage.topics)
    except BenchError as error:
        # What was measured, or failed, is worth more.
        _tell(f"the topics of this run may be left: {error}")


@contextlib.contextmanager
def _broker(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if arguments.service_url:
        yield arguments.service_url, arguments.admin_url
        return
    with start_local_broker(progress=_tell) as broker:
        yield broker.service_url, broker.admin_url


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Of the logs, whose ends are in the error if anything fails."""
    folder = Path(tempfile.mkdtemp(prefix="keylane-bench-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_BEGAN: Final = time.monotonic()


def _tell(line: str) -> None:
    sys.stderr.write(f"[{time.monotonic() - _BEGAN:5.1f} s] {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.exit(code)
