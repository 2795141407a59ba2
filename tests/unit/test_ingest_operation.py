from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import structlog

from ingest import problems
from keylane.broker import Receipt
from keylane.errors import BrokerUnavailable, KeylaneError, PublishUnconfirmed
from tests.fakes import FakePublisher, answers, position
from tests.ingestclient import (
    ONE,
    metric,
    post,
    refusal,
    served,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


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


async def test_without_a_broker_events_are_refused_and_readiness_says_so(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.connected = False

    status, kind, problem = await refusal(client, ONE)
    async with client.get("/readyz") as response:
        readiness = response.status, await response.json()
    async with client.get("/healthz") as response:
        health = response.status, await response.json()

    assert (status, kind) == (503, "broker-unavailable")
    assert "events" not in problem
    assert readiness == (503, {"ready": False, "reasons": ["broker-unavailable"]})
    assert health[0] == 200
    assert health[1]["status"] == "alive"
    assert health[1]["version"]
    assert publisher.sent == []


async def test_a_fault_of_ours_is_a_500_that_tells_nothing(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    def broken(_: int) -> Receipt:
        raise ZeroDivisionError("inside")

    publisher.answer = broken
    with structlog.testing.capture_logs() as lines:
        status, kind, problem = await refusal(client, ONE)

    assert (status, kind) == (500, "internal")
    assert "inside" not in json.dumps(problem)
    assert [line["event"] for line in lines] == ["request.failed", "request.refused"]


def test_an_error_without_an_answer_of_its_own_tells_nothing() -> None:
    kind, problem = problems.problem_of(KeylaneError("inside"))

    assert kind.status == 500
    assert "inside" not in problem.detail


def test_what_the_broker_s_client_says_is_not_passed_on() -> None:
    kind, problem = problems.problem_of(BrokerUnavailable("at pulsar://10.0.0.7:6650"))

    assert kind.status == 503
    assert "10.0.0.7" not in problem.detail


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("POST", "/events/", 404, "not-found"),
        ("GET", "/events", 405, "method-not-allowed"),
        ("POST", "/healthz", 405, "method-not-allowed"),
    ],
)
async def test_other_ways_are_problems_too(
    client: aiohttp.ClientSession, method: str, path: str, status: int, kind: str
) -> None:
    async with client.request(method, path) as response:
        problem = await response.json(content_type="application/problem+json")

    assert response.status == problem["status"] == status
    assert problem["type"] == f"urn:keylane:problem:{kind}"
    assert ("Allow" in response.headers) == (status == 405)


async def test_the_trace_context_is_handed_on(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    await post(client, ONE, {"traceparent": TRACE, "tracestate": "a=1"})
    await post(client, ONE, {"traceparent": "nonsense", "tracestate": "a=1"})

    given, made = (m.properties for m in publisher.sent)
    assert (given["traceparent"], given["tracestate"]) == (TRACE, "a=1")
    assert made["traceparent"].endswith("-00")
    assert "tracestate" not in made


async def test_a_request_can_be_found_by_its_correlation_id_everywhere(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    with structlog.testing.capture_logs() as lines:
        _, _, answered = await post(client, ONE, {"X-Correlation-Id": "order-7"})
        _, _, made = await post(client, b"{")

    assert answered["X-Correlation-Id"] == "order-7"
    assert publisher.sent[0].properties["ce_correlationid"] == "order-7"
    assert {line["correlation"] for line in lines} == {"order-7", made["X-Correlation-Id"]}
    assert answered["traceparent"] == publisher.sent[0].properties["traceparent"]


async def test_a_request_id_is_sent_back(client: aiohttp.ClientSession) -> None:
    _, _, accepted = await post(client, ONE, {"X-Request-Id": "r-1"})
    _, _, refused = await post(client, b"{", {"X-Request-Id": "r-2"})
    _, _, unfit = await post(client, ONE, {"X-Request-Id": "r" * 129})

    assert (accepted["X-Request-Id"], refused["X-Request-Id"]) == ("r-1", "r-2")
    assert "X-Request-Id" not in unfit


async def test_the_metrics_count_what_happened(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    await post(client, json.loads(ONE) * 3)
    await post(client, b"{")

    assert await metric(client, 'keylane_ingest_requests_total{status="202"}') == 1
    assert await metric(client, 'keylane_ingest_requests_total{status="400"}') == 1
    assert await metric(client, "keylane_ingest_accepted_events_total") == 3
    assert await metric(client, "keylane_ingest_publish_duration_seconds_count") == 1
    refused = 'keylane_ingest_refused_requests_total{reason="%s"}'
    assert await metric(client, refused % "malformed-body") == 1
    assert await metric(client, refused % "invalid-events") == 0
    assert await metric(client, "process_resident_memory_bytes") > 0
    async with client.get("/metrics") as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain")
    assert 'keylane_build_info{version="' in text


async def test_a_refusal_is_one_log_line_with_its_instance(client: aiohttp.ClientSession) -> None:
    with structlog.testing.capture_logs() as lines:
        _, _, problem = await refusal(client, [{"UserID": "u"}])

    [line] = lines
    assert (line["event"], line["log_level"]) == ("request.refused", "info")
    assert (line["status"], line["reason"]) == (422, "invalid-events")
    assert (line["errors"], line["client"]) == (1, "127.0.0.1")
    assert line["instance"] == problem["instance"]


async def test_a_flood_of_refusals_for_the_same_lack_is_one_log_line(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    publisher.connected = False

    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            await post(client, ONE)

    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("request.refused", "warning")
    ]


async def test_an_accepted_event_is_logged_with_its_id_and_user(
    client: aiohttp.ClientSession,
) -> None:
    with structlog.testing.capture_logs() as lines:
        await post(client, b'{"UserID":"u","Payload":1,"ID":"i"}')

    accepted, request = lines
    assert {"event": "event.accepted", "id": "i", "user": "u"}.items() <= accepted.items()
    assert accepted["log_level"] == "debug"
    assert {"event": "request.accepted", "status": 202, "events": 1}.items() <= request.items()
    assert {"path", "bytes", "ms", "client", "key", "trace", "correlation"} <= request.keys()


async def test_the_documentation_names_every_answer_and_its_references_resolve(
    client: aiohttp.ClientSession,
) -> None:
    async with client.get("/openapi.json") as response:
        document = await response.json()
    async with client.get("/docs") as response:
        assert response.status == 200

    operations = {
        f"{method.upper()} {path}": sorted(operation["responses"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    statuses = [
        "202",
        "400",
        "401",
        "403",
        "408",
        "409",
        "413",
        "415",
        "422",
        "429",
        "431",
        "500",
        "503",
    ]
    assert operations == {
        "POST /events": statuses,
        "POST /notify": statuses,
        "GET /healthz": ["200"],
        "GET /readyz": ["200", "503"],
        "GET /metrics": ["200"],
    }
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert schemas["SentEvent"]["required"] == ["UserID", "Payload"]
    assert set(schemas["SentEvent"]["properties"]) == {
        "UserID",
        "Payload",
        "ID",
        "Type",
        "Source",
        "Time",
    }


async def test_the_documented_examples_are_true(
    client: aiohttp.ClientSession, publisher: FakePublisher
) -> None:
    async with client.get("/openapi.json") as response:
        document = await response.json()
    post_events = document["paths"]["/events"]["post"]
    examples = post_events["requestBody"]["content"]["application/json"]["examples"]

    for example in examples.values():
        assert (await post(client, example["value"]))[0] == 202
    _, accepted, _ = await post(client, ONE)
    publisher.answer = answers(*[position(0)] * 10, PublishUnconfirmed())
    _, problem, _ = await post(client, b"[]")
    responses = post_events["responses"]
    documented = responses["202"]["content"]["application/json"]["example"]
    assert _shape(documented) == _shape(accepted)
    for status, answer in responses.items():
        if status != "202":
            example = answer["content"]["application/problem+json"]["example"]
            assert example["status"] == int(status)
            assert set(problem) - {"errors"} <= set(example)
            assert f"`{example['type']}` | {status}" in document["info"]["description"]


def _shape(answer: dict[str, Any]) -> tuple[set[str], set[str]]:
    return set(answer), set(answer["events"][0])


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [r for value in node.values() for r in _references(value)]
    if isinstance(node, list):
        return [r for value in node for r in _references(value)]
    return []
