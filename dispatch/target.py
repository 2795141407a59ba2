"""Where attempts go."""

from __future__ import annotations

from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.retry import RetryPolicy


class Target:
    """A destination, the policy for its failures, and how many attempts run at it."""

    def __init__(
        self,
        destination: Destination | ImmediateDestination,
        policy: RetryPolicy,
        timeout_s: float,
    ) -> None:
        self.destination = destination
        self.policy = policy
        self.immediate = destination if isinstance(destination, ImmediateDestination) else None
        self.timeout_s = timeout_s
        self.running = 0
