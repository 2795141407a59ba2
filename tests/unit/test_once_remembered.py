"""Records in memory, and how they are written down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatch.once.remembered import Remembered
from dispatch.once.store import Mark, Names, Record, decode, encode

A, B, C = (bytes([letter]) * 16 for letter in b"abc")


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def delivered(at_ms: int) -> Record:
    return Record(Mark.DELIVERED, "w", at_ms)


def test_a_record_is_forgotten_after_its_time() -> None:
    clock = Clock()
    remembered = Remembered(1.0, now_ms=clock)
    remembered.put(A, delivered(clock.ms))
    remembered.put(B, Record(Mark.REFUSED, "w", clock.ms, "0:1:2", 400, "no"))

    clock.ms += 999
    assert remembered.get(A) == Record(Mark.DELIVERED, "", 1_000_000)
    assert remembered.get(B) == Record(Mark.REFUSED, "w", 1_000_000, "0:1:2", 400, "no")
    clock.ms += 1
    assert remembered.get(A) is None
    assert remembered.get(B) is None
    remembered.put(C, delivered(clock.ms))
    assert len(remembered) == 1


def test_beyond_the_bound_the_oldest_leave_and_are_counted() -> None:
    clock = Clock()
    remembered = Remembered(60.0, max_names=2, now_ms=clock)
    for name in (A, B, C):
        remembered.put(name, delivered(clock.ms))

    assert [remembered.get(name) is not None for name in (A, B, C)] == [False, True, True]
    assert remembered.crowded_out == 1


def test_the_latest_record_of_a_name_counts() -> None:
    remembered = Remembered(60.0, now_ms=Clock())
    remembered.put(A, Record(Mark.REFUSED, "w", 1_000_000))
    remembered.put(A, delivered(1_000_000))
    assert len(remembered) == 1
    remembered.put(A, Record(Mark.REFUSED, "w", 1_000_000))

    found = remembered.get(A)
    assert found is not None
    assert found.mark is Mark.REFUSED
    assert len(remembered) == 1


@given(
    st.builds(
        Record,
        st.sampled_from(Mark),
        st.text(),
        st.integers(0, 2**62),
        st.text(),
        st.none() | st.integers(100, 599),
        st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert decode(encode(record)) == record


@given(st.binary())
def test_anything_else_says_nothing(data: bytes) -> None:
    assert decode(data) is None or encode(decode(data) or delivered(0))


def test_names_differ_where_their_parts_do() -> None:
    names = Names("topic", "crm")

    made = {
        names.name("", "ab", "c"),
        names.name("", "a", "bc"),
        names.name("a", "", "bc"),
        Names("topic", "mail").name("", "ab", "c"),
        Names("other", "crm").name("", "ab", "c"),
    }

    assert len(made) == 5
    assert names.name("", "ab", "c") == Names("topic", "crm").name("", "ab", "c")
    assert {len(name) for name in made} == {16}
    assert names.name("\ud800", "🦀", "")
