"""A broker that lets in only whom it knows, over TLS."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import pytest
import structlog
from typing_extensions import override

from keylane.admin import PulsarAdmin
from keylane.broker import OutgoingMessage, Publisher, Receipt, Received
from keylane.errors import BrokerError, BrokerUnavailable, ConfigurationError
from keylane.pulsar import PulsarBroker
from keylane.settings import PulsarSettings
from keylane.topics import ensure_topic
from operate.broker.local import LocalBroker, LocalBrokerOptions, start_local_broker
from operate.broker.ports import HOST, choose_port
from tests.contract.certificates import Authority, Signed
from tests.tokens import SECRET_KEY, token_for
from tests.waiting import until

pytestmark = [pytest.mark.real_broker]

CLIENT_SECRET: Final = "pass/word of keylane"
_PROVIDERS: Final = "org.apache.pulsar.broker.authentication.AuthenticationProvider"


@dataclass(frozen=True, slots=True)
class Fortress:
    """Where the broker is, and what it takes to get in."""

    service_url: str
    admin_url: str
    trusted: Path
    admin: Signed
    folder: Path

    def access(self, **changes: Any) -> PulsarSettings:
        """The settings of a client that trusts it, with these besides."""
        given = {
            "service_url": self.service_url,
            "admin_url": self.admin_url,
            "tls_trust_certs": self.trusted,
            "operation_timeout_s": 5.0,
        }
        return PulsarSettings.model_validate(given | changes)

    def with_certificate(self, signed: Signed, **changes: Any) -> PulsarSettings:
        return self.access(tls_certificate=signed.certificate, tls_key=signed.key, **changes)


@pytest.fixture(scope="module")
def fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    folder = tmp_path_factory.mktemp("fortress")
    authority = Authority(folder, "authority")
    server = authority.sign("server", address=HOST)
    service_port, admin_port = choose_port(0, ""), choose_port(0, "")
    conf = _conf(authority, server, service_port, admin_port)
    options = LocalBrokerOptions(extra_conf=conf, is_short_lived=True, log_level="warn")
    with pytest.MonkeyPatch.context() as patched:
        # Else it would be asked by somebody whom it doesn't know.
        patched.setattr("operate.broker.local.LocalBroker.wait_healthy", _wait_healthy)
        broker = start_local_broker(options)
    with broker:
        yield Fortress(
            f"pulsar+ssl://{HOST}:{service_port}",
            f"https://{HOST}:{admin_port}",
            authority.certificate,
            authority.sign("admin"),
            folder,
        )


def _conf(authority: Authority, server: Signed, service: int, admin: int) -> dict[str, str]:
    return {
        "brokerServicePortTls": str(service),
        "webServicePortTls": str(admin),
        "tlsCertificateFilePath": str(server.certificate),
        "tlsKeyFilePath": str(server.key),
        "tlsTrustCertsFilePath": str(authority.certificate),
        "authenticationEnabled": "true",
        "authenticationProviders": f"{_PROVIDERS}Token,{_PROVIDERS}Tls",
        "authenticationRefreshCheckSeconds": "1",
        "tokenSecretKey": SECRET_KEY,
        "authorizationEnabled": "true",
        "superUserRoles": "admin",
        "brokerClientAuthenticationPlugin": (
            "org.apache.pulsar.client.impl.auth.AuthenticationToken"
        ),
        "brokerClientAuthenticationParameters": f"token:{token_for('admin')}",
    }


def _wait_healthy(broker: LocalBroker, within_s: float = 60.0) -> None:
    settings = PulsarSettings.model_validate(
        {"admin_url": broker.admin_url, "token": token_for("admin")}
    )

    async def wait() -> None:
        async with PulsarAdmin(settings, deadline_s=within_s) as admin:
            await admin.wait_until_healthy()
            await admin.partitions("anything")  # which takes that the namespace is there

    asyncio.run(wait())


@pytest.fixture
def topic() -> str:
    return f"secure-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(token_for("admin") + "\n")
    return path


def replace(path: Path, token: str) -> None:
    path.write_text(token)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Every line that is logged, by our own modules and for the client."""
    with structlog.testing.capture_logs() as lines:
        yield lines


async def send(publisher: Publisher, key: str, value: bytes) -> Receipt:
    receipts: list[Receipt] = []
    publisher.send(OutgoingMessage(key, value), receipts.append)
    await until(lambda: bool(receipts))
    return receipts[0]


