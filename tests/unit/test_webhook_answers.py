"""The table of answers, row by row, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.destinations.http.answers import Table, header
from dispatch.destinations.http.port import Answer, NoAnswer, Trouble
from dispatch.destinations.http.retryafter import MAX_WISH_S, retry_after_s
from dispatch.destinations.webhook import WebhookDestination
from dispatch.outcome import Delivered, Disabled, Forbidden, Outcome, Refused, Unavailable
from keylane.destinationsettings import HttpSettings
from keylane.errors import ConfigurationError
from tests.messages import make_delivery
from tests.rawreceiver import Answers, Request, answer_of, receiving

DISABLE = {"Webhook_Delivery": "disable"}
ABORT = {"webhook_delivery": "Abort-Message"}


async def outcome_of(answer: bytes | Answers, timeout_s: float = 5.0, **http: Any) -> Outcome:
    async with receiving(answer) as receiver:
        destination = WebhookDestination(
            receiver.url, timeout_s=timeout_s, concurrency=1, http=HttpSettings(**http)
        )
        try:
            return await destination.attempt(make_delivery())
        finally:
            await destination.close()


@pytest.mark.parametrize("status", [200, 202, 204, 299])
@pytest.mark.parametrize("said", [{}, DISABLE, ABORT])
async def test_a_2xx_is_delivered_whatever_else_is_said(status: int, said: dict[str, str]) -> None:
    assert await outcome_of(answer_of(status, **said)) == Delivered(status)


@pytest.mark.parametrize(
    ("status", "is_down", "may_be_down", "is_overload"),
    [
        (408, False, False, False),
        (425, False, False, False),
        (429, False, False, True),
        (500, False, True, False),
        (502, False, True, False),
        (503, False, True, True),
        (504, False, True, False),
        (599, False, True, False),
        (999, False, True, False),
    ],
)
async def test_what_may_change_is_tried_again(
    status: int, is_down: bool, may_be_down: bool, is_overload: bool
) -> None:
    assert await outcome_of(answer_of(status, b"later")) == Unavailable(
        f"answered {status}: later",
        status,
        is_down=is_down,
        may_be_down=may_be_down,
        is_overload=is_overload,
        answer="later",
    )


@pytest.mark.parametrize("status", [300, 301, 304, 307, 308, 400, 401, 404, 407, 413, 422, 451])
async def test_what_will_not_change_is_refused(status: int) -> None:
    answer = answer_of(status) if status == 304 else answer_of(status, b"no")
    outcome = await outcome_of(
        answer,
    )
    assert isinstance(outcome, Refused)
    assert outcome.status == status


async def test_gone_disables_the_destination() -> None:
    assert await outcome_of(answer_of(410, b"bye")) == Disabled("answered 410: bye", 410, "bye")


@pytest.mark.parametrize("status", [301, 400, 410, 429, 500])
async def test_an_answer_can_disable_the_destination_or_abort_the_message(status: int) -> None:
    assert await outcome_of(answer_of(status, **DISABLE)) == Disabled(f"answered {status}", status)
    assert await outcome_of(answer_of(status, **ABORT)) == Refused(f"answered {status}", status)


@pytest.mark.parametrize("status", [301, 404, 410])
async def test_settings_let_a_status_be_tried_again(status: int) -> None:
    assert await outcome_of(answer_of(status), retry=(status,)) == Unavailable(
        f"answered {status}", status
    )


@pytest.mark.parametrize("status", [408, 410, 429, 500, 503])
async def test_settings_let_a_status_be_refused(status: int) -> None:
    assert await outcome_of(answer_of(status), reject=(status,)) == Refused(
        f"answered {status}", status
    )


async def test_an_answer_s_own_word_counts_more_than_settings() -> None:
    assert isinstance(await outcome_of(answer_of(404, **DISABLE), retry=(404,)), Disabled)


def test_a_status_can_not_be_both_retried_and_rejected() -> None:
    with pytest.raises(ConfigurationError, match="status 404"):
        Table(retry=(404,), reject=(404,))


async def test_no_answer_in_time_may_be_down_and_is_overload() -> None:
    async def hang(_request: Request, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    for outcome, reason in (
        (await outcome_of(hang, timeout_s=0.05), "no answer within the timeout"),
        (await outcome_of(hang, read_timeout_s=0.05), "nothing heard for 0.05 s"),
    ):
        assert outcome == Unavailable(reason, may_be_down=True, is_overload=True)


async def test_half_an_answer_is_worth_a_retry_whatever_its_status() -> None:
    async def stop(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        writer.close()

    outcome = await outcome_of(stop)
    assert isinstance(outcome, Unavailable)
    assert (outcome.is_down, outcome.may_be_down, outcome.is_overload) == (False, True, False)


@pytest.mark.parametrize("trouble", [Trouble.CONNECTION, Trouble.NAME, Trouble.TLS])
def test_no_connection_counts_as_down(trouble: Trouble) -> None:
    assert Table().outcome(NoAnswer(trouble, "why")) == Unavailable("why", is_down=True)


def test_a_guarded_address_is_forbidden() -> None:
    assert Table().outcome(NoAnswer(Trouble.FORBIDDEN, "why")) == Forbidden("why")


# What was said


@pytest.mark.parametrize("status", [404, 410, 500])
async def test_of_a_long_answer_the_reason_has_little_and_the_answer_16_kib(status: int) -> None:
    outcome = await outcome_of(answer_of(status, b"x" * 21_000))
    assert isinstance(outcome, Refused | Disabled | Unavailable)
    assert outcome.reason.startswith(f"answered {status}: xxx")
    assert len(outcome.reason) == 200
    assert outcome.answer == "x" * 16_384


async def test_what_is_no_text_is_made_text() -> None:
    outcome = await outcome_of(answer_of(400, b"caf\xc3\xa9 \xff\xfe"))
    assert outcome == Refused("answered 400: café ��", 400, "café ��")


async def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    outcome = await outcome_of(answer_of(500, bomb, content_encoding="gzip"))
    assert isinstance(outcome, Unavailable)
    assert len(outcome.answer) <= 16_384


# Retry-After


async def wish(value: str, status: int = 429) -> float | None:
    outcome = await outcome_of(answer_of(status, Retry_After=value))
    assert isinstance(outcome, Unavailable)
    return outcome.retry_after_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        (" 7 ", 7),
        ("120.1", None),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1e3", None),
        ("٣", None),
        ("315360000", 315_360_000),
        ("9" * 400, MAX_WISH_S),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WISH_S),
        ("Fri, 99 Dec 9999 99:59:59 GMT", None),
    ],
)
def test_a_wish_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120), ("120.1", None), ("315360000", 315_360_000)]
)
@pytest.mark.parametrize("status", [408, 429, 503])
async def test_a_wish_comes_with_the_outcome(
    value: str, seconds: float | None, status: int
) -> None:
    assert await wish(value, status) == seconds


@pytest.mark.parametrize(("in_s", "seconds"), [(90, 90), (-90, 0)])
async def test_a_date_is_as_far_away_as_it_is(in_s: int, seconds: int) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=in_s)
    assert await wish(format_datetime(moment, usegmt=True)) == pytest.approx(seconds, abs=2)


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} -?\d+ \d+:\d+:\d+ [A-Z]*"))
def test_whatever_is_wished_for_is_a_time_or_nothing(value: str) -> None:
    wished = retry_after_s(value)
    assert wished is None or 0 <= wished <= MAX_WISH_S


def test_only_the_final_head_counts_and_of_it_the_first_value() -> None:
    head = [
        b"HTTP/1.1 103 Early\r\n",
        b"retry-after: 1\r\n",
        b"\r\n",
        b"HTTP/1.1 503 X\r\n",
        b"Retry-After:  2 \r\n",
        b"retry-after: 3\r\n",
        b"\r\n",
    ]
    assert header(head, b"retry-after") == "2"
    assert header(head[:3] + head[3:4], b"retry-after") is None
    assert isinstance(Table().outcome(Answer(503, head, b"")), Unavailable)
