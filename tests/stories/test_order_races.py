"""Fills, cancels, legs and exits race each other; no share is lost, none is sold that is not held."""

from decimal import Decimal

import pytest

from catalyst.domain.report import Fill
from tests.stories.scenario import ENTRY, open_scenario


async def test_entry_that_fills_before_its_cancel_is_protected_by_its_legs(database: str) -> None:
    """Eight filled, the rest cancelled after the grace, and the fill wins: twenty held under their own legs."""
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
async def test_partial_entry_gets_one_oco_whatever_happens_to_its_legs(
    database: str, partial_entry: str
) -> None:
    """Whether the broker drops the legs of a cancelled entry or leaves them asleep: one OCO for what filled."""
    async with open_scenario(database) as scenario:
        await scenario.admin("settings", {"partial_entry": partial_entry})
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=25)
        live = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", Decimal(8))}
        await scenario.assert_consistent()


@pytest.mark.promise("C19")
@pytest.mark.parametrize("kind", ["leg_reject", "leg_cancel"])
async def test_dead_stop_leg_is_replaced_within_seconds(database: str, kind: str) -> None:
    """The venue turns the stop leg away as the entry fills: a new stop and target stand within seconds, and the
    time without one is on record."""
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
    """Protected for a minute, then the stop is gone: it is put back, the record says since when, and how long."""
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
    """The acknowledgement shows no legs: they are read, found, and no second pair is placed."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("leg_omit", method="POST", route="/v2/orders")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=10)
        assert len(await scenario.orders("AAPL")) == 3
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


async def test_partial_target_fill_reduces_stop_quantity(database: str) -> None:
    """Eight of twenty leave at the target: the tables' stop is for twelve, as the broker's, and nothing is redone."""
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
    """The target, or the stop, fills before our cancel gets through: what is gone is not sold again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("cancel_delay", symbol="AAPL", seconds=3, count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        scenario.print_trade("AAPL", price)
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C25")
async def test_simultaneous_exit_requests_sell_once(database: str) -> None:
    """Operator, flatten and SIGTERM in the same second: one sale."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
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
    """The legs stay in pending_cancel for two minutes: no second sale, somebody is told, and then it is sold."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
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
    """The broker's OCO fails and we are short: somebody is paged, the surplus is bought back within seconds on an
    account of its own, the position keeps its first ending, and the books are the exchange's to the cent."""
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
        assert "AAPL" not in scenario.components.gate.mismatched_symbols
        await scenario.assert_consistent(crossed_zero=True)


@pytest.mark.promise("F057")
async def test_late_exit_fill_is_booked_on_its_own_position(database: str) -> None:
    """Left by the target and entered again, and then the ledger tells of a fill of the first position's stop: it is
    booked where it belongs, somebody is told, and the second position is as it was."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        old = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        first = await scenario.position("AAPL")
        assert (old["status"], (first or {})["status"]) == ("cancelled", "closed")
        await scenario.given_position("AAPL", 12)
        assert scenario.components is not None
        late = Fill(
            old["alpaca_order_id"],
            Decimal(20),
            Decimal(20),
            Decimal("187.90"),
            scenario.clock.now(),
            activity_id="late",
        )
        assert await scenario.components.ledger.apply_fill(late, "reconcile")
        await scenario.advance(seconds=30)
        assert {"LATE_FILL", "OVERSOLD"} <= set(await scenario.alert_events())
        rows = await scenario.conn.fetch("SELECT * FROM positions ORDER BY position_id")
        assert [(r["entered_qty"], r["exited_qty"], r["quantity"], r["status"]) for r in rows] == [
            (20, 20, 0, "closed"),
            (12, 0, 12, "open"),
        ]
        assert rows[0]["close_reason"].startswith("TAKE_PROFIT_HIT")
        booked = await scenario.conn.fetchval(
            "SELECT sum(quantity) FROM executions WHERE order_id = $1", old["order_id"]
        )
        assert (booked, scenario.held_qty("AAPL")) == (
            20,
            12,
        )  # nothing was bought back: the broker is not short


async def test_position_is_sold_when_stop_is_gone_and_level_crossed(database: str) -> None:
    """The stop is gone and the price below it, so no stop can be placed: the shares are sold at once, as a stop."""
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
