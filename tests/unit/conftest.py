from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.worker_site import Site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    site.stop.set()
    if hasattr(site, "running"):
        await asyncio.gather(site.running, return_exceptions=True)
    await site.broker.close()
