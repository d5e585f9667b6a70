"""Database constraints: invalid writes are refused, whatever the client."""

from decimal import Decimal
from itertools import product
from typing import Any

import asyncpg
import pytest
from store.raw_rows import AT, RawRows

from catalyst.domain.errors import DatabaseContention
from catalyst.domain.order import EDGES, NEVER_ARRIVED, PositionSide, Purpose, Status, side_for
from catalyst.store.constraint_errors import (
    AppendOnlyViolation,
    FilledQtyMismatch,
    IllegalOrderTransition,
    JournalLineMissing,
    PositionEntryMismatch,
    StaleEpoch,
)


async def test_order_edges_table_equals_domain_edges(raw_rows: RawRows):
    """The table order_edges equals EDGES of domain/order.py in pairs and kinds, except for corrections."""
    stored = await raw_rows.conn.fetch("SELECT * FROM order_edges WHERE kind <> 'correction'")
    assert {(row["from_status"], row["to_status"]): row["kind"] for row in stored} == EDGES
    assert {row["from_status"] for row in stored if row["reason"] == NEVER_ARRIVED} == {"rejected"}
    repairs = await raw_rows.conn.fetch("SELECT from_status FROM order_edges WHERE kind = 'correction'")
    assert "filled" not in {row["from_status"] for row in repairs}


def _filled_qty(status: Status) -> Decimal:
    return {Status.FILLED: Decimal(100), Status.PARTIAL_FILL: Decimal(40)}.get(status, Decimal(0))


async def _order_with_status(raw_rows: RawRows, status: Status, reason: str | None) -> int:
    """Create an order in `status` with the triggers disabled."""
    order_id = await raw_rows.insert_order()
    async with raw_rows.conn.transaction():
        await raw_rows.conn.execute("SET LOCAL session_replication_role = replica")
        await raw_rows.conn.execute(
            "UPDATE orders SET status = $2, rejection_reason = $3, closed_at = $4 WHERE order_id = $1",
            order_id,
            status,
            reason,
            AT if status in {"filled", "cancelled", "rejected", "expired", "replaced"} else None,
        )
    return order_id


@pytest.mark.parametrize("reason", [None, "INSUFFICIENT_BUYING_POWER", NEVER_ARRIVED])
async def test_order_status_changes_only_along_edges(raw_rows: RawRows, reason: str | None):
    """The database accepts exactly the edges of the state machine; a rejected order may change only if it
    never arrived."""
    for seen, then in product(Status, Status):
        order_id = await _order_with_status(raw_rows, seen, reason)
        legal = (seen, then) in EDGES and (seen is not Status.REJECTED or reason == NEVER_ARRIVED)
        try:
            await raw_rows.set_status(order_id, then)
            moved = True
        except IllegalOrderTransition:
            moved = False
        assert moved == (legal or seen is then), (seen, then)


async def test_correction_edge_requires_declared_transaction(raw_rows: RawRows):
    """A correction edge is refused unless the transaction declares the correction."""
    order_id = await _order_with_status(raw_rows, Status.EXPIRED, None)
    with pytest.raises(IllegalOrderTransition, match="expired and cannot become accepted"):
        await raw_rows.set_status(order_id, "accepted", closed_at=None)
    async with raw_rows.conn.transaction():
        await raw_rows.conn.execute("SELECT set_config('catalyst.correction', 'on', true)")
        await raw_rows.set_status(order_id, "accepted", closed_at=None)
    await raw_rows.set_status(order_id, "cancelled")
    with pytest.raises(IllegalOrderTransition):
        await raw_rows.set_status(order_id, "accepted")


async def test_own_order_is_inserted_as_created_or_submitted(raw_rows: RawRows):
    """An own order is written before the broker answers, so it cannot start as accepted; an external one can."""
    await raw_rows.insert_order(status="submitted")
    with pytest.raises(IllegalOrderTransition, match="cannot start as accepted"):
        await raw_rows.insert_order(status="accepted")
    await raw_rows.insert_order(status="accepted", origin="external", epoch=None)


async def test_stale_epoch_cannot_write_orders(raw_rows: RawRows):
    """After a takeover the old daemon can neither insert nor update an order."""
    order_id = await raw_rows.insert_order()
    await raw_rows.conn.execute("UPDATE daemon SET epoch = 2")
    with pytest.raises(StaleEpoch, match="epoch 1, the current one is 2"):
        await raw_rows.insert_order()
    with pytest.raises(StaleEpoch):
        await raw_rows.set_status(order_id, "submitted")
    with pytest.raises(StaleEpoch):
        await raw_rows.insert_order(epoch=3)
    await raw_rows.set_status(order_id, "submitted", epoch=2)


