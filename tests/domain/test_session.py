"""Sessions: New York wall-clock times as instants, on half days and across both DST changes."""

from datetime import UTC, date, datetime, time, timedelta

import pytest

from catalyst.domain.errors import CatalystError
from catalyst.domain.session import Phase, Session, session_of, trading_date

OPENS, CLOSES, EARLY = time(9, 30), time(16, 0), time(13, 0)

DAYS = [
    # day, close, open and close in UTC hours: DST changes on 8 March and 1 November 2026
    (date(2026, 1, 5), CLOSES, "14:30", "21:00", False),
    (date(2026, 3, 6), CLOSES, "14:30", "21:00", False),
    (date(2026, 3, 9), CLOSES, "13:30", "20:00", False),
    (date(2026, 7, 6), CLOSES, "13:30", "20:00", False),
    (date(2026, 10, 30), CLOSES, "13:30", "20:00", False),
    (date(2026, 11, 2), CLOSES, "14:30", "21:00", False),
    (date(2026, 11, 27), EARLY, "14:30", "18:00", True),
    (date(2026, 12, 24), EARLY, "14:30", "18:00", True),
    (date(2025, 7, 3), EARLY, "13:30", "17:00", True),
]


@pytest.mark.parametrize(("day", "closes", "opened", "closed", "half"), DAYS)
def test_session_hours_are_new_york_time(day: date, closes: time, opened: str, closed: str, half: bool):
    """Open and close are the right UTC instants in winter and summer, and a half day is marked as one."""
    session = session_of(day, OPENS, closes)
    assert session.open == datetime.combine(day, time.fromisoformat(opened), UTC)
    assert session.close == datetime.combine(day, time.fromisoformat(closed), UTC)
    assert (session.open.tzinfo, session.close.tzinfo) == (UTC, UTC)
    assert session.half_day is half
    assert session.flatten_at(10) == session.close - timedelta(minutes=10)
    assert trading_date(session.open) == trading_date(session.close) == day


def test_session_phase_changes_exactly_at_open_and_close():
    """The opening instant belongs to the session, the closing instant does not."""
    session = session_of(date(2026, 4, 8), OPENS, CLOSES)
    tick = timedelta(microseconds=1)
    assert session.phase(session.open - tick) is Phase.BEFORE
    assert session.phase(session.open) is Phase.OPEN
    assert session.phase(session.close - tick) is Phase.OPEN
    assert session.phase(session.close) is Phase.AFTER


def test_session_closing_before_open_is_refused():
    """A calendar row that closes before it opens is refused, from any source."""
    at = datetime(2026, 4, 8, 13, 30, tzinfo=UTC)
    for close in (at, at - timedelta(hours=1)):
        with pytest.raises(CatalystError, match="2026-04-08 closes before it opens"):
            Session(date(2026, 4, 8), at, close)


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2026, 4, 9, 3, 59, tzinfo=UTC), date(2026, 4, 8)),
        (datetime(2026, 4, 9, 4, 0, tzinfo=UTC), date(2026, 4, 9)),
        (datetime(2026, 12, 24, 4, 59, tzinfo=UTC), date(2026, 12, 23)),
        (datetime(2026, 12, 24, 5, 0, tzinfo=UTC), date(2026, 12, 24)),
    ],
)
def test_trading_date_changes_at_new_york_midnight(at: datetime, day: date):
    """The date changes at New York midnight, not at midnight UTC; in summer an hour earlier in UTC than in
    winter."""
    assert trading_date(at) == day
