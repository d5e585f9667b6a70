"""A trader's day in stories: given a desk, when the market does this, then the books say that."""

import asyncio
from decimal import Decimal

import pytest

from tests.stories.scenario import open_desk, until

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


async def test_a_bracket_that_reaches_its_target(database: str) -> None:
    """An entry fills, is protected at once, and leaves at its target with the profit to the cent."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=5)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (20, "open")
        assert position["protected_at"] is not None

        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=5)

        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT: AAPL @ $")
        assert position["realized_pnl"] == (position["exit_price"] - position["entry_price"]) * 20
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_a_bracket_that_is_stopped(database: str) -> None:
    """A fall through the stop sells at the market price, and the loss is what the exchange paid."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=5)
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=5)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT: AAPL @ $")
        assert position["realized_pnl"] < 0
        await desk.agrees()


async def test_c18_a_partly_filled_entry_is_protected_for_what_filled(database: str) -> None:
    """Forty of a hundred shares fill; the rest is cancelled after the grace and an OCO covers exactly forty."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.admin("faults", {"kind": "partial", "symbol": "AAPL", "qty": "8"})
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=15)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["quantity"] == 8
        assert position["protected_at"] is not None
        assert Decimal(0) < position["naked_seconds"] < 15
        oco = [o for o in await desk.orders("AAPL") if o["order_class"] == "oco"]
        assert {o["quantity"] for o in oco} == {Decimal(8)}
        assert {o["order_purpose"] for o in oco} == {"take_profit", "stop_loss"}
        await desk.agrees()


async def test_c25_sigterm_is_flat_now(database: str) -> None:
    """Asked to stop, the daemon cancels, sells, proves it is flat and leaves with code zero."""
    async with open_desk(database) as desk:
        for symbol in ("AAPL", "MSFT"):
            desk.prints(symbol, "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.enters("MSFT", 10, **ENTRY)
        await desk.waits(seconds=5)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        assert desk.held("AAPL") == desk.held("MSFT") == 0
        await desk.agrees()
        proof = await desk.conn.fetchrow("SELECT flat, broker_orders, broker_positions FROM flat_proofs")
        assert proof is not None
        assert tuple(proof) == (True, 0, 0)
        latch = await desk.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert latch == "flatten"


@pytest.mark.parametrize("hour", ["15:49"])
async def test_c22_flat_before_the_close(database: str, hour: str) -> None:
    """Ten minutes before the actual close everything is left, and the day completes flat."""
    from tests.simulator.manual_feed import at

    async with open_desk(database, now=at(hour)) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 20
        desk.prints("AAPL", "190.20", after=60)
        await desk.waits(minutes=5)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        assert await desk.leaves() == 0
        assert await desk.conn.fetchval("SELECT status FROM trading_cycles") == "completed"
        await desk.agrees()


async def test_an_accepted_order_whose_answer_was_lost_is_adopted(database: str) -> None:
    """The exchange takes the entry and the connection dies: one order, found by our id, protected, equal."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.admin("faults", {"kind": "drop", "method": "POST", "route": "/v2/orders"})
        row = await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=20)
        orders = await desk.orders("AAPL")
        assert orders[0]["status"] == "filled"
        assert orders[0]["order_id"] == row.order_id
        assert len([o for o in orders if o["order_purpose"] == "entry"]) == 1
        assert len(orders) == 3
        assert desk.held("AAPL") == 20
        await desk.agrees()


async def test_c31_a_daemon_that_dies_after_its_submit_adopts_the_order(database: str) -> None:
    """Killed between the request and its answer, the next daemon finds the order, books the fill, and protects."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.admin("faults", {"kind": "hang", "method": "POST", "route": "/v2/orders"})
        entering = asyncio.ensure_future(desk.enters("AAPL", 20, **ENTRY))
        await until(lambda: bool(desk.server.exchange.book.orders))
        await desk.dies()
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 20

        await desk.opens()
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        assert position["protected_at"] is not None
        assert await desk.submits("AAPL") == 1
        await desk.agrees()
