"""Market session of a trading day, from the exchange's calendar, never from UTC hours."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from catalyst.domain.errors import CatalystError

NEW_YORK: Final = ZoneInfo("America/New_York")
REGULAR_OPEN: Final = time(9, 30)
REGULAR_CLOSE: Final = time(16, 0)
SATURDAY: Final = 5


class Phase(StrEnum):
    BEFORE = "before"
    OPEN = "open"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day: its New York date, and its open and close as UTC instants."""

    day: date
    open: datetime
    close: datetime

    def __post_init__(self) -> None:
        if not self.open < self.close:
            raise CatalystError(f"the session of {self.day} closes before it opens")

    @property
    def half_day(self) -> bool:
        return self.close.astimezone(NEW_YORK).time() < REGULAR_CLOSE

    def phase(self, at: datetime) -> Phase:
        if at < self.open:
            return Phase.BEFORE
        return Phase.OPEN if at < self.close else Phase.AFTER

    def flatten_at(self, minutes_before_close: int) -> datetime:
        """Return the time at which the day's exits begin: `minutes_before_close` before the actual close."""
        return self.close - timedelta(minutes=minutes_before_close)


def session_of(day: date, opens: time, closes: time) -> Session:
    """Build a session from a calendar row whose times are New York wall-clock times without a zone."""
    return Session(day, *(datetime.combine(day, at, NEW_YORK).astimezone(UTC) for at in (opens, closes)))


def regular_session(day: date) -> Session | None:
    """Return the session of a weekday by the regular hours, for when no calendar can be read; None at a weekend."""
    return session_of(day, REGULAR_OPEN, REGULAR_CLOSE) if day.weekday() < SATURDAY else None


def start_of_day(day: date) -> datetime:
    """Return the first instant of a New York date."""
    return datetime.combine(day, time(), NEW_YORK).astimezone(UTC)


def trading_date(at: datetime) -> date:
    """Return the New York date of an instant."""
    return at.astimezone(NEW_YORK).date()
