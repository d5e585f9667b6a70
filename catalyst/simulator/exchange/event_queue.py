"""What the exchange has promised to do later, by instant."""

import heapq
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class DueKind(StrEnum):
    ACKNOWLEDGE = "acknowledge"
    ARRIVE = "arrive"
    CANCEL = "cancel"
    LEG_CANCEL = "leg_cancel"
    ACTIVATE = "activate"
    REPLACE = "replace"
    FILL_REST = "fill_rest"
    EXPIRE = "expire"
    OPEN = "open"
    CLOSE = "close"
    RESUME = "resume"  # of a halted symbol


@dataclass(frozen=True, slots=True)
class Due:
    """One promise; promises of the same instant are kept in the order they were made."""

    at: datetime
    sequence: int
    kind: DueKind
    order_id: str = ""
    other_id: str = ""


class Agenda:
    """A heap of promises."""

    def __init__(self) -> None:
        self._heap: list[
            tuple[datetime, int, Due]
        ] = []  # no two have the same number: promises are never compared
        self._made = 0

    @property
    def promises(self) -> list[Due]:
        return [due for _, _, due in self._heap]

    def promise(self, at: datetime, kind: DueKind, order_id: str = "", other_id: str = "") -> None:
        self._made += 1
        heapq.heappush(self._heap, (at, self._made, Due(at, self._made, kind, order_id, other_id)))

    def next_at(self) -> datetime | None:
        return self._heap[0][0] if self._heap else None

    @property
    def opens_next(self) -> bool:
        """Whether the next promise is an opening bell."""
        return bool(self._heap) and self._heap[0][2].kind is DueKind.OPEN

    def pop(self) -> Due:
        return heapq.heappop(self._heap)[2]

    def restore(self, promises: list[Due]) -> None:
        """Continue with these promises, as they were saved."""
        self._heap = [(due.at, due.sequence, due) for due in promises]
        heapq.heapify(self._heap)
        self._made = max((due.sequence for due in promises), default=0)
