"""`keylane doctor` over a broker of the tests, and what it prints, run as a person would."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import shlex
import stat
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from keylane.settings import PulsarSettings, Settings
from operate.broker.distribution import find_distribution
from operate.broker.java import find_java_home
from operate.broker.local import LocalBroker
from operate.broker.ports import HOST
from operate.doctor.examining import examine
from operate.doctor.findings import Finding, Severity
from operate.doctor.looking import look
from operate.doctor.mending import role_of

_WITHIN_S = 60.0
#: A Java that lives for a second needs no second compiler.
_JAVA = {
    "PULSAR_EXTRA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "PULSAR_GC_LOG": "-Xlog:disable",
}


@dataclass(frozen=True, slots=True)
class Patient:
    """A topic, and how it is reached."""

    settings: Settings
    partitions: int | None = None
    destinations: tuple[str, ...] = ()

    @classmethod
    def on(cls, access: PulsarSettings, topic: str, partitions: int | None = None) -> Patient:
        return cls(Settings(topic=topic, pulsar=access), partitions)

    async def findings(self, *, canary: bool = False) -> list[Finding]:
        seen = await look(
            self.settings, self.destinations, partitions=self.partitions, is_with_canary=canary
        )
        token = self.settings.pulsar.token
        return examine(
            seen, self.settings, role=role_of(token.get_secret_value() if token else None)
        )

    async def bad(self) -> dict[str, Finding]:
        """What is not well, by its check; the faults of the broker's release are no seeds."""
        found = await self.findings()
        return {
            one.check: one
            for one in found
            if one.severity is not Severity.OK and one.check != "broker.version"
        }


def only(findings: Sequence[Finding], check: str) -> Finding:
    (one,) = [one for one in findings if one.check == check]
    return one


@dataclass(slots=True)
class Shell:
    """A shell whose PATH has `keylane` and `pulsar-admin`."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, broker: LocalBroker | None, *admin_options: str) -> Shell:
        """`admin_options` are what an administrator's client.conf says otherwise."""
        tool = folder / "pulsar-admin"
        words = shlex.join([*_tool(broker), *admin_options])
        tool.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        return cls(folder)

    async def run(self, finding: Finding) -> None:
        """Run the command that mends it; the test fails if it does not end with 0."""
        command = finding.mend.command
        assert command is not None, finding
        own = f"{self.folder}:{Path(sys.executable).parent}"
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("KEYLANE_", "PULSAR_"))}
        running = await asyncio.create_subprocess_shell(
            command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
            env={**ours, **_JAVA, **self.env, "PATH": f"{own}:{os.environ['PATH']}"},
        )
        async with asyncio.timeout(_WITHIN_S):
            said, _ = await running.communicate()
        assert running.returncode == 0, f"{command}: {said.decode()}"


def _tool(broker: LocalBroker | None) -> list[str]:
    if broker is not None and broker.admin_tool() is None:
        identity = broker.run.identity
        return ["docker", "exec", "-i", getattr(identity, "container_id", ""), "bin/pulsar-admin"]
    home = find_distribution(lambda _line: None)
    java = f"JAVA_HOME={find_java_home()}"
    return ["env", java, str(home / "bin" / "pulsar-admin")]


class Lying:
    """The admin interface behind a proxy that tells another version, or another time."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self.url = ""
        self.version: str | None = None
        self.ahead_s = 0.0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Lying]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        self.url = f"http://{HOST}:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.Response:
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                request.method,
                f"{self._admin_url}{request.path_qs}",
                data=await request.read(),
                headers={"content-type": "application/json"},
                allow_redirects=False,
            ) as answer,
        ):
            body = await answer.read()
            if self.version is not None and request.path.endswith("brokers/version"):
                body = self.version.encode()
            date = email.utils.formatdate(time.time() + self.ahead_s, usegmt=True)
            return web.Response(status=answer.status, body=body, headers={"date": date})
