"""`keylane status|lanes|pause|resume|lane`: what is printed, asked, and ended with."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from dispatch.lanereport import LaneRow
from keylane.controlrecord import What
from keylane.errors import KeylaneError
from operate import parameters
from operate.cli import app
from operate.controlsession import Heard
from operate.exits import exit_code_of
from operate.overseeing import lanes as asked_lanes
from operate.overseeing import orders, overseer, pausing, tables, waiting
from operate.overseeing.lanes import LaneAnswers
from operate.overseeing.pausing import Paused, Resumed
from operate.overseeing.standing import Backlog, Condition, Standing, WorkerStanding, workers_in
from tests.commandline import alone
from tests.jsonforms import FOLDER, assert_is, names

__all__ = ["alone"]
pytestmark = pytest.mark.usefixtures("alone")

LANE: LaneRow = {
    "user": "user-4",
    "partition": 2,
    "events": 3,
    "state": "backoff",
    "attempt": 3,
    "id": "order-7",
    "position": "2:7:1",
    "place": "2:7:1",
    "head_s": 125.0,
    "next_attempt_in_s": 17.0,
    "last_status": 500,
    "last_error": "answered 500",
    "worker": "host-crm-0",
}
REPORT: dict[str, Any] = {
    **dict.fromkeys(("lanes", "ready", "held", "awaited", "paged", "in_flight", "backoff"), 0),
    "dead_lettering": 0,
    "oldest_head_s": 0.0,
    "full": 0,
    "full_users": [],
    "concurrency": 64,
    "breaker": "closed",
    "disabled_because": None,
    "is_paused": False,
    "is_live_stopped": False,
    "is_receiving": True,
}
CONFIRMED = Heard(["host-crm-0", "host-crm-1"], [])
LATE = Heard(["host-crm-0"], ["host-crm-1"])


def run(*arguments: str, code: int = 0, **options: Any) -> Result:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False, **options)
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str, object], None]:
    """`answer(module, "function", result)`: what is asked of workers is answered so."""

    @contextlib.asynccontextmanager
    async def nowhere(_settings: object) -> AsyncIterator[None]:
        yield None

    monkeypatch.setattr(overseer, "overseeing", nowhere)

    def set_answer(module: object, name: str, result: object) -> None:
        async def answered(*_: object, **__: object) -> object:
            return result

        monkeypatch.setattr(module, name, answered)

    return set_answer


Answer = Callable[[object, str, object], None]


# pause and resume


@pytest.mark.parametrize(
    ("heard", "code", "said"),
    [
        (CONFIRMED, 0, "crm is paused: 2 workers have confirmed it."),
        (Heard(["host-crm-0"], []), 0, "crm is paused: 1 worker has confirmed it."),
        (Heard([], []), 0, "no worker runs, those that start find it so."),
        (LATE, 75, "crm is paused, but only 1 of 2 workers have confirmed it."),
        (LATE, 75, "Not confirmed in time by host-crm-1. The pause stays said"),
    ],
)
def test_a_pause_says_who_has_confirmed_it_and_ends_with_that(
    answer: Answer, heard: Heard, code: int, said: str
) -> None:
    answer(pausing, "pause", Paused("crm", "2026-01-31T12:00:00.000Z", "t", False, heard))

    assert said in run("pause", "crm", code=code).output
    told = assert_is("pause", run("pause", "crm", "--json", code=code).stdout)
    assert told["unconfirmed"] == heard.unconfirmed


@pytest.mark.parametrize(
    ("was_paused", "was_disabled", "said"),
    [
        (True, False, "crm goes on (it was paused)"),
        (True, True, "crm goes on (it was paused and it had disabled itself)"),
        (False, False, "crm goes on (it was neither paused nor disabled)"),
    ],
)
def test_a_resume_says_what_it_took_back(
    answer: Answer, was_paused: bool, was_disabled: bool, said: str
) -> None:
    answer(pausing, "resume", Resumed("crm", was_paused, was_disabled, CONFIRMED))

    assert said in run("resume", "crm").stdout
    assert_is("resume", run("resume", "crm", "--json").stdout)


def test_an_unconfirmed_resume_may_be_tried_again(answer: Answer) -> None:
    answer(pausing, "resume", Resumed("crm", True, False, LATE))

    assert "Not confirmed in time by host-crm-1" in run("resume", "crm", code=75).stderr


# lanes


def test_lanes_are_a_table_for_people_and_an_object_for_programs(answer: Answer) -> None:
    answer(asked_lanes, "lanes_at", LaneAnswers("crm", [LANE], ["host-crm-0"], []))

    told = run("lanes", "crm").stdout
    for shown in ("user-4", "order-7", "2:7:1", "backoff", "answered 500", "2 min", "17 s"):
        assert shown in told
    assert "1 lane; 1 worker answered." in told
    assert_is("lanes", run("lanes", "crm", "--json").stdout)


def test_workers_without_an_answer_are_named_beside_the_lanes_of_the_others(
    answer: Answer,
) -> None:
    answer(asked_lanes, "lanes_at", LaneAnswers("crm", [LANE], ["host-crm-0"], ["host-crm-1"]))

    assert "No answer of host-crm-1" in run("lanes", "crm", code=75).stderr


@pytest.mark.parametrize(
    ("options", "answered", "said"),
    [
        ([], ["host-crm-0"], "There is no lane at crm; 1 worker answered."),
        (["--user", "Ada"], ["host-crm-0"], "User 'Ada' has no lane at crm; 1 worker answered."),
        ([], [], "No worker of crm has answered."),
    ],
)
def test_that_there_is_no_lane_is_told(
    answer: Answer, options: list[str], answered: list[str], said: str
) -> None:
    answer(asked_lanes, "lanes_at", LaneAnswers("crm", [], answered, []))

    assert run("lanes", "crm", *options).stdout == f"{said}\n"


# lane


@pytest.fixture
def stuck(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> list[What]:
    """A user with a lane; the orders that are given."""
    given: list[What] = []

    async def order(_overseer: object, name: str, lane: LaneRow, what: What) -> orders.Ordered:
        given.append(what)
        return orders.Ordered(name, what, "token", lane, CONFIRMED)

    answer(orders, "lanes_of_user", LaneAnswers("crm", [LANE], ["host-crm-0"], []))
    monkeypatch.setattr(orders, "order", order)
    return given


@pytest.mark.parametrize(
    ("words", "what", "said"),
    [
        (["skip", "--yes"], What.SKIP, "The event is dropped"),
        (["dead-letter"], What.DEAD_LETTER, "The event goes to the dead letters"),
        (["retry-now"], What.RETRY_NOW, "The event is attempted as soon as there is room"),
    ],
)
def test_the_event_is_shown_before_it_is_decided_on(
    stuck: list[What], words: list[str], what: What, said: str
) -> None:
    told = run("lane", words[0], "crm", "user-4", *words[1:]).stdout

    assert stuck == [what]
    for shown in ("order-7", "2:7:1", "2 made so far", "500, answered 500", "host-crm-0"):
        assert shown in told
    assert said in told
    done = assert_is("lane", run("lane", words[0], "crm", "user-4", *words[1:], "--json").stdout)
    assert (done["order"], done["is_applied"]) == (what.value, True)


def test_a_skip_without_a_terminal_needs_a_yes(stuck: list[What]) -> None:
    assert "say --yes" in run("lane", "skip", "crm", "user-4", code=2).output
    assert stuck == []


@pytest.mark.parametrize(("said", "code", "given"), [("y", 0, [What.SKIP]), ("n", 1, [])])
def test_a_skip_is_asked_about_on_a_terminal(
    stuck: list[What],
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    code: int,
    given: list[What],
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    class Seen:
        stdin = Terminal()

    monkeypatch.setattr(parameters, "sys", Seen)

    done = run("lane", "skip", "crm", "user-4", code=code, input=f"{said}\n")

    assert "Drop this event for crm, for good?" in done.stderr
    assert stuck == given


def test_an_order_that_is_not_carried_out_yet_stays_said(stuck: list[What], answer: Answer) -> None:
    lane = {**LANE, "state": "in_flight"}
    answer(orders, "order", orders.Ordered("crm", What.SKIP, "token", lane, LATE))

    done = run("lane", "skip", "crm", "user-4", "--yes", code=75)

    assert "Not carried out yet by host-crm-1. The order stays said" in done.stderr
    told = json.loads(run("lane", "skip", "crm", "user-4", "--yes", "--json", code=75).stdout)
    assert not told["is_applied"]


def test_of_an_event_that_is_being_attempted_the_outcome_is_left_open(
    stuck: list[What], answer: Answer
) -> None:
    lane = {**LANE, "state": "in_flight"}
    answer(orders, "order", orders.Ordered("crm", What.SKIP, "token", lane, CONFIRMED))

    told = run("lane", "skip", "crm", "user-4", "--yes").stdout

    assert "If the attempt that ran went well, it was delivered instead." in told


def test_a_user_without_a_lane_is_a_failure(answer: Answer) -> None:
    answer(orders, "lanes_of_user", LaneAnswers("crm", [], ["host-crm-0"], []))

    done = CliRunner().invoke(app, ["lane", "retry-now", "crm", "Ada"])

    assert isinstance(done.exception, KeylaneError)
    assert exit_code_of(done.exception) == 1
    assert "User 'Ada' has no lane at crm (asked: host-crm-0)" in str(done.exception)


def test_a_lane_may_be_at_a_worker_that_did_not_answer(answer: Answer) -> None:
    answer(orders, "lanes_of_user", LaneAnswers("crm", [], ["host-crm-0"], ["host-crm-1"]))

    done = run("lane", "retry-now", "crm", "Ada", code=75)

    assert "no answer came of host-crm-1; nothing was ordered" in done.stderr


def test_one_of_several_lanes_is_shown_as_such(answer: Answer, stuck: list[What]) -> None:
    live = {**LANE, "state": "waiting"}
    again = {**LANE, "partition": -1, "id": "order-3", "place": "-1:9:0"}
    answer(orders, "lanes_of_user", LaneAnswers("crm", [live, again], ["host-crm-0"], []))

    told = run("lane", "retry-now", "crm", "user-4").stdout

    assert "order-3" in told
    assert "once more, by a redrive or a replay" in told
    assert "2 lanes of the user the one that is at work" in told


# status


def shown(*standings: Standing) -> str:
    console = Console(file=io.StringIO(), width=140, markup=False, highlight=False)
    console.print(tables.status(standings))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def standing(**given: Any) -> Standing:
    workers = workers_in(
        {0: {"consumers": [{"consumerName": "host-crm-0", "keyHashRangeArrays": [[0, 65535]]}]}},
        {"host-crm-0": REPORT},
    )
    backlog = Backlog([{"partition": 0, "backlog": 12_345, "unacknowledged": 3}], 7, 2)
    return Standing(**{"name": "crm", "backlog": backlog, "workers": workers, **given})


def report(**given: Any) -> list[WorkerStanding]:
    return [WorkerStanding("host-crm-0", [], {**REPORT, **given})]


def test_status_is_a_table_of_destinations_and_one_of_workers() -> None:
    told = shown(standing())

    for found in ("crm", "delivering", "12,345", "host-crm-0", "all", "0-65535", "100%", "closed"):
        assert found in told


@pytest.mark.parametrize(
    ("given", "condition", "said"),
    [
        (
            {"paused": {"at": "2026-01-31", "live_only": False}},
            Condition.PAUSED,
            "crm is paused since 2026-01-31. Let it go on: keylane resume crm",
        ),
        (
            {"paused": {"at": "2026-01-31", "live_only": True}},
            Condition.LIVE_PAUSED,
            "crm gets only events that are delivered once more, since 2026-01-31.",
        ),
        (
            {"disabled": {"because": "answered 410", "at": ""}},
            Condition.DISABLED,
            "crm has disabled itself (answered 410). Mend it, then: keylane resume crm",
        ),
        (
            {"workers": report(disabled_because="answered 410")},
            Condition.DISABLED,
            "crm has disabled itself (answered 410).",
        ),
        ({"workers": []}, Condition.UNATTENDED, "Start one: keylane dispatch crm"),
        (
            {"workers": [WorkerStanding("host-crm-0", [])]},
            Condition.SILENT,
            "No worker of crm answers.",
        ),
        ({"workers": report(breaker="half_open")}, Condition.BREAKER_OPEN, "half open"),
        (
            {"workers": [*report(), WorkerStanding("host-crm-1", [])]},
            Condition.DELIVERING,
            "No answer of host-crm-1: the broker lists them as workers.",
        ),
        (
            {"users": {"held": 5, "waiting": 2}},
            Condition.DELIVERING,
            "crm: 5 users are held, their events go to the dead letters in order.",
        ),
        (
            {"workers": report(full=1, full_users=["Ada"])},
            Condition.DELIVERING,
            "crm: at max_lane_events: Ada.",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    given: dict[str, Any], condition: Condition, said: str
) -> None:
    one = standing(**given)

    assert one.condition is condition
    assert said in shown(one)


def test_a_dead_letter_topic_that_keeps_nothing_is_told() -> None:
    assert "not kept" in shown(standing(backlog=Backlog([], 0, None)))


def test_that_there_is_no_destination_is_told() -> None:
    assert "keylane topic setup --destination NAME" in shown()


def test_hash_ranges_of_older_brokers_are_read_and_shares_add_up() -> None:
    consumers = [
        {"consumerName": "a", "keyHashRanges": ["[0, 99]", "[200, 299]"]},
        {"consumerName": "b", "keyHashRanges": ["[100, 199]"], "unackedMessages": 4},
    ]

    a, b = workers_in({0: {"consumers": consumers}, -1: None}, {})

    assert a.partitions[0].hash_ranges == [[0, 99], [200, 299]]
    assert (a.share(1), b.share(1), b.unacknowledged) == (0.6667, 0.3333, 4)


@pytest.mark.parametrize(
    ("by_partition", "said"),
    [
        ([[[0, 99]], [[0, 99]]], "0-99"),
        ([[[0, 9], [20, 29], [40, 49]]] * 2, "3"),
        ([[[0, 9]], [[0, 9], [20, 29]]], "1, 2"),
        ([], ""),
    ],
)
def test_many_hash_ranges_are_counted(by_partition: list[list[list[int]]], said: str) -> None:
    assert tables.ranges_spoken(by_partition) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.31, "0.3 s"), (12, "12 s"), (240, "4 min"), (9_000, "2.5 h"), (260_000, "3.0 d")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert tables.spoken(seconds) == said


# waiting


async def test_what_takes_long_is_said_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.02)
    monkeypatch.setattr(waiting, "LINE_EVERY_S", 0.02)

    async def work(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return 7

    assert await waiting.saying("Waiting...", work(0.001)) == 7
    assert capsys.readouterr().err == ""
    assert await waiting.saying("Waiting...", work(0.1)) == 7
    assert capsys.readouterr().err.count("Waiting...\n") >= 2


# the forms


def test_every_form_is_a_schema_that_says_what_it_is_of() -> None:
    from jsonschema import Draft202012Validator

    from tests.jsonforms import form

    assert len(names()) > 10
    for name in names():
        Draft202012Validator.check_schema(form(name))
        assert form(name)["$id"] == f"{name}.schema.json"
        assert form(name)["title"].startswith("keylane ")
        assert form(name)["required"]


def test_what_lacks_a_field_is_not_of_the_form() -> None:
    with pytest.raises(AssertionError, match="'destination' is a required property"):
        assert_is("resume", {"is_paused": False})


def test_every_form_is_named_on_the_page_for_operators() -> None:
    page = (FOLDER.parent / "operating.md").read_text(encoding="utf-8")

    assert [name for name in names() if f"(json/{name}.schema.json)" not in page] == []


def test_listings_of_the_settings_have_their_forms(tmp_path: Path) -> None:
    Path("keylane.toml").write_text(
        f'[destinations.crm]\nto = "file:{tmp_path}/lines"\n'
        '[destinations.chat.channels.one]\nto = "stdout:"\n',
        encoding="utf-8",
    )
    run("keys", "create", "shop", "--expires-in", "90")

    assert_is("destination-list", run("destination", "list", "--json").stdout)
    assert_is("destination-test", run("destination", "test", "crm", "--json").stdout)
    assert_is("keys-list", run("keys", "list", "--json").stdout)
