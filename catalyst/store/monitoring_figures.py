"""Figures of the database for the monitoring: the day's result, working orders, the alert outbox."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from catalyst.store import positions
from catalyst.store.pool import Connection

ALERT_LOOKBACK: Final = timedelta(hours=24)  # older alerts are not sent any more
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class StoredFigures:
    """Figures of the database at one instant. Dollars."""

    at: datetime
    day_result: Decimal | None  # of our positions, as the daily loss limit counts it; None: no day has begun
    realized_pnl: Decimal  # of the cycle
    unrealized_pnl: Decimal
    open_positions: int
    working_orders: int
    alerts_waiting: Mapping[str, int]  # by severity; those that a channel still has to send
    oldest_waiting_at: datetime | None
    critical_unacknowledged: int
    quarantined: int  # reports that nobody has checked


async def read_figures(
    conn: Connection, cycle_id: str | None, *, severities: Sequence[str], at: datetime
) -> StoredFigures:
    """Read the figures. `severities`: those that some channel sends; other alerts wait for nothing."""
    realized, unrealized = (ZERO, ZERO) if cycle_id is None else await positions.day_pnl(conn, cycle_id)
    record = await conn.fetchrow(
        """
        WITH waiting AS (
            SELECT severity, created_at FROM alerts
             WHERE delivered_at IS NULL AND created_at > $1 AND severity = ANY($2)
        )
        SELECT (SELECT count(*) FROM positions WHERE status = 'open') AS open_positions,
               (SELECT count(*) FROM orders WHERE status IN ('created', 'submitted', 'accepted', 'partial_fill'))
                   AS working_orders,
               (SELECT coalesce(jsonb_object_agg(severity, number), '{}')
                  FROM (SELECT severity, count(*) AS number FROM waiting GROUP BY severity) AS counted) AS waiting,
               (SELECT min(created_at) FROM waiting) AS oldest_waiting_at,
               (SELECT count(*) FROM alerts WHERE severity = 'CRITICAL' AND acknowledged_at IS NULL
                                              AND created_at > $1) AS critical_unacknowledged,
               (SELECT count(*) FROM quarantine WHERE resolved_at IS NULL) AS quarantined
        """,
        at - ALERT_LOOKBACK,
        list(severities),
    )
    assert record is not None  # a SELECT without FROM returns one row
    return StoredFigures(
        at=at,
        day_result=None if cycle_id is None else await positions.day_result(conn, cycle_id),
        realized_pnl=realized,
        unrealized_pnl=unrealized,
        open_positions=record["open_positions"],
        working_orders=record["working_orders"],
        alerts_waiting=record["waiting"],
        oldest_waiting_at=record["oldest_waiting_at"],
        critical_unacknowledged=record["critical_unacknowledged"],
        quarantined=record["quarantined"],
    )
