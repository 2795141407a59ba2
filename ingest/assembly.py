"""Makes what a server is made of, from the settings."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from ingest import problems
from ingest.accept import Intake
from ingest.address import parse_networks
from ingest.door import Door
from ingest.gate import CheckSchemas, Gate
from ingest.idempotency import Repeats, open_store
from ingest.keys import KeyRing
from ingest.link import BrokerLink
from ingest.metrics import Metrics
from ingest.rate import RateLimits
from ingest.schemas.fromtopic import load_from_topic
from ingest.schemas.registry import Schemas, apply
from ingest.siblings import Siblings
from ingest.topics import Topics
from keylane.admin import PulsarAdmin
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.event import DEFAULT_CONTENT_TYPE, Event
from keylane.names import full_topic
from keylane.settings import Settings
from keylane.topics import ensure_deduplication, ensure_topic

log = structlog.get_logger()

#: The CloudEvents attribute that names a schema.
_SCHEMA: Final = "dataschema"


async def assemble(
    broker: Broker,
    settings: Settings,
    index: int,
    folder: Path | None,
    exits: contextlib.AsyncExitStack,
) -> Gate:
    """Make everything that a request passes, as the `index`-th process that shares `folder`.

    What has to be closed is entered into `exits`. Raises `ConfigurationError` if a file, a URL or
    an address in the settings can't be used.
    """
    options = settings.ingest
    topics = Topics(
        full_topic(settings.topic),
        partial(_link, broker, settings, index),
        partial(_intake, settings),
    )
    metrics = Metrics(topics.events_in_flight, [kind.name for kind in problems.KINDS])
    topics.on_late_receipts = metrics.late_receipts.inc
    repeats = Repeats(
        open_store(
            options.idempotency_store,
            window_s=options.idempotency_window_s,
            reservation_s=options.idempotency_reservation_s,
        ),
        reservation_s=options.idempotency_reservation_s,
        on_failure=options.idempotency_store_down,
    )
    repeats.on_store_failure(metrics.store_failures.inc)
    exits.push_async_callback(repeats.close)
    siblings = Siblings(metrics.registry, folder, index)
    await exits.enter_async_context(siblings.answering())
    return Gate(
        Door(),
        parse_networks(options.trusted_proxies),
        KeyRing(options.keys_file, settings.topic, options.tenants),
        RateLimits(options.rate_limit, options.rate_burst),
        repeats,
        await _check_schemas(settings),
        topics,
        metrics,
        siblings,
    )


async def _check_schemas(settings: Settings) -> CheckSchemas | None:
    options = settings.ingest
    if options.schemas == "off":
        return None
    schemas = Schemas.load(options.schema_folder) if options.schema_folder else Schemas()
    if options.schema_from_topic:
        async with PulsarAdmin(settings.pulsar) as admin:
            schemas = schemas.along_with(await load_from_topic(admin.get, settings.topic))
    if not schemas:
        raise ConfigurationError(
            f"Schemas are to be checked ({options.schemas}), but there are none: name a folder "
            "with --schema-folder. Nothing was started."
        )

    def check(events: list[Event]) -> int:
        violating = apply(options.schemas, schemas, events)
        for index, event in enumerate(events):
            # JSON tells its readers itself what it holds.
            is_named = event.content_type == DEFAULT_CONTENT_TYPE or _SCHEMA in event.extensions
            if not is_named and (name := schemas.schema_name(event)):
                events[index] = msgspec.structs.replace(
                    event, extensions={**event.extensions, _SCHEMA: name}
                )
        return violating

    return check


def _link(broker: Broker, settings: Settings, index: int, topic: str) -> BrokerLink:
    name = None
    if settings.ingest.deduplicate:
        # The broker knows a sender again by its name: the same after a restart, and nobody else's.
        name = f"keylane-ingest-{socket.gethostname()}-{settings.ingest.port}-{index}"
    return BrokerLink(broker, topic, partial(_create_topic, settings, topic), name=name)


def _intake(settings: Settings, link: BrokerLink) -> Intake:
    return Intake(
        link,
        max_in_flight=settings.ingest.max_in_flight,
        send_deadline_s=settings.ingest.send_deadline_s,
    )


async def _create_topic(settings: Settings, topic: str) -> None:
    async with PulsarAdmin(settings.pulsar) as admin:
        changes = await ensure_topic(admin, topic)
        if settings.ingest.deduplicate:
            changes += await ensure_deduplication(admin, topic)
    for change in changes:
        log.info("topic.changed", change=change)
