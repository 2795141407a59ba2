"""What the documents say is what the code does.

A table that is checked has `<!-- table: NAME -->` right above it. When one fails, the difference
shows the rows as they have to be.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from random import Random

import pytest
from prometheus_client.core import Metric

from dispatch.delivery import Delivery
from dispatch.destinations.webhook import WebhookDestination
from dispatch.lanes import Lanes
from dispatch.metrics import WorkerMetrics
from dispatch.once.book import OnceCounts
from dispatch.options import LaneOptions
from dispatch.pace import Pace, PaceOptions
from dispatch.partition import FINISHED_KEPT, FINISHED_KEPT_S
from dispatch.retry import Backoff, Reason, RetryPolicy
from ingest import problems
from ingest.metrics import Metrics
from keylane.broker import REDELIVERY_BURST, REDELIVERY_INTERVAL_S, Position
from keylane.settings import Settings, all_settings
from keylane.sources import Setting
from keylane.topics import BACKLOG_BYTES, RETENTION_MB, RETENTION_MINUTES
from operate import exits
from tests.commandline import commands, parse

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PATHS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

Row = tuple[str, ...]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def table(document: str, name: str) -> list[Row]:
    """The rows below the heading of the table with this marker."""
    _, marker, rest = text_of(document).partition(f"<!-- table: {name} -->\n")
    assert marker, f"{document} has no table {name}"
    lines = rest.split("\n\n")[0].splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines[2:]]


def first_words(rows: Iterable[Row]) -> list[str]:
    return [re.sub(r"`", "", row[0]) for row in rows]


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def flat(text: str) -> str:
    return " ".join(text.split())


# Settings


def options() -> dict[str, str]:
    """Every option by the setting that it sets, both as the commands name them."""
    found = {p.name: p.opts[0] for command in commands().values() for p in command.params}
    # The only settings whose options are the command's own.
    return found | {f"destinations_NAME_{name}": found[name] for name in ("to", "start")}


def setting_row(setting: Setting, option: str) -> Row:
    assert setting.field.description
    return (code(setting.variable), code(option), code(setting.default), setting.field.description)


def test_the_table_of_settings_has_each_with_its_option_its_default_and_its_unit() -> None:
    by_setting = options()
    wanted = [
        setting_row(setting, by_setting.get("_".join(path), ""))
        for path, setting in all_settings().items()
    ]

    assert table("README.md", "settings") == wanted


# Metrics


def families() -> Iterator[tuple[str, Metric]]:
    served = Metrics(lambda: 0, [kind.name for kind in problems.KINDS])
    pace = Pace(PaceOptions())
    lanes = Lanes(LaneOptions())
    worker = WorkerMetrics("crm", lambda: lanes.statistics(0.0), lambda: pace.figures(0.0))
    worker.add_once(OnceCounts())
    worker.counts.attempts["delivered"] += 1
    worker.counts.dead_letters[Reason.REJECTED] += 1
    for family in served.registry.collect():
        yield "ingest", family
    for family in worker.registry.collect():
        yield "dispatch", family


def metric_row(family: Metric, where: str) -> Row:
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
    labels.pop("le", None)
    return code(name), where, ", ".join(map(code, labels)), family.documentation


def test_the_table_of_metrics_has_each_with_its_labels() -> None:
    places: dict[str, list[str]] = {}
    by_name: dict[str, Metric] = {}
    for where, family in families():
        if family.name.startswith("keylane_"):
            places.setdefault(family.name, []).append(where)
            by_name[family.name] = family
    wanted = [metric_row(by_name[name], ", ".join(where)) for name, where in places.items()]

    assert table("README.md", "metrics") == wanted


# Commands


def test_the_table_of_commands_has_each_of_them() -> None:
    named = [
        re.sub(r"^keylane ", "", words) for words in first_words(table("README.md", "commands"))
    ]
    without_arguments = [re.split(r" (?=[A-Z\[-])", words)[0] for words in named]

    assert sorted(without_arguments) == sorted(commands())


def test_the_table_of_exit_codes_has_each_of_them() -> None:
    codes = {
        value
        for name, value in vars(exits).items()
        if name.isupper() and isinstance(value, int) and not name.startswith("_")
    }

    assert [int(word) for word in first_words(table("README.md", "exit codes"))] == sorted(codes)


def shell_lines(document: str) -> Iterator[list[str]]:
    """Every line of a shell block, as words; what is quoted may hold line breaks."""
    for block in re.findall(r"```sh\n(.*?)```", text_of(document), re.DOTALL):
        line = ""
        for part in re.sub(r"\\\n\s*", " ", block).splitlines():
            line += part + "\n"
            if line.count("'") % 2 == 0:
                yield shlex.split(line, comments=True)
                line = ""
        assert not line, f"{document} has a quotation without an end: {line}"


@pytest.mark.parametrize("document", PATHS)
def test_every_keylane_command_in_a_document_is_one_that_keylane_takes(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    for words in shell_lines(document):
        if words and words[0].endswith("keylane"):
            parse([*takewhile(lambda word: word not in {"&", ">", "|"}, words[1:])])


@pytest.mark.parametrize("document", PATHS)
def test_every_make_target_in_a_document_is_in_the_makefile(document: str) -> None:
    targets = re.findall(r"^(\w+):", text_of("Makefile"), re.MULTILINE)

    for target in re.findall(r"(?:`|^)make (\w+)", text_of(document), re.MULTILINE):
        assert target in targets


# HTTP


def test_the_table_of_answers_has_every_kind_of_problem_with_its_status() -> None:
    wanted = {(str(kind.status), code(kind.type)) for kind in problems.KINDS}

    for document in ("README.md", "docs/http.md"):
        rows = table(document, "answers")
        assert rows[0][0] == "202"
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        assert {row[:2] for row in rows[1:]} == wanted


def test_every_status_has_an_example() -> None:
    shown = set(re.findall(r"^HTTP/1\.1 (\d+) ", text_of("docs/http.md"), re.MULTILINE))

    assert shown == {"202", *(str(kind.status) for kind in problems.KINDS)}


def test_every_example_of_a_problem_is_one_that_exists() -> None:
    shown = set(re.findall(r'"type": "([^"]+)"', text_of("docs/http.md")))

    assert shown <= {kind.type for kind in problems.KINDS}


@dataclass(frozen=True)
class Message:
    """What a broker hands over."""

    key: str = "user-1"
    position: Position = (1, 2, -1)
    redelivery_count: int = 0
    event_time_ms: int = 0
    publish_time_ms: int = 0

    def value(self) -> bytes:
        return b"{}"

    def properties(self) -> dict[str, str]:
        return {"traceparent": "00-1-2-01", "tracestate": "a=b"}


async def test_the_table_of_headers_has_each_that_a_webhook_gets() -> None:
    webhook = WebhookDestination(
        "http://localhost", timeout_s=1, concurrency=1, secret="whsec_c2VjcmV0"
    )
    lines = webhook._request_headers(Delivery(Message(), 0, 1))
    await webhook.close()
    sent = [re.split("[:;]", line)[0] for line in lines if not line.endswith(":")]

    assert sorted(first_words(table("README.md", "headers"))) == sorted(sent)


# Numbers


def test_the_longest_hold_up_is_what_the_policy_computes() -> None:
    set_ = Settings().dispatch
    policy = RetryPolicy(
        max_attempts=set_.max_attempts,
        max_age_s=set_.max_age_s,
        backoff=Backoff(
            set_.backoff_min_s, set_.backoff_max_s, set_.backoff_multiplier, set_.jitter
        ),
        rng=Random(1),
    )
    waiting_s = policy.worst_case_s()
    attempts_s = set_.max_attempts * set_.timeout_s
    asked_for_s = (set_.max_attempts - 1) * set_.backoff_max_s

    for document in ("README.md", "docs/delivery.md"):
        text = flat(text_of(document))
        assert f"{waiting_s:.0f} s of waiting" in text
        assert f"{waiting_s + attempts_s:.0f} s in all" in text
        assert f"{(asked_for_s + attempts_s) / 60:.0f} minutes" in text


def test_the_numbers_of_the_lanes_rules_are_those_of_the_code() -> None:
    lanes = LaneOptions()
    of_lanes = {field.name: getattr(lanes, field.name) for field in fields(lanes)}
    wanted = {name: value for name, value in of_lanes.items() if value != lanes.holding} | {
        "gate_events": lanes.gate_events,
        "FINISHED_KEPT_S": FINISHED_KEPT_S,
        "FINISHED_KEPT": FINISHED_KEPT,
        "REDELIVERY_BURST": REDELIVERY_BURST,
        "REDELIVERY_INTERVAL_S": REDELIVERY_INTERVAL_S,
        "BACKLOG_BYTES": BACKLOG_BYTES,
        "RETENTION_MINUTES": RETENTION_MINUTES,
        "RETENTION_MB": RETENTION_MB,
    }
    rows = table("docs/delivery.md", "numbers")

    assert {name: row[1] for name, row in zip(first_words(rows), rows, strict=True)} == {
        name: f"{value:,g}" if isinstance(value, float) else f"{value:,}"
        for name, value in wanted.items()
    }


def test_the_readme_names_every_reason_of_a_dead_letter() -> None:
    assert set(first_words(table("README.md", "reasons"))) == set(Reason)


# Links and words


@pytest.mark.parametrize("document", PATHS)
def test_every_link_to_a_file_leads_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(document))

    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("document", PATHS)
def test_every_source_file_that_is_named_exists(document: str) -> None:
    named = re.findall(
        r"`((?:keylane|ingest|dispatch|operate|tests|docs)/[\w/.]+\.\w+)`", text_of(document)
    )

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    first_block = text_of("README.md").split("```")[1]

    assert first_block == "sh\nmake demo\nmake test\n"


def test_decisions_are_short_and_contributing_is_too() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    assert len(text_of("CONTRIBUTING.md").splitlines()) <= 60
