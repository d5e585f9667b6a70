"""Pipeline views: the pipeline at a glance, every entry attempt, and the open risk."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from catalyst.store.pool import Connection


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """One cycle at a glance. Dollars; times UTC."""

    cycle_id: str
    cycle_date: date
    cycle_status: str
    cycle_start: datetime
    cycle_end: datetime | None
    cycle_updated: datetime
    orders_total: int
    orders_pending: int
    orders_filled: int
    orders_cancelled: int
    positions_total: int
    positions_open: int
    daily_pnl: Decimal
    last_order_at: datetime | None


@dataclass(frozen=True, slots=True)
class EntryAttempt:
    """One attempted entry; `attempt_status` is pending, failed, cancelled, open or closed."""

    order_id: int
    cycle_id: str | None
    symbol: str
    position_side: str
    quantity: Decimal
    filled_qty: Decimal
    order_status: str
    attempt_status: str
    position_id: int | None
    signal_id: str | None
    reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OpenRisk:
    """One open position and the levels between it and its worst case, dollars; None where there is none."""

    position_id: int
    cycle_id: str | None
    symbol: str
    side: str
    quantity: Decimal
    entry_price: Decimal
    last_price: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    protected_qty: Decimal
    unprotected_qty: Decimal
    broker_stop_price: Decimal | None
    exiting_qty: Decimal
    worst_case: Decimal | None
    protected_at: datetime | None
    unprotected_seconds: Decimal
    carried: bool


async def pipeline_status(conn: Connection, cycle_id: str) -> PipelineStatus | None:
    """Return one cycle at a glance."""
    record = await conn.fetchrow("SELECT * FROM v_trade_pipeline_status WHERE cycle_id = $1", cycle_id)
    return None if record is None else PipelineStatus(**record)


async def recent_pipeline_statuses(conn: Connection, limit: int = 20) -> list[PipelineStatus]:
    """Return the latest cycles at a glance, newest first."""
    found = await conn.fetch("SELECT * FROM v_trade_pipeline_status LIMIT $1", limit)
    return [PipelineStatus(**record) for record in found]


async def entry_attempts(conn: Connection, cycle_id: str) -> list[EntryAttempt]:
    """Return every entry a cycle attempted, oldest first."""
    found = await conn.fetch("SELECT * FROM v_trade_attempts WHERE cycle_id = $1 ORDER BY order_id", cycle_id)
    return [EntryAttempt(**record) for record in found]


async def open_risk(conn: Connection) -> list[OpenRisk]:
    """Return every open position with its protection, oldest first."""
    found = await conn.fetch("SELECT * FROM v_open_risk ORDER BY position_id")
    return [OpenRisk(**record) for record in found]


async def open_exit_quantity(conn: Connection, position_id: int) -> Decimal:
    """Return the shares that working exits could still take from a position."""
    quantity: Decimal = await conn.fetchval("SELECT open_exit_quantity($1)", position_id)
    return quantity
