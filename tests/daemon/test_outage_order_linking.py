"""Linking of outage orders: an exit sent during a database outage is booked on the position it ended, in
whatever order the fills arrive."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.invariants import Invariant
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.report import Fill
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.store import invariant_checks, orders
from tests.daemon.test_apply_batch import FULL, LedgerSetup, ledger_setup
from tests.store.raw_rows import AT

__all__ = ["ledger_setup"]  # the fixture


async def insert_outage_sale(ledger_setup: LedgerSetup, entry: OrderRow, *, after: float) -> str:
    """Insert a spooled sale of all shares of the entry, `after` seconds after AT; return its broker id."""
    new = NewOrder(
        client_order_id="cat-9-z", symbol=entry.symbol, purpose=Purpose.EXIT, position_side=PositionSide.LONG,
        side=Side.SELL, quantity=FULL, order_type="market", time_in_force="day", order_class="simple",
        origin="outage", alpaca_order_id="sale", broker_status="filled", epoch=1,
    )  # fmt: skip
    at = AT + timedelta(seconds=after)
    async with ledger_setup.store.tx("spool") as conn:
        await orders.insert(
            conn, new, status=Status.SUBMITTED, at=at, source="outage", note="STOP_LOSS_HIT: database outage"
        )
    await ledger_setup.ledger.load_symbol_states()
    return "sale"


async def book_fill(
    ledger_setup: LedgerSetup, broker_id: str, quantity: int, cum_qty: int, *, after: float
) -> bool:
    """Apply a fill that was read from the account activities; return true when it was booked."""
    fill = Fill(
        broker_id=broker_id, cum_qty=Decimal(cum_qty), quantity=Decimal(quantity), price=Decimal(190),
        at=AT + timedelta(seconds=after), activity_id=f"{broker_id}-{cum_qty}",
    )  # fmt: skip
    return await ledger_setup.ledger.apply_fill(fill, "poll")


async def position_rows(ledger_setup: LedgerSetup) -> list[tuple[Any, ...]]:
    """Return entered and exited quantity, status and close reason of each position; there must be no orphan."""
    async with ledger_setup.store.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM orphans") == 0
        rows = await conn.fetch(
            "SELECT entered_qty, exited_qty, status, split_part(close_reason, ':', 1) FROM positions"
        )
    return [tuple(row) for row in rows]


async def test_outage_exit_fills_wait_for_matching_entry_fills(ledger_setup: LedgerSetup) -> None:
    """A partial exit fill is not booked against a partial entry fill; with the rest of both fills the
    position closes with 100 shares."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    sale = await insert_outage_sale(ledger_setup, entry, after=60)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 40, 40, after=10)
    # The broker is unreachable, so the rest of the entry stays unknown.
    assert not await book_fill(ledger_setup, sale, 40, 40, after=61)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 60, 100, after=11)
    assert await book_fill(ledger_setup, sale, 40, 40, after=61)
    assert await book_fill(ledger_setup, sale, 60, 100, after=62)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_exit_is_linked_when_local_clock_is_behind(ledger_setup: LedgerSetup) -> None:
    """An outage exit is linked although the broker's time of the entry fill is one second after our time of
    the exit."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    sale = await insert_outage_sale(ledger_setup, entry, after=10)
    assert not await book_fill(ledger_setup, sale, 100, 100, after=12)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=11)
    assert await book_fill(ledger_setup, sale, 100, 100, after=12)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_exit_imported_after_entry_fill_is_linked(ledger_setup: LedgerSetup) -> None:
    """An outage exit imported after the entry fill is linked to the position by its own fill."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=10)
    sale = await insert_outage_sale(ledger_setup, entry, after=60)
    assert await book_fill(ledger_setup, sale, 100, 100, after=61)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_oco_stop_is_linked_when_target_is_cancelled(ledger_setup: LedgerSetup) -> None:
    """Given an outage OCO whose target is cancelled before the entry fill is known, then its stop counts as
    unlinked after a restart and is linked by the entry fill."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    at = AT + timedelta(seconds=30)
    common = {
        "symbol": entry.symbol, "position_side": PositionSide.LONG, "side": Side.SELL, "quantity": FULL,
        "time_in_force": "day", "order_class": "oco", "epoch": 1,
    }  # fmt: skip
    target = NewOrder(
        client_order_id="cat-9-zp", purpose=Purpose.TAKE_PROFIT, order_type="limit", origin="outage",
        limit_price=Decimal(194), bracket_stop=Decimal(188), bracket_target=Decimal(194), alpaca_order_id="target",
        broker_status="new", **common,
    )  # fmt: skip
    async with ledger_setup.store.tx("spool") as conn:
        target_id = await orders.insert(
            conn, target, status=Status.SUBMITTED, at=at, source="outage", note="unprotected"
        )
        leg = NewOrder(
            client_order_id="leg", purpose=Purpose.STOP_LOSS, order_type="stop", origin="broker",
            stop_price=Decimal(188), parent_order_id=target_id, alpaca_order_id="stop", broker_status="new", **common,
        )  # fmt: skip
        await orders.insert(conn, leg, status=Status.SUBMITTED, at=at, source="poll", note="seen")
        await orders.transition(
            conn,
            target_id,
            from_status=Status.SUBMITTED,
            to_status=Status.CANCELLED,
            at=at,
            source="poll",
            epoch=1,
        )
    await ledger_setup.ledger.load_symbol_states()
    assert ledger_setup.ledger.symbols.symbols(SymbolReason.UNLINKED) == {entry.symbol}
    assert not await book_fill(ledger_setup, "stop", 100, 100, after=61)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=10)
    assert await book_fill(ledger_setup, "stop", 100, 100, after=61)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_exit_larger_than_booked_entry_breaks_no_invariant(ledger_setup: LedgerSetup) -> None:
    """An outage exit of 100 shares with 40 booked entry shares does not violate I5: the account activities
    lag."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    await insert_outage_sale(ledger_setup, entry, after=60)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 40, 40, after=10)
    async with ledger_setup.store.read() as conn:
        violations = await invariant_checks.violations(conn, since_seq=0)
    assert Invariant.I5 not in {violation.invariant for violation in violations}


async def test_outage_exit_is_not_linked_to_later_position(ledger_setup: LedgerSetup) -> None:
    """An outage exit sent before an entry was placed is not linked to the position of this entry."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    await insert_outage_sale(ledger_setup, entry, after=-60)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=10)
    async with ledger_setup.store.read() as conn:
        assert await conn.fetchval("SELECT position_id FROM orders WHERE origin = 'outage'") is None
    assert await position_rows(ledger_setup) == [(100, 0, "open", None)]
