"""How long faults last: as in life, or so short that all of them fit into `make test`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pace:
    #: The broker drops a silent connection after one to two of these.
    keep_alive_s: float
    #: Of everything whose length is a matter of choice.
    share: float
    #: What the workers are told besides.
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def dropped_within_s(self) -> float:
        """With the time to notice it, and that of a broker that is away meanwhile."""
        return 2 * self.keep_alive_s + 60.0

    def broker_conf(self) -> dict[str, str]:
        return {
            "keepAliveIntervalSeconds": f"{self.keep_alive_s:g}",
            # A quota is looked at that often; a minute by default.
            "backlogQuotaCheckIntervalInSeconds": "1",
        }


#: Pulsar's and Keylane's own figures.
LIFELIKE = Pace(keep_alive_s=30, share=1.0)
#: A worker may attempt without an answer of the broker for less than a keep-alive.
SHORT = Pace(keep_alive_s=5, share=0.3, env={"KEYLANE_DISPATCH__LEASE_S": "4"})
