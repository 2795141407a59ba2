from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.forks import FULL

if TYPE_CHECKING:
    from tests.unit.worker_site import Site

#: Of what chance invents anew at each run, where a test doesn't say how much it needs.
EXAMPLES = 500 if FULL else 60

settings.register_profile("keylane", max_examples=EXAMPLES)
settings.load_profile("keylane")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    # Half a second, also for the process that only shares out the tests.
    from tests.unit.worker_site import Site

    site = Site()
    yield site
    site.stop.set()
    if hasattr(site, "running"):
        await asyncio.gather(site.running, return_exceptions=True)
    await site.broker.close()
