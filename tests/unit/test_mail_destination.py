"""Against a real SMTP server: what is sent, over which connection, and what answers come to."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from dispatch.destinationcontract import opening_of
from dispatch.destinations.mail import KEEP_S, MAX_CONNECTIONS, MailDestination
from dispatch.destinations.mailopening import open_mail
from dispatch.destinations.template import CUT_MARK
from dispatch.outcome import Delivered, Disabled, Outcome, Refused, Unavailable, Withdrawn
from keylane.errors import ConfigurationError
from tests.contract.certificates import Authority
from tests.messages import make_delivery


@dataclass
class Inbox:
    """The server's side: takes mails, and answers as it is told."""

    mails: list[Envelope] = field(default_factory=list)
    connections: int = 0
    together: int = 0
    most_together: int = 0
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    port: int = 0

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self.answers.get("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.answers.get(address, "250 OK")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        await asyncio.sleep(self.delay_s)
        self.together -= 1
        answer = self.answers.get("DATA", "250 OK")
        if answer.startswith("2"):
            self.mails.append(envelope)
        return answer

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return self.answers.get("RSET", "250 OK")

    def login(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        mechanism: str,
        data: LoginPassword,
    ) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)

    def mail(self, index: int = -1) -> EmailMessage:
        content = self.mails[index].content
        assert isinstance(content, bytes)
        return email.message_from_bytes(content, policy=email.policy.default)

    def text(self) -> str:
        return str(self.mail().get_content()).replace("\r\n", "\n")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("mail"), "authority")


@pytest.fixture(scope="session")
def server_context(authority: Authority) -> ssl.SSLContext:
    signed = authority.sign("mail", address="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    return context


async def serve(
    inbox: Inbox, *, tls: ssl.SSLContext | None = None, **options: Any
) -> asyncio.Server:
    def make() -> SMTP:
        inbox.connections += 1
        return SMTP(inbox, **options)

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, ssl=tls)
    inbox.port = server.sockets[0].getsockname()[1]
    return server


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    """A server without TLS."""
    inbox = Inbox()
    async with await serve(inbox) as server:
        yield inbox
        server.close()


def destination(
    inbox: Inbox, *, timeout_s: float = 3, scheme: str = "smtp", **of: Any
) -> MailDestination:
    message = of.pop("message", {})
    mail = {"sender": "Keylane <from@example.com>", "recipients": ["to@example.com"]}
    mail |= {"starttls": "off"} if scheme == "smtp" else {}
    to = f"{scheme}://127.0.0.1:{inbox.port}"
    return open_mail(opening_of(to, timeout_s=timeout_s, mail=mail | of, message=message))


async def attempt(
    inbox: Inbox, payload: bytes = b'{"message": "hello"}', *, number: int = 1, **of: Any
) -> Outcome:
    attributes = of.pop("attributes", {})
    opened = destination(inbox, **of)
    try:
        return await opened.attempt(make_delivery(payload, number, **attributes))
    finally:
        await opened.close()


async def test_a_mail_carries_the_text_and_what_names_the_event(inbox: Inbox) -> None:
    assert await attempt(inbox, number=2, attributes={"user": "Zoë/1"}) == Delivered(250)
    mail = inbox.mail()
    assert inbox.mails[0].mail_from == "from@example.com"
    assert inbox.mails[0].rcpt_tos == ["to@example.com"]
    assert mail["From"] == "Keylane <from@example.com>"
    assert mail["To"] == "to@example.com"
    assert mail["Subject"] == "keylane.event: Zoë/1"
    assert mail["Message-ID"] == "<event-1.contract@keylane>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"]
    assert mail["X-Keylane-Id"] == "event-1"
    assert mail["X-Keylane-User"] == "Zo%C3%AB%2F1"
    assert mail["X-Keylane-Attempt"] == "2"
    assert mail["X-Keylane-Position"] == "0:7:3"
    assert inbox.text() == "hello\n"


async def test_text_of_any_length_and_script_arrives(inbox: Inbox) -> None:
    text = "Zoë 😀\n.\n" + "x" * 5_000 + "\nend"
    await attempt(inbox, message={"template": "{{ event.text }}"}, payload=text.encode())
    assert inbox.text() == text + "\n"
    await attempt(inbox, payload=b"x" * 200_000)
    assert inbox.text().rstrip("\n").endswith(CUT_MARK)


