"""Into a real pipe: whole lines, whatever its reader does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dispatch.delivery import Delivery
from dispatch.destinationcontract import opening_of
from dispatch.destinations.stdout import StdoutDestination, open_stdout
from dispatch.outcome import Delivered, Malformed, Outcome, Unavailable
from keylane.errors import ConfigurationError
from tests.messages import BrokenMessage, make_delivery


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.destination = StdoutDestination(self.writer)

    def attempt(self, *deliveries: Delivery) -> Sequence[Outcome]:
        return self.destination.attempt_all(deliveries)

    def fill(self) -> None:
        os.set_blocking(self.writer, False)
        try:
            while True:
                os.write(self.writer, b"x" * 511 + b"\n")
        except BlockingIOError:
            os.set_blocking(self.writer, True)

    def read(self) -> bytes:
        """Everything that is there."""
        os.set_blocking(self.reader, False)
        read = b""
        try:
            while part := os.read(self.reader, 2**20):
                read += part
        except BlockingIOError:
            pass
        return read


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reader, pipe.writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_a_delivery_is_the_same_line_as_in_a_file(pipe: Pipe) -> None:
    assert pipe.attempt(make_delivery(b'{"a": 1}', attempt=2)) == [Delivered()]
    line = json.loads(pipe.read())
    assert line.pop("delivered_at") is not None
    assert line == {
        "id": "event-1",
        "user": "Ada",
        "payload": {"a": 1},
        "attempt": 2,
        "position": "0:7:3",
    }


def test_what_can_not_be_read_is_malformed_and_the_others_are_written(pipe: Pipe) -> None:
    outcomes = pipe.attempt(
        make_delivery(b"1"), Delivery(BrokenMessage(), 0, 1), make_delivery(b"3")
    )
    assert [type(o) for o in outcomes] == [Delivered, Malformed, Delivered]
    assert [json.loads(line)["payload"] for line in pipe.read().splitlines()] == [1, 3]


def test_a_full_pipe_is_not_waited_for(pipe: Pipe) -> None:
    pipe.fill()
    began = time.monotonic()
    (outcome,) = pipe.attempt(make_delivery())
    assert time.monotonic() - began < 5
    assert isinstance(outcome, Unavailable)
    assert b"event-1" not in pipe.read()
    assert pipe.attempt(make_delivery()) == [Delivered()]


def test_a_line_that_does_not_fit_is_ended_before_any_other(pipe: Pipe) -> None:
    long = b'"' + b"x" * 200_000 + b'"'
    first, second = pipe.attempt(make_delivery(long), make_delivery(b"2"))
    assert isinstance(first, Unavailable)
    assert isinstance(second, Unavailable)
    assert first.is_overload
    read = b""
    for attempt in range(2, 12):
        (outcome,) = pipe.attempt(make_delivery(b"3", attempt=attempt))
        read += pipe.read()
        if outcome == Delivered():
            break
    lines = [json.loads(line)["payload"] for line in read.splitlines()]
    assert lines == ["x" * 200_000, 3]


def test_a_reader_that_has_gone_is_worth_another_attempt_and_takes_no_process_along(
    pipe: Pipe,
) -> None:
    os.close(pipe.reader)
    (outcome,) = pipe.attempt(make_delivery())
    assert outcome == Unavailable("can't write to standard output: Broken pipe", is_down=True)


def test_a_line_that_could_not_be_begun_is_not_written_later(pipe: Pipe) -> None:
    os.close(pipe.reader)
    assert isinstance(pipe.attempt(make_delivery())[0], Unavailable)
    pipe.reader, writer = os.pipe()
    os.dup2(writer, pipe.writer)
    os.close(writer)
    assert pipe.attempt(make_delivery(attempt=2)) == [Delivered()]
    assert [json.loads(line)["attempt"] for line in pipe.read().splitlines()] == [2]


def test_a_pipe_that_somebody_made_unblocking_is_written_to_as_well(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    pipe.fill()
    os.set_blocking(pipe.writer, False)
    assert isinstance(pipe.attempt(make_delivery())[0], Unavailable)
    pipe.read()
    assert pipe.attempt(make_delivery()) == [Delivered()]


def test_a_full_disk_leaves_an_attempt_to_be_made() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        destination = StdoutDestination(descriptor)
        for _ in range(2):
            (outcome,) = destination.attempt_all([make_delivery()])
            assert isinstance(outcome, Unavailable)
    finally:
        os.close(descriptor)


def test_it_says_so_where_there_is_no_standard_output() -> None:
    program = (
        "from dispatch.destinationcontract import opening_of\n"
        "from dispatch.destinations.stdout import open_stdout\n"
        "open_stdout(opening_of('stdout:'))\n"
    )
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "{sys.executable}" -c "$0" >&-', program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert "ConfigurationError: stdout: there is no standard output here" in ended.stderr


def test_it_takes_no_path() -> None:
    with pytest.raises(ConfigurationError, match="should be stdout: alone"):
        open_stdout(opening_of("stdout:out.jsonl"))
