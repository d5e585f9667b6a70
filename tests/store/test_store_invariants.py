"""Invariant checks of the database: consistent rows give no violation; each violation is named with its row."""

from datetime import timedelta
from decimal import Decimal

import pytest
from store.raw_rows import AT, CYCLE, RawRows

from catalyst.domain.invariants import STATEMENTS, Invariant, VisibleTo
from catalyst.store import invariant_checks

OPEN = AT - timedelta(minutes=45)
CLOSE = AT + timedelta(hours=5, minutes=45)

# (invariant, statement of the owner that violates it), for one filled entry of 100 AAPL with a working exit.
VIOLATING_STATEMENTS = [
    ("I2", "UPDATE orders SET filled_qty = 0, position_id = NULL WHERE order_purpose = 'entry'"),
    ("I3", "UPDATE positions SET quantity = 60"),
    ("I3", "UPDATE positions SET entered_qty = 160, quantity = 160"),
    ("I5", "UPDATE orders SET quantity = 101 WHERE order_purpose = 'exit'"),
    ("I6", ("UPDATE order_events SET to_status = 'replaced' WHERE to_status = 'submitted';"
           " UPDATE order_events SET from_status = 'replaced' WHERE from_status = 'submitted'")),
    ("I7", "UPDATE orders SET filled_qty = 99 WHERE position_id IS NOT NULL AND order_purpose = 'entry'"),
    ("I7", "UPDATE executions SET quantity = 99"),
    ("I9", "UPDATE executions SET price = 191"),
    ("I9", "UPDATE positions SET realized_pnl = 1"),
    ("I12", ("INSERT INTO latches (name, set_at, reason, set_by)"
            " VALUES ('flatten', '2026-04-08 14:14Z', 'x', 'me')")),
    ("I13", ("INSERT INTO latches (name, set_at, reason, set_by)"
            " VALUES ('emergency_stop', '2026-04-08 14:14Z', 'x', 'me')")),
    ("I14", "UPDATE orders SET epoch = 2 WHERE order_purpose = 'entry'"),
    ("I18", "UPDATE trading_days SET open = '2026-04-08 14:16Z'"),
    ("I18", "DELETE FROM trading_days"),
    ("I26", "DELETE FROM order_events WHERE to_status = 'submitted'"),
    ("I26", "DELETE FROM order_events"),
    ("I26", "UPDATE orders SET status = 'partial_fill' WHERE status = 'filled'"),
]  # fmt: skip


@pytest.fixture
async def consistent_rows(raw_rows: RawRows) -> RawRows:
    """Insert a filled entry with a working exit, within session hours."""
    await raw_rows.conn.execute("INSERT INTO trading_days VALUES ('2026-04-08', $1, $2, false)", OPEN, CLOSE)
    entry = await raw_rows.insert_order(signal_id="one")
    await raw_rows.set_status(entry, "submitted", submitted_at=AT)
    position_id = await raw_rows.fill_entry(entry, 1, 100, "filled")
    await raw_rows.insert_exit(position_id)
    return raw_rows


async def violated_invariants(raw_rows: RawRows, since: int = 0) -> list[str]:
    return [
        str(violation.invariant)
        for violation in await invariant_checks.violations(raw_rows.conn, since_seq=since)
    ]


async def test_consistent_rows_violate_no_invariant(consistent_rows: RawRows) -> None:
    """Consistent rows give no violation, checked from the journal's start and from its end."""
    assert await violated_invariants(consistent_rows) == []
    assert (
        await violated_invariants(
            consistent_rows, await consistent_rows.conn.fetchval("SELECT max(seq) FROM order_events")
        )
        == []
    )


@pytest.mark.parametrize(("invariant", "sql"), VIOLATING_STATEMENTS)
async def test_violated_invariant_is_named(consistent_rows: RawRows, invariant: str, sql: str) -> None:
    """Each violation is found by number, also when the journal rows of the order are old: its position is
    open."""
    last = await consistent_rows.conn.fetchval("SELECT max(seq) FROM order_events")
    for table in ("orders", "order_events", "executions", "positions"):
        await consistent_rows.conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    await consistent_rows.conn.execute(sql)
    violations = await invariant_checks.violations(consistent_rows.conn, since_seq=0)
    assert invariant in {str(violation.invariant) for violation in violations}, [
        violation.description for violation in violations
    ]
    assert all(violation.description and violation.subject for violation in violations)
    if invariant != "I2":  # its entry is linked to no open position any more
        assert invariant in await violated_invariants(consistent_rows, last)


async def test_signal_with_two_filled_entries_violates_invariant(consistent_rows: RawRows) -> None:
    """Two filled entries of one signal violate I11; one of them is cancelled with a fill, which the unique
    index allows."""
    for table in ("orders", "order_events", "executions", "positions"):
        await consistent_rows.conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    await consistent_rows.insert_order(
        signal_id="one",
        status="cancelled",
        filled_qty=Decimal(5),
        closed_at=AT,
        cycle_id=CYCLE,
        journaled=True,
    )
    assert "I11" in await violated_invariants(consistent_rows)


def test_every_invariant_has_a_check_statement() -> None:
    """All twenty-six invariants have a text and a place that can check them."""
    assert set(STATEMENTS) == set(Invariant)
    assert len(Invariant) == 26
    assert all(statement.text and statement.visible_to for statement in STATEMENTS.values())
    in_database = {
        str(name) for name, statement in STATEMENTS.items() if VisibleTo.DATABASE in statement.visible_to
    } - {"I8"}
    assert in_database == {name for name, _ in VIOLATING_STATEMENTS} | {"I11"}
