"""Row rules: an invalid row is refused with the name of its rule; other rows are accepted."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import asyncpg
import pytest
from store.raw_rows import AT, RawRows

from catalyst.store import migrate

EXTERNAL: Final = {"origin": "external", "epoch": None}
LEG: Final = {"order_purpose": "stop_loss", "side": "sell", "origin": "broker"}
ORPHAN: Final = {"order_purpose": "exit", "side": "sell", "origin": "orphan", "order_type": "market"}
NAN, INFINITE, ZERO = Decimal("NaN"), Decimal("Infinity"), Decimal(0)
HELD: Final = {
    "security_id": 1, "side": "long", "quantity": Decimal(100), "entered_qty": Decimal(100),
    "entry_price": Decimal(190), "cost": Decimal(19000), "entry_time": AT, "updated_at": AT,
}  # fmt: skip
ENDED: Final = {"quantity": ZERO, "status": "closed", "exit_time": AT, "close_reason": "MANUAL"}
FILLED: Final = {
    "order_id": 1, "cum_qty": Decimal(10), "quantity": Decimal(10), "price": Decimal(190), "at": AT, "source": "stream",
}  # fmt: skip

Rows = list[tuple[str, Mapping[str, Any]]]
ORDERS: Final[Rows] = [
    ("orders_order_purpose_check", {"order_purpose": "hedge", "side": "sell", **EXTERNAL}),
    ("orders_position_side_check", {"position_side": "flat", "side": "sell", **EXTERNAL}),
    ("orders_side_check", {"side": "hold", "order_purpose": "exit", **EXTERNAL}),
    ("orders_status_check", {"status": "canceled", **EXTERNAL}),
    ("orders_origin_check", {"origin": "nobody"}),
    *[("orders_quantity_check", {"quantity": wrong}) for wrong in (ZERO, NAN, INFINITE)],
    *[
        (f"orders_{price}_check", {price: wrong, **EXTERNAL})
        for price in ("limit_price", "stop_price", "bracket_stop", "bracket_target")
        for wrong in (ZERO, NAN, INFINITE)
    ],
    ("orders_filled_qty_check", {"filled_qty": Decimal(-1), "status": "submitted"}),
    ("orders_filled_avg_price_check", {"filled_avg_price": ZERO}),
    ("orders_attempts_check", {"attempts": -1}),
    ("orders_created_is_unsent", {"submitted_at": AT}),
    ("orders_created_is_unsent", {"filled_qty": Decimal(1)}),
    ("orders_not_its_own_parent", {"order_id": 1_000, "parent_order_id": 1_000}),
    ("orders_not_its_own_parent", {"order_id": 1_000, "replaces": 1_000}),
    ("orders_side_fits_purpose", {"side": "sell"}),
    ("orders_side_fits_purpose", {"order_purpose": "exit", **EXTERNAL}),
    ("orders_own_has_epoch", {"epoch": None}),
    ("orders_own_has_epoch", {**LEG, "parent_order_id": 1, "epoch": None}),
    *[
        ("orders_own_has_known_terms", {word: "magic"})
        for word in ("order_class", "order_type", "time_in_force")
    ],
    *[
        ("orders_own_on_tick", {price: Decimal("190.001")})
        for price in ("limit_price", "stop_price", "bracket_stop", "bracket_target")
    ],
    ("orders_linked_entry_has_fill", {"position_id": 1}),
    ("orders_exit_has_position", {"order_purpose": "flatten", "side": "sell"}),
    ("orders_protective_has_position_or_parent", LEG),
    ("orders_orphan_has_epoch", {**ORPHAN, "epoch": None}),
    ("orders_orphan_is_an_exit", {"origin": "orphan"}),
    ("orders_orphan_is_an_exit", {**ORPHAN, "position_id": 1}),
    ("orders_orphan_on_tick", {**ORPHAN, "stop_price": Decimal("190.001")}),
]
POSITIONS: Final[Rows] = [
    ("positions_side_check", {"side": "flat"}),
    ("positions_status_check", {"status": "failed", **{k: ENDED[k] for k in ("quantity", "close_reason")}}),
    ("positions_quantity_check", {**ENDED, "quantity": Decimal(-1)}),
    ("positions_entered_qty_check", {"entered_qty": NAN}),
    *[("positions_entry_price_check", {"entry_price": wrong}) for wrong in (ZERO, NAN, INFINITE)],
    *[("positions_cost_check", {"cost": wrong}) for wrong in (Decimal(-1), NAN, INFINITE)],
    ("positions_exited_qty_check", {"exited_qty": Decimal(-1)}),
    *[("positions_proceeds_check", {"proceeds": wrong}) for wrong in (Decimal(-1), NAN, INFINITE)],
    *[
        (f"positions_{price}_check", {price: ZERO})
        for price in (
            "exit_price", "stop_loss", "take_profit", "last_price", "high_since_entry", "low_since_entry",
        )
    ],
    ("positions_unprotected_seconds_check", {"unprotected_seconds": Decimal(-1)}),
    ("positions_quantity_within_entered", {"quantity": Decimal(101)}),
    ("positions_open_has_quantity", {"quantity": ZERO}),
    ("positions_open_has_quantity", {**ENDED, "quantity": Decimal(1)}),
    ("positions_closed_has_exit_time", {**ENDED, "exit_time": None}),
    ("positions_closed_has_exit_time", {"exit_time": AT}),
    ("positions_closed_has_reason", {**ENDED, "close_reason": None}),
    *[
        ("positions_close_reason_known", {**ENDED, "close_reason": wrong})
        for wrong in ("MANUALLY", "BECAUSE", "A MANUAL")
    ],
]  # fmt: skip
EXECUTIONS: Final[Rows] = [
    *[("executions_cum_qty_check", {"cum_qty": wrong}) for wrong in (NAN, INFINITE)],
    ("executions_quantity_check", {"quantity": ZERO}),
    *[("executions_price_check", {"price": wrong}) for wrong in (ZERO, NAN, INFINITE)],
    ("executions_cum_qty_check", {"cum_qty": ZERO, "quantity": ZERO}),
    ("executions_quantity_within_cumulative", {"quantity": Decimal(11)}),
]


async def insert_row(raw_rows: RawRows, table: str, row: Mapping[str, Any]) -> None:
    """Insert one row into the table."""
    values = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await raw_rows.conn.execute(
        f"INSERT INTO {table} ({', '.join(row)}) OVERRIDING SYSTEM VALUE VALUES ({values})", *row.values()
    )


async def insert_order(raw_rows: RawRows, columns: Mapping[str, Any]) -> None:
    """Insert an order row like those of `RawRows`, with these columns changed."""
    base = {
        "client_order_id": "cat-x", "security_id": 1, "order_purpose": "entry", "position_side": "long", "side": "buy",
        "order_type": "limit", "time_in_force": "day", "quantity": Decimal(100), "epoch": 1, "created_at": AT,
        "updated_at": AT,
    }  # fmt: skip
    await insert_row(raw_rows, "orders", base | columns)


async def test_each_row_rule_fails_with_its_constraint_name(raw_rows: RawRows) -> None:
    """Each rule of orders, positions and executions has a row that breaks only it. The error has SQLSTATE
    23514 and the rule as constraint name, as a CHECK would give. No rule is missing."""
    await raw_rows.insert_position()
    broken: set[str] = set()
    for table, base, rows in (
        ("orders", None, ORDERS),
        ("positions", HELD, POSITIONS),
        ("executions", FILLED, EXECUTIONS),
    ):
        for name, wrong in rows:
            with pytest.raises(asyncpg.CheckViolationError) as refused:
                await (
                    insert_order(raw_rows, wrong)
                    if base is None
                    else insert_row(raw_rows, table, base | wrong)
                )
            error = refused.value
            assert (error.constraint_name, error.table_name, error.sqlstate) == (name, table, "23514"), wrong
            broken.add(name)
    text = next(migration.sql for migration in migrate.migrations() if migration.name == "0004_order_rules")
    rules = set(re.findall(r"THEN '(\w+)'", text))
    assert broken == rules
    assert len(rules) == 49


async def test_row_rules_apply_to_updates(raw_rows: RawRows) -> None:
    """The rules apply to updates too, and a rule that evaluates to null holds."""
    await raw_rows.insert_position()
    for table, change in (
        ("orders", "attempts = -1"),
        ("orders", "limit_price = 'NaN'"),
        ("positions", "unprotected_seconds = -1"),
        ("positions", "quantity = 101"),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await raw_rows.conn.execute(f"UPDATE {table} SET {change}")
    await raw_rows.conn.execute("UPDATE orders SET limit_price = NULL, attempts = 7")


async def test_ledger_tables_have_no_check_constraints(raw_rows: RawRows) -> None:
    """Triggers hold the row rules of orders, positions and executions, because a CHECK is planned again in
    every statement."""
    checks = await raw_rows.conn.fetch(
        "SELECT conname FROM pg_constraint WHERE contype = 'c'"
        " AND conrelid IN ('orders'::regclass, 'positions'::regclass, 'executions'::regclass)"
    )
    assert checks == []
