"""The stack: ingest and one dispatcher a destination, as processes or all in this one.

Start order: dispatchers and ingest at once, ready when all of them are; broker and topics are the
caller's, before. Stop order, written here and nowhere else:

1. Ingest: takes nothing more, and answers what it has taken.
2. The dispatchers: let attempts in flight finish and give the rest back to the broker.
3. The broker, by whoever started it: what is undelivered stays in it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from dispatch.plan import dispatch_of
from dispatch.reload import Reload
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.memorycluster import MemoryCluster
from keylane.names import DEAD_LETTER_SUBSCRIPTION, dead_letter_topic
from keylane.settings import Settings, revealed_settings
from operate.broker.ports import HOST, choose_port, is_free
from operate.child import Child, Log, Part, PartEnded, fate, until_ready
from operate.show import as_toml
from operate.together import all_of, first_of

#: Of a topic that is made here.
PARTITIONS: Final = 3
#: What a process takes to end beside its drain.
ENDING_S: Final = 15.0
#: Seconds before a part that ended is started again: the first time, and at most.
RESTART_MIN_S: Final = 1.0
RESTART_MAX_S: Final = 30.0
#: A part that lived so long gets the short delay again.
STEADY_S: Final = 60.0

Tell = Callable[[str], None]
#: Gives the sink for the lines of the part with this name.
Sink = Callable[[str], Callable[[str], None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run, with every port chosen.

    `settings` name the broker that is really there and the destinations; `admin_ports` are the
    first port of each destination's workers.
    """

    settings: Settings
    admin_ports: Mapping[str, int]

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        """Choose the ports; raises `ConfigurationError` if that of ingest is in use."""
        port = choose_port(settings.ingest.port, "--port")
        ingest = settings.ingest.model_copy(update={"port": port})
        taken = {port}
        admin_ports = {}
        for name in settings.destinations:
            options = dispatch_of(settings, name)
            own = settings.destinations[name].admin_port
            ports = _free_in_a_row(options.workers, taken, own or 0)
            taken.update(ports)
            admin_ports[name] = ports[0]
        return cls(settings.model_copy(update={"ingest": ingest}), admin_ports)

    @property
    def ingest_url(self) -> str:
        return _url(self.settings.ingest.host, self.settings.ingest.port)

    def admin_urls(self, name: str) -> list[str]:
        first, options = self.admin_ports[name], dispatch_of(self.settings, name)
        return [_url(options.admin_host, first + n) for n in range(options.workers)]


def _url(host: str, port: int) -> str:
    # What listens everywhere is reached here, too.
    host = HOST if host in {"0.0.0.0", "::"} else host  # noqa: S104  compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _free_in_a_row(count: int, taken: set[int], wanted: int = 0) -> range:
    """Raises `ConfigurationError` if it is `wanted` that is in use."""
    while True:
        first = choose_port(wanted, "admin_port", taken=frozenset(taken))
        ports = range(first, first + count)
        if all(port not in taken and is_free(port) for port in ports):
            return ports
        if wanted:
            raise ConfigurationError(
                f"One of the {count} ports from admin_port {wanted} on is in use, and each worker "
                "needs one; nothing was started."
            )


class Stack(Protocol):
    """What runs. `start` may be cancelled; `stop` follows it in any case and runs to its end."""

    async def start(self) -> None:
        """Return when everything is ready; raises `KeylaneError` if a part can't be."""
        ...

    async def watch(self) -> None:
        """Look after what runs until cancelled; raises what ends it."""
        ...

    async def reconfigure(self, settings: Settings) -> None:
        """Have what runs go on with these settings, which have to fit what runs."""
        ...

    async def stop(self) -> None: ...

    def kill(self) -> None:
        """Make a `stop` that is under way, or comes, quick instead of orderly."""
        ...


