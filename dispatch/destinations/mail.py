"""`smtp://HOST` and `smtps://HOST`: one mail an event, to all recipients or to none.

A recipient that is refused keeps the mail from the others too: it could not be sent again to one of
them alone. The `Message-ID` is the same at every attempt, so that a receiver can drop a repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP as MAIL_POLICY
from email.utils import format_datetime, localtime
from typing import Final
from urllib.parse import quote

import aiosmtplib

from dispatch.delivery import Delivery
from dispatch.destinations.template import Message
from dispatch.outcome import Delivered, Disabled, Outcome, Refused, Unavailable, Withdrawn
from keylane.event import Event

#: Servers allow one client 10 to 20 connections.
MAX_CONNECTIONS: Final = 4
#: A connection that idles longer is not used again; servers wait minutes.
KEEP_S: Final = 20.0
MAX_TEXT_CHARACTERS: Final = 100_000
MAX_SUBJECT_CHARACTERS: Final = 200
MAX_ANSWER_CHARACTERS: Final = 200
#: Longer ones would be folded within, which not every receiver undoes.
MAX_MESSAGE_ID_CHARACTERS: Final = 64
_CLOSING: Final = 421
_REFUSED_FOR_GOOD: Final = 500

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Envelope:
    """From whom to whom. `sender` is as in From, `return_address` without the name."""

    sender: str
    return_address: str
    recipients: tuple[str, ...]
    #: `DESTINATION.CHANNEL`: two that send the same event send two mails.
    name: str


class Connections:
    """A few kept connections. `connect` makes one that is ready to send."""

    def __init__(self, **connecting: object) -> None:
        self._connecting = connecting
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[aiosmtplib.SMTP]:
        """A connection for one mail; kept if the block ends well, else closed."""
        async with self._free:
            smtp = await self._kept() or await self._new()
            try:
                yield smtp
            except BaseException:
                smtp.close()
                raise
            self._idle.append((time.monotonic(), smtp))

    async def _kept(self) -> aiosmtplib.SMTP | None:
        while self._idle:
            since, smtp = self._idle.pop()
            try:
                # Asked first: one that died meanwhile must not cost an attempt.
                if time.monotonic() - since < KEEP_S and smtp.is_connected:
                    await smtp.rset()
                    return smtp
            except (aiosmtplib.SMTPException, OSError):
                pass
            except BaseException:
                smtp.close()
                raise
            smtp.close()
        return None

    async def _new(self) -> aiosmtplib.SMTP:
        smtp = aiosmtplib.SMTP(**self._connecting)  # type: ignore[arg-type]
        try:
            await smtp.connect()
        except BaseException:
            smtp.close()
            raise
        return smtp

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for _, smtp in idle:
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                await smtp.quit(timeout=1)
            smtp.close()


class MailDestination:
    """Sends each event's text as one mail. `timeout_s` bounds an attempt as a whole."""

    def __init__(
        self, connections: Connections, envelope: Envelope, message: Message, timeout_s: float
    ) -> None:
        self._connections = connections
        self._envelope = envelope
        self._message = message
        self._timeout_s = timeout_s

    async def attempt(self, delivery: Delivery) -> Outcome:
        mail = self._mail(delivery).as_bytes()
        try:
            async with asyncio.timeout(self._timeout_s), self._connections.one() as smtp:
                if not delivery.may_begin():
                    return Withdrawn()
                code = await self._send(smtp, mail)
        except TimeoutError:
            return Unavailable("no answer within the timeout", may_be_down=True, is_overload=True)
        except aiosmtplib.SMTPAuthenticationError as error:
            return _refused_login(error)
        except aiosmtplib.SMTPResponseException as error:
            return _outcome(error)
        except (aiosmtplib.SMTPException, OSError) as error:
            return Unavailable(_said(f"{type(error).__name__}: {error}"), is_down=True)
        return Delivered(code)

    async def _send(self, smtp: aiosmtplib.SMTP, mail: bytes) -> int:
        await smtp.mail(self._envelope.return_address)
        for recipient in self._envelope.recipients:
            await smtp.rcpt(recipient)
        return (await smtp.data(mail)).code

    def _mail(self, delivery: Delivery) -> EmailMessage:
        event = delivery.event
        mail = EmailMessage(MAIL_POLICY)
        mail["From"] = self._envelope.sender
        mail["To"] = ", ".join(self._envelope.recipients)
        mail["Subject"] = self._message.subject(delivery, MAX_SUBJECT_CHARACTERS)
        mail["Date"] = format_datetime(localtime())
        mail["Message-ID"] = message_id(event, self._envelope.name)
        # Or somebody's "I am on holiday" comes back for each.
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Keylane-Destination"] = self._envelope.name
        mail["X-Keylane-Id"] = quote(event.id, safe="")
        mail["X-Keylane-User"] = quote(event.user, safe="")
        mail["X-Keylane-Type"] = quote(event.type, safe="")
        mail["X-Keylane-Attempt"] = str(delivery.attempt)
        mail["X-Keylane-Position"] = delivery.position
        # Quoted-printable carries whatever characters there are, in lines of a length allowed.
        text = self._message.text(delivery, MAX_TEXT_CHARACTERS)
        mail.set_content(text, charset="utf-8", cte="quoted-printable")
        return mail

    async def close(self) -> None:
        await self._connections.close()


def message_id(event: Event, name: str) -> str:
    """`<ID.DESTINATION@keylane>`; an id or a name that can't stand in it is a hash instead."""
    local = f"{event.id}.{name}"
    if len(local) > MAX_MESSAGE_ID_CHARACTERS or not _PLAIN.fullmatch(local):
        local = hashlib.sha256(f"{event.id}\0{name}".encode()).hexdigest()[:40]
    return f"<{local}@keylane>"


def _refused_login(error: aiosmtplib.SMTPAuthenticationError) -> Outcome:
    """A wrong password is wrong for every event."""
    reason = f"the login was refused: {_said(f'{error.code} {error.message}')}"
    if error.code >= _REFUSED_FOR_GOOD:
        return Disabled(reason, error.code)
    return Unavailable(reason, error.code, is_down=True)


def _outcome(error: aiosmtplib.SMTPResponseException) -> Outcome:
    """4xx may change, 5xx will not (RFC 5321, 4.2.1)."""
    about = ""
    if isinstance(error, aiosmtplib.SMTPRecipientRefused):
        about = f" to {error.recipient}"
    said = _said(error.message)
    reason = f"answered {error.code}{about}: {said}"[:MAX_ANSWER_CHARACTERS]
    is_greeting = isinstance(error, (aiosmtplib.SMTPConnectResponseError, aiosmtplib.SMTPHeloError))
    if error.code >= _REFUSED_FOR_GOOD and not is_greeting:
        return Refused(reason, error.code, said)
    is_down = is_greeting or error.code == _CLOSING
    return Unavailable(reason, error.code, is_down=is_down, answer=said)


def _said(text: str) -> str:
    return " ".join(text.split())[:MAX_ANSWER_CHARACTERS]
