"""Tables and numbers as commands print them."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console

#: Where no terminal says how wide it is.
_WIDTH: Final = 140


def console() -> Console:
    """Standard output; what is printed is shown as it is, no part of it taken for markup."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH, markup=False, highlight=False)
