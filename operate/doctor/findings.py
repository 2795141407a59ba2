"""What was found: how bad it is, what follows from it, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from operate.exits import DONE, FAILED


class Severity(StrEnum):
    """From what breaks a promise to what is well."""

    ERROR = "error"
    """Events are lost, refused, stuck or out of order, now or at the next disturbance."""
    WARNING = "warning"
    """Something works worse than it could, or could not be looked at."""
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Mend:
    """What to do: a line for the shell, a line for the brokers' broker.conf, or a sentence."""

    command: str | None = None
    setting: str | None = None
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` is stable, `subject` is what was looked at, and `found` what is the case."""

    check: str
    severity: Severity
    subject: str
    found: str
    consequence: str = ""
    mend: Mend = Mend()

    def as_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "severity": self.severity.value,
            "subject": self.subject,
            "found": self.found,
            "consequence": self.consequence or None,
            "command": self.mend.command,
            "setting": self.mend.setting,
            "advice": self.mend.advice,
        }


def well(check: str, subject: str, found: str) -> Finding:
    return Finding(check, Severity.OK, subject, found)


def warning(check: str, subject: str, found: str, consequence: str, mend: Mend) -> Finding:
    return Finding(check, Severity.WARNING, subject, found, consequence, mend)


def error(check: str, subject: str, found: str, consequence: str, mend: Mend) -> Finding:
    return Finding(check, Severity.ERROR, subject, found, consequence, mend)


_ORDER: Final = tuple(Severity)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are as bad as each other stay as they came."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def counts(findings: Iterable[Finding]) -> dict[Severity, int]:
    found = [finding.severity for finding in findings]
    return {severity: found.count(severity) for severity in Severity}


def exit_code(findings: Iterable[Finding], *, is_strict: bool) -> int:
    """1 if there is an error, or with `is_strict` a warning; else 0."""
    found = counts(findings)
    is_bad = found[Severity.ERROR] or (is_strict and found[Severity.WARNING])
    return FAILED if is_bad else DONE
