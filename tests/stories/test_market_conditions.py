"""Market conditions: gaps, halts, splits, half days, short positions and invalid prices."""

from decimal import Decimal

import pytest

from catalyst.domain.order import Purpose
from tests.simulator.manual_feed import HALF_DAY, at
from tests.stories.scenario import ENTRY, open_scenario
from tests.stories.test_orphan_positions import working_exits


async def test_gap_through_stop_books_real_loss(database: str) -> None:
    """A gap of 8 % through the stop sells at the market price and books the real loss."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "174.80")
        await scenario.advance(seconds=5)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert position["exit_price"] < 175
        await scenario.assert_consistent()


@pytest.mark.promise("C20")
async def test_stop_monitor_sells_when_broker_stop_does_not_trigger(database: str) -> None:
    """When the price crosses the stop and the broker's stop does not trigger, the stop monitor sells after
    two observations and the grace."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("no_trigger", symbol="AAPL", count=0)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=45)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await scenario.assert_consistent()


async def test_print_older_than_entry_does_not_trigger_exit(database: str) -> None:
    """A last print below the stop but older than the entry causes no exit."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=1)
        assert isinstance(scenario.market.quotes, dict)
        scenario.market.quotes["AAPL"] = ("190.00", "190.02")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 20
        assert await scenario.count_submitted("AAPL") == 1


async def test_cancelled_target_is_enforced_by_monitor(database: str) -> None:
    """When the venue cancels the target leg, the monitor sells at the target price."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("leg_cancel", symbol="AAPL", role="take_profit")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=10)
        scenario.print_trade("AAPL", "194.20")
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        await scenario.assert_consistent()


@pytest.mark.promise("C23")
async def test_exit_during_halt_waits_at_the_market_behind_its_stop(database: str) -> None:
    """During a halt the broker refuses the sale: the stop is put back, an alert is raised, and the target waits at the
    market beside its stop; the first trade after the halt sells."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin("halt", {"symbol": "AAPL"})
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 20
        assert "EXIT_REFUSED" in await scenario.alert_events()
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 20), ("stop", "held", 20)]
        exits = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert [(o["order_type"], o["status"]) for o in exits] == [("market", "rejected")]
        await scenario.admin("resume", {"symbol": "AAPL"})
        scenario.print_trade("AAPL", "181.00")
        await scenario.advance(seconds=1)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("F061")
async def test_stop_cancelled_during_halt_is_replaced(database: str) -> None:
    """When the venue cancels the stop during a halt, a new OCO for the exact shares is placed at once and
    works after the reopening."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin("halt", {"symbol": "AAPL", "reason": "price_bands"})
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        await scenario.admin("cancel", {"id": stop["alpaca_order_id"]})
        await scenario.advance(seconds=20)
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 20), ("stop", "held", 20)]
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert position["unprotected_seconds"] > 0
        await scenario.admin("resume", {"symbol": "AAPL"})
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("F065")
@pytest.mark.parametrize("factor", [2, Decimal("0.1")])
async def test_split_blocks_symbol_without_orders_or_fills(database: str, factor: Decimal | int) -> None:
    """A split without a fill becomes a discrepancy: an alert, orphan shares, a blocked symbol, but no
    invented fill and no sale."""
    async with open_scenario(
        database, reconcile={"orphans": "alert"}, risk={"max_daily_loss": 50_000}
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.server.exchange.state.account.positions["AAPL"].qty *= factor
        await scenario.advance(seconds=90)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["quantity"], scenario.held_qty("AAPL")) == (
            "open",
            20,
            20 * factor,
        )
        assert await scenario.count_submitted("AAPL") == 1
        assert {"ORPHAN_POSITION", "QTY_MISMATCH"} & set(await scenario.alert_events())
        assert (
            await scenario.conn.fetchval("SELECT count(*) FROM order_events WHERE kind = 'adjustment'") == 1
        )
        assert await scenario.conn.fetchval("SELECT count(*) FROM executions") == 1
        assert scenario.components is not None
        assert scenario.components.gate.refusal("AAPL") is not None


@pytest.mark.promise("C27")
async def test_exit_after_close_keeps_protection_orders(database: str) -> None:
    """An exit requested after the close cancels and moves no protection order, and sends no sale."""
    async with open_scenario(
        database,
        now=at("15:40"),
        positions={"close_all_at_market_close": False},
        risk={"max_daily_loss": "900"},
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=21)
        assert scenario.components is not None

        async def change_count() -> int:
            logs = [await scenario.admin(f"logs?method={method}") for method in ("DELETE", "PATCH")]
            return sum(len(log["requests"]) for log in logs)

        count_before = await change_count()
        position = await scenario.position("AAPL")
        assert position is not None
        await scenario.components.exits.request(
            position["position_id"], reason="MANUAL: late", purpose=Purpose.EXIT, by="trader"
        )
        await scenario.advance(seconds=20)
        assert await change_count() == count_before
        sales = [order for order in await scenario.orders("AAPL") if order["order_purpose"] == "exit"]
        assert not [order for order in sales if order["submitted_at"] is not None]


@pytest.mark.promise("C22")
async def test_half_day_is_flat_ten_minutes_before_close(database: str) -> None:
    """On a half day all positions are exited ten minutes before 13:00."""
    async with open_scenario(database, now=at("12:48", HALF_DAY)) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "190.20", after=120)
        await scenario.advance(minutes=6)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        assert await scenario.wait_for_exit(step=5) == 0
        assert await scenario.conn.fetchval("SELECT status FROM trading_cycles") == "completed"
        await scenario.assert_consistent()


async def test_short_brackets_exit_at_target_and_stop(database: str) -> None:
    """Short brackets exit at target and stop with the right sign and reason."""
    async with open_scenario(database, trading={"allow_short": True}) as scenario:
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        short = {"limit": "189.90", "stop": "192.00", "target": "186.00", "side": "short"}
        await scenario.submit_entry("AAPL", 20, **short)
        await scenario.submit_entry("MSFT", 10, **short)
        await scenario.advance(seconds=5)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (-20, -10)
        scenario.print_trade("AAPL", "185.90")
        scenario.print_trade("MSFT", "192.30")
        await scenario.advance(seconds=10)
        gain, loss = await scenario.position("AAPL"), await scenario.position("MSFT")
        assert gain is not None
        assert loss is not None
        assert gain["close_reason"].startswith("TAKE_PROFIT_HIT")
        assert gain["realized_pnl"] > 0
        assert loss["close_reason"].startswith("STOP_LOSS_HIT")
        assert loss["realized_pnl"] < 0
        await scenario.assert_consistent()


async def test_partial_short_is_protected_and_bought_back_on_command(database: str) -> None:
    """A partly filled short entry is protected by an OCO and bought back on command."""
    async with open_scenario(database, trading={"allow_short": True}) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, limit="189.90", stop="192.00", target="186.00", side="short")
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], scenario.held_qty("AAPL")) == (8, -8)
        assert position["protected_at"] is not None
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()
