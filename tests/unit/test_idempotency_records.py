from __future__ import annotations

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from ingest.answers import accepted_body
from ingest.idempotency import BadIdempotencyKey
from ingest.idempotency.keyedids import KeyedIds
from ingest.idempotency.memory import MemoryStore
from ingest.idempotency.records import (
    STORED,
    KeyRecord,
    Mark,
    claim_ids,
    claim_key,
    id_name,
    ids_outcome,
    key_names,
    key_outcome,
    read_key,
    read_record,
    write_record,
)
from ingest.idempotency.store import REMOVED, StoreDown, Write, change
from ingest.refusals import KeyReused, StillRunning
from keylane.event import Event

ME, OTHER = b"me" * 8, b"he" * 8
LEASE = Write(ME, is_lease=True)
NEW = KeyRecord(b"print", 1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def value(record: KeyRecord) -> bytes:
    written = write_record(record).value
    assert written is not None
    return written


def never(_owner: bytes) -> bool:
    return False


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (b"abc", "abc"),
        (b' "abc" ', "abc"),
        (b'"', '"'),
        (b'"a"b"', 'a"b'),
        (b"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b"x" * 255, "x" * 255),
        (b'"' + b"x" * 255 + b'"', "x" * 255),
        (b"!~", "!~"),
    ],
)
def test_a_key_is_read_with_quotes_or_without(header: bytes, key: str) -> None:
    assert read_key(header) == key


@pytest.mark.parametrize(
    "header", [b"", b'""', b"  ", b"x" * 256, b"a b", b"\xc3\xa4", b"a\x7f", b"a\tb"]
)
def test_what_is_no_key_is_refused(header: bytes) -> None:
    with pytest.raises(BadIdempotencyKey):
        read_key(header)


def test_names_of_keys_leases_and_ids_never_meet() -> None:
    key = key_names("topic", "x")
    names = {key.record, key.lease, id_name("topic", "x"), key_names("topi", "cx").record}

    assert len(names) == 4
    assert {len(name) for name in names} == {32}


@given(st.integers(0, 2**48 - 1), st.text(min_size=1), st.integers(1, 20))
def test_ids_of_a_key_are_uuids_of_its_moment(first_ms: int, key: str, count: int) -> None:
    made = KeyedIds("topic", key, first_ms)(count)

    assert len(set(made)) == count
    assert made == KeyedIds("topic", key, first_ms)(count)
    for text in made:
        one = uuid.UUID(text)
        assert str(one) == text
        assert (one.version, one.variant, one.int >> 80) == (7, uuid.RFC_4122, first_ms)


def test_ids_of_other_keys_and_topics_are_others() -> None:
    made = {KeyedIds(scope, key, 1)(1)[0] for scope in ("a", "b") for key in ("k", "l")}

    assert len(made) == 4


def test_a_new_key_is_written_and_leased() -> None:
    assert claim_key((None, None), NEW, ME, never) == (NEW, [write_record(NEW), LEASE])


def test_a_key_without_a_lease_is_taken_over_as_it_is() -> None:
    left = KeyRecord(b"print", 0, b"\1\0")

    assert claim_key((value(left), None), NEW, ME, never) == (left, [None, LEASE])


def test_a_lease_of_somebody_else_is_respected() -> None:
    for record in (None, value(NEW)):
        with pytest.raises(StillRunning):
            claim_key((record, OTHER), NEW, ME, never)


def test_a_lease_whose_owner_is_known_to_be_done_is_taken_over() -> None:
    assert claim_key((value(NEW), OTHER), NEW, ME, OTHER.__eq__) == (NEW, [None, LEASE])


def test_an_answer_is_found_whoever_holds_the_lease() -> None:
    done = KeyRecord(b"print", 0, answer=b"{}")

    assert claim_key((value(done), OTHER), NEW, ME, never) == (done, [])


@pytest.mark.parametrize("lease", [None, OTHER, ME])
@pytest.mark.parametrize("answer", [b"", b"{}"])
def test_a_key_of_another_request_is_refused(lease: bytes | None, answer: bytes) -> None:
    other = value(KeyRecord(b"other", 0, answer=answer))

    with pytest.raises(KeyReused):
        claim_key((other, lease), NEW, ME, never)


def test_ids_are_free_stored_or_somebody_elses() -> None:
    assert claim_ids([None, STORED, ME], ME, never) == ([False, True, False], [LEASE, None, None])
    with pytest.raises(StillRunning):
        claim_ids([None, OTHER], ME, never)
    assert claim_ids([OTHER], ME, OTHER.__eq__) == ([False], [LEASE])


def test_an_outcome_is_written_and_the_lease_given_back() -> None:
    done = KeyRecord(b"print", 1, answer=b"{}")

    assert key_outcome((value(NEW), ME), done, ME, is_over=True) == [write_record(done), REMOVED]
    assert key_outcome((value(NEW), ME), None, ME, is_over=True) == [REMOVED, REMOVED]


