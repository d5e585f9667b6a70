"""Recognition of a database of the earlier Catalyst (v6), in each state that its own scripts can leave."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from catalyst.domain.errors import UserError
from catalyst.domain.session import trading_date
from catalyst.store.pool import Connection

OLD_SCHEMA: Final = "legacy"  # the old tables stay here, unchanged, until the upgrade is finalized
OLD_TABLES: Final = (
    "sectors", "securities", "time_dimension", "trading_cycles", "positions", "orders", "scan_results",
    "news_sentiment", "pattern_analysis", "technical_indicators", "risk_events",
)  # fmt: skip
OLD_VIEWS: Final = ("v_trade_pipeline_status",)
OLD_FUNCTIONS: Final = ("get_or_create_security", "get_or_create_time")
OLD_COLUMNS: Final = ("alpaca_order_id", "alpaca_status")

_NEEDED_TABLES: Final = ("securities", "trading_cycles")
_NUMBERED: Final = {"positions": "position_id", "orders": "order_id", "securities": "security_id"}
_INTEGERS: Final = ("smallint", "integer", "bigint")
_FINISHED: Final = ("completed", "failed", "closed", "cancelled", "canceled", "stopped")
_RECENT: Final = timedelta(minutes=30)

Columns = Mapping[str, Mapping[str, str]]


class LegacyState(StrEnum):
    """How far the earlier system's own scripts had come."""

    ORDERS_IN_POSITIONS = "v6: orders are columns of positions"
    ORDERS_INCOMPLETE = "phase 1, unfinished: the orders table lacks orders of positions"
    ORDERS_WITHOUT_PURPOSE = "phase 1: an orders table without order_purpose"
    PURPOSE_INCOMPLETE = "phase 2, unfinished: some orders have no order_purpose"
    OLD_COLUMNS_LEFT = "phase 2, unfinished: positions still has alpaca_* columns"
    ORDERS_SEPARATED = "phase 2: orders and positions are separate"


@dataclass(frozen=True, slots=True)
class LegacyDatabase:
    """A database of the earlier Catalyst: its state, and the type of each column of its tables."""

    state: LegacyState
    columns: Columns

    def has(self, table: str, column: str) -> bool:
        return column in self.columns.get(table, {})


async def recognise(conn: Connection) -> LegacyDatabase | None:
    """Return the database of the earlier Catalyst; None for an empty database or one of this release.

    Raises UserError when it resembles one and cannot be upgraded.
    """
    columns = await read_columns(conn, "public")
    positions = columns.get("positions")
    if positions is None or "entered_qty" in positions:
        return None
    missing = [table for table in _NEEDED_TABLES if table not in columns]
    if missing:
        raise UserError(
            f"the table positions is the earlier Catalyst's, but {', '.join(missing)} is missing: restore its backup"
        )
    if "orders" not in columns and "alpaca_order_id" not in positions:
        raise UserError(
            "the table positions is the earlier Catalyst's, but its orders are nowhere: no table orders, no column "
            "positions.alpaca_order_id; restore its backup"
        )
    for table, column in _NUMBERED.items():
        found = columns.get(table, {}).get(column, "missing")
        if table in columns and found not in _INTEGERS:
            raise UserError(f"{table}.{column} is {found}: only a database with integer ids can be upgraded")
    return LegacyDatabase(await _state(conn, columns), columns)


async def _state(conn: Connection, columns: Columns) -> LegacyState:
    positions, orders = columns["positions"], columns.get("orders")
    if orders is None:
        return LegacyState.ORDERS_IN_POSITIONS
    if "alpaca_order_id" in positions and await conn.fetchval(
        """
        SELECT count(*) > 0  -- not EXISTS: for a first row the planner would scan the orders for each position
          FROM positions p LEFT JOIN orders o ON o.alpaca_order_id::text = p.alpaca_order_id::text
         WHERE nullif(p.alpaca_order_id::text, '') IS NOT NULL AND o.order_id IS NULL
        """
    ):
        return LegacyState.ORDERS_INCOMPLETE
    if "order_purpose" not in orders:
        return LegacyState.ORDERS_WITHOUT_PURPOSE
    if await conn.fetchval("SELECT EXISTS (SELECT 1 FROM orders WHERE order_purpose IS NULL)"):
        return LegacyState.PURPOSE_INCOMPLETE
    if any(column in positions for column in OLD_COLUMNS):
        return LegacyState.OLD_COLUMNS_LEFT
    return LegacyState.ORDERS_SEPARATED


async def read_columns(conn: Connection, schema: str) -> dict[str, dict[str, str]]:
    """Return the type of each column by table and column, for the earlier Catalyst's tables."""
    rows = await conn.fetch(
        """
        SELECT c.table_name::text AS name, c.column_name::text AS column, c.data_type::text AS type
          FROM information_schema.columns c
          JOIN information_schema.tables t USING (table_schema, table_name)
         WHERE c.table_schema = $1 AND t.table_type = 'BASE TABLE' AND c.table_name = ANY($2)
         ORDER BY c.table_name, c.ordinal_position
        """,
        schema,
        list(OLD_TABLES),
    )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["name"], {})[row["column"]] = row["type"]
    return found


async def require_idle(conn: Connection, found: LegacyDatabase, now: datetime) -> None:
    """Raise UserError while a cycle of the earlier system is active: one of today, or one written a moment ago, that
    has not ended. An older one was left behind."""
    cycles = found.columns["trading_cycles"]
    status = next((name for name in ("status", "cycle_state") if name in cycles), None)
    if status is None:
        return
    day = next((name for name in ("cycle_date", "date") if name in cycles), None)
    is_of_today = f"{day}::date >= $2" if day else "$2::date IS NULL"
    is_recent = "updated_at::timestamptz > $3" if "updated_at" in cycles else "$3::timestamptz IS NULL"
    active = await conn.fetch(
        f"""
        SELECT cycle_id::text AS id, {status}::text AS status FROM trading_cycles
         WHERE lower({status}) <> ALL($1) AND ({is_of_today} OR {is_recent}) ORDER BY 1
        """,  # noqa: S608 -- the names are from the lists above
        list(_FINISHED),
        trading_date(now),
        now - _RECENT,
    )
    if active:
        listed = ", ".join(f"{row['id']} ({row['status']})" for row in active)
        raise UserError(
            f"a trading cycle of the earlier system is active: {listed}; stop its services after the close, then "
            "repeat"
        )


async def is_upgraded(conn: Connection) -> bool:
    """Return true while the old tables of an upgrade are kept: it can be finalized or rolled back."""
    kept = await conn.fetchval(
        "SELECT to_regclass('legacy.positions') IS NOT NULL AND to_regclass('public.legacy_upgrades') IS NOT NULL"
    )
    return bool(kept)
