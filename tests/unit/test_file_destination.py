from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dispatch.delivery import Delivery
from dispatch.destinations.file import FileDestination
from dispatch.outcome import Delivered, Malformed, Outcome, Unavailable
from keylane.errors import ConfigurationError
from tests.messages import BrokenMessage, make_delivery


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "events.jsonl"


async def write(path: Path, *deliveries: Delivery) -> Sequence[Outcome]:
    destination = FileDestination(path)
    try:
        return destination.attempt_all(deliveries)
    finally:
        await destination.close()


def written(path: Path) -> str:
    return path.read_text()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in written(path).splitlines()]


async def test_a_delivery_is_one_line_with_everything_a_reader_needs(path: Path) -> None:
    (outcome,) = await write(path, make_delivery(b'{"a": 1}', attempt=2))

    assert outcome == Delivered()
    (line,) = lines(path)
    assert line.pop("delivered_at") is not None
    assert line == {
        "id": "event-1",
        "user": "Ada",
        "payload": {"a": 1},
        "attempt": 2,
        "position": "0:7:3",
    }


async def test_numbers_and_key_order_of_a_payload_stay_as_they_were_sent(path: Path) -> None:
    payload = b'{"z":1.0,"a":1e2,"n":12345678901234567890123}'
    await write(path, make_delivery(payload))
    assert payload.decode() in written(path)


async def test_a_payload_with_line_breaks_stays_one_line(path: Path) -> None:
    await write(path, make_delivery(b'{\n "a":\r\n "x\\ny"\n}'))
    (line,) = lines(path)
    assert line["payload"] == {"a": "x\ny"}


@pytest.mark.parametrize(
    ("payload", "written"),
    [(b"plain text", "plain text"), (b"", ""), (b"\xff\x00", {"base64": "/wA="})],
)
async def test_a_payload_that_is_not_json_is_kept_too(
    path: Path, payload: bytes, written: object
) -> None:
    await write(path, make_delivery(payload))
    assert lines(path)[0]["payload"] == written


async def test_what_is_there_is_appended_to(path: Path) -> None:
    for _ in range(2):
        await write(path, make_delivery(b"1"), make_delivery(b"2"))
    assert [line["payload"] for line in lines(path)] == [1, 2, 1, 2]


async def test_a_message_that_can_not_be_read_is_malformed_and_the_others_are_written(
    path: Path,
) -> None:
    outcomes = await write(
        path, make_delivery(b"1"), Delivery(BrokenMessage(), 0, 1), make_delivery(b"3")
    )
    assert [type(o) for o in outcomes] == [Delivered, Malformed, Delivered]
    assert [line["payload"] for line in lines(path)] == [1, 3]


async def test_a_full_disk_is_worth_a_retry_and_leaves_no_half_line() -> None:
    outcomes = await write(Path("/dev/full"), make_delivery(b"1"))
    assert [type(o) for o in outcomes] == [Unavailable]


def test_a_place_that_can_not_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't append"):
        FileDestination(tmp_path)
