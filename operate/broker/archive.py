"""Java's archive of Pulsar's classes: with it a broker is there in two thirds of the time.

Java reads and checks some fifteen thousand classes before a broker is healthy. It can write down
what came of that when it ends, and map it into memory the next time ("application class-data
sharing"). An archive that does not fit, by the version of Java and by size and time of each file of
the class path, it leaves alone.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Final

from operate.broker.places import cache_dir, has_space, short_name

#: Writing it takes some seconds on top of an orderly end.
WRITTEN_WITHIN_S: Final = 60.0

_MADE: Final = "classes.jsa"
#: Java archives nothing while a folder with files is on the class path. Pulsar's script puts the
#: one of its log settings there, so it is told of one that does not exist.
_NO_FOLDER: Final = "no-folder"


@dataclass(frozen=True, slots=True)
class ClassArchive:
    """The archive of one Pulsar for one Java; need not be there yet."""

    home: Path
    java_home: Path

    @property
    def file(self) -> Path:
        return cache_dir() / "classes" / f"{short_name(f'{self.home} {self.java_home}')}.jsa"

    def can_be_written(self) -> bool:
        """Whether there is none yet, though its path could be one of Java's options."""
        return not has_space(self.file) and not self.is_there()

    def is_there(self) -> bool:
        """Whether there is one that was written since this Pulsar and this Java came here."""
        of = (self.home / "lib", self.java_home / "lib" / "modules")
        try:
            return self.file.stat().st_mtime > max(path.stat().st_ctime for path in of)
        except OSError:
            return False

    def added_to(self, env: dict[str, str], data_dir: Path, *, writes: bool) -> dict[str, str]:
        """`env` of a Pulsar that takes the archive, or writes one into `data_dir` when it ends."""
        if has_space(self.file):
            return env
        log_conf = self.home / "conf" / "log4j2.yaml"
        options = [env["PULSAR_EXTRA_OPTS"], f"-Dlog4j.configurationFile={log_conf}"]
        if writes:
            options.append(f"-XX:ArchiveClassesAtExit={data_dir / _MADE}")
        elif self.is_there():
            options.append(f"-XX:SharedArchiveFile={self.file}")
        return env | {
            "PULSAR_EXTRA_OPTS": " ".join(options),
            "PULSAR_LOG_CONF": str(self.file.parent / _NO_FOLDER / log_conf.name),
        }

    def keep(self, data_dir: Path) -> None:
        """Take what Java has written into `data_dir`, if it has; appears whole or not at all."""
        made = data_dir / _MADE
        # A full disk must not be what a stop fails of: the next start is as slow as this one.
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.file.parent) as beside:
                copyfile(made, Path(beside) / _MADE).replace(self.file)
