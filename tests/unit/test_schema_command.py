"""`keylane schema check` and `validate`, as they are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from keylane.errors import KeylaneError
from operate.exits import exit_code_of
from operate.schema import schema_app
from tests.unit.test_schema_binary import message

OLD: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "string"}, "state": {"enum": ["new", "paid"]}},
    "additionalProperties": False,
}
WIDER = {**OLD, "properties": {**OLD["properties"], "note": {"type": "string"}}}
NARROWER = {**OLD, "required": ["id", "state"]}


@pytest.fixture(autouse=True)
def _in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, schema in (("old", OLD), ("wider", WIDER), ("narrower", NARROWER)):
        Path(f"{name}.json").write_text(json.dumps(schema))


def run(*words: str, code: int = 0, stdin: str = "") -> Result:
    done = CliRunner().invoke(schema_app, words, input=stdin, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def test_a_version_that_takes_more_is_backward_compatible() -> None:
    assert run("check", "old.json", "wider.json").stdout == (
        "compatibility: backward\n"
        "backward: NEW accepts everything that OLD accepts\n"
        "not forward: OLD does not accept everything that NEW accepts\n"
        "  /note  property removed, and others are not allowed\n"
    )


def test_a_version_that_takes_less_ends_with_1_and_says_why() -> None:
    told = json.loads(run("check", "old.json", "narrower.json", "--json", code=1).stdout)

    assert told == {
        "compatibility": "forward",
        "language": "JSON",
        "backward": [{"path": "/state", "why": "required property added", "certain": True}],
        "forward": [],
    }


def test_the_same_version_is_compatible_both_ways() -> None:
    assert run("check", "old.json", "old.json").stdout.startswith("compatibility: full\n")


def test_what_can_not_be_decided_is_called_unknown() -> None:
    Path("not.json").write_text('{"not": {"type": "null"}}')

    told = run("check", "old.json", "not.json", code=1).stdout
    assert "not backward: NEW may not accept" in told
    assert "  /  unknown: not: can't be compared" in told


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("bad.json", b"{", "is not JSON"),
        ("bad.json", b'{"type": "strin"}', "/type"),
        ("bad.json", b'{"$ref": "nowhere.json"}', "leads to no schema"),
        ("bad.avsc", b'{"type": "record"}', "no Avro definition"),
        ("bad.desc", b"\xff", "no Protobuf descriptor set"),
        ("bad.xsd", b"", "its name has to end in"),
        ("good.avsc", b'"string"', "good.avsc is Avro"),
    ],
)
def test_a_file_that_is_no_schema_ends_with_65(name: str, content: bytes, why: str) -> None:
    Path(name).write_bytes(content)

    with pytest.raises(KeylaneError, match=why) as caught:
        run("check", "old.json", name)
    assert exit_code_of(caught.value) == 65


@pytest.mark.parametrize(
    "words",
    [
        "check old.json",
        "check old.json nowhere.json",
        "validate old.json nowhere.jsonl",
        "check . .",
    ],
)
def test_what_can_not_be_understood_ends_with_2(words: str) -> None:
    run(*words.split(), code=2)


def test_a_reference_to_a_file_beside_is_followed() -> None:
    for folder, kind in (("v1", "string"), ("v2", "integer")):
        Path(folder).mkdir()
        Path(folder, "id.json").write_text(json.dumps({"type": kind}))
        Path(folder, "order.json").write_text('{"properties": {"id": {"$ref": "id.json"}}}')

    told = run("check", "v1/order.json", "v2/order.json", code=1).stdout
    assert "  /id  type narrowed: a string is no longer accepted" in told
    run("check", "v1/order.json", "v1/order.json")


def test_payloads_that_fit_end_with_0() -> None:
    done = run("validate", "old.json", "-", stdin='{"id": "a"}\n\n{"id": "b", "state": "new"}\n')

    assert done.stdout == "2 checked, 0 unfit.\n"


def test_payloads_that_do_not_fit_are_named_by_line_and_end_with_65() -> None:
    Path("p.jsonl").write_bytes(b'{"id": "a"}\n{"id": 1, "x": 2}\n\nnope\n' + b"[" * 5_000)

    told = run("validate", "old.json", "p.jsonl", code=65).stdout.splitlines()
    assert told[0] == "line 2: /id must be a string, is a number"
    assert told[1] == "line 2: /x is not allowed"
    assert told[2].startswith("line 4: / ")
    assert told[3].startswith("line 5: / ")
    assert told[-1] == "4 checked, 3 unfit."

    data = json.loads(run("validate", "old.json", "p.jsonl", "--json", code=65).stdout)
    assert (data["checked"], data["unfit"], data["errors"][0]["line"]) == (4, 3, 2)


def test_avro_and_protobuf_payloads_are_written_as_json() -> None:
    Path("r.avsc").write_text(
        '{"type": "record", "name": "R", "fields": [{"name": "a", "type": ["null", "int"]}]}'
    )
    Path("m.desc").write_bytes(message(("a", 1, "int32")))

    run("validate", "r.avsc", "-", stdin='{"a": 1}\n{}\n')
    run("validate", "m.desc", "-", stdin='{"a": 1}\n{}\n')
    assert (
        "/a must be null or int"
        in run("validate", "r.avsc", "-", stdin='{"a": "x"}', code=65).stdout
    )
    assert 'no field named "b"' in run("validate", "m.desc", "-", stdin='{"b": 1}', code=65).stdout
