"""Signatures: what Standard Webhooks' own library accepts."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from dispatch.destinations.http.signing import Signer
from dispatch.destinations.webhook import WebhookDestination
from keylane.errors import ConfigurationError
from tests.messages import make_delivery
from tests.rawreceiver import receiving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another secret of 24 byt").decode()


def test_the_published_example_is_signed_as_published() -> None:
    signature = Signer(SECRET).signature(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}'
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.text(), st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_text_is_signed_as_the_library_signs_it(text: str, message_id: str) -> None:
    payload = text.encode(errors="replace")
    expected = Webhook(SECRET).sign(message_id, datetime.fromtimestamp(1e9, UTC), payload.decode())
    assert Signer(SECRET).signature(message_id, "1000000000", payload) == expected


def test_any_bytes_can_be_signed() -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, b"id.1.\xff\0", hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    assert Signer(SECRET).signature("id", "1", b"\xff\0") == expected


@pytest.mark.parametrize("between", [" ", "\n", " \r\n\t "])
async def test_each_of_several_secrets_signs(between: str) -> None:
    async with receiving() as receiver:
        destination = WebhookDestination(
            receiver.url, timeout_s=5, concurrency=1, secret=f"{SECRET}{between}{OTHER}\n"
        )
        await destination.attempt(make_delivery(b'{"a": 1}'))
        await destination.close()

    (request,) = receiver.requests
    assert len(request.headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER):
        Webhook(secret).verify(request.body, request.headers)
    with pytest.raises(Exception, match="signature"):
        Webhook(OTHER).verify(request.body + b" ", request.headers)


@pytest.mark.parametrize(
    "secret",
    ["whsec_", "whsec_?!", "whsk_MfKQ9r8G", "not-base64", " ", "whsec_MfKQ_r8-", "é"],
)
async def test_a_wrong_secret_is_told_at_once_and_not_by_its_text(secret: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        WebhookDestination("http://localhost/", timeout_s=5, concurrency=1, secret=secret)
    assert "MfKQ" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_secret_without_its_padding_or_prefix_is_the_same_one() -> None:
    padded = "whsec_" + base64.b64encode(b"four").decode()
    signatures = {
        Signer(secret).signature("id", "1", b"{}")
        for secret in (padded, padded.rstrip("="), padded.removeprefix("whsec_"))
    }
    assert len(signatures) == 1
