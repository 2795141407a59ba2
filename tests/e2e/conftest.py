from __future__ import annotations

from tests.stage import anyio_backend, make_stage, own_broker

__all__ = ["anyio_backend", "make_stage", "own_broker"]
