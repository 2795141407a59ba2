"""What holds for one destination, and what of new settings a running worker takes over."""

from __future__ import annotations

from typing import Any

import pytest

from dispatch.plan import dispatch_of, is_guarded, lanes_of, pace_of, reloaded, reloaded_all
from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.settings import DispatchSettings, Settings


def settings(own: dict[str, Any] | None = None, **sections: Any) -> Settings:
    destinations = {"crm": {"to": "http://a"} | (own or {})}
    return Settings.model_validate({"destinations": destinations} | sections)


def test_what_the_destination_does_not_set_is_as_for_all() -> None:
    assert dispatch_of(settings(), "crm") == DispatchSettings()


@pytest.mark.parametrize(
    "field", sorted(DispatchSettings.model_fields.keys() & DestinationSettings.model_fields.keys())
)
def test_what_the_destination_sets_goes_before_what_is_set_for_all(field: str) -> None:
    for_all = {"workers": 2, "backoff_max_s": 500, "backoff_min_s": 2}
    value = 0.5 if field == "jitter" else 100

    options = dispatch_of(settings({field: value}, dispatch=for_all), "crm")

    assert getattr(options, field) == value
    wanted = DispatchSettings.model_validate(for_all | {field: value})
    assert options == wanted


def test_settings_that_do_not_fit_together_are_refused() -> None:
    steep = Settings(
        dispatch=DispatchSettings(backoff_max_s=10),
        destinations={"crm": DestinationSettings(to="http://a")},
    ).model_copy(
        update={"destinations": {"crm": DestinationSettings(to="http://a", backoff_min_s=20)}}
    )

    with pytest.raises(ConfigurationError, match=r"'crm'.*backoff_max_s: .*below backoff_min_s"):
        dispatch_of(steep, "crm")


def test_the_pace_and_the_lanes_are_the_destinations_own() -> None:
    own = settings({"rate_limit": 7, "breaker": {"users": 3}, "slow_share": 0.25, "concurrency": 8})
    crm, options = own.destinations["crm"], dispatch_of(own, "crm")

    assert (pace_of(crm, options).rate_limit, pace_of(crm, options).concurrency) == (7, 8)
    assert pace_of(crm, options).breaker.users == 3
    assert (lanes_of(crm, options).slow_share, lanes_of(crm, options).concurrency) == (0.25, 8)


@pytest.mark.parametrize(
    ("ingest", "admin", "guard", "wanted"),
    [
        ("127.0.0.1", "127.0.0.1", "auto", False),
        ("::1", "localhost", "auto", False),
        ("127.9.9.9", "LOCALHOST", "auto", False),
        ("0.0.0.0", "127.0.0.1", "auto", True),
        ("127.0.0.1", "::", "auto", True),
        ("ingest.example", "127.0.0.1", "auto", True),
        ("0.0.0.0", "0.0.0.0", "off", False),
        ("127.0.0.1", "127.0.0.1", "on", True),
    ],
)
def test_internal_addresses_are_refused_where_others_reach_this_machine(
    ingest: str, admin: str, guard: str, wanted: bool
) -> None:
    given = settings(
        {"http": {"guard": guard}}, ingest={"host": ingest}, dispatch={"admin_host": admin}
    )

    assert is_guarded(given, "crm") is wanted


def test_what_can_change_in_place_is_taken_over() -> None:
    new = settings(
        {"to": "http://b", "secret": "s", "timeout_s": 3, "rate_limit": 5, "breaker": {"users": 2}},
        dispatch={"max_attempts": 3, "backoff_max_s": 9},
    )

    result = reloaded(settings(), new, "crm")

    assert result.later == ()
    assert result.settings == new


def test_what_can_not_change_in_place_is_named_and_stays() -> None:
    old = settings()
    new = settings(
        {"to": "http://b", "workers": 3, "slow_share": 0.1, "once": {"store": "memory:"}},
        topic="other",
        pulsar={"token": "hunter2"},
        dispatch={"concurrency": 5, "workers": 4, "max_attempts": 3},
    )

    result = reloaded(old, new, "crm")

    assert sorted(result.later) == [
        "destinations.crm.once",
        "destinations.crm.slow_share",
        "destinations.crm.workers",
        "dispatch.concurrency",
        "dispatch.workers",
        "pulsar.token",
        "topic",
    ]
    kept = result.settings
    assert (kept.topic, kept.pulsar) == (old.topic, old.pulsar)
    assert dispatch_of(kept, "crm") == DispatchSettings(max_attempts=3)
    assert kept.destinations["crm"] == DestinationSettings(to="http://b")


def test_a_setting_of_all_that_the_destination_does_not_follow_is_not_told() -> None:
    old, new = settings({"workers": 2}), settings({"workers": 2}, dispatch={"workers": 4})

    assert reloaded(old, new, "crm").later == ()


def test_a_destination_that_is_gone_can_not_be_gone_on_with() -> None:
    with pytest.raises(ConfigurationError, match="'crm' is no longer configured"):
        reloaded(settings(), Settings(), "crm")


def test_of_all_destinations_each_is_taken_over_and_new_and_gone_ones_are_told() -> None:
    old = settings({"to": "http://a"}).model_copy(
        update={
            "destinations": {
                name: DestinationSettings(to="http://a") for name in ("crm", "gone", "slow")
            }
        }
    )
    new = Settings(
        ingest={"max_events": 5},
        destinations={
            "crm": DestinationSettings(to="http://b"),
            "new": DestinationSettings(to="http://b"),
            "slow": DestinationSettings(to="http://c", workers=2),
        },
    )

    result = reloaded_all(old, new)

    assert {name: own.to for name, own in result.settings.destinations.items()} == {
        "crm": "http://b",
        "gone": "http://a",
        "slow": "http://c",
    }
    assert result.settings.destinations["slow"].workers is None
    assert result.settings.ingest == old.ingest
    assert set(result.later) == {
        "destinations.gone",
        "destinations.new",
        "destinations.slow.workers",
        "ingest.max_events",
    }
