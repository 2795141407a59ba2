"""Which destination stands behind which settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.discard import DiscardDestination
from dispatch.destinations.file import FileDestination
from dispatch.destinations.kinds import KINDS, open_destination
from dispatch.destinations.unreliable import UnreliableDestination, UnreliableImmediateDestination
from dispatch.outcome import Delivered, Unavailable
from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.memory import MemoryBroker
from keylane.settings import DispatchSettings
from tests.messages import make_delivery

MAIL = {"sender": "a@example.com", "recipients": ["b@example.com"]}


def opened(
    to: str | None = None, *, topic: str = "user-events", reliability: float = 100, **settings: Any
) -> Destination | ImmediateDestination:
    return open_destination(
        "crm",
        DestinationSettings(to=to, **settings),
        DispatchSettings(reliability=reliability),
        is_guarded=False,
        broker=MemoryBroker(),
        topic=topic,
    )


@pytest.mark.parametrize(
    ("to", "settings", "name"),
    [
        ("http://h/x", {}, "WebhookDestination"),
        ("HTTPS://h/x", {}, "WebhookDestination"),
        ("discard:", {}, "DiscardDestination"),
        ("stdout:", {}, "StdoutDestination"),
        ("pulsar:other", {}, "TopicDestination"),
        ("redis://h/0?stream=s", {}, "RedisStreamDestination"),
        ("rediss://h/0?stream=s", {}, "RedisStreamDestination"),
        (
            "slack:",
            {"slack": {"webhook": "https://hooks.slack.com/services/x"}},
            "SlackDestination",
        ),
        ("smtp://h", {"mail": MAIL}, "MailDestination"),
        ("smtps://h", {"mail": MAIL}, "MailDestination"),
        pytest.param(
            "apprise:",
            {"urls": ["json://h/x"]},
            "NotifyDestination",
            marks=pytest.mark.filterwarnings("ignore::DeprecationWarning"),
        ),
    ],
)
async def test_the_scheme_says_the_kind(to: str, settings: dict[str, Any], name: str) -> None:
    destination = opened(to, **settings)
    await destination.close()
    assert type(destination).__name__ == name
    assert to.partition(":")[0].lower() in KINDS


@pytest.mark.parametrize("form", ["file:{}", "file:///{}"])
async def test_a_file_is_named_with_or_without_slashes(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a b.jsonl"
    destination = opened(form.format(str(path).replace(" ", "%20") if "///" in form else path))
    assert isinstance(destination, FileDestination)
    await destination.close()
    assert path.exists() or (tmp_path / "a b.jsonl").exists()


@pytest.mark.parametrize(
    ("to", "complaint"),
    [
        ("htps://h/x", r"did you mean https:\?"),
        ("smpt://user:secret@h", r"did you mean smtp:\?"),
        ("nothing like it", r"there are http:, https:, file:, stdout:"),
        ("", "no destination"),
        ("file:", "names no file"),
        ("file://", "names no file"),
        ("http://", "names no host"),
        ("https://[", "names no host"),
        ("pulsar:user-events", "would come again for ever"),
        ("PULSAR:persistent://public/default/user-events", "would come again for ever"),
    ],
)
async def test_what_is_no_destination_is_refused(to: str, complaint: str) -> None:
    settings = DestinationSettings(to="discard:").model_copy(update={"to": to})
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        open_destination(
            "crm",
            settings,
            DispatchSettings(),
            is_guarded=False,
            broker=MemoryBroker(),
            topic="user-events",
        )
    assert "secret" not in str(refused.value)


async def test_only_a_share_of_the_attempts_is_let_through_if_that_is_asked_for(
    tmp_path: Path,
) -> None:
    immediate = opened(f"file:{tmp_path}/x", reliability=0)
    assert isinstance(immediate, UnreliableImmediateDestination)
    await immediate.close()
    waiting = opened("http://127.0.0.1:1/", reliability=0)
    assert isinstance(waiting, UnreliableDestination)
    outcome = await waiting.attempt(make_delivery())
    assert outcome == Unavailable("failed on purpose (--reliability)")
    await waiting.close()


async def test_channels_are_opened_each_for_itself(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    channels = {path.name: {"to": f"file:{path}"} for path in paths}
    destination = opened(channels=channels)
    assert not isinstance(destination, ImmediateDestination)
    for _ in range(2):
        assert await destination.attempt(make_delivery()) == Delivered()
    await destination.close()
    assert [len(path.read_text().splitlines()) for path in paths] == [1, 1]


async def test_a_store_makes_a_single_place_deliver_once(tmp_path: Path) -> None:
    destination = opened(f"file:{tmp_path}/one", once={"store": "memory:"})
    assert not isinstance(destination, ImmediateDestination)
    for _ in range(2):
        assert await destination.attempt(make_delivery()) == Delivered()
    await destination.close()
    assert len((tmp_path / "one").read_text().splitlines()) == 1


async def test_a_destination_s_own_limits_come_before_the_general_ones() -> None:
    destination = opened("pulsar:other", timeout_s=3.5)
    assert getattr(destination, "_timeout_s", None) == 3.5
    await destination.close()


async def test_a_package_that_is_missing_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtplib", None)
    for module in ("mail", "mailopening"):
        monkeypatch.delitem(sys.modules, f"dispatch.destinations.{module}", raising=False)
    with pytest.raises(
        ConfigurationError,
        match=r"smtp: needs the package aiosmtplib: pip install 'keylane\[notify\]'",
    ):
        opened("smtp://h", mail=MAIL)


def test_kinds_are_known_without_importing_what_only_some_need() -> None:
    program = (
        "import sys, dispatch.destinations.kinds;"
        "print([m for m in ('apprise', 'aiosmtplib', 'jinja2', 'redis', 'pycurl', 'aiohttp')"
        " if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_discarding_is_a_kind() -> None:
    assert isinstance(opened("discard:"), DiscardDestination)
