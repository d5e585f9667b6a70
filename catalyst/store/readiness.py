"""Readiness: what the rows show about the practice of this installation, and what persons have attested."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from catalyst.store import risk_events
from catalyst.store.pool import Connection

ATTESTED: Final = "READINESS_ATTESTED"


@dataclass(frozen=True, slots=True)
class Record:
    """Counts of what was done. `crashes`: ended runs without an end reason since the given time."""

    completed_sessions: int
    supervised_sessions: int
    scans_by_hand: int
    test_orders: int
    stops_exercised: int
    crashes: int
    alert_delivered: bool


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a person says about an item."""

    by: str
    at: datetime
    note: str


async def read_record(conn: Connection, *, since: datetime) -> Record:
    """Return the counts; crashes are those of runs that began after `since`. The run of now has not ended."""
    record = await conn.fetchrow(
        """
        SELECT (SELECT count(*) FROM trading_cycles WHERE status = 'completed') AS completed_sessions,
               (SELECT count(*) FROM trading_cycles WHERE status = 'completed' AND mode = 'supervised')
                   AS supervised_sessions,
               (SELECT count(*) FROM commands WHERE kind = 'scan' AND ok) AS scans_by_hand,
               (SELECT count(*) FROM commands WHERE kind = 'test_order' AND ok AND (result ->> 'cancelled')::boolean)
                   AS test_orders,
               (SELECT count(*) FROM commands WHERE kind = 'flatten' AND ok)
                   + (SELECT count(*) FROM risk_events WHERE event_type = 'EMERGENCY_STOP') AS stops_exercised,
               (SELECT count(*) FROM daemon_runs
                 WHERE started_at >= $1 AND ended_at IS NULL AND epoch < (SELECT epoch FROM daemon)) AS crashes,
               EXISTS (SELECT 1 FROM alert_channels WHERE last_delivered_at IS NOT NULL) AS alert_delivered
        """,
        since,
    )
    assert record is not None  # a row of scalars
    return Record(**record)


async def attest(conn: Connection, item: str, *, by: str, note: str, at: datetime) -> None:
    """Store what a person says about an item; the latest statement holds."""
    await risk_events.put(
        conn,
        event_type=ATTESTED,
        severity="INFO",
        message=f"{by} attests {item}" + (f": {note}" if note else ""),
        facts={"item": item, "by": by, "note": note},
        at=at,
    )


async def attestations(conn: Connection) -> dict[str, Attestation]:
    """Return the latest attestation of each item, by its name."""
    found = await conn.fetch(
        "SELECT facts, occurred_at FROM risk_events WHERE event_type = $1 ORDER BY risk_event_id", ATTESTED
    )
    return {
        str(record["facts"]["item"]): Attestation(
            str(record["facts"]["by"]), record["occurred_at"], str(record["facts"]["note"])
        )
        for record in found
    }
