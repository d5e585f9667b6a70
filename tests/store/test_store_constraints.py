"""The second lock: what the tables refuse, whoever writes to them."""

from decimal import Decimal
from itertools import product
from typing import Any

import asyncpg
import pytest
from store.raw_rows import AT, Book

from catalyst.domain.order import EDGES, NEVER_ARRIVED, PositionSide, Purpose, Status, side_for
from catalyst.store.constraint_errors import (
    FillsContradict,
    HistoryRewritten,
    IllegalEdge,
    JournalMissing,
    PositionUnexplained,
    StaleEpoch,
)


async def test_the_tables_edges_are_the_machines(book: Book):
    """order_edges and domain/order.py are one table: the same pairs, of the same kinds, corrections apart."""
    stored = await book.conn.fetch("SELECT * FROM order_edges WHERE kind <> 'correction'")
    assert {(row["from_status"], row["to_status"]): row["kind"] for row in stored} == EDGES
    assert {row["from_status"] for row in stored if row["reason"] == NEVER_ARRIVED} == {"rejected"}
    repairs = await book.conn.fetch("SELECT from_status FROM order_edges WHERE kind = 'correction'")
    assert "filled" not in {row["from_status"] for row in repairs}


def _filled(status: Status) -> Decimal:
    return {Status.FILLED: Decimal(100), Status.PARTIAL_FILL: Decimal(40)}.get(status, Decimal(0))


async def _at(book: Book, status: Status, reason: str | None) -> int:
    """An order that is `status`, however it came there: the guards are off while it is made."""
    order_id = await book.order()
    async with book.conn.transaction():
        await book.conn.execute("SET LOCAL session_replication_role = replica")
        await book.conn.execute(
            "UPDATE orders SET status = $2, rejection_reason = $3, closed_at = $4 WHERE order_id = $1",
            order_id,
            status,
            reason,
            AT if status in {"filled", "cancelled", "rejected", "expired", "replaced"} else None,
        )
    return order_id


@pytest.mark.parametrize("reason", [None, "INSUFFICIENT_BUYING_POWER", NEVER_ARRIVED])
async def test_a_status_moves_only_along_its_edges(book: Book, reason: str | None):
    """Of all pairs exactly the machine's are possible; a rejected order rises only if it had never arrived."""
    for seen, then in product(Status, Status):
        order_id = await _at(book, seen, reason)
        legal = (seen, then) in EDGES and (seen is not Status.REJECTED or reason == NEVER_ARRIVED)
        try:
            await book.move(order_id, then)
            moved = True
        except IllegalEdge:
            moved = False
        assert moved == (legal or seen is then), (seen, then)


async def test_a_repair_needs_a_transaction_that_says_so(book: Book):
    """A correction edge is closed in ordinary work and open where the transaction declares the correction."""
    order_id = await _at(book, Status.EXPIRED, None)
    with pytest.raises(IllegalEdge, match="expired and cannot become accepted"):
        await book.move(order_id, "accepted", closed_at=None)
    async with book.conn.transaction():
        await book.conn.execute("SELECT set_config('catalyst.correction', 'on', true)")
        await book.move(order_id, "accepted", closed_at=None)
    await book.move(order_id, "cancelled")
    with pytest.raises(IllegalEdge):
        await book.move(order_id, "accepted")


async def test_an_order_of_ours_begins_as_created_or_submitted(book: Book):
    """Nothing we send is first written when the broker has already answered."""
    await book.order(status="submitted")
    with pytest.raises(IllegalEdge, match="would begin as accepted"):
        await book.order(status="accepted")
    await book.order(status="accepted", origin="external", epoch=None)


async def test_a_stale_epoch_writes_nothing(book: Book):
    """After a takeover the old daemon can neither insert nor update an order."""
    order_id = await book.order()
    await book.conn.execute("UPDATE daemon SET epoch = 2")
    with pytest.raises(StaleEpoch, match="epoch 1, the current one is 2"):
        await book.order()
    with pytest.raises(StaleEpoch):
        await book.move(order_id, "submitted")
    with pytest.raises(StaleEpoch):
        await book.order(epoch=3)
    await book.move(order_id, "submitted", epoch=2)


async def test_our_own_orders_carry_an_epoch(book: Book):
    """Only orders of other hands have none."""
    for origin in ("catalyst", "broker"):
        with pytest.raises(asyncpg.CheckViolationError):
            await book.order(epoch=None, origin=origin)
    for origin in ("external", "emergency"):
        await book.order(epoch=None, origin=origin)


async def test_filled_quantity_never_falls(book: Book):
    """A report of fewer filled shares than are booked changes nothing."""
    position_id = await book.position(60, ordered=100)
    entry = await book.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(FillsContradict, match="has filled 60 and cannot have filled 50"):
        await book.move(entry, "cancelled", filled_qty=Decimal(50))


async def test_an_order_never_fills_more_than_its_quantity(book: Book):
    """101 of 100 is refused."""
    order_id = await book.order()
    await book.move(order_id, "submitted")
    with pytest.raises(asyncpg.CheckViolationError):
        await book.move(order_id, "filled", filled_qty=Decimal(101))


