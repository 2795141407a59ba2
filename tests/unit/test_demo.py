from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError, MissingPiece
from keylane.ingestsettings import IngestSettings
from keylane.settings import (
    DispatchSettings,
    PulsarSettings,
    Settings,
)
from operate import localbroker, receiver, running
from operate.broker.local import LocalBrokerOptions
from operate.broker.ports import FREE_PORTS, is_free
from operate.child import fate
from operate.demo import EVENTS, EXPECTED, FAILING_USER, FILE, FIRST, UNLUCKY_USER, WEBHOOK
from operate.interrupt import Interrupt, Interrupted, run, sigterm_is_ctrl_c
from operate.receiver import Arrival, _arrival
from operate.report import Report
from operate.running import Plan, ProcessStack
from operate.together import all_of, first_of
from operate.verdict import Attempt, DeadLetter, Evidence, Sent, is_in_order
from tests.waiting import until

FAILED, TAKEN = False, True
GIVEN_UP = DeadLetter("d", "max-attempts", 3, "answered 500")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("attempts", "dead", "expected"),
    [
        ([("a", TAKEN), ("b", TAKEN)], [], True),
        ([("a", FAILED), ("a", TAKEN), ("b", TAKEN)], [], True),
        ([("a", FAILED), ("a", FAILED), ("b", TAKEN)], ["a"], True),
        ([("b", TAKEN), ("a", TAKEN)], [], False),
        ([("a", FAILED), ("b", TAKEN), ("a", TAKEN)], [], False),
        ([("a", FAILED), ("b", TAKEN), ("a", FAILED)], ["a"], False),
        ([("a", FAILED), ("b", TAKEN)], [], False),
        ([("b", TAKEN)], ["a"], False),
        ([("a", TAKEN)], [], False),
        ([("a", TAKEN), ("b", FAILED)], [], False),
        ([("a", TAKEN), ("a", TAKEN), ("b", TAKEN)], [], False),
        ([("a", TAKEN), ("b", TAKEN), ("a", TAKEN)], [], False),
        ([], [], False),
    ],
)
def test_a_user_is_in_order_only_if_each_event_was_settled_before_the_next_was_tried(
    attempts: list[tuple[str, bool]], dead: list[str], expected: bool
) -> None:
    seen = [Attempt(event, "user-1", is_taken) for event, is_taken in attempts]

    assert is_in_order(["a", "b"], seen, dead) is expected


def test_a_row_names_what_was_delivered_retried_and_dead_lettered() -> None:
    sent = [Sent("d", "user-1", "first"), Sent("e", "user-1", "second")]
    attempts = [Attempt("d", "user-1", FAILED)] * 3 + [Attempt("e", "user-1", TAKEN)]

    (row,) = Evidence(WEBHOOK, attempts, [GIVEN_UP]).rows(sent)

    assert row.delivered == ["second"]
    assert row.retried == 2
    assert row.dead_lettered == ["first: max-attempts (3 attempts, answered 500)"]
    assert row.in_order


def test_an_event_is_unsettled_until_it_is_delivered_or_dead_lettered() -> None:
    sent = [Sent(event, "user-1", event) for event in "abd"]
    attempts = [Attempt("a", "user-1", TAKEN), Attempt("b", "user-1", FAILED)]

    assert Evidence(FILE, attempts, [GIVEN_UP]).unsettled(sent) == [sent[1]]


def accepted() -> list[Sent]:
    return [Sent(f"{user} {payload}", user, payload) for user, payload in EVENTS]


def as_promised() -> list[Evidence]:
    """What the demo has to bring about."""
    failing = f"{FAILING_USER} {FIRST}"
    at_webhook = []
    for sent in accepted():
        failures = {failing: 3, f"{UNLUCKY_USER} {FIRST}": 1}.get(sent.id, 0)
        at_webhook += [Attempt(sent.id, sent.user, FAILED)] * failures
        if sent.id != failing:
            at_webhook.append(Attempt(sent.id, sent.user, TAKEN))
    at_file = [Attempt(sent.id, sent.user, TAKEN) for sent in accepted()]
    dead = DeadLetter(failing, "max-attempts", 3, "answered 500")
    return [Evidence(FILE, at_file, []), Evidence(WEBHOOK, at_webhook, [dead])]


def report(evidence: list[Evidence], unacknowledged: int = 0) -> Report:
    return Report.of("pulsar", accepted(), evidence, unacknowledged, EXPECTED, 1.23)


def test_the_demo_sends_the_five_events_of_its_three_users_in_their_order() -> None:
    assert EVENTS[:5] == (
        ("user-1", "event-1-payload"),
        ("user-2", "event-1-payload"),
        ("user-1", "event-2-payload"),
        ("user-3", "event-1-payload"),
        ("user-2", "event-2-payload"),
    )


def test_a_run_as_promised_misses_nothing() -> None:
    assert report(as_promised()).missing == []


