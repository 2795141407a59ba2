"""The judge, the ledger and the receiver turn red: each flag once, on what it is for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from tests.judge import Attempt, Book, Verdict, Wrong
from tests.ledger import Ledger, sequence
from tests.verifying import (
    HOST,
    Answer,
    Manner,
    Plan,
    VerifyingReceiver,
    fail_heads,
    fail_share,
    fail_user,
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Story:
    """Attempts as they happen, a second apart."""

    def __init__(self) -> None:
        self.book = Book()
        self._clock = itertools.count(1)

    def start(self, n: int, user: str = "u", position: str = "") -> Attempt:
        at = float(next(self._clock))
        attempt = Attempt(user, n, position=position or f"0:1:{n}", started_at=at, wall_s=at)
        self.book.start(attempt)
        return attempt

    def end(self, attempt: Attempt, status: int = 200) -> None:
        self.book.end(attempt, float(next(self._clock)), status)

    def deliver(self, *numbers: int, user: str = "u") -> None:
        for n in numbers:
            self.end(self.start(n, user))

    def fail(self, n: int, user: str = "u") -> None:
        self.end(self.start(n, user), 500)


def told(verdict: Verdict) -> list[tuple[Wrong, int]]:
    return [(flag.wrong, flag.n) for flag in verdict.flags]


@pytest.fixture
def story() -> Story:
    return Story()


def test_what_is_in_order_has_no_flag(story: Story) -> None:
    story.deliver(1)
    story.fail(2)
    story.deliver(1, user="other")
    story.fail(2)
    story.deliver(2, 3)

    assert told(story.book.verdict()) == []


def test_an_attempt_before_an_earlier_event_is_done_is_an_inversion(story: Story) -> None:
    story.fail(1)
    story.deliver(2, 1)

    (flag,) = story.book.verdict().flags
    assert (flag.wrong, flag.n, flag.missing) == (Wrong.INVERSION, 2, 1)


def test_an_attempt_while_the_earlier_one_runs_is_an_inversion_and_an_overlap(
    story: Story,
) -> None:
    first = story.start(1)
    second = story.start(2)
    story.end(first)
    story.end(second)

    assert told(story.book.verdict()) == [(Wrong.INVERSION, 2), (Wrong.OVERLAP, 2)]


def test_two_attempts_of_one_event_at_once_are_an_overlap(story: Story) -> None:
    first, second = story.start(1), story.start(1)
    story.end(first, 500)
    story.end(second)

    assert told(story.book.verdict()) == [(Wrong.OVERLAP, 1)]


def test_two_users_at_once_are_no_overlap(story: Story) -> None:
    first, second = story.start(1, "u"), story.start(1, "v")
    story.end(first)
    story.end(second)

    assert told(story.book.verdict()) == []


def test_what_was_delivered_and_comes_again_is_a_duplicate(story: Story) -> None:
    story.deliver(1, 2, 1)

    assert told(story.book.verdict()) == [(Wrong.DUPLICATE, 1)]


def test_what_its_sender_stored_twice_is_no_duplicate(story: Story) -> None:
    story.deliver(1)
    story.end(story.start(1, position="0:1:99"))

    verdict = story.book.verdict()
    assert told(verdict) == []
    assert verdict.resent == 1


def test_what_never_came_though_later_ones_did_is_a_gap(story: Story) -> None:
    story.deliver(1, 2, 4)

    assert told(story.book.verdict()) == [(Wrong.INVERSION, 4), (Wrong.GAP, 3)]


def test_a_dead_letter_lets_the_next_one_go_from_its_moment_on(story: Story) -> None:
    story.fail(1)  # at 1 and 2
    story.deliver(2)  # at 3

    assert told(story.book.verdict({("u", 1): 2.5})) == []
    assert told(story.book.verdict({("u", 1): 3.5})) == [(Wrong.INVERSION, 2)]


def test_the_twin_of_a_dead_letter_that_its_sender_stored_twice_is_no_duplicate(
    story: Story,
) -> None:
    story.end(story.start(1, position="0:1:1"), 500)
    dead_at = {("u", 1): 2.5}
    for _ in range(3):
        story.end(story.start(1, position="0:1:7"), 500)
    verdict = story.book.verdict(dead_at)
    assert told(verdict) == []
    assert verdict.resent == 3

    story.end(story.start(1, position="0:1:1"), 500)
    assert told(story.book.verdict(dead_at)) == [(Wrong.DUPLICATE, 1)]


def test_what_was_dead_lettered_and_comes_again_is_a_duplicate(story: Story) -> None:
    story.fail(1)
    story.deliver(1)

    assert told(story.book.verdict({("u", 1): 2.5})) == [(Wrong.DUPLICATE, 1)]


def test_a_disturbance_explains_the_overlap_and_the_duplicate_of_what_it_cut_off(
    story: Story,
) -> None:
    cut = story.start(1)  # at 1
    again = story.start(1)
    story.end(cut)  # at 3
    story.end(again)
    verdict = story.book.verdict()
    assert told(verdict) == [(Wrong.OVERLAP, 1)]

    assert verdict.unexplained([1.5]) == []
    assert verdict.unexplained([0.8]) == []
    assert verdict.unexplained([3.2], within_s=0.5) == []
    assert len(verdict.unexplained([0.5])) == 1
    assert len(verdict.unexplained([3.6], within_s=0.5)) == 1


def test_nothing_explains_an_inversion_or_a_gap(story: Story) -> None:
    story.deliver(1, 3)

    assert len(story.book.verdict().unexplained([1.0, 2.0, 3.0], within_s=100)) == 2


def test_a_stall_is_the_longest_time_between_two_attempts_of_a_user(story: Story) -> None:
    story.deliver(1, 2)
    story.deliver(1, 2, 3, user="v")
    story.deliver(3)

    assert story.book.longest_stall_s() == (8.0, "u")


def test_spacings_run_from_the_end_of_an_attempt_to_the_next(story: Story) -> None:
    story.fail(1)
    story.deliver(7, user="v")
    story.fail(1)
    story.deliver(1)

    assert story.book.spacings_s("u", 1) == [3.0, 1.0]


def test_the_ledger_names_what_was_promised_and_is_nowhere() -> None:
    ledger = Ledger("", promised={("u", 1), ("u", 2), ("v", 1)})

    assert ledger.lost({("u", 1)}, {("v", 1)}) == [("u", 2)]
    assert ledger.lost({("u", 1), ("u", 2)}, {("v", 1)}) == []


@pytest.fixture
async def refusing_ingest() -> AsyncIterator[str]:
    """Answers 503 once with one event stored, then accepts."""
    posts: list[list[object]] = []

    async def take(request: web.BaseRequest) -> web.Response:
        posts.append(await request.json())
        if len(posts) > 1:
            return web.json_response({"accepted": len(posts[-1])}, status=202)
        fates = [{"index": 0, "status": "confirmed"}, {"index": 1, "status": "unknown"}]
        return web.json_response({"events": fates}, status=503)

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    yield f"http://{HOST}:{runner.addresses[0][1]}"
    await runner.cleanup()
    assert [len(events) for events in posts] == [3, 2]


async def test_the_ledger_sends_again_what_was_not_confirmed(refusing_ingest: str) -> None:
    ledger = Ledger(refusing_ingest)
    events = sequence(["u"], 3)

    await ledger.post(events)

    assert ledger.promised == set(events)
    assert ledger.refusals == [503]


async def send(url: str, user: str, n: int, attempt: int = 1) -> int:
    """Deliver as a worker does; 0 for a connection that broke or brought no answer."""
    headers = {"keylane-attempt": str(attempt), "keylane-position": f"0:1:{n}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as http:
        try:
            async with http.post(url, json={"user": user, "n": n}, headers=headers) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0


async def test_a_receiver_notes_what_it_was_sent_and_flags_what_is_wrong() -> None:
    async with VerifyingReceiver(keeps_requests=True).serving() as receiver:
        for n in (1, 3, 2, 2):
            assert await send(receiver.url, "u", n) == 200

    assert told(receiver.book.verdict()) == [(Wrong.INVERSION, 3), (Wrong.DUPLICATE, 2)]
    first = receiver.book.attempts[0]
    assert (first.user, first.n, first.number, first.seen) == ("u", 1, 1, 1)
    assert first.position == "0:1:1"
    assert first.body == b'{"user": "u", "n": 1}'


async def test_a_receiver_sees_two_requests_of_one_user_at_once() -> None:
    async with VerifyingReceiver(lambda _: Answer(delay_s=0.05)).serving() as receiver:
        await asyncio.gather(send(receiver.url, "u", 1), send(receiver.url, "u", 1))

    assert told(receiver.book.verdict()) == [(Wrong.OVERLAP, 1)]


@pytest.mark.parametrize(
    ("plan", "statuses"),
    [
        (fail_user("u"), [500, 500, 500]),
        (fail_user("v"), [200, 200, 200]),
        (fail_heads(2), [500, 500, 200]),
        (fail_heads(2, every=2), [200, 200, 200]),
        (lambda _: Answer(manner=Manner.RESET), [0, 0, 0]),
        (lambda _: Answer(manner=Manner.HANG), [0, 0, 0]),
        (lambda a: Answer(429 if a.seen == 2 else 204), [204, 429, 204]),
    ],
)
async def test_a_receiver_answers_as_it_is_told(plan: Plan, statuses: list[int]) -> None:
    async with VerifyingReceiver(plan).serving() as receiver:
        assert [await send(receiver.url, "u", 1) for _ in statuses] == statuses

    assert [attempt.status for attempt in receiver.book.attempts] == statuses


async def test_a_request_nobody_can_read_fails_the_test() -> None:
    async def receive() -> None:
        async with VerifyingReceiver().serving() as receiver, aiohttp.ClientSession() as http:
            await http.post(receiver.url, data=b"?")

    with pytest.raises(AssertionError, match="JSONDecodeError"):
        await receive()


def test_a_share_of_attempts_fails_whatever_their_order() -> None:
    plan = fail_share(0.1, seed=7)
    attempts = [Attempt(f"user-{i}", n) for i in range(100) for n in range(20)]

    there = [plan(attempt).status for attempt in attempts]
    back = [plan(attempt).status for attempt in reversed(attempts)]

    assert there == back[::-1]
    assert 150 < there.count(500) < 250