async def test_filled_quantity_is_the_sum_of_the_executions(book: Book):
    """At commit the order and its fill ledger agree, from either side."""
    position_id = await book.position(60, ordered=100)
    entry = await book.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(FillsContradict, match="has filled 60, its executions sum to 100"):
        await book.fill(entry, 100, 40)
    with pytest.raises(FillsContradict, match="has filled 100, its executions sum to 60"):
        await book.move(entry, "filled", filled_qty=Decimal(100))


async def test_an_execution_is_booked_once(book: Book):
    """The same cumulative quantity of the same order is one fill, from whichever source it comes."""
    position_id = await book.position(60, ordered=100)
    entry = await book.conn.fetchval("SELECT order_id FROM orders WHERE position_id = $1", position_id)
    with pytest.raises(asyncpg.UniqueViolationError):
        await book.fill(entry, 60, 60)


async def test_an_execution_learns_names_and_changes_in_nothing_else(book: Book):
    """The ledger's id may join the stream's; a known id, a price, a quantity stay; nothing is deleted."""
    await book.position()
    await book.conn.execute("UPDATE executions SET execution_id = 'e1'")
    await book.conn.execute("UPDATE executions SET activity_id = 'a1'")
    for change in (
        "price = 191",
        "quantity = 1",
        "cum_qty = 101",
        "execution_id = 'e2'",
        "activity_id = NULL",
    ):
        with pytest.raises(HistoryRewritten):
            await book.conn.execute(f"UPDATE executions SET {change}")
    for statement in ("DELETE FROM executions", "TRUNCATE executions"):
        with pytest.raises(HistoryRewritten):
            await book.conn.execute(statement)


async def test_the_journal_is_insert_only(book: Book):
    """No line of it is changed, removed or emptied away, not even by the owner."""
    await book.order()
    for statement in (
        "UPDATE order_events SET note = 'x'",
        "DELETE FROM order_events",
        "TRUNCATE order_events",
    ):
        with pytest.raises(HistoryRewritten, match="append-only"):
            await book.conn.execute(statement)


async def test_no_status_without_its_line_in_the_journal(book: Book):
    """An insert or a move that is not journaled in the same transaction is rolled back at its commit."""
    with pytest.raises(JournalMissing, match="is created, its journal ends at nothing"):
        await book.order(journaled=False)
    order_id = await book.order()
    with pytest.raises(JournalMissing, match="is submitted, its journal ends at created"):
        await book.move(order_id, "submitted", journaled=False)
    async with book.conn.transaction():
        await book.move(order_id, "submitted", journaled=False)
        await book.journal(order_id, "submitted")
    await book.journal(order_id, "accepted", kind="stale")
    assert await book.conn.fetchval("SELECT status FROM orders WHERE order_id = $1", order_id) == "submitted"


async def test_what_an_order_is_never_changes(book: Book):
    """Ids, security, purpose, sides and creation are written once."""
    order_id = await book.order(alpaca_order_id="b1")
    other = await book.conn.fetchval("SELECT get_or_create_security('MSFT')")
    for change in (
        {"client_order_id": "x"},
        {"alpaca_order_id": "b2"},
        {"alpaca_order_id": None},
        {"security_id": other},
        {"position_side": "short", "side": "sell"},
        {"created_at": AT.replace(hour=1)},
    ):
        with pytest.raises(HistoryRewritten):
            await book.move(order_id, "created", **change)


async def test_an_ended_order_keeps_its_times(book: Book):
    """After the end no time of it is rewritten; a time it lacked may still be learnt."""
    order_id = await book.order()
    await book.move(order_id, "submitted", submitted_at=AT)
    await book.move(order_id, "cancelled", cancelled_at=AT, closed_at=AT)
    for column in ("submitted_at", "cancelled_at", "closed_at"):
        with pytest.raises(HistoryRewritten, match="keeps its times"):
            await book.move(order_id, "cancelled", **{column: AT.replace(hour=1)})
    await book.move(order_id, "cancelled", accepted_at=AT)


@pytest.mark.parametrize(("held", "purpose"), list(product(PositionSide, Purpose)))
async def test_a_side_is_what_position_and_purpose_make_it(book: Book, held: PositionSide, purpose: Purpose):
    """For all combinations the table takes the side the domain names, and refuses the other."""
    right = side_for(held, purpose)
    wrong = "sell" if right == "buy" else "buy"
    common: dict[str, Any] = {
        "origin": "external",
        "epoch": None,
        "order_purpose": purpose,
        "position_side": held,
    }
    await book.order(side=right, **common)
    with pytest.raises(asyncpg.CheckViolationError):
        await book.order(side=wrong, **common)


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
async def test_an_absurd_order_is_not_stored(book: Book, wrong: dict[str, Any]):
    """No quantity or price that is not a positive number on tick, no word that is not in the list."""
    with pytest.raises(asyncpg.CheckViolationError):
        await book.order(**wrong)


async def test_sub_dollar_prices_have_four_decimals(book: Book):
    """A hundredth of a cent is a tick below one dollar."""
    await book.order(limit_price=Decimal("0.1234"))


async def test_an_entry_has_no_position_before_it_fills(book: Book):
    """A position is never linked to an entry without a fill."""
    position_id = await book.position()
    with pytest.raises(asyncpg.CheckViolationError):
        await book.order(position_id=position_id)


async def test_an_exit_has_a_position(book: Book):
    """An exit of ours without a position is refused; a leg may wait with its parent entry."""
    entry = await book.order()
    for purpose in ("exit", "flatten", "stop_loss", "take_profit"):
        with pytest.raises(asyncpg.CheckViolationError):
            await book.order(order_purpose=purpose, side="sell")
    await book.order(order_purpose="stop_loss", side="sell", origin="broker", parent_order_id=entry)


async def test_one_signal_has_one_living_entry(book: Book):
    """A second entry of the same signal is refused unless the first was rejected or cancelled."""
    first = await book.order(signal_id="s1")
    with pytest.raises(asyncpg.UniqueViolationError):
        await book.order(signal_id="s1")
    await book.move(first, "cancelled")
    await book.order(signal_id="s1")


async def test_one_open_position_per_security_and_side(book: Book):
    """A second long position in the same symbol is refused; another symbol is not concerned."""
    await book.position()
    with pytest.raises(asyncpg.UniqueViolationError):
        await book.position()
    await book.position(symbol="MSFT")


async def test_no_position_without_a_filled_entry(book: Book):
    """A position row that no entry's fill explains is rolled back at commit."""
    with pytest.raises(PositionUnexplained, match="no filled entry"):
        await book.conn.execute(
            """
            INSERT INTO positions (security_id, side, quantity, entered_qty, entry_price, cost, entry_time, updated_at)
            VALUES (1, 'long', 100, 100, 190, 19000, $1, $1)
            """,
            AT,
        )


async def test_no_entry_fill_without_its_position(book: Book):
    """The fill and the position are one transaction or none."""
    entry = await book.order()
    await book.move(entry, "submitted")

    async def fill_alone() -> None:
        async with book.conn.transaction():
            await book.fill(entry, 100, 100)
            await book.move(entry, "filled", filled_qty=Decimal(100))

    with pytest.raises(PositionUnexplained, match="filled 100 without a position"):
        await fill_alone()
    assert await book.conn.fetchval("SELECT count(*) FROM executions") == 0


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
        "naked_seconds = -1",
        "quantity = 0, status = 'closed', exit_time = entry_time",
    ],
)
async def test_a_position_that_contradicts_itself_is_not_stored(book: Book, wrong: str):
    """Open means shares held and no exit time; closed means none, a time and a reason from the list."""
    await book.position()
    with pytest.raises(asyncpg.CheckViolationError):
        await book.conn.execute(f"UPDATE positions SET {wrong}")


async def test_a_closed_position_has_its_time_and_reason(book: Book):
    """Closing is one statement: no shares, an exit time (also under its other name) and the reason."""
    await book.position()
    await book.conn.execute(
        """
        UPDATE positions SET quantity = 0, status = 'closed', exit_time = $1,
               close_reason = 'STOP_LOSS_HIT: AAPL @ $147.00 <= $147.00'
        """,
        AT,
    )
    assert await book.conn.fetchval("SELECT closed_at FROM positions") == AT


async def test_one_exit_intent_and_one_latch_at_a_time(book: Book):
    """A position has one open exit intent, a latch is set once; ended ones do not count."""
    position_id = await book.position()
    intent = (
        "INSERT INTO exit_intents (position_id, reason, purpose, asked_by, asked_at)"
        " VALUES ($1, 'r', 'exit', 'me', $2)"
    )
    latch = "INSERT INTO latches (name, set_at, reason, set_by) VALUES ('halt', $1, 'r', 'me')"
    await book.conn.execute(intent, position_id, AT)
    await book.conn.execute(latch, AT)
    with pytest.raises(asyncpg.UniqueViolationError):
        await book.conn.execute(intent, position_id, AT)
    with pytest.raises(asyncpg.UniqueViolationError):
        await book.conn.execute(latch, AT)
    await book.conn.execute("UPDATE exit_intents SET state = 'done', done_at = $1", AT)
    await book.conn.execute("UPDATE latches SET cleared_at = $1, cleared_by = 'me'", AT)
    await book.conn.execute(intent, position_id, AT)
    await book.conn.execute(latch, AT)


async def test_the_heartbeat_does_not_wait_for_order_writes(book: Book, store: Any):
    """A transaction that writes orders holds up a new epoch, not the beat of the current one."""
    async with book.conn.transaction():
        await book.order()
        async with store.tx("beat") as other:
            await other.execute("SET LOCAL lock_timeout = '50ms'")
            await other.execute("UPDATE daemon SET heartbeat_at = $1", AT)

        async def bump() -> None:
            async with store.tx("bump") as other:
                await other.execute("SET LOCAL lock_timeout = '50ms'")
                await other.execute("UPDATE daemon SET epoch = epoch + 1")

        with pytest.raises(asyncpg.LockNotAvailableError):
            await bump()
