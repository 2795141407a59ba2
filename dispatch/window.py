"""The last outcomes across users: how many failed, and of how many users."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable


class Window:
    """The last `outcomes` outcomes, as far as they are not older than `seconds`.

    By number, because a failure that begins must show at once, however much went well before; and
    by age, because where little happens what was long ago says nothing.
    """

    def __init__(self, outcomes: int, seconds: float) -> None:
        self._most = outcomes
        self._seconds = seconds
        #: When each was, and whose it was if it failed.
        self._outcomes: deque[tuple[float, Hashable | None]] = deque()
        self._users: Counter[Hashable] = Counter()

    def clear(self) -> None:
        self._outcomes.clear()
        self._users.clear()

    def count(self, now: float, *, failed_user: Hashable | None = None) -> None:
        """One more outcome; `failed_user` says whose, if it failed."""
        if len(self._outcomes) == self._most:
            self._drop()
        self._outcomes.append((now, failed_user))
        if failed_user is not None:
            self._users[failed_user] += 1
            while self._outcomes[0][0] < now - self._seconds:
                self._drop()

    @property
    def failed(self) -> int:
        """Failures in it; exact after one was counted."""
        return self._users.total()

    def users(self) -> int:
        """Users with a failure in it."""
        return len(self._users)

    def share(self) -> float:
        """Failures among all outcomes, 0 to 1."""
        return self.failed / len(self._outcomes) if self._outcomes else 0.0

    def _drop(self) -> None:
        _, user = self._outcomes.popleft()
        if user is not None:
            self._users[user] -= 1
            if not self._users[user]:
                del self._users[user]
