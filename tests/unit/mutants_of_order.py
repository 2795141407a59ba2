"""Breakages of what keeps a user's order: one attempt at a time, giving back, connections."""

from __future__ import annotations

from typing import Final

from tests.unit.mutant import (
    Mutant,
    in_absences,
    in_backoffs,
    in_lanes,
    in_partition,
    in_redelivery,
    in_settling,
    in_tally,
)

MUTANTS: Final = (
    # One attempt of a lane at a time, in order.
    in_backoffs(
        "a failed head lets the next one go first",
        "        self._tally.move(entry, State.BACKOFF)\n        entry.due = now + delay_s\n",
        "        self._tally.move(entry, State.BACKOFF)\n        entry.due = now + delay_s\n"
        "        if entry.lane and len(entry.lane) > 1:\n"
        "            entry.lane.entries.append(entry.lane.remove_head())\n",
    ),
    Mutant(
        "a lane that had its turn is never queued again",
        "dispatch/turns.py",
        "            lane.is_queued = False\n",
        "            pass\n",
    ),
    Mutant(
        "what arrives is appended, whatever its position",
        "dispatch/lane.py",
        "        if position > self.last:\n            self.last = position\n"
        "            self.entries.append(entry)\n",
        "        if True:\n            self.last = position\n"
        "            self.entries.append(entry)\n",
        first=1642,
    ),
    # The delay is ours, the redelivery is the broker's.
    in_backoffs(
        "a failed head is given back at once",
        "            self._timers.set(entry.due - lead_s, Due.BACKOFF",
        "            self._timers.set(now, Due.BACKOFF",
    ),
    in_backoffs(
        "a failed head is tried again from memory, always",
        "        elif entry.is_stray or not self._must_stay(entry):\n",
        "        elif False:\n",
        first=46,
    ),
    in_backoffs(
        "redelivery is asked for too early",
        "            lead_s = 0.0 if entry.is_condemned else self._options.lead_s\n",
        "            lead_s = 0.0 if entry.is_condemned else 0.3\n",
    ),
    in_lanes(
        "newer events do not park behind a head that is away",
        "        if lane.head.state is State.HELD:\n            if lane.is_cleared:\n",
        "        if lane.head.state is State.AWAITED and len(lane) > 1:\n"
        "            self._tally.leave(lane.remove_head())\n"
        "        if lane.head.state is State.HELD:\n            if lane.is_cleared:\n",
        first=1664,
    ),
    # The circular wait.
    in_absences(
        "nothing is given back when a head stays away",
        "        self._redelivery.give_all_back(partition, lane)\n",
        "",
    ),
    in_redelivery(
        "the tail goes back in reverse order",
        "        for entry in lane.entries_from(position):\n            if len(burst)",
        "        for entry in list(lane.entries_from(position))[::-1]:\n            if len(burst)",
    ),
    in_absences(
        "patience runs out at once",
        "        lane.awaited_until = partition.received_s + patience_s\n"
        "        self._timers.set(now + patience_s, Due.AWAIT,",
        "        lane.awaited_until = partition.received_s + patience_s / 20\n"
        "        self._timers.set(now + patience_s / 20, Due.AWAIT,",
    ),
    in_lanes(
        "what arrives for a lane that was given back is kept",
        "        if lane.is_given_back:\n            self._absences.met(partition, lane, entry)\n",
        "",
        first=1777,
    ),
    in_lanes(
        "what newly arrives for a given back lane proves its predecessors done",
        "        if lane.is_given_back:\n            self._absences.met(partition, lane, entry)\n",
        "        if lane.is_given_back:\n"
        "            lane.proofs = self.options.proofs\n"
        "            self._absences.wait(partition, lane, self.options.quiet_s, now)\n",
        first=1777,
    ),
    in_absences(
        "what was given back in an earlier episode proves its predecessors done",
        "        if entry.given_back_in != lane.episode:\n",
        "        if False:\n",
        scenario="a_tail_comes_back_when_its_head_has_gone_away_again",
    ),
    in_absences(
        "an event that came back alone waits for its predecessors for ever",
        "        elif lane.awaited_until == math.inf:\n"
        "            self.wait(partition, lane, self.options.quiet_s, now)\n",
        "",
        first=3448,
    ),
    in_absences(
        "predecessors that did not come back are still awaited",
        "        else:\n            self._presume_done(partition, lane, now)\n",
        "        else:\n            self._give_back(partition, lane, now)\n",
        first=6667,
    ),
    in_absences(
        "what was given back before an unknown predecessor proves that it is done",
        "        if lane.entries[-1] is entry:\n",
        "        if True:\n",
        scenario="an_unknown_predecessor_comes_between_two_proofs",
    ),
    in_absences(
        "one proof is enough",
        "        elif lane.proofs < self.options.proofs:\n",
        "        elif False:\n",
        scenario="an_event_comes_back_before_what_a_dead_worker_held",
    ),
    in_redelivery(
        "a second proof is asked for out of order",
        "        others = [due for due in partition.due_tails if due[0] is not lane]\n",
        "        others = list(partition.due_tails)\n",
        first=4187,
    ),
    in_lanes(
        "a head that is back leaves its lane given back",
        "        if entry is lane.head:\n            lane.is_given_back = False\n",
        "        if entry is lane.head:\n",
        first=2756,
    ),
    in_redelivery(
        "an event is given back only once, not once in an episode",
        "            if entry.is_here and entry.given_back_in != lane.episode:\n",
        "            if entry.is_here and not entry.given_back_in:\n",
        first=4020,
    ),
    in_redelivery(
        "an event that came back is given back for ever",
        "                entry.given_back_in = lane.episode\n",
        "",
        first=4028,
    ),
    in_partition(
        "the clock of receiving time runs behind a closed gate",
        "        return self.is_receiving and self.is_connected and self.is_trusted\n",
        "        return self.is_connected and self.is_trusted\n",
        first=2961,
    ),
    in_partition(
        "the clock of receiving time runs though the broker does not answer",
        "        return self.is_receiving and self.is_connected and self.is_trusted\n",
        "        return self.is_receiving and self.is_connected\n",
        first=2734,
    ),
    in_partition(
        "a process that stood still takes that for the broker's silence",
        "            self.received_s += min(passed_s, MAX_STEP_S)\n",
        "            self.received_s += passed_s\n",
        first=1067,
    ),
    in_lanes(
        "a lane that was given back is never forgotten",
        "        elif timer.due is Due.FORGET and lane.is_given_back:\n",
        "        elif timer.due is Due.FORGET and False:\n",
    ),
    in_absences(
        "a lane that was given back is forgotten while it holds something",
        "        elif all(entry.state is State.AWAITED for entry in lane):\n",
        "        elif True:\n",
        first=7199,
    ),
    in_absences(
        "a lane is forgotten by the wall clock",
        "        if remaining_s > ROUNDING_S:\n"
        "            self._timers.set(now + remaining_s, Due.FORGET, lane, token=until)\n"
        "        elif all",
        "        if all",
        first=2734,
    ),
    # A late predecessor.
    in_settling(
        "the first events of a connection start at once",
        "    if message.redelivery_count or is_fresh",
        "    if message.redelivery_count",
        first=2652,
    ),
    in_settling(
        "an earlier event does not take its place while its lane settles",
        "                lane.is_settling = False\n",
        "",
    ),
    in_partition(
        "a process that stood still has waited for predecessors",
        "            self.calm_s += min(passed_s, CALM_STEP_S)\n",
        "            self.calm_s += passed_s\n",
        scenario="a_process_stands_still_when_a_new_event_has_overtaken",
    ),
    in_settling(
        "a new event of a user not seen lately starts at once",
        "    elif options.meet_s and key not in partition.known:\n",
        "    elif False:\n",
        scenario="a_new_event_overtakes_what_a_dead_worker_held",
    ),
    in_lanes(
        "what comes again though it is done tells nothing of what comes with it",
        "                partition.moving.put(key, None)\n",
        "                pass\n",
        scenario="a_new_event_overtakes_what_is_given_back_behind_one_that_was_done_here",
    ),
    in_partition(
        "a user is known for ever",
        "        self.known.forget_older(now)\n",
        "",
        scenario="a_new_event_overtakes_at_a_worker_that_knew_the_user",
    ),
    # Duplicates of an event in hand, and of one finished lately.
    in_lanes(
        "an event that arrives again is another one",
        "        if entry is not None:\n            self._join(partition, entry, message, now)\n"
        "        elif position",
        "        if position",
    ),
    in_lanes(
        "the older handle is kept",
        "        entry.message = message\n        lane = entry.lane\n",
        "        lane = entry.lane\n",
        first=139,
    ),
    in_lanes(
        "an event that was finished lately is attempted again",
        "        elif position in partition.finished:\n",
        "        elif False:\n",
        first=34,
    ),
    in_lanes(
        "an event that was finished lately is dropped",
        "            self.commands.acknowledge.setdefault(number, []).append(message)\n",
        "            pass\n",
        first=34,
    ),
    in_partition(
        "what was finished is remembered for ever",
        "        self.finished.forget_older(now)\n",
        "",
    ),
    # Losing the connection, and not being sure of it.
    in_lanes(
        "what came over a lost connection is acknowledged over the next one",
        "        if partition.is_connected and not entry.is_stray:\n",
        "        if partition.is_connected:\n",
        scenario="an_attempt_outlives_its_connection_and_its_event_is_at_another",
    ),
    in_lanes(
        "what is delivered without a connection is acknowledged",
        "        if partition.is_connected and not entry.is_stray:\n",
        "        if not entry.is_stray:\n",
        first=59,
    ),
    in_partition(
        "attempts start without a connection",
        "        self.is_trusted = self.is_connected and now - self.confirmed_at < lease_s\n",
        "        self.is_trusted = now - self.confirmed_at < lease_s\n",
        first=38,
    ),
    in_partition(
        "attempts start though the broker has not answered for long",
        "        self.is_trusted = self.is_connected and now - self.confirmed_at < lease_s\n",
        "        self.is_trusted = self.is_connected\n",
        first=228,
    ),
    in_partition(
        "a lease is as long as the broker's patience",
        "        self.is_trusted = self.is_connected and now - self.confirmed_at < lease_s\n",
        "        self.is_trusted = self.is_connected and now - self.confirmed_at < lease_s + 35\n",
        first=2734,
    ),
    in_partition(
        "a process that was frozen trusts what it knew",
        "            self.confirmed_at = -math.inf\n            self.doubted_at = now\n",
        "            pass\n",
        first=228,
    ),
    in_partition(
        "an answer from before the process was frozen is believed",
        "        if asked_at >= self.doubted_at:\n",
        "        if True:\n",
        first=2139,
    ),
    in_partition(
        "an attempt begins though the process was frozen since it was decided on",
        "        if now - self.stepped_at > freeze_s:\n            return False\n",
        "",
        first=1355,
    ),
    in_partition(
        "an attempt begins though another step has noticed that the process was frozen",
        "        return self.is_trusted\n",
        "        return True\n",
        first=539,
    ),
    in_lanes(
        "an attempt that did not begin is forgotten",
        "            self._tally.move(entry, State.HELD)\n"
        "            self._reconsider(self.partitions",
        "            self._tally.move(entry, State.HELD)\n"
        "            entry.lane or self._reconsider(self.partitions",
    ),
    in_lanes(
        "lanes that were withheld never have their turn",
        "        self._turns.release(partition)\n",
        "",
    ),
    in_lanes(
        "what was held before a connection is kept",
        "            self._tally.drop_all_but_running(partition, lane)\n",
        "            pass\n",
    ),
    in_tally(
        "a running attempt is dropped with its connection",
        "        if not is_running and not head.is_condemned:\n",
        "        if True:\n",
        first=28,
    ),
    in_tally(
        "what waits behind a running attempt is kept through a new connection",
        "        lane.keep([head])\n        lane.is_given_back",
        "        lane.keep(list(lane))\n        lane.is_given_back",
        first=28,
    ),
    in_tally(
        "an attempt that survived its connection stays the worker's own",
        "        head.is_stray = True\n",
        "",
        first=3555,
    ),
    in_tally(
        "a lane that was being fetched when the connection was lost is never fetched again",
        "        lane.is_given_back = lane.is_fetching = False\n",
        "        lane.is_given_back = False\n",
        first=24590,
    ),
)
