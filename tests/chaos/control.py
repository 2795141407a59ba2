"""The control arm: without lanes the same traffic must be out of order, or the judge is blind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from operate.broker.local import LocalBroker
from tests.brokers import BrokerAddress
from tests.chaos.crew import DESTINATION
from tests.chaos.run import Counted, Row
from tests.chaos.scene import FLAKY, HEALTHY, PARTITIONS
from tests.control import plain_consumer
from tests.judge import Wrong
from tests.ledger import sequence
from tests.stage import Stage
from tests.verifying import VerifyingReceiver, fail_share

NAME: Final = "control: plain consumer"
_EVENTS_EACH: Final = 20
_FAILING_SHARE: Final = 0.1


async def control_arm(broker: LocalBroker, folder: Path, seed: int) -> Row:
    """Deliver by plain negative acknowledgement; wrong is if that keeps the order."""
    began_at = time.monotonic()
    row = Row(NAME, seed)
    address = BrokerAddress.of(broker)
    stage = Stage(address, folder, PARTITIONS)
    try:
        await stage.set_up(DESTINATION)
        receiver = await stage.receive(VerifyingReceiver(fail_share(_FAILING_SHARE, seed)))
        ledger = await stage.ledger()
        await ledger.post(sequence((*HEALTHY, *FLAKY), _EVENTS_EACH))
        url = broker.service_url
        async with plain_consumer(url, stage.topic, DESTINATION, receiver.url):
            await receiver.delivers(len(ledger.promised), 60.0)
    finally:
        await stage.close()
    verdict = receiver.book.verdict()
    row.accepted = len(ledger.promised)
    row.delivered = len(receiver.book.delivered)
    row.inversions = len(verdict.of(Wrong.INVERSION))
    row.overlaps = Counted(n := len(verdict.of(Wrong.OVERLAP)), n)
    row.duplicates = Counted(n := len(verdict.of(Wrong.DUPLICATE)), n)
    row.seconds = time.monotonic() - began_at
    if not row.inversions:
        row.wrong.append("no inversion without lanes: what the other rows say proves nothing")
    return row
