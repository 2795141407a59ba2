"""What a process used, and what kind of machine this is. No path and no host's name."""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
import re
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.figures import UNKNOWN

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_MIB: Final = 1024 * 1024


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, all threads; unknown where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return UNKNOWN
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children_of(pid: int) -> list[int]:
    """The processes that it started and that are there; none where there is no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


def memory_mib(pid: int) -> tuple[float, float]:
    """What a process holds now, and the most it ever held."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return UNKNOWN, UNKNOWN
    kib = {
        name: int(value)
        for name, value in re.findall(r"^(Vm\w+):\s+(\d+) kB", status, re.MULTILINE)
    }
    return kib.get("VmRSS", UNKNOWN) / 1024, kib.get("VmHWM", UNKNOWN) / 1024


def own_peak_mib() -> float:
    """The most that this process ever held."""
    _, peak = memory_mib(os.getpid())
    if not math.isnan(peak):
        return peak
    # Not on Linux, where it counts what the parent held at the fork.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB


def facts() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "keylane": version("keylane"),
        "pulsar_client": version("pulsar-client"),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "started_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
