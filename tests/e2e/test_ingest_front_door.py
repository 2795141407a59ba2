"""The HTTP service as people put it in front of a business: several processes, keys, https."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keylane.apikeys import create_key, revoke
from tests.processes import Process
from tests.redisserver import RedisServer, redis_program_is_there, redis_server
from tests.stage import MakeStage
from tests.waiting import until

__all__ = ["redis_program_is_there", "redis_server"]
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]

EVENT = {"UserID": "user-1", "Payload": 1}


async def post(url: str, body: object, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    # A connection of its own, so that any of the processes may get it.
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=named) as answer:
        return answer.status


async def accepted(ingest: Process, path: str = "/metrics") -> float:
    async with aiohttp.ClientSession() as http, http.get(ingest.url + path) as answer:
        text = await answer.text()
    name = "keylane_ingest_accepted_events_total "
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))


async def test_several_processes_share_a_port_and_their_metrics(make_stage: MakeStage) -> None:
    stage = await make_stage("crm")
    ingest = await stage.ingest("--workers", "2", "--idempotency-store", "off")
    await until(lambda: len(ingest.logged("broker.connected")) == 2, 20.0)
    url = f"{ingest.url}/events"

    assert set(await asyncio.gather(*(post(url, EVENT) for _ in range(60)))) == {202}

    assert len({told["url"] for told in ingest.logged("ingest.started")}) == 1
    # Whoever is asked tells of all.
    assert {await accepted(ingest) for _ in range(8)} == {60.0}
    assert await ingest.stop() == 0


@pytest.mark.long
async def test_a_repeat_is_recognized_by_another_process(
    make_stage: MakeStage, redis_server: RedisServer
) -> None:
    stage = await make_stage("crm")
    ingest = await stage.ingest("--workers", "2", "--idempotency-store", redis_server.url)
    await until(lambda: len(ingest.logged("broker.connected")) == 2, 20.0)
    url = f"{ingest.url}/events"

    for n in range(30):
        assert await post(url, [EVENT, {**EVENT, "ID": f"e-{n % 3}"}]) == 202
        assert await post(url, EVENT, Idempotency_Key="one") == 202

    # 30 without an id, 3 with one, and the one of all requests with the same key.
    assert await stage.stored() == 34


async def test_keys_are_exchanged_without_a_restart(make_stage: MakeStage, tmp_path: Path) -> None:
    stage = await make_stage("crm")
    file = tmp_path / "keys.json"
    old = create_key(file, "shop")
    ingest = await stage.ingest("--host", "127.0.0.1", "--keys-file", str(file))
    url = f"{ingest.url}/events"
    assert await post(url, EVENT) == 401
    assert await post(url, EVENT, Authorization=f"Bearer {old.text}") == 202

    new = create_key(file, "shop")
    revoke(file, old.key.id)

    async def is_exchanged() -> bool:
        statuses = [
            await post(url, EVENT, Authorization=f"Bearer {key.text}") for key in (old, new)
        ]
        return statuses == [401, 202]

    await until(is_exchanged, 10.0)
    assert old.text not in ingest.tail()
    assert new.text not in ingest.tail()


async def test_events_of_a_tenant_go_to_its_own_topic(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage = await make_stage("crm")
    file = tmp_path / "keys.json"
    own = create_key(file, "acme", topic=f"persistent://public/default/{stage.topic}-acme")
    ingest = await stage.ingest("--keys-file", str(file))

    status = await post(f"{ingest.url}/events", EVENT, Authorization=f"Bearer {own.text}")

    assert status == 202
    assert await stage.stored() == 0
    async with stage.admin() as admin:
        assert await admin.partitions(f"persistent://public/default/{stage.topic}-acme") == 3


def certificate(folder: Path) -> tuple[Path, Path]:
    """One that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


async def test_it_serves_https(make_stage: MakeStage, tmp_path: Path) -> None:
    stage = await make_stage("crm")
    cert, key = certificate(tmp_path)
    env = {"KEYLANE_INGEST__TLS_CERTIFICATE": str(cert), "KEYLANE_INGEST__TLS_KEY": str(key)}
    ingest = stage.run("ingest", "--port", "0", env=env)
    await until(lambda: bool(ingest.logged("broker.connected")), 20.0, ingest.tail)

    assert ingest.url.startswith("https://")
    url = ingest.url.replace("127.0.0.1", "localhost") + "/events"
    trusting = ssl.create_default_context(cafile=str(cert))
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http,
        http.post(url, json=EVENT) as answer,
    ):
        assert answer.status == 202
