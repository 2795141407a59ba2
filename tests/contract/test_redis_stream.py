"""Entries in a stream of a real Redis."""

# ruff: noqa: F811

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from typing_extensions import override

from dispatch.delivery import Delivery
from dispatch.destinationcontract import Arrival, Counterpart, DestinationContract, opening_of
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.redisstream import RedisStreamDestination, open_redis_stream
from dispatch.outcome import Delivered, Disabled, Outcome, Unavailable
from keylane.errors import ConfigurationError
from tests.messages import make_delivery
from tests.redisserver import (  # noqa: F401  fixtures
    RedisServer,
    redis_program_is_there,
    redis_server,
)


def opened(server: RedisServer, query: str = "stream=events") -> RedisStreamDestination:
    return open_redis_stream(opening_of(f"{server.url}?{query}", timeout_s=2))


async def attempt(
    server: RedisServer, *deliveries: Delivery, query: str = "stream=events"
) -> list[Outcome]:
    destination = opened(server, query)
    try:
        return [await destination.attempt(delivery) for delivery in deliveries]
    finally:
        await destination.close()


async def entries(server: RedisServer) -> list[dict[bytes, bytes]]:
    async with Redis.from_url(server.url) as redis:
        found: Any = await redis.xrange("events")
        return [fields for _, fields in found]


class Stream(Counterpart):
    """The stream, as another client reads it."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        return open_redis_stream(
            opening_of(f"{self.server.url}?stream=events", timeout_s=timeout_s)
        )

    @override
    async def received(self) -> Sequence[Arrival]:
        return [
            Arrival(
                fields[b"payload"],
                fields[b"id"].decode(),
                fields[b"user"].decode(),
                int(fields[b"attempt"]),
            )
            for fields in await entries(self.server)
        ]

    @override
    async def go_away(self) -> None:
        self.server.kill()

    @override
    async def stall(self) -> None:
        process = self.server._process
        assert process
        os.kill(process.pid, signal.SIGSTOP)


class TestRedisStream(DestinationContract):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.server = redis_server

    @asynccontextmanager
    @override
    async def counterpart(self) -> AsyncIterator[Counterpart]:
        async with Redis.from_url(self.server.url) as redis:
            await redis.delete("events")
        yield Stream(self.server)


async def test_an_entry_has_everything_of_a_delivery(redis_server: RedisServer) -> None:
    delivery = make_delivery(b'{"a": 1}', 2, type="order.paid", source="shop")
    assert await attempt(redis_server, delivery) == [Delivered()]
    assert await entries(redis_server) == [
        {
            b"id": b"event-1",
            b"user": b"Ada",
            b"type": b"order.paid",
            b"source": b"shop",
            b"time": b"2023-11-14T22:13:20.000Z",
            b"payload": b'{"a": 1}',
            b"attempt": b"2",
            b"position": b"0:7:3",
        }
    ]


async def test_a_stream_keeps_about_as_many_entries_as_it_is_told(
    redis_server: RedisServer,
) -> None:
    deliveries = [make_delivery(id=f"event-{n}") for n in range(500)]
    await attempt(redis_server, *deliveries, query="stream=events&maxlen=10")
    left = await entries(redis_server)
    assert 10 <= len(left) < 300
    assert left[-1][b"id"] == b"event-499"


async def test_a_server_that_comes_back_is_used_again(redis_server: RedisServer) -> None:
    destination = opened(redis_server)
    assert await destination.attempt(make_delivery()) == Delivered()
    redis_server.kill()
    outcome = await destination.attempt(make_delivery())
    assert isinstance(outcome, Unavailable)
    assert outcome.is_down
    redis_server.start()
    assert await destination.attempt(make_delivery()) == Delivered()
    await destination.close()


async def test_more_attempts_than_connections_are_all_served(redis_server: RedisServer) -> None:
    destination = opened(redis_server)
    outcomes = await asyncio.gather(
        *(destination.attempt(make_delivery(user=f"user-{n}")) for n in range(200))
    )
    await destination.close()
    assert set(outcomes) == {Delivered()}
    assert len(await entries(redis_server)) == 200


async def test_a_name_that_holds_something_else_stops_the_destination(
    redis_server: RedisServer,
) -> None:
    async with Redis.from_url(redis_server.url) as redis:
        await redis.set("events", "a text")
    (outcome,) = await attempt(redis_server, make_delivery())
    assert isinstance(outcome, Disabled)


async def test_a_password_that_is_wrong_stops_the_destination(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as redis:
        await redis.config_set("requirepass", "right")
    for login in ("", ":secret@"):
        to = redis_server.url.replace("://", f"://{login}") + "?stream=events"
        destination = open_redis_stream(opening_of(to))
        outcome = await destination.attempt(make_delivery())
        await destination.close()
        assert isinstance(outcome, Disabled)
        assert "secret" not in str(outcome)


async def test_a_server_without_memory_is_worth_another_attempt(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as redis:
        await redis.config_set("maxmemory", "1")
    (outcome,) = await attempt(redis_server, make_delivery())
    assert isinstance(outcome, Unavailable)


@pytest.mark.parametrize(
    ("to", "complaint"),
    [
        ("redis://h/0", "stream=NAME"),
        ("redis:///0?stream=x", "stream=NAME"),
        ("redis://h/0?stream=", "stream=NAME"),
        ("redis://h/0?stream=x&maxlen=-1", "maxlen should be"),
        ("redis://h/0?stream=x&maxlen=0", "maxlen should be"),
        ("redis://h/0?stream=x&tiemout=1", "tiemout is not known"),
        ("redis://:secret@h:port/0?stream=x", r"redis://\*\*\* is no URL"),
    ],
)
async def test_a_url_that_names_no_stream_is_refused(to: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        open_redis_stream(opening_of(to))
    assert "secret" not in str(refused.value)
