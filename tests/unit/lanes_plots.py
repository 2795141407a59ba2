"""What happens in the scenarios of tests/unit/lanes_scenarios.py.

A plot begins with one worker that has been there for a while. It only leads to the meeting that it
is named for: after it everything succeeds, as at the end of a schedule.
"""

from __future__ import annotations

from collections.abc import Collection

from tests.unit.lanes_play import Play

# Attempts are counted


def a_third_owner_is_told_what_was_never_attempted(play: Play) -> None:
    user = play.moving(("12", 2), ("123", 3))
    play.publish(user, 2)
    _fail_once_and_move_to_second(play, user)
    play.until_attempted(user, at=2)
    play.end(user, "delivered")
    # Given back once, without an attempt: so the broker counts one too many.
    play.until_attempted(user, at=2)
    play.end(user, "failed", delay_s=play.some(0.2, 1.0))
    play.join()
    play.until_attempted(user, at=3)
    play.end(user, "delivered")


def the_rest_comes_when_its_predecessor_is_finished(play: Play) -> None:
    """It was given back too, and others' events stand between the two at the broker."""
    user = play.moving(("12", 2))
    others = {play.moving(("12", 2)) for _ in range(20)} - {user}
    play.publish(user)
    for other in others:
        play.publish(other)
    play.publish(user)
    play.until_attempted(user)
    for other in others:
        play.until_attempted(other)
    for other in others:
        play.end(other, "failed", delay_s=play.some(2.3, 2.9))
    # So others' failed events are given back together with the rest.
    play.end(user, "failed", delay_s=0.5)
    play.join()
    play.until_attempted(user, at=2)
    play.end(user, "delivered")
    play.until_attempted(user, at=2)


def an_attempted_event_is_overtaken_at_a_new_worker(play: Play) -> None:
    user = play.moving(("12", 2))
    play.publish(user)
    play.until_attempted(user)
    play.end(user, "failed", delay_s=play.some(0.2, 1.0))
    play.join()
    play.world.overtake(user)
    play.until_attempted(user, at=2)


def a_head_is_tried_again_behind_a_closed_gate_before_its_user_moves(play: Play) -> None:
    """And nobody hears of that from its worker."""
    play.world.hears = False
    user = play.moving(("12", 2))
    others = {play.moving(("12", 1)) for _ in range(4)} - {user}
    play.publish(user)
    play.until_attempted(user)
    for other in others:
        play.publish(other)
    play.end(user, "failed", delay_s=play.some(1.0, 2.0))
    # Another's attempt takes until the head is due.
    play.wait(play.some(2.1, 3.0))
    _deliver_until_attempted(play, user, others)
    play.end(user, "failed", delay_s=play.some(0.5, 1.0))
    play.join()
    _deliver_until_attempted(play, user, others)


def another_worker_fails_what_is_still_attempted_here(play: Play) -> None:
    """The attempt has outlived its connection, and its user is back."""
    user = play.moving(("12", 1))
    _join_and_settle(play)
    play.publish(user)
    play.until_attempted(user, at=1)
    play.disconnect(1, back_in_s=play.some(0.1, 0.5))
    play.until_attempted(user, at=2)
    play.wait(play.some(0.6, 1.0))
    play.end(user, "failed", at=2, delay_s=play.some(0.2, 0.5))
    play.world.overtake(user)
    play.wait(play.some(1.0, 2.0))


# Predecessors that come late


def what_is_read_again_overtakes_what_a_dead_worker_held(play: Play) -> None:
    """At a worker that knows nothing of the user."""
    user = play.moving(("12", 1), ("123", 3), ("23", 3))
    _join_and_settle(play)
    play.publish(user, 2)
    play.until_attempted(user, at=1)
    play.end(user, "failed", delay_s=play.some(0.2, 1.0))
    play.join()
    play.until_sent(user, to=3)
    play.leave(1)
    play.crash(3)
    play.wait(play.some(0.0, 0.12))
    play.catch_up()
    play.until_attempted(user, at=2)


def a_new_event_overtakes_what_a_dead_worker_held(play: Play) -> None:
    user = _overtake_a_dead_worker(play)
    play.wait(play.some(0.0, 0.04))
    play.catch_up()
    play.until_attempted(user, at=2)


def a_process_stands_still_when_a_new_event_has_overtaken(play: Play) -> None:
    """What was overtaken lies at its client when it goes on."""
    user = _overtake_a_dead_worker(play)
    play.freeze(2, for_s=play.some(0.3, 0.9))
    play.wait(play.some(0.0, 0.2))
    play.catch_up()
    play.until_attempted(user, at=2)


def a_new_event_overtakes_at_a_worker_that_knew_the_user(play: Play) -> None:
    user = play.moving(("12", 2))
    play.publish(user)
    play.until_attempted(user)
    play.end(user, "delivered")
    play.wait(play.some(10.5, 12.0))
    play.join()
    play.publish(user, 2)
    play.until_attempted(user, at=2)
    play.crash(2)
    play.publish(user)
    play.wait(play.some(0.0, 0.04))
    play.catch_up()
    play.until_attempted(user, at=1)


def a_new_event_overtakes_what_is_given_back_behind_one_that_was_done_here(play: Play) -> None:
    user = play.moving(("12", 2))
    _join_and_settle(play)
    play.publish(user)
    play.until_attempted(user, at=2)
    play.end(user, "delivered")
    # Its acknowledgement is lost.
    play.disconnect(2, back_in_s=play.some(0.1, 0.3))
    play.until_attempted(user, at=1)
    play.publish(user)
    play.wait(0.4)
    play.publish(user)
    play.end(user, "failed", at=1, delay_s=play.some(1.0, 2.0))
    play.wait(2.2)
    play.until_given_back_late(user, at=1)
    play.wait(play.some(0.0, 0.15))
    play.catch_up()
    play.until_attempted(user, at=2)


