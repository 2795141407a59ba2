"""The numbers of the lanes' rules."""

from __future__ import annotations

from dataclasses import dataclass

from dispatch.holding import NO_HOLDING, Holding
from keylane.broker import REDELIVERY_BURST


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """Times in seconds."""

    #: Attempts at once.
    concurrency: int = 64
    #: Unfinished events of one user beyond which the worker receives no more.
    max_lane_events: int = 100_000
    #: For so long after the broker answered, counted from the question, attempts may start. The
    #: broker removes a consumer that it can't reach after 30 s at the earliest; less is for a topic
    #: that moves or is loaded anew meanwhile.
    lease_s: float = 6.0
    #: Bytes of payload that may wait in all lanes together before they keep only a few events each.
    payload_budget_bytes: int = 256 * 1024 * 1024
    #: How long a negatively acknowledged head may take; measured, it is back after 0.134 s.
    grace_s: float = 2.0
    #: How long before its backoff ends a head is asked for. The client takes 0.1 s at least before
    #: it tells the broker, so none comes too early.
    lead_s: float = 0.1
    #: How long a redelivered event that opens a lane waits for a predecessor.
    settle_s: float = 0.2
    #: The same for an event that was never sent before and opens the lane of a user of whom nothing
    #: was finished here lately: when a worker dies, the broker may send a new event of a user to
    #: the next owner just before those that the dead one held.
    meet_s: float = 0.05
    #: For so long after a connection began every event that opens a lane waits like that.
    fresh_s: float = 2.0
    #: How long an event that came back waits for predecessors that did not, before they are
    #: taken for done elsewhere.
    quiet_s: float = 0.5
    #: How often such an event has to come back without them. Once is not enough: a message that the
    #: broker is just reading for its redelivery overtakes those of a consumer that leaves then. And
    #: those of a consumer that died with many were seen to come 1.9 s later, after two.
    proofs: int = 4
    #: When a lane that was given back and stayed empty is forgotten.
    forget_s: float = 30.0
    #: Events of one lane that count at the receive gate; a lane whose head failed counts as one.
    #: Few, because one of them runs at a time: users with deep lanes must not shut others out.
    lane_share: int = 2
    #: Events of one lane whose payloads are kept here; those behind are fetched when they are near.
    lane_payload_events: int = 1_000
    #: The same while the payload budget is used up.
    scarce_payload_events: int = 16
    #: A user whose attempt takes so long is slow from then on, until one is quicker.
    slow_after_s: float = 5.0
    #: What slow users may have of the concurrency, together.
    slow_share: float = 0.5
    #: After which dead letters a user is held.
    holding: Holding = NO_HOLDING
    #: Events given back in one go.
    burst: int = REDELIVERY_BURST
    #: A gap between two steps that makes the worker ask the broker before it starts an attempt: the
    #: process was stopped, and whatever it knows of its connection is as old as that.
    freeze_s: float = 1.0

    @property
    def slow_limit(self) -> int:
        """Attempts of slow users at once."""
        return max(1, int(self.slow_share * self.concurrency))

    @property
    def gate_events(self) -> int:
        """Ready events at which receiving stops: eight lanes for each attempt that can run.

        Not more, because a key that moves to another worker stays here until all of it is done:
        what is hoarded here can't be delivered by a worker that joins.
        """
        return 8 * self.lane_share * self.concurrency

    @property
    def once_more_lanes(self) -> int:
        """Ready lanes of what is delivered once more at which no more of it is received."""
        return max(2, 2 * self.concurrency)
