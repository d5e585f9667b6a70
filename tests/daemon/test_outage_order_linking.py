"""What was sold without the tables is booked on the position it ended, however the fills come in."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from catalyst.domain.invariants import Invariant
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.report import Fill
from catalyst.store import invariant_checks, orders
from catalyst.store.orders import NewOrder, OrderRow
from tests.daemon.test_apply_batch import FULL, LedgerSetup, ledger_setup
from tests.store.raw_rows import AT

__all__ = ["ledger_setup"]  # the fixture


async def insert_outage_sale(ledger_setup: LedgerSetup, entry: OrderRow, *, after: float) -> str:
    """A sale of all of the entry's shares, so many seconds after AT, as a spool tells of it; its broker id."""
    new = NewOrder(
        client_order_id="cat-9-z", symbol=entry.symbol, purpose=Purpose.EXIT, position_side=PositionSide.LONG,
        side=Side.SELL, quantity=FULL, order_type="market", time_in_force="day", order_class="simple",
        origin="outage", epoch=1,
    )  # fmt: skip
    at = AT + timedelta(seconds=after)
    async with ledger_setup.store.tx("spool") as conn:
        order_id = await orders.insert(
            conn, new, status=Status.SUBMITTED, at=at, source="outage", note="STOP_LOSS_HIT: in the dark"
        )
        await orders.set_broker_id(conn, order_id, broker_id="sale", broker_status="filled", at=at, epoch=1)
    await ledger_setup.ledger.load_unlinked_symbols()
    return "sale"


async def book_fill(
    ledger_setup: LedgerSetup, broker_id: str, quantity: int, in_all: int, *, after: float
) -> bool:
    fill = Fill(
        broker_id=broker_id, cum_qty=Decimal(in_all), quantity=Decimal(quantity), price=Decimal(190),
        at=AT + timedelta(seconds=after), activity_id=f"{broker_id}-{in_all}",
    )  # fmt: skip
    return await ledger_setup.ledger.apply_fill(fill, "poll")


async def position_rows(ledger_setup: LedgerSetup) -> list[tuple[Any, ...]]:
    async with ledger_setup.store.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM orphans") == 0
        found = await conn.fetch(
            "SELECT entered_qty, exited_qty, status, split_part(close_reason, ':', 1) FROM positions"
        )
    return [tuple(row) for row in found]


async def test_outage_exit_fills_wait_for_matching_entry_fills(ledger_setup: LedgerSetup) -> None:
    """Forty are booked as bought and forty as sold of a hundred each: they are no position of forty."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    sale = await insert_outage_sale(ledger_setup, entry, after=60)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 40, 40, after=10)
    # The broker cannot be asked for the rest of the entry.
    assert not await book_fill(ledger_setup, sale, 40, 40, after=61)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 60, 100, after=11)
    assert await book_fill(ledger_setup, sale, 40, 40, after=61)
    assert await book_fill(ledger_setup, sale, 60, 100, after=62)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_exit_is_linked_when_local_clock_is_behind(ledger_setup: LedgerSetup) -> None:
    """By the broker's clock the shares came a second after we sold them by ours."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    sale = await insert_outage_sale(ledger_setup, entry, after=10)
    assert not await book_fill(ledger_setup, sale, 100, 100, after=12)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=11)
    assert await book_fill(ledger_setup, sale, 100, 100, after=12)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_exit_imported_after_entry_fill_is_linked(ledger_setup: LedgerSetup) -> None:
    """The entry's fill was heard in the moment in which the spool was told: the sale's own fill finds the position."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=10)
    sale = await insert_outage_sale(ledger_setup, entry, after=60)
    assert await book_fill(ledger_setup, sale, 100, 100, after=61)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_oco_stop_is_linked_when_target_is_cancelled(ledger_setup: LedgerSetup) -> None:
    """Both protect without the tables; the stop is elected, and the target at its head over, before the entry's fill
    is known: the stop is tied all the same, and known to be untied by the next life."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    at = AT + timedelta(seconds=30)
    common = {
        "symbol": entry.symbol, "position_side": PositionSide.LONG, "side": Side.SELL, "quantity": FULL,
        "time_in_force": "day", "order_class": "oco", "epoch": 1,
    }  # fmt: skip
    head = NewOrder(
        client_order_id="cat-9-zp", purpose=Purpose.TAKE_PROFIT, order_type="limit", origin="outage",
        limit_price=Decimal(194), bracket_stop=Decimal(188), bracket_target=Decimal(194), **common,
    )  # fmt: skip
    async with ledger_setup.store.tx("spool") as conn:
        first = await orders.insert(
            conn, head, status=Status.SUBMITTED, at=at, source="outage", note="unprotected"
        )
        await orders.set_broker_id(conn, first, broker_id="head", broker_status="new", at=at, epoch=1)
        leg = NewOrder(
            client_order_id="leg", purpose=Purpose.STOP_LOSS, order_type="stop", origin="broker",
            stop_price=Decimal(188), parent_order_id=first, alpaca_order_id="stop", broker_status="new", **common,
        )  # fmt: skip
        await orders.insert(conn, leg, status=Status.SUBMITTED, at=at, source="poll", note="seen")
        await orders.transition(
            conn,
            first,
            from_status=Status.SUBMITTED,
            to_status=Status.CANCELLED,
            at=at,
            source="poll",
            epoch=1,
        )
    await ledger_setup.ledger.load_unlinked_symbols()
    assert ledger_setup.ledger.unlinked_symbols == {entry.symbol}
    assert not await book_fill(ledger_setup, "stop", 100, 100, after=61)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=10)
    assert await book_fill(ledger_setup, "stop", 100, 100, after=61)
    assert await position_rows(ledger_setup) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_outage_exit_larger_than_booked_entry_breaks_no_invariant(ledger_setup: LedgerSetup) -> None:
    """Forty of a hundred are booked as bought, a hundred are being sold: the ledger lags, our books are not wrong."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    await insert_outage_sale(ledger_setup, entry, after=60)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 40, 40, after=10)
    async with ledger_setup.store.read() as conn:
        found = await invariant_checks.violations(conn, since_seq=0)
    assert Invariant.I5 not in {one.invariant for one in found}


async def test_outage_exit_is_not_linked_to_later_position(ledger_setup: LedgerSetup) -> None:
    """What was sold before an entry was even placed is none of its position."""
    entry = await ledger_setup.create_entry(1)
    assert entry.alpaca_order_id is not None
    await insert_outage_sale(ledger_setup, entry, after=-60)
    assert await book_fill(ledger_setup, entry.alpaca_order_id, 100, 100, after=10)
    async with ledger_setup.store.read() as conn:
        assert await conn.fetchval("SELECT position_id FROM orders WHERE origin = 'outage'") is None
    assert await position_rows(ledger_setup) == [(100, 0, "open", None)]
