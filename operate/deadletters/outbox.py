"""Where a redrive sends: the destination's topic for what it gets once more, each message once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from keylane.broker import OutgoingMessage
from keylane.pulsarlog import PulsarLogs, SequencedPublisher
from keylane.redriven import end_of, redriven
from operate.deadletters.letter import properties_of
from operate.deadletters.plan import Resend
from operate.deadletters.sent import Sent, origin_given

#: Whose end marks come without a dead letter before them.
_ENDS: Final = "end"


class Outbox:
    """Its methods raise `BrokerError`; the same call may be made again then.

    `sent` is what an earlier process sent for the same run, `dead` the dead-letter topics.
    """

    def __init__(
        self, logs: PulsarLogs, topic: str, token: str, dead: Mapping[int, str], sent: Sent
    ) -> None:
        self._logs = logs
        self._topic = topic
        self._token = token
        self._dead = dead
        self._sent = sent
        self._publishers: dict[str, SequencedPublisher] = {}

    async def unsent(self, batch: Sequence[Resend]) -> int:
        """How many of them do not lie there yet."""
        publisher = await self._publisher(batch[0].number.publisher)
        return sum(not self._has(one, publisher) for one in batch)

    async def send(self, batch: Sequence[Resend]) -> None:
        """Return when all lie there, and the end marks behind the last ones of users."""
        publisher = await self._publisher(batch[0].number.publisher)
        messages: list[tuple[int, OutgoingMessage]] = []
        for one in batch:
            if not self._has(one, publisher):
                messages.append((one.number.value, self._message(one)))
            user = one.letter.user
            is_ended = user in self._sent.ended or one.end_number <= publisher.last
            # Nobody waits without a name.
            if one.is_last and user and not is_ended:
                messages.append((one.end_number, end_of(self._token, user)))
        await publisher.publish(messages)

    async def end(self, users: Iterable[str]) -> None:
        """End marks for users of whom nothing is left to send."""
        left = sorted(user for user in users if user not in self._sent.ended)
        if left:
            publisher = await self._publisher(_ENDS)
            first = publisher.last + 1
            marks = [(first + n, end_of(self._token, user)) for n, user in enumerate(left)]
            await publisher.publish(marks)

    def _has(self, one: Resend, publisher: SequencedPublisher) -> bool:
        return one.number in self._sent.numbers or one.number.value <= publisher.last

    def _message(self, one: Resend) -> OutgoingMessage:
        message = one.letter.content
        properties = properties_of(message) | origin_given(
            one.letter, self._dead[one.letter.place.part]
        )
        return redriven(
            message.key, message.value(), properties, message.event_time_ms, self._token
        )

    async def _publisher(self, of: str) -> SequencedPublisher:
        """One for each original partition, so that its numbers grow with the places there."""
        if of not in self._publishers:
            name = f"redrive-{self._token}-{of}"
            self._publishers[of] = await self._logs.publisher(self._topic, name)
        return self._publishers[of]
