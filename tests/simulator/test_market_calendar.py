"""The trading calendar."""

import csv
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from catalyst.clock import NEW_YORK
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


# Facts of the New York Stock Exchange: sessions of each year from 2007, and days that end at 13:00.
SESSIONS_OF_YEARS = (
    251,
    253,
    252,
    252,
    252,
    250,
    252,
    252,
    252,
    252,
    251,
    251,
    252,
    253,
    252,
    251,
    250,
    252,
    250,
    251,
)
HALF_DAYS = """
    2007-07-03 2007-11-23 2007-12-24 2008-07-03 2008-11-28 2008-12-24 2009-11-27 2009-12-24 2010-11-26 2011-11-25
    2012-07-03 2012-11-23 2012-12-24 2013-07-03 2013-11-29 2013-12-24 2014-07-03 2014-11-28 2014-12-24 2015-11-27
    2015-12-24 2016-11-25 2017-07-03 2017-11-24 2018-07-03 2018-11-23 2018-12-24 2019-07-03 2019-11-29 2019-12-24
    2020-11-27 2020-12-24 2021-11-26 2022-11-25 2023-07-03 2023-11-24 2024-07-03 2024-11-29 2024-12-24 2025-07-03
    2025-11-28 2025-12-24 2026-11-27 2026-12-24
""".split()  # noqa: SIM905 - words in a row


def test_calendar_has_the_sessions_and_half_days_of_twenty_years() -> None:
    """From 2007 to 2026 each year has its number of sessions, and exactly the half days end at 13:00."""
    sessions = calendar.sessions(date(2007, 1, 1), date(2026, 12, 31))
    counts = Counter(session.day.year for session in sessions)
    assert [counts[year] for year in range(2007, 2027)] == list(SESSIONS_OF_YEARS)
    closes = {str(session.day): session.close.astimezone(NEW_YORK).hour for session in sessions}
    assert [day for day, hour in closes.items() if hour == 13] == HALF_DAYS
    assert set(closes.values()) == {13, 16}


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
