"""What an event came to, from what it came to at each channel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.once.combining import combined
from dispatch.outcome import (
    Delivered,
    Disabled,
    Forbidden,
    Malformed,
    Outcome,
    Refused,
    Unavailable,
    Withdrawn,
)

OUTCOMES = st.one_of(
    st.builds(Delivered, st.sampled_from([None, 200])),
    st.builds(
        Unavailable,
        st.just("busy"),
        st.sampled_from([None, 503]),
        st.sampled_from([None, 1.0, 5.0]),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(Refused, st.just("no"), st.sampled_from([None, 400])),
    st.builds(Malformed, st.just("odd")),
    st.builds(Forbidden, st.just("internal")),
    st.builds(Disabled, st.just("gone"), st.just(410)),
)


@pytest.mark.parametrize(
    "outcome",
    [
        Delivered(204),
        Unavailable("busy", 503, 2.0, is_down=True, is_overload=True, answer="later"),
        Refused("no", 400, "bad"),
        Disabled("gone", 410),
    ],
)
def test_the_only_channel_keeps_its_own_words(outcome: Outcome) -> None:
    assert combined({"": outcome}) is outcome


def test_an_event_is_delivered_when_every_channel_has_it() -> None:
    assert combined({"a": Delivered(200), "b": Delivered(200)}) == Delivered(200)
    assert combined({"a": Delivered(200), "b": Delivered()}) == Delivered()


def test_one_channel_that_is_unavailable_has_the_event_tried_again() -> None:
    outcomes: dict[str, Outcome] = {
        "hook": Unavailable("busy", 503, 2.0, is_down=True, answer="later"),
        "mail": Delivered(),
        "chat": Unavailable("slow", None, 7.0, is_down=True, is_overload=True),
    }

    assert combined(outcomes) == Unavailable(
        "hook: busy; chat: slow",
        503,
        retry_after_s=7.0,
        is_down=True,
        is_overload=True,
        answer="hook: later",
    )


def test_a_destination_is_not_down_when_a_failing_channel_is_not() -> None:
    down, busy = Unavailable("x", is_down=True), Unavailable("y")

    for other in (busy, Refused("no")):
        outcome = combined({"a": down, "b": other})
        assert isinstance(outcome, Unavailable)
        assert not outcome.is_down


def test_a_refusal_waits_for_the_channels_that_are_unavailable_and_is_told_with_them() -> None:
    refused, busy = Refused("no", 400), Unavailable("busy")

    waiting = combined({"a": refused, "b": busy})

    assert isinstance(waiting, Unavailable)
    assert waiting.reason == "a: no; b: busy"
    assert combined({"a": refused, "b": Delivered()}) == Refused("a: no", 400)


def test_of_channels_that_never_will_all_are_named() -> None:
    outcomes: dict[str, Outcome] = {"a": Malformed("odd"), "b": Forbidden("internal")}

    assert combined(outcomes) == Forbidden("a: odd; b: internal")
    assert combined({"a": Malformed("odd"), "b": Delivered()}) == Malformed("a: odd")
    outcomes["c"] = Refused("no", 400, "why")
    assert combined(outcomes) == Refused("a: odd; b: internal; c: no", 400, "c: why")


def test_a_channel_that_wants_nothing_more_stops_the_destination() -> None:
    outcomes: dict[str, Outcome] = {
        "a": Unavailable("busy"),
        "b": Disabled("gone", 410),
        "c": Delivered(),
    }

    assert combined(outcomes) == Disabled("b: gone", 410)


@pytest.mark.parametrize(
    "other", [Delivered(200), Refused("no", 400), Unavailable("busy"), Disabled("gone", 410)]
)
def test_one_channel_that_was_withdrawn_has_the_event_tried_again_at_no_cost(
    other: Outcome,
) -> None:
    assert combined({"a": Withdrawn(), "b": other}) == Withdrawn()


@given(st.dictionaries(st.sampled_from("abcd"), OUTCOMES, min_size=1))
def test_nothing_is_given_up_or_done_while_a_channel_may_still_get_it(
    outcomes: dict[str, Outcome],
) -> None:
    outcome = combined(outcomes)

    is_open = any(isinstance(o, Unavailable | Disabled) for o in outcomes.values())
    assert isinstance(outcome, Unavailable | Disabled) == is_open
    assert isinstance(outcome, Delivered) == all(
        isinstance(o, Delivered) for o in outcomes.values()
    )
    if isinstance(outcome, Unavailable):
        of_them = [o for o in outcomes.values() if isinstance(o, Unavailable)]
        wishes = [o.retry_after_s or 0.0 for o in of_them]
        assert (outcome.retry_after_s or 0.0) == max(wishes)
        failing = [o for o in outcomes.values() if not isinstance(o, Delivered)]
        assert outcome.is_down == all(getattr(o, "is_down", False) for o in failing)
