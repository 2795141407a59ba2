"""The README's curl commands give the answers that it says, against a served ingest."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ingest import problems
from ingest.serve import serving
from keylane.apikeys import DEFAULT_SCOPES, Scope, create_key
from keylane.ingestsettings import IngestSettings
from keylane.settings import Settings
from tests.fakes import FakeBroker, FakePublisher
from tests.waiting import until

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

#: As much of curl as the README uses, where there is none.
CURL = f"""#!{sys.executable}
import http.client, sys, urllib.parse
arguments, headers, body, url = sys.argv[1:], {{}}, None, ""
while arguments:
    word = arguments.pop(0)
    if word == "-H":
        name, _, value = arguments.pop(0).partition(": ")
        headers[name] = value
    elif word == "-d":
        body = arguments.pop(0).encode()
    elif word != "-i":
        url = word
at = urllib.parse.urlsplit(url)
http.client.HTTPConnection.debuglevel = 0
link = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
link.putrequest("GET" if body is None else "POST", at.path)
if body is not None and "Content-Length" not in headers:
    headers["Content-Length"] = str(len(body))
for name, value in headers.items():
    link.putheader(name, value)
link.endheaders(body)
answer = link.getresponse()
print(f"HTTP/1.1 {{answer.status}} {{answer.reason}}")
"""


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found, marker
    return found[1]


@dataclass
class Scene:
    folder: Path
    url: str
    publisher: FakePublisher

    async def run(self, *commands: str) -> list[int]:
        """The statuses of all answers, in the order in which they came."""
        text = "\n".join(commands).replace("http://localhost:8090", self.url)
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", text),
            cwd=self.folder,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", said)]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    keys = tmp_path / "keylane-keys.json"
    for name, scopes in (("shop", DEFAULT_SCOPES), ("texts", [Scope.NOTIFY_WRITE])):
        new = create_key(keys, name, scopes=scopes, tenant=None, topic=None, expires_at=None)
        (tmp_path / f"{name}.key").write_text(new.text + "\n")
    if not shutil.which("curl"):
        (tmp_path / "curl").write_text(CURL)
        (tmp_path / "curl").chmod(stat.S_IRWXU)
    publisher = FakePublisher()
    settings = IngestSettings(
        port=0,
        keys_file=keys,
        body_timeout_s=2,
        max_body_bytes=1_000,
        rate_burst=20,
        rate_limit=5,
        send_deadline_s=3,
    )
    async with serving(FakeBroker(publisher), Settings(ingest=settings)) as server:
        await until(publisher.is_connected)
        yield Scene(tmp_path, server.url, publisher)
        publisher.release()


async def test_every_answer_can_be_had_as_the_readme_says(scene: Scene) -> None:
    lines = block("try").splitlines()
    wanted = [int(n) for line in lines for n in re.findall(r"# (\d+)$", line)]

    assert await scene.run(*lines) == wanted

    scene.publisher.hold()
    lines = [*lines[:2], *block("try paused").splitlines()]
    paused = [int(n) for line in lines for n in re.findall(r"# (\d+)$", line)]
    assert await scene.run(*lines) == paused
    assert {*wanted, *paused} == {202} | {kind.status for kind in problems.KINDS} - {500}
