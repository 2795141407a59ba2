"""What a worker's cost is without order: its own consumers, and acknowledgements at once.

No lanes, no attempts: what is received is acknowledged a batch at a time, as a worker hands it on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import uvloop

from bench.errors import BenchError
from bench.machine import own_peak_mib
from bench.parts import child
from bench.parts.consumer import Options, Result
from keylane.broker import Consumer, Received
from keylane.pulsar import PulsarBroker

_WITHIN_S: Final = 120.0


class _Drain:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._done = self._measured = 0
        self._consumers: dict[int, Consumer] = {}
        self._began = self._cpu_began = 0.0
        self._ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    async def run(self, broker: PulsarBroker, partitions: int) -> Result:
        options = self._options
        for partition in range(partitions):
            self._consumers[partition] = await broker.subscribe(
                options.topic, partition, options.subscription, "bench", self._acknowledge
            )
        return await self._ended

    def _acknowledge(self, partition: int, messages: Sequence[Received]) -> None:
        self._consumers[partition].acknowledge(messages)
        self._done += len(messages)
        if not self._began and self._done >= self._options.unmeasured:
            self._began, self._cpu_began = time.monotonic(), time.process_time()
            self._measured = self._options.count - self._done
        if self._done == self._options.count:
            seconds = time.monotonic() - self._began
            cpu_s = time.process_time() - self._cpu_began
            self._ended.set_result(Result(self._measured, seconds, cpu_s, own_peak_mib()))


async def _run(options: Options) -> Result:
    broker = PulsarBroker(options.service_url)
    try:
        partitions = await broker.partitions(options.topic)
        async with asyncio.timeout(_WITHIN_S):
            return await _Drain(options).run(broker, partitions)
    except TimeoutError:
        raise BenchError(f"not all of {options.count:,} events came") from None
    finally:
        await broker.close()


if __name__ == "__main__":
    child.tell(uvloop.run(_run(child.begin(Options))))
