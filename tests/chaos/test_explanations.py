"""What a cut explains is narrow: each rule once as it holds, and once just beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from dispatch.partition import FINISHED_KEPT_S
from tests.chaos.explain import (
    UNSAVED_S,
    Absence,
    Cut,
    Explanations,
    Notice,
    late_starts,
)
from tests.chaos.stalls import Stall, merged, stalls
from tests.judge import Attempt, Book, Numbered, Wrong

#: The steady clock and the one on the wall differ by so much here.
WALL_S = 1_000.0
CUT_AT = 100.0


class Story:
    """Attempts told with their times, in the order of their starts."""

    def __init__(self) -> None:
        self.book = Book()

    def attempt(
        self, sender: str, n: int, from_: float, to: float | None, status: int = 200
    ) -> Attempt:
        attempt = Attempt(
            "u", n, position=f"0:1:{n}", started_at=from_, wall_s=from_ + WALL_S, sender=sender
        )
        self.book.start(attempt)
        if to is not None:
            self.book.end(attempt, to, status)
        return attempt

    def unexplained(
        self,
        wrong: Wrong,
        *cuts: Cut,
        dead_at: Mapping[Numbered, float] | None = None,
        notices: Iterable[Notice] = (),
    ) -> int:
        """How many flags of that kind remain; there is exactly one of it."""
        verdict = self.book.verdict(dead_at)
        assert len(verdict.of(wrong)) == 1
        explanations = Explanations(cuts, self.book, dead_at or {}, notices)
        return len(explanations.unexplained(verdict, wrong))


@pytest.fixture
def story() -> Story:
    return Story()


def overlap(story: Story, first: str, second: str) -> None:
    """`second` attempts at 101 what `first` has been attempting since 99, until 102."""
    running = Attempt("u", 1, position="0:1:1", started_at=99.0, wall_s=1_099.0, sender=first)
    story.book.start(running)
    story.attempt(second, 1, 101.0, 101.5)
    story.book.end(running, 102.0, 500)


def test_an_overlap_with_what_a_killed_worker_was_doing_is_explained(story: Story) -> None:
    overlap(story, "a", "b")

    assert story.unexplained(Wrong.OVERLAP, Cut.at(CUT_AT, "a")) == 0


def test_the_death_of_another_worker_explains_no_overlap(story: Story) -> None:
    overlap(story, "a", "b")

    assert story.unexplained(Wrong.OVERLAP, Cut.at(CUT_AT, "b")) == 1


def test_a_worker_that_overlaps_with_itself_is_never_explained(story: Story) -> None:
    overlap(story, "a", "a")

    assert story.unexplained(Wrong.OVERLAP, Cut.at(CUT_AT, "a")) == 1


def test_an_overlap_that_began_before_the_loss_is_not_explained_by_it(story: Story) -> None:
    overlap(story, "a", "b")

    assert story.unexplained(Wrong.OVERLAP, Cut.at(101.2, "a")) == 1


def test_what_a_worker_began_after_the_loss_explains_no_overlap(story: Story) -> None:
    overlap(story, "a", "b")

    assert story.unexplained(Wrong.OVERLAP, Cut.at(98.0, "a")) == 1


@pytest.mark.parametrize(
    ("sender", "noticed_at", "unexplained"),
    [("a", 98.8, 0), ("a", 98.6, 1), ("a", 97.9, 1), ("a", 99.1, 1), ("b", 98.8, 1)],
)
def test_an_attempt_may_begin_after_the_loss_until_its_worker_notices_if_that_is_soon(
    story: Story, sender: str, noticed_at: float, unexplained: int
) -> None:
    overlap(story, "a", "b")

    noticed = [Notice(sender, noticed_at)]
    assert story.unexplained(Wrong.OVERLAP, Cut.at(98.0, "a"), notices=noticed) == unexplained


@pytest.mark.parametrize(
    ("status", "seen_at", "sender", "unexplained"),
    [(0, 101.05, "a", 0), (0, 101.5, "a", 1), (500, 101.05, "a", 1), (0, 101.05, "b", 1)],
)
def test_an_attempt_that_got_no_answer_may_be_seen_to_end_late(
    story: Story, status: int, seen_at: float, sender: str, unexplained: int
) -> None:
    waiting = story.attempt("a", 1, 99.0, None)
    story.attempt(sender, 1, 101.0, None)
    story.book.end(waiting, seen_at, status)

    assert story.unexplained(Wrong.OVERLAP) == unexplained


def test_an_acknowledgement_that_was_on_its_way_explains_a_duplicate(story: Story) -> None:
    story.attempt("a", 1, 99.0, 99.8)
    story.attempt("b", 1, 103.0, 103.1)

    assert story.unexplained(Wrong.DUPLICATE, Cut.at(CUT_AT, "a")) == 0


def test_what_was_done_in_time_explains_no_duplicate(story: Story) -> None:
    story.attempt("a", 1, 98.0, 99.0)
    story.attempt("b", 1, 103.0, 103.1)

    assert story.unexplained(Wrong.DUPLICATE, Cut.at(CUT_AT, "a")) == 1


def test_a_worker_that_was_not_heard_explains_duplicates_of_all_it_did_until_the_loss(
    story: Story,
) -> None:
    story.attempt("a", 1, 105.0, 105.1)
    story.attempt("b", 1, 141.0, 141.1)
    cut = Cut(frozenset("a"), deaf_from=CUT_AT, lost_from=138.0, lost_to=138.2)

    assert story.unexplained(Wrong.DUPLICATE, cut) == 0


def test_what_such_a_worker_began_after_the_loss_explains_no_duplicate(story: Story) -> None:
    story.attempt("a", 1, 139.0, 139.1)
    story.attempt("b", 1, 141.0, 141.1)
    cut = Cut(frozenset("a"), deaf_from=CUT_AT, lost_from=138.0, lost_to=138.2)

    assert story.unexplained(Wrong.DUPLICATE, cut) == 1


@pytest.mark.parametrize(
    ("before_s", "sender", "unexplained"),
    [
        (50.0, "b", 0),
        # It was saved.
        (UNSAVED_S + 1, "b", 1),
        # The same worker knows what it has finished.
        (50.0, "a", 1),
    ],
)
def test_a_crash_of_the_broker_explains_what_it_had_not_saved_at_other_workers(
    story: Story, before_s: float, sender: str, unexplained: int
) -> None:
    story.attempt("a", 1, CUT_AT - before_s - 0.1, CUT_AT - before_s)
    story.attempt(sender, 1, 105.0, 105.1)
    cut = Cut(None, CUT_AT, CUT_AT, CUT_AT, UNSAVED_S)

    assert story.unexplained(Wrong.DUPLICATE, cut) == unexplained


def test_a_worker_may_repeat_what_it_finished_longer_ago_than_it_remembers(story: Story) -> None:
    story.attempt("a", 1, 99.0, 99.1)
    story.attempt("a", 1, 99.2 + FINISHED_KEPT_S, 99.3 + FINISHED_KEPT_S)
    cut = Cut(None, CUT_AT, CUT_AT, CUT_AT, UNSAVED_S)

    assert story.unexplained(Wrong.DUPLICATE, cut) == 0


@pytest.mark.parametrize(("dead_s", "unexplained"), [(99.9, 0), (99.0, 1)])
def test_a_worker_that_got_no_receipt_for_a_dead_letter_may_try_again(
    story: Story, dead_s: float, unexplained: int
) -> None:
    story.attempt("a", 1, 98.0, 98.1, 500)
    story.attempt("a", 1, 103.0, 103.1, 500)

    cut = Cut(None, CUT_AT, CUT_AT, CUT_AT, UNSAVED_S)
    dead_at = {("u", 1): WALL_S + dead_s}
    assert story.unexplained(Wrong.DUPLICATE, cut, dead_at=dead_at) == unexplained


@pytest.mark.parametrize(("dead_s", "unexplained"), [(99.9, 0), (99.0, 1)])
def test_an_attempt_after_the_dead_letter_is_explained_as_one_after_a_delivery(
    story: Story, dead_s: float, unexplained: int
) -> None:
    story.attempt("a", 1, 98.0, 98.1, 500)
    story.attempt("b", 1, 103.0, 103.1, 500)

    dead_at = {("u", 1): WALL_S + dead_s}
    assert story.unexplained(Wrong.DUPLICATE, Cut.at(CUT_AT, "a"), dead_at=dead_at) == unexplained


@pytest.mark.parametrize(("dead_s", "unexplained"), [(115.0, 0), (125.0, 1)])
def test_a_dead_letter_may_be_stored_twice_until_receipts_come_again(
    story: Story, dead_s: float, unexplained: int
) -> None:
    story.attempt("a", 1, 98.0, 98.1, 500)
    story.attempt("a", 1, 130.0, 130.1, 500)

    cut = Cut(None, CUT_AT, CUT_AT, CUT_AT, healed_at=120.0)
    dead_at = {("u", 1): WALL_S + dead_s}
    assert story.unexplained(Wrong.DUPLICATE, cut, dead_at=dead_at) == unexplained


def test_a_dead_letter_may_be_of_an_event_that_never_reached_the_receiver(story: Story) -> None:
    story.attempt("a", 1, 103.0, 103.1)

    cut = Cut(None, CUT_AT, CUT_AT, CUT_AT)
    assert story.unexplained(Wrong.DUPLICATE, cut, dead_at={("u", 1): WALL_S + 99.9}) == 0


def test_an_inversion_is_never_explained(story: Story) -> None:
    story.attempt("a", 1, 99.0, 100.5, 500)
    story.attempt("b", 2, 101.0, 101.1)

    assert story.unexplained(Wrong.INVERSION, Cut(None, 0.0, 0.0, 200.0, UNSAVED_S)) == 1


@pytest.mark.parametrize(
    ("sender", "partition", "at", "is_late"),
    [
        ("a", 0, 110.0, True),
        ("b", 0, 110.0, False),
        ("a", 1, 110.0, False),
        ("a", 0, 99.9, False),
        ("a", 0, 120.1, False),
    ],
)
def test_an_attempt_without_a_consumer_is_a_late_start(
    story: Story, sender: str, partition: int, at: float, is_late: bool
) -> None:
    attempt = story.attempt(sender, 1, at, at + 0.1)

    absence = Absence("a", partition, CUT_AT, 120.0)
    assert late_starts(story.book, [absence]) == ([attempt] if is_late else [])


def test_a_user_stalls_from_acceptance_or_the_end_of_the_event_before(story: Story) -> None:
    story.attempt("a", 1, 100.0, 103.0)
    story.attempt("a", 2, 107.0, 107.5)
    story.attempt("a", 3, 121.0, 121.5)

    accepted_at = {("u", 1): 99.0, ("u", 2): 99.0, ("u", 3): 120.0}
    found = [s.seconds for s in stalls(story.book, accepted_at, ["u"], {})]
    assert found == [1.0, 4.0, 1.0]


def test_an_event_is_done_when_it_is_dead_lettered(story: Story) -> None:
    story.attempt("a", 1, 100.0, 100.1, 500)
    story.attempt("a", 2, 107.0, 107.5)

    accepted_at = {("u", 1): 99.0, ("u", 2): 99.0}
    dead_at = {("u", 1): WALL_S + 105.0}
    found = [s.seconds for s in stalls(story.book, accepted_at, ["u"], dead_at)]
    assert found == [1.0, 2.0]


def test_what_a_disturbance_covers_is_no_stall() -> None:
    stall = Stall("u", 1, 100.0, 110.0)

    assert stall.outside([(90.0, 101.0), (105.0, 107.0), (106.0, 108.0), (120.0, 130.0)]) == 6.0
    assert list(merged([(3, 4), (1, 2), (1.5, 2.5)])) == [(1, 2), (2, 2.5), (3, 4)]


@pytest.mark.parametrize(
    ("is_stop", "began_at", "unexplained"),
    [(True, 99.9, 0), (False, 99.9, 1), (True, 98.0, 1)],
)
def test_a_worker_that_was_stopped_in_an_attempt_may_make_it_again(
    story: Story, is_stop: bool, began_at: float, unexplained: int
) -> None:
    story.attempt("a", 1, began_at, began_at + 0.2)
    story.attempt("a", 1, 151.0, 151.1)
    cut = Cut(frozenset("a"), CUT_AT, 148.0, 148.1, healed_at=150.0, is_stop=is_stop)

    assert story.unexplained(Wrong.DUPLICATE, cut) == unexplained