async def test_no_event_can_add_a_header_or_a_recipient(inbox: Inbox) -> None:
    evil = "a\r\nBcc: other@example.com\r\n\r\nbody"
    attributes = {"user": evil, "id": evil, "type": evil}
    subject = "{{ event.payload.message }} {{ event.user }}"
    payload = b'{"message": "x\\r\\nBcc: other@example.com\\r\\n\\r\\nmore"}'
    assert await attempt(
        inbox, payload, attributes=attributes, message={"subject": subject}
    ) == Delivered(250)
    mail = inbox.mail()
    assert mail["Bcc"] is None
    assert inbox.mails[0].rcpt_tos == ["to@example.com"]
    assert mail["Subject"] == ("x Bcc: other@example.com more a Bcc: other@example.com body")


async def test_the_message_id_is_the_same_at_every_attempt_and_never_another_s(
    inbox: Inbox,
) -> None:
    for number in (1, 2):
        await attempt(inbox, number=number, attributes={"id": "ö" * 256})
    await attempt(inbox, attributes={"id": "ö" * 255})
    ids = [inbox.mail(n)["Message-ID"] for n in range(3)]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(str(each)) < 78 and str(each).isascii() for each in ids)


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ({"MAIL": "451 try later"}, Unavailable, 451),
        ({"MAIL": "553 not allowed"}, Refused, 553),
        ({"to@example.com": "450 busy"}, Unavailable, 450),
        ({"to@example.com": "550 no such user"}, Refused, 550),
        ({"DATA": "452 too much"}, Unavailable, 452),
        ({"DATA": "554 spam"}, Refused, 554),
    ],
)
async def test_what_answers_come_to(
    inbox: Inbox, answers: dict[str, str], kind: type[Outcome], status: int
) -> None:
    inbox.answers = answers
    outcome = await attempt(inbox)
    assert isinstance(outcome, kind)
    assert outcome.status == status
    assert next(iter(answers.values()))[4:] in outcome.reason  # type: ignore[union-attr]


async def test_a_recipient_that_is_refused_keeps_the_mail_from_all(inbox: Inbox) -> None:
    recipients = ["one@example.com", "two@example.com"]
    inbox.answers = {"two@example.com": "550 no such user"}
    outcome = await attempt(inbox, recipients=recipients)
    assert outcome == Refused("answered 550 to two@example.com: no such user", 550, "no such user")
    assert inbox.mails == []
    inbox.answers = {}
    await attempt(inbox, recipients=recipients)
    assert inbox.mails[0].rcpt_tos == recipients


async def test_what_may_not_begin_any_more_when_there_is_a_connection_is_not_sent(
    inbox: Inbox,
) -> None:
    opened = destination(inbox)
    late = make_delivery()
    late.may_begin = lambda: False
    assert await opened.attempt(late) == Withdrawn()
    assert await opened.attempt(make_delivery()) == Delivered(250)
    await opened.close()
    assert (len(inbox.mails), inbox.connections) == (1, 1)


async def test_connections_are_few_and_are_kept(inbox: Inbox) -> None:
    inbox.delay_s = 0.01
    opened = destination(inbox)
    outcomes = await asyncio.gather(
        *(opened.attempt(make_delivery(id=f"event-{n}")) for n in range(20))
    )
    await opened.close()
    assert set(outcomes) == {Delivered(250)}
    assert inbox.connections == inbox.most_together == MAX_CONNECTIONS


async def test_a_kept_connection_that_died_costs_no_attempt(inbox: Inbox) -> None:
    opened = destination(inbox)
    assert await opened.attempt(make_delivery()) == Delivered(250)
    ((_, smtp),) = opened._connections._idle
    assert isinstance(smtp.transport, asyncio.Transport)
    smtp.transport.abort()
    assert await opened.attempt(make_delivery()) == Delivered(250)
    await opened.close()
    assert inbox.connections == 2


async def test_a_kept_connection_that_the_server_gives_up_costs_no_attempt(inbox: Inbox) -> None:
    inbox.answers = {"RSET": "421 idle for too long"}
    opened = destination(inbox)
    for _ in range(2):
        assert await opened.attempt(make_delivery()) == Delivered(250)
    await opened.close()
    assert inbox.connections == 2