async def test_own_order_requires_an_epoch(raw_rows: RawRows):
    """Only external orders and orders of a database outage have no epoch."""
    for origin in ("catalyst", "broker"):
        with pytest.raises(asyncpg.CheckViolationError):
            await raw_rows.insert_order(epoch=None, origin=origin)
    for origin in ("external", "outage"):
        await raw_rows.insert_order(epoch=None, origin=origin)


async def test_filled_quantity_never_decreases(raw_rows: RawRows):
    """A filled quantity below the booked one is refused."""
    position_id = await raw_rows.insert_position(60, ordered=100)
    entry = await raw_rows.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(FilledQtyMismatch, match="has filled 60 and cannot have filled 50"):
        await raw_rows.set_status(entry, "cancelled", filled_qty=Decimal(50))


async def test_fill_beyond_the_ordered_quantity_is_stored(raw_rows: RawRows):
    """The broker's fill is a fact: 120 filled of 100 ordered is stored, as long as the executions sum to it."""
    position_id = await raw_rows.insert_position(100)
    entry = await raw_rows.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    async with raw_rows.conn.transaction():
        await raw_rows.conn.execute(
            "INSERT INTO executions (order_id, cum_qty, quantity, price, at, source)"
            " SELECT order_id, 120, 20, price, at, source FROM executions WHERE order_id = $1",
            entry,
        )
        await raw_rows.conn.execute("UPDATE orders SET filled_qty = 120 WHERE order_id = $1", entry)
    with pytest.raises(FilledQtyMismatch):
        await raw_rows.conn.execute("UPDATE orders SET filled_qty = 121 WHERE order_id = $1", entry)


async def test_filled_quantity_equals_sum_of_executions_at_commit(raw_rows: RawRows):
    """At commit the order's filled quantity and the sum of its executions are equal; a change of only one is
    refused."""
    position_id = await raw_rows.insert_position(60, ordered=100)
    entry = await raw_rows.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(FilledQtyMismatch, match="has filled 60, its executions sum to 100"):
        await raw_rows.insert_fill(entry, 100, 40)
    with pytest.raises(FilledQtyMismatch, match="has filled 100, its executions sum to 60"):
        await raw_rows.set_status(entry, "filled", filled_qty=Decimal(100))


async def test_execution_is_unique_by_cumulative_quantity(raw_rows: RawRows):
    """Each cumulative quantity of an order has one fill, whatever its source."""
    position_id = await raw_rows.insert_position(60, ordered=100)
    entry = await raw_rows.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.insert_fill(entry, 60, 60)


async def test_execution_accepts_missing_ids_and_no_other_change(raw_rows: RawRows):
    """The activity id may be added to the stream's execution id; a set id, price and quantity cannot change,
    and no row can be deleted."""
    await raw_rows.insert_position()
    await raw_rows.conn.execute("UPDATE executions SET execution_id = 'e1'")
    await raw_rows.conn.execute("UPDATE executions SET activity_id = 'a1'")
    for change in (
        "price = 191",
        "quantity = 1",
        "cum_qty = 101",
        "execution_id = 'e2'",
        "activity_id = NULL",
    ):
        with pytest.raises(AppendOnlyViolation):
            await raw_rows.conn.execute(f"UPDATE executions SET {change}")
    for statement in ("DELETE FROM executions", "TRUNCATE executions"):
        with pytest.raises(AppendOnlyViolation):
            await raw_rows.conn.execute(statement)


async def test_journal_rows_cannot_be_changed_or_deleted(raw_rows: RawRows):
    """The owner too cannot update, delete or truncate journal rows."""
    await raw_rows.insert_order()
    for statement in (
        "UPDATE order_events SET note = 'x'",
        "DELETE FROM order_events",
        "TRUNCATE order_events",
    ):
        with pytest.raises(AppendOnlyViolation, match="append-only"):
            await raw_rows.conn.execute(statement)


async def test_status_change_without_journal_row_is_rolled_back(raw_rows: RawRows):
    """An insert or status change without a journal row in its transaction is rolled back at commit."""
    with pytest.raises(JournalLineMissing, match="is created, its journal ends at nothing"):
        await raw_rows.insert_order(journaled=False)
    order_id = await raw_rows.insert_order()
    with pytest.raises(JournalLineMissing, match="is submitted, its journal ends at created"):
        await raw_rows.set_status(order_id, "submitted", journaled=False)
    async with raw_rows.conn.transaction():
        await raw_rows.set_status(order_id, "submitted", journaled=False)
        await raw_rows.insert_event(order_id, "submitted")
    await raw_rows.insert_event(order_id, "accepted", kind="stale")
    assert (
        await raw_rows.conn.fetchval("SELECT status FROM orders WHERE order_id = $1", order_id) == "submitted"
    )


