"""The bench's own arithmetic: a figure nobody can trust is worse than none."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest
from typing_extensions import override

from bench import report, wrk
from bench.__main__ import ALONE, PARTS, read_arguments
from bench.arms import Arm, CheapArm
from bench.crowd import Served
from bench.drain import AT_LEAST
from bench.errors import BenchError
from bench.events import FAILING, PAYLOAD_BYTES, SLOW, body, number_in, payload, user
from bench.figures import Figure, Sample, drain_span, next_pause_s, per, percentile
from bench.growth import Growth
from bench.ingest import plain_server
from bench.latency import milliseconds, rates_to_measure
from bench.machine import children_of, cpu_s
from bench.parts import load, receiver
from bench.processes import run_part, sums
from bench.scale import BODIES, QUICK, USERS, interleaved
from bench.simulated import BATCH, Simulation, Users
from bench.stage import Stage
from bench.stolen import Look, Stolen
from bench.wire import AnswerReader, post

ACCEPTED = (
    b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\nContent-Length: 4\r\n\r\n{ok}"
)
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"


def samples_at_rate(
    rate: float, total: int, *, began: float, every: float, until: float
) -> list[Sample]:
    """What a worker of a constant rate, that finishes at once what it receives, tells."""
    found = []
    for step in range(math.ceil(until / every) + 1):
        at = step * every
        done = int(min(total, max(0.0, (at - began) * rate)))
        found.append(Sample(at, done, done))
    return found


class TestDrainSpan:
    @pytest.mark.parametrize("began", [0.0, 0.013, 0.05, 0.099])
    def test_finds_beginning_and_end_between_the_samples(self, began: float) -> None:
        samples = samples_at_rate(10_000, 25_000, began=began, every=0.1, until=3.0)

        start, end = drain_span(samples, 25_000)

        assert start == pytest.approx(began, abs=0.001)
        assert end == pytest.approx(began + 2.5, abs=0.001)

    def test_never_leaves_the_samples_around_an_edge(self) -> None:
        # A rate that grows, then falls: both lines would lead too far outwards.
        samples = [
            Sample(0.0, 0, 0),
            Sample(0.1, 500, 500),
            Sample(0.2, 550, 550),
            Sample(0.3, 900, 900),
            Sample(0.4, 901, 901),
            Sample(0.5, 1000, 1000),
        ]

        assert drain_span(samples, 1000) == (0.0, 0.5)

    def test_is_rather_too_long_where_there_is_no_line(self) -> None:
        samples = [Sample(1.0, 0, 0), Sample(1.1, 100, 100)]

        assert drain_span(samples, 100) == (1.0, 1.1)

    def test_goes_back_from_a_first_sample_within_the_run(self) -> None:
        samples = samples_at_rate(1_000, 1_000, began=0.0, every=0.1, until=1.0)[1:]

        start, _ = drain_span(samples, 1_000)

        assert start == pytest.approx(0.0)

    def test_refuses_a_drain_that_did_not_end(self) -> None:
        with pytest.raises(BenchError, match="only 99 of 100"):
            drain_span([Sample(0.0, 0, 0), Sample(1.0, 100, 99)], 100)


class TestPause:
    def test_gets_short_near_the_end(self) -> None:
        assert next_pause_s(10_000, 50_000) == 0.5
        assert next_pause_s(10_000, 1_000) == pytest.approx(0.05)
        assert next_pause_s(10_000, 1) == 0.005

    def test_is_short_until_the_rate_is_known(self) -> None:
        assert next_pause_s(0.0, 50_000) == 0.01


class TestPercentile:
    def test_is_a_value_that_was_measured(self) -> None:
        values = [4.0, 1.0, 3.0, 2.0]

        assert [percentile(values, p) for p in (0, 25, 50, 51, 99, 100)] == [1, 1, 2, 3, 4, 4]

    def test_of_nothing_is_unknown(self) -> None:
        assert math.isnan(percentile([], 50))


class TestFigure:
    def test_compares_the_medians(self) -> None:
        figure = Figure("s", "n", "ms", [9.0, 2.0, 1.0], "other", [4.0, 1.0, 100.0])

        assert (figure.value, figure.yardstick_value, figure.ratio) == (2.0, 4.0, 0.5)

    def test_accepts_from_the_limit_on(self) -> None:
        def is_accepted(value: float) -> bool:
            return Figure("s", "n", "1/s", [value], "other", [10.0], at_least=0.9).is_accepted

        assert is_accepted(9.0)
        assert not is_accepted(8.99)
        assert not is_accepted(math.nan), "what is not known is not accepted"

    def test_accepts_up_to_the_limit_where_less_is_better(self) -> None:
        def is_accepted(value: float) -> bool:
            return Figure("s", "n", "ms", [value], "other", [10.0], at_most=1.5).is_accepted

        assert is_accepted(15.0)
        assert not is_accepted(15.01)
        assert not is_accepted(math.nan)

    def test_accepts_a_value_up_to_its_limit(self) -> None:
        assert Figure("s", "n", "bytes", [400.0], value_at_most=400.0).is_accepted
        assert not Figure("s", "n", "bytes", [401.0], value_at_most=400.0).is_accepted

    def test_without_yardstick_has_no_ratio(self) -> None:
        assert math.isnan(Figure("s", "n", "MiB", [1.0]).ratio)

    def test_nothing_is_divided_by_nothing(self) -> None:
        assert math.isnan(per(1.0, 0))


class TestEvents:
    def test_payloads_have_their_size_and_number(self) -> None:
        for number in (0, 1, 99_999, FAILING, SLOW + 99_999):
            assert len(payload(number)) == PAYLOAD_BYTES
            assert orjson.loads(payload(number))
            assert number_in(payload(number)) == number

    @pytest.mark.parametrize("count", BODIES)
    def test_bodies_are_what_ingest_takes(self, count: int) -> None:
        events = orjson.loads(body(7, count, USERS))

        assert [event["UserID"] for event in events] == [user(7 + n, USERS) for n in range(count)]
        assert events[0]["Payload"] == orjson.loads(payload(7))

    def test_bodies_with_ids_repeat_none(self) -> None:
        bodies = [body(first, 100, USERS, has_ids=True) for first in (0, 100, 200)]

        ids = [event["ID"] for sent in bodies for event in orjson.loads(sent)]

        assert len(set(ids)) == 300

    def test_users_take_turns(self) -> None:
        assert len({user(number, USERS) for number in range(3 * USERS)}) == USERS


class TestAnswerReader:
    @pytest.mark.parametrize("size", [1, 7, 64, 10_000])
    def test_reads_answers_in_whatever_pieces(self, size: int) -> None:
        reader, stream = AnswerReader(), ACCEPTED + REFUSED + ACCEPTED
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]

        assert [status for piece in pieces for status in reader.feed(piece)] == [202, 429, 202]

    def test_waits_for_the_body(self) -> None:
        reader = AnswerReader()

        assert reader.feed(ACCEPTED[:-1]) == []
        assert reader.feed(ACCEPTED[-1:]) == [202]

    def test_refuses_what_it_can_not_delimit(self) -> None:
        with pytest.raises(BenchError, match="content-length"):
            AnswerReader().feed(b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n")

    def test_requests_end_where_they_say(self) -> None:
        head, _, sent = post("127.0.0.1", 8090, "/events", b"[]").partition(b"\r\n\r\n")

        assert sent == b"[]"
        assert head.startswith(b"POST /events HTTP/1.1\r\n")
        assert b"content-length: 2" in head


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Without a broker, for rounds so short that their figures mean nothing."""
    scale = replace(QUICK, warm_s=0.05, produce_s=0.2, growth_events=(200, 600))
    return Stage("", "", scale, tmp_path, lambda _: None)


