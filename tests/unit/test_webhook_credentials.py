"""TLS, credentials and proxies over real sockets, and what of them is wrong at opening."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from dispatch.destinations.http import engine as engine_module
from dispatch.destinations.opening import Opening
from dispatch.destinations.webhook import WebhookDestination, open_webhook
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable
from keylane.destinationsettings import ChannelSettings, HttpSettings
from keylane.errors import ConfigurationError, ContractError
from tests.contract.certificates import Authority, Signed
from tests.messages import make_delivery
from tests.rawreceiver import OK, Request, answer_of, read_request, receiving

TOKEN = "a-token-nobody-may-see"  # pragma: allowlist secret


def opened(url: str, secret: str | None = None, **http: Any) -> WebhookDestination:
    settings = ChannelSettings.model_validate({"to": url, "secret": secret, "http": http})
    broker: Any = None
    return open_webhook(Opening("crm", "", url, settings, 5.0, 1, is_guarded=False, broker=broker))


async def attempt(url: str, secret: str | None = None, **http: Any) -> Outcome:
    destination = opened(url, secret, **http)
    try:
        return await destination.attempt(make_delivery())
    finally:
        await destination.close()


# Headers


async def headers_with(url_path: str = "/hook", **http: Any) -> dict[str, str]:
    async with receiving() as receiver:
        url = receiver.url.replace("/hook", url_path)
        assert await attempt(url, **http) == Delivered(200)
    return receiver.requests[0].headers


async def test_a_bearer_token_is_sent() -> None:
    assert (await headers_with(bearer=TOKEN))["authorization"] == f"Bearer {TOKEN}"


async def test_a_name_and_a_password_are_sent() -> None:
    expected = "Basic " + base64.b64encode("Zoë:a:b".encode()).decode()
    assert (await headers_with(basic="Zoë:a:b"))["authorization"] == expected


async def test_a_name_and_a_password_in_the_url_are_sent() -> None:
    async with receiving() as receiver:
        await attempt(receiver.url.replace("//", "//ada:secret@"))
    expected = "Basic " + base64.b64encode(b"ada:secret").decode()
    assert receiver.requests[0].headers["authorization"] == expected


async def test_headers_of_the_settings_are_sent() -> None:
    sent = await headers_with(headers={"X-Api-Key": TOKEN, "Authorization": "ApiKey abc"})
    assert sent["x-api-key"] == TOKEN
    assert sent["authorization"] == "ApiKey abc"


async def test_the_path_and_the_query_are_sent_as_they_are_and_what_is_no_ascii_encoded() -> None:
    async with receiving() as receiver:
        await attempt(receiver.url.replace("/hook", "/a%2Fb/ü?c=%20d&e=ö#part"))
    assert receiver.requests[0].line == "POST /a%2Fb/%C3%BC?c=%20d&e=%C3%B6 HTTP/1.1"


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "content-type", "Content-Length", "transfer-encoding", "Expect", "User-Agent"),
        *("ce-id", "CE-Anything", "webhook-id", "Webhook-Signature", "keylane-user"),
        *("traceparent", "Proxy-Authorization", "Connection", "a b", "a:b", "a\r\nb", ""),
    ],
)
async def test_headers_that_are_not_free_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"http\.headers"):
        opened("http://localhost/", headers={name: "value"})


@pytest.mark.parametrize(
    "value", [f"{TOKEN}\r\nx: y", f"{TOKEN}\nx", f"{TOKEN}\0", f"{TOKEN}é", " "]
)
async def test_values_that_no_header_can_carry_are_refused_and_not_told(value: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        opened("http://localhost/", headers={"x-key": value})
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "http"),
    [
        ("http://h/", {"bearer": f"{TOKEN}\r\nx: y"}),
        ("http://h/", {"bearer": f"{TOKEN} b"}),
        ("http://h/", {"basic": TOKEN}),
        ("http://h/", {"basic": f"a:{TOKEN}\n"}),
        ("http://h/", {"basic": f"a:{TOKEN}", "bearer": TOKEN}),
        (f"http://a:{TOKEN}@h/", {"bearer": TOKEN}),
        ("http://h/", {"bearer": TOKEN, "headers": {"authorization": TOKEN}}),
        ("http://h/", {"proxy": f"socks5://a:{TOKEN}@h:1"}),
        ("http://h/", {"proxy": f"http://a:{TOKEN}@h"}),
        ("http://h/", {"proxy": f"http://a:{TOKEN}@h:x"}),
        ("http://h/", {"retry": (404,), "reject": (404,)}),
        ("https://h/", {"key_file": "/nowhere"}),
        ("https://h/", {"ca_file": "/nowhere"}),
        ("https://h/", {"cert_file": "/nowhere"}),
        ("https://h/", {"ca_file": "/dev/null"}),
        ("http:///path", {}),
        (f"http://a:{TOKEN}@h:99999/", {}),
        (f"http://a:{TOKEN}@a b/", {}),
        (f"http://a:{TOKEN}@[::1/", {}),
        ("ftp://h/", {}),
        ("http://h:0/", {}),
    ],
)
async def test_what_can_never_work_is_told_at_opening(url: str, http: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        opened(url, **http)
    assert TOKEN not in str(raised.value)


async def test_an_answer_that_repeats_a_secret_is_cleaned_of_it() -> None:
    async def repeat(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer_of(400, str(request.headers).encode()))

    async with receiving(repeat) as receiver:
        outcomes = [
            await attempt(receiver.url, **http)
            for http in ({"bearer": TOKEN}, {"headers": {"x": TOKEN}}, {"basic": f"ada:{TOKEN}"})
        ]
    encoded = base64.b64encode(f"ada:{TOKEN}".encode()).decode()
    assert encoded in receiver.requests[2].headers["authorization"]
    for outcome in outcomes:
        assert isinstance(outcome, Refused)
        assert "***" in outcome.answer
        for secret in (TOKEN, encoded):
            assert secret not in outcome.answer + outcome.reason


@pytest.mark.parametrize("name", ["x\r\nevil", "a b", ""])
async def test_the_name_of_an_extension_can_not_smuggle_a_header(name: str) -> None:
    destination = opened("http://127.0.0.1:1/")
    delivery = make_delivery()
    delivery.message.attributes[f"ce_{name}"] = "v"  # type: ignore[attr-defined]
    with pytest.raises(ContractError):
        await destination.attempt(delivery)
    await destination.close()


async def test_an_empty_value_is_sent_as_an_empty_header() -> None:
    async with receiving() as receiver:
        destination = opened(receiver.url)
        delivery = make_delivery(user="")
        delivery.message.attributes["ce_subject"] = ""  # type: ignore[attr-defined]
        await destination.attempt(delivery)
        await destination.close()
    head = receiver.requests[0].headers
    assert head.get("ce-subject", "gone") == head.get("keylane-user", "gone") == ""


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Signed:
    return authority.sign("server", "127.0.0.1")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Signed:
    return authority.sign("client")


def server_context(server: Signed, authority: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    if authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.certificate)
    return context


async def test_a_private_authority_can_be_trusted_and_its_connections_are_kept(
    server: Signed, authority: Authority
) -> None:
    async with receiving(tls=server_context(server)) as receiver:
        destination = opened(receiver.url, ca_file=authority.certificate)
        for _ in range(3):
            assert await destination.attempt(make_delivery()) == Delivered(200)
        await destination.close()
    assert receiver.connections == 1


async def test_a_kept_tls_connection_that_was_closed_costs_nothing(
    server: Signed, authority: Authority
) -> None:
    async def close_after(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        # What comes with the answer libcurl reads with it, and it doesn't look whether that is the
        # end.
        await asyncio.sleep(0.02)
        writer.close()

    async with receiving(close_after, tls=server_context(server)) as receiver:
        destination = opened(receiver.url, ca_file=authority.certificate)
        for _ in range(3):
            assert await destination.attempt(make_delivery()) == Delivered(200)
            await asyncio.sleep(0.1)  # for the end to arrive, of which nothing tells
        await destination.close()


async def test_a_certificate_of_nobody_known_is_not_trusted(server: Signed) -> None:
    async with receiving(tls=server_context(server)) as receiver:
        outcome = await attempt(receiver.url)
    assert isinstance(outcome, Unavailable)
    assert outcome.is_down
    assert not outcome.is_overload
    assert "certificate" in outcome.reason
    assert receiver.requests == []


async def test_a_certificate_of_another_host_is_not_trusted(
    authority: Authority,
) -> None:
    other = authority.sign("other", "127.0.0.9")
    async with receiving(tls=server_context(other)) as receiver:
        outcome = await attempt(receiver.url, ca_file=authority.certificate)
    assert isinstance(outcome, Unavailable)
    assert receiver.requests == []


async def test_who_speaks_no_tls_is_down(authority: Authority) -> None:
    async with receiving(b"HTTP/1.1 200 OK\r\n\r\n") as receiver:
        url = receiver.url.replace("http:", "https:")
        outcome = await attempt(url, ca_file=authority.certificate, connect_timeout_s=0.3)
    assert isinstance(outcome, Unavailable)
    assert outcome.is_down


@pytest.mark.parametrize("is_one_file", [True, False])
async def test_a_client_certificate_is_shown(
    server: Signed, client: Signed, authority: Authority, tmp_path: Path, is_one_file: bool
) -> None:
    files: dict[str, Any] = {"cert_file": client.certificate, "key_file": client.key}
    if is_one_file:
        both = tmp_path / "both.pem"
        both.write_bytes(client.certificate.read_bytes() + client.key.read_bytes())
        files = {"cert_file": both}
    async with receiving(tls=server_context(server, authority)) as receiver:
        assert await attempt(receiver.url, ca_file=authority.certificate, **files) == Delivered(200)
        without = await attempt(receiver.url, ca_file=authority.certificate)
    assert isinstance(without, Unavailable)
    assert without.is_down or without.may_be_down  # TLS 1.3 tells only after the request


async def test_a_key_that_does_not_fit_is_told_at_opening(server: Signed, client: Signed) -> None:
    with pytest.raises(ConfigurationError, match="no PEM file that fits"):
        opened("https://h/", cert_file=client.certificate, key_file=server.key)


# Proxies


async def test_a_proxy_is_used_with_its_credentials_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    async with receiving() as proxy:
        url = proxy.url.replace("//", f"//ada:{TOKEN}@").removesuffix("/hook")
        assert await attempt("http://example.test/x", proxy=url) == Delivered(200)
    (request,) = proxy.requests
    assert request.line == "POST http://example.test/x HTTP/1.1"
    expected = "Basic " + base64.b64encode(f"ada:{TOKEN}".encode()).decode()
    assert request.headers["proxy-authorization"] == expected


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with receiving() as receiver:
        assert await attempt(receiver.url) == Delivered(200)


async def test_a_proxy_that_wants_other_credentials_is_worth_a_retry() -> None:
    async with receiving(answer_of(407)) as proxy:
        outcome = await attempt("http://example.test/", proxy=proxy.url.removesuffix("/hook"))
    assert isinstance(outcome, Unavailable)
    assert outcome.is_down


async def test_a_proxy_carries_tls_and_sees_no_header_of_it(
    server: Signed, authority: Authority
) -> None:
    asked: list[Request] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader, 1))
        there, to = await asyncio.open_connection("127.0.0.1", receiver.port)
        writer.write(b"HTTP/1.1 200 OK\r\nretry-after: 1\r\n\r\n")
        await asyncio.gather(pump(reader, to), pump(there, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with receiving(tls=server_context(server)) as receiver:
        proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        outcome = await attempt(
            receiver.url,
            ca_file=authority.certificate,
            bearer=TOKEN,
            proxy=f"http://127.0.0.1:{port}",
        )
        proxy.close()
    assert outcome == Delivered(200)
    assert asked[0].line.startswith("CONNECT 127.0.0.1:")
    assert "authorization" not in asked[0].headers
    assert receiver.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


async def test_a_proxy_that_is_not_there_is_down_and_its_password_not_told() -> None:
    outcome = await attempt("http://example.test/", proxy=f"http://a:{TOKEN}@127.0.0.1:1")
    assert isinstance(outcome, Unavailable)
    assert outcome.is_down
    assert TOKEN not in outcome.reason


# Kept connections


async def test_a_connection_that_was_idle_for_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "KEEP_ALIVE_S", 1)
    async with receiving() as receiver:
        destination = opened(receiver.url)
        await destination.attempt(make_delivery())
        await destination.attempt(make_delivery())
        assert receiver.connections == 1
        began = time.monotonic()
        await asyncio.sleep(1.1)
        while receiver.connections == 1 and time.monotonic() - began < 4:
            await destination.attempt(make_delivery())
            await asyncio.sleep(1.1)
        assert receiver.connections == 2
        await destination.close()


async def test_settings_reach_the_attempt() -> None:
    async def hang(_request: Request, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with receiving(hang) as receiver:
        outcome = await attempt(receiver.url, read_timeout_s=0.05)
    assert isinstance(outcome, Unavailable)
    assert HttpSettings().read_timeout_s == 15


async def test_a_large_event_is_sent_without_asking_first() -> None:
    payload = b'"' + b"x" * 4_000_000 + b'"'
    async with receiving() as receiver:
        destination = opened(receiver.url)
        assert await destination.attempt(make_delivery(payload)) == Delivered(200)
        await destination.close()
    assert receiver.requests[0].body == payload
    assert "expect" not in receiver.requests[0].headers
