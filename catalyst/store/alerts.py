"""Alert outbox: an alert is written in the transaction of its fact and delivered later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from catalyst.store.pool import Connection, storable_text

DEDUPE_WINDOW: Final = timedelta(minutes=15)
CRITICAL: Final = "CRITICAL"
WARNING: Final = "WARNING"
INFO: Final = "INFO"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `repeats` counts the same alert within its window."""

    alert_id: int
    severity: str
    event: str
    message: str
    facts: dict[str, object]
    dedupe_key: str
    created_at: datetime
    repeats: int
    attempts: int
    next_attempt_at: datetime
    last_error: str | None
    delivered_at: datetime | None


_SELECT: Final = """
    SELECT alert_id, severity, event, message, facts, dedupe_key, created_at, repeats, attempts,
           next_attempt_at, last_error, delivered_at
      FROM alerts
"""
_DUE: Final = _SELECT + " WHERE delivered_at IS NULL AND next_attempt_at <= $1 ORDER BY alert_id LIMIT $2"
_RECENT: Final = _SELECT + " ORDER BY alert_id DESC LIMIT $1"


async def raise_alert(
    conn: Connection,
    event: str,
    message: str,
    *,
    facts: Mapping[str, object],
    at: datetime,
    severity: str = CRITICAL,
    subject: object = "",
    window: timedelta = DEDUPE_WINDOW,
    deliver: bool = True,
) -> bool:
    """Write one alert about `subject`; false when it only counts as a repeat within `window`.

    A repeat has the same event and subject. With `deliver` false it is stored and shown, and not sent. Concurrent
    callers with one event and subject wait for one another.
    """
    dedupe_key = f"{event}:{subject}" if str(subject) else event
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"alert {dedupe_key}")
    repeated = await conn.fetchval(
        """
        UPDATE alerts SET repeats = repeats + 1, repeated_at = $2
         WHERE alert_id = (SELECT alert_id FROM alerts WHERE dedupe_key = $1 AND created_at > $3
                            ORDER BY created_at DESC LIMIT 1)
        RETURNING alert_id
        """,
        dedupe_key,
        at,
        at - window,
    )
    if repeated is not None:
        return False
    await conn.execute(
        """
        INSERT INTO alerts (severity, event, message, facts, dedupe_key, created_at, next_attempt_at, delivered_at)
        VALUES ($1, $2, $3, $4, $5, $6::timestamptz, $6, CASE WHEN $7 THEN NULL ELSE $6 END)
        """,
        severity,
        event,
        storable_text(message, 4000),
        facts,
        dedupe_key,
        at,
        deliver,
    )
    return True


async def raise_for_symbols(
    conn: Connection,
    event: str,
    message: str,
    symbols: Sequence[str],
    *,
    at: datetime,
    severity: str = CRITICAL,
    window: timedelta = DEDUPE_WINDOW,
) -> list[str]:
    """Write one alert about those `symbols` that no alert of the event names within `window`; return them.

    `message` follows their list. An alert that names one of the others counts a repeat; a CRITICAL alert is no repeat
    of a lesser one.
    """
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"alert {event}")
    repeated = await conn.fetch(
        """
        UPDATE alerts SET repeats = repeats + 1, repeated_at = $3
         WHERE event = $1 AND created_at > $4 AND facts -> 'symbols' ?| $2::text[] AND severity IN ($5, 'CRITICAL')
        RETURNING facts -> 'symbols' AS symbols
        """,
        event,
        list(symbols),
        at,
        at - window,
        severity,
    )
    known = {symbol for record in repeated for symbol in record["symbols"]}
    new = [symbol for symbol in symbols if symbol not in known]
    if new:
        names = ", ".join(new)
        await raise_alert(
            conn,
            event,
            f"{names}: {message}",
            facts={"symbols": new},
            at=at,
            severity=severity,
            subject=f"{severity} {names}",
            window=timedelta(0),
        )
    return new


async def due(conn: Connection, *, at: datetime, limit: int = 20) -> list[Alert]:
    """Return alerts that wait for delivery, oldest first."""
    return [Alert(**record) for record in await conn.fetch(_DUE, at, limit)]


async def recent(conn: Connection, limit: int = 20) -> list[Alert]:
    """Return the latest alerts, newest first."""
    return [Alert(**record) for record in await conn.fetch(_RECENT, limit)]


async def mark_delivered(conn: Connection, alert_id: int, *, at: datetime) -> None:
    """Mark an alert as delivered; it is not sent again."""
    await conn.execute(
        "UPDATE alerts SET delivered_at = $2, attempts = attempts + 1, last_error = NULL WHERE alert_id = $1",
        alert_id,
        at,
    )


async def mark_failed(conn: Connection, alert_id: int, *, error: str, next_attempt_at: datetime) -> None:
    """Schedule another attempt at `next_attempt_at`."""
    await conn.execute(
        """
        UPDATE alerts SET attempts = attempts + 1, last_error = $2, next_attempt_at = $3
         WHERE alert_id = $1 AND delivered_at IS NULL
        """,
        alert_id,
        storable_text(error, 1000),
        next_attempt_at,
    )
