"""Risk events: what the limits did, for the operator and the daily report."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from catalyst.store.pool import Connection, storable_text


@dataclass(frozen=True, slots=True)
class RiskEvent:
    """One event; `severity` is INFO, WARNING or CRITICAL."""

    risk_event_id: int
    cycle_id: str | None
    event_type: str
    severity: str
    message: str
    facts: dict[str, object]
    occurred_at: datetime
    issue_key: str | None = None  # names an issue of the doctor, which lasts until it ends


async def put(
    conn: Connection,
    *,
    event_type: str,
    severity: str,
    message: str,
    facts: Mapping[str, object],
    at: datetime,
    cycle_id: str | None = None,
    issue_key: str | None = None,
) -> int:
    """Write an event; return its id. With `issue_key` it is an issue of the doctor, which lasts until it ends."""
    risk_event_id: int = await conn.fetchval(
        """
        INSERT INTO risk_events (cycle_id, event_type, severity, message, facts, occurred_at, issue_key)
        VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING risk_event_id
        """,
        cycle_id,
        event_type,
        severity,
        storable_text(message, 4000),
        facts,
        at,
        issue_key,
    )
    return risk_event_id


async def recent(conn: Connection, *, limit: int = 20, severity: str | None = None) -> list[RiskEvent]:
    """Return the latest events, newest first, of one severity when given."""
    found = await conn.fetch(
        """
        SELECT risk_event_id, cycle_id, event_type, severity, message, facts, occurred_at
          FROM risk_events WHERE $2::text IS NULL OR severity = $2 ORDER BY risk_event_id DESC LIMIT $1
        """,
        limit,
        severity,
    )
    return [RiskEvent(**record) for record in found]


async def last_of(conn: Connection, *event_types: str) -> RiskEvent | None:
    """Return the newest event of any of these types."""
    record = await conn.fetchrow(
        """
        SELECT risk_event_id, cycle_id, event_type, severity, message, facts, occurred_at
          FROM risk_events WHERE event_type = ANY($1::text[]) ORDER BY risk_event_id DESC LIMIT 1
        """,
        list(event_types),
    )
    return None if record is None else RiskEvent(**record)


async def of_cycle(conn: Connection, cycle_id: str, event_type: str) -> list[RiskEvent]:
    """Return a cycle's events of one type, oldest first."""
    found = await conn.fetch(
        """
        SELECT risk_event_id, cycle_id, event_type, severity, message, facts, occurred_at
          FROM risk_events WHERE cycle_id = $1 AND event_type = $2 ORDER BY risk_event_id
        """,
        cycle_id,
        event_type,
    )
    return [RiskEvent(**record) for record in found]


async def between(conn: Connection, start: datetime, end: datetime) -> list[RiskEvent]:
    """Return the events with `start` <= time < `end`, oldest first."""
    found = await conn.fetch(
        """
        SELECT risk_event_id, cycle_id, event_type, severity, message, facts, occurred_at
          FROM risk_events WHERE occurred_at >= $1 AND occurred_at < $2 ORDER BY risk_event_id
        """,
        start,
        end,
    )
    return [RiskEvent(**record) for record in found]


async def open_issues(conn: Connection) -> list[RiskEvent]:
    """Return the issues of the doctor that last, oldest first."""
    found = await conn.fetch(
        """
        SELECT risk_event_id, cycle_id, event_type, severity, message, facts, occurred_at, issue_key
          FROM risk_events WHERE issue_key IS NOT NULL AND ended_at IS NULL ORDER BY risk_event_id
        """
    )
    return [RiskEvent(**record) for record in found]


async def end_issues(conn: Connection, keys: Collection[str], *, at: datetime) -> None:
    """End the issues of these keys."""
    await conn.execute(
        "UPDATE risk_events SET ended_at = $2 WHERE issue_key = ANY($1) AND ended_at IS NULL", list(keys), at
    )
