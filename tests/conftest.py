from __future__ import annotations

from typing import Final

import pytest

pytest_plugins = ["tests.brokers"]

#: Takes minutes, most of it in a process beside that of the tests.
_LONGEST: Final = "test_lanes_model.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, or the others would wait for it in the end."""
    items.sort(key=lambda item: item.path.name != _LONGEST)
