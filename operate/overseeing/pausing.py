"""`keylane pause` and `keylane resume`: no attempt starts, or attempts go on.

What is said is kept by the broker, so it holds for workers that start later as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keylane.controlrecord import About, Key, Pause, new_token, now
from keylane.errors import ContractError
from operate.controlsession import CONFIRM_WITHIN_S, ControlSession, Heard, Said
from operate.overseeing.overseer import Overseer


@dataclass(frozen=True, slots=True)
class Paused:
    """`at` is when it was paused first, and `was_paused` says that it was so before."""

    destination: str
    at: str
    token: str
    was_paused: bool
    heard: Heard

    def as_dict(self) -> dict[str, Any]:
        return {
            "destination": self.destination,
            "is_paused": True,
            "at": self.at,
            "token": self.token,
            "was_paused": self.was_paused,
            **_told(self.heard),
        }


@dataclass(frozen=True, slots=True)
class Resumed:
    """`was_disabled` says that the destination had itself disabled, by 410 for example."""

    destination: str
    was_paused: bool
    was_disabled: bool
    heard: Heard

    def as_dict(self) -> dict[str, Any]:
        return {
            "destination": self.destination,
            "is_paused": False,
            "was_paused": self.was_paused,
            "was_disabled": self.was_disabled,
            **_told(self.heard),
        }


def _told(heard: Heard) -> dict[str, Any]:
    return {"confirmed": heard.confirmed, "unconfirmed": heard.unconfirmed}


def pause_in(control: ControlSession, destination: str) -> Pause | None:
    """What is kept of it; None if it is not paused, or if that can't be read."""
    kept = control.kept.get(str(Key(destination, About.PAUSE)))
    try:
        return Pause.decoded(kept) if kept else None
    except ContractError:
        # Workers go by what they can read, too.
        return None


async def pause(overseer: Overseer, destination: str, within_s: float = CONFIRM_WITHIN_S) -> Paused:
    """Let no attempt start; those that run end. A pause of live events only becomes one of all."""
    await overseer.require(destination)
    key = Key(destination, About.PAUSE)
    before = pause_in(overseer.control, destination)
    was_paused = before is not None and not before.live_only
    record = Pause(new_token(), before.at if before and was_paused else now())
    await overseer.control.put(key, record.encoded())
    heard = await overseer.heard(destination, [(key, record.token)], within_s)
    return Paused(destination, record.at, record.token, was_paused, heard)


async def resume(
    overseer: Overseer, destination: str, within_s: float = CONFIRM_WITHIN_S
) -> Resumed:
    """Let attempts go on, whether it was paused or had itself disabled."""
    await overseer.require(destination)
    control = overseer.control
    was_paused = await take_back(control, Key(destination, About.PAUSE))
    was_disabled = await take_back(control, Key(destination, About.DESTINATION))
    gone: list[Said] = [(Key(destination, a), "") for a in (About.PAUSE, About.DESTINATION)]
    heard = await overseer.heard(destination, gone, within_s)
    return Resumed(destination, was_paused, was_disabled, heard)


async def take_back(control: ControlSession, key: Key) -> bool:
    """Whether anything was said under the key; nothing is any more."""
    was_said = str(key) in control.kept
    # In any case: a worker may have disabled its destination and not been able to say so.
    await control.take_back(key)
    return was_said
