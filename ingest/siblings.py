"""The metrics of all processes behind one port, whichever of them is asked.

Each process answers its siblings on a Unix socket in a folder that they share: what it alone has
measured. Counters, histograms and gauges are summed up; a process that is gone took its part along,
which Prometheus takes for a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from typing_extensions import override

#: Seconds that a sibling has to answer; one that is busy or gone is left out.
ANSWER_S: Final = 1.0
#: Families that end so are versions and moments, of which a sum says nothing.
_ONE_IS_ENOUGH: Final = ("_info", "_start_time_seconds", "_created", "_max_fds")


class Siblings:
    """This process's place among those that share its port; `folder` is None for one alone."""

    def __init__(self, registry: CollectorRegistry, folder: Path | None, index: int) -> None:
        self._registry = registry
        self._folder = folder
        self._own = folder / f"{index}.sock" if folder else None

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answer the others meanwhile."""
        if self._own is None:
            yield
            return
        self._own.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._answer, self._own)
        try:
            yield
        finally:
            server.close()
            self._own.unlink(missing_ok=True)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(generate_latest(self._registry))
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def registry(self) -> CollectorRegistry:
        """Everybody's metrics, as one registry to expose."""
        if self._folder is None:
            return self._registry
        others = [path for path in sorted(self._folder.glob("*.sock")) if path != self._own]
        texts = await asyncio.gather(*(_ask(path) for path in others))
        summed = CollectorRegistry()
        own = generate_latest(self._registry).decode()
        summed.register(_Sum([own, *(text for text in texts if text)]))
        return summed


async def _ask(path: Path) -> str:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return (await reader.read()).decode()
            finally:
                writer.close()
    return ""


class _Sum(Collector):
    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = list(texts)

    @override
    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for text in self._texts:
            for family in text_string_to_metric_families(text):
                kept = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                sums = values.setdefault(kept.name, {})
                for sample in family.samples:
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    before = sums.get(key, 0.0)
                    is_one = family.name.endswith(_ONE_IS_ENOUGH)
                    sums[key] = max(before, sample.value) if is_one else before + sample.value
        for name, family in families.items():
            for (sample_name, labels), value in values[name].items():
                family.add_sample(sample_name, dict(labels), value)
            yield family
