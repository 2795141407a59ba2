"""What is known of a request beside its body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Makes so many event ids.
NewIds = Callable[[int], list[str]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """When and from where a request came.

    `extensions` go onto each of its events: the trace context and the correlation id. `address` is
    the sender's, as far as proxies are believed. `new_ids` names events that came without an id.
    """

    now_ms: int
    new_ids: NewIds
    extensions: Mapping[str, str]
    address: str = ""
