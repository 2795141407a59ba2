"""wrk as load client where it is installed: it takes a fraction of what ours takes of the machine.

https://github.com/wg/wrk
"""

from __future__ import annotations

import math
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.errors import BenchError
from bench.machine import cpu_s
from bench.parts import load

PROGRAM: Final = "wrk"
_WITHIN_S: Final = 30.0
_SCRIPT: Final = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = [=[{body}]=]
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"others":{"0":%d,"status":%d}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout, e.status))
end
"""


class _Told(msgspec.Struct):
    requests: int
    microseconds: int
    others: dict[str, int]


def is_there() -> bool:
    return shutil.which(PROGRAM) is not None


def run(
    url: str, body: bytes, connections: int, seconds: float, pids: Sequence[int], folder: Path
) -> load.Result:
    """Post the body on each connection again and again, for `seconds` rounded up to a whole one."""
    script = folder / "wrk.lua"
    script.write_text(_SCRIPT.replace("{body}", body.decode()))
    command = [
        *(PROGRAM, "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{math.ceil(seconds)}s", "--script", str(script), url),
    ]
    before = _own_cpu_s(), _cpu_s(pids)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,  # a Ctrl-C is ours to handle
        timeout=seconds + _WITHIN_S,
        check=False,
    )
    after = _own_cpu_s(), _cpu_s(pids)
    own, watched = (b - a for a, b in zip(before, after, strict=True))
    if done.returncode:
        raise BenchError(f"{PROGRAM} failed: {done.stderr.decode(errors='replace')}")
    return result_of(done.stdout, own, watched)


def result_of(output: bytes, own_cpu_s: float, watched_cpu_s: float) -> load.Result:
    """What its script told last, beneath what it prints for people."""
    told = msgspec.json.decode(output.splitlines()[-1], type=_Told)
    others = {what: count for what, count in told.others.items() if count}
    refused = others.get("status", 0)
    return load.Result(
        told.requests - refused, told.microseconds / 1e6, own_cpu_s, watched_cpu_s, others
    )


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_s(pids: Sequence[int]) -> float:
    return sum(cpu_s(pid) for pid in pids)
