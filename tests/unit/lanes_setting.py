"""What stays the same through a schedule of the lanes' world."""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from dispatch.options import LaneOptions


@dataclass(frozen=True, slots=True)
class Gated(LaneOptions):
    """Options whose gate can be small beside the concurrency."""

    gate: int = 48
    #: Fewer than a worker asks for, so that schedules reach what comes after them.
    proofs: int = 2
    #: What this is for is left out: what overtakes at a worker that does not know the user.
    meet_s: float = 0.0

    @property
    @override
    def gate_events(self) -> int:
        return self.gate

    @property
    def pages(self) -> bool:
        """Whether events wait without their payloads at all."""
        return self.lane_payload_events < 100 or self.payload_budget_bytes < 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same through a schedule."""

    options: Gated = field(default_factory=lambda: Gated(concurrency=3))
    max_attempts: int = 3
    #: Messages that a client fetches ahead. It asks for more when half of them are taken.
    queue: int = 50
    #: How long the client keeps acknowledgements to itself.
    ack_delay_s: float = 0.0
    #: The same of negative ones: 0.1 s and more.
    nack_delay_s: float = 0.134
    #: Whether workers take what comes as soon as it does, or when they are told to; but never later
    #: than after 0.05 s.
    is_eager: bool = True
    #: Positions that are given back in one go.
    burst: int = 500
    #: How long what was said of users takes to a worker that does not ask.
    table_lag_s: float = 0.02
    #: The destination answers at once, so events may be attempted without a lane; of how many one
    #: fails then, or none with 0. Attempts that lanes start take as long as ever.
    passes: bool = False
    passing_failures: int = 0
    users: tuple[str, ...] = ("Ada", "Bob", "Cy")
