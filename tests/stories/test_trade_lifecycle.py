"""Trade lifecycle: entries, protection, exits and the end of the day without faults, and two with a lost
response."""

import asyncio
from decimal import Decimal

import pytest

from tests.stories.scenario import open_scenario
from tests.waiting import wait_until

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


async def test_bracket_exits_at_target_with_exact_profit(database: str) -> None:
    """A bracket entry is protected at once and exits at its target with the exact profit."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=5)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (20, "open")
        assert position["protected_at"] is not None

        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)

        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT: AAPL @ $")
        assert position["realized_pnl"] == (position["exit_price"] - position["entry_price"]) * 20
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_bracket_exits_at_stop_with_market_loss(database: str) -> None:
    """A price below the stop sells at the market price and books that loss."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=5)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=5)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT: AAPL @ $")
        assert position["realized_pnl"] < 0
        await scenario.assert_consistent()


@pytest.mark.promise("C18")
async def test_partly_filled_entry_is_protected_for_filled_shares(database: str) -> None:
    """When 8 of 20 shares fill, the rest is cancelled after the grace and an OCO protects exactly 8."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("faults", {"kind": "partial", "symbol": "AAPL", "qty": "8"})
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=15)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 8
        assert position["protected_at"] is not None
        assert Decimal(0) < position["unprotected_seconds"] < 15
        oco = [o for o in await scenario.orders("AAPL") if o["order_class"] == "oco"]
        assert {o["quantity"] for o in oco} == {Decimal(8)}
        assert {o["order_purpose"] for o in oco} == {"take_profit", "stop_loss"}
        await scenario.assert_consistent()


@pytest.mark.promise("C25")
async def test_sigterm_flattens_and_exits_zero(database: str) -> None:
    """SIGTERM cancels, sells, proves flat and exits with code 0."""
    async with open_scenario(database) as scenario:
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.submit_entry("MSFT", 10, **ENTRY)
        await scenario.advance(seconds=5)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert scenario.held_qty("AAPL") == scenario.held_qty("MSFT") == 0
        await scenario.assert_consistent()
        proof = await scenario.conn.fetchrow("SELECT flat, broker_orders, broker_positions FROM flat_proofs")
        assert proof is not None
        assert tuple(proof) == (True, 0, 0)
        latch = await scenario.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert latch == "flatten"


@pytest.mark.promise("C22")
@pytest.mark.parametrize("hour", ["15:49"])
async def test_day_is_flat_ten_minutes_before_close(database: str, hour: str) -> None:
    """All positions are exited ten minutes before the close, and the cycle is completed."""
    from tests.simulator.manual_feed import at

    async with open_scenario(database, now=at(hour)) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 20
        scenario.print_trade("AAPL", "190.20", after=60)
        await scenario.advance(minutes=5)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        assert await scenario.wait_for_exit() == 0
        assert await scenario.conn.fetchval("SELECT status FROM trading_cycles") == "completed"
        await scenario.assert_consistent()


async def test_accepted_order_with_lost_response_is_adopted(database: str) -> None:
    """An entry whose response got lost is found by its client order id and protected."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("faults", {"kind": "drop", "method": "POST", "route": "/v2/orders"})
        row = await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=20)
        orders = await scenario.orders("AAPL")
        assert orders[0]["status"] == "filled"
        assert orders[0]["order_id"] == row.order_id
        assert len([o for o in orders if o["order_purpose"] == "entry"]) == 1
        assert len(orders) == 3
        assert scenario.held_qty("AAPL") == 20
        await scenario.assert_consistent()


@pytest.mark.promise("C31")
async def test_order_is_adopted_after_crash_following_submit(database: str) -> None:
    """After a crash between request and response the next daemon adopts the order, books the fill and
    protects it."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("faults", {"kind": "hang", "method": "POST", "route": "/v2/orders"})
        entry_task = asyncio.ensure_future(scenario.submit_entry("AAPL", 20, **ENTRY))
        await wait_until(lambda: bool(scenario.server.exchange.state.order_store.orders))
        await scenario.crash()
        entry_task.cancel()
        await asyncio.gather(entry_task, return_exceptions=True)
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 20

        await scenario.start()
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        assert position["protected_at"] is not None
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()
