"""From the settings of a mail destination to one that can send."""

from __future__ import annotations

import ssl
from email.headerregistry import Address
from email.utils import parseaddr
from typing import Final
from urllib.parse import SplitResult, urlsplit

from dispatch.destinations.mail import Connections, Envelope, MailDestination
from dispatch.destinations.opening import Opening
from dispatch.destinations.template import Message
from keylane.destinationsettings import MailSettings
from keylane.errors import ConfigurationError
from keylane.masking import mask_userinfo

_PORTS: Final = {"smtp": 587, "smtps": 465}


def open_mail(opening: Opening) -> MailDestination:
    """Raises `ConfigurationError`; connects with the first attempt."""
    name = f"destination '{opening.destination}'"
    mail = opening.settings.mail
    where = _where(opening.to, name)
    is_tls = where.scheme == "smtps"
    is_encrypted = is_tls or mail.starttls == "required"
    if mail.user and not is_encrypted:
        raise ConfigurationError(
            f'{name}: mail.password would be sent in clear: leave mail.starttls at "required", '
            "or write smtps://"
        )
    if bool(mail.user) != bool(mail.password):
        raise ConfigurationError(f"{name}: mail.user and mail.password go together")
    connections = Connections(
        hostname=where.hostname,
        port=where.port or _PORTS[where.scheme],
        username=mail.user,
        password=mail.password.get_secret_value() if mail.password else None,
        use_tls=is_tls,
        start_tls=is_encrypted and not is_tls,
        tls_context=_trust(mail, name) if is_encrypted else None,
        timeout=opening.timeout_s,
    )
    message = Message(opening.settings.message, name)
    return MailDestination(connections, _envelope(opening, name), message, opening.timeout_s)


def _where(to: str, name: str) -> SplitResult:
    try:
        where = urlsplit(to)
        is_url = bool(where.hostname) and where.port != 0
    except ValueError:
        is_url, where = False, urlsplit("")
    if not is_url or where.path.strip("/") or where.query:
        raise ConfigurationError(
            f"{name}: '{mask_userinfo(to)}' should be like smtp://HOST:587 or smtps://HOST:465"
        )
    if where.username is not None or where.password is not None:
        raise ConfigurationError(f"{name}: the login belongs into mail.user and mail.password")
    return where


def _envelope(opening: Opening, name: str) -> Envelope:
    mail = opening.settings.mail
    if not mail.sender:
        raise ConfigurationError(f"{name}: lacks mail.sender")
    if not mail.sender.isprintable():
        raise ConfigurationError(f"{name}: mail.sender is no mail address: it has a line break")
    if not mail.recipients:
        raise ConfigurationError(f"{name}: lacks mail.recipients")
    called, address = parseaddr(mail.sender)
    sender = _address(address, f"{name}: mail.sender", called)
    recipients = [str(_address(r, f"{name}: mail.recipients")) for r in mail.recipients]
    own_name = ".".join(filter(None, (opening.destination, opening.channel)))
    return Envelope(str(sender), sender.addr_spec, tuple(recipients), own_name)


def _address(text: str, what: str, called: str = "") -> Address:
    try:
        text.encode("ascii")
        address = Address(called, addr_spec=text)
    except (ValueError, IndexError) as error:
        raise ConfigurationError(f"{what}: '{text}' is no mail address") from error
    if not address.domain or not text.isprintable():
        raise ConfigurationError(f"{what}: '{text}' is no mail address")
    return address


def _trust(mail: MailSettings, name: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=mail.ca_file)
    except OSError as error:
        raise ConfigurationError(f"{name}: mail.ca_file {mail.ca_file}: {error}") from error
