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


@dataclass(frozen=True, slots=True, order=True)
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
        self.promises: list[Due] = []
        self._made = 0

    def promise(self, at: datetime, kind: DueKind, order_id: str = "", other_id: str = "") -> None:
        self._made += 1
        heapq.heappush(self.promises, Due(at, self._made, kind, order_id, other_id))

    def next_at(self) -> datetime | None:
        return self.promises[0].at if self.promises else None

    @property
    def opens_next(self) -> bool:
        """Whether the next promise is an opening bell."""
        return bool(self.promises) and self.promises[0].kind is DueKind.OPEN

    def pop(self) -> Due:
        return heapq.heappop(self.promises)

    def restore(self, promises: list[Due]) -> None:
        """Continue with these promises, as they were saved."""
        self.promises = sorted(promises)
        self._made = max((due.sequence for due in promises), default=0)
