"""The second lock: what the tables refuse, whoever writes to them."""

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
    """order_edges and domain/order.py are one table: the same pairs, of the same kinds, corrections apart."""
    stored = await raw_rows.conn.fetch("SELECT * FROM order_edges WHERE kind <> 'correction'")
    assert {(row["from_status"], row["to_status"]): row["kind"] for row in stored} == EDGES
    assert {row["from_status"] for row in stored if row["reason"] == NEVER_ARRIVED} == {"rejected"}
    repairs = await raw_rows.conn.fetch("SELECT from_status FROM order_edges WHERE kind = 'correction'")
    assert "filled" not in {row["from_status"] for row in repairs}


def _filled_qty(status: Status) -> Decimal:
    return {Status.FILLED: Decimal(100), Status.PARTIAL_FILL: Decimal(40)}.get(status, Decimal(0))


async def _order_with_status(raw_rows: RawRows, status: Status, reason: str | None) -> int:
    """An order that is `status`, however it came there: the guards are off while it is made."""
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
    """Of all pairs exactly the machine's are possible; a rejected order rises only if it had never arrived."""
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
    """A correction edge is closed in ordinary work and open where the transaction declares the correction."""
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
    """Nothing we send is first written when the broker has already answered."""
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
    """Only orders of other hands have none."""
    for origin in ("catalyst", "broker"):
        with pytest.raises(asyncpg.CheckViolationError):
            await raw_rows.insert_order(epoch=None, origin=origin)
    for origin in ("external", "outage"):
        await raw_rows.insert_order(epoch=None, origin=origin)


async def test_filled_quantity_never_decreases(raw_rows: RawRows):
    """A report of fewer filled shares than are booked changes nothing."""
    position_id = await raw_rows.insert_position(60, ordered=100)
    entry = await raw_rows.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(FilledQtyMismatch, match="has filled 60 and cannot have filled 50"):
        await raw_rows.set_status(entry, "cancelled", filled_qty=Decimal(50))


async def test_filled_quantity_cannot_exceed_order_quantity(raw_rows: RawRows):
    """101 of 100 is refused."""
    order_id = await raw_rows.insert_order()
    await raw_rows.set_status(order_id, "submitted")
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.set_status(order_id, "filled", filled_qty=Decimal(101))


async def test_filled_quantity_equals_sum_of_executions_at_commit(raw_rows: RawRows):
    """At commit the order and its fill ledger agree, from either side."""
    position_id = await raw_rows.insert_position(60, ordered=100)
    entry = await raw_rows.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(FilledQtyMismatch, match="has filled 60, its executions sum to 100"):
        await raw_rows.insert_fill(entry, 100, 40)
    with pytest.raises(FilledQtyMismatch, match="has filled 100, its executions sum to 60"):
        await raw_rows.set_status(entry, "filled", filled_qty=Decimal(100))


async def test_execution_is_unique_by_cumulative_quantity(raw_rows: RawRows):
    """One cumulative quantity of an order is one fill, from any source."""
    position_id = await raw_rows.insert_position(60, ordered=100)
    entry = await raw_rows.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.insert_fill(entry, 60, 60)


async def test_execution_accepts_missing_ids_and_no_other_change(raw_rows: RawRows):
    """The ledger's id may join the stream's; a known id, a price, a quantity stay; nothing is deleted."""
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
    """No line of it is changed, removed or emptied away, not even by the owner."""
    await raw_rows.insert_order()
    for statement in (
        "UPDATE order_events SET note = 'x'",
        "DELETE FROM order_events",
        "TRUNCATE order_events",
    ):
        with pytest.raises(AppendOnlyViolation, match="append-only"):
            await raw_rows.conn.execute(statement)


async def test_status_change_without_journal_row_is_rolled_back(raw_rows: RawRows):
    """An insert or a move that is not journaled in the same transaction is rolled back at its commit."""
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
    """Ids, security, purpose, sides and creation are written once."""
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
    """After the end no time of it is rewritten; a time it lacked may still be learnt."""
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
    """For all combinations the table takes the side the domain names, and refuses the other."""
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
    """No quantity or price that is not a positive number on tick, no word that is not in the list."""
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.insert_order(**wrong)


async def test_sub_dollar_price_may_have_four_decimals(raw_rows: RawRows):
    """A hundredth of a cent is a tick below one dollar."""
    await raw_rows.insert_order(limit_price=Decimal("0.1234"))


async def test_unfilled_entry_cannot_have_a_position(raw_rows: RawRows):
    """A position is never linked to an entry without a fill."""
    position_id = await raw_rows.insert_position()
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.insert_order(position_id=position_id)


async def test_own_exit_requires_a_position(raw_rows: RawRows):
    """An exit of ours without a position is refused; a leg may wait with its parent entry."""
    entry = await raw_rows.insert_order()
    for purpose in ("exit", "flatten", "stop_loss", "take_profit"):
        with pytest.raises(asyncpg.CheckViolationError):
            await raw_rows.insert_order(order_purpose=purpose, side="sell")
    await raw_rows.insert_order(
        order_purpose="stop_loss", side="sell", origin="broker", parent_order_id=entry
    )


async def test_signal_has_at_most_one_working_entry(raw_rows: RawRows):
    """A second entry of the same signal is refused unless the first was rejected or cancelled."""
    first = await raw_rows.insert_order(signal_id="s1")
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.insert_order(signal_id="s1")
    await raw_rows.set_status(first, "cancelled")
    await raw_rows.insert_order(signal_id="s1")


async def test_open_position_is_unique_per_security_and_side(raw_rows: RawRows):
    """A second long position in the same symbol is refused; another symbol is not concerned."""
    await raw_rows.insert_position()
    with pytest.raises(asyncpg.UniqueViolationError):
        await raw_rows.insert_position()
    await raw_rows.insert_position(symbol="MSFT")


async def test_position_without_filled_entry_is_rolled_back(raw_rows: RawRows):
    """A position row that no entry's fill explains is rolled back at commit."""
    with pytest.raises(PositionEntryMismatch, match="no filled entry"):
        await raw_rows.conn.execute(
            """
            INSERT INTO positions (security_id, side, quantity, entered_qty, entry_price, cost, entry_time, updated_at)
            VALUES (1, 'long', 100, 100, 190, 19000, $1, $1)
            """,
            AT,
        )


async def test_entry_fill_without_position_is_rolled_back(raw_rows: RawRows):
    """The fill and the position are one transaction or none."""
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
    """Open means shares held and no exit time; closed means none, a time and a reason from the list."""
    await raw_rows.insert_position()
    with pytest.raises(asyncpg.CheckViolationError):
        await raw_rows.conn.execute(f"UPDATE positions SET {wrong}")


async def test_closed_position_requires_time_and_reason(raw_rows: RawRows):
    """Closing is one statement: no shares, an exit time (also under its other name) and the reason."""
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
    """A position has one open exit intent, a latch is set once; ended ones do not count."""
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
    """A transaction that writes orders holds up a new epoch, not the beat of the current one."""
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
