"""What can be said of one destination, and of each channel of one that has several."""

from __future__ import annotations

import ipaddress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from keylane.moment import EARLIEST, LATEST, moment_ms
from keylane.secretref import reveal
from keylane.section import ABOVE, Count, Port, Seconds, Section, at_least

#: A secret, or where it is: `env:NAME` or `file:PATH`.
Secret: TypeAlias = Annotated[SecretStr, BeforeValidator(reveal)]
Status: TypeAlias = Annotated[int, Field(ge=300, le=599)]
ChannelName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise ValueError("should be an address or a network like 10.0.0.0/8") from error
    return value


Network: TypeAlias = Annotated[str, AfterValidator(_network)]


def _written(value: object) -> object:
    # TOML has times of its own, without quotes.
    return value.isoformat() if isinstance(value, date) else value


def _start(value: str) -> str:
    if value not in {EARLIEST, LATEST}:
        try:
            moment_ms(value)
        except ValueError as error:
            raise ValueError(
                "should be earliest, latest or a time like 2026-01-31T06:00:00Z"
            ) from error
    return value


Start: TypeAlias = Annotated[str, BeforeValidator(_written), AfterValidator(_start)]


class HttpSettings(Section):
    """How a webhook is called."""

    connect_timeout_s: Seconds = Field(5.0, description="Seconds that connecting may take.")
    read_timeout_s: Seconds = Field(
        15.0, description="Seconds of silence in an answer after which the attempt has failed."
    )
    retry: tuple[Status, ...] = Field(
        (), description="Statuses to try again that would be rejected."
    )
    reject: tuple[Status, ...] = Field(
        (), description="Statuses to reject at once that would be tried again."
    )
    headers: dict[str, Secret] = Field(
        default_factory=dict, description="Headers to add; env:NAME and file:PATH are looked up."
    )
    bearer: Secret | None = Field(None, description="Token for `Authorization: Bearer`.")
    basic: Secret | None = Field(None, description="USER:PASSWORD for `Authorization: Basic`.")
    ca_file: Path | None = Field(None, description="Certificates to trust instead of the system's.")
    cert_file: Path | None = Field(None, description="Client certificate, PEM.")
    key_file: Path | None = Field(None, description="Its private key, PEM, if it is elsewhere.")
    proxy: Secret | None = Field(None, description="Proxy to go through: http://HOST:PORT.")
    guard: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether private, loopback and other internal addresses are refused; auto: "
        "when ingest or the workers' health listens beyond this machine.",
    )
    allow: tuple[Network, ...] = Field(
        (), description="Networks that are allowed although they are internal."
    )


