"""The start time of `catalyst sim`: from --start, --day and the time saved in --state."""

import os
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

from catalyst.clock import NEW_YORK, SystemClock
from catalyst.domain.errors import UserError

LAST_PART_OF_DAY: Final = timedelta(minutes=30)
DEFAULT_START: Final = "10:00"  # half an hour after the open: a market order fills at once


@dataclass(frozen=True, slots=True)
class MarketStart:
    """The start time of the market clock: a time of the day that is run, or the wall clock's time (None)."""

    day: date | None
    clock_time: time | None

    def first_instant(self, day: date) -> datetime | None:
        """Return the first instant on that day, in UTC; None for the wall clock's time."""
        if self.clock_time is None:
            return None
        return datetime.combine(day, self.clock_time, NEW_YORK).astimezone(UTC)


def parse_start(text: str | None, day: date | None) -> MarketStart:
    """Combine --start and --day. Raises UserError when they are malformed or contradict each other."""
    if text == "now":
        return MarketStart(day or _next_session_day(SystemClock().now().astimezone(NEW_YORK).date()), None)
    parts = (text or DEFAULT_START).replace("T", " ").split(" ")
    try:
        clock_time = time.fromisoformat(parts[-1])
        start_day = date.fromisoformat(parts[0]) if len(parts) == 2 else None
    except ValueError:
        start_day, clock_time = None, None
    if clock_time is None or clock_time.tzinfo is not None or len(parts) > 2:
        raise UserError(f"--start {text} is not a time: write 09:25, `2026-11-27 12:30` or now")
    if start_day is not None and day is not None and start_day != day:
        raise UserError(f"--start {text} is not on --day {day}: leave one out")
    return MarketStart(start_day or day, clock_time)


def day_with_session(day: date | None) -> date:
    """Return the day, by default today in New York, or the last session before it: a client that asks for dates of
    its own wall clock then sees the market. A day that no calendar has stays as it is."""
    from catalyst.simulator.market.calendar import session, sessions_before

    wanted = day or SystemClock().now().astimezone(NEW_YORK).date()
    if session(wanted) is not None:
        return wanted
    return next((each.day for each in sessions_before(wanted, 1)), wanted)


def _next_session_day(day: date) -> date:
    """Return that day, or the next day on which the market opens."""
    from catalyst.simulator.market.calendar import sessions

    return next((session.day for session in sessions(day, day + timedelta(days=14))), day)


def new_account_id() -> str:
    """Return the id of a new account: an exchange without a kept state has none of the earlier one's shares, so that
    no database may take it for the same account."""
    return str(
        uuid.uuid5(uuid.NAMESPACE_OID, f"catalyst sim {SystemClock().now().isoformat()} {os.getpid()}")
    )


def day_to_continue(state: Path, market: str) -> date | None:
    """Return the day that a generated market kept in `state` plays next: its last one, or the session after it once
    that has come to its last half hour, when a daemon makes no entry any more. None when nothing is kept."""
    from catalyst.simulator.exchange.persistence import last_instant, saved_market
    from catalyst.simulator.market.calendar import session

    try:
        saved, last = saved_market(state), last_instant(state)
    except OSError as error:
        raise UserError(f"--state {state} cannot be used: {error.strerror}") from None
    if saved is None or last is None or saved[0] != market:
        return None
    saved_session = session(saved[1])
    if saved_session is None or last < saved_session.close - LAST_PART_OF_DAY:
        return saved[1]
    return _next_session_day(saved[1] + timedelta(days=1))


def last_saved_instant(state: Path, market: str, day: date) -> datetime | None:
    """Return the last instant of the exchange saved in `state`; None when nothing is saved yet.

    An exchange of an earlier day continues with its positions, cash and GTC orders; its day orders have expired. Raises
    UserError when the folder belongs to another market or a later day, or cannot be used.
    """
    from catalyst.simulator.exchange.persistence import claim_directory, last_instant

    try:
        (owner, saved_day), last_saved = claim_directory(state, market, day), last_instant(state)
    except OSError as error:
        raise UserError(f"--state {state} cannot be used: {error.strerror}") from None
    if owner != market:
        raise UserError(f"--state {state} belongs to the market {owner}, not {market}: choose another folder")
    if saved_day != day:
        raise UserError(
            f"--state {state} has reached {saved_day}, which is after {day}: choose {saved_day} or a later day "
            "with --day, or choose another folder"
        )
    return last_saved