Spoil = Callable[[list[Attempt]], list[Attempt]]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda seen: seen[1:], "user-1's event-1-payload at webhook was delivered 0 times"),
        (
            lambda seen: [*seen, seen[0]],
            "user-1's event-1-payload at webhook was delivered 2 times",
        ),
        (lambda seen: seen[::-1], "user-1's events came to webhook out of order"),
        (
            lambda seen: [a for a in seen if a.is_taken],
            "user-4's event-1-payload at webhook took 0 attempts",
        ),
    ],
)
def test_each_way_to_break_a_promise_is_told(spoil: Spoil, sentence: str) -> None:
    at_file, at_webhook = as_promised()
    spoiled = Evidence(WEBHOOK, spoil(list(at_webhook.attempts)), at_webhook.dead_letters)

    assert sentence in report([at_file, spoiled]).missing


def test_a_missing_dead_letter_one_too_many_and_what_is_unacknowledged_are_told() -> None:
    at_file, at_webhook = as_promised()
    lost = Evidence(WEBHOOK, at_webhook.attempts, [])
    dead = DeadLetter("user-1 event-1-payload", "max-age", 1, "")
    extra = Evidence(FILE, at_file.attempts, [dead])

    missing = report([extra, lost], unacknowledged=2).missing

    assert (
        "user-4's event-1-payload at webhook is dead-lettered for None, expected is max-attempts"
    ) in missing
    assert (
        "user-1's event-1-payload at file is dead-lettered for max-age, expected is None"
    ) in missing
    assert "2 events are unacknowledged at the broker" in missing


