"""Event queue: scheduled events of the exchange, by instant."""

import heapq
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EventKind(StrEnum):
    ACKNOWLEDGE = "acknowledge"
    ARRIVE = "arrive"
    CANCEL = "cancel"
    LEG_CANCEL = "leg_cancel"
    ACTIVATE = "activate"
    REPLACE = "replace"
    FILL_REMAINING = "fill_remaining"
    EXPIRE = "expire"
    OPEN = "open"
    CLOSE = "close"
    RESUME = "resume"  # of a halted symbol


@dataclass(frozen=True, slots=True)
class ScheduledEvent:
    """One scheduled event; events of one instant keep their order of creation."""

    at: datetime
    sequence: int
    kind: EventKind
    order_id: str = ""
    other_id: str = ""


class EventQueue:
    """A heap of scheduled events."""

    def __init__(self) -> None:
        self._heap: list[
            tuple[datetime, int, ScheduledEvent]
        ] = []  # numbers are unique, so events are never compared
        self._last_sequence = 0

    @property
    def events(self) -> list[ScheduledEvent]:
        return [event for _, _, event in self._heap]

    def schedule(self, at: datetime, kind: EventKind, order_id: str = "", other_id: str = "") -> None:
        self._last_sequence += 1
        heapq.heappush(
            self._heap,
            (at, self._last_sequence, ScheduledEvent(at, self._last_sequence, kind, order_id, other_id)),
        )

    def next_at(self) -> datetime | None:
        return self._heap[0][0] if self._heap else None

    @property
    def next_is_open(self) -> bool:
        """Return whether the next event is the opening of a session."""
        return bool(self._heap) and self._heap[0][2].kind is EventKind.OPEN

    def pop(self) -> ScheduledEvent:
        return heapq.heappop(self._heap)[2]

    def restore(self, events: list[ScheduledEvent]) -> None:
        """Continue with these saved events."""
        self._heap = [(event.at, event.sequence, event) for event in events]
        heapq.heapify(self._heap)
        self._last_sequence = max((event.sequence for event in events), default=0)
