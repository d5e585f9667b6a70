"""New York Stock Exchange calendar: regular sessions with holidays, half days and daylight saving time."""

import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.market.interface import MarketSession

FIRST_DAY: Final = date(1995, 1, 2)
LAST_DAY: Final = date(2035, 12, 31)
EXTENDED_OPEN: Final = time(4, 0)
EXTENDED_CLOSE: Final = time(20, 0)


def session(day: date) -> MarketSession | None:
    """Return the regular session of `day`; None when the exchange is closed."""
    found = sessions(day, day)
    return found[0] if found else None


def sessions(start: date, end: date) -> Sequence[MarketSession]:
    """Return the regular sessions of [start, end], in order; none before 1995 or after 2035."""
    days, opens, closes = _nyse_sessions()
    rows = range(bisect_left(days, start), bisect_right(days, end))
    return [
        MarketSession(days[i], datetime.fromtimestamp(opens[i], UTC), datetime.fromtimestamp(closes[i], UTC))
        for i in rows
    ]


def session_of(day: date) -> MarketSession:
    """Return the regular session of `day`.

    Raises ValueError, with the next session's day, when the exchange is closed.
    """
    regular_session = session(day)
    if regular_session is None:
        following = sessions(day, day + timedelta(days=14))
        advice = (
            f"the next day with a session is {following[0].day}"
            if following
            else f"choose a day from {FIRST_DAY} to {LAST_DAY}"
        )
        raise ValueError(f"{day} has no session of the New York Stock Exchange; {advice}")
    return regular_session


def sessions_before(day: date, count: int) -> Sequence[MarketSession]:
    """Return the last `count` sessions before `day`, in order."""
    return sessions(day - timedelta(days=count * 2 + 10), day - timedelta(days=1))[-count:]


def midnight(day: date) -> datetime:
    """Return the instant at which `day` begins in New York; daily bars carry this time."""
    return datetime.combine(day, time(), NEW_YORK)


def trading_day(at: datetime) -> date:
    """Return the New York date of an instant."""
    return at.astimezone(NEW_YORK).date()


@lru_cache(maxsize=1)
def _nyse_sessions() -> tuple[list[date], list[int], list[int]]:
    """Return the days, opens and closes (epoch seconds) of all sessions.

    The bounds are fixed, because the package's default bounds follow the wall clock.
    """
    import exchange_calendars

    with warnings.catch_warnings():
        # exchange_calendars 4.13 reads Series.values; pandas 3.1 warns that it changes in version 4
        warnings.simplefilter("ignore", DeprecationWarning)
        calendar = exchange_calendars.get_calendar(
            "XNYS", start=FIRST_DAY.isoformat(), end=LAST_DAY.isoformat()
        )
    days = [stamp.date() for stamp in calendar.sessions]
    return days, (calendar.opens_nanos // 10**9).tolist(), (calendar.closes_nanos // 10**9).tolist()