async def use_everything(access: PulsarSettings, topic: str) -> None:
    """Create a topic, publish to it, take from it, talk on a channel."""
    async with PulsarAdmin(access) as admin:
        await ensure_topic(admin, topic, 1)
    broker = PulsarBroker.of(access)
    received: list[Received] = []
    heard: list[bytes] = []
    try:
        assert await broker.partitions(topic) == 1
        publisher = await broker.publisher(topic)
        await broker.subscribe(topic, 0, "crm", "one", lambda _, batch: received.extend(batch))
        channel = await broker.channel(topic, heard.append)
        assert isinstance(await send(publisher, "Ada", b"event"), tuple)
        channel.say(b"hello")
        await until(lambda: bool(received and heard))
        assert received[0].value() == b"event"
    finally:
        await broker.close()


async def refusal(access: PulsarSettings, topic: str = "any") -> str:
    """What a publisher is told that does not get in."""
    broker = PulsarBroker.of(access)
    try:
        with pytest.raises(BrokerUnavailable) as caught:
            await broker.publisher(topic)
    finally:
        await broker.close()
    return str(caught.value)


async def admin_refusal(access: PulsarSettings) -> str:
    async with PulsarAdmin(access, deadline_s=3.0) as admin:
        with pytest.raises(BrokerError) as caught:
            await admin.partitions("any")
    return str(caught.value)


async def test_a_token_in_a_file_over_tls_does_everything(
    fortress: Fortress, topic: str, token_file: Path
) -> None:
    await use_everything(fortress.access(token_file=token_file), topic)


async def test_a_certificate_alone_does_everything(fortress: Fortress, topic: str) -> None:
    await use_everything(fortress.with_certificate(fortress.admin), topic)


async def test_a_certificate_and_a_token_go_together(fortress: Fortress, topic: str) -> None:
    access = fortress.with_certificate(fortress.admin, token=token_for("admin"))

    await use_everything(access, topic)


async def test_a_wrong_token_is_not_authorized_and_told_to_nobody(
    fortress: Fortress, logged: list[Any]
) -> None:
    wrong = token_for("admin", secret=b"another secret, of 32 bytes or more too")
    access = fortress.access(token=wrong)

    for said in (await refusal(access), await admin_refusal(access)):
        assert "not authorized" in said
        assert "KEYLANE_PULSAR__TOKEN" in said
        assert wrong not in said
    assert wrong not in str(logged)


async def test_who_shows_nothing_is_not_authorized(fortress: Fortress) -> None:
    access = fortress.access()

    assert "not authorized" in await refusal(access)
    assert "not authorized" in await admin_refusal(access)


async def test_a_role_without_rights_is_not_authorized(fortress: Fortress) -> None:
    access = fortress.access(token=token_for("stranger"))

    assert "not authorized" in await refusal(access)
    assert "not authorized" in await admin_refusal(access)


async def test_a_broker_of_another_authority_is_refused(
    fortress: Fortress, tmp_path: Path, logged: list[Any]
) -> None:
    token = token_for("admin")
    other = Authority(tmp_path, "other").certificate
    access = fortress.access(token=token, tls_trust_certs=other)

    for said in (await refusal(access), await admin_refusal(access)):
        assert "unable to get local issuer certificate" in said
        assert "TLS" in said
    assert token not in str(logged)


async def test_a_certificate_for_another_host_is_refused_unless_told_otherwise(
    fortress: Fortress, topic: str
) -> None:
    urls = {
        "service_url": fortress.service_url.replace(HOST, "localhost"),
        "admin_url": fortress.admin_url.replace(HOST, "localhost"),
    }
    access = fortress.access(token=token_for("admin"), **urls)

    assert "Hostname mismatch" in await refusal(access)
    assert "Hostname mismatch" in await admin_refusal(access)
    relaxed = access.model_copy(update={"tls_validate_hostname": False})
    await use_everything(relaxed, topic)


