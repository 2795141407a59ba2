"""`keylane up`: broker, topic, ingest and a dispatcher for each destination, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from dispatch.plan import reloaded_all
from keylane import hangup
from keylane.admin import PulsarAdmin
from keylane.destinationsettings import DestinationSettings, HttpSettings
from keylane.errors import BrokerError, BrokerUnavailable, ConfigurationError
from keylane.masking import mask_url
from keylane.memory import MemoryBroker
from keylane.settings import LogSettings, PulsarSettings, Settings
from operate import interrupt
from operate.broker.local import LocalBroker, LocalBrokerOptions
from operate.broker.places import state_dir
from operate.broker.ports import HOST, choose_port, is_free
from operate.exits import DONE, INTERRUPTED
from operate.interrupt import Interrupt, Interrupted
from operate.localbroker import MEMORY, keep_alive, local_broker
from operate.receiver import OK, Receiver, print_text
from operate.running import InProcessStack, Plan, ProcessStack, Stack, in_memory
from operate.together import first_of
from operate.topics import setup

SAMPLE_FILE: Final = "keylane-events.jsonl"
FILE: Final = "file"
WEBHOOK: Final = "webhook"
SAMPLE_EVENT: Final = '[{"UserID": "user-1", "Payload": {"hello": "world"}}]'
#: How long a broker may take to answer before one is started.
_ANSWER_WITHIN_S: Final = 3.0
_PORTS: Final = (6650, 8080)


def run_stack(settings: Settings, *, broker: str, reread: Callable[[], Settings]) -> int:
    """Run everything until Ctrl-C or SIGTERM; drain then, and leave no process behind.

    SIGHUP has the settings read again with `reread`, which raises `ConfigurationError`. Returns 0
    after a drain, 130 if that, or the start, was interrupted.
    """
    # Known before a broker is started for nothing.
    choose_port(settings.ingest.port, "--port")
    try:
        with interrupt.sigterm_is_ctrl_c(), _folder() as folder, _broker(settings, broker) as found:
            up = Up(settings, found, folder, reread)
            return interrupt.run(up.run)
    except KeyboardInterrupt:
        return INTERRUPTED


def tell(line: str) -> None:
    """To standard error; standard output has the deliveries."""
    sys.stderr.write(f"keylane: {line}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="keylane-up-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Found:
    """The broker to use: `local` if we started it, `urls` None if it is in memory."""

    urls: PulsarSettings | None
    local: LocalBroker | None = None


@contextlib.contextmanager
def _broker(settings: Settings, which: str) -> Iterator[Found]:
    """The broker that answers at the configured URLs, else one of our own.

    Raises `BrokerUnavailable` if somebody configured one and it doesn't answer.
    """
    if which != MEMORY and asyncio.run(_answers(settings.pulsar)):
        tell(f"using the broker at {settings.pulsar.service_url}")
        yield Found(settings.pulsar)
        return
    defaults = PulsarSettings()
    given = (settings.pulsar.service_url, settings.pulsar.admin_url)
    if which != MEMORY and given != (defaults.service_url, defaults.admin_url):
        raise BrokerUnavailable(
            f"No broker answers at {given[0]} and {given[1]}; nothing was started. Start it, "
            "correct the URLs, or leave both out to have a local one started."
        )
    with _data_dir(which) as data_dir:
        options = LocalBrokerOptions(*_ports(), data_dir=data_dir)
        with local_broker(which, options, tell) as local:
            if local is None:
                yield Found(None)
                return
            tell(f"the broker keeps its data in {data_dir}")
            urls = {"service_url": local.service_url, "admin_url": local.admin_url}
            yield Found(settings.pulsar.model_copy(update=urls), local)


async def _answers(pulsar: PulsarSettings) -> bool:
    quick = pulsar.model_copy(update={"operation_timeout_s": _ANSWER_WITHIN_S})
    try:
        async with PulsarAdmin(quick, deadline_s=0) as admin:
            await admin.wait_until_healthy()
    except BrokerError:
        return False
    # A list of brokers has commas; one that answers is enough to go on, the client tries them all.
    first = urlsplit(pulsar.service_url.partition(",")[0])
    return await asyncio.to_thread(_listens, first.hostname or HOST, first.port or _PORTS[0])


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _ANSWER_WITHIN_S):
            return True
    except OSError:
        return False


def _ports() -> tuple[int, int]:
    """Those that everything looks at by default, or any if somebody else has one of them."""
    return _PORTS if all(map(is_free, _PORTS)) else (0, 0)


@contextlib.contextmanager
def _data_dir(which: str) -> Iterator[Path | None]:
    """The folder that keeps events from one `keylane up` to the next, for one at a time."""
    if which == MEMORY:
        yield None
        return
    folder = state_dir() / "up"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"Another `keylane up` uses {folder}; nothing was started. Stop it, or give this "
                "one a broker with --service-url and --admin-url."
            ) from error
        yield folder / "pulsar"


class Up:
    """The stack on a broker that is there."""

    def __init__(
        self, settings: Settings, found: Found, folder: Path, reread: Callable[[], Settings]
    ) -> None:
        self._settings = settings
        self._found = found
        self._folder = folder
        self._reread = reread
        self._asked = asyncio.Event()
        self._sample_file = Path(SAMPLE_FILE).absolute()
        self._samples: Receiver | None = None
        self._sample_url = ""

    async def run(self, interrupt: Interrupt) -> int:
        """Returns the exit code."""
        try:
            plan = Plan.of(await self._with_destinations(self._settings))
            stack = self._stack(plan)
            interrupt.abort = stack.kill
            self._take_hangups(interrupt)
            try:
                await interrupt.unless(self._stay(plan, stack))
            except Interrupted:
                tell("stopping: ingest first, then the dispatchers; Ctrl-C again to abort")
            finally:
                await stack.stop()
        finally:
            if self._samples:
                await self._samples.close()
        return INTERRUPTED if interrupt.is_aborted else DONE

    def _take_hangups(self, interrupt: Interrupt) -> None:
        """SIGHUP has the settings read again, unless the terminal has gone: that ends it."""
        terminal = hangup.Terminal()
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP,
            lambda: interrupt.arrive() if terminal.is_gone() else self._asked.set(),
        )

    async def _read_again(self, settings: Settings, stack: Stack) -> NoReturn:
        """Each time that it is asked for; what can't change in place is told and stays."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                read = await asyncio.to_thread(self._reread)
                if read.ingest.port == self._settings.ingest.port:  # 0 has become a real one
                    port = {"port": settings.ingest.port}
                    ingest = read.ingest.model_copy(update=port)
                    read = read.model_copy(update={"ingest": ingest})
                new = await self._with_destinations(read)
                change = reloaded_all(settings, new)
            except ConfigurationError as error:
                tell(f"the settings from before go on: {error}")
                continue
            settings = change.settings
            await stack.reconfigure(settings)
            tell("read the settings again")
            for place in change.later:
                tell(f"{place} takes effect after a restart")

    async def _with_destinations(self, settings: Settings) -> Settings:
        """The settings with the broker that is there, and sample destinations if there are none."""
        if self._found.urls:
            changed: dict[str, object] = {"pulsar": self._found.urls, "log": self._log}
        else:
            # There is one worker a destination in memory, whatever anything says.
            changed = {
                "dispatch": settings.dispatch.model_copy(update={"workers": 1}),
                "destinations": {
                    name: own.model_copy(update={"workers": None})
                    for name, own in settings.destinations.items()
                },
            }
        settings = settings.model_copy(update=changed)
        if settings.destinations:
            return settings
        if self._samples is None:
            self._samples = Receiver(lambda _: OK, print_text)
            self._sample_url = await self._samples.serve(HOST, 0)
        # The webhook is in this process: never an address to be guarded from.
        open_to_all = HttpSettings(guard="off")
        samples = {
            FILE: DestinationSettings(to=f"file:{self._sample_file}"),
            WEBHOOK: DestinationSettings(to=f"{self._sample_url}/hook", http=open_to_all),
        }
        return settings.model_copy(update={"destinations": samples})

    @property
    def _log(self) -> LogSettings:
        """For the processes, which write to a pipe and can't see where that ends."""
        log = self._settings.log
        is_pretty = log.format == "auto" and sys.stderr.isatty()
        return log.model_copy(update={"format": "pretty"}) if is_pretty else log

    def _stack(self, plan: Plan) -> Stack:
        if self._found.urls:
            return ProcessStack(plan, self._folder, _prefixed, tell)
        return InProcessStack(plan, partial(MemoryBroker, in_memory(plan.settings)))

    async def _stay(self, plan: Plan, stack: Stack) -> None:
        if self._found.urls:
            for change in await setup(plan.settings, None, list(plan.settings.destinations)):
                tell(change)
        await stack.start()
        for line in self._welcome(plan):
            tell(line)
        beside: list[Coroutine[Any, Any, None]] = [self._read_again(plan.settings, stack)]
        if self._found.local:
            beside.append(keep_alive(self._found.local, tell))
        await first_of(stack.watch(), *beside)

    def _welcome(self, plan: Plan) -> Iterator[str]:
        settings = plan.settings
        if self._found.urls:
            yield f"broker    {settings.pulsar.service_url}, admin {settings.pulsar.admin_url}"
        yield f"ingest    {plan.ingest_url}/events, documentation {plan.ingest_url}/docs"
        for name, destination in settings.destinations.items():
            urls = ", ".join(f"{url}/metrics" for url in plan.admin_urls(name))
            yield f"dispatch  {name} -> {_address(destination)}, {urls}"
        yield "try it:"
        yield (
            f"  curl {plan.ingest_url}/events -H 'content-type: application/json' "
            f"-d {shlex.quote(SAMPLE_EVENT)}"
        )
        if self._samples:
            yield "deliveries to the sample webhook are printed to standard output"
        yield "Ctrl-C stops everything, in order"


def _address(destination: DestinationSettings) -> str:
    """Where to, its secrets masked; of several channels the names."""
    return mask_url(destination.to) if destination.to else ", ".join(destination.channels)


def _prefixed(part: str) -> Callable[[str], None]:
    def write(line: str) -> None:
        sys.stderr.write(f"{part:<16} | {line}\n")
        sys.stderr.flush()

    return write
