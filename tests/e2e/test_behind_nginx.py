"""nginx in front: of ingest, and of the receiver of a webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from tests.contract.certificates import Authority
from tests.ledger import sequence
from tests.nginxserver import Nginx
from tests.stage import MakeStage, assert_kept
from tests.verifying import VerifyingReceiver, accept_all
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]

USERS = [f"user-{number}" for number in range(20)]


class Front:
    """Puts nginx before an address, as often as a test wants to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[Nginx] = []

    def of(self, upstream: str, authority: Authority | None = None) -> Nginx:
        folder = self._folder / f"nginx-{len(self._servers)}"
        folder.mkdir()
        signed = authority.sign(f"nginx-{len(self._servers)}", "127.0.0.1") if authority else None
        location = (
            f"location / {{ proxy_pass {upstream}; proxy_http_version 1.1; "
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }"
        )
        server = Nginx(folder, location, (signed.certificate, signed.key) if signed else None)
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            server.stop()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    front = Front(tmp_path)
    yield front
    front.close()


async def test_ingest_knows_senders_apart_and_stores_what_they_sent(
    make_stage: MakeStage, front: Front, tmp_path: Path
) -> None:
    stage = await make_stage("audit")
    trust = {"KEYLANE_INGEST__TRUSTED_PROXIES": "127.0.0.1/32"}
    trust["KEYLANE_INGEST__RATE_BURST"] = "10"
    ingest = await stage.ingest("--rate-limit", "5", env=trust)
    nginx = front.of(ingest.url)
    url = f"http://127.0.0.1:{nginx.port}"
    lines = tmp_path / "audit.jsonl"
    await stage.dispatch("audit", f"file:{lines}")

    # All of 127.0.0.0/8 is this machine: nginx sees two senders.
    for address in ("127.0.0.2", "127.0.0.3"):
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with aiohttp.ClientSession(connector=connector) as http:
            body = {"message": f"of {address}"}
            answers = await asyncio.gather(
                *(http.post(f"{url}/notify", json=body) for _ in range(30))
            )
        # Each has its own limit, else the second one would have nothing left of it.
        assert {answer.status for answer in answers} == {202, 429}
        assert all(
            (answer.status == 429) == ("Retry-After" in answer.headers) for answer in answers
        )

    def users() -> set[str]:
        told = lines.read_bytes().splitlines() if lines.exists() else []
        return {orjson.loads(line)["user"] for line in told}

    await until(lambda: users() == {"127.0.0.2", "127.0.0.3"}, 20.0)


@pytest.mark.long
async def test_a_webhook_behind_nginx_gets_everything_over_a_restart_of_it(
    make_stage: MakeStage, front: Front, tmp_path: Path
) -> None:
    stage = await make_stage("crm")
    authority = Authority(tmp_path, "private")
    receiver = await stage.receive(VerifyingReceiver(accept_all))
    upstream = receiver.url.rpartition("/")[0]
    nginx = front.of(upstream, authority)
    ledger = await stage.ledger()
    trust = {"KEYLANE_DESTINATIONS__CRM__HTTP__CA_FILE": str(authority.certificate)}
    url = f"https://127.0.0.1:{nginx.port}/hook"
    backoff = ["--backoff-min", "0.2", "--backoff-max", "1"]
    process = stage.run("dispatch", "crm", "--to", url, *backoff, env=trust)
    await process.ready()
    await ledger.post(sequence(USERS, 5))
    await receiver.delivers(len(USERS) * 5, 30.0)

    nginx.stop()
    await ledger.post(sequence(USERS, 5, first=6))
    await until(lambda: bool(process.logged("attempt.failed")), 20.0)
    nginx.start()
    await receiver.delivers(len(USERS) * 10, 40.0)

    assert_kept(receiver.book, ledger, await stage.dead_letters("crm"))
    assert await stage.dead_letters("crm") == []