async def test_a_connection_that_idled_too_long_is_not_used(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.destinations.mail.KEEP_S", 0.0)
    assert KEEP_S > 0
    opened = destination(inbox)
    for _ in range(2):
        await opened.attempt(make_delivery())
    await opened.close()
    assert inbox.connections == 2


async def test_no_server_and_no_answer_are_worth_another_attempt(inbox: Inbox) -> None:
    nobody = Inbox(port=1)
    outcome = await attempt(nobody)
    assert isinstance(outcome, Unavailable)
    assert outcome.is_down
    inbox.delay_s = 5
    outcome = await attempt(inbox, timeout_s=0.2)
    assert outcome == Unavailable(
        "no answer within the timeout", may_be_down=True, is_overload=True
    )


async def test_a_cancelled_attempt_gives_its_connection_back(inbox: Inbox) -> None:
    inbox.delay_s = 5
    opened = destination(inbox)
    attempts = [asyncio.ensure_future(opened.attempt(make_delivery())) for _ in range(6)]
    await asyncio.sleep(0.1)
    for each in attempts:
        each.cancel()
    await asyncio.wait(attempts)
    inbox.delay_s = 0
    assert await opened.attempt(make_delivery()) == Delivered(250)
    await opened.close()


# Encryption and login


async def test_starttls_is_required_unless_it_is_off(
    inbox: Inbox, authority: Authority, server_context: ssl.SSLContext
) -> None:
    outcome = await attempt(inbox, starttls="required")
    assert isinstance(outcome, Unavailable)
    assert inbox.mails == []
    secure = Inbox()
    async with await serve(secure, tls_context=server_context, require_starttls=True):
        trusting = partial(attempt, secure, starttls="required")
        assert await trusting(ca_file=authority.certificate) == Delivered(250)
        # Without the authority's certificate nothing is said to a server that may be anybody.
        assert isinstance(await trusting(), Unavailable)
        assert len(secure.mails) == 1


async def test_smtps_is_encrypted_from_the_start(
    authority: Authority, server_context: ssl.SSLContext
) -> None:
    inbox = Inbox()
    async with await serve(inbox, tls=server_context):
        assert await attempt(inbox, scheme="smtps", ca_file=authority.certificate) == Delivered(250)
        assert isinstance(await attempt(inbox, scheme="smtps"), Unavailable)


async def test_a_login_that_is_refused_stops_the_destination(
    authority: Authority, server_context: ssl.SSLContext
) -> None:
    inbox = Inbox()
    options: dict[str, Any] = {"require_starttls": True, "tls_context": server_context}
    async with await serve(inbox, authenticator=inbox.login, auth_required=True, **options):
        login = partial(
            attempt, inbox, starttls="required", ca_file=authority.certificate, user="me"
        )
        assert await login(password="right") == Delivered(250)
        assert inbox.logins == [(b"me", b"right")]
        outcome = await login(password="wrong-one")
        assert isinstance(outcome, Disabled)
        assert outcome.status == 535
        assert "wrong-one" not in str(outcome)


@pytest.mark.parametrize(
    ("to", "settings", "complaint"),
    [
        ("smtp://", {}, "should be like smtp://HOST:587"),
        ("smtp://h:port", {}, "should be like smtp://HOST:587"),
        ("smtp://me:secret@h", {}, r"mail\.user and mail\.password"),
        ("smtp://h", {"sender": None}, r"lacks mail\.sender"),
        ("smtp://h", {"recipients": []}, r"lacks mail\.recipients"),
        ("smtp://h", {"recipients": ["nobody"]}, r"recipients: 'nobody' is no mail address"),
        ("smtp://h", {"recipients": ["a@b\r\nRCPT TO:<c@d>"]}, "is no mail address"),
        ("smtp://h", {"sender": "x\r\nBcc: y <a@b.c>"}, "has a line break"),
        ("smtp://h", {"recipients": ["ö@example.com"]}, "is no mail address"),
        ("smtp://h", {"user": "me"}, "go together"),
        ("smtp://h", {"user": "me", "password": "x", "starttls": "off"}, "sent in clear"),
        ("smtp://h", {"ca_file": "/nowhere.pem"}, r"ca_file /nowhere\.pem"),
    ],
)
def test_settings_that_can_not_work_are_refused_at_the_start(
    to: str, settings: dict[str, Any], complaint: str
) -> None:
    mail = {"sender": "a@b.c", "recipients": ["d@e.f"]} | settings
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        open_mail(opening_of(to, mail=mail))
    assert "secret" not in str(refused.value)
