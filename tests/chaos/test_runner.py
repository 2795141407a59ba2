"""What is played, and what is told of it."""

from __future__ import annotations

import itertools

from tests.chaos.__main__ import rows_to_play
from tests.chaos.faults import FAULTS
from tests.chaos.pace import LIFELIKE
from tests.chaos.report import as_line, as_tree
from tests.chaos.run import MIX, Counted, Row, drawn


def test_a_seed_draws_the_same_mix_again() -> None:
    assert drawn(12345, LIFELIKE) == drawn(12345, LIFELIKE)
    assert drawn(12345, LIFELIKE) != drawn(12346, LIFELIKE)


def test_every_fault_comes_up_in_some_mix() -> None:
    found = {step.fault for seed in range(50) for step in drawn(seed, LIFELIKE)}

    assert found == set(FAULTS)


def test_every_fault_is_played_alone_and_then_mixes_of_their_own_seeds() -> None:
    rows = list(itertools.islice(rows_to_play(7, None, minutes=1.0), len(FAULTS) + 2))

    assert rows[:-2] == [(name, 7) for name in FAULTS]
    assert [name for name, _ in rows[-2:]] == [MIX, MIX]
    assert rows[-1] != rows[-2]


def test_a_fault_that_is_asked_for_is_played_once_with_the_given_seed() -> None:
    assert list(rows_to_play(7, ["mix"], minutes=None)) == [("mix", 7)]


def test_with_minutes_it_is_played_again_with_other_seeds() -> None:
    first, *others = itertools.islice(rows_to_play(7, ["mix"], minutes=30.0), 4)

    assert first == ("mix", 7)
    assert len({first, *others}) == 4


def test_a_line_tells_what_is_explained_apart_from_what_is_not() -> None:
    row = Row("worker-killed", 7, overlaps=Counted(3, 1), duplicates=Counted(5, 0))

    assert as_line(row).split() == (
        "worker-killed 7 0 0 0 0 0 2/1 5/0 0 0.0 0".split()  # noqa: SIM905  as it is printed
    )


def test_one_row_that_is_wrong_makes_the_whole_wrong() -> None:
    right, wrong = Row("worker-killed", 7), Row("mix", 8, wrong=["1 lost"])

    assert as_tree([right], 7, 30, 1.0, "4.0.8")["is_right"]
    tree = as_tree([right, wrong], 7, 30, 1.0, "4.0.8")
    assert not tree["is_right"]
    assert tree["rows"][1]["wrong"] == ["1 lost"]
