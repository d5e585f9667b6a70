"""Trading cycles: one row per day, whose status changes along CYCLE_EDGES."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from catalyst.domain import cycle as machine
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import CatalystError
from catalyst.store.pool import Connection

if TYPE_CHECKING:
    from asyncpg import Record


class StaleCycle(CatalystError):
    """Another writer moved the cycle first; read it again and decide again."""


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One row of trading_cycles. Dollars; times UTC; `scan_frequency` in seconds. `start_transfers` are the day's
    transfers, fees, dividends and interest that `start_equity` contains."""

    cycle_id: str
    cycle_date: date
    mode: str
    status: CycleStatus
    halted: bool
    halt_reason: str | None
    halted_until: datetime | None
    max_positions: int
    max_daily_loss: Decimal
    scan_frequency: int
    start_equity: Decimal | None
    start_transfers: Decimal | None
    end_equity: Decimal | None
    realized_pnl: Decimal
    unrealized_pnl: Decimal
    daily_pnl: Decimal
    start_time: datetime
    end_time: datetime | None
    updated_at: datetime
    config_hash: str


_SELECT: Final = """
    SELECT cycle_id, cycle_date, mode, status, halted, halt_reason, halted_until, max_positions, max_daily_loss,
           scan_frequency, start_equity, start_transfers, end_equity, realized_pnl, unrealized_pnl, daily_pnl,
           start_time, end_time, updated_at, config_hash
      FROM trading_cycles
"""
_BY_ID: Final = _SELECT + " WHERE cycle_id = $1"
_BY_DATE: Final = _SELECT + " WHERE cycle_date = $1"
_RECENT: Final = _SELECT + " ORDER BY cycle_date DESC LIMIT $1"
_UNFINISHED: Final = (
    _SELECT + " WHERE status <> 'completed' AND cycle_date < $1 ORDER BY cycle_date DESC LIMIT 10"
)


def _row(record: "Record") -> CycleRow:
    return CycleRow(**{**record, "status": CycleStatus(record["status"])})


async def open_day(
    conn: Connection,
    *,
    cycle_id: str,
    day: date,
    mode: str,
    max_positions: int,
    max_daily_loss: Decimal,
    scan_frequency: int,
    start_equity: Decimal | None,
    config_hash: str,
    at: datetime,
    start_transfers: Decimal | None = None,
) -> tuple[CycleRow, bool]:
    """Open the cycle of `day`; return it and whether it is new.

    A second start on the same day resumes the first one's cycle; its equity stays as it was at the start of the day,
    `put_settings` stores the settings of the second start.
    """
    new_id = await conn.fetchval(
        """
        INSERT INTO trading_cycles (cycle_id, cycle_date, mode, max_positions, max_daily_loss, scan_frequency,
                                    start_equity, start_transfers, start_time, updated_at, config_hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $10, $8, $8, $9)
        ON CONFLICT (cycle_date) DO NOTHING
        RETURNING cycle_id
        """,
        cycle_id,
        day,
        mode,
        max_positions,
        max_daily_loss,
        scan_frequency,
        start_equity,
        at,
        config_hash,
        start_transfers,
    )
    row = await of_day(conn, day)
    assert row is not None  # inserted now, or before
    return row, new_id is not None


async def set_start_transfers(conn: Connection, cycle_id: str, dollars: Decimal) -> None:
    """Store the transfers that the start equity of a cycle contains, when its start could not read them."""
    await conn.execute(
        "UPDATE trading_cycles SET start_transfers = $2 WHERE cycle_id = $1 AND start_transfers IS NULL",
        cycle_id,
        dollars,
    )


async def get(conn: Connection, cycle_id: str) -> CycleRow | None:
    """Return the cycle with that id."""
    record = await conn.fetchrow(_BY_ID, cycle_id)
    return None if record is None else _row(record)


async def of_day(conn: Connection, day: date) -> CycleRow | None:
    """Return the cycle of a New York date."""
    record = await conn.fetchrow(_BY_DATE, day)
    return None if record is None else _row(record)


async def recent(conn: Connection, limit: int = 20) -> list[CycleRow]:
    """Return the latest cycles, newest first."""
    return [_row(record) for record in await conn.fetch(_RECENT, limit)]


async def days_between(conn: Connection, since: date, until: date) -> list[date]:
    """Return the dates with a cycle from `since` to `until`, oldest first."""
    found = await conn.fetch(
        "SELECT cycle_date FROM trading_cycles WHERE cycle_date BETWEEN $1 AND $2 ORDER BY cycle_date",
        since,
        until,
    )
    return [record["cycle_date"] for record in found]


async def count_completed(conn: Connection, before: date) -> int:
    """Return how many days before `before` were completed."""
    count: int = await conn.fetchval(
        "SELECT count(*) FROM trading_cycles WHERE status = 'completed' AND cycle_date < $1", before
    )
    return count


