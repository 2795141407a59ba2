from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from typing_extensions import override

from keylane.logs import configure_logging
from tests.commandline import log_left_as_found


class Terminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    with log_left_as_found():
        yield


class Captured:
    """Standard error of the test so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def text(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Captured:
    return Captured(capsys)


def test_a_line_is_json_with_time_level_event_and_context(stderr: Captured) -> None:
    configure_logging("json")

    with structlog.contextvars.bound_contextvars(destination="crm"):
        structlog.get_logger().info("delivery.succeeded", user="user-1", attempt=2)

    (line,) = stderr.lines()
    assert list(line)[:3] == ["ts", "level", "event"]
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "event": "delivery.succeeded",
        "destination": "crm",
        "user": "user-1",
        "attempt": 2,
    }


def test_what_is_below_the_level_is_not_written(stderr: Captured) -> None:
    configure_logging("json", "warning")

    structlog.get_logger().info("lane.paused")
    logging.getLogger("uvicorn.error").info("started")
    structlog.get_logger().warning("lane.stuck")

    assert [line["event"] for line in stderr.lines()] == ["lane.stuck"]


@pytest.mark.parametrize("name", ["uvicorn.error", "aiohttp.client", "asyncio"])
def test_lines_of_libraries_have_the_same_form(stderr: Captured, name: str) -> None:
    configure_logging("json")

    logging.getLogger(name).warning("listening on %s", 8090)

    (line,) = stderr.lines()
    assert (line["level"], line["event"]) == ("warning", "listening on 8090")
    assert line["logger"] == name


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp.access"])
def test_a_library_does_not_write_its_lines_a_second_time(stderr: Captured, name: str) -> None:
    its_own = io.StringIO()
    logging.getLogger(name).addHandler(logging.StreamHandler(its_own))
    configure_logging("json")

    logging.getLogger(name).warning("started")

    assert its_own.getvalue() == ""
    assert [line["event"] for line in stderr.lines()] == ["started"]


def test_an_exception_is_one_line_with_its_traceback(stderr: Captured) -> None:
    configure_logging("json")

    try:
        raise ValueError("broken")  # noqa: TRY301  what is logged
    except ValueError:
        structlog.get_logger().exception("attempt.broke")
        logging.getLogger("aiohttp").exception("failed")

    for line in stderr.lines():
        assert "ValueError: broken" in line["exception"]


@pytest.mark.parametrize("value", ["\ud800", 2**80, object(), {1: 2}, {"a": "\udfff"}])
def test_a_value_that_json_can_not_hold_loses_no_line(stderr: Captured, value: object) -> None:
    configure_logging("json")

    structlog.get_logger().info("event.odd", value=value)

    assert stderr.lines()[0]["event"] == "event.odd"


@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_secrets_are_masked(stderr: Captured, log_format: Any) -> None:
    configure_logging(log_format)
    log = structlog.get_logger()

    log.info("x.y", token="hunter2", url="http://me:hunter2@h/", authorization="Bearer hunter2")
    logging.getLogger("aiohttp").warning("can't reach http://me:hunter2@h/")
    try:
        raise ValueError("http://me:hunter2@h/")  # noqa: TRY301  what is logged
    except ValueError:
        log.exception("attempt.broke")

    assert stderr.text().count("***") >= 5
    assert "hunter2" not in stderr.text().replace('raise ValueError("http://me:hunter2@h/")', "")


def test_a_traceback_shows_no_local_variables(stderr: Captured) -> None:
    configure_logging("pretty")
    payload = str(4_711 * 3)

    try:
        raise ValueError(str(len(payload)))  # noqa: TRY301  what is logged
    except ValueError:
        structlog.get_logger().exception("attempt.broke")

    assert "ValueError: 5" in stderr.text()
    assert payload not in stderr.text()


def test_on_a_terminal_it_is_pretty_and_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    configure_logging("auto")

    structlog.get_logger().info("lane.paused")

    assert "\x1b[" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    configure_logging("auto")

    structlog.get_logger().info("lane.paused")

    assert "lane.paused" in terminal.getvalue()
    assert "\x1b[" not in terminal.getvalue()


def test_elsewhere_auto_is_json(stderr: Captured) -> None:
    configure_logging("auto")

    structlog.get_logger().info("lane.paused")

    assert stderr.lines()[0]["event"] == "lane.paused"


def test_a_logger_writes_where_standard_error_points_now(
    stderr: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging("json")
    log = structlog.get_logger()
    log.info("first.line")
    later = io.StringIO()
    monkeypatch.setattr("sys.stderr", later)

    log.info("second.line")

    assert [line["event"] for line in stderr.lines()] == ["first.line"]
    assert json.loads(later.getvalue())["event"] == "second.line"
