"""A served ingest on a fake broker, and what the tests of its answers ask it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from ingest.serve import serving
from keylane.ingestsettings import IngestSettings
from keylane.settings import Settings
from tests.fakes import FakeBroker, FakePublisher
from tests.waiting import until

JSON = {"Content-Type": "application/json"}
MAX_BODY_BYTES = 100_000
ONE = b'[{"UserID":"user-1","Payload":1}]'


@contextlib.asynccontextmanager
async def served(publisher: FakePublisher, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a server that is ready, with limits that tests reach quickly."""
    limits = {
        "max_body_bytes": MAX_BODY_BYTES,
        "max_events": 50,
        "max_in_flight": 50,
        "max_payload_bytes": 1_000,
        "send_deadline_s": 0.2,
        "retry_after_s": 1.5,
        "drain_timeout_s": 1.0,
    }
    ingest = IngestSettings(port=0, **(limits | options))
    async with serving(FakeBroker(publisher), Settings(ingest=ingest)) as server:
        async with aiohttp.ClientSession(server.url) as session:
            await until(lambda: is_ready(session))
            yield session
        publisher.release()


async def is_ready(session: aiohttp.ClientSession) -> bool:
    async with session.get("/readyz") as response:
        return response.status == 200


async def post(
    client: aiohttp.ClientSession, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client.post("/events", data=data, headers={**JSON, **(headers or {})}) as response:
        return response.status, await response.json(content_type=None), response.headers


async def refusal(
    client: aiohttp.ClientSession, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, str, dict[str, Any]]:
    status, problem, told = await post(client, body, headers)
    assert told["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert uuid.UUID(problem["instance"]).urn == problem["instance"]
    assert ("Retry-After" in told) == (status in (409, 429, 503))
    return status, problem["type"].removeprefix("urn:keylane:problem:"), problem


async def metric(client: aiohttp.ClientSession, line: str) -> float:
    async with client.get("/metrics") as response:
        text = await response.text()
    found = [float(x.rpartition(" ")[2]) for x in text.splitlines() if x.startswith(line + " ")]
    return found[0] if found else 0.0


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


async def raw(url: str, request: bytes) -> bytes:
    reader, writer = await connect(url)
    writer.write(request)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer
