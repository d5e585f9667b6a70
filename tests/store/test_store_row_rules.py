"""What a row may hold, rule by rule: refused with the rule's name, and nothing else is."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import asyncpg
import pytest
from store.raw_rows import AT, Book

from catalyst.store import migrate

FOREIGN: Final = {"origin": "external", "epoch": None}
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
    ("orders_order_purpose_check", {"order_purpose": "hedge", "side": "sell", **FOREIGN}),
    ("orders_position_side_check", {"position_side": "flat", "side": "sell", **FOREIGN}),
    ("orders_side_check", {"side": "hold", "order_purpose": "exit", **FOREIGN}),
    ("orders_status_check", {"status": "canceled", **FOREIGN}),
    ("orders_origin_check", {"origin": "nobody"}),
    *[("orders_quantity_check", {"quantity": wrong}) for wrong in (ZERO, NAN, INFINITE)],
    *[
        (f"orders_{price}_check", {price: wrong, **FOREIGN})
        for price in ("limit_price", "stop_price", "bracket_stop", "bracket_target")
        for wrong in (ZERO, NAN, INFINITE)
    ],
    ("orders_filled_qty_check", {"filled_qty": Decimal(-1), "status": "submitted"}),
    ("orders_filled_avg_price_check", {"filled_avg_price": ZERO}),
    ("orders_attempts_check", {"attempts": -1}),
    ("orders_check", {"filled_qty": Decimal(101), "status": "submitted"}),
    ("orders_check1", {"submitted_at": AT}),
    ("orders_check1", {"filled_qty": Decimal(1)}),
    ("orders_check2", {"order_id": 1_000, "parent_order_id": 1_000}),
    ("orders_check2", {"order_id": 1_000, "replaces": 1_000}),
    ("orders_check3", {"side": "sell"}),
    ("orders_check3", {"order_purpose": "exit", **FOREIGN}),
    ("orders_check4", {"epoch": None}),
    ("orders_check4", {**LEG, "parent_order_id": 1, "epoch": None}),
    *[("orders_check5", {word: "magic"}) for word in ("order_class", "order_type", "time_in_force")],
    *[
        ("orders_check6", {price: Decimal("190.001")})
        for price in ("limit_price", "stop_price", "bracket_stop", "bracket_target")
    ],
    ("orders_check7", {"position_id": 1}),
    ("orders_check8", {"order_purpose": "flatten", "side": "sell"}),
    ("orders_check9", LEG),
    ("orders_orphan_is_fenced", {**ORPHAN, "epoch": None}),
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
    ("positions_naked_seconds_check", {"naked_seconds": Decimal(-1)}),
    ("positions_check", {"quantity": Decimal(101)}),
    ("positions_check1", {"quantity": ZERO}),
    ("positions_check1", {**ENDED, "quantity": Decimal(1)}),
    ("positions_check2", {**ENDED, "exit_time": None}),
    ("positions_check2", {"exit_time": AT}),
    ("positions_check3", {**ENDED, "close_reason": None}),
    *[("positions_check4", {**ENDED, "close_reason": wrong}) for wrong in ("MANUALLY", "BECAUSE", "A MANUAL")],
]  # fmt: skip
EXECUTIONS: Final[Rows] = [
    *[("executions_cum_qty_check", {"cum_qty": wrong}) for wrong in (NAN, INFINITE)],
    ("executions_quantity_check", {"quantity": ZERO}),
    *[("executions_price_check", {"price": wrong}) for wrong in (ZERO, NAN, INFINITE)],
    ("executions_cum_qty_check", {"cum_qty": ZERO, "quantity": ZERO}),
    ("executions_check", {"quantity": Decimal(11)}),
]


async def put(book: Book, table: str, row: Mapping[str, Any]) -> None:
    """One row, inserted by itself."""
    values = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await book.conn.execute(
        f"INSERT INTO {table} ({', '.join(row)}) OVERRIDING SYSTEM VALUE VALUES ({values})", *row.values()
    )


async def order(book: Book, columns: Mapping[str, Any]) -> None:
    """An order as `Book.order` writes it, whatever number it is given."""
    base = {
        "client_order_id": "cat-x", "security_id": 1, "order_purpose": "entry", "position_side": "long", "side": "buy",
        "order_type": "limit", "time_in_force": "day", "quantity": Decimal(100), "epoch": 1, "created_at": AT,
        "updated_at": AT,
    }  # fmt: skip
    await put(book, "orders", base | columns)


async def test_every_rule_refuses_by_its_name(book: Book) -> None:
    """Each rule of orders, positions and executions has a row that breaks it and no other: SQLSTATE 23514, and its
    name as the constraint; so whoever looks at an error finds what he found when it was a CHECK. None is left out."""
    await book.position()
    broken: set[str] = set()
    for table, base, rows in (
        ("orders", None, ORDERS),
        ("positions", HELD, POSITIONS),
        ("executions", FILLED, EXECUTIONS),
    ):
        for name, wrong in rows:
            with pytest.raises(asyncpg.CheckViolationError) as refused:
                await (order(book, wrong) if base is None else put(book, table, base | wrong))
            said = refused.value
            assert (said.constraint_name, said.table_name, said.sqlstate) == (name, table, "23514"), wrong
            broken.add(name)
    text = next(one.sql for one in migrate.migrations() if one.name == "0010_rules_compiled")
    rules = set(re.findall(r"THEN '(\w+)'", text))
    assert broken == rules
    assert len(rules) == 50


async def test_a_rule_holds_for_changes_too(book: Book) -> None:
    """An update is judged as an insert is, and a rule that comes to null holds."""
    await book.position()
    for table, change in (
        ("orders", "attempts = -1"),
        ("orders", "limit_price = 'NaN'"),
        ("positions", "naked_seconds = -1"),
        ("positions", "quantity = 101"),
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await book.conn.execute(f"UPDATE {table} SET {change}")
    await book.conn.execute("UPDATE orders SET limit_price = NULL, attempts = 7")


async def test_a_database_with_rows_keeps_them_and_every_rule(empty_database: str) -> None:
    """Migrated beside rows of an older release: they are there, no CHECK is left on these tables, and what the CHECKs
    refused is refused."""
    conn = await asyncpg.connect(empty_database)
    for one in migrate.migrations():
        if one.name == "0010_rules_compiled":
            await Book(conn).day()
            await Book(conn).position()
        await conn.execute(one.sql)
    left = await conn.fetch(
        "SELECT conname FROM pg_constraint WHERE contype = 'c'"
        " AND conrelid IN ('orders'::regclass, 'positions'::regclass, 'executions'::regclass)"
    )
    assert left == []
    assert await conn.fetchval("SELECT count(*) FROM positions") == 1
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute("UPDATE positions SET naked_seconds = -1")
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute("UPDATE orders SET quantity = 'NaN'")
    await conn.close()
