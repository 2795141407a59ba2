"""What a request passes on its way in, over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from keylane.apikeys import Scope, create_key
from keylane.errors import PublishUnconfirmed
from tests.fakes import FakePublisher, answers, position
from tests.ingestclient import ONE, connect, metric, post, refusal, served
from tests.waiting import until

SCHEMA = {
    "type": "object",
    "required": ["total"],
    "properties": {"total": {"type": "number", "minimum": 0}},
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


def ids(answer: dict[str, Any]) -> list[str]:
    return [event["id"] for event in answer["events"]]


# Repeats


async def test_a_repeat_gets_the_same_answer_and_stores_nothing(publisher: FakePublisher) -> None:
    async with served(publisher) as client:
        first = await post(client, ONE, {"Idempotency-Key": "k"})
        again = await post(client, ONE, {"Idempotency-Key": "k"})

    assert (first[0], again[0]) == (202, 202)
    assert again[1] == first[1]
    assert again[2]["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first[2]
    assert len(publisher.sent) == 1


async def test_a_key_with_another_body_is_refused(publisher: FakePublisher) -> None:
    async with served(publisher) as client:
        await post(client, ONE, {"Idempotency-Key": "k"})
        other = await refusal(client, ONE.replace(b"1}", b"2}"), {"Idempotency-Key": "k"})

    assert other[:2] == (422, "key-reused")


async def test_a_refused_request_does_not_use_up_its_key(publisher: FakePublisher) -> None:
    async with served(publisher) as client:
        assert (await refusal(client, b"[{}]", {"Idempotency-Key": "k"}))[0] == 422
        status, _, _ = await post(client, ONE, {"Idempotency-Key": "k"})

    assert status == 202


async def test_a_repeat_while_the_first_is_handled_is_told_to_wait(
    publisher: FakePublisher,
) -> None:
    async with served(publisher, send_deadline_s=5.0) as client:
        publisher.hold()
        first = asyncio.create_task(post(client, ONE, {"Idempotency-Key": "k"}))
        await until(lambda: len(publisher.held) == 1)

        assert (await refusal(client, ONE, {"Idempotency-Key": "k"}))[:2] == (409, "still-running")

        publisher.release()
        assert (await first)[0] == 202


async def test_only_what_is_not_confirmed_is_sent_again(publisher: FakePublisher) -> None:
    body = [{"UserID": f"user-{n}", "Payload": n} for n in range(3)]
    publisher.answer = answers(position(0), PublishUnconfirmed())
    async with served(publisher) as client:
        status, problem, _ = await post(client, body, {"Idempotency-Key": "k"})
        again, answer, _ = await post(client, body, {"Idempotency-Key": "k"})

    assert (status, again) == (503, 202)
    assert [e["status"] for e in problem["events"]] == ["confirmed", "unknown", "not-sent"]
    assert ids(answer) == ids(problem)
    assert publisher.keys() == ["user-0", "user-1", "user-1", "user-2"]


async def test_sends_under_way_are_waited_for_and_not_repeated(publisher: FakePublisher) -> None:
    async with served(publisher, send_deadline_s=0.3) as client:
        publisher.hold()
        assert (await post(client, ONE, {"Idempotency-Key": "k"}))[0] == 503
        again = asyncio.create_task(post(client, ONE, {"Idempotency-Key": "k"}))
        await asyncio.sleep(0.05)
        publisher.release()

        assert (await again)[0] == 202
        assert len(publisher.sent) == 1


async def test_a_repeated_id_is_answered_as_a_duplicate(publisher: FakePublisher) -> None:
    body = [{"UserID": "u", "Payload": 1, "ID": "a"}, {"UserID": "u", "Payload": 2}]
    async with served(publisher) as client:
        await post(client, body)
        status, answer, _ = await post(client, body)
        duplicates = await metric(client, "keylane_ingest_duplicate_events_total")

    assert status == 202
    assert answer["accepted"] == 2
    assert answer["events"][0] == {"id": "a", "user": "u", "duplicate": True}
    assert "duplicate" not in answer["events"][1]
    assert [m.value for m in publisher.sent] == [b"1", b"2", b"2"]
    assert duplicates == 1


async def test_requests_of_one_connection_are_stored_in_their_order(
    publisher: FakePublisher,
) -> None:
    bodies = [b'{"UserID":"u","Payload":%d}' % n for n in range(20)]
    head = b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    async with served(publisher) as client:
        reader, writer = await connect(str(client._base_url))
        # All at once, before the first answer.
        writer.write(b"".join(head + b"content-length: %d\r\n\r\n" % len(b) + b for b in bodies))
        for _ in bodies:
            assert (await reader.readuntil(b"}]}")).lstrip().startswith(b"HTTP/1.1 202")
        writer.close()

    assert [m.value for m in publisher.sent] == [str(n).encode() for n in range(20)]


# Who sends, and how much


async def test_a_key_without_the_scope_may_not(publisher: FakePublisher, tmp_path: Path) -> None:
    texts = create_key(tmp_path / "keys.json", "texts", scopes=[Scope.NOTIFY_WRITE])
    headers = {"Authorization": f"Bearer {texts.text}"}
    async with served(publisher, keys_file=tmp_path / "keys.json") as client:
        assert (await refusal(client, ONE, headers))[:2] == (403, "not-allowed")
        status, kind, _ = await refusal(client, ONE)
        async with client.post("/notify", json={"message": "hi"}, headers=headers) as answer:
            notified = answer.status
        async with client.get("/healthz") as answer:
            assert answer.status == 200

    assert (status, kind, notified) == (401, "not-authenticated", 202)


async def test_too_many_events_are_refused_and_the_answer_says_when(
    publisher: FakePublisher,
) -> None:
    async with served(publisher, rate_limit=5.0, rate_burst=10) as client:
        told = (await post(client, json.loads(ONE) * 10))[2]
        status, kind, _ = await refusal(client, ONE)
        later = (await post(client, ONE))[2]

    assert (status, kind) == (429, "rate-limited")
    assert told["RateLimit"].startswith('"default";r=0;')
    assert int(later["Retry-After"]) == 1
    assert "RateLimit-Policy" in later


async def test_a_request_larger_than_the_burst_passes_when_nothing_was_sent_before(
    publisher: FakePublisher,
) -> None:
    async with served(publisher, rate_limit=5.0, rate_burst=10) as client:
        assert (await post(client, json.loads(ONE) * 30))[0] == 202
        assert (await post(client, ONE))[0] == 429


# Bodies


async def test_gzip_is_taken_and_bounded(publisher: FakePublisher) -> None:
    zipped = {"Content-Encoding": "gzip"}
    async with served(publisher) as client:
        assert (await post(client, gzip.compress(ONE), zipped))[0] == 202
        bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
        assert (await refusal(client, bomb, zipped))[:2] == (413, "body-too-large")


async def test_a_cloud_event_arrives_with_its_bytes_and_extensions(
    publisher: FakePublisher,
) -> None:
    event = (
        b'{"specversion":"1.0","id":"1","source":"/s","type":"t","partitionkey":"ann",'
        b'"color":"red","data": {"b" : 1.50 , "a":"\\u00e4"} }'
    )
    async with served(publisher) as client:
        status, _, _ = await post(client, event, {"Content-Type": "application/cloudevents+json"})

    [message] = publisher.sent
    assert status == 202
    assert (message.key, message.properties["ce_color"]) == ("ann", "red")
    assert message.value == b'{"b" : 1.50 , "a":"\\u00e4"}'


async def test_a_text_is_keyed_by_its_user_or_its_sender(publisher: FakePublisher) -> None:
    async with served(publisher, trusted_proxies="127.0.0.0/8") as client:
        for body, headers in (
            ({"message": "hi", "user": "ann"}, {}),
            ({"message": "hi"}, {}),
            ({"message": "hi"}, {"X-Forwarded-For": "192.0.2.9"}),
        ):
            async with client.post("/notify", json=body, headers=headers) as answer:
                assert answer.status == 202

    assert publisher.keys() == ["ann", "127.0.0.1", "192.0.2.9"]
    assert json.loads(publisher.sent[0].value) == {"message": "hi"}


# Schemas


async def test_a_payload_that_does_not_fit_is_refused_with_its_place(
    publisher: FakePublisher, tmp_path: Path
) -> None:
    (tmp_path / "order.json").write_text(json.dumps(SCHEMA))
    good = {"UserID": "u", "Type": "order", "Payload": {"total": 1}}
    bad = {"UserID": "u", "Type": "order", "Payload": {"total": -1}}
    async with served(publisher, schemas="enforce", schema_folder=tmp_path) as client:
        assert (await post(client, [good, {"UserID": "u", "Payload": "of no type"}]))[0] == 202
        status, kind, problem = await refusal(client, [good, bad])

    assert (status, kind) == (422, "schema-violated")
    assert [(e["index"], e["field"]) for e in problem["errors"]] == [(1, "Payload/total")]
    assert len(publisher.sent) == 2


async def test_a_payload_that_does_not_fit_is_only_counted_where_that_is_wanted(
    publisher: FakePublisher, tmp_path: Path
) -> None:
    (tmp_path / "order.json").write_text(json.dumps(SCHEMA))
    bad = {"UserID": "u", "Type": "order", "Payload": {}}
    async with served(publisher, schemas="warn", schema_folder=tmp_path) as client:
        assert (await post(client, bad))[0] == 202
        assert await metric(client, "keylane_ingest_schema_violations_total") == 1
