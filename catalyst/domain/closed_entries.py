"""Closed entries: which reasons belong to the plan of a day, which a person gave, and which need attention.

The daemon's entry gate is the only source of reasons. Screens and the doctor classify them here and nowhere else.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

CYCLE_CLOSED: Final = "cycle_closed"
DAY_ENDING: Final = "day_ending"
STOPPING: Final = "stopping"  # a stop is requested, until the process ends
SILENT_AFTER: Final = timedelta(
    seconds=60
)  # without a write of the daemon, nothing about it is known any more
PLANNED: Final = frozenset({CYCLE_CLOSED, DAY_ENDING, STOPPING})  # on an ordinary day
BY_SIGNAL: Final = "signal"  # who set the latch of a process that was told to stop


class Cause(StrEnum):
    """Why a reason exists: the day's plan, a person, or something that needs attention."""

    PLAN = "plan"
    PERSON = "person"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class ClosedReason:
    """One reason why entries are closed, since when, and the daemon's text."""

    name: str
    text: str
    since: datetime
    cause: Cause


def cause_of(name: str, set_by: str | None, *, names: Iterable[str], market_open: bool) -> Cause:
    """Return the cause of the reason `name`, one of the `names` in force.

    `set_by` set its latch; None without a latch. A cycle that is closed while the market is open and the day is not
    ending takes no entries although the plan allows them.
    """
    if name in ("halt", "flatten") and set_by not in (None, BY_SIGNAL):
        return Cause.PERSON
    if name in (DAY_ENDING, STOPPING) or (
        name == CYCLE_CLOSED and (not market_open or DAY_ENDING in set(names))
    ):
        return Cause.PLAN
    return Cause.FAULT
