"""When the exchange of `catalyst sim` begins, or goes on."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

from catalyst.clock import NEW_YORK, SystemClock
from catalyst.domain.errors import UserError

DEFAULT_START: Final = "10:00"  # half an hour after the bell: an order is filled at once


@dataclass(frozen=True, slots=True)
class MarketStart:
    """When the market's clock starts: the wall clock's present, or a time of the day that is played."""

    day: date | None
    clock_time: time | None

    def first_instant(self, day: date) -> datetime | None:
        """That instant of the market's day; None for the present."""
        if self.clock_time is None:
            return None
        return datetime.combine(day, self.clock_time, NEW_YORK).astimezone(UTC)


def parse_start(text: str | None, day: date | None) -> MarketStart:
    """What --start and --day say together. Raises UserError."""
    if text == "now":
        return MarketStart(day or _next_session_day(SystemClock().now().astimezone(NEW_YORK).date()), None)
    words = (text or DEFAULT_START).replace("T", " ").split(" ")
    try:
        clock_time = time.fromisoformat(words[-1])
        own = date.fromisoformat(words[0]) if len(words) == 2 else None
    except ValueError:
        own, clock_time = None, None
    if clock_time is None or clock_time.tzinfo is not None or len(words) > 2:
        raise UserError(f"--start {text} is no time: write 09:25, `2026-11-27 12:30`, or now")
    if own is not None and day is not None and own != day:
        raise UserError(f"--start {text} is not on --day {day}: leave one out")
    return MarketStart(own or day, clock_time)


def _next_session_day(day: date) -> date:
    """That day, or the next on which the market opens."""
    from catalyst.simulator.market.calendar import sessions

    return next((session.day for session in sessions(day, day + timedelta(days=14))), day)


def last_saved_instant(state: Path, market: str, day: date) -> datetime | None:
    """The last instant of the exchange that is kept there; None when it has not begun.

    An exchange of an earlier day goes on: positions, cash and what is good till cancelled come along, day orders have
    expired. Raises UserError when it belongs to another market or a later day, or when nothing can be kept there.
    """
    from catalyst.simulator.exchange.persistence import claim_directory, last_instant

    try:
        (owner, there), last = claim_directory(state, market, day), last_instant(state)
    except OSError as error:
        raise UserError(f"--state {state} cannot be used: {error.strerror}") from None
    if owner != market:
        raise UserError(
            f"--state {state} belongs to the market {owner}, not {market}: choose another directory"
        )
    if there != day:
        raise UserError(
            f"--state {state} has come to {there} already, {day} is over for it: play {there} or a later day "
            "with --day, or choose another directory"
        )
    return last
