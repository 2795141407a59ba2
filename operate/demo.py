"""`keylane demo`: the stack, sample events of several users, and a table of what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from keylane.destinationsettings import DestinationSettings
from keylane.errors import KeylaneError
from keylane.ingestsettings import IngestSettings
from keylane.memory import MemoryBroker
from keylane.names import full_topic
from keylane.settings import DispatchSettings, PulsarSettings, Settings
from operate import interrupt
from operate.broker.local import LocalBroker, LocalBrokerOptions
from operate.broker.ports import HOST
from operate.exits import DONE, FAILED, INTERRUPTED
from operate.interrupt import Interrupt, Interrupted
from operate.localbroker import local_broker
from operate.post import Poster
from operate.receiver import FAILURE, OK, Arrival, Receiver
from operate.report import Report
from operate.running import PARTITIONS, InProcessStack, Plan, ProcessStack, Stack, Tell, in_memory
from operate.together import first_of
from operate.topics import setup
from operate.verdict import Attempt, Evidence, Expectation, Sent
from operate.witness import MemoryWitness, PulsarWitness, Witness

FILE: Final = "file"
WEBHOOK: Final = "webhook"
MAX_ATTEMPTS: Final = 3
FIRST: Final = "event-1-payload"
SECOND: Final = "event-2-payload"
#: The user whose first event the webhook never takes, and the one whose first it takes at the
#: second attempt.
FAILING_USER: Final = "user-4"
UNLUCKY_USER: Final = "user-5"
EVENTS: Final = (
    ("user-1", FIRST),
    ("user-2", FIRST),
    ("user-1", SECOND),
    ("user-3", FIRST),
    ("user-2", SECOND),
    (FAILING_USER, FIRST),
    (FAILING_USER, SECOND),
    (UNLUCKY_USER, FIRST),
    (UNLUCKY_USER, SECOND),
)
EXPECTED: Final = Expectation(
    dead_letters={(WEBHOOK, FAILING_USER, FIRST): "max-attempts"},
    attempts={(WEBHOOK, FAILING_USER, FIRST): MAX_ATTEMPTS, (WEBHOOK, UNLUCKY_USER, FIRST): 2},
)
#: Seconds for all events to be delivered or dead-lettered; it takes about two.
SETTLED_WITHIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.1


def run_demo(settings: Settings, *, broker: str, as_json: bool = False) -> int:
    """Run the main job once, print what became of it, and leave nothing running.

    Returns 0 if every event is where it was promised to be, else 1; 130 after Ctrl-C.
    """
    tell = _teller()
    try:
        with interrupt.sigterm_is_ctrl_c(), _kept_on_failure(tell) as folder:
            report = _run_on(settings, broker, folder.path, tell)
            report.print(as_json=as_json)
            folder.is_kept = bool(report.missing)
    except (KeyboardInterrupt, Interrupted):
        tell("interrupted; everything that was started is stopped")
        return INTERRUPTED
    return FAILED if report.missing else DONE


def _teller() -> Tell:
    # Bound now, because in memory the log lines of all parts are sent elsewhere.
    stream, began = sys.stderr, time.monotonic()

    def tell(line: str) -> None:
        stream.write(f"[{time.monotonic() - began:5.1f} s] {line}\n")
        stream.flush()

    return tell


@dataclass(slots=True)
class _Folder:
    path: Path
    is_kept: bool = False


@contextlib.contextmanager
def _kept_on_failure(tell: Tell) -> Iterator[_Folder]:
    """A folder for the logs and the file destination; it stays only if something went wrong."""
    folder = _Folder(Path(tempfile.mkdtemp(prefix="keylane-demo-")))
    try:
        yield folder
    except KeylaneError:
        folder.is_kept = True
        raise
    finally:
        if folder.is_kept:
            tell(f"the logs of all parts are in {folder.path}")
        else:
            shutil.rmtree(folder.path, ignore_errors=True)


def _run_on(settings: Settings, which: str, folder: Path, tell: Tell) -> Report:
    began = time.monotonic()
    options = LocalBrokerOptions(is_short_lived=True, log_level="warn")
    with local_broker(which, options, tell) as local:
        demo = Demo(settings, local, folder, tell)
        if local:
            evidence = interrupt.run(demo.run)
        else:
            with (folder / "demo.log").open("w") as log, contextlib.redirect_stderr(log):
                evidence = interrupt.run(demo.run)
    return Report.of(
        "pulsar" if local else "memory",
        demo.sent,
        evidence,
        demo.unacknowledged,
        EXPECTED,
        time.monotonic() - began,
    )


class Demo:
    """One run on a broker that is there; `None` for one in memory."""

    def __init__(
        self, settings: Settings, local: LocalBroker | None, folder: Path, tell: Tell
    ) -> None:
        self.sent: list[Sent] = []
        self.unacknowledged = 0
        self._settings = settings
        self._local = local
        self._folder = folder
        self._tell = tell
        self._arrivals: list[Attempt] = []

    async def run(self, interrupt: Interrupt) -> list[Evidence]:
        """Returns what arrived where; raises `Interrupted` when everything is stopped."""
        receiver = Receiver(_answer, self._note)
        try:
            plan = Plan.of(self._demo_settings(await receiver.serve(HOST, 0)))
            stack, witness = self._stack(plan)
            interrupt.abort = stack.kill
            try:
                await interrupt.unless(self._deliver_all(plan, stack, witness))
            finally:
                self._tell("stopping ingest, then the dispatchers")
                await stack.stop()
            # Read again after the last attempt that there can be.
            return await interrupt.unless(self._evidence(witness))
        finally:
            await receiver.close()

    def _demo_settings(self, webhook_url: str) -> Settings:
        """Of the caller's settings only what can't spoil the demo; quick retries."""
        local = self._local
        return Settings(
            # On a fresh broker there is no namespace but one.
            topic=full_topic(self._settings.topic).rpartition("/")[2],
            pulsar=PulsarSettings(service_url=local.service_url, admin_url=local.admin_url)
            if local
            else PulsarSettings(),
            log=self._settings.log.model_copy(update={"format": "json", "level": "info"}),
            ingest=IngestSettings(port=0),
            dispatch=DispatchSettings(
                max_attempts=MAX_ATTEMPTS, backoff_min_s=0.3, backoff_max_s=1.0
            ),
            destinations={
                FILE: DestinationSettings(to=f"file:{self._file}"),
                WEBHOOK: DestinationSettings(to=f"{webhook_url}/hook"),
            },
        )

    @property
    def _file(self) -> Path:
        return self._folder / "delivered.jsonl"

    def _note(self, arrival: Arrival, status: int) -> None:
        self._arrivals.append(Attempt(arrival.id, arrival.user, status == OK))

    def _stack(self, plan: Plan) -> tuple[Stack, Witness]:
        settings = plan.settings
        if self._local:
            return ProcessStack(plan, self._folder, self._log_file), PulsarWitness(settings)
        cluster = in_memory(settings)
        return (
            InProcessStack(plan, partial(MemoryBroker, cluster)),
            MemoryWitness(cluster, settings.topic),
        )

    def _log_file(self, part: str) -> Callable[[str], None]:
        path = self._folder / f"{part.replace(' ', '-')}.log"

        def write(line: str) -> None:
            with path.open("a") as log:
                log.write(line + "\n")

        return write

    async def _deliver_all(self, plan: Plan, stack: Stack, witness: Witness) -> None:
        if self._local:
            await setup(plan.settings, PARTITIONS, list(plan.settings.destinations))
            self._tell(
                f"set up topic {plan.settings.topic}: {PARTITIONS} partitions, policies, and for "
                "each destination a subscription and a dead-letter topic"
            )
        self._tell(f"starting ingest, and a dispatcher for each destination: {FILE}, {WEBHOOK}")
        await stack.start()
        await first_of(stack.watch(), self._send_and_wait(plan, witness))

    async def _send_and_wait(self, plan: Plan, witness: Witness) -> None:
        self.sent += await _send(plan.ingest_url)
        self._tell(f"POST {plan.ingest_url}/events: {len(self.sent)} events accepted")
        try:
            async with asyncio.timeout(SETTLED_WITHIN_S):
                while not await self._is_settled(witness):  # noqa: ASYNC110  told by nobody
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            # What is missing is told at the end.
            self._tell(f"not everything was settled within {SETTLED_WITHIN_S:g} s")
        else:
            self._tell("every event is delivered or dead-lettered, at both destinations")

    async def _is_settled(self, witness: Witness) -> bool:
        if any(len(evidence.unsettled(self.sent)) for evidence in await self._evidence(witness)):
            return False
        self.unacknowledged = await witness.backlog(FILE) + await witness.backlog(WEBHOOK)
        return not self.unacknowledged

    async def _evidence(self, witness: Witness) -> list[Evidence]:
        attempts = {FILE: _lines(self._file), WEBHOOK: list(self._arrivals)}
        return [
            Evidence(name, attempts[name], await witness.dead_letters(name)) for name in attempts
        ]


def _answer(arrival: Arrival) -> int:
    is_first = orjson.loads(arrival.payload) == FIRST
    if is_first and arrival.user == FAILING_USER:
        return FAILURE
    if is_first and arrival.user == UNLUCKY_USER and arrival.attempt == 1:
        return FAILURE
    return OK


async def _send(url: str) -> list[Sent]:
    """Post the sample events; raises `KeylaneError` unless all are accepted."""
    poster = Poster(url)
    await poster.open()
    try:
        answer = await poster.post(
            [orjson.dumps({"UserID": user, "Payload": payload}) for user, payload in EVENTS]
        )
    finally:
        await poster.close()
    if not answer.is_acceptance_of(len(EVENTS)):
        raise KeylaneError(f"ingest did not accept the events: {answer.status} {answer.reason}")
    return [
        Sent(accepted["id"], user, payload)
        for accepted, (user, payload) in zip(answer.body["events"], EVENTS, strict=True)
    ]


def _lines(path: Path) -> list[Attempt]:
    text = path.read_text() if path.exists() else ""
    # The last line may be in the middle of being written.
    delivered = [orjson.loads(line) for line in text.split("\n")[:-1]]
    return [Attempt(one["id"], one["user"], is_taken=True) for one in delivered]
