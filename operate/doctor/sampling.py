"""The last messages of a partition, and what they say of who published them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from keylane.broker import Position
from keylane.pulsarlog import PulsarLogs
from keylane.pulsarmessage import PulsarMessage
from operate.doctor.seen import Sampled

#: Entries of each partition; one may be a batch of several messages.
ENTRIES: Final = 200
_MESSAGES: Final = 2_000


def start_of_last(internal: Mapping[str, Any], entries: int = ENTRIES) -> Position | None:
    """Behind which position the last entries lie; None for an empty topic.

    `internal` are the broker's internal statistics of a partition.
    """
    ledgers = [dict(one) for one in internal.get("ledgers", ())]
    if not ledgers:
        return None
    # Of the ledger that is written to only this tells.
    ledgers[-1]["entries"] = internal.get("currentLedgerEntries", ledgers[-1]["entries"])
    left = entries
    for ledger in reversed(ledgers):
        if ledger["entries"] >= left:
            return ledger["ledgerId"], ledger["entries"] - left - 1, -1
        left -= ledger["entries"]
    return (ledgers[0]["ledgerId"], -1, -1) if left < entries else None


async def sample(logs: PulsarLogs, part: str, after: Position) -> list[Sampled]:
    """Read what lies behind a position; raises `BrokerUnavailable`."""
    reader = await logs.reader(part, after=after)
    found: list[Sampled] = []
    while len(found) < _MESSAGES and (batch := await reader.read()):
        found += [sampled(message) for message in batch]
    return found


def sampled(message: PulsarMessage) -> Sampled:
    return Sampled(
        message.key, message.position, str(message.raw.producer_name()), message.publish_time_ms
    )
