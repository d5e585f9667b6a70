"""The old tables in one form: the documents of the earlier Catalyst show its columns, not its complete DDL, so each
value is read from the first of its columns that exists and is not null."""

from collections.abc import Iterator, Mapping
from typing import Final

from catalyst.store.legacy.recognition import OLD_SCHEMA, LegacyDatabase

_Candidates = Mapping[str, tuple[str, tuple[str, ...]]]  # name here: type, names there

# Table here: table there, and its values.
_TABLES: Final[Mapping[str, tuple[str, _Candidates]]] = {
    "old_sectors": (
        "sectors",
        {"sector_id": ("integer", ("sector_id",)), "name": ("text", ("name", "sector_name"))},
    ),
    "old_securities": (
        "securities",
        {
            "security_id": ("integer", ("security_id",)),
            "symbol": ("text", ("symbol",)),
            "name": ("text", ("name", "company_name")),
            "exchange": ("text", ("exchange",)),
            "sector_id": ("integer", ("sector_id",)),
            "is_active": ("boolean", ("is_active",)),
        },
    ),
    "old_times": (
        "time_dimension",
        {
            "time_id": ("bigint", ("time_id",)),
            "at": ("timestamptz", ("timestamp",)),
            "is_trading_day": ("boolean", ("is_trading_day",)),
        },
    ),
    "old_cycles": (
        "trading_cycles",
        {
            "cycle_id": ("text", ("cycle_id",)),
            "cycle_date": ("date", ("cycle_date", "date")),
            "mode": ("text", ("mode",)),
            "status": ("text", ("status", "cycle_state")),
            "max_positions": ("integer", ("max_positions",)),
            "max_daily_loss": ("numeric", ("max_daily_loss",)),
            "scan_frequency": ("integer", ("scan_frequency",)),
            "started_at": ("timestamptz", ("start_time", "started_at", "created_at")),
            "ended_at": ("timestamptz", ("end_time", "stopped_at")),
            "updated_at": ("timestamptz", ("updated_at",)),
            "daily_pnl": ("numeric", ("daily_pnl", "total_pnl")),
        },
    ),
    "old_positions": (
        "positions",
        {
            "position_id": ("bigint", ("position_id",)),
            "cycle_id": ("text", ("cycle_id",)),
            "security_id": ("integer", ("security_id",)),
            "side": ("text", ("side",)),
            "quantity": ("numeric", ("quantity",)),
            "entry_price": ("numeric", ("entry_price",)),
            "exit_price": ("numeric", ("exit_price",)),
            "stop_loss": ("numeric", ("stop_loss",)),
            "take_profit": ("numeric", ("take_profit",)),
            "entry_time": ("timestamptz", ("entry_time", "opened_at", "created_at", "updated_at")),
            "exit_time": ("timestamptz", ("exit_time", "closed_at")),
            "status": ("text", ("status",)),
            "realized_pnl": ("numeric", ("realized_pnl",)),
            "unrealized_pnl": ("numeric", ("unrealized_pnl",)),
            "close_reason": ("text", ("close_reason",)),
            "alpaca_order_id": ("text", ("alpaca_order_id",)),
            "alpaca_status": ("text", ("alpaca_status",)),
            "updated_at": ("timestamptz", ("updated_at", "created_at")),
        },
    ),
    "old_orders": (
        "orders",
        {
            "order_id": ("bigint", ("order_id",)),
            "position_id": ("bigint", ("position_id",)),
            "cycle_id": ("text", ("cycle_id",)),
            "security_id": ("integer", ("security_id",)),
            "parent_order_id": ("bigint", ("parent_order_id",)),
            "old_purpose": ("text", ("order_purpose",)),
            "side": ("text", ("side",)),
            "order_class": ("text", ("order_class",)),
            "order_type": ("text", ("order_type",)),
            "time_in_force": ("text", ("time_in_force",)),
            "quantity": ("numeric", ("quantity",)),
            "limit_price": ("numeric", ("limit_price",)),
            "stop_price": ("numeric", ("stop_price",)),
            "alpaca_order_id": ("text", ("alpaca_order_id",)),
            "status": ("text", ("status",)),
            "filled_qty": ("numeric", ("filled_qty",)),
            "filled_avg_price": ("numeric", ("filled_avg_price",)),
            "created_at": ("timestamptz", ("created_at", "submitted_at", "updated_at")),
            "submitted_at": ("timestamptz", ("submitted_at",)),
            "filled_at": ("timestamptz", ("filled_at",)),
            "cancelled_at": ("timestamptz", ("cancelled_at", "canceled_at")),
            "updated_at": ("timestamptz", ("updated_at",)),
            "rejection_reason": ("text", ("rejection_reason", "reject_reason")),
            "cancel_reason": ("text", ("cancel_reason",)),
            "made_from_position": ("boolean", ()),
        },
    ),
    "old_risk_events": (
        "risk_events",
        {
            "cycle_id": ("text", ("cycle_id",)),
            "event_type": ("text", ("event_type",)),
            "severity": ("text", ("severity",)),
            "message": ("text", ("message", "description")),
            "occurred_at": ("timestamptz", ("occurred_at", "created_at")),
        },
    ),
}
# Values for which an empty text means none.
_NOT_NULL_TEXT: Final = ("alpaca_order_id", "alpaca_status", "old_purpose", "order_class", "time_in_force")


def read_statements(found: LegacyDatabase) -> Iterator[tuple[str, str]]:
    """Yield the name and the SQL of each statement that reads an old table into a temporary one."""
    for table, (old_table, candidates) in _TABLES.items():
        columns = found.columns.get(old_table)
        values = ", ".join(
            f"{_value(name, type_, () if columns is None else [n for n in names if n in columns])} AS {name}"
            for name, (type_, names) in candidates.items()
        )
        source = f"FROM {OLD_SCHEMA}.{old_table} t" if columns is not None else "LIMIT 0"
        yield (
            f"read {old_table}",
            f"CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT {values} {source}",
        )


def _value(name: str, type_: str, columns: "list[str] | tuple[str, ...]") -> str:
    """Return the SQL of the first of these columns that is not null."""
    casts = [f't."{column}"::{type_}' for column in columns]
    if name in _NOT_NULL_TEXT:
        casts = [f"nullif({cast}, '')" for cast in casts]
    return f"coalesce({', '.join(casts)})" if casts else f"NULL::{type_}"
