"""Logs: one line an occurrence, to standard error, JSON or pretty.

A line has `ts`, `level`, `event` (a noun and what happened to it, such as `delivery.succeeded`) and
its context. What libraries log through the standard library passes the same processors, with the
text as `event` and the library's logger as `logger`. Passwords in URLs and values under names of
secrets are masked whoever logs them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor
from typing_extensions import override

from keylane.masking import MASK, mask_userinfo

_SECRETS: Final = frozenset(
    {"token", "secret", "password", "authorization", "api_key", "webhook_secret"}
)


def configure_logging(
    format: Literal["json", "pretty", "auto"] = "auto",  # noqa: A002  as the setting is called
    level: str = "info",
) -> None:
    """Set up structlog and the standard library's loggers; `auto` is pretty on a terminal only.

    To be called once a process, before the first line: loggers keep the level they found first,
    which is what makes a filtered line cost nothing.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    pretty = format == "pretty" or (format == "auto" and _is_terminal())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    rendering = _pretty() if pretty else _json()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_StandardError,
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(number, shared, rendering)


def _configure_standard_library(
    number: int, shared: list[Processor], rendering: list[Processor]
) -> None:
    handler = _StandardErrorHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, _as_text],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiohttp.access"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, _mask_secrets, _render]


def _pretty() -> list[Processor]:
    # Rich's tracebacks show local variables, and those hold secrets and payloads.
    console = structlog.dev.ConsoleRenderer(
        colors=_is_terminal() and not os.environ.get("NO_COLOR"),
        exception_formatter=structlog.dev.plain_traceback,
        timestamp_key="ts",
    )
    return [structlog.processors.format_exc_info, _mask_secrets, console]


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _as_text(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["event"] = str(event["event"])
    return event


def _mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if name in _SECRETS and value:
            event[name] = MASK
        elif isinstance(value, str) and "://" in value and "@" in value:
            event[name] = mask_userinfo(value)
    return event


def _render(_logger: Any, _method: str, event: EventDict) -> str:
    ordered = {"ts": event.pop("ts"), "level": event.pop("level"), "event": event.pop("event")}
    ordered.update(event)
    try:
        return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        # A lone surrogate in a user's id, an integer over 64 bits: a line is never lost to them.
        return json.dumps(_plain(ordered), default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


class _StandardError:
    """Writes where `sys.stderr` points now: loggers live longer than a redirection of it."""

    def __init__(self, *_names: Any) -> None:
        pass

    def msg(self, line: str) -> None:
        if sys.stderr is not None:
            # One call a line, so that threads don't tear each other's.
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg
    warn = fatal = failure = err = log = msg


class _StandardErrorHandler(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            _StandardError().msg(self.format(record))
        except Exception:  # noqa: BLE001  a log line must not end what it tells of
            self.handleError(record)
