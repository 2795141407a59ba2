from __future__ import annotations

import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keylane.errors import ConfigurationError, MissingPiece
from operate.broker import distribution, java
from operate.broker.config import (
    BrokerPorts,
    LaunchPlan,
    broker_settings,
    process_settings,
    render_standalone_conf,
)
from operate.broker.container import container_environment, engine_answers
from operate.broker.distribution import NOTHING_FOUND, PULSAR_VERSION, find_distribution
from operate.broker.local import DataFolder, LocalBroker, telling_lines
from operate.broker.places import path_without_spaces, records_dir
from operate.broker.ports import FREE_PORTS, HOST, choose_port
from operate.broker.process import ProcessIdentity
from operate.broker.records import BrokerRecord, all_records, find_record

PORTS = BrokerPorts(service=21_650, admin=21_080, bookie=21_181)


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PULSAR_HOME", raising=False)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        yield child
        child.kill()


# The settings


def test_a_setting_replaces_the_shipped_line_and_keeps_the_others() -> None:
    shipped = "# a comment\nwebServicePort=8080\nbookiePort=3181"

    rendered = render_standalone_conf(shipped, {"webServicePort": "21080", "new": "1"})

    assert rendered.splitlines() == [
        "# a comment",
        "bookiePort=3181",
        "",
        "webServicePort=21080",
        "new=1",
    ]


def test_the_last_shipped_line_may_lack_its_newline_and_ours_has_one() -> None:
    rendered = render_standalone_conf("a=1", {"b": "2"})

    assert rendered == "a=1\n\nb=2\n"


def test_limits_that_let_one_user_stop_others_are_lifted() -> None:
    settings = broker_settings(PORTS, {})

    assert settings["maxUnackedMessagesPerConsumer"] == "0"
    assert settings["maxUnackedMessagesPerSubscription"] == "0"
    assert settings["managedLedgerMaxUnackedRangesToPersist"] == "200000"
    assert settings["managedLedgerPersistIndividualAckAsLongArray"] == "false"


def test_settings_asked_for_win_over_ours() -> None:
    settings = broker_settings(PORTS, {"maxUnackedMessagesPerConsumer": "7"})

    assert settings["maxUnackedMessagesPerConsumer"] == "7"


def test_own_listeners_leave_no_advertised_address_beside_them() -> None:
    settings = broker_settings(PORTS, {"advertisedListeners": "internal:pulsar://127.0.0.1:21650"})

    assert "advertisedAddress" not in settings


def test_only_this_machine_can_reach_the_broker() -> None:
    assert process_settings()["bindAddress"] == HOST
    assert process_settings()["listeningInterface"].startswith("lo")


def test_a_container_listens_on_the_ports_that_it_tells_to_clients(tmp_path: Path) -> None:
    plan = LaunchPlan(PORTS, tmp_path, True, False, {"extra": "yes"})

    environment = container_environment(plan)

    assert environment["PULSAR_PREFIX_brokerServicePort"] == "21650"
    assert environment["PULSAR_PREFIX_webServicePort"] == "21080"
    assert environment["PULSAR_PREFIX_advertisedAddress"] == HOST
    assert environment["PULSAR_PREFIX_extra"] == "yes"
    assert "PULSAR_PREFIX_bindAddress" not in environment


def test_a_broker_for_minutes_compiles_less_than_one_that_is_to_last(tmp_path: Path) -> None:
    lasting = LaunchPlan(PORTS, tmp_path, True, False, {})
    brief = replace(lasting, is_short_lived=True)

    assert "TieredStopAtLevel" not in container_environment(lasting)["PULSAR_GC"]
    assert container_environment(brief)["PULSAR_GC"].endswith(" -XX:TieredStopAtLevel=1")


def test_a_broker_logs_what_its_owner_wants_to_know(tmp_path: Path) -> None:
    plan = LaunchPlan(PORTS, tmp_path, True, False, {})
    quiet = replace(plan, log_level="warn")

    assert container_environment(plan)["PULSAR_LOG_LEVEL"] == "info"
    assert container_environment(quiet)["PULSAR_LOG_LEVEL"] == "warn"


