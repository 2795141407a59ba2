"""`keylane dispatch`: one worker in this process, or several in processes of their own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NoReturn

import structlog
import uvloop

from dispatch.connections import Subscription
from dispatch.destinations.channels import OnceDestination
from dispatch.destinations.kinds import Opened, open_destination
from dispatch.garbage import collect_when_idle, defer_full_collections
from dispatch.lanes import Lanes
from dispatch.once.opening import Stores
from dispatch.plan import dispatch_of, is_guarded, lanes_of, pace_of, policy_of
from dispatch.probes import Probes
from dispatch.reload import Reload, Reread, read_again, refuse
from dispatch.slots import Slot
from dispatch.worker import Worker
from keylane import hangup
from keylane.admin import PulsarAdmin
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.names import control_topic, deliveries_topic
from keylane.settings import DispatchSettings, Settings
from keylane.supervisor import own_signals, supervise
from keylane.tabletopic import ensure_table
from keylane.topics import ensure_destination, ensure_redrive, ensure_topic

log = structlog.get_logger()

#: As a shell reports an interrupted command.
EXIT_INTERRUPTED: Final = 130


def run(name: str, settings: Settings, reread: Reread | None = None) -> int:
    """Deliver to destination `name` until a signal; the exit code is 0 after a drain.

    With `reread`, SIGHUP has the settings read again. Raises `ConfigurationError` and
    `BrokerUnavailable`.
    """
    if name not in settings.destinations:
        raise ConfigurationError(
            f"destination '{name}' is not configured: give --to URI, or write "
            f"[destinations.{name}] with `to` in keylane.toml"
        )
    workers = dispatch_of(settings, name).workers
    if workers > 1:
        renew = partial(read_again, reread, name) if reread else None
        return supervise(name, settings, partial(run_one, reread=reread), workers, renew)
    run_one(name, settings, 0, reread)
    return 0


def run_one(name: str, settings: Settings, index: int, reread: Reread | None = None) -> None:
    """Be one worker of this command, the `index`-th, until a signal or the parent's end."""
    defer_full_collections()
    uvloop.run(_run_one(name, settings, index, reread))


async def _run_one(name: str, settings: Settings, index: int, reread: Reread | None) -> None:
    # Only here, so that everything else runs without the client.
    from keylane.pulsar import PulsarBroker

    stop = asyncio.Event()
    reload = Reload(reread) if reread else None
    stop_on_signals(stop, reload)
    await _ensure_topics(name, settings)
    broker = PulsarBroker.of(settings.pulsar)
    try:
        with Slot(settings.topic, name, settings.pulsar.service_url) as slot:
            options = dispatch_of(settings, name)
            consumer_name = _consumer_name(options, index) or slot.consumer_name
            await deliver(name, settings, broker, consumer_name, stop, index=index, reload=reload)
    finally:
        await broker.close()


async def _ensure_topics(name: str, settings: Settings) -> None:
    async with PulsarAdmin(settings.pulsar) as admin:
        changes = await ensure_topic(admin, settings.topic)
        start = settings.destinations[name].start
        changes += await ensure_destination(admin, settings.topic, name, start)
        changes += await ensure_redrive(admin, settings.topic, name)
        changes += await ensure_table(admin, control_topic(settings.topic))
        once = settings.destinations[name].once
        if once.store and once.store.get_secret_value().startswith("pulsar"):
            topic = deliveries_topic(settings.topic, name)
            changes += await ensure_table(admin, topic, keep_s=once.ttl_s)
    for change in changes:
        log.info("topic.changed", change=change)


def _consumer_name(options: DispatchSettings, index: int) -> str | None:
    if options.consumer_name is None or options.workers == 1:
        return options.consumer_name
    return f"{options.consumer_name}-{index}"


async def deliver(
    name: str,
    settings: Settings,
    broker: Broker,
    consumer_name: str,
    stop: asyncio.Event,
    *,
    index: int = 0,
    reload: Reload | None = None,
) -> None:
    """Run one worker with its probes on a broker that is there, until `stop`, then drain."""
    options, own = dispatch_of(settings, name), settings.destinations[name]
    policy = policy_of(options)
    lanes = Lanes(lanes_of(own, options))
    stores = Stores()
    worker = Worker(
        Subscription(settings.topic, name, consumer_name),
        broker,
        await _opened(name, settings, broker, stores),
        lanes,
        policy,
        timeout_s=options.timeout_s,
        drain_timeout_s=options.drain_timeout_s,
        pace=pace_of(own, options),
    )
    worker.metrics.add_once(stores.counts)
    probes = Probes(worker.metrics.registry, worker.unready_reasons)
    port = options.admin_port + index if options.admin_port else 0
    url = await probes.serve(options.admin_host, port)
    log.info(
        "dispatch.started",
        destination=name,
        worker=consumer_name,
        admin_url=url,
        longest_hold_up_s=round(policy.worst_case_s()),
    )
    beside: list[asyncio.Task[None]] = [
        asyncio.create_task(collect_when_idle(lanes.events_in_hand))
    ]
    if reload:
        opened = partial(_opened, name, broker=broker, stores=stores)
        beside.append(asyncio.create_task(_reload(name, settings, opened, worker, reload)))
    try:
        await worker.run(stop)
    finally:
        for task in beside:
            task.cancel()
        await probes.close()
        await stores.close()


async def _opened(name: str, settings: Settings, broker: Broker, stores: Stores) -> Opened:
    """Raises `ConfigurationError`."""
    destination = open_destination(
        name,
        settings.destinations[name],
        dispatch_of(settings, name),
        is_guarded=is_guarded(settings, name),
        broker=broker,
        topic=settings.topic,
        stores=stores,
    )
    if isinstance(destination, OnceDestination):
        await destination.open()
    return destination


async def _reload(
    name: str,
    settings: Settings,
    opened: Callable[[Settings], Awaitable[Opened]],
    worker: Worker,
    reload: Reload,
) -> NoReturn:
    """Hand the worker what it is to go on with, each time that the settings are read again."""
    while True:
        try:
            changed = await reload.next(name, settings)
            if changed is None:
                continue
            destination = await opened(changed)
        except ConfigurationError as error:
            refuse(name, error)
            continue
        except Exception:
            # A bug in what reads or opens must not end a worker that delivers.
            log.exception("configuration.broke", destination=name)
            continue
        options = dispatch_of(changed, name)
        pace = pace_of(changed.destinations[name], options)
        worker.reconfigure(destination, policy_of(options), pace, options.timeout_s)
        log.info("configuration.reloaded", destination=name)


def stop_on_signals(stop: asyncio.Event, reload: Reload | None = None) -> None:
    """The first SIGTERM or Ctrl-C sets `stop`; a second one ends the process where it stands.

    SIGHUP asks for `reload`; where the terminal has gone it is one of those.
    """

    def on_signal() -> None:
        if stop.is_set():
            # The client's threads can't be waited for; what is unacknowledged is sent again.
            os._exit(EXIT_INTERRUPTED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in own_signals():
        loop.add_signal_handler(number, on_signal)
    if reload is None:
        return
    terminal = hangup.Terminal()

    def on_hangup() -> None:
        if not terminal.is_gone():
            reload.ask()
        # The parent was told as well, and ends its workers.
        elif multiprocessing.parent_process() is None:
            on_signal()

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    hangup.take()
