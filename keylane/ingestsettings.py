"""What `keylane ingest` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from keylane.section import Count, Port, Seconds, Section, at_least


class IngestSettings(Section):
    """The HTTP service that takes events."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(8090, description="Port to listen on; 0 is any free one.")
    workers: Count = Field(1, description="Processes that share the port.")
    insecure: bool = Field(
        default=False, description="Take events from other machines without asking for keys."
    )
    keys_file: Path | None = Field(
        None, description="File of API keys (`keylane keys`); without one nobody is asked for any."
    )
    tenants: dict[str, str] = Field(
        default_factory=dict,
        description="Pulsar namespace of each tenant that a key may name; default TENANT/default.",
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks, with commas, whose X-Forwarded-For is believed.",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the server's certificate chain; https then."
    )
    tls_key: Path | None = Field(None, description="PEM file with its private key.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the authorities whose client certificates are required."
    )
    max_body_bytes: Count = Field(
        10_485_760, description="Bytes of one request's body at most, also after decompression."
    )
    max_events: Count = Field(10_000, description="Events in one request at most.")
    max_payload_bytes: Count = Field(
        5_000_000,
        description="Bytes of one event's payload at most, below the broker's 5 MiB a message.",
    )
    max_user_characters: int = Field(
        256, ge=1, le=256, description="Characters of one user's id at most."
    )
    body_timeout_s: Seconds = Field(
        30.0, description="Seconds in which a request's head, and then its body, have to arrive."
    )
    max_connections: Count = Field(
        20_000, description="Open connections of one process; more are closed at once."
    )
    rate_limit: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Events a second of one key, or of one address without keys; 0 is no limit.",
    )
    rate_burst: Count = Field(1_000, description="Events that may come at once beyond that rate.")
    send_deadline_s: Seconds = Field(
        10.0, description="Seconds in which the broker has to confirm every event of a request."
    )
    max_in_flight: Count = Field(
        20_000, description="Unconfirmed events at most; beyond it requests are answered 503."
    )
    deduplicate: bool = Field(
        default=False,
        description="Let the broker drop what the client sends again after a lost connection.",
    )
    idempotency_store: str = Field(
        "memory:",
        pattern=r"^(off|memory:|rediss?://\S+|unix://\S+)$",
        description="Where repeats are known by: memory: (this process), redis://HOST, or off.",
    )
    idempotency_window_s: Seconds = Field(
        86_400.0, description="Seconds for which a repeated key or event id is known (1 day)."
    )
    idempotency_reservation_s: Seconds = Field(
        30.0, description="Seconds for which a process that died in a request blocks its key."
    )
    idempotency_store_down: Literal["refuse", "accept"] = Field(
        "refuse", description="What happens to requests with a key or ids while it is away."
    )
    schemas: Literal["off", "warn", "enforce"] = Field(
        "off", description="What happens to payloads that don't fit their type's schema."
    )
    schema_folder: Path | None = Field(
        None, description="Folder of schemas, a file for each event type (TYPE.json)."
    )
    schema_from_topic: bool = Field(
        default=False, description="Also check against the schema that the Pulsar topic has."
    )
    drain_timeout_s: Seconds = Field(
        30.0, description="Seconds that requests in flight get to finish at shutdown."
    )
    drain_notice_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds for which requests are still taken after readiness said no.",
    )
    retry_after_s: Seconds = Field(
        1.0, description="Seconds that a client answered 503 is asked to wait."
    )
    access_log: bool = Field(default=True, description="Log one line for each request.")

    @field_validator("max_in_flight")
    @classmethod
    def _a_full_request_fits(cls, value: int, info: ValidationInfo) -> int:
        return at_least(value, "max_events", info)

    @model_validator(mode="after")
    def _both_or_neither(self) -> IngestSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self