@pytest.mark.parametrize(("processors", "is_given"), [(None, True), (2, True), (3, False)])
def test_java_has_a_pool_of_threads_where_it_would_begin_one_for_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int | None, is_given: bool
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: processors)

    flags = LaunchPlan(PORTS, tmp_path, True, False, {}).java_flags

    assert ("ForkJoinPool" in flags) is is_given
    assert flags == flags.strip()


class Fighting:
    """A broker that comes up with a lock that it fights over, so many times."""

    def __init__(self, log: Path, times: int) -> None:
        self.log, self.times = log, times
        self.did: list[str] = []
        self.identity = None

    def launch(self) -> None:
        self.did.append("launch")
        self.log.write_bytes(b"healthy\n")
        self.times -= 1

    def log_file(self) -> Path:
        if self.times >= 0:
            with self.log.open("ab") as log:
                log.write(
                    b"Lock on resource /ledgers/available/x was invalidated. state Valid\n" * 5
                )
        return self.log

    def halt(self) -> None:
        self.did.append("halt")

    def is_alive(self) -> bool:
        return True


@pytest.mark.parametrize(("times", "starts"), [(0, 1), (2, 3), (9, 4)])
def test_a_broker_that_comes_back_and_fights_over_a_dead_ones_lock_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, starts: int
) -> None:
    run: Any = Fighting(tmp_path / "broker.log", times)
    broker = LocalBroker(run, PORTS, DataFolder(tmp_path, True))
    monkeypatch.setattr(broker, "wait_healthy", lambda: None)

    began_at = time.monotonic()

    ended_again = broker.restart()

    assert run.did == ["halt", "launch"] * starts
    # Whoever judges what was delivered has to know when it went away once more.
    assert len(ended_again) == starts - 1
    moments = [began_at, *(moment for span in ended_again for moment in span), time.monotonic()]
    assert moments == sorted(moments)


# Ports


def test_a_free_port_is_below_those_of_outgoing_connections_and_not_taken() -> None:
    drawn = [choose_port(0, "--service-port") for _ in range(20)]

    assert all(port in FREE_PORTS for port in drawn)
    assert max(FREE_PORTS) < 32_768
    with pytest.raises(ConfigurationError, match=r"No port is free.*--service-port"):
        choose_port(0, "--service-port", taken=frozenset(FREE_PORTS))


def test_a_fixed_port_in_use_is_refused_with_the_option_that_changes_it() -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]

        with pytest.raises(ConfigurationError, match=rf"^Port {port} is in use.*--admin-port"):
            choose_port(port, "--admin-port")


def test_one_port_is_not_given_out_twice() -> None:
    port = free_port()

    assert choose_port(port, "--service-port") == port
    with pytest.raises(ConfigurationError, match=f"Port {port} is in use"):
        choose_port(port, "--admin-port", taken=frozenset({port}))


# Who runs under a pid


def test_a_process_is_known_by_pid_and_start(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)

    assert identity is not None
    assert identity.is_alive()


def test_a_later_process_of_the_same_pid_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    earlier = ProcessIdentity(sleeper.pid, "an earlier start")

    earlier.end(grace_s=0.2)

    assert not earlier.is_alive()
    assert sleeper.poll() is None


