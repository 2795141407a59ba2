"""Breakages of what the lanes count and hold: attempts, the gate, payloads, dead letters."""

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
    # Attempts are counted by the broker where it can be trusted.
    in_partition(
        "attempts of other workers don't count",
        "        return count if count and key not in self.served else 0\n",
        "        return 0\n",
        first=331,
    ),
    in_partition(
        "a note of another worker is not heard",
        "        if note := self.notes.get(message.position):\n",
        "        if (note := self.notes.get(message.position)) and False:\n",
        scenario="a_third_owner_is_told_what_was_never_attempted",
    ),
    in_lanes(
        "what was given back without an attempt counts as one",
        "        entry.attempts_elsewhere += max(0, message.redelivery_count - entry.count)\n",
        "        entry.attempts_elsewhere += max(0, message.redelivery_count)\n",
    ),
    in_redelivery(
        "negative acknowledgements of our own are taken for attempts of others",
        "            entry.count += 1\n",
        "",
    ),
    in_lanes(
        "a failed attempt is not counted",
        "        entry.attempts += 1\n",
        "",
        first=681,
    ),
    in_partition(
        "what comes behind a finished event is taken for attempted",
        "        return count if count and key not in self.served else 0\n",
        "        return count\n",
        scenario="the_rest_comes_when_its_predecessor_is_finished",
    ),
    in_lanes(
        "a predecessor that comes late is taken for new",
        "            entry.attempts_elsewhere = partition.attempts_before(lane.key, message)\n"
        "            head.attempts_elsewhere = 0\n",
        "            pass\n",
        scenario="an_attempted_event_is_overtaken_at_a_new_worker",
    ),
    # The receive gate.
    in_tally(
        "parked events count at the gate",
        "            if head.state is State.HELD or head.state is State.IN_FLIGHT:\n",
        "            if True:\n",
    ),
    in_tally(
        "all events of a deep lane count at the gate",
        "                weight = 1 if head.attempt > 1 else min(size, self._options.lane_share)\n",
        "                weight = size\n",
    ),
    Mutant(
        "a full lane keeps the gate shut though its head is on its way back",
        "dispatch/lane.py",
        "        if self.is_away or self.is_settling or not self.is_cleared:\n",
        "        if self.is_settling or not self.is_cleared:\n",
        first=45,
    ),
    Mutant(
        "a full lane keeps the gate shut though it waits for a predecessor",
        "dispatch/lane.py",
        "        if self.is_away or self.is_settling or not self.is_cleared:\n",
        "        if self.is_away or not self.is_cleared:\n",
    ),
    in_tally(
        "the gate is shut though a slot is idle",
        "        is_open = (is_idle or self.load < limit) and not self._is_held_up()\n",
        "        is_open = self.load < 1 and not self._is_held_up()\n",
        first=1316,
    ),
    in_backoffs(
        "what was tried again from memory is given back later",
        "        entry.stays = True\n",
        "",
        scenario="a_head_is_tried_again_behind_a_closed_gate_before_its_user_moves",
    ),
    # Pages.
    in_lanes(
        "an event behind pages keeps its payload",
        "        if is_behind_pages or (is_last and lane.window > self._tally.payload_events):\n",
        "        if is_last and lane.window > self._tally.payload_events:\n",
        first=23,
    ),
    in_lanes(
        "nothing is paged",
        "        if is_behind_pages or (is_last and lane.window > self._tally.payload_events):\n",
        "        if is_behind_pages:\n",
        first=15,
    ),
    in_lanes(
        "pages are never fetched",
        "            self._redelivery.fetch_soon(partition, lane)\n",
        "",
    ),
    in_redelivery(
        "the last pages are fetched first",
        "        first = len(lane.entries) - lane.paged\n",
        "        first = len(lane.entries) - count\n",
    ),
    in_redelivery(
        "pages are not given back with their lane",
        "            if entry.is_here and entry.given_back_in != lane.episode:\n",
        "            if entry.message and entry.given_back_in != lane.episode:\n",
    ),
    in_tally(
        "payloads that were dropped are still counted",
        "        self.payload_bytes -= entry.payload_bytes\n        entry.payload_bytes = 0\n"
        "        entry.message = None\n        self.move(entry, state)\n",
        "        entry.message = None\n        self.move(entry, state)\n",
    ),
    # Dead letters.
    in_lanes(
        "the next event starts before the dead letter is confirmed",
        "        self._tally.move(entry, State.DEAD_LETTERING)\n        if entry.lane:\n",
        "        self._tally.move(entry, State.DEAD_LETTERING)\n"
        "        if entry.lane and len(entry.lane) > 1:\n"
        "            entry.lane.entries.append(entry.lane.remove_head())\n"
        "            self._turns.join(entry.lane)\n"
        "        if entry.lane:\n",
    ),
    in_backoffs(
        "what could not be dead-lettered is attempted again",
        "        if entry.is_condemned:\n"
        "            self._end_wait_of_condemned(partition, lane, entry, now)\n        elif",
        "        if",
        first=192,
    ),
    in_lanes(
        "what could not be dead-lettered is acknowledged",
        "        entry.is_condemned = True\n        self._dead_letter(entry)\n",
        "        entry.is_condemned = True\n        self._dead_letter(entry)\n"
        "        if entry.message and entry.lane:\n"
        "            self.commands.acknowledge.setdefault(entry.lane.partition, [])"
        ".append(entry.message)\n",
    ),
    # Each needs a meeting of its own.
    in_settling(
        "a redelivered event starts at once",
        "    if message.redelivery_count or is_fresh",
        "    if is_fresh",
        scenario="what_is_read_again_overtakes_what_a_dead_worker_held",
    ),
    in_absences(
        "a rounding error keeps a timer ringing",
        "        if remaining_s > ROUNDING_S:\n"
        "            self._timers.set(now + remaining_s, Due.AWAIT, lane, entry, until)\n",
        "        if remaining_s > 0:\n"
        "            self._timers.set(now + remaining_s, Due.AWAIT, lane, entry, until)\n",
        scenario="heads_stay_away_while_the_clock_gets_coarser",
    ),
    in_backoffs(
        "a head is given back though the gate is closed",
        "        return entry.stays or entry.lane in self._tally.full"
        " or not self._tally.is_receiving\n",
        "        return entry.stays or entry.lane in self._tally.full\n",
        first=190,
    ),
    in_lanes(
        "a running attempt that is counted anew keeps its weight",
        "            self._tally.weigh(lane)\n            return\n        self._tally.move(",
        "            return\n        self._tally.move(",
        scenario="another_worker_fails_what_is_still_attempted_here",
    ),
    in_tally(
        "what is condemned is attempted again after a lost connection",
        "        if not is_running and not head.is_condemned:\n",
        "        if not is_running:\n",
        scenario="what_is_condemned_comes_again_with_a_new_connection",
    ),
    in_backoffs(
        "what is condemned and is another worker's is dead-lettered all the same",
        "        if not entry.is_stray:\n            self._dead_letter(entry)\n",
        "        if True:\n            self._dead_letter(entry)\n",
        scenario="what_is_condemned_is_given_to_another_worker",
    ),
    # A forgotten lane's timers.
    in_lanes(
        "timers of a forgotten lane still ring",
        "        if partition.lanes.get(lane.key) is not lane:\n            return\n",
        "",
    ),
    in_absences(
        "an old timer ends the patience with a newer wait",
        "        if is_over or lane.awaited_until != until:\n",
        "        if is_over:\n",
        first=4023,
    ),
)
