"""Trading cycle, one per trading day: its states, and the table of allowed transitions."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from catalyst.domain.errors import IllegalTransition
from catalyst.domain.session import NEW_YORK


class CycleStatus(StrEnum):
    IDLE = "idle"
    SCANNING = "scanning"
    EVALUATING = "evaluating"
    TRADING = "trading"
    MONITORING = "monitoring"
    CLOSED = "closed"  # no more entries today; exits may still be filling
    COMPLETED = "completed"  # flat and final, report written


C = CycleStatus

CYCLE_EDGES: Final = frozenset(
    {
        (C.IDLE, C.SCANNING),
        (C.IDLE, C.CLOSED),
        (C.SCANNING, C.EVALUATING),
        (C.SCANNING, C.MONITORING),
        (C.SCANNING, C.IDLE),
        (C.SCANNING, C.CLOSED),
        (C.EVALUATING, C.TRADING),
        (C.EVALUATING, C.MONITORING),
        (C.EVALUATING, C.IDLE),
        (C.EVALUATING, C.CLOSED),  # emergency_stop, the close
        (C.TRADING, C.MONITORING),
        (C.TRADING, C.CLOSED),  # emergency_stop, the close
        (C.MONITORING, C.SCANNING),
        (C.MONITORING, C.IDLE),  # everything was exited, and a person resumed
        (C.MONITORING, C.CLOSED),
        (C.CLOSED, C.COMPLETED),
    }
)


def advance(seen: CycleStatus, then: CycleStatus) -> CycleStatus:
    """Return `then`. Raises IllegalTransition when CYCLE_EDGES has no edge from `seen` to `then`."""
    if (seen, then) not in CYCLE_EDGES:
        raise IllegalTransition(f"a cycle that is {seen} cannot become {then}")
    return then


def cycle_id(created: datetime) -> str:
    """Return the cycle's id: its creation time in New York as `YYYYMMDD-HHMMSS`."""
    return created.astimezone(NEW_YORK).strftime("%Y%m%d-%H%M%S")
