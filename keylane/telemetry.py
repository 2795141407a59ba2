"""What the metrics of every process begin with."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

VERSION: Final = version("keylane")


def new_registry() -> CollectorRegistry:
    """A registry of its own for each server in a process: memory, CPU and version are in it."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Gauge(
        "keylane_build_info", "The version that runs; always 1.", ["version"], registry=registry
    )
    build.labels(VERSION).set(1)
    return registry