def test_an_outcome_in_part_keeps_the_lease() -> None:
    part = KeyRecord(b"print", 1, b"\1\0")

    assert key_outcome((value(NEW), ME), part, ME, is_over=False) == [write_record(part), None]


def test_an_outcome_is_written_though_the_lease_ran_out() -> None:
    done = KeyRecord(b"print", 1, answer=b"{}")

    assert key_outcome((value(NEW), None), done, ME, is_over=True) == [write_record(done), None]
    assert key_outcome((None, None), done, ME, is_over=True) == [write_record(done), None]


def test_nothing_is_written_over_another_owner() -> None:
    for outcome in (None, KeyRecord(b"print", 1, answer=b"{}")):
        assert key_outcome((value(NEW), OTHER), outcome, ME, is_over=True) == [None, None]


def test_what_others_recorded_is_never_lost() -> None:
    answered = value(KeyRecord(b"print", 1, answer=b"{}"))
    part = KeyRecord(b"print", 1, bytes([Mark.CONFIRMED, Mark.OPEN, Mark.OPEN]))
    mine = KeyRecord(b"print", 2, bytes([Mark.OPEN, Mark.DUPLICATE, Mark.OPEN]))
    reused = value(KeyRecord(b"other", 1))

    assert key_outcome((answered, None), mine, ME, is_over=True) == [None, None]
    assert key_outcome((reused, None), mine, ME, is_over=True) == [None, None]
    joined, _lease = key_outcome((value(part), None), mine, ME, is_over=True)
    assert joined is not None
    assert read_record(joined.value) == KeyRecord(b"print", 1, b"\1\2\0")


def test_ids_are_stored_whoever_holds_them_and_given_back_only_by_their_owner() -> None:
    values = [ME, OTHER, STORED, None, ME, OTHER]
    stored = [True, True, True, True, False, False]

    assert ids_outcome(values, stored, ME) == [
        Write(STORED),
        Write(STORED),
        None,
        Write(STORED),
        REMOVED,
        None,
    ]


async def test_a_change_starts_anew_when_somebody_was_faster() -> None:
    store = MemoryStore(window_s=9, reservation_s=9)
    await store.exchange([b"n"], [None], [Write(b"1")])

    await change(store, [b"n"], [None], lambda values: [Write((values[0] or b"") + b"2")])

    assert await store.exchange([b"n"], [b"?"], [None]) == [b"12"]


async def test_a_change_that_was_made_already_is_not_made_again() -> None:
    store = MemoryStore(window_s=9, reservation_s=9)
    await store.exchange([b"n"], [None], [LEASE])
    decided: list[object] = []

    def decide(values: object) -> list[Write | None]:
        decided.append(values)
        return [LEASE]

    await change(store, [b"n"], [None], decide)

    assert len(decided) == 1


async def test_a_change_that_never_succeeds_is_given_up() -> None:
    class Busy(MemoryStore):
        @override
        async def exchange(
            self, names: object, expected: object, writes: object
        ) -> list[bytes | None]:
            return [b"other"]

    with pytest.raises(StoreDown):
        await change(
            Busy(window_s=9, reservation_s=9), [b"n"], [None], lambda _values: [Write(b"1")]
        )


async def test_memory_is_bounded_and_the_oldest_records_leave_first() -> None:
    store = MemoryStore(window_s=9, reservation_s=9, max_names=10)
    leases = [b"l%d" % n for n in range(4)]
    await store.exchange(leases, [None] * 4, [LEASE] * 4)

    for n in range(100):
        await store.exchange([b"r%d" % n], [None], [Write(b"1")])

    assert store.size == 10
    names = [*leases, *(b"r%d" % n for n in range(94, 100)), b"r93"]
    current = await store.exchange(names, [b"?"] * 11, [None] * 11)
    assert current == [ME] * 4 + [b"1"] * 6 + [None]


async def test_memory_is_bounded_by_bytes_too() -> None:
    store = MemoryStore(window_s=9, reservation_s=9, max_bytes=1_000)

    for n in range(100):
        await store.exchange([b"r%d" % n], [None], [Write(b"x" * 300)])

    assert store.size == 3


async def test_a_record_written_again_is_the_youngest() -> None:
    store = MemoryStore(window_s=9, reservation_s=9, max_names=2)
    for name in (b"a", b"b"):
        await store.exchange([name], [None], [Write(b"1")])
    await store.exchange([b"a"], [b"1"], [Write(b"2")])
    await store.exchange([b"c"], [None], [Write(b"1")])

    assert await store.exchange([b"a", b"b"], [b"?"] * 2, [None] * 2) == [b"2", None]


def test_an_answer_names_duplicates_only_where_there_are_some() -> None:
    events = [Event("1", "ann", b""), Event("2", "bob", b"")]

    assert msgspec.json.decode(accepted_body(events, {1})) == {
        "accepted": 2,
        "events": [{"id": "1", "user": "ann"}, {"id": "2", "user": "bob", "duplicate": True}],
    }
