"""One tree of settings: command-line option, then environment, then `keylane.toml`, then default.

A variable is named by its place in the tree: `dispatch.max_attempts` is
`KEYLANE_DISPATCH__MAX_ATTEMPTS`, and `[dispatch] max_attempts = 8` in the file. What the tree does
not know is refused, in the environment as in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.ingestsettings import IngestSettings
from keylane.masking import MASK, mask_url
from keylane.names import full_topic, subscription_name
from keylane.section import Count, Port, Seconds, Section, at_least
from keylane.sources import ANY_NAME, ENV_DELIMITER, ENV_PREFIX, Setting, leaves, raw_tree, read


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

    @field_validator("destinations")
    @classmethod
    def _backoffs_fit(
        cls, value: dict[str, DestinationSettings], info: ValidationInfo
    ) -> dict[str, DestinationSettings]:
        # One of the two may be the destination's own, and the other that of all.
        if (shared := info.data.get("dispatch")) is not None:
            for name, own in value.items():
                least = own.backoff_min_s or shared.backoff_min_s
                most = own.backoff_max_s or shared.backoff_max_s
                if most < least:
                    raise ValueError(
                        f"'{name}' would have a backoff_max_s ({most:g}) below its backoff_min_s "
                        f"({least:g})"
                    )
        return value

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


@dataclass(frozen=True, slots=True)
class Source:
    """Where settings are read from, so that they can be read again."""

    config: Path | None
    overrides: Mapping[str, Any]

    def load(self) -> Settings:
        """As `load_settings`."""
        return load_settings(self.config, self.overrides)

    def raw(self) -> dict[str, Any]:
        """The tree as it is written: references stay what they are, and nothing is checked."""
        return raw_tree(Settings, self.config, self.overrides)


def all_settings() -> dict[tuple[str, ...], Setting]:
    """Every setting by its path; `NAME` stands for a destination's name.

    Those of a channel are not repeated: `channels` stands for them.
    """
    channels = ("destinations", ANY_NAME, "channels")
    found: dict[tuple[str, ...], Setting] = {}
    for path, setting in leaves(Settings).items():
        if path[: len(channels)] == channels:
            field = DestinationSettings.model_fields["channels"]
            found[channels] = Setting(channels, field)
        else:
            found[path] = setting
    return found


def effective_settings(settings: Settings) -> dict[str, Any]:
    """The tree as nested dicts of plain values, its secrets masked.

    Of a destination only what is set is there, and not what is as by default.
    """
    tree: dict[str, Any] = _plain(_dumped(settings), lambda _: MASK, mask_url)
    return tree


def revealed_settings(settings: Settings) -> dict[str, Any]:
    """The same with its secrets, for a file that is read back."""
    tree: dict[str, Any] = _plain(_dumped(settings), SecretStr.get_secret_value, str)
    return tree


def _dumped(settings: Settings) -> dict[str, Any]:
    destinations = {
        name: destination.model_dump(exclude_defaults=True)
        for name, destination in settings.destinations.items()
    }
    return settings.model_dump(exclude={"destinations"}) | {"destinations": destinations}


def _plain(value: Any, secret: Callable[[SecretStr], str], text: Callable[[str], str]) -> Any:
    """Values that TOML has; `secret` and `text` say what is written of a secret and of others."""
    match value:
        case Mapping():
            return {
                name: _plain(_as_secret(inner) if name == "options" else inner, secret, text)
                for name, inner in value.items()
            }
        case list() | tuple():
            return [_plain(inner, secret, text) for inner in value]
        case SecretStr():
            return secret(value)
        case Path():
            return str(value)
        case str():
            return text(value)
        case _:
            return value


def _as_secret(value: Any) -> Any:
    """What a plugin is given, as secrets: only the plugin knows which of it is one."""
    if isinstance(value, Mapping):
        return {name: _as_secret(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_secret(inner) for inner in value]
    return SecretStr(value) if isinstance(value, str) else value
