"""Where a user's downloads and records are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_dir() -> Path:
    """What can be fetched again, shared by all runs of this user."""
    return _base("XDG_CACHE_HOME", "~/.cache") / "keylane"


def state_dir() -> Path:
    """What must survive from one run to the next."""
    return _base("XDG_STATE_HOME", "~/.local/state") / "keylane"


def records_dir() -> Path:
    """The brokers of the background; must survive until they are stopped."""
    return state_dir() / "brokers"


def has_space(path: Path) -> bool:
    """Whether Pulsar's scripts would take `path` for several words."""
    return any(character.isspace() for character in str(path))


def short_name(of: str) -> str:
    """A file's name for something longer; another thing has another one."""
    return hashlib.sha256(of.encode()).hexdigest()[:16]


def path_without_spaces(path: Path) -> Path:
    """`path`, or a link to it: Pulsar's scripts split their arguments at spaces."""
    if not has_space(path):
        return path
    link = cache_dir() / "links" / short_name(str(path))
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(path)
    return link


def _base(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()
