"""A Pulsar distribution on this machine: the user's own, or one fetched through Maven once."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from keylane.errors import MissingPiece
from operate.broker.java import bundled_java_home
from operate.broker.places import cache_dir, has_space

Progress = Callable[[str], None]

PULSAR_VERSION: Final = "4.0.8"  # the newest complete distribution among Maven artifacts
ARTIFACT: Final = f"org.apache.pulsar:pulsar-server-distribution:{PULSAR_VERSION}:tar.gz:bin"

NOTHING_FOUND: Final = (
    "No Pulsar can be started here: install Docker, or install Maven (mvn) so that Pulsar can be"
    " downloaded, or set PULSAR_HOME to an unpacked Pulsar 4.0 distribution."
)


def find_distribution(progress: Progress) -> Path:
    """The folder of a Pulsar distribution; downloads one (245 MB) if there is none yet."""
    given = os.environ.get("PULSAR_HOME")
    if given:
        return _usable(Path(given).expanduser().resolve(), "PULSAR_HOME")
    home = cache_dir() / f"pulsar-{PULSAR_VERSION}"
    if not home.is_dir():
        _download(home, progress)
    return _usable(home, "XDG_CACHE_HOME")


def _usable(home: Path, variable: str) -> Path:
    if not (home / "bin" / "pulsar").is_file():
        raise MissingPiece(
            f"{home} holds no Pulsar (bin/pulsar is missing): set {variable} to a folder of an"
            " unpacked Pulsar 4.0 distribution, or unset it."
        )
    if has_space(home):
        raise MissingPiece(
            f"Pulsar's scripts do not run from a folder with a space in its path ({home}): set"
            f" {variable} to another one."
        )
    return home


def _download(home: Path, progress: Progress) -> None:
    """Fetch and unpack to `home`, which appears whole or not at all."""
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPiece(NOTHING_FOUND)
    home.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(home.with_name(f"{home.name}.lock"), progress):
        if home.is_dir():  # another process has done it meanwhile
            return
        for left_by_a_killed_one in home.parent.glob(f"{home.name}.partial-*"):
            shutil.rmtree(left_by_a_killed_one, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{home.name}.partial-", dir=home.parent))
        try:
            archive = _fetch(maven, partial, progress)
            progress(f"Unpacking Apache Pulsar {PULSAR_VERSION}")
            _unpack(archive, partial).rename(home)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _only_one(lock: Path, progress: Progress) -> Iterator[None]:
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for a download that another process has begun")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch(maven: str, folder: Path, progress: Progress) -> Path:
    progress(f"Downloading Apache Pulsar {PULSAR_VERSION} with Maven (245 MB, once)")
    run = subprocess.run(
        [
            maven,
            "--batch-mode",
            "--quiet",
            "--strict-checksums",
            "dependency:copy",
            f"-Dartifact={ARTIFACT}",
            f"-DoutputDirectory={folder}",
        ],
        cwd=folder,  # a pom.xml in the working folder must not matter
        env=_maven_env(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(folder.glob("*.tar.gz"))
    if run.returncode != 0 or not archives:
        said = next((line for line in (run.stdout + run.stderr).splitlines() if line.strip()), "")
        raise MissingPiece(
            f"Maven could not download Apache Pulsar ({said.strip() or 'it said nothing'}): mend"
            " that, or set PULSAR_HOME to an unpacked Pulsar 4.0 distribution."
        )
    return archives[0]


def _maven_env() -> dict[str, str]:
    env = dict(os.environ)
    bundled = bundled_java_home()
    if "JAVA_HOME" not in env and shutil.which("java") is None and bundled is not None:
        env["JAVA_HOME"] = str(bundled)
    return env


def _unpack(archive: Path, folder: Path) -> Path:
    try:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, filter="data")
            else:  # before Python 3.11.4; Maven has compared the archive with its checksum
                tar.extractall(folder)  # noqa: S202
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as failure:
        raise MissingPiece(
            f"The archive of Apache Pulsar that Maven gave is damaged ({failure}): remove"
            f" {PULSAR_VERSION} of pulsar-server-distribution from Maven's local repository and"
            " try again."
        ) from failure
    archive.unlink()
    return next(path for path in folder.iterdir() if (path / "bin" / "pulsar").is_file())
