"""`keylane dispatch`: one worker in this process, or several in processes of their own."""

from __future__ import annotations

import asyncio
import os
from random import Random
from typing import Final

import structlog
import uvloop

from dispatch.connections import Subscription
from dispatch.destinations.kinds import open_destination
from dispatch.garbage import collect_when_idle, defer_full_collections
from dispatch.lanes import Lanes
from dispatch.options import LaneOptions
from dispatch.probes import Probes
from dispatch.retry import Backoff, RetryPolicy
from dispatch.slots import Slot
from dispatch.worker import Worker
from keylane.admin import PulsarAdmin
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.settings import DispatchSettings, Settings
from keylane.supervisor import own_signals, supervise
from keylane.topics import ensure_destination, ensure_topic

log = structlog.get_logger()

#: As a shell reports an interrupted command.
EXIT_INTERRUPTED: Final = 130


def run(name: str, settings: Settings) -> int:
    """Deliver to destination `name` until a signal; the exit code is 0 after a drain.

    Raises `ConfigurationError` and `BrokerUnavailable`.
    """
    if name not in settings.destinations:
        raise ConfigurationError(
            f"destination '{name}' is not configured: give --to URI, or write "
            f"[destinations.{name}] with `to` in keylane.toml"
        )
    if settings.dispatch.workers > 1:
        return supervise(name, settings, run_one, settings.dispatch.workers)
    run_one(name, settings, 0)
    return 0


def run_one(name: str, settings: Settings, index: int) -> None:
    """Be one worker of this command, the `index`-th, until a signal or the parent's end."""
    defer_full_collections()
    uvloop.run(_run_one(name, settings, index))


async def _run_one(name: str, settings: Settings, index: int) -> None:
    # Only here, so that everything else runs without the client.
    from keylane.pulsar import PulsarBroker

    stop = asyncio.Event()
    stop_on_signals(stop)
    await _ensure_topics(name, settings)
    broker = PulsarBroker.of(settings.pulsar)
    try:
        with Slot(settings.topic, name, settings.pulsar.service_url) as slot:
            consumer_name = _consumer_name(settings.dispatch, index) or slot.consumer_name
            await deliver(name, settings, broker, consumer_name, stop, index=index)
    finally:
        await broker.close()


async def _ensure_topics(name: str, settings: Settings) -> None:
    async with PulsarAdmin(settings.pulsar) as admin:
        changes = await ensure_topic(admin, settings.topic)
        changes += await ensure_destination(admin, settings.topic, name)
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
) -> None:
    """Run one worker with its probes on a broker that is there, until `stop`, then drain."""
    options = settings.dispatch
    destination = open_destination(settings.destinations[name], options)
    policy = _policy(options)
    lanes = Lanes(_lane_options(options))
    worker = Worker(
        Subscription(settings.topic, name, consumer_name),
        broker,
        destination,
        lanes,
        policy,
        timeout_s=options.timeout_s,
        drain_timeout_s=options.drain_timeout_s,
    )
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
    collecting = asyncio.create_task(collect_when_idle(lanes.events_in_hand))
    try:
        await worker.run(stop)
    finally:
        collecting.cancel()
        await probes.close()


def _lane_options(options: DispatchSettings) -> LaneOptions:
    return LaneOptions(
        concurrency=options.concurrency,
        max_lane_events=options.max_lane_events,
        lane_payload_events=options.lane_payload_events,
        payload_budget_bytes=options.payload_budget_bytes,
        lease_s=options.lease_s,
    )


def _policy(options: DispatchSettings) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=options.max_attempts,
        max_age_s=options.max_age_s,
        backoff=Backoff(
            options.backoff_min_s,
            options.backoff_max_s,
            options.backoff_multiplier,
            options.jitter,
        ),
        rng=Random(),  # noqa: S311  spreads load, guards nothing
    )


def stop_on_signals(stop: asyncio.Event) -> None:
    """The first SIGTERM or Ctrl-C sets `stop`; a second one ends the process where it stands."""

    def on_signal() -> None:
        if stop.is_set():
            # The client's threads can't be waited for; what is unacknowledged is sent again.
            os._exit(EXIT_INTERRUPTED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in own_signals():
        loop.add_signal_handler(number, on_signal)