async def test_order_identity_columns_are_immutable(raw_rows: RawRows):
    """Ids, security, position side and creation time are written once."""
    order_id = await raw_rows.insert_order(alpaca_order_id="b1")
    other = await raw_rows.conn.fetchval("SELECT get_or_create_security('MSFT')")
    for change in (
        {"client_order_id": "x"},
        {"alpaca_order_id": "b2"},
        {"alpaca_order_id": None},
        {"security_id": other},
        {"position_side": "short", "side": "sell"},
        {"created_at": AT.replace(hour=1)},
    ):
        with pytest.raises(AppendOnlyViolation):
            await raw_rows.set_status(order_id, "created", **change)


async def test_terminal_order_keeps_its_times(raw_rows: RawRows):
    """A terminal order's times cannot change; a missing time may be added."""
    order_id = await raw_rows.insert_order()
    await raw_rows.set_status(order_id, "submitted", submitted_at=AT)
    await raw_rows.set_status(order_id, "cancelled", cancelled_at=AT, closed_at=AT)
    for column in ("submitted_at", "cancelled_at", "closed_at"):
        with pytest.raises(AppendOnlyViolation, match="its times cannot change"):
            await raw_rows.set_status(order_id, "cancelled", **{column: AT.replace(hour=1)})
    await raw_rows.set_status(order_id, "cancelled", accepted_at=AT)


@pytest.mark.parametrize(("held", "purpose"), list(product(PositionSide, Purpose)))
async def test_order_side_must_match_position_side_and_purpose(
    raw_rows: RawRows, held: PositionSide, purpose: Purpose
):
    """For every position side and purpose the database accepts the side that the domain names and refuses the
    other."""
    right = side_for(held, purpose)
    wrong = "sell" if right == "buy" else "buy"
    common: dict[str, Any] = {
        "origin": "external",
        "epoch": None,
        "order_purpose": purpose,
        "position_side": held,
    }
    await raw_rows.insert_order(side=right, **common)
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.insert_order(side=wrong, **common)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantity": Decimal(0)},
        {"quantity": Decimal(-1)},
        {"quantity": Decimal("NaN")},
        {"quantity": Decimal("Infinity")},
        {"limit_price": Decimal(0)},
        {"limit_price": Decimal("NaN")},
        {"stop_price": Decimal("-5")},
        {"limit_price": Decimal("190.001")},
        {"limit_price": Decimal("0.12345")},
        {"status": "canceled", "origin": "external", "epoch": None},
        {"order_purpose": "hedge"},
        {"origin": "nobody"},
        {"order_type": "magic"},
        {"time_in_force": "forever"},
        {"order_class": "mleg"},
    ],
    ids=str,
)
async def test_invalid_order_is_not_stored(raw_rows: RawRows, wrong: dict[str, Any]):
    """Quantities and prices must be finite, positive and on tick; each enumerated column must have a listed
    value."""
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.insert_order(**wrong)


async def test_sub_dollar_price_may_have_four_decimals(raw_rows: RawRows):
    """The tick below one dollar is a hundredth of a cent."""
    await raw_rows.insert_order(limit_price=Decimal("0.1234"))


async def test_unfilled_entry_cannot_have_a_position(raw_rows: RawRows):
    """An entry without a fill cannot be linked to a position."""
    position_id = await raw_rows.insert_position()
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.insert_order(position_id=position_id)


async def test_own_exit_requires_a_position(raw_rows: RawRows):
    """An own exit without a position is refused; a leg may be linked to its parent entry instead."""
    entry = await raw_rows.insert_order()
    for purpose in ("exit", "flatten", "stop_loss", "take_profit"):
        with pytest.raises(asyncpg.CheckViolationError):
            await raw_rows.insert_order(order_purpose=purpose, side="sell")
    await raw_rows.insert_order(
        order_purpose="stop_loss", side="sell", origin="broker", parent_order_id=entry
    )


async def test_signal_has_at_most_one_working_entry(raw_rows: RawRows):
    """A second entry of a signal is refused unless the first was rejected or cancelled."""
    first = await raw_rows.insert_order(signal_id="s1")
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.insert_order(signal_id="s1")
    await raw_rows.set_status(first, "cancelled")
    await raw_rows.insert_order(signal_id="s1")