# Heads that are away


def an_event_lies_at_the_client_of_a_process_that_stood_still(play: Play) -> None:
    """It would need no lane, but the topic was loaded again meanwhile."""
    user = play.moving(("1", 1))
    play.publish(user)
    play.until_attempted(user)
    play.end(user, "delivered")
    for_s = play.some(1.5, 4.0)
    play.freeze(1, for_s=for_s, steps_first=play.some(0, 1) < 1 / 2)
    play.publish(user)
    play.unload()
    play.wait(for_s + 0.5)


def an_attempt_outlives_its_connection_and_its_event_is_at_another(play: Play) -> None:
    """Which had it when it was alone; what comes next belongs to the first again."""
    user = play.moving(("12", 1))
    play.join()
    play.publish(user)
    play.until_attempted(user, at=1)
    play.disconnect(1, back_in_s=play.some(0.1, 0.3))
    play.until_attempted(user, at=2)
    play.wait(0.3)
    play.end(user, "delivered", at=1)
    play.publish(user)
    play.wait(play.some(0.4, 1.0))


def heads_stay_away_while_the_clock_gets_coarser(play: Play) -> None:
    """From 1024 s on a float has a bit less behind the point: two clocks differ by that."""
    users = {play.moving(("12", 2)) for _ in range(10)}
    for user in users:
        play.publish(user)
        play.until_attempted(user)
    play.wait(1021.0 - play.world.now)
    for user in users:
        play.wait(play.some(0.0, 0.05))
        play.end(user, "failed", delay_s=play.some(0.5, 2.5))
    play.join()
    play.wait(6.0)


# What an event that comes back proves


def an_event_comes_back_before_what_a_dead_worker_held(play: Play) -> None:
    user = play.moving(("12", 2))
    play.publish(user, play.rng.choice((3, 6, 8)))
    play.wait(play.some(0.5, 1.0))
    _fail_once_and_move_to_second(play, user)
    play.until_sent(user, to=2)
    play.crash(2)
    # Longer than anybody has seen it take.
    play.wait(play.some(0.1, 1.9))
    play.catch_up()
    play.until_attempted(user, at=1)


def a_tail_comes_back_when_its_head_has_gone_away_again(play: Play) -> None:
    user = play.moving(("12", 2))
    play.publish(user, play.rng.choice((2, 2, 4)))
    play.wait(play.some(0.5, 1.0))
    _fail_once_and_move_to_second(play, user)
    play.until_attempted(user, at=2)
    play.crash(2)
    play.catch_up(1)
    play.until_attempted(user, at=1)
    play.end(user, "failed", delay_s=play.some(0.1, 0.5))
    play.join()
    play.until_attempted(user, at=2)
    play.wait(play.some(2.0, 2.5))
    play.crash(2)
    play.catch_up(1)
    play.wait(play.some(0.1, 1.0))
    play.catch_up()
    play.until_attempted(user, at=1)


def an_unknown_predecessor_comes_between_two_proofs(play: Play) -> None:
    """And goes to another worker, before what stands behind it does."""
    user = play.moving(("12", 2))
    play.publish(user)
    _fail_once_and_move_to_second(play, user)
    play.until_attempted(user, at=2)
    play.publish(user)
    play.wait(play.some(2.5, 3.0))
    play.end(user, "delivered")
    play.until_attempted(user, at=2)
    play.crash(2)
    play.publish(user)
    play.wait(play.some(1.4, 2.4))
    play.catch_up()
    play.join()
    play.wait(play.some(1.0, 2.0))


# What is condemned


def what_is_condemned_comes_again_with_a_new_connection(play: Play) -> None:
    user = play.moving(("1", 1))
    _condemn_in_vain(play, user)
    play.disconnect(1, back_in_s=play.some(0.1, 0.5))
    play.wait(play.some(1.0, 4.0))


def what_is_condemned_is_given_to_another_worker(play: Play) -> None:
    user = play.moving(("12", 1))
    play.join()
    _condemn_in_vain(play, user)
    play.disconnect(1, back_in_s=play.some(0.1, 0.5))
    play.until_attempted(user, at=2)
    play.wait(play.some(1.0, 4.0))


def _fail_once_and_move_to_second(play: Play, user: str) -> None:
    play.until_attempted(user, at=1)
    play.end(user, "failed", delay_s=play.some(0.2, 1.0))
    play.join()


def _deliver_until_attempted(play: Play, user: str, others: Collection[str]) -> None:
    while (attempted := play.until_attempted(user, *others)) != user:
        play.end(attempted, "delivered")


def _join_and_settle(play: Play) -> None:
    """Past the time in which everything waits because the connection is new."""
    play.join()
    play.wait(play.some(2.5, 3.5))


def _overtake_a_dead_worker(play: Play) -> str:
    """The first worker dies with two events, and a third is at the second one already."""
    user = play.moving(("12", 1))
    _join_and_settle(play)
    play.publish(user, 2)
    play.until_attempted(user, at=1)
    play.crash(1)
    play.publish(user)
    return user


def _condemn_in_vain(play: Play, user: str) -> None:
    play.publish(user, play.rng.choice((1, 2)))
    play.until_attempted(user, at=1)
    play.end(user, "refused")
    play.refuse_dead_letters(1)
    play.wait(play.some(0.0, 0.4))
