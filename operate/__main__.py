"""The `keylane` command, and `python -m operate` wherever its script lies: what has to be done
before everything is imported."""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

#: Of a command that takes long and need not be quick.
_NICENESS: Final = 10


def main() -> None:
    """Run the command; see operate/cli.py."""
    if sys.argv[1:2] == ["replay"]:
        # It reads and publishes as fast as it may; who delivers on this machine comes first.
        os.nice(_NICENESS)
    # To look for garbage among what is imported, and there is none, takes a tenth of the start.
    gc.disable()
    from operate.cli import main as run

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