def test_files_that_hold_no_certificates_are_told_before_anything_starts(
    fortress: Fortress, tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")

    with pytest.raises(ConfigurationError, match=r"KEYLANE_PULSAR__TLS_TRUST_CERTS=.*nonsense"):
        PulsarBroker.of(fortress.access(tls_trust_certs=nonsense))
    with pytest.raises(ConfigurationError, match=r"KEYLANE_PULSAR__TLS_CERTIFICATE=.*TLS_KEY"):
        PulsarAdmin(fortress.with_certificate(Signed(fortress.admin.certificate, nonsense)))


async def test_a_token_that_is_replaced_in_its_file_is_used_when_the_old_one_ends(
    fortress: Fortress, topic: str, token_file: Path
) -> None:
    async with PulsarAdmin(fortress.access(token=token_for("admin"))) as admin:
        await ensure_topic(admin, topic, 1)
    replace(token_file, token_for("admin", lives_s=2))
    broker = PulsarBroker.of(fortress.access(token_file=token_file))
    try:
        publisher = await broker.publisher(topic)
        replace(token_file, token_for("admin"))
        opened_at = time.monotonic()

        # The broker looks every second whose token has ended.
        await until(lambda: time.monotonic() - opened_at > 4.0)
        assert isinstance(await send(publisher, "Ada", b"event"), tuple)
        assert publisher.is_connected()
    finally:
        await broker.close()


# --- tokens of an issuer ------------------------------------------------------------------------


@dataclass
class Issuer:
    """An OAuth 2.0 issuer that gives the broker's tokens to whom it knows."""

    url: str = ""
    lives_s: float = 3_600
    asked: list[dict[str, str]] = field(default_factory=list)

    def answer(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.asked.append(form)
        if form.get("client_secret") != CLIENT_SECRET:
            return 401, {"error": "invalid_client", "error_description": form["client_secret"]}
        token = token_for(form["client_id"])
        return 200, {"access_token": token, "expires_in": self.lives_s, "token_type": "Bearer"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/realm/.well-known/openid-configuration"
            self._say(200, {"token_endpoint": f"{issuer.url}/token"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._say(*issuer.answer({k: v[0] for k, v in parse_qs(body).items()}))

        def _say(self, status: int, answer: dict[str, Any]) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        @override
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        issuer.url = f"http://{HOST}:{server.server_port}/realm"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield issuer
        server.shutdown()
        thread.join()


@pytest.fixture
def issued(fortress: Fortress, issuer: Issuer) -> Callable[..., PulsarSettings]:
    def make(**changes: Any) -> PulsarSettings:
        given = {
            "oauth2_issuer_url": f"{issuer.url}/",
            "oauth2_client_id": "admin",
            "oauth2_client_secret": CLIENT_SECRET,
        }
        return fortress.access(**(given | changes))

    return make


async def test_tokens_of_an_issuer_do_everything_and_are_kept(
    issuer: Issuer, issued: Callable[..., PulsarSettings], topic: str
) -> None:
    await use_everything(issued(oauth2_audience="urn:pulsar", oauth2_scope="all"), topic)

    # One for the admin interface, one for the clients.
    assert len(issuer.asked) == 2
    assert issuer.asked[0] == {
        "grant_type": "client_credentials",
        "client_id": "admin",
        "client_secret": CLIENT_SECRET,
        "audience": "urn:pulsar",
        "scope": "all",
    }


async def test_a_token_is_issued_anew_before_it_ends(
    issuer: Issuer, issued: Callable[..., PulsarSettings], topic: str
) -> None:
    issuer.lives_s = 1.0
    async with PulsarAdmin(issued()) as admin:

        async def is_replaced() -> bool:
            await admin.partitions(topic)
            return len(issuer.asked) >= 3

        await until(is_replaced)


async def test_an_issuer_that_refuses_is_told_without_the_secret(
    issued: Callable[..., PulsarSettings], logged: list[Any]
) -> None:
    access = issued(oauth2_client_secret="wrong/secret")

    for said in (await refusal(access), await admin_refusal(access)):
        assert "not authorized (401 invalid_client)" in said
        assert "KEYLANE_PULSAR__OAUTH2_CLIENT_SECRET" in said
        assert "wrong/secret" not in said
    assert "wrong/secret" not in str(logged)


async def test_an_issuer_that_is_away_is_told(issued: Callable[..., PulsarSettings]) -> None:
    access = issued(oauth2_issuer_url=f"http://{HOST}:1/realm?key=hunter2")

    for said in (await refusal(access), await admin_refusal(access)):
        assert "KEYLANE_PULSAR__OAUTH2_ISSUER_URL" in said
        assert "Connection refused" in said
        assert "hunter2" not in said