async def test_open_position_is_unique_per_security_and_side(raw_rows: RawRows):
    """A second long position in a symbol is refused; another symbol is accepted."""
    await raw_rows.insert_position()
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.insert_position()
    await raw_rows.insert_position(symbol="MSFT")


async def test_position_without_filled_entry_is_rolled_back(raw_rows: RawRows):
    """A position without a filled entry is rolled back at commit."""
    with pytest.raises(PositionEntryMismatch, match="no filled entry"):
        await raw_rows.conn.execute(
            """
            INSERT INTO positions (security_id, side, quantity, entered_qty, entry_price, cost, entry_time, updated_at)
            VALUES (1, 'long', 100, 100, 190, 19000, $1, $1)
            """,
            AT,
        )


async def test_entry_fill_without_position_is_rolled_back(raw_rows: RawRows):
    """An entry's fill without its position in the same transaction is rolled back."""
    entry = await raw_rows.insert_order()
    await raw_rows.set_status(entry, "submitted")

    async def fill_alone() -> None:
        async with raw_rows.conn.transaction():
            await raw_rows.insert_fill(entry, 100, 100)
            await raw_rows.set_status(entry, "filled", filled_qty=Decimal(100))

    with pytest.raises(PositionEntryMismatch, match="filled 100 without a position"):
        await fill_alone()
    assert await raw_rows.conn.fetchval("SELECT count(*) FROM executions") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        "quantity = -1",
        "quantity = 0",
        "status = 'closed'",
        "status = 'failed'",
        "quantity = 101",
        "close_reason = 'BECAUSE'",
        "close_reason = 'MANUALLY'",
        "unprotected_seconds = -1",
        "quantity = 0, status = 'closed', exit_time = entry_time",
    ],
)
async def test_inconsistent_position_is_not_stored(raw_rows: RawRows, wrong: str):
    """An open position has shares and no exit time; a closed one has no shares, an exit time and a listed
    reason."""
    await raw_rows.insert_position()
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.conn.execute(f"UPDATE positions SET {wrong}")


async def test_closed_position_requires_time_and_reason(raw_rows: RawRows):
    """One statement closes a position with quantity zero, exit time (also readable as closed_at) and reason."""
    await raw_rows.insert_position()
    await raw_rows.conn.execute(
        """
        UPDATE positions SET quantity = 0, status = 'closed', exit_time = $1,
               close_reason = 'STOP_LOSS_HIT: AAPL @ $147.00 <= $147.00'
        """,
        AT,
    )
    assert await raw_rows.conn.fetchval("SELECT closed_at FROM positions") == AT


async def test_open_exit_intent_and_set_latch_are_unique(raw_rows: RawRows):
    """A position has one open exit intent, and a latch is set once; ended ones do not count."""
    position_id = await raw_rows.insert_position()
    intent = (
        "INSERT INTO exit_intents (position_id, reason, purpose, requested_by, requested_at)"
        " VALUES ($1, 'r', 'exit', 'me', $2)"
    )
    latch = "INSERT INTO latches (name, set_at, reason, set_by) VALUES ('halt', $1, 'r', 'me')"
    await raw_rows.conn.execute(intent, position_id, AT)
    await raw_rows.conn.execute(latch, AT)
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.conn.execute(intent, position_id, AT)
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.conn.execute(latch, AT)
    await raw_rows.conn.execute("UPDATE exit_intents SET state = 'done', done_at = $1", AT)
    await raw_rows.conn.execute("UPDATE latches SET cleared_at = $1, cleared_by = 'me'", AT)
    await raw_rows.conn.execute(intent, position_id, AT)
    await raw_rows.conn.execute(latch, AT)


async def test_heartbeat_does_not_wait_for_order_writes(raw_rows: RawRows, store: Any):
    """A transaction that writes orders blocks a new epoch, but not the heartbeat of the current one."""
    async with raw_rows.conn.transaction():
        await raw_rows.insert_order()
        async with store.tx("beat") as other:
            await other.execute("SET LOCAL lock_timeout = '50ms'")
            await other.execute("UPDATE daemon SET heartbeat_at = $1", AT)

        async def bump() -> None:
            async with store.tx("bump") as other:
                await other.execute("SET LOCAL lock_timeout = '50ms'")
                await other.execute("UPDATE daemon SET epoch = epoch + 1")

        with pytest.raises(DatabaseContention):
            await bump()
