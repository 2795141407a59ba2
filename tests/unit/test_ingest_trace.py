from __future__ import annotations

import re

import pytest

from ingest.trace import trace_of

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_that_the_sender_began_goes_on() -> None:
    trace = trace_of({b"traceparent": PARENT, b"tracestate": b"vendor=1"})

    assert trace.extensions["traceparent"] == PARENT.decode()
    assert trace.extensions["tracestate"] == "vendor=1"
    assert (b"traceparent", PARENT) in trace.headers
    assert trace.facts["trace"] == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"nonsense",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
        b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        PARENT.upper(),
    ],
)
def test_a_trace_that_is_none_is_made_anew_and_not_sampled(parent: bytes) -> None:
    trace = trace_of({b"traceparent": parent, b"tracestate": b"vendor=1"})

    made = trace.extensions["traceparent"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", made)
    assert made != parent.decode()
    assert "tracestate" not in trace.extensions


def test_two_requests_never_share_what_is_made() -> None:
    one, other = trace_of({}), trace_of({})

    assert one.facts["trace"] != other.facts["trace"]
    assert one.facts["correlation"] != other.facts["correlation"]


def test_a_correlation_id_is_taken_or_made() -> None:
    assert trace_of({b"x-correlation-id": b"order-7"}).facts["correlation"] == "order-7"
    assert trace_of({b"x-correlation-id": b"two words"}).facts["correlation"] != "two words"
    assert len(trace_of({b"x-correlation-id": b"x" * 129}).facts["correlation"]) == 32


def test_a_request_id_comes_back() -> None:
    assert (b"x-request-id", b"r-1") in trace_of({b"x-request-id": b"r-1"}).headers
    assert b"x-request-id" not in dict(trace_of({}).headers)
