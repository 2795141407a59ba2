from __future__ import annotations

from tests.stage import anyio_backend, make_stage

__all__ = ["anyio_backend", "make_stage"]
