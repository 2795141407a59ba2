"""Dead letters into a file, and from a file back onto their topic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_fixed

from keylane.broker import OutgoingMessage
from keylane.errors import BrokerUnavailable, ContractError
from keylane.names import dead_letter_topic
from keylane.pulsarlog import BATCH
from keylane.topics import IN_FORCE_WITHIN_S
from operate.deadletters.filters import Filters
from operate.deadletters.line import line_of, messages
from operate.deadletters.session import Looking
from operate.progress import Tell

_DEDUPLICATION: Final = "deduplicationEnabled"
#: Bad lines that are named.
_NAMED: Final = 20


async def export(found: Looking, filters: Filters, file: BinaryIO, tell: Tell) -> int:
    """Write what matches, a line each; returns how many."""
    written = 0
    async for letter in found.view.letters():
        if filters.match(letter):
            file.write(line_of(letter))
            written += 1
            tell(written, None)
    return written


@dataclass(frozen=True, slots=True)
class Checked:
    """A file in which every line is a dead letter; `digest` tells it from any other."""

    path: Path
    lines: int
    digest: str


def check(path: Path) -> Checked:
    """Raises `ContractError`, which names the lines that are none, and `OSError`."""
    bad: list[str] = []
    lines = faults = 0
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        for number, found in messages(file):
            lines += 1
            if isinstance(found, ContractError):
                faults += 1
                if len(bad) < _NAMED:
                    bad.append(f"  line {number}: {found}")
    if faults:
        more = [f"  and {faults - _NAMED} more"] if faults > _NAMED else []
        raise ContractError(
            "\n".join(
                [f"{path} has lines that are no dead letters; nothing was done:", *bad, *more]
            )
        )
    return Checked(path, lines, digest)


@dataclass(frozen=True, slots=True)
class Imported:
    """`there` were stored by an import of the same file before."""

    new: int
    there: int


async def import_(found: Looking, checked: Checked, tell: Tell) -> Imported:
    """Publish each line once, however often this is done with the same file.

    Raises `BrokerError`; the same call goes on then.
    """
    topic = await _deduplicating(found)
    publisher = await found.logs.publisher(topic, f"import-{checked.digest[:16]}")
    last, there = publisher.last, 0
    batch: list[tuple[int, OutgoingMessage]] = []
    done = 0

    async def send() -> None:
        nonlocal done
        await publisher.publish(batch)
        done += len(batch)
        batch.clear()
        tell(done + there, checked.lines)

    with checked.path.open("rb") as file:
        for number, message in messages(file):
            if isinstance(message, ContractError):
                raise ContractError(f"{checked.path} was changed while it was read: {message}")
            if number <= last:
                there += 1
                continue
            batch.append((number, message))
            if len(batch) == BATCH:
                await send()
    if batch:
        await send()
    return Imported(done, there)


async def _deduplicating(found: Looking) -> str:
    """The topic to publish to, the first of several, made to store each number once."""
    admin, part = found.admin, next(iter(found.view.parts.values()))

    async def is_enabled() -> bool:
        return bool((await admin.stats(part))["deduplicationStatus"] == "Enabled")

    if not await is_enabled():
        whole = dead_letter_topic(found.settings.topic, found.destination)
        await admin.set_policy(whole, _DEDUPLICATION, value=True)
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda enabled: not enabled),
            stop=stop_after_delay(IN_FORCE_WITHIN_S),
            wait=wait_fixed(0.1),
        )
        try:
            await retrying(is_enabled)
        except RetryError as error:
            raise BrokerUnavailable(
                f"{part} does not deduplicate {IN_FORCE_WITHIN_S:g} s after it was told to; "
                "nothing was imported. Try again."
            ) from error
    return part
