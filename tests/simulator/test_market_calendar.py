"""The trading calendar."""

import csv
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from catalyst.simulator.market import calendar

RECORDED_CALENDAR = Path(__file__).parents[3] / "shared" / "data" / "calendar_xnys_2007_2026.csv"


def test_calendar_sessions_follow_holidays_and_clock_changes() -> None:
    """A closed day has no session, a half day ends at 13:00, and the open moves with daylight saving."""
    assert calendar.session(date(2026, 11, 26)) is None
    half = calendar.session(date(2026, 11, 27))
    assert half is not None
    assert half.close == datetime(2026, 11, 27, 18, 0, tzinfo=UTC)
    opens = [session.open.hour for session in calendar.sessions(date(2026, 3, 6), date(2026, 3, 9))]
    assert opens == [14, 13]
    assert calendar.midnight(date(2026, 3, 9)).astimezone(UTC).hour == 4
    assert calendar.trading_day(datetime(2026, 3, 10, 2, 0, tzinfo=UTC)) == date(2026, 3, 9)


def test_sessions_before_returns_the_last_sessions() -> None:
    """Counting back skips weekends and holidays and excludes the day itself."""
    days = [session.day for session in calendar.sessions_before(date(2026, 11, 30), 3)]
    assert days == [date(2026, 11, 24), date(2026, 11, 25), date(2026, 11, 27)]
    assert len(calendar.sessions_before(date(2026, 11, 30), 250)) == 250


@pytest.mark.skipif(not RECORDED_CALENDAR.is_file(), reason="the recorded calendar is not here")
def test_calendar_matches_twenty_recorded_years() -> None:
    """The sessions, with open and close, equal those of the recorded calendar."""
    with RECORDED_CALENDAR.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    recorded = [(row["session"], row["open_utc"], row["close_utc"]) for row in rows]
    first, last = (date.fromisoformat(rows[n]["session"]) for n in (0, -1))
    computed = [
        (str(s.day), f"{s.open:%Y-%m-%dT%H:%M:%SZ}", f"{s.close:%Y-%m-%dT%H:%M:%SZ}")
        for s in calendar.sessions(first - timedelta(days=1), last)
    ]
    assert [row for row in computed if row[0] >= rows[0]["session"]] == recorded
