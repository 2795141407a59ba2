"""What makes a run worthless; its message says why."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement failed: something was refused, lost, late or ended by itself."""
