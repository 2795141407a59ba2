"""One tree of settings: command-line option, then environment, then `keylane.toml`, then default.

A variable is named by its place in the tree: `dispatch.max_attempts` is
`KEYLANE_DISPATCH__MAX_ATTEMPTS`, and `[dispatch] max_attempts = 8` in the file. What the tree does
not know is refused, in the environment as in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from keylane.errors import ConfigurationError
from keylane.ingestsettings import IngestSettings
from keylane.masking import MASK, mask_url
from keylane.names import full_topic, subscription_name
from keylane.section import Count, Port, Seconds, Section, at_least
from keylane.sources import ENV_DELIMITER, ENV_PREFIX, Setting, leaves, read


def _named_by(rule: Callable[[str], str]) -> AfterValidator:
    """Let the rule of keylane/names.py refuse a name; the name stays as it was written."""

    def check(value: str) -> str:
        try:
            rule(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return value

    return AfterValidator(check)


TopicName: TypeAlias = Annotated[str, _named_by(full_topic)]
DestinationName: TypeAlias = Annotated[str, _named_by(subscription_name)]


class PulsarSettings(Section):
    """How the broker is reached, and how it knows us."""

    service_url: str = Field(
        "pulsar://localhost:6650",
        pattern=r"^pulsar(\+ssl)?://\S+$",
        description="Where clients connect: pulsar:// or pulsar+ssl://.",
    )
    admin_url: str = Field(
        "http://localhost:8080",
        pattern=r"^https?://\S+$",
        description="Where the broker's admin REST interface is: http:// or https://.",
    )
    token: SecretStr | None = Field(
        None, description="Token that the broker asks for; none when it asks for none."
    )
    token_file: Path | None = Field(
        None, description="File with that token instead, read again at every connection."
    )
    oauth2_issuer_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="OAuth 2.0 issuer that gives tokens instead (client credentials).",
    )
    oauth2_client_id: str | None = Field(
        None, min_length=1, description="Name by which that issuer knows us."
    )
    oauth2_client_secret: SecretStr | None = Field(
        None, description="Secret that goes with that name."
    )
    oauth2_audience: str | None = Field(
        None, min_length=1, description="What the issuer's tokens are to be for, if it asks."
    )
    oauth2_scope: str | None = Field(
        None, min_length=1, description="What the issuer's tokens are to allow, if it asks."
    )
    tls_trust_certs: Path | None = Field(
        None,
        description="PEM file with the authorities that vouch for the broker; else public ones.",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with our own certificate, for a broker that asks for one."
    )
    tls_key: Path | None = Field(None, description="PEM file with its private key.")
    tls_validate_hostname: bool = Field(
        default=True, description="Refuse a certificate that is not for the broker's host."
    )
    compression: Literal["none", "lz4", "zlib", "zstd", "snappy"] = Field(
        "none", description="How events are compressed: none, lz4, zlib, zstd or snappy."
    )
    operation_timeout_s: Seconds = Field(
        10.0, description="Seconds to wait for the broker's answer to one operation."
    )

    @field_validator("token_file", "oauth2_issuer_url")
    @classmethod
    def _one_way_to_authenticate(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            for other in ("token", "token_file"):
                if info.data.get(other) is not None:
                    raise ValueError(f"pulsar.{other} is set too; only one of them can be")
        return value

    @field_validator("token_file", "tls_trust_certs", "tls_certificate", "tls_key")
    @classmethod
    def _can_be_read(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                content = value.read_bytes()
            except OSError as error:
                raise ValueError(f"can't be read ({error.strerror})") from error
            if not content.strip():
                raise ValueError("is empty")
        return value

    @field_validator("oauth2_client_id", "oauth2_client_secret")
    @classmethod
    def _goes_with_an_issuer(cls, value: object, info: ValidationInfo) -> object:
        # An issuer that is wrong itself is missing here and reported on its own.
        if "oauth2_issuer_url" in info.data:
            issuer = info.data["oauth2_issuer_url"]
            if issuer is not None and value is None:
                raise ValueError("is needed with pulsar.oauth2_issuer_url")
            if issuer is None and value is not None:
                raise ValueError("needs pulsar.oauth2_issuer_url beside it")
        return value

    @field_validator("tls_key")
    @classmethod
    def _goes_with_a_certificate(cls, value: object, info: ValidationInfo) -> object:
        if "tls_certificate" in info.data and (
            (info.data["tls_certificate"] is None) != (value is None)
        ):
            raise ValueError("goes together with pulsar.tls_certificate; set both or neither")
        return value


class LogSettings(Section):
    """What is written to standard error."""

    format: Literal["json", "pretty", "auto"] = Field(
        "auto", description="json, pretty, or auto: pretty on a terminal, JSON lines elsewhere."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least that is logged: debug, info, warning or error."
    )


class DispatchSettings(Section):
    """The workers that deliver for one destination."""

    workers: Count = Field(1, description="Processes that deliver.")
    concurrency: Count = Field(64, description="Attempts at once in each worker.")
    max_attempts: Count = Field(8, description="Attempts for an event, counting the first.")
    max_age_s: Seconds = Field(
        259_200.0, description="Seconds after which a failing event is given up (3 days)."
    )
    backoff_min_s: Seconds = Field(1.0, description="Seconds before the second attempt.")
    backoff_max_s: Seconds = Field(300.0, description="Seconds between two attempts at most.")
    backoff_multiplier: float = Field(
        2.0, ge=1, allow_inf_nan=False, description="How much longer each delay is than the last."
    )
    jitter: float = Field(
        0.2, ge=0, le=1, description="Share of a delay by which it varies at random, 0 to 1."
    )
    timeout_s: Seconds = Field(15.0, description="Seconds that one attempt may take.")
    max_lane_events: Count = Field(
        100_000,
        description="One user's unfinished events; beyond it the worker receives no more.",
    )
    lane_payload_events: Count = Field(
        1_000,
        description="One user's events whose payloads are kept here; later ones are fetched again.",
    )
    payload_budget_bytes: Count = Field(
        268_435_456,
        description="Bytes of waiting payloads beyond which only a few of each user are kept.",
    )
    lease_s: Seconds = Field(
        6.0,
        description="Seconds without an answer from the broker after which no attempt starts; "
        "below the broker's keepAliveIntervalSeconds (30).",
    )
    admin_host: str = Field(
        "127.0.0.1", min_length=1, description="Address of the worker's health and metrics."
    )
    admin_port: Port = Field(
        0, description="Port of the worker's health and metrics; 0 is any free one, logged."
    )
    reliability: float = Field(
        100.0,
        ge=0,
        le=100,
        description="For trials: percent of attempts that are let through; the others fail.",
    )
    consumer_name: str | None = Field(
        None,
        min_length=1,
        description="Stable name of this worker; default is made of host, name and slot.",
    )
    drain_timeout_s: Seconds = Field(
        30.0, description="Seconds that attempts in flight get to finish at shutdown."
    )

    @field_validator("backoff_max_s")
    @classmethod
    def _not_below_the_least(cls, value: float, info: ValidationInfo) -> float:
        return at_least(value, "backoff_min_s", info)


class DestinationSettings(Section):
    """One place where events go."""

    to: str = Field(min_length=1, description="Where to: http://, https:// or file:PATH.")
    secret: SecretStr | None = Field(
        None, description="Secret that webhooks are signed with (Standard Webhooks)."
    )


class Settings(BaseSettings):
    """Everything that can be set. `Settings()` is the defaults; `load_settings` reads the rest."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    topic: TopicName = Field("user-events", description="The topic that holds all events.")
    pulsar: PulsarSettings = PulsarSettings()
    log: LogSettings = LogSettings()
    ingest: IngestSettings = IngestSettings()
    dispatch: DispatchSettings = DispatchSettings()
    destinations: dict[DestinationName, DestinationSettings] = Field(
        default_factory=dict, description="Destinations by name."
    )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load_settings` reads the sources itself, so that an error can name where a value stood.
        return (init_settings,)


def load_settings(
    config: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read every source; `overrides` is a tree too, and a `None` in it means "not given".

    Without `config` the working folder's `keylane.toml` is read if there is one. Raises
    `ConfigurationError`, which names all that is wrong at once.
    """
    return read(Settings, config, overrides or {})


def all_settings() -> dict[tuple[str, ...], Setting]:
    """Every setting by its path; `NAME` stands for a destination's name."""
    return leaves(Settings)


def effective_settings(settings: Settings) -> dict[str, Any]:
    """The tree as nested dicts of plain values, its secrets masked."""
    return {name: _masked(value) for name, value in settings.model_dump().items()}


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _masked(inner) for name, inner in value.items()}
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path):
        return str(value)
    return mask_url(value) if isinstance(value, str) else value