class MessageSettings(Section):
    """What a chat or a mail says."""

    template: str | None = Field(None, description="Text of a message, Jinja2.")
    template_file: Path | None = Field(None, description="File with the text instead.")
    subject: str | None = Field(None, description="Subject or title, Jinja2.")

    @field_validator("template_file")
    @classmethod
    def _one_template(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("template") is not None:
            raise ValueError("should have template or template_file, not both")
        return value


class SlackSettings(Section):
    """`to = "slack:"`: an incoming webhook, or `chat.postMessage` with a token."""

    webhook: Secret | None = Field(None, description="URL of the incoming webhook.")
    token: Secret | None = Field(None, description="Bot token, for chat.postMessage.")
    channel: str | None = Field(None, description="Channel to post to, with a token.")
    api_url: str = Field("https://slack.com/api", description="Where the Web API is.")


class MailSettings(Section):
    """`to = "smtp://HOST:PORT"` (STARTTLS) or `to = "smtps://HOST:PORT"`."""

    sender: str | None = Field(None, description="Address in From.")
    recipients: tuple[str, ...] = Field((), description="Addresses in To.")
    user: str | None = Field(None, description="Name to log in with.")
    password: Secret | None = Field(None, description="Password to log in with.")
    starttls: Literal["required", "off"] = Field(
        "required", description="Whether an smtp:// connection must be encrypted."
    )
    ca_file: Path | None = Field(None, description="Certificates to trust instead of the system's.")


class ChannelSettings(Section):
    """One place, and how it is spoken to."""

    to: str | None = Field(
        None,
        min_length=1,
        description="Where to: http(s)://, file:PATH, stdout:, pulsar:TOPIC, redis(s)://, slack:, "
        "smtp(s)://, apprise:, or the scheme of a plugin.",
    )
    secret: Secret | None = Field(
        None,
        description="Secrets that webhooks are signed with (Standard Webhooks), newest first, "
        "with spaces or line breaks between; env:NAME and file:PATH are looked up.",
    )
    http: HttpSettings = HttpSettings()
    message: MessageSettings = MessageSettings()
    slack: SlackSettings = SlackSettings()
    mail: MailSettings = MailSettings()
    urls: tuple[Secret, ...] = Field((), description="Apprise URLs, for apprise:.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="What a plugin is given, as it stands."
    )


def _has_an_address(channel: ChannelSettings) -> ChannelSettings:
    if channel.to is None:
        raise ValueError("lacks 'to'")
    return channel


Channel: TypeAlias = Annotated[ChannelSettings, AfterValidator(_has_an_address)]


class BreakerSettings(Section):
    """When a destination counts as down as a whole, and how it is asked whether it is back."""

    enabled: bool = Field(default=True, description="Whether attempts stop while everything fails.")
    failure_share: float = Field(
        0.9, gt=0, le=1, description="Share of the last attempts that fail, 0 to 1."
    )
    users: Count = Field(20, description="Users whose attempts failed among them, at least.")
    outcomes: Count = Field(50, description="So many of the last attempts are looked at.")
    window_s: Seconds = Field(10.0, description="None of those longer ago, in seconds.")
    after_s: Seconds = Field(2.0, description="Seconds for which that has to last.")
    probe_min_s: Seconds = Field(1.0, description="Seconds before the first probe.")
    probe_max_s: Seconds = Field(15.0, description="Seconds between two probes at most.")


class OnceSettings(Section):
    """What remembers deliveries, so that a lost acknowledgement is no second one."""

    store: Secret | None = Field(
        None,
        description="memory:, redis(s)://, pulsar: (a compacted topic), or pulsar+redis(s):// "
        "(Redis backed by the topic). Default none; memory: with several channels.",
    )
    ttl_s: Seconds = Field(259_200.0, description="Seconds that a delivery is remembered (3 days).")
    on_failure: Literal["deliver", "wait"] = Field(
        "deliver",
        description="When the store can't be asked: deliver, maybe a second time, or wait.",
    )


class DestinationSettings(ChannelSettings):
    """One destination: a place, or several channels; what isn't set is as in `dispatch`."""

    channels: dict[ChannelName, Channel] = Field(
        default_factory=dict,
        description="Channels by name, instead of `to`; each has `to`, `secret`, `http`, "
        "`message`, `slack`, `mail`, `urls` and `options` of its own.",
    )
    start: Start = Field(
        EARLIEST,
        description="Where it starts while it has no subscription yet: earliest, latest, or the "
        "time (RFC 3339) from which on it gets what was published.",
    )
    workers: Count | None = Field(None, description="Processes that deliver.")
    concurrency: Count | None = Field(None, description="Attempts at once in each worker.")
    max_attempts: Count | None = Field(None, description="Attempts for an event.")
    max_age_s: Seconds | None = Field(None, description="Seconds after which an event is given up.")
    backoff_min_s: Seconds | None = Field(None, description="Seconds before the second attempt.")
    backoff_max_s: Seconds | None = Field(None, description="Seconds between attempts at most.")
    backoff_multiplier: float | None = Field(
        None, ge=1, allow_inf_nan=False, description="How much longer each delay is."
    )
    jitter: float | None = Field(None, ge=0, le=1, description="Share by which a delay varies.")
    timeout_s: Seconds | None = Field(None, description="Seconds that one attempt may take.")
    max_lane_events: Count | None = Field(None, description="One user's unfinished events.")
    admin_port: Port | None = Field(None, description="Port of the worker's health and metrics.")
    rate_limit: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Attempts a second of each worker at most."
    )
    slow_share: float = Field(
        0.5, gt=0, le=1, description="Share of the concurrency that slow users may use, 0 to 1."
    )
    slow_after_s: Seconds = Field(
        5.0, description="Seconds of an attempt after which its user counts as slow."
    )
    on_dead_letter: Literal["continue", "hold"] = Field(
        "continue",
        description="What becomes of a user's later events after a dead letter: they go on, or "
        "follow it, untried, until a redrive.",
    )
    on_full_lane: Literal["wait", "hold"] = Field(
        "wait",
        description="When a user has max_lane_events: receive nothing more for anybody, or hold "
        "that user in the same way.",
    )
    breaker: BreakerSettings = BreakerSettings()
    once: OnceSettings = OnceSettings()

    @field_validator("channels")
    @classmethod
    def _one_or_many(
        cls, value: dict[str, ChannelSettings], info: ValidationInfo
    ) -> dict[str, ChannelSettings]:
        # Asked here, and not of the whole, so that it is told beside what else is wrong. An
        # address that is wrong itself is missing here and reported on its own.
        if "to" in info.data:
            if info.data["to"] is None and not value:
                raise PydanticCustomError(ABOVE, "lacks 'to'")
            if info.data["to"] is not None and value:
                raise PydanticCustomError(ABOVE, "should have to or channels, not both")
        return value

    @field_validator("backoff_max_s")
    @classmethod
    def _not_below_the_least(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = info.data.get("backoff_min_s")
        return value if value is None or least is None else at_least(value, "backoff_min_s", info)