class ProcessStack:
    """Each part a process of its own, through the command line that anybody would use.

    With `restarts_told` a part that ends is started again and that is told; without, it ends
    `watch`. `folder` gets the settings, for the processes to read; it goes with the processes if
    this one is killed.
    """

    def __init__(
        self, plan: Plan, folder: Path, sink: Sink, restarts_told: Tell | None = None
    ) -> None:
        self._config = folder / "settings.toml"
        _write_private(self._config, as_toml(revealed_settings(plan.settings)))
        ingest, *dispatchers = _parts(plan, self._config)
        self._ingest = Child(ingest, Log(sink(ingest.name)), folder)
        self._dispatchers = [Child(part, Log(sink(part.name)), folder) for part in dispatchers]
        self._restarts_told = restarts_told

    @property
    def _children(self) -> list[Child]:
        return [self._ingest, *self._dispatchers]

    async def start(self) -> None:
        for child in self._children:
            await child.start()
        await all_of(*(child.ready() for child in self._children))

    async def watch(self) -> None:
        await all_of(*(self._look_after(child) for child in self._children))

    async def _look_after(self, child: Child) -> None:
        delay_s = RESTART_MIN_S
        while True:
            began = time.monotonic()
            code = await child.ended()
            if self._restarts_told is None:
                raise child.why_ended(code)
            if time.monotonic() - began > STEADY_S:
                delay_s = RESTART_MIN_S
            self._restarts_told(
                f"{child.part.name} ended by itself {fate(code)}; starting it again in "
                f"{delay_s:g} s"
            )
            await asyncio.sleep(delay_s)
            await child.start()
            delay_s = min(delay_s * 2, RESTART_MAX_S)

    async def reconfigure(self, settings: Settings) -> None:
        _write_private(self._config, as_toml(revealed_settings(settings)))
        await asyncio.gather(*(child.hang_up() for child in self._dispatchers))

    async def stop(self) -> None:
        await self._ingest.stop()
        await asyncio.gather(*(child.stop() for child in self._dispatchers))

    def kill(self) -> None:
        for child in self._children:
            child.kill()


def _parts(plan: Plan, config: Path) -> list[Part]:
    settings = plan.settings
    ingest = Part(
        "ingest",
        ("ingest", "--config", str(config)),
        (plan.ingest_url,),
        settings.ingest.drain_timeout_s + ENDING_S,
    )
    return [ingest] + [
        Part(
            f"dispatch {name}",
            ("dispatch", name, "--config", str(config), "--admin-port", str(port)),
            tuple(plan.admin_urls(name)),
            dispatch_of(settings, name).drain_timeout_s + ENDING_S,
        )
        for name, port in plan.admin_ports.items()
    ]


def _write_private(path: Path, text: str) -> None:
    """At once for whoever reads it meanwhile."""
    written = path.with_suffix(".new")
    with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123  for the mode
        file.write(text)
    written.replace(path)


def in_memory(settings: Settings) -> MemoryCluster:
    """A cluster with what `keylane topic setup` makes on a real one."""
    cluster = MemoryCluster()
    cluster.create_topic(settings.topic, PARTITIONS)
    for name in settings.destinations:
        cluster.create_subscription(settings.topic, name)
        dead = dead_letter_topic(settings.topic, name)
        cluster.create_topic(dead)
        cluster.create_subscription(dead, DEAD_LETTER_SUBSCRIPTION)
    return cluster


class InProcessStack:
    """All parts in this event loop, on a broker in this process.

    There is one worker a destination, and `plan` has to say so.
    """

    def __init__(self, plan: Plan, session: Callable[[], Broker]) -> None:
        self._plan = plan
        self._session = session
        self._stop_ingest = asyncio.Event()
        self._stop_dispatch = asyncio.Event()
        self._abort = asyncio.Event()
        self._reloads = {name: Reload(partial(self._own, name)) for name in plan.admin_ports}
        self._ingest: list[asyncio.Task[None]] = []
        self._dispatchers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        plan = self._plan
        for name in plan.admin_ports:
            self._dispatchers.append(asyncio.create_task(self._dispatch(name)))
        self._ingest.append(asyncio.create_task(self._serve()))
        urls = [url for name in plan.admin_ports for url in plan.admin_urls(name)]
        await first_of(until_ready([plan.ingest_url, *urls]), self.watch())

    async def _serve(self) -> None:
        from ingest.serve import serving

        async with serving(self._session(), self._plan.settings, self._abort):
            await self._stop_ingest.wait()

    async def _dispatch(self, name: str) -> None:
        from dispatch.process import deliver

        session, reload = self._session(), self._reloads[name]
        await deliver(name, self._own(name), session, name, self._stop_dispatch, reload=reload)

    def _own(self, name: str) -> Settings:
        settings = self._plan.settings
        port = {"admin_port": self._plan.admin_ports[name]}
        own = settings.destinations[name].model_copy(update=port)
        return settings.model_copy(update={"destinations": {**settings.destinations, name: own}})

    async def reconfigure(self, settings: Settings) -> None:
        self._plan = replace(self._plan, settings=settings)
        for reload in self._reloads.values():
            reload.ask()

    async def watch(self) -> None:
        parts = [*self._ingest, *self._dispatchers]
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
        raise PartEnded

    async def stop(self) -> None:
        self._stop_ingest.set()
        await asyncio.gather(*self._ingest, return_exceptions=True)
        self._stop_dispatch.set()
        await asyncio.gather(*self._dispatchers, return_exceptions=True)

    def kill(self) -> None:
        self._abort.set()
        for task in self._dispatchers:
            task.cancel()