class Nowhere:
    """No server at all."""

    def url(self) -> str:
        return ""

    def pids(self) -> list[int]:
        return []


class Scripted(Arm):
    """An arm whose round is given."""

    def __init__(self, stage: Stage, batch: int, result: load.Result) -> None:
        super().__init__(stage, Nowhere(), batch)
        self._result = result

    @override
    def _run(self) -> load.Result:
        return self._result


class TestArm:
    def test_counts_requests_and_their_cost(self, stage: Stage) -> None:
        arm = Scripted(stage, 10, load.Result(100, 2.0, 0.5, 0.1, {}))

        arm.measure()

        assert arm.request_rates == [50.0]
        assert arm.event_rates == [500.0]
        assert arm.cpu_us == [pytest.approx(1000.0)]
        assert arm.cpu_us_an_event == [pytest.approx(100.0)]
        assert arm.requests_a_cpu_s == [pytest.approx(1000.0)]
        assert arm.client_percent == [25.0]

    def test_does_not_count_what_is_not_known(self, stage: Stage) -> None:
        arm = Scripted(stage, 1, load.Result(100, 2.0, 0.5, None, {}))

        arm.measure()

        assert math.isnan(arm.cpu_us[0])
        assert math.isnan(arm.requests_a_cpu_s[0])

    @pytest.mark.parametrize(
        "result",
        [load.Result(100, 1.0, 0.0, 0.0, {"503": 1}), load.Result(0, 1.0, 0.0, 0.0, {})],
        ids=["refused", "nothing"],
    )
    def test_a_round_in_which_not_all_is_accepted_is_no_measurement(
        self, stage: Stage, result: load.Result
    ) -> None:
        with pytest.raises(BenchError, match="accepted"):
            Scripted(stage, 1, result).measure()


