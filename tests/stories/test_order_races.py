"""Order races: fills, cancels, legs and exits cross each other; no share is lost or oversold."""

from decimal import Decimal

import pytest

from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.report import Fill
from tests.stories.scenario import ENTRY, open_scenario


async def test_entry_that_fills_before_its_cancel_is_protected_by_its_legs(database: str) -> None:
    """A partial entry that fills before its cancel arrives has 20 shares protected by its own legs."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.inject_fault("cancel_loses", symbol="AAPL")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 20
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


@pytest.mark.promise("C13")
@pytest.mark.parametrize("partial_entry", ["canceled", "held"])
async def test_partial_entry_gets_one_oco_with_cancelled_or_held_legs(
    database: str, partial_entry: str
) -> None:
    """Whether the broker cancels the legs of a cancelled entry or leaves them held, one OCO protects the
    filled shares."""
    async with open_scenario(database) as scenario:
        await scenario.admin("settings", {"partial_entry": partial_entry})
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=25)
        working = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in working} == {("oco", Decimal(8))}
        await scenario.assert_consistent()


@pytest.mark.promise("C19")
@pytest.mark.parametrize("kind", ["leg_reject", "leg_cancel"])
async def test_failed_stop_leg_is_replaced_within_seconds(database: str, kind: str) -> None:
    """When the venue rejects or cancels the stop leg, a new stop and target follow within seconds, and the
    unprotected time is stored."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault(kind, symbol="AAPL", role="stop_loss")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=10)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert position["unprotected_seconds"] > 0
        await scenario.assert_consistent()


async def test_stop_cancelled_by_hand_is_replaced(database: str) -> None:
    """A stop cancelled by hand is replaced; the position has the new `protected_at` and the unprotected
    seconds."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=60)
        before = await scenario.position("AAPL")
        assert before is not None
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        await scenario.admin("cancel", {"id": stop["alpaca_order_id"]})
        await scenario.advance(seconds=15)
        after = await scenario.position("AAPL")
        assert after is not None
        assert after["protected_at"] > before["protected_at"]
        assert (
            before["unprotected_seconds"] < after["unprotected_seconds"] < before["unprotected_seconds"] + 10
        )
        assert scenario.held_qty("AAPL") == 20
        await scenario.assert_consistent()


@pytest.mark.promise("C08")
async def test_legs_missing_from_response_are_read_without_duplicates(database: str) -> None:
    """Legs missing from the submit response are read, and no second pair is placed."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("leg_omit", method="POST", route="/v2/orders")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=10)
        assert len(await scenario.orders("AAPL")) == 3
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


async def test_partial_target_fill_reduces_stop_quantity(database: str) -> None:
    """When 8 of 20 shares fill at the target, the stop in the database is for 12, as at the broker, and no
    order is sent."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="take_profit")
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (12, "open")
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        assert (stop["quantity"], stop["status"]) == (12, "accepted")
        assert await scenario.count_submitted("AAPL") == 1
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C21")
@pytest.mark.parametrize("price", ["194.05", "187.90"])
async def test_leg_that_fills_during_exit_is_not_sold_again(database: str, price: str) -> None:
    """Shares sold by a leg before its cancel arrives are not sold again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("cancel_delay", symbol="AAPL", seconds=3, count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        scenario.print_trade("AAPL", price)
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C25")
async def test_simultaneous_exit_requests_sell_once(database: str) -> None:
    """Close, flatten and SIGTERM in the same second cause one sale."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by) VALUES"
            " ('close', '{\"symbol\": \"AAPL\"}', $1, 'a'), ('flatten', '{}', $1, 'b')",
            scenario.clock.now(),
        )
        scenario.stop.request("SIGTERM", flatten=True)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("AAPL") == 2
        await scenario.assert_consistent()


@pytest.mark.promise("C21")
async def test_hanging_cancel_delays_exit_and_alerts(database: str) -> None:
    """While the cancel of the legs hangs for two minutes, no sale is sent and an alert is raised; then the
    shares are sold."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("cancel_delay", symbol="AAPL", seconds=120, count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 20
        assert "EXIT_SLOW" in await scenario.alert_events()
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("AAPL") == 2
        await scenario.assert_consistent()


async def test_surplus_is_bought_back_when_both_exits_fill(database: str) -> None:
    """When both legs fill, an alert is raised and the oversold shares are bought back within seconds as an
    orphan; the position keeps its first close reason."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("double_exit", symbol="AAPL")
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        assert "OVERSOLD" in await scenario.alert_events()
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        assert position["exited_qty"] == 20
        orphan = await scenario.conn.fetchrow("SELECT * FROM orphans")
        assert (orphan["cause"], orphan["position_id"]) == ("oversold", position["position_id"])
        assert (orphan["quantity"], orphan["end_reason"]) == (0, "exited")
        await scenario.advance(seconds=10)
        assert scenario.components is not None
        assert not scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")
        await scenario.assert_consistent(crossed_zero=True)


@pytest.mark.promise("F057")
async def test_late_exit_fill_is_booked_on_its_own_position(database: str) -> None:
    """A late fill of the first position's stop is booked on that position with an alert; the second position
    is unchanged."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        old_stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        first_position = await scenario.position("AAPL")
        assert (old_stop["status"], (first_position or {})["status"]) == ("cancelled", "closed")
        await scenario.given_position("AAPL", 12)
        assert scenario.components is not None
        late_fill = Fill(
            old_stop["alpaca_order_id"],
            Decimal(20),
            Decimal(20),
            Decimal("187.90"),
            scenario.clock.now(),
            activity_id="late",
        )
        assert await scenario.components.ledger.apply_fill(late_fill, "reconcile")
        await scenario.advance(seconds=30)
        assert {"LATE_FILL", "OVERSOLD"} <= set(await scenario.alert_events())
        rows = await scenario.conn.fetch("SELECT * FROM positions ORDER BY position_id")
        assert [(r["entered_qty"], r["exited_qty"], r["quantity"], r["status"]) for r in rows] == [
            (20, 20, 0, "closed"),
            (12, 0, 12, "open"),
        ]
        assert rows[0]["close_reason"].startswith("TAKE_PROFIT_HIT")
        booked_qty = await scenario.conn.fetchval(
            "SELECT sum(quantity) FROM executions WHERE order_id = $1", old_stop["order_id"]
        )
        assert (booked_qty, scenario.held_qty("AAPL")) == (
            20,
            12,
        )  # no buyback: the broker is not short


async def test_position_is_sold_when_stop_is_gone_and_level_crossed(database: str) -> None:
    """With the stop cancelled and the price below its level, no stop can be placed: the shares are sold at
    once as a stop."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("leg_cancel", symbol="AAPL", role="stop_loss")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("slow_before", method="DELETE", route="/v2/orders/*", seconds=0.5)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        scenario.print_trade("AAPL", "187.00", after=0.4)
        await scenario.advance(seconds=12)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await scenario.assert_consistent()
