"""The commands that mend, written so that they can be copied into a shell."""

from __future__ import annotations

import base64
import binascii
import json
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keylane.masking import mask_url
from keylane.names import full_topic
from keylane.settings import PulsarSettings, Settings
from keylane.topics import POLICIES
from operate.doctor.findings import Mend
from operate.doctor.seen import TopicSeen

_DEFAULT_ADMIN_URL: Final = PulsarSettings.model_fields["admin_url"].default
#: Stands for our name where the broker's credentials do not tell it.
UNKNOWN_ROLE: Final = "ROLE"
_RESTART: Final = (
    "Put it into broker.conf (standalone.conf) of every broker, and restart them one at a time."
)


@dataclass(frozen=True, slots=True)
class Commands:
    """Writes commands for one topic on one broker.

    `dynamic` are the broker's settings that change without a restart.
    """

    topic: str
    admin_url: str
    config: Path | None = None
    dynamic: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings, config: Path | None, dynamic: Collection[str] = ()) -> Commands:
        url = mask_url(settings.pulsar.admin_url)
        return cls(settings.topic, url, config, frozenset(dynamic))

    @property
    def tenant(self) -> str:
        return self.namespace.partition("/")[0]

    @property
    def namespace(self) -> str:
        return full_topic(self.topic).removeprefix("persistent://").rpartition("/")[0]

    def keylane(self, *words: str) -> str:
        """With what says which broker and which topic."""
        where = ["--topic", self.topic]
        if self.admin_url != _DEFAULT_ADMIN_URL:
            where += ["--admin-url", self.admin_url]
        if self.config is not None:
            where += ["--config", str(self.config)]
        return shlex.join(["keylane", *words, *where])

    def setup(self, *destinations: str, partitions: int | None = None) -> str:
        """What makes topic, subscriptions, dead-letter topics and policies be there."""
        words = ["topic", "setup"]
        if partitions is not None:
            words += ["--partitions", str(partitions)]
        for name in destinations:
            words += ["--destination", name]
        return self.keylane(*words)

    def pulsar_admin(self, *words: str) -> str:
        return shlex.join(["pulsar-admin", "--admin-url", self.admin_url, *words])

    def configure(self, name: str, value: str) -> Mend:
        """Set one of the broker's own settings."""
        if name in self.dynamic:
            words = ("brokers", "update-dynamic-config", "--config", name, "--value", value)
            return Mend(command=self.pulsar_admin(*words))
        return Mend(setting=f"{name}={value}", advice=_RESTART)

    def make_administrator(self, role: str) -> str:
        """Add the role to the tenant's administrators; naming it alone would drop the others."""
        joined = (
            "import json, sys; "
            f'print(",".join(sorted({{*json.load(sys.stdin)["adminRoles"], {json.dumps(role)}}})))'
        )
        shown = self.pulsar_admin("tenants", "get", self.tenant)
        roles = f'"$({shown} | python3 -c {shlex.quote(joined)})"'
        update = self.pulsar_admin("tenants", "update", self.tenant, "--admin-roles")
        return f"{update} {roles}"


class TopicMending:
    """Setting up again where that sets it, else Pulsar's own tool: an operator's figure stays."""

    def __init__(self, topic: TopicSeen, commands: Commands, setup: str) -> None:
        self._topic = topic
        self.commands = commands
        self.setup = setup

    def of(self, policy: str, *words: str, part: str | None = None) -> Mend:
        """`words` are what `pulsar-admin` is told, before the topic's name."""
        if self._is_set_by_setup(policy, part):
            return Mend(command=self.setup)
        return Mend(command=self.by_hand(*words))

    def by_hand(self, *words: str) -> str:
        return self.commands.pulsar_admin(*words, self._topic.name)

    def _is_set_by_setup(self, policy: str, part: str | None) -> bool:
        own = self._topic.own.get(policy)
        return any(
            (one.read, one.part) == (policy, part) and not one.is_in_place(own) for one in POLICIES
        )


def role_of(token: str | None) -> str:
    """Our name at the broker, as a JSON Web Token tells it; `UNKNOWN_ROLE` if it does not."""
    try:
        body = (token or "").split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["sub"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return UNKNOWN_ROLE
