"""Trading days: the exchange's calendar as the broker gave it."""

from collections.abc import Sequence
from datetime import date, datetime

from catalyst.domain.session import Session
from catalyst.store.pool import Connection


async def put(conn: Connection, sessions: Sequence[Session]) -> None:
    """Write these days with these hours; correct those that exist."""
    await conn.execute(
        """
        INSERT INTO trading_days (date, open, close, half_day)
        SELECT * FROM unnest($1::date[], $2::timestamptz[], $3::timestamptz[], $4::bool[])
        ON CONFLICT (date) DO UPDATE
           SET open = excluded.open, close = excluded.close, half_day = excluded.half_day
        """,
        [session.day for session in sessions],
        [session.open for session in sessions],
        [session.close for session in sessions],
        [session.half_day for session in sessions],
    )


async def get(conn: Connection, day: date) -> Session | None:
    """Return the session of a New York date; None when it is not in the calendar."""
    record = await conn.fetchrow("SELECT date, open, close FROM trading_days WHERE date = $1", day)
    return None if record is None else Session(*record.values())


async def has_later(conn: Connection, day: date) -> bool:
    """Return true when a later session is known: the daemon stores the one that is open or next, so `day` has none."""
    found: bool = await conn.fetchval("SELECT EXISTS (SELECT 1 FROM trading_days WHERE date > $1)", day)
    return found


async def between(conn: Connection, first: date, last: date) -> list[Session]:
    """Return the sessions from `first` to `last`, both included, oldest first."""
    found = await conn.fetch(
        "SELECT date, open, close FROM trading_days WHERE date BETWEEN $1 AND $2 ORDER BY date", first, last
    )
    return [Session(*record.values()) for record in found]


async def current_or_next(conn: Connection, at: datetime) -> Session | None:
    """Return the session that is open at `at`, or else the first one after it."""
    record = await conn.fetchrow(
        "SELECT date, open, close FROM trading_days WHERE close > $1 ORDER BY date LIMIT 1", at
    )
    return None if record is None else Session(*record.values())
