"""A destination's live events wait while a replay is delivered instead of them."""

from __future__ import annotations

from collections.abc import Sequence

from keylane.controlrecord import About, Key, Pause, now
from keylane.errors import KeylaneError
from operate.overseeing.overseer import Overseer
from operate.overseeing.pausing import pause_in


class PausedOtherwise(KeylaneError):  # noqa: N818  named by the fact
    """The destination is paused already."""


class NotNow(KeylaneError):  # noqa: N818  named by the fact
    """Running it again later does it."""


class LiveGoesOn(NotNow):
    """Some workers did not say in time that live events wait; nothing was published."""

    def __init__(self, destination: str, workers: Sequence[str]) -> None:
        super().__init__(
            f"These workers of {destination} did not say in time that live events wait: "
            f"{', '.join(workers)}. The pause was taken back and nothing was published. Look "
            "after them, or end them, and run this again."
        )


class LivePause:
    """Known by its token, so that nobody else's pause is taken back with it."""

    def __init__(self, overseer: Overseer, destination: str, token: str) -> None:
        self._overseer = overseer
        self._destination = destination
        self._key = Key(destination, About.PAUSE)
        self._token = token

    def _found(self) -> Pause | None:
        return pause_in(self._overseer.control, self._destination)

    def check(self) -> None:
        """Raises `PausedOtherwise` if somebody else has paused the destination."""
        found = self._found()
        if found is None or found.token == self._token:
            return
        name = self._destination
        raise PausedOtherwise(
            f"Another replay of {name} runs instead of its live events; nothing was done. Wait for "
            f"it, or end it: `keylane replay {name} --list`."
            if found.live_only
            else f"{name} is paused, so a replay would not be delivered; nothing was done. Run "
            f"`keylane resume {name}` first."
        )

    async def put(self) -> None:
        """Return when no worker attempts a live event any more.

        Raises `PausedOtherwise`, and `LiveGoesOn` after it was taken back.
        """
        self.check()
        if self._found() is None:
            record = Pause(self._token, now(), live_only=True)
            await self._overseer.control.put(self._key, record.encoded())
        heard = await self._overseer.heard(self._destination, [(self._key, self._token)])
        if heard.unconfirmed:
            await self.take_back()
            raise LiveGoesOn(self._destination, heard.unconfirmed)

    async def take_back(self) -> None:
        """Let live events go on, unless somebody else has paused the destination since."""
        found = self._found()
        if found is not None and found.token == self._token:
            await self._overseer.control.take_back(self._key)
