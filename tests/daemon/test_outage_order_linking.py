"""What was sold without the tables is booked on the position it ended, however the fills come in."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from catalyst.domain.invariants import Invariant
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.report import Fill
from catalyst.store import invariant_checks, orders
from catalyst.store.orders import NewOrder, OrderRow
from tests.daemon.test_apply_batch import FULL, Told, told
from tests.store.raw_rows import AT

__all__ = ["told"]  # the fixture


async def sold(told: Told, entry: OrderRow, *, after: float) -> str:
    """A sale of all of the entry's shares, so many seconds after AT, as a spool tells of it; its broker id."""
    new = NewOrder(
        client_order_id="cat-9-z", symbol=entry.symbol, purpose=Purpose.EXIT, position_side=PositionSide.LONG,
        side=Side.SELL, quantity=FULL, order_type="market", time_in_force="day", order_class="simple",
        origin="emergency", epoch=1,
    )  # fmt: skip
    at = AT + timedelta(seconds=after)
    async with told.store.tx("spool") as conn:
        order_id = await orders.insert(
            conn, new, status=Status.SUBMITTED, at=at, source="emergency", note="STOP_LOSS_HIT: in the dark"
        )
        await orders.adopt(conn, order_id, broker_id="sale", broker_status="filled", at=at, epoch=1)
    await told.books.recall()
    return "sale"


async def books(told: Told, broker_id: str, quantity: int, in_all: int, *, after: float) -> bool:
    fill = Fill(
        broker_id=broker_id, cum_qty=Decimal(in_all), quantity=Decimal(quantity), price=Decimal(190),
        at=AT + timedelta(seconds=after), activity_id=f"{broker_id}-{in_all}",
    )  # fmt: skip
    return await told.books.book(fill, "poll")


async def positions(told: Told) -> list[tuple[Any, ...]]:
    async with told.store.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM orphans") == 0
        found = await conn.fetch(
            "SELECT entered_qty, exited_qty, status, split_part(close_reason, ':', 1) FROM positions"
        )
    return [tuple(row) for row in found]


async def test_slices_of_a_sale_wait_for_the_slices_of_its_entry(told: Told) -> None:
    """Forty are booked as bought and forty as sold of a hundred each: they are no position of forty."""
    entry = await told.entry(1)
    assert entry.alpaca_order_id is not None
    sale = await sold(told, entry, after=60)
    assert await books(told, entry.alpaca_order_id, 40, 40, after=10)
    # The broker cannot be asked for the rest of the entry.
    assert not await books(told, sale, 40, 40, after=61)
    assert await books(told, entry.alpaca_order_id, 60, 100, after=11)
    assert await books(told, sale, 40, 40, after=61)
    assert await books(told, sale, 60, 100, after=62)
    assert await positions(told) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_a_sale_is_its_positions_though_our_clock_is_behind(told: Told) -> None:
    """By the broker's clock the shares came a second after we sold them by ours."""
    entry = await told.entry(1)
    assert entry.alpaca_order_id is not None
    sale = await sold(told, entry, after=10)
    assert not await books(told, sale, 100, 100, after=12)
    assert await books(told, entry.alpaca_order_id, 100, 100, after=11)
    assert await books(told, sale, 100, 100, after=12)
    assert await positions(told) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_a_sale_that_was_told_of_after_its_entry_is_its_positions(told: Told) -> None:
    """The entry's fill was heard in the moment in which the spool was told: the sale's own fill finds the position."""
    entry = await told.entry(1)
    assert entry.alpaca_order_id is not None
    assert await books(told, entry.alpaca_order_id, 100, 100, after=10)
    sale = await sold(told, entry, after=60)
    assert await books(told, sale, 100, 100, after=61)
    assert await positions(told) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_the_stop_of_a_pair_is_its_positions_though_its_first_is_over(told: Told) -> None:
    """Both protect without the tables; the stop is elected, and the target at its head over, before the entry's fill
    is known: the stop is tied all the same, and known to be untied by the next life."""
    entry = await told.entry(1)
    assert entry.alpaca_order_id is not None
    at = AT + timedelta(seconds=30)
    common = {
        "symbol": entry.symbol, "position_side": PositionSide.LONG, "side": Side.SELL, "quantity": FULL,
        "time_in_force": "day", "order_class": "oco", "epoch": 1,
    }  # fmt: skip
    head = NewOrder(
        client_order_id="cat-9-zp", purpose=Purpose.TAKE_PROFIT, order_type="limit", origin="emergency",
        limit_price=Decimal(194), bracket_stop=Decimal(188), bracket_target=Decimal(194), **common,
    )  # fmt: skip
    async with told.store.tx("spool") as conn:
        first = await orders.insert(
            conn, head, status=Status.SUBMITTED, at=at, source="emergency", note="bare"
        )
        await orders.adopt(conn, first, broker_id="head", broker_status="new", at=at, epoch=1)
        leg = NewOrder(
            client_order_id="leg", purpose=Purpose.STOP_LOSS, order_type="stop", origin="broker",
            stop_price=Decimal(188), parent_order_id=first, alpaca_order_id="stop", broker_status="new", **common,
        )  # fmt: skip
        await orders.insert(conn, leg, status=Status.SUBMITTED, at=at, source="poll", note="seen")
        await orders.move(
            conn, first, seen=Status.SUBMITTED, then=Status.CANCELLED, at=at, source="poll", epoch=1
        )
    await told.books.recall()
    assert told.books.untied == {entry.symbol}
    assert not await books(told, "stop", 100, 100, after=61)
    assert await books(told, entry.alpaca_order_id, 100, 100, after=10)
    assert await books(told, "stop", 100, 100, after=61)
    assert await positions(told) == [(100, 100, "closed", "STOP_LOSS_HIT")]


async def test_a_sale_of_more_than_is_booked_yet_breaks_no_invariant(told: Told) -> None:
    """Forty of a hundred are booked as bought, a hundred are being sold: the ledger lags, our books are not wrong."""
    entry = await told.entry(1)
    assert entry.alpaca_order_id is not None
    await sold(told, entry, after=60)
    assert await books(told, entry.alpaca_order_id, 40, 40, after=10)
    async with told.store.read() as conn:
        found = await invariant_checks.violations(conn, since=0)
    assert Invariant.I5 not in {one.invariant for one in found}


async def test_a_position_of_later_is_another(told: Told) -> None:
    """What was sold before an entry was even placed is none of its position."""
    entry = await told.entry(1)
    assert entry.alpaca_order_id is not None
    await sold(told, entry, after=-60)
    assert await books(told, entry.alpaca_order_id, 100, 100, after=10)
    async with told.store.read() as conn:
        assert await conn.fetchval("SELECT position_id FROM orders WHERE origin = 'emergency'") is None
    assert await positions(told) == [(100, 0, "open", None)]