def test_the_table_has_a_row_for_each_user_and_destination(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(as_promised()).print(as_json=False)

    lines = capsys.readouterr().out.splitlines()
    why_dead = "max-attempts (3 attempts, answered 500)"
    rows = [" ".join(line.split()) for line in lines if line.strip().startswith("user-")]
    assert rows == [
        "user-1 file event-1-payload, event-2-payload yes",
        "user-1 webhook event-1-payload, event-2-payload yes",
        "user-2 file event-1-payload, event-2-payload yes",
        "user-2 webhook event-1-payload, event-2-payload yes",
        "user-3 file event-1-payload yes",
        "user-3 webhook event-1-payload yes",
        "user-4 file event-1-payload, event-2-payload yes",
        f"user-4 webhook event-2-payload 2 event-1-payload: {why_dead} yes",
        "user-5 file event-1-payload, event-2-payload yes",
        "user-5 webhook event-1-payload, event-2-payload 1 yes",
    ]


def test_a_broken_promise_shows_in_the_table_and_in_the_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_file, at_webhook = as_promised()
    broken = report(
        [at_file, Evidence(WEBHOOK, at_webhook.attempts[::-1], at_webhook.dead_letters)]
    )

    broken.print(as_json=False)
    assert "NO" in capsys.readouterr().out

    broken.print(as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["missing"]


# What both commands share


def planned(**dispatch: Any) -> Plan:
    return Plan.of(
        Settings(
            ingest=IngestSettings(port=0),
            dispatch=DispatchSettings(**dispatch),
            pulsar=PulsarSettings(token="s3cret"),
            destinations={name: DestinationSettings(to=f"file:{name}") for name in ("one", "two")},
        )
    )


def test_every_worker_of_a_plan_has_a_free_port_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lowest(wanted: int, option: str, *, taken: frozenset[int] = frozenset()) -> int:
        return next(port for port in FREE_PORTS if port not in taken and is_free(port))

    monkeypatch.setattr(running, "choose_port", lowest)
    plan = planned(workers=3)

    urls = [plan.ingest_url, *plan.admin_urls("one"), *plan.admin_urls("two")]
    ports = {int(url.rpartition(":")[2]) for url in urls}
    assert len(ports) == 7
    assert all(map(is_free, ports))


def test_the_processes_read_the_settings_from_a_file_that_nobody_else_can(tmp_path: Path) -> None:
    ProcessStack(planned(), tmp_path, lambda _: lambda _: None)

    (written,) = tmp_path.iterdir()
    assert written.stat().st_mode & 0o077 == 0
    assert 'token = "s3cret"' in written.read_text()


def test_without_a_real_broker_the_stack_runs_in_memory_and_says_what_that_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise MissingPiece("no Pulsar here")

    monkeypatch.setattr(localbroker, "start_local_broker", nothing)
    told: list[str] = []

    with localbroker.local_broker("auto", LocalBrokerOptions(), told.append) as broker:
        assert broker is None
    assert "No real broker can be had: no Pulsar here" in told
    assert "NOTHING IS DURABLE" in told[-1]

    with (
        pytest.raises(MissingPiece),
        localbroker.local_broker("pulsar", LocalBrokerOptions(), told.append),
    ):
        pass


class StubbornBroker:
    """Its orderly end is interrupted."""

    writes_archive = False

    def __init__(self) -> None:
        self.run = self
        self.done: list[str] = []

    def stop(self) -> None:
        self.done.append("stop")
        if len(self.done) == 1:
            raise KeyboardInterrupt

    def send(self, signum: signal.Signals) -> None:
        self.done.append(signum.name)


def test_a_ctrl_c_while_the_broker_stops_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = StubbornBroker()
    monkeypatch.setattr(localbroker, "start_local_broker", lambda *_, **__: broker)

    with (
        pytest.raises(KeyboardInterrupt),
        localbroker.local_broker("auto", LocalBrokerOptions(), lambda _: None),
    ):
        pass

    assert broker.done == ["stop", "SIGKILL", "stop"]


@pytest.mark.parametrize(
    ("code", "expected"), [(0, "with exit code 0"), (78, "with exit code 78"), (247, "by SIGKILL")]
)
def test_how_a_part_ended_is_told_in_words(code: int, expected: str) -> None:
    assert fate(code) == expected


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert before == {number: signal.getsignal(number) for number in before}


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_cancels_only_what_may_be_and_the_second_aborts(
    number: signal.Signals,
) -> None:
    happened = []

    async def main(interrupt: Interrupt) -> str:
        interrupt.abort = lambda: happened.append("aborted")
        try:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
            await interrupt.unless(asyncio.Event().wait())
        except Interrupted:
            happened.append("stopping")
            os.kill(os.getpid(), number)
            await until(lambda: interrupt.is_aborted)
        return "stopped"

    assert run(main) == "stopped"
    assert happened == ["stopping", "aborted"]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_the_loop_both_signals_are_a_keyboard_interrupt(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), sigterm_is_ctrl_c():
        signal.raise_signal(number)


async def test_work_that_is_done_first_comes_back_and_the_rest_is_cancelled() -> None:
    endless = asyncio.Event()
    cancelled = asyncio.Event()

    async def wait() -> str:
        try:
            await endless.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    async def answer() -> str:
        await asyncio.sleep(0)
        return "first"

    assert await first_of(wait(), answer()) == "first"
    assert cancelled.is_set()


async def test_the_first_error_ends_all_other_work() -> None:
    async def fail() -> None:
        raise ConfigurationError("wrong")

    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(ConfigurationError):
        await all_of(wait(), fail())


# The receiver


def test_an_arrival_is_read_from_the_headers_of_a_delivery() -> None:
    request = make_mocked_request(
        "POST",
        "/hook",
        headers={
            "keylane-user": "%C3%BCser%201",
            "ce-id": "id-1",
            "keylane-attempt": "2",
            "keylane-position": "0:7:3",
        },
    )

    assert _arrival(request, b"{}") == Arrival("üser 1", "id-1", 2, "0:7:3", b"{}")


def test_a_request_that_is_not_keylanes_is_shown_with_what_it_lacks_empty() -> None:
    request = make_mocked_request("POST", "/", headers={"keylane-attempt": "two"})

    assert _arrival(request, b"hello") == Arrival("", "", 0, "", b"hello")


def test_a_line_shows_the_delivery_and_moves_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrival = Arrival("user-1\x1b[2J", "id-1", 2, "0:7:3", b'"' + b"x" * 500 + b'"')

    receiver.print_text(arrival, 500)

    line = capsys.readouterr().out
    assert line.startswith(
        'user-1\\x1b[2J  event id-1  attempt 2  position 0:7:3  answered 500  "xxx'
    )
    assert line.endswith("x...\n")


@pytest.mark.parametrize(
    ("payload", "expected"), [(b'{"a": [1]}', {"a": [1]}), (b"no json", "no json")]
)
def test_a_json_line_has_the_whole_payload(
    payload: bytes, expected: object, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.print_json(Arrival("user-1", "id-1", 1, "0:7:3", payload), 200)

    assert json.loads(capsys.readouterr().out) == {
        "user": "user-1",
        "id": "id-1",
        "attempt": 1,
        "position": "0:7:3",
        "payload": expected,
        "status": 200,
    }


@pytest.mark.parametrize(
    ("writes_archive", "said"),
    [(False, localbroker.STOPPING), (True, localbroker.STOPPING_FIRST)],
    ids=["later", "first"],
)
def test_a_stop_of_the_broker_that_takes_some_seconds_says_why(
    monkeypatch: pytest.MonkeyPatch, writes_archive: bool, said: str
) -> None:
    told: list[str] = []
    run = SimpleNamespace(writes_archive=writes_archive)
    broker = SimpleNamespace(run=run, stop=lambda: told.append("stopped"))
    monkeypatch.setattr(localbroker, "start_local_broker", lambda *_, **__: broker)

    with localbroker.local_broker("auto", LocalBrokerOptions(), told.append):
        pass

    assert told == [localbroker.ONE_COPY, said, "stopped"]
