"""`keylane destination list|test|rotate-secret`, as somebody types them."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner, Result
from typing_extensions import override

from operate import destinationtest
from operate.cli import app
from operate.destinationsecret import new_secret, rotate
from operate.exits import exit_code_of
from tests.commandline import alone

__all__ = ["alone"]
pytestmark = pytest.mark.usefixtures("alone")

OLD = "whsec_b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQ="


class Hook(ThreadingHTTPServer):
    """Answers each POST with `status` and what it was sent as `authorization`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.requests: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        self.server.requests.append((headers, body))
        said = f"not with {headers.get('authorization')}".encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def configure(toml: str) -> None:
    Path("keylane.toml").write_text(toml, encoding="utf-8")


def run(*arguments: str, code: int = 0, **variables: str) -> Result:
    done = CliRunner().invoke(
        app, ["destination", *arguments], env=variables, catch_exceptions=False
    )
    assert done.exit_code == code, done.output
    return done


def answers(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    told = json.loads(run("test", *arguments, "--json", code=code).stdout)
    return list(told["answers"])


# list


def test_destinations_and_channels_are_listed_without_secrets() -> None:
    configure(
        '[destinations.crm]\nto = "https://me:hunter2@h/x?key=hunter2"\n'
        '[destinations.chat.channels.one]\nto = "slack:"\nslack = { token = "hunter2" }\n'
    )

    rows = json.loads(run("list", "--json").stdout)["destinations"]

    assert rows == [
        {
            "name": "crm",
            "channel": None,
            "kind": "https",
            "address": "https://me:***@h/x?key=***",
        },
        {"name": "chat", "channel": "one", "kind": "slack", "address": "slack:"},
    ]
    told = run("list").stdout
    assert "hunter2" not in told
    assert "2 destinations are configured." in told


def test_that_none_are_configured_is_told() -> None:
    assert run("list").stdout == "0 destinations are configured.\n"


# test


def test_one_marked_event_goes_straight_to_the_webhook(hook: Hook) -> None:
    configure(f'[destinations.crm]\nto = "{hook.url}"\nsecret = "{OLD}"\n')

    (answer,) = answers("crm", "--user", "user-7", "--payload", '{"a": 1.50}')

    ((headers, body),) = hook.requests
    assert body == b'{"a": 1.50}'
    assert headers["ce-id"].startswith("test-")
    assert (headers["ce-type"], headers["ce-keylanetest"]) == ("keylane.test", "true")
    assert headers["keylane-user"] == "user-7"
    Webhook(OLD).verify(body, headers)
    assert (answer["outcome"], answer["status"], answer["to"]) == ("delivered", 200, hook.url)
    assert 0 < answer["seconds"] < 10


@pytest.mark.parametrize(
    ("status", "outcome", "code"), [(404, "refused", 1), (503, "unavailable", 75)]
)
def test_what_it_says_is_shown_and_decides_the_exit_code(
    hook: Hook, status: int, outcome: str, code: int
) -> None:
    hook.status = status
    configure(f'[destinations.crm]\nto = "{hook.url}"\n')

    (answer,) = answers("crm", code=code)

    assert (answer["outcome"], answer["status"]) == (outcome, status)
    assert "not with None" in answer["reason"]


def test_an_answer_that_repeats_a_secret_is_masked(hook: Hook) -> None:
    hook.status = 401
    configure(f'[destinations.crm]\nto = "{hook.url}"\nhttp = {{ bearer = "hunter2" }}\n')

    told = run("test", "crm", code=1).stdout

    assert hook.requests[0][0]["authorization"] == "Bearer hunter2"
    assert "hunter2" not in told
    assert "not with Bearer ***" in told


def test_nobody_listening_may_be_tried_again() -> None:
    configure('[destinations.crm]\nto = "http://127.0.0.1:1/hook"\n')

    assert answers("crm", code=75)[0]["outcome"] == "unavailable"


def test_a_guarded_address_is_not_taken(hook: Hook) -> None:
    configure(f'[destinations.crm]\nto = "{hook.url}"\nhttp = {{ guard = "on" }}\n')

    assert answers("crm", code=1)[0]["outcome"] == "forbidden"
    assert hook.requests == []


def test_each_channel_is_tested_or_only_one(hook: Hook, tmp_path: Path) -> None:
    configure(
        f'[destinations.crm.channels]\nweb.to = "{hook.url}"\nlines.to = "file:{tmp_path}/lines"\n'
    )

    assert [answer["channel"] for answer in answers("crm")] == ["web", "lines"]
    assert len((tmp_path / "lines").read_text().splitlines()) == 1
    assert [answer["channel"] for answer in answers("crm", "--channel", "web")] == ["web"]
    assert len((tmp_path / "lines").read_text().splitlines()) == 1
    assert len(hook.requests) == 2

    hook.status = 503
    assert [a["outcome"] for a in answers("crm", code=75)] == ["unavailable", "delivered"]


def test_a_test_is_no_trial_of_reliability(tmp_path: Path) -> None:
    configure(f'[dispatch]\nreliability = 0\n[destinations.crm]\nto = "file:{tmp_path}/lines"\n')

    assert answers("crm")[0]["outcome"] == "delivered"


@pytest.mark.parametrize(
    ("toml", "arguments", "said"),
    [
        ('[destinations.crm]\nto = "file:x"\n', ["crn"], "Did you mean crm?"),
        ('[destinations.crm]\nto = "nonsense:x"\n', ["crm"], "'nonsense:x' is no destination"),
        ('[destinations.crm]\nto = "file:x"\n', ["crm", "--channel", "a"], "it has none"),
        ('[destinations.crm]\nto = "file:x"\nsecret = "file:no"\n', ["crm"], "no can't be read"),
    ],
)
def test_what_can_not_be_tested_is_a_matter_of_configuration(
    toml: str, arguments: list[str], said: str
) -> None:
    configure(toml)

    done = CliRunner().invoke(app, ["destination", "test", *arguments])

    assert done.exception is not None
    assert exit_code_of(done.exception) == 78
    assert said in str(done.exception)


def test_a_payload_that_is_no_json_is_a_mistake_of_usage() -> None:
    configure('[destinations.crm]\nto = "file:x"\n')

    assert "no JSON" in run("test", "crm", "--payload", "{", code=2).output


def test_the_longest_secret_is_masked_before_one_that_is_a_part_of_it() -> None:
    assert destinationtest.masked("abcd ab", ["abcd", "ab"]) == "*** ***"


# rotate-secret


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{OLD}\n")
    path.chmod(0o644)
    configure(f'[destinations.crm]\nto = "file:x"\nsecret = "file:{path}"\n')
    return path


def test_a_secret_is_32_random_bytes_as_standard_webhooks_writes_them() -> None:
    made = {new_secret() for _ in range(10)}

    assert len(made) == 10
    for secret in made:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


def test_the_new_secret_comes_first_and_the_old_one_stays_until_that_is_finished(
    secret_file: Path,
) -> None:
    done = run("rotate-secret", "crm")

    first, second = secret_file.read_text().splitlines()
    assert (first, second) == (done.stdout.strip(), OLD)
    assert secret_file.stat().st_mode & 0o777 == 0o600
    assert "SIGHUP" in done.stderr
    assert "Give the receiver the new secret" in done.stderr
    assert list(secret_file.parent.glob(".*")) == []

    finished = run("rotate-secret", "crm", "--finish")

    assert secret_file.read_text().splitlines() == [first]
    assert finished.stdout == ""
    assert first not in finished.output


def test_as_many_old_secrets_stay_as_are_asked_for(secret_file: Path) -> None:
    secrets = [json.loads(run("rotate-secret", "crm", "--json", "--keep", "2").stdout)["secret"]]
    secrets.insert(0, run("rotate-secret", "crm", "--keep", "2").stdout.strip())
    assert secret_file.read_text().split() == [*secrets, OLD]

    secrets.insert(0, run("rotate-secret", "crm", "--keep", "2").stdout.strip())

    assert secret_file.read_text().split() == secrets[:3]


def test_what_a_link_points_to_is_rotated_and_the_link_stays(
    secret_file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret_file)

    rotate(f"file:{link}", keep=1, is_finishing=False)

    assert link.is_symlink()
    assert secret_file.read_text().split()[1] == OLD


def test_a_file_that_can_not_be_replaced_stays_as_it_was(
    secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    done = CliRunner().invoke(app, ["destination", "rotate-secret", "crm"])

    assert "No space left on device); it is as it was" in str(done.exception)
    assert secret_file.read_text() == f"{OLD}\n"
    assert list(secret_file.parent.glob(".*")) == []


def test_a_secret_in_a_variable_is_yours_to_set() -> None:
    configure('[destinations.crm]\nto = "file:x"\nsecret = "env:CRM_SECRET"\n')

    done = run("rotate-secret", "crm", CRM_SECRET=OLD)

    assert done.stdout.startswith("whsec_")
    assert "the variable CRM_SECRET" in done.stderr
    assert "Restart" in done.stderr
    assert OLD not in done.output


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("", "put it into destinations.crm.secret"),
        (f'secret = "{OLD}"\n', "and the one so far into destinations.crm.secret"),
    ],
)
def test_a_secret_in_the_settings_or_none_is_yours_to_write(secret: str, said: str) -> None:
    configure(f'[destinations.crm]\nto = "file:x"\n{secret}')

    done = run("rotate-secret", "crm")

    assert done.stdout.startswith("whsec_")
    assert said in done.stderr
    assert OLD not in done.output


def test_of_several_channels_the_one_is_named_whose_secret_it_is(secret_file: Path) -> None:
    configure(
        '[destinations.crm.channels]\none = { to = "http://a", secret = '
        f'"file:{secret_file}" }}\ntwo.to = "file:x"\n'
    )

    done = CliRunner().invoke(app, ["destination", "rotate-secret", "crm"])
    assert "say --channel: one, two" in str(done.exception)

    run("rotate-secret", "crm", "--channel", "one")
    assert secret_file.read_text().split()[1] == OLD
