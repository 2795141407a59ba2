"""Rotating the secret that webhooks are signed with.

For a while both are used: the receiver takes what either has signed, whichever it knows.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keylane.errors import ConfigurationError
from keylane.secretref import file_of

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32


def new_secret() -> str:
    """As Standard Webhooks writes one: `whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of a destination's secret.

    `reference` is what the settings say: `file:PATH`, `env:NAME`, or None for neither. `secret` is
    the new one, None if the old ones were only dropped. `is_written` says that the file has it.
    """

    reference: str | None
    secret: str | None
    kept: int
    is_written: bool


def rotate(reference: str | None, *, keep: int, is_finishing: bool) -> Rotation:
    """Put a new secret before those that are there, of which `keep` stay; or keep the first only.

    Only a file is written. Raises `ConfigurationError` if it can't be.
    """
    path = file_of(reference) if reference else None
    if path is None:
        return Rotation(reference, None if is_finishing else new_secret(), keep, is_written=False)
    # What a link points to is replaced, not the link.
    path = path.resolve()
    try:
        before = path.read_text(encoding="utf-8").split()
        secret = None if is_finishing else new_secret()
        after = before[:1] if secret is None else [secret, *before[:keep]]
        _replace(path, "".join(f"{line}\n" for line in after))
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"The secret in {path} can't be rotated ({said}); it is as it was."
        ) from error
    return Rotation(reference, secret, len(after) - 1, is_written=True)


def _replace(path: Path, text: str) -> None:
    """All or nothing, for nobody but its owner to read."""
    owner = path.stat()
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            # mkstemp's own mode, said again because everything depends on it.
            os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            # A worker may run as somebody else than who rotates.
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def reference_of(raw: Mapping[str, Any], name: str, channel: str | None) -> str | None:
    """What the settings say of the secret, if it is where to look for it; never a secret itself."""
    place: Any = raw["destinations"][name]
    if channel is not None:
        place = place["channels"][channel]
    said = place.get("secret")
    return said if isinstance(said, str) and said.startswith(("file:", "env:")) else None
