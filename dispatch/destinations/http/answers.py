"""What each answer comes to: the table of docs/destinations.md.

    2xx                                          delivered, whatever else is said
    webhook-delivery: disable                    disabled
    webhook-delivery: abort-message              refused
    a status in http.reject                      refused
    a status in http.retry                       tried again
    410                                          disabled
    408, 425, 429, 5xx and above                 tried again
    407 of a proxy                               tried again
    any other                                    refused
    no answer, or half of one                    tried again
    a guarded address                            forbidden

The first row that fits counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from dispatch.destinations.http.port import Answer, NoAnswer, Trouble
from dispatch.destinations.http.retryafter import retry_after_s
from dispatch.outcome import (
    Delivered,
    Disabled,
    Forbidden,
    Outcome,
    Refused,
    Unavailable,
    Withdrawn,
)
from keylane.errors import ConfigurationError

#: How much of an answer a reason carries; the whole stands in the outcome's `answer`.
MAX_REASON_CHARACTERS: Final = 200

_RETRIED: Final = frozenset({408, 425, 429})
_OF_A_PROXY: Final = 407
_GONE: Final = 410
_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_SERVER_ERRORS: Final = 500
#: What an answer may say beside its status.
_WORD: Final = b"webhook-delivery"


class _Verdict(Enum):
    DELIVERED = auto()
    RETRIED = auto()
    REFUSED = auto()
    DISABLED = auto()


_WORDS: Final = {"disable": _Verdict.DISABLED, "abort-message": _Verdict.REFUSED}


class Table:
    """`clean` takes what must not be told out of an answer's text.

    Raises `ConfigurationError` for a status that is both retried and rejected.
    """

    def __init__(
        self,
        retry: Iterable[int] = (),
        reject: Iterable[int] = (),
        *,
        is_proxied: bool = False,
        clean: Callable[[str], str] = str,
    ) -> None:
        self._set = dict.fromkeys(retry, _Verdict.RETRIED)
        if both := sorted(self._set.keys() & set(reject)):
            raise ConfigurationError(f"status {both[0]} is in http.retry and in http.reject")
        self._set |= dict.fromkeys(reject, _Verdict.REFUSED)
        self._is_proxied = is_proxied
        self._clean = clean

    def outcome(self, answer: Answer | NoAnswer) -> Outcome:
        if isinstance(answer, NoAnswer):
            return self._of_none(answer)
        status = answer.status
        if 200 <= status < 300:  # noqa: PLR2004  the class of success
            return _delivered(status)
        verdict = _WORDS.get((header(answer.head, _WORD) or "").lower()) or self._verdict(status)
        said = self._clean(answer.body.decode("utf-8", "replace").strip())
        reason = f"answered {status}" + (f": {said}" if said else "")
        reason = reason[:MAX_REASON_CHARACTERS]
        match verdict:
            case _Verdict.DISABLED:
                return Disabled(reason, status, said)
            case _Verdict.RETRIED:
                return Unavailable(
                    reason,
                    status,
                    retry_after_s(header(answer.head, b"retry-after")),
                    is_down=status == _OF_A_PROXY,
                    may_be_down=status >= _SERVER_ERRORS,
                    is_overload=status in (_TOO_MANY, _UNAVAILABLE),
                    answer=said,
                )
            case _:
                return Refused(reason, status, said)

    def _verdict(self, status: int) -> _Verdict:
        if verdict := self._set.get(status):
            return verdict
        if status == _GONE:
            return _Verdict.DISABLED
        is_retried = status >= _SERVER_ERRORS or status in _RETRIED
        if is_retried or (self._is_proxied and status == _OF_A_PROXY):
            return _Verdict.RETRIED
        return _Verdict.REFUSED

    def _of_none(self, answer: NoAnswer) -> Outcome:
        if answer.trouble is Trouble.WITHDRAWN:
            return Withdrawn()
        reason = self._clean(answer.text)[:MAX_REASON_CHARACTERS]
        if answer.trouble is Trouble.FORBIDDEN:
            return Forbidden(reason)
        return Unavailable(
            reason,
            is_down=not answer.is_sent,
            may_be_down=answer.is_sent,
            is_overload=answer.trouble is Trouble.TIMEOUT,
        )


@lru_cache
def _delivered(status: int) -> Delivered:
    return Delivered(status)


def header(head: Sequence[bytes], name: bytes) -> str | None:
    """The first value of this name in the last head; provisional answers come before it."""
    found = None
    for line in head:
        field, colon, value = line.partition(b":")
        if not colon and line.startswith(b"HTTP/"):
            found = None
        elif found is None and field.lower() == name:
            found = value.decode("latin-1").strip()
    return found
