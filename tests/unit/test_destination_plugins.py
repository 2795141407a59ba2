"""Plugins as packages that are installed: with metadata of their own, on the path."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from typing_extensions import override

from dispatch.destinationcontract import (
    Arrival,
    Counterpart,
    DestinationContract,
    opening_of,
)
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.kinds import open_kind
from dispatch.destinations.plugins import plugin_schemes
from dispatch.outcome import Delivered
from keylane.errors import ConfigurationError
from tests.messages import make_delivery

EXAMPLE = Path(__file__).parent.parent / "plugins" / "mailbox.py"

#: Installs a package: its name, its entry points, and the text of its module.
Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(name: str, entries: str, module: str) -> None:
        (site / f"{name}.py").write_text(module)
        metadata = site / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[keylane.destinations]\n{entries}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install


@pytest.fixture
def example(install: Install) -> None:
    install("mailboxplugin", "mailbox = mailboxplugin:open_mailbox", EXAMPLE.read_text())


class Folder(Counterpart):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir()

    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        return open_kind(opening_of(f"mailbox:{self.path}", timeout_s=timeout_s))

    @override
    async def received(self) -> Sequence[Arrival]:
        arrived = []
        for path in sorted(self.path.glob("*.event")):
            head, _, payload = path.read_bytes().partition(b"\n")
            arrived.append(Arrival(payload, **orjson.loads(head)))
        return arrived

    @override
    async def go_away(self) -> None:
        shutil.rmtree(self.path)


@pytest.mark.usefixtures("example")
class TestMailbox(DestinationContract):
    can_stall = False

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.made = 0

    @asynccontextmanager
    @override
    async def counterpart(self) -> AsyncIterator[Counterpart]:
        self.made += 1
        yield Folder(self.path / f"mailbox-{self.made}")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


@pytest.mark.usefixtures("example")
async def test_a_plugin_is_found_by_its_scheme_and_given_its_options(tmp_path: Path) -> None:
    assert plugin_schemes() == ("mailbox",)
    opened = open_kind(opening_of(f"MailBox:{tmp_path}", options={"suffix": ".eml"}))
    assert not isinstance(opened, ImmediateDestination)
    assert await opened.attempt(make_delivery()) == Delivered()
    await opened.close()
    (name,) = names(tmp_path)
    assert name.endswith("-1.eml")


@pytest.mark.usefixtures("example")
def test_a_plugin_says_itself_what_is_wrong_with_its_options() -> None:
    with pytest.raises(ConfigurationError, match="mailbox: knows the option suffix"):
        open_kind(opening_of("mailbox:x", options={"sufix": ".eml"}))


@pytest.mark.usefixtures("example")
def test_an_unknown_scheme_names_the_plugins_and_what_may_be_meant() -> None:
    with pytest.raises(
        ConfigurationError, match=r"did you mean mailbox:\?.*file:.*apprise:; of plugins mailbox:"
    ):
        open_kind(opening_of("malbox:x"))


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("import jinja2.nothing_like_it", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "AttributeError"),
        ("open = 7", "TypeError"),
        ("def open(o): return o.settings.options['region']", "KeyError: 'region'"),
        ("def open(o): return None", "made a NoneType, which is no destination"),
        ("class open:\n def __init__(self, o): pass", "made a open, which is no destination"),
    ],
)
def test_a_plugin_that_is_broken_is_named(install: Install, module: str, complaint: str) -> None:
    install("brokenplugin", "broken = brokenplugin:open", module)
    with pytest.raises(ConfigurationError) as refused:
        open_kind(opening_of("broken:"))
    assert "the plugin 'broken' of brokenplugin (brokenplugin:open)" in str(refused.value)
    assert complaint in str(refused.value)


def test_nothing_of_a_plugin_is_imported_for_others(install: Install) -> None:
    install("brokenplugin", "broken = brokenplugin:open", "1 / 0")
    open_kind(opening_of("discard:"))
    assert "brokenplugin" not in sys.modules
    with pytest.raises(ConfigurationError, match="'other:' is no destination"):
        open_kind(opening_of("other:"))


def test_two_plugins_can_not_have_one_scheme(install: Install) -> None:
    for name in ("oneplugin", "otherplugin"):
        install(name, f"same = {name}:open", "")
    with pytest.raises(ConfigurationError, match=r"claimed by .*oneplugin.* and .*otherplugin"):
        open_kind(opening_of("same:"))


def test_a_plugin_can_not_take_over_a_scheme_of_keylane_s_own(install: Install) -> None:
    install("brokenplugin", "discard = brokenplugin:open", "1 / 0")
    assert isinstance(open_kind(opening_of("discard:")), ImmediateDestination)
