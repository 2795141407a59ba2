from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, Self

import pytest
from aiohttp import web
from typing_extensions import override

from operate.eventfile import Array, Element, open_reader, read_pieces
from operate.send import Report, send_file
from tests import forks, waiting

Events = list[dict[str, Any]]
#: Answers a request, or returns None to have it accepted.
Script = Callable[[Events], web.Response | None]


class Ingest:
    """A small HTTP service in a thread: accepts what its script does not answer otherwise."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Events] = []
        self.bodies: list[bytes] = []
        self.accepted: Events = []
        self.script: Script = lambda _events: None
        self._loop = asyncio.new_event_loop()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def accepted_numbers(self) -> list[int]:
        return [event["Payload"] for event in self.accepted]

    def _serve(self) -> None:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_post("/events", self._events)
        runner = web.AppRunner(application)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._is_ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _events(self, request: web.Request) -> web.Response:
        body = await request.read()
        events = json.loads(body)
        self.requests.append(events)
        self.bodies.append(body)
        scripted = self.script(events)
        if scripted is not None:
            return scripted
        self.accepted += events
        return web.json_response({"accepted": len(events), "events": []}, status=202)


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    with Ingest() as service:
        yield service


def problem(status: int, **members: Any) -> web.Response:
    headers = {"Retry-After": "0"} if status in {429, 503} else {}
    body = {"status": status, "title": "No.", "detail": "For a reason.", **members}
    return web.json_response(
        body, status=status, headers=headers, content_type="application/problem+json"
    )


def make_lines(numbers: Sequence[int]) -> bytes:
    events = ({"UserID": f"user-{n % 3}", "Payload": n} for n in numbers)
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def send(data: bytes | BinaryIO, url: str, **options: Any) -> Report:
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    options.setdefault("give_up_after_s", 10)
    return send_file(file, url, lambda _report: None, **options)


def refused(report: Report) -> dict[int, str]:
    return {r.number: r.reason for r in report.refused}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- reading -------------------------------------------------------------------------------------


def elements_of(data: bytes, piece_bytes: int = 1 << 20) -> list[Element]:
    class Dribble(io.BytesIO):
        @override
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(piece_bytes)

    pieces = read_pieces(Dribble(data))
    reader, rest = open_reader(next(pieces))
    found = reader.feed(rest)
    for piece in pieces:
        found += reader.feed(piece)
    return found + reader.finish()


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 1000])
def test_an_array_is_taken_apart_wherever_its_bytes_are_cut(piece_bytes: int) -> None:
    raws = [
        r'{"UserID": "a,]}\\", "Payload": [1, {"x": "\"["}]}',
        '{"UserID":"ü","Payload":1.50e2}',
        '"\\\\"',
        "[[], {}]",
        "null",
    ]
    data = ("\ufeff \n[ " + " ,\n".join(raws) + " ] \n").encode()

    elements = elements_of(data, piece_bytes)

    assert [e.raw.decode() for e in elements] == raws
    assert [e.number for e in elements] == [1, 2, 3, 4, 5]
    assert {e.fault for e in elements} == {None}


@pytest.mark.parametrize("piece_bytes", [1, 5, 1000])
def test_lines_are_counted_with_the_blank_ones(piece_bytes: int) -> None:
    elements = elements_of(b'\n{"a":1}\r\n\n {"b":2} \nnonsense\n{"c":3}', piece_bytes)

    assert [(e.number, e.raw) for e in elements if not e.fault] == [
        (2, b'{"a":1}'),
        (4, b'{"b":2}'),
        (6, b'{"c":3}'),
    ]
    assert [e.number for e in elements if e.fault] == [5]


@pytest.mark.parametrize("seed", range(20))
def test_arrays_of_any_shape_are_taken_apart_as_a_parser_does(seed: int) -> None:
    random = Random(seed)

    def value(depth: int) -> Any:
        kinds = (
            lambda: random.choice([None, True, -1.5, 0, "", '"', "\\", '\\"', "],[", "{,}", "é😀"]),
            lambda: [value(depth - 1) for _ in range(random.randrange(3))],
            lambda: {f'k"{n}': value(depth - 1) for n in range(random.randrange(3))},
        )
        return random.choice(kinds if depth else kinds[:1])()

    values = [value(4) for _ in range(50)]
    data = json.dumps(values, ensure_ascii=bool(seed % 2), indent=seed % 3 or None).encode()

    elements = elements_of(data, random.randrange(1, 50))

    assert [json.loads(element.raw) for element in elements] == values


@pytest.mark.parametrize("data", [b"", b"  \n", b"[]", b" [ ] "])
def test_an_empty_file_holds_nothing(data: bytes) -> None:
    assert elements_of(data) == []


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        (b'[{"a":1}, {"b":', {2: "the file ends before the array does"}),
        (b'[{"a":1}', {1: "the file ends before the array does"}),
        (b"[1,,2]", {2: "is empty"}),
        (b"[1,]", {2: "is empty"}),
        (b"[1] x", {2: "stands behind the array's end"}),
        (b'[{"a":1], {"b":2}]', {1: "is no JSON"}),
        (b"[NaN, 1]", {1: "is no JSON"}),
    ],
)
def test_what_is_no_element_comes_out_with_its_fault(data: bytes, faults: dict[int, str]) -> None:
    found = {e.number: e.fault or "" for e in elements_of(data) if e.fault}

    assert found.keys() == faults.keys()
    for number, fault in faults.items():
        assert found[number].startswith(fault)


def test_what_a_long_element_takes_to_read_grows_with_its_length_not_its_square() -> None:
    # Eight times as long would take 64 times as long. A busy machine can only make it look worse.
    grown = [cost_of_an_element(160) / cost_of_an_element(20) for _ in range(5)]

    assert min(grown) < 24


def cost_of_an_element(pieces: int) -> float:
    """Seconds of processor time for one that comes in so many pieces of a pipe."""
    reader = Array()
    piece = b"x" * 65_536
    began = time.process_time()
    reader.feed(b'"')
    for _ in range(pieces):
        reader.feed(piece)
    assert reader.feed(b'",')[0].raw == b'"' + piece * pieces + b'"'
    return time.process_time() - began


# --- sending -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_array", [True, False])
def test_every_event_is_accepted_in_the_order_of_the_file(ingest: Ingest, as_array: bool) -> None:
    data = make_lines(range(1_234))
    if as_array:
        data = b"[" + b",\n".join(data.splitlines()) + b"]"

    report = send(data, ingest.url)

    assert ingest.accepted_numbers == list(range(1_234))
    assert [len(request) for request in ingest.requests] == [500, 500, 234]
    assert (report.accepted, report.refused, report.exit_code) == (1_234, [], 0)
    assert report.unit == ("element" if as_array else "line")


def test_payload_bytes_are_sent_as_the_file_has_them(ingest: Ingest) -> None:
    line = b'{"UserID": "u", "Payload":  {"b":1.50, "a": 10000000000000000000000}}'

    send(line, ingest.url)

    assert line[1:] in ingest.bodies[0]


def test_an_event_without_id_gets_one_that_stays_over_repetitions(ingest: Ingest) -> None:
    answers = iter([problem(503), problem(500), None])
    ingest.script = lambda _events: next(answers)

    report = send(
        b'{"UserID":"a","Payload":1}\n{"UserID":"a","Payload":2,"ID":"mine"}\n', ingest.url
    )

    ids = [[event["ID"] for event in request] for request in ingest.requests]
    assert report.accepted == 2
    assert ids[0] == ids[1] == ids[2]
    assert ids[0][1] == "mine"
    assert len(ids[0][0]) == 36


def test_bad_events_are_refused_by_place_and_the_others_are_sent(ingest: Ingest) -> None:
    def script(events: Events) -> web.Response | None:
        bad = [i for i, event in enumerate(events) if "Payload" not in event]
        errors = [{"index": i, "field": "Payload", "detail": "is missing"} for i in bad]
        return problem(422, errors=errors) if bad else None

    ingest.script = script
    lines = [b'{"UserID":"a","Payload":%d}' % n for n in range(1, 8)]
    lines[2] = b'{"UserID":"a"}'
    lines[4] = b"{nonsense"

    report = send(b"\n".join(lines), ingest.url)

    assert ingest.accepted_numbers == [1, 2, 4, 6, 7]
    assert refused(report).keys() == {3, 5}
    assert refused(report)[3] == "Payload is missing"
    assert refused(report)[5].startswith("is no JSON")
    assert (report.accepted, report.exit_code) == (5, 65)


def test_a_refusal_that_names_nobody_is_narrowed_down(ingest: Ingest) -> None:
    ingest.script = lambda events: (
        problem(400) if any(event["Payload"] == 321 for event in events) else None
    )

    report = send(make_lines(range(1_000)), ingest.url)

    assert ingest.accepted_numbers == [n for n in range(1_000) if n != 321]
    assert refused(report) == {322: "For a reason."}


def test_requests_shrink_to_what_the_service_takes(ingest: Ingest) -> None:
    ingest.script = lambda events: problem(413) if len(events) > 100 else None

    report = send(make_lines(range(2_000)), ingest.url)

    assert ingest.accepted_numbers == list(range(2_000))
    assert report.refused == []
    assert sum(len(request) > 100 for request in ingest.requests) == 3


def test_of_a_request_confirmed_in_part_only_the_rest_is_sent_again(ingest: Ingest) -> None:
    fates = iter(["confirmed", "unknown", "too-large", "not-sent"])

    def script(events: Events) -> web.Response | None:
        if len(events) < 4:
            return None
        told = [{"index": i, "id": "", "user": "", "status": next(fates)} for i in range(4)]
        return problem(503, events=told)

    ingest.script = script

    report = send(make_lines(range(4)), ingest.url)

    assert ingest.accepted_numbers == [1, 3]
    assert (report.accepted, refused(report)) == (3, {3: "For a reason."})


def test_it_waits_as_long_as_the_service_asks(ingest: Ingest) -> None:
    answers = iter([problem(429), None])
    times: list[float] = []

    def script(_events: Events) -> web.Response | None:
        times.append(time.monotonic())
        answer = next(answers)
        if answer is not None:
            answer.headers["Retry-After"] = "1"
        return answer

    ingest.script = script

    report = send(make_lines(range(2)), ingest.url)

    assert report.accepted == 2
    assert times[1] - times[0] >= 1


def test_what_could_not_be_sent_is_counted_and_can_be_gone_on_with(ingest: Ingest) -> None:
    ingest.script = lambda _events: problem(503) if len(ingest.requests) > 2 else None
    data = make_lines(range(2_000))

    first = send(data, ingest.url, give_up_after_s=0.3)
    ingest.script = lambda _events: None
    assert first.resume_at is not None
    second = send(data, ingest.url, start_at=first.resume_at)

    assert (first.accepted, first.resume_at, first.exit_code) == (1_000, 1_001, 75)
    assert "answered 503" in str(first.stopped)
    assert (second.accepted, second.exit_code) == (1_000, 0)
    assert ingest.accepted_numbers == list(range(2_000))


def test_nothing_reachable_is_told_as_that() -> None:
    report = send(make_lines(range(3)), f"http://127.0.0.1:{_free_port()}", give_up_after_s=0.3)

    assert (report.accepted, report.resume_at, report.exit_code) == (0, 1, 69)
    assert "gave no answer" in str(report.stopped)


def test_a_service_that_is_not_ready_is_waited_for(ingest: Ingest) -> None:
    ingest.script = lambda _events: problem(503) if len(ingest.requests) < 5 else None

    report = send(make_lines(range(3)), ingest.url)

    assert report.accepted == 3


@pytest.mark.parametrize("status", [200, 202, 302, 404, 415])
def test_another_service_at_that_address_is_noticed(ingest: Ingest, status: int) -> None:
    ingest.script = lambda _events: web.json_response({}, status=status)

    report = send(make_lines(range(3)), ingest.url)

    assert report.exit_code == 69
    assert "is this the address" in str(report.stopped)
    assert len(ingest.requests) == 1


def test_events_of_a_pipe_are_sent_as_they_come(ingest: Ingest) -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(make_lines([1]))
            # The second is written only once the first was accepted, so it must not be waited for.
            deadline = time.monotonic() + 10
            while not ingest.accepted and time.monotonic() < deadline:
                time.sleep(0.005)
            if ingest.accepted:
                pipe.write(make_lines([2]))

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as pipe:
        send(pipe, ingest.url)
    writer.join()

    assert ingest.accepted_numbers == [1, 2]


# --- the command ---------------------------------------------------------------------------------


def keylane(*arguments: str, data: bytes = b"", cwd: Path) -> subprocess.CompletedProcess[str]:
    return forks.run(*arguments, cwd=cwd, env=_environment(), stdin=data, within_s=15)


def _environment() -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not k.upper().startswith("KEYLANE_")}
    return ours | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_the_command_prints_accepted_and_refused(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(make_lines([1, 2]) + b"nonsense\n")

    done = keylane("send", "events.jsonl", "--url", ingest.url, cwd=tmp_path)

    assert done.returncode == 65
    lines = done.stdout.splitlines()
    assert lines[0].startswith("line 3: is no JSON")
    assert lines[1] == "accepted 2, refused 1"
    assert done.stderr == ""


def test_the_command_reads_standard_input_and_prints_json(ingest: Ingest, tmp_path: Path) -> None:
    done = keylane("send", "--url", ingest.url, "--json", data=b'[{"Payload":1}]', cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "accepted": 1,
        "refused": [],
        "stopped": None,
        "resume_at": None,
    }


def test_the_command_says_how_to_go_on(ingest: Ingest, tmp_path: Path) -> None:
    ingest.script = lambda _events: problem(503) if len(ingest.requests) > 1 else None
    (tmp_path / "e.jsonl").write_bytes(make_lines(range(600)))

    done = keylane("send", "e.jsonl", "--url", ingest.url, "--give-up-after", "0.2", cwd=tmp_path)

    assert done.returncode == 75
    assert "accepted 500, refused 0" in done.stdout
    assert "--start-at 501" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("is_waiting_for", ["input", "the service"])
def test_ctrl_c_says_how_to_go_on(ingest: Ingest, tmp_path: Path, is_waiting_for: str) -> None:
    if is_waiting_for == "the service":
        ingest.script = lambda _events: problem(503) if len(ingest.requests) > 1 else None
    with subprocess.Popen(
        [sys.executable, "-c", "from operate.cli import main; main()", "send", "--url", ingest.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=_environment(),
    ) as process:
        assert process.stdin is not None
        process.stdin.write(make_lines([1, 2]))
        process.stdin.flush()
        asyncio.run(waiting.until(lambda: len(ingest.requests) == 1))
        process.stdin.write(make_lines([3]))
        process.stdin.flush()
        # The command has read the first answer when it asks for the second time.
        asyncio.run(waiting.until(lambda: len(ingest.requests) >= 2))
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(10) == 130

    # Nobody can see from outside whether it has read the second one.
    known = 3 if is_waiting_for == "input" and out.startswith(b"accepted 3") else 2
    assert out == b"accepted %d, refused 0\n" % known
    assert b"--start-at %d" % (known + 1) in err
    assert b"Traceback" not in err
