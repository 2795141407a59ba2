"""The formats that are checked; all others are notes for readers, as JSON Schema allows.

Written here because the library checks most of them only if further libraries are there, and what
is checked must not depend on that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Final

from jsonschema import FormatChecker

from ingest.explain import is_moment
from ingest.schema import DATE_TIME, URI_REFERENCE

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MAX_HOSTNAME: Final = 253
_DAY: Final = "2000-01-01T"


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


_is_hostname_shaped: Final = _matches(rf"{_LABEL}(?:\.{_LABEL})*")
_is_date_time_shaped: Final = _matches(DATE_TIME)
_has_scheme: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_is_reference: Final = _matches(URI_REFERENCE)


def _is_date_time(text: str) -> bool:
    return _is_date_time_shaped(text) and is_moment(text)


def _is_date(text: str) -> bool:
    try:
        return _DATE.fullmatch(text) is not None and date.fromisoformat(text) is not None
    except ValueError:
        return False


def _is_address(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            kind(text)
        except ValueError:
            return False
        return "%" not in text  # a zone is no part of an address

    return check


def _is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


CHECKS: Final[Mapping[str, Callable[[str], bool]]] = {
    "date": _is_date,
    "date-time": _is_date_time,
    "time": lambda text: _is_date_time(_DAY + text),
    "duration": _matches(
        r"P(?:\d+W|(?=\d|T\d)(?:\d+Y)?(?:\d+M)?(?:\d+D)?"
        r"(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?)"
    ),
    "email": _matches(rf"[^\s@\"<>()\[\],;:\\]{{1,64}}@{_LABEL}(?:\.{_LABEL})*"),
    "hostname": lambda text: len(text) <= _MAX_HOSTNAME and _is_hostname_shaped(text),
    "ipv4": _is_address(ipaddress.IPv4Address),
    "ipv6": _is_address(ipaddress.IPv6Address),
    "json-pointer": _matches(r"(?:/(?:[^~/]|~[01])*)*"),
    "regex": _is_regex,
    "uri": lambda text: _is_reference(text) and _has_scheme.match(text) is not None,
    "uri-reference": lambda text: not text or _is_reference(text),
    "uuid": _matches(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
}


def _of_strings(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or check(value)


def _checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    checker.checkers = {name: (_of_strings(check), ()) for name, check in CHECKS.items()}
    return checker


FORMATS: Final = _checker()