async def unfinished_before(conn: Connection, day: date) -> list[CycleRow]:
    """Return the latest cycles before `day` that are not completed, oldest first."""
    return [_row(record) for record in reversed(await conn.fetch(_UNFINISHED, day))]


async def advance(
    conn: Connection, cycle_id: str, *, from_status: CycleStatus, to_status: CycleStatus, at: datetime
) -> None:
    """Move the cycle from the state the caller read. `finish` alone sets `completed`.

    Raises IllegalTransition when CYCLE_EDGES has no such edge, StaleCycle when the row is no longer in `from_status`.
    """
    machine.advance(from_status, to_status)
    if to_status is CycleStatus.COMPLETED:
        raise CatalystError("a cycle is completed by finish(), with its final figures")
    updated_id = await conn.fetchval(
        """
        UPDATE trading_cycles SET status = $3, updated_at = $4 WHERE cycle_id = $1 AND status = $2
        RETURNING cycle_id
        """,
        cycle_id,
        from_status,
        to_status,
        at,
    )
    if updated_id is None:
        raise StaleCycle(f"cycle {cycle_id} is no longer {from_status}")


async def finish(
    conn: Connection,
    cycle_id: str,
    *,
    end_equity: Decimal | None,
    realized: Decimal,
    unrealized: Decimal,
    at: datetime,
) -> None:
    """Complete the cycle with its final figures. Raises StaleCycle unless it was closed."""
    updated_id = await conn.fetchval(
        """
        UPDATE trading_cycles
           SET status = 'completed', end_equity = $2, realized_pnl = $3, unrealized_pnl = $4,
               daily_pnl = $3::numeric + $4::numeric, end_time = $5, updated_at = $5
         WHERE cycle_id = $1 AND status = 'closed'
        RETURNING cycle_id
        """,
        cycle_id,
        end_equity,
        realized,
        unrealized,
        at,
    )
    if updated_id is None:
        raise StaleCycle(f"cycle {cycle_id} is not closed")


async def halt(
    conn: Connection, cycle_id: str, *, reason: str, at: datetime, until: datetime | None = None
) -> None:
    """Forbid entries until `resume`. The first reason stays; the later end applies."""
    await conn.execute(
        """
        UPDATE trading_cycles
           SET halted = true, updated_at = $3,
               halt_reason = CASE WHEN halted THEN halt_reason ELSE $2 END,
               halted_until = CASE WHEN halted THEN greatest(halted_until, $4) ELSE $4 END
         WHERE cycle_id = $1 AND status <> 'completed'
        """,
        cycle_id,
        reason,
        at,
        until,
    )


async def resume(conn: Connection, cycle_id: str, *, at: datetime) -> None:
    """Clear the halt. The caller decides whether that is allowed."""
    await conn.execute(
        """
        UPDATE trading_cycles SET halted = false, halt_reason = NULL, halted_until = NULL, updated_at = $2
         WHERE cycle_id = $1 AND status <> 'completed'
        """,
        cycle_id,
        at,
    )


async def put_settings(
    conn: Connection,
    cycle_id: str,
    *,
    mode: str,
    max_positions: int,
    max_daily_loss: Decimal,
    scan_frequency: int,
    at: datetime,
) -> CycleRow:
    """Store the settings of a start that resumes the day; a completed day keeps its own. Return the row."""
    await conn.execute(
        """
        UPDATE trading_cycles
           SET mode = $2, max_positions = $3, max_daily_loss = $4, scan_frequency = $5, updated_at = $6
         WHERE cycle_id = $1 AND status <> 'completed'
        """,
        cycle_id,
        mode,
        max_positions,
        max_daily_loss,
        scan_frequency,
        at,
    )
    row = await get(conn, cycle_id)
    assert row is not None  # the caller has read it in this transaction
    return row


async def mark(
    conn: Connection,
    cycle_id: str,
    *,
    realized: Decimal,
    unrealized: Decimal,
    at: datetime,
    max_positions: int | None = None,
    max_daily_loss: Decimal | None = None,
) -> None:
    """Write the day's figures so far, dollars, and the limits by which they were judged; None leaves a limit."""
    await conn.execute(
        """
        UPDATE trading_cycles
           SET realized_pnl = $2, unrealized_pnl = $3, daily_pnl = $2::numeric + $3::numeric, updated_at = $4,
               max_positions = coalesce($5, max_positions), max_daily_loss = coalesce($6, max_daily_loss)
         WHERE cycle_id = $1 AND status <> 'completed'
        """,
        cycle_id,
        realized,
        unrealized,
        at,
        max_positions,
        max_daily_loss,
    )
