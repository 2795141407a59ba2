"""`python -m operate`: the `keylane` command, wherever its script lies."""

from __future__ import annotations

from operate.cli import main

if __name__ == "__main__":
    main()
