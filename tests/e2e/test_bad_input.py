"""What can't be accepted is refused with its reason, and nothing of it is stored."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest

from tests.ledger import as_sent
from tests.processes import Process
from tests.stage import MakeStage, Stage

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(90)]

JSON = "application/json"
GOOD = b'{"UserID":"user-1","Payload":1}'
#: Above the 5 MB that a payload may have, below the 10 MiB of a body.
LONG_PAYLOAD = b'[{"UserID":"user-1","Payload":"' + b"x" * 5_000_001 + b'"}]'
HUGE_BYTES = 50 * 1024 * 1024


@dataclass(frozen=True)
class Case:
    body: bytes = field(repr=False)
    status: int
    kind: str
    #: Which element and field is named.
    named: tuple[int, str] | None = None
    content_type: str = JSON


CASES = {
    "not JSON": Case(b"[{'UserID':", 400, "malformed-body"),
    "cut off": Case(b"[" + GOOD, 400, "malformed-body"),
    "not UTF-8": Case(b'[{"UserID":"\xff","Payload":1}]', 400, "malformed-body"),
    "no array": Case(b'"user-1"', 422, "invalid-events"),
    "an empty array": Case(b"[]", 422, "invalid-events"),
    "an element that is no object": Case(b"[" + GOOD + b",7]", 422, "invalid-events", (1, "")),
    "no UserID": Case(b'[{"Payload":1}]', 422, "invalid-events", (0, "UserID")),
    "an empty UserID": Case(
        b"[" + GOOD + b',{"UserID":"","Payload":1}]', 422, "invalid-events", (1, "UserID")
    ),
    "a UserID that is no string": Case(
        b'[{"UserID":7,"Payload":1}]', 422, "invalid-events", (0, "UserID")
    ),
    "a UserID of 257 characters": Case(
        b'[{"UserID":"' + b"u" * 257 + b'","Payload":1}]', 422, "invalid-events", (0, "UserID")
    ),
    "no Payload": Case(b'[{"UserID":"user-1"}]', 422, "invalid-events", (0, "Payload")),
    "a payload over the limit": Case(LONG_PAYLOAD, 413, "payload-too-large", (0, "Payload")),
    "another type": Case(b"[" + GOOD + b"]", 415, "wrong-media-type", content_type="text/plain"),
}


async def huge() -> AsyncIterator[bytes]:
    """A body of which nobody knows the length before its end."""
    yield b'[{"UserID":"user-1","Payload":"'
    for _ in range(HUGE_BYTES // 65_536):
        yield b"x" * 65_536
    yield b'"}]'


async def post(url: str, body: Any, content_type: str = JSON) -> tuple[int, str, bytes]:
    """Status, media type and body of the answer."""
    if isinstance(body, bytes):
        body = io.BytesIO(body)
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/events", data=body, headers={"Content-Type": content_type}) as answer,
    ):
        return answer.status, answer.content_type, await answer.read()


async def test_bad_requests_are_refused_with_a_problem_and_nothing_is_stored(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    ingest = await stage.ingest()
    assert (await post(ingest.url, orjson.dumps(as_sent([("user-1", 1)]))))[0] == 202
    assert await stage.stored() == 1

    for name, case in CASES.items():
        status, content_type, body = await post(ingest.url, case.body, case.content_type)
        problem = orjson.loads(body)

        assert (status, content_type) == (case.status, "application/problem+json"), name
        assert problem["type"] == f"urn:keylane:problem:{case.kind}", name
        assert problem["status"] == case.status, name
        assert problem["title"], name
        assert problem["detail"], name
        assert problem["instance"], name
        named = [(error["index"], error["field"]) for error in problem.get("errors", [])]
        assert named == ([case.named] if case.named else []), name

    assert await stage.stored() == 1


async def test_a_huge_body_is_refused_without_being_kept(make_stage: MakeStage) -> None:
    stage = await make_stage("crm", partitions=1)
    ingest = await stage.ingest()
    await post(ingest.url, b"[" + GOOD + b"]")
    before = ingest.peak_bytes()

    told, streamed = await asyncio.gather(
        post(ingest.url, b"x" * HUGE_BYTES), post(ingest.url, huge())
    )

    assert [told[0], streamed[0]] == [413, 413]
    assert ingest.peak_bytes() - before < 64 * 1024 * 1024
    await still_serves(ingest, stage)


async def still_serves(ingest: Process, stage: Stage) -> None:
    assert (await post(ingest.url, b"[" + GOOD + b"]"))[0] == 202
    assert await stage.stored() == 2
