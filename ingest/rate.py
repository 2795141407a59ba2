"""How much each key, or each address, may send: a token bucket for each, the clock given.

By hand, because the libraries there are make the caller wait where a server has to refuse, or count
in windows, at whose border twice the limit passes. It is one subtraction.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, NamedTuple

from ingest.refusals import RateLimited

#: Callers that are kept apart at most; about 25 MB.
MAX_CALLERS: Final = 100_000

#: Waiting for exactly as long as was said must be enough, whatever floats make of it.
_TOLERANCE_S: Final = 1e-6
#: Slower rates would make times that no header can tell.
_SLOWEST: Final = 1e-6
#: Callers that are looked at in each call: more than the one that it may add.
_SWEPT: Final = 2


class TokenBucket:
    """Holds `burst` tokens when full and gains `rate` a second. Starts full; may owe tokens.

    Keeps only when it will be full, which says at any time how many tokens it holds.
    """

    __slots__ = ("burst", "full_at", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self.full_at = -math.inf

    def level(self, now: float) -> float:
        """Tokens that it holds; below 0 if it owes some."""
        return self.burst - max(0.0, self.full_at - now) * self.rate

    def wait_s(self, tokens: float, now: float, paid: float = 0) -> float:
        """Seconds until `take` takes these.

        What is more than the bucket ever holds has to wait until it is full, else for ever. `paid`
        is what the same request took before, for which a full bucket is that much below.
        """
        needed = min(tokens + paid, self.burst) - paid
        wait_s = self.full_at - now - (self.burst - needed) / self.rate
        return wait_s if wait_s > _TOLERANCE_S else 0.0

    def take(self, tokens: float, now: float, paid: float = 0) -> float:
        """Take the tokens and return 0, or take none and return the seconds until it works."""
        wait_s = self.wait_s(tokens, now, paid)
        if not wait_s:
            self.full_at = max(self.full_at, now) + tokens / self.rate
        return wait_s


class Standing(NamedTuple):
    """How much a caller may still send; `limit` events pass in `window_s` seconds in the long run.

    `reset_s` is the time until `remaining` is at its highest again or, of what was refused, until
    the same passes.
    """

    limit: int
    remaining: int
    reset_s: float
    window_s: int


_UNLIMITED: Final = Standing(0, 0, 0.0, 0)


class OverLimit(RateLimited):
    """This key or address sends more than it may; nothing of this request was sent."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(
            standing.reset_s,
            f"This key or address sends more than it may; {standing.remaining} more events can be "
            f"sent now, this request after {max(1, math.ceil(standing.reset_s))} s. Nothing of it "
            "was sent.",
        )
        self.standing = standing


class RateLimits:
    """A bucket for each caller that is not known to have a full one; a rate of 0 limits nobody."""

    def __init__(self, rate: float, burst: int, max_callers: int = MAX_CALLERS) -> None:
        """Limit each caller to `rate` tokens a second and `burst` at once."""
        self.is_on = rate > 0
        self._rate = max(rate, _SLOWEST)
        self._burst = burst
        self._max_callers = max_callers
        # A window is in whole seconds: with a burst of less than a second's rate it is one.
        self._limit = max(burst, int(self._rate))
        self._window_s = max(1, math.ceil(burst / self._rate))
        #: The longest idle first.
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, tokens: int, now: float, paid: int = 0) -> Standing:
        """Take the caller's tokens, or none and raise `OverLimit`, which is a `RateLimited`.

        `now` is in seconds of a clock that never goes back. `paid` is what the same request took
        before; the time to wait is that of the request as a whole.
        """
        if not self.is_on:
            return _UNLIMITED
        bucket = self._bucket(caller, now)
        if bucket.take(tokens, now, paid):
            raise OverLimit(self._standing(bucket, now, bucket.wait_s(tokens + paid, now)))
        return self._standing(bucket, now, bucket.full_at - now)

    def _bucket(self, caller: str, now: float) -> TokenBucket:
        self._sweep(now)
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = TokenBucket(self._rate, self._burst)
            if len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
        return bucket

    def _sweep(self, now: float) -> None:
        """Drop full ones among the longest idle: a new bucket is the same."""
        for _ in range(_SWEPT):
            if not self._buckets:
                return
            idle = next(iter(self._buckets))
            if self._buckets[idle].full_at > now:
                return
            del self._buckets[idle]

    def _standing(self, bucket: TokenBucket, now: float, reset_s: float) -> Standing:
        remaining = max(0, int(bucket.level(now)))
        return Standing(self._limit, remaining, reset_s, self._window_s)


def headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    """Tell a standing as draft-ietf-httpapi-ratelimit-headers has it; nothing if there is no limit.

    With `Retry-After`, whose time is that of the `t` here.
    """
    if not standing.limit:
        return []
    policy = f'"default";q={standing.limit};w={standing.window_s}'
    reset_s = max(1, math.ceil(standing.reset_s))
    return [
        (b"ratelimit-policy", policy.encode()),
        (b"ratelimit", f'"default";r={standing.remaining};t={reset_s}'.encode()),
    ]
