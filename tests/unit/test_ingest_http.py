from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import structlog

from keylane.errors import EventTooLarge, PublishUnconfirmed
from tests.fakes import FakePublisher, answers, position
from tests.ingestclient import (
    JSON,
    MAX_BODY_BYTES,
    ONE,
    connect,
    metric,
    post,
    raw,
    refusal,
    served,
)
from tests.waiting import until


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
async def client(publisher: FakePublisher) -> AsyncIterator[aiohttp.ClientSession]:
    async with served(publisher) as session:
        yield session


async def test_events_are_answered_in_the_order_sent(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    body = [{"UserID": f"u{n % 3}", "Payload": n, "ID": f"e{n}"} for n in range(20)]

    status, answer, headers = await post(client, body)

    assert status == 202
    assert answer["accepted"] == 20
    assert answer["events"] == [{"id": f"e{n}", "user": f"u{n % 3}"} for n in range(20)]
    assert headers["Content-Type"] == "application/json"
    assert publisher.keys() == [f"u{n % 3}" for n in range(20)]
    assert [m.value for m in publisher.sent] == [str(n).encode() for n in range(20)]


async def test_a_message_carries_the_payload_s_bytes_and_the_attributes(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    body = b'{"UserID":"\xc3\xa4","Payload": {"b":1.0,  "a":"\\u00e4"} ,"ID":"i","Type":"t"}'

    _, answer, _ = await post(client, body)

    [message] = publisher.sent
    assert answer == {"accepted": 1, "events": [{"id": "i", "user": "ä"}]}
    assert message.key == "ä"
    assert message.value == b'{"b":1.0,  "a":"\\u00e4"}'
    assert message.properties["ce_id"] == "i"
    assert message.properties["ce_type"] == "t"
    assert message.properties["ce_source"] == "keylane"
    assert message.event_time_ms > 0


async def test_202_comes_only_when_all_are_confirmed(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.answer = answers(position(0), None)
    posting = asyncio.create_task(post(client, json.loads(ONE) * 2))
    await until(lambda: len(publisher.held) == 1)

    assert not posting.done()

    publisher.release()
    assert (await posting)[0] == 202


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        'application/json; charset="utf-8"',
    ],
)
async def test_json_in_utf_8_is_taken(client: aiohttp.ClientSession, content_type: str) -> None:
    status, _, _ = await post(client, ONE, {"Content-Type": content_type})

    assert status == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": ""},
        {"Content-Encoding": "br"},
    ],
)
async def test_another_media_type_is_refused(
    client: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    assert (await refusal(client, ONE, headers))[:2] == (415, "wrong-media-type")


async def test_a_body_without_a_content_type_is_refused(client: aiohttp.ClientSession) -> None:
    url = client._base_url
    assert url is not None

    answer = await raw(str(url), b"POST /events HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b'"\xff"', b"[" * 90_000])
async def test_what_is_no_json_is_a_400(client: aiohttp.ClientSession, body: bytes) -> None:
    assert (await refusal(client, body))[:2] == (400, "malformed-body")


async def test_bad_elements_are_named_and_nothing_is_sent(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    body = [{"UserID": "u", "Payload": 1}, {"UserID": "u"}, {"UserID": 1, "Payload": 1}]

    status, kind, problem = await refusal(client, body)

    assert (status, kind) == (422, "invalid-events")
    assert [(e["index"], e["field"]) for e in problem["errors"]] == [(1, "Payload"), (2, "UserID")]
    assert all(e["detail"] for e in problem["errors"])
    assert publisher.sent == []


async def test_an_empty_array_is_a_422(client: aiohttp.ClientSession) -> None:
    assert (await refusal(client, b"[]"))[:2] == (422, "invalid-events")


async def test_payloads_that_are_too_large_are_named_and_nothing_is_sent(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    small, large = {"UserID": "u", "Payload": 1}, {"UserID": "u", "Payload": "x" * 2_000}

    status, kind, problem = await refusal(client, [small, large])

    assert (status, kind) == (413, "payload-too-large")
    assert [e["index"] for e in problem["errors"]] == [1]
    assert publisher.sent == []


async def test_too_many_events_are_a_413(client: aiohttp.ClientSession) -> None:
    assert (await refusal(client, json.loads(ONE) * 51))[:2] == (413, "too-many-events")


async def test_what_the_broker_finds_too_large_is_named_and_the_rest_told(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.answer = answers(position(0), EventTooLarge())

    status, kind, problem = await refusal(client, json.loads(ONE) * 3)

    assert (status, kind) == (413, "event-too-large")
    assert [e["index"] for e in problem["errors"]] == [1]
    assert [e["status"] for e in problem["events"]] == ["confirmed", "too-large", "not-sent"]


async def test_a_body_may_be_as_large_as_the_limit(client: aiohttp.ClientSession) -> None:
    body = ONE + b" " * (MAX_BODY_BYTES - len(ONE))

    assert (await post(client, body))[0] == 202
    assert (await refusal(client, body + b" "))[:2] == (413, "body-too-large")


async def test_a_declared_size_is_refused_before_the_body_is_asked_for(
    client: aiohttp.ClientSession,
) -> None:
    answer = await raw(
        str(client._base_url),
        b"POST /events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        b"Content-Length: 50000000\r\nExpect: 100-continue\r\n\r\n",
    )

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_of_50_mb_is_refused_and_memory_stays_flat(
    client: aiohttp.ClientSession,
) -> None:
    chunk = b" " * 65_536

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(800):
            yield chunk

    tracemalloc.start()
    try:
        async with client.post("/events", data=endless(), headers=JSON) as response:
            assert response.status == 413
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 5_000_000


async def test_too_much_in_flight_is_refused_at_once_and_nothing_is_sent(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.hold()
    first = asyncio.create_task(post(client, json.loads(ONE) * 50))
    await until(lambda: len(publisher.held) == 50)

    status, kind, problem = await refusal(client, ONE)

    assert (status, kind) == (503, "too-many-in-flight")
    assert "events" not in problem
    assert len(publisher.sent) == 50
    assert not first.done()
    publisher.release()
    assert (await first)[0] == 202


async def test_retry_after_is_in_whole_seconds(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.connected = False

    _, _, headers = await post(client, ONE)

    assert headers["Retry-After"] == "2"


async def test_after_the_deadline_each_event_s_fate_is_told(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.answer = answers(position(0), None)
    body = [{"UserID": "a", "Payload": 1, "ID": "x"}, {"UserID": "b", "Payload": 1, "ID": "y"}]

    status, kind, problem = await refusal(client, body)

    assert (status, kind) == (503, "not-confirmed")
    assert problem["events"] == [
        {"index": 0, "id": "x", "user": "a", "status": "confirmed"},
        {"index": 1, "id": "y", "user": "b", "status": "unknown"},
    ]
    in_flight = "keylane_ingest_events_in_flight"
    assert await metric(client, in_flight) == 2
    publisher.release()
    await until(lambda: _equals(client, in_flight, 0))
    assert await metric(client, "keylane_ingest_late_receipts_total") == 1


async def _equals(client: aiohttp.ClientSession, line: str, value: float) -> bool:
    return await metric(client, line) == value


async def test_an_unconfirmed_send_is_a_503(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.answer = answers(PublishUnconfirmed())

    status, kind, problem = await refusal(client, ONE)

    assert (status, kind) == (503, "not-confirmed")
    assert [e["status"] for e in problem["events"]] == ["unknown"]


async def test_a_sender_who_leaves_within_the_body_does_no_harm(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    _, writer = await connect(str(client._base_url))
    writer.write(
        b"POST /events HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n["
    )
    await writer.drain()
    with structlog.testing.capture_logs() as lines:
        writer.close()
        await writer.wait_closed()
        assert (await post(client, ONE))[0] == 202

    assert [line["event"] for line in lines] == ["event.accepted", "request.accepted"]


async def test_concurrent_requests_each_keep_their_order(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    def body(sender: int) -> list[dict[str, Any]]:
        return [{"UserID": f"u{sender}", "Payload": n} for n in range(2)]

    statuses = [s for s, _, _ in await asyncio.gather(*(post(client, body(n)) for n in range(20)))]

    assert set(statuses) == {202}
    for sender in range(20):
        mine = [m for m in publisher.sent if m.key == f"u{sender}"]
        assert [m.value for m in mine] == [b"0", b"1"]
