"""From a POST to a file and to a webhook, through processes of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import orjson
import pytest
from standardwebhooks import Webhook

from tests.judge import Attempt, Numbered
from tests.stage import MakeStage
from tests.verifying import VerifyingReceiver, fail_heads
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(90)]

FIVE_EVENTS = (
    b'[{"UserID":"user-1","Payload":"event-1-payload"},'
    b'{"UserID":"user-2","Payload":"event-1-payload"},'
    b'{"UserID":"user-1","Payload":"event-2-payload"},'
    b'{"UserID":"user-3","Payload":"event-1-payload"},'
    b'{"UserID":"user-2","Payload":"event-2-payload"}]'
)
IN_ORDER = {"user-1": [1, 2], "user-2": [1, 2], "user-3": [1]}
SECRET = "whsec_a2V5bGFuZSBpbiBpdHMgdGVzdHMgb25seQ=="
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
#: Spelt as no encoder would spell it.
ODD_PAYLOAD = '{"b" : 1.50,\n "a":1e2, "ä":"\\u00e9 é", "a": [ ]}'.encode()


def read_named(body: bytes, headers: Mapping[str, str]) -> Numbered:
    """The events of the example say which they are in words."""
    found = re.search(rb"event-(\d+)-payload", body)
    return headers["keylane-user"], int(found[1]) if found else 1


async def post(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> list[str]:
    """Post to ingest, see it accepted, return the events' ids."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/events", data=body, headers=sent) as answer,
    ):
        assert answer.status == 202, await answer.text()
        return [event["id"] for event in (await answer.json())["events"]]


async def test_five_events_reach_a_file_and_a_webhook_in_each_users_order(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage = await make_stage("audit", "crm")
    webhook = await stage.receive(VerifyingReceiver(read=read_named, keeps_requests=True))
    ingest = await stage.ingest()
    await stage.dispatch("crm", webhook.url)
    await stage.dispatch("audit", "file:audit.jsonl")

    ids = await post(ingest.url, FIVE_EVENTS)

    await webhook.delivers(5)
    assert webhook.book.verdict().flags == ()
    assert {u: [a.n for a in webhook.book.of(u)] for u in IN_ORDER} == IN_ORDER
    assert {a.body for a in webhook.book.attempts} == {b'"event-1-payload"', b'"event-2-payload"'}
    assert {a.headers["ce-id"] for a in webhook.book.attempts} == set(ids)

    audit = tmp_path / "audit.jsonl"
    await until(lambda: len(audit.read_bytes().splitlines()) == 5)
    lines = [orjson.loads(line) for line in audit.read_bytes().splitlines()]
    in_file = {u: [line["payload"] for line in lines if line["user"] == u] for u in IN_ORDER}
    assert in_file == {u: [f"event-{n}-payload" for n in ns] for u, ns in IN_ORDER.items()}
    assert {line["id"] for line in lines} == set(ids)
    fields = {"id", "user", "payload", "attempt", "position", "delivered_at"}
    assert all(line.keys() == fields and line["attempt"] == 1 for line in lines)


async def test_a_webhook_gets_the_payload_byte_for_byte_and_every_header(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage = await make_stage("crm", partitions=1)
    webhook = await stage.receive(
        VerifyingReceiver(fail_heads(1), read=read_named, keeps_requests=True)
    )
    ingest = await stage.ingest()
    (tmp_path / "keylane.toml").write_text(
        f'[destinations.crm]\nto = "{webhook.url}"\nsecret = "{SECRET}"\n'
    )
    worker = stage.run("dispatch", "crm", "--backoff-min", "0.1")
    await worker.ready()

    body = (
        '[{"UserID":"zoë 1/%","ID":"order 7","Type":"order.paid","Source":"/shop",'
        '"Time":"2026-01-31T12:00:00Z","Payload":'.encode()
        + ODD_PAYLOAD
        + b"}]"
    )
    assert await post(ingest.url, body, {"traceparent": TRACE}) == ["order 7"]

    await webhook.delivers(1)
    first, second = webhook.book.attempts
    check_headers(first)
    check_headers(second)
    assert (first.number, second.number) == (1, 2)
    assert first.position == second.position


def check_headers(attempt: Attempt) -> None:
    assert attempt.body == ODD_PAYLOAD
    expected = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "order%207",
        "ce-source": "/shop",
        "ce-type": "order.paid",
        "ce-time": "2026-01-31T12:00:00Z",
        "webhook-id": "order%207",
        "keylane-user": "zo%C3%AB%201%2F%25",
        "keylane-attempt": str(attempt.seen),
        "traceparent": TRACE,
    }
    headers = attempt.headers
    assert expected.items() <= {k.lower(): v for k, v in headers.items()}.items()
    assert re.fullmatch(r"0:\d+:\d+", headers["keylane-position"])
    assert abs(int(headers["webhook-timestamp"]) - attempt.wall_s) < 5
    Webhook(SECRET).verify(attempt.body, dict(headers))