def test_a_process_that_ended_but_was_not_waited_for_is_gone(
    sleeper: subprocess.Popen[bytes],
) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    assert identity is not None

    sleeper.kill()  # a zombie from here on

    assert identity.wait_gone(within_s=5)


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        ["sh", "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None

        identity.end(grace_s=0.2)

        assert child.wait(5) == -9


# What is on record


def test_a_record_is_found_again_by_its_port(sleeper: subprocess.Popen[bytes]) -> None:
    record = record_of(sleeper.pid)
    record.save()

    assert find_record(PORTS.service) == record
    assert find_record(PORTS.service + 1) is None
    assert all_records() == [record]


def test_ending_a_record_ends_its_process_and_its_temporary_data(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    record = record_of(sleeper.pid, data)
    record.save()

    record.end()

    assert sleeper.wait(5) == -15
    assert not data.exists()
    assert all_records() == []


def test_a_record_of_another_process_with_its_pid_harms_nobody(
    sleeper: subprocess.Popen[bytes],
) -> None:
    stranger = ProcessIdentity(sleeper.pid, "an earlier start")
    record = BrokerRecord(21_650, 21_080, "", False, stranger, None)
    record.save()

    record.end()

    assert sleeper.poll() is None
    assert all_records() == []


def test_an_unreadable_record_counts_as_none(sleeper: subprocess.Popen[bytes]) -> None:
    record_of(sleeper.pid).save()
    next(records_dir().glob("*.json")).write_text("{")

    assert find_record(PORTS.service) is None
    assert all_records() == []


# What the machine lacks


def test_without_docker_distribution_and_maven_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingPiece) as missing:
        find_distribution(nobody)

    assert str(missing.value) == NOTHING_FOUND
    assert all(word in NOTHING_FOUND for word in ("Docker", "Maven", "PULSAR_HOME"))


def test_a_pulsar_home_that_holds_no_pulsar_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSAR_HOME", str(tmp_path))

    with pytest.raises(MissingPiece, match="PULSAR_HOME"):
        find_distribution(nobody)


def test_a_given_pulsar_home_comes_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_distribution(tmp_path / "own")
    monkeypatch.setenv("PULSAR_HOME", str(home))

    assert find_distribution(nobody) == home


def test_a_folder_that_pulsars_scripts_cannot_run_from_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_distribution(tmp_path / "with space")
    monkeypatch.setenv("PULSAR_HOME", str(home))

    with pytest.raises(MissingPiece, match="space in its path"):
        find_distribution(nobody)


def test_a_socket_without_an_engine_behind_it_is_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")

    assert not engine_answers()


@pytest.mark.parametrize(
    ("answer", "is_one"), [(b"HTTP/1.1 200 OK", True), (b"HTTP/1.1 500 Down", False)]
)
def test_an_engine_is_one_that_answers_its_ping_well(
    answer: bytes, is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(f"{tmp_path}/docker.sock")
        engine.listen()
        answering = threading.Thread(target=answer_ping, args=(engine, answer))
        answering.start()

        assert engine_answers() is is_one
        answering.join()


# Java


def test_a_java_that_is_too_old_is_passed_over_for_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_java(tmp_path / "old", version="11")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert java.find_java_home() == java.bundled_java_home()


def test_a_java_that_is_new_enough_is_taken_by_the_home_it_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_java(tmp_path / "good", version="17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "good"))

    assert java.find_java_home() == Path("/told/by/java")


def test_without_any_java_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(java, "bundled_java_home", lambda: None)

    with pytest.raises(MissingPiece, match=r"Java 17 or newer is needed: install"):
        java.find_java_home()


def test_a_path_with_a_space_gets_a_link_without_one(tmp_path: Path) -> None:
    spaced = tmp_path / "my data"
    spaced.mkdir()

    link = path_without_spaces(spaced)

    assert " " not in str(link)
    assert link.resolve() == spaced
    assert path_without_spaces(spaced) == link
    assert path_without_spaces(tmp_path) == tmp_path


# The download


def test_two_that_download_at_once_do_it_once_and_both_get_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = make_maven(tmp_path, monkeypatch, "sleep 0.3; cp {archive} {out}/pulsar-bin.tar.gz")
    homes: list[Path] = []
    both = [
        threading.Thread(target=lambda: homes.append(find_distribution(nobody))) for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()

    assert homes == [tmp_path / "cache" / "keylane" / f"pulsar-{PULSAR_VERSION}"] * 2
    assert (homes[0] / "bin" / "pulsar").stat().st_mode & stat.S_IXUSR
    assert calls.read_text().count("called") == 1


def test_a_download_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_maven(tmp_path, monkeypatch, "echo '[ERROR] no network'; exit 1")

    with pytest.raises(MissingPiece, match="no network"):
        find_distribution(nobody)

    assert downloads(tmp_path) == []


def test_it_is_unpacked_by_a_python_that_knows_no_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian 12 has 3.11.2."""
    make_maven(tmp_path, monkeypatch, "cp {archive} {out}/pulsar-bin.tar.gz")
    extract = tarfile.TarFile.extractall
    of_now: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}

    def of_then(archive: tarfile.TarFile, path: Path) -> None:
        extract(archive, path, **of_now)

    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", of_then)

    assert (find_distribution(nobody) / "bin" / "pulsar").is_file()


def test_a_half_download_never_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_maven(tmp_path, monkeypatch, "head -c 90 {archive} > {out}/pulsar-bin.tar.gz")

    with pytest.raises(MissingPiece, match="damaged"):
        find_distribution(nobody)

    assert downloads(tmp_path) == []


def test_what_a_killed_download_left_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_maven(tmp_path, monkeypatch, "cp {archive} {out}/pulsar-bin.tar.gz")
    left = tmp_path / "cache" / "keylane" / f"pulsar-{PULSAR_VERSION}.partial-left"
    left.mkdir(parents=True)

    find_distribution(nobody)

    assert [f"pulsar-{PULSAR_VERSION}"] == downloads(tmp_path)


# What a failed start says


def test_the_lines_that_say_why_are_picked_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("INFO starting\nERROR cannot start\n\tat a.b.c\nCaused by: no disk\nINFO bye\n")

    assert telling_lines(log) == ["ERROR cannot start", "Caused by: no disk"]


def test_without_such_lines_the_last_ones_are_told(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("".join(f"line {n}\n" for n in range(10)))

    assert telling_lines(log, at_most=2) == ["line 8", "line 9"]
    assert telling_lines(tmp_path / "none") == []


# Helpers


def nobody(_line: str) -> None:
    """Progress that nobody reads."""


def free_port() -> int:
    return choose_port(0, "")


def record_of(pid: int, data: Path | None = None) -> BrokerRecord:
    return BrokerRecord(
        service_port=PORTS.service,
        admin_port=PORTS.admin,
        data_dir=str(data or ""),
        data_is_temporary=data is not None,
        process=ProcessIdentity.of(pid),
        container=None,
    )


def downloads(tmp_path: Path) -> list[str]:
    found = (tmp_path / "cache" / "keylane").iterdir()
    return sorted(path.name for path in found if path.suffix != ".lock")


def make_distribution(home: Path) -> Path:
    (home / "bin").mkdir(parents=True)
    make_program(home / "bin" / "pulsar", "exit 0")
    return home


def make_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def make_java(home: Path, version: str) -> None:
    (home / "bin").mkdir(parents=True)
    make_program(
        home / "bin" / "java",
        f"echo '    java.home = /told/by/java' >&2\n"
        f"echo '    java.specification.version = {version}' >&2",
    )


def make_maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A `mvn` on the PATH that does `script`; returns the file in which it notes its calls."""
    home = make_distribution(tmp_path / "made" / "apache-pulsar")
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(home, arcname=home.name)
    calls = tmp_path / "calls"
    programs = tmp_path / "programs"
    programs.mkdir()
    body = script.format(archive=archive, out='"$out"')
    make_program(
        programs / "mvn",
        f'echo called >> {calls}\nfor last; do :; done\nout="${{last#-DoutputDirectory=}}"\n{body}',
    )
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert distribution.ARTIFACT.endswith(":tar.gz:bin")
    return calls


def answer_ping(engine: socket.socket, answer: bytes) -> None:
    connection, _ = engine.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(answer + b"\r\n\r\n")