class Late(BaseHTTPRequestHandler):
    """Accepts everything, but only when a short round is over."""

    protocol_version = "HTTP/1.1"
    answered = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.1)
        Late.answered += 1
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def late() -> Iterator[int]:
    """Its port."""
    Late.answered = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Late) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class TestLoad:
    def test_a_server_that_is_late_is_measured_from_its_first_answer_to_another(
        self, late: int
    ) -> None:
        options = load.Options("127.0.0.1", late, 1, 1, USERS, [], warm_s=0.01, measure_s=0.01)

        result = run_part(load, options, load.Result)

        assert result.requests >= 1
        assert Late.answered > result.requests, "nothing was left out as warm-up"
        assert not result.others


class TestServers:
    @pytest.mark.parametrize("on_loop", [False, True])
    def test_the_plain_one_accepts_what_ingest_accepts(self, stage: Stage, on_loop: bool) -> None:
        with plain_server(on_loop=on_loop) as server:
            arm = Arm(stage, server, 10)

            arm.measure()

        assert arm.event_rates[0] > 0

    @pytest.mark.long
    def test_two_processes_share_one_port(self, stage: Stage) -> None:
        with stage.memory_ingest(2) as server:
            server.url()
            (log,) = stage.folder.glob("memory-ingest-*.log")
            assert log.read_text().count('"ingest.started"') == 2, "one has not begun to serve"
            server.wait_ready()
            arm = CheapArm(stage, server, 1)
            before = {pid: cpu_s(pid) for pid in server.pids()}

            arm.measure()

            busy = [pid for pid, used_s in before.items() if cpu_s(pid) - used_s > 0.02]
        assert len(busy) == 2
        assert server.pid not in busy
        assert arm.event_rates[0] > 0

    @pytest.mark.long
    def test_growth_puts_in_every_event_once(self, stage: Stage) -> None:
        with stage.memory_ingest(forgets=True) as plain, stage.memory_ingest() as with_ids:
            figures = Growth(stage, plain, with_ids).run()

            counted = [server.metrics() for server in (plain, with_ids)]

        for counts in counted:
            assert counts["keylane_ingest_accepted_events_total"] == 600
            assert counts["keylane_ingest_duplicate_events_total"] == 0
        for figure in figures[:2]:
            grown = figure.details["after"] - figure.details["before"]
            assert figure.value == pytest.approx(grown)

    def test_children_are_found(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            assert child.pid in children_of(os.getpid())
            child.communicate()

        assert child.pid not in children_of(os.getpid())


class TestWrk:
    def test_what_it_told_last_counts(self) -> None:
        output = (
            b"Running 3s test\n  1 threads\n"
            b'{"requests":30,"microseconds":1500000,"others":{"0":0,"status":0}}\n'
        )

        result = wrk.result_of(output, own_cpu_s=0.25, watched_cpu_s=1.0)

        assert result == load.Result(30, 1.5, 0.25, 1.0, {})

    def test_refusals_are_not_counted_as_accepted(self) -> None:
        output = b'{"requests":30,"microseconds":1000000,"others":{"0":2,"status":7}}\n'

        result = wrk.result_of(output, own_cpu_s=0.0, watched_cpu_s=0.0)

        assert result.requests == 23
        assert result.others == {"0": 2, "status": 7}


class TestLatency:
    def test_half_load_is_measured_beside_the_common_rate(self) -> None:
        assert rates_to_measure(1_800.0, 500.0) == [500.0, 1_800.0]

    def test_a_common_rate_above_half_load_is_left_out(self) -> None:
        assert rates_to_measure(300.0, 500.0) == [300.0]
        assert rates_to_measure(500.0, 500.0) == [500.0]

    def test_leaves_out_the_warm_up(self) -> None:
        assert milliseconds([0.0, 1.0, 2.0], [9.0, 1.5, 2.25], 1) == [500.0, 250.0]


class TestServed:
    def test_counts_from_the_first_send_to_the_last_arrival(self) -> None:
        served = Served()

        served.note([10.0, 10.5, 11.0], {0: 10.1, 1: 12.0, 2: 11.5}, until=12.1)

        assert served.rates == [1.5]
        assert served.latencies_ms == pytest.approx([100.0, 1500.0, 500.0])
        assert served.arrived_percent == 100.0

    def test_what_did_not_arrive_counts_with_the_time_that_it_took_so_far(self) -> None:
        served = Served()

        served.note([10.0, 10.0], {0: 10.5}, until=20.0)

        assert served.rates == [0.1]
        assert served.percentile_ms(99) == 10_000.0
        assert served.arrived_percent == 50.0


class TestReceiver:
    def test_notes_nothing_that_is_left_over(self) -> None:
        log = receiver.Log()
        log.obey(receiver.Expect(0, first=7))

        for number in (6, 7, 8):
            log.arrive(number)

        assert log.arrived == 2


class TestSimulation:
    def test_serves_all_that_arrives(self) -> None:
        users = Users("user", 1, 3)
        simulation = Simulation(users, Users("stuck", 2, 1), lambda: 1.0)

        for _ in range(4):
            simulation.step([users.of(n % 3) for n in range(BATCH)])

        assert simulation.acknowledged == 4 * BATCH
        assert simulation.failed == 0

    def test_gets_back_what_a_deep_lane_left_at_the_broker(self) -> None:
        deep = Users("stuck", 2, 1)
        simulation = Simulation(Users("user", 1, 1), deep, lambda: 1.0)
        simulation.fails = False
        for _ in range(6):
            simulation.hold([deep.of(0) for _ in range(BATCH)])

        simulation.pass_time(5.0)

        assert simulation.acknowledged == 6 * BATCH

    def test_tries_again_what_failed(self) -> None:
        users, stuck = Users("user", 1, 1), Users("stuck", 2, 3)
        simulation = Simulation(users, stuck, lambda: 1.0)

        simulation.step([stuck.of(0), stuck.of(1), users.of(0)])
        # For users not seen before it is waited a moment whether more comes.
        simulation.pass_time(0.25)
        assert (simulation.failed, simulation.acknowledged) == (2, 1)

        simulation.pass_time(2.0)
        assert simulation.failed == 4


class TestArguments:
    def test_everything_is_measured_unless_parts_are_named(self) -> None:
        arguments = read_arguments([])

        assert arguments.parts == [*PARTS, *ALONE]
        assert arguments.output.name == "bench.json"

    def test_parts_have_an_output_of_their_own(self) -> None:
        arguments = read_arguments(["depth", "cost", "--quick"])

        assert arguments.parts == ["depth", "cost"]
        assert arguments.output.name == "bench-depth-cost.json"

    def test_an_unknown_part_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            read_arguments(["speed"])

        assert "no such part: speed" in capsys.readouterr().err


def test_metrics_are_summed_over_their_labels() -> None:
    text = '# TYPE a_total counter\na_total{x="1"} 2.0\na_total{x="2"} 3.0\nb 1e+06\n'

    assert sums(text) == {"a_total": 5.0, "b": 1e6}


def test_what_was_stolen_is_told_for_any_time() -> None:
    stolen = Stolen()
    stolen.looks = [Look(0.0, 0, 0), Look(1.0, 0, 200), Look(2.0, 50, 400), Look(3.0, 50, 600)]

    assert stolen.share(0.0, 1.5) == 0
    assert stolen.share(1.0, 3.0) == 0.25
    assert stolen.share(1.0, 1.5) == 0


def test_a_look_at_the_machine_finds_some_of_its_time_stolen_or_none() -> None:
    stolen = Stolen()

    with stolen.watching():
        pass

    assert all(0 <= look.stolen < look.all for look in stolen.looks)
    assert bool(stolen.looks) == Path("/proc/stat").exists()


def test_rounds_are_interleaved_and_begin_with_each_arm_in_turn() -> None:
    rounds = list(interleaved(["a", "b"], 3))

    assert rounds == [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b")]


class TestReport:
    figures = (
        Figure("in", "rate", "events/s", [30_123.4], "bare", [33_000.0], is_more_better=True),
        Figure("out", "rate", "events/s", [9.0], "bare", [8.0], at_least=AT_LEAST),
        Figure("memory", "worker", "MiB", [math.nan]),
        Figure("held", "memory", "bytes", [800.0], value_at_most=400.0, details={"before": 1.5}),
    )

    def test_tree_says_all_of_a_figure(self) -> None:
        tree = report.as_tree(self.figures, {"cores": 2}, QUICK, 12.34)

        assert tree["version"] == report.VERSION
        assert tree["machine"]["cores"] == 2
        assert tree["figures"][1] == {
            "section": "out",
            "name": "rate",
            "unit": "events/s",
            "value": 9.0,
            "rounds": [9.0],
            "better": "lower",
            "yardstick": {"name": "bare", "value": 8.0, "rounds": [8.0]},
            "ratio": 1.125,
            "accepted": {"ratio_at_least": AT_LEAST, "is_met": True},
        }
        assert tree["figures"][2]["value"] is None, "JSON has no NaN"
        assert "ratio" not in tree["figures"][2]
        assert tree["figures"][3]["accepted"] == {"value_at_most": 400.0, "is_met": False}
        assert tree["figures"][3]["details"] == {"before": 1.5}

    def test_table_has_a_line_a_figure(self) -> None:
        lines = report.as_table(self.figures, {"cores": 2}).splitlines()

        (rate,) = [line for line in lines if "30,123" in line]
        assert rate.split() == ["rate", "30,123", "events/s", "33,000", "bare", "0.91"]
        assert any(line.endswith("met: at least 0.9") for line in lines)
        assert any(line.endswith("MISSED: at most 400") for line in lines)
        assert "worker" in "".join(lines)
        assert lines[-1] == "cores 2"
