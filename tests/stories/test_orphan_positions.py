"""Orphan positions: shares that no position explains are protected or sold by policy, with an alert."""

from datetime import timedelta
from decimal import Decimal

import pytest

from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.fault_points import Moment
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario

TUESDAY = MONDAY + timedelta(days=1)


async def buy_by_hand(scenario: Scenario, symbol: str, qty: int, **terms: object) -> str:
    """Buy at the market as an operator; return the broker id."""
    order = {"symbol": symbol, "side": "buy", "qty": str(qty), "type": "market", "time_in_force": "day"}
    return str((await scenario.admin("order", {**order, **terms}))["id"])


async def run_round_trip(scenario: Scenario, symbol: str) -> None:
    """Trade a round trip, so that the symbol counts as traded by us."""
    await scenario.given_position(symbol, 20)
    scenario.print_trade(symbol, "194.05")
    await scenario.advance(seconds=5)
    assert scenario.held_qty(symbol) == 0


async def orphan_row(scenario: Scenario) -> Facts:
    """Return the only orphan row."""
    row = await scenario.conn.fetchrow("SELECT * FROM orphans")
    assert row is not None
    return dict(row)


async def working_exits(scenario: Scenario, symbol: str) -> list[tuple[str, str, Decimal]]:
    """Return type, status and shares of the working orders of a symbol at the exchange."""
    logs = await scenario.admin("logs")
    working_statuses = {"new", "held", "accepted", "pending_new", "partially_filled"}
    return sorted(
        (o["type"], o["status"], Decimal(o["qty"]))
        for o in logs["orders"]
        if o["symbol"] == symbol and o["status"] in working_statuses
    )


async def hold_orphan_shares(scenario: Scenario) -> None:
    """Buy seven shares by hand yesterday while no daemon runs, in a symbol that we traded."""
    await run_round_trip(scenario, "AAPL")
    await scenario.crash()
    await buy_by_hand(scenario, "AAPL", 7)
    scenario.print_trade("AAPL", "194.00", after=1)
    await scenario.clock.advance_to(at("10:15", TUESDAY))
    assert scenario.held_qty("AAPL") == 7
    scenario.print_trade("AAPL", "194.00")
    await scenario.start()
    await scenario.advance(seconds=25)


@pytest.mark.parametrize("policy", ["protect", "alert"])
async def test_purchase_by_hand_follows_orphan_policy(database: str, policy: str) -> None:
    """With `protect` a purchase by hand becomes a position with an OCO for its shares; with `alert` it raises
    an alert and blocks the symbol."""
    async with open_scenario(database, reconcile={"orphans": policy}) as scenario:
        await run_round_trip(scenario, "AAPL")
        await buy_by_hand(scenario, "AAPL", 7)
        await scenario.advance(seconds=20)
        assert scenario.components is not None
        position = await scenario.position("AAPL")
        assert position is not None
        if policy == "alert":
            assert (position["status"], await working_exits(scenario, "AAPL")) == ("closed", [])
            assert "EXTERNAL_FILL" in await scenario.alert_events()
            assert scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")
            return
        assert (position["status"], position["quantity"]) == ("open", 7)
        assert position["cycle_id"] == scenario.components.current_day.cycle_id
        assert position["protected_at"] is not None
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 7), ("stop", "held", 7)]
        await scenario.assert_consistent()
        scenario.print_trade("AAPL", "188.00")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_purchase_by_hand_joins_held_position(database: str) -> None:
    """Shares bought by hand join the open position, which gets one stop for all 27 shares."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await buy_by_hand(scenario, "AAPL", 7)
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["stop_loss"]) == (27, Decimal("188.00"))
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 27), ("stop", "held", 27)]
        await scenario.assert_consistent()


async def test_orphan_shares_are_protected_until_sold(database: str) -> None:
    """Yesterday's orphan shares get an OCO beyond the day, an alert and an adjustment, but no position and no
    entries; a restart changes nothing, and the stop sells them and frees the symbol."""
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await hold_orphan_shares(scenario)
        orphan = await orphan_row(scenario)
        assert (orphan["cause"], orphan["side"], orphan["quantity"]) == ("unexplained", "long", 7)
        assert orphan["protected_at"] is not None
        assert orphan["stop_price"] == Decimal("190.12")  # 2 % below the market, on the tick
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 7), ("stop", "held", 7)]
        assert "ORPHAN_POSITION" in await scenario.alert_events()
        kinds = {r["kind"] for r in await scenario.conn.fetch("SELECT kind FROM order_events")}
        assert "adjustment" in kinds
        assert (
            await scenario.conn.fetchval(
                "SELECT count(*) FROM quarantine WHERE reason LIKE 'ORPHAN_POSITION%'"
            )
            == 1
        )
        assert await scenario.conn.fetchval("SELECT count(*) FROM positions WHERE status = 'open'") == 0
        assert (await scenario.submit_entry("AAPL", 5, **ENTRY)).status == "rejected"

        await scenario.crash()
        submitted = await scenario.count_submitted("AAPL")
        await scenario.start()
        await scenario.advance(seconds=30)
        assert await scenario.count_submitted("AAPL") == submitted
        assert (
            await scenario.conn.fetchval(
                "SELECT count(*) FROM quarantine WHERE reason LIKE 'ORPHAN_POSITION%'"
            )
            == 1
        )

        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        orphan = await orphan_row(scenario)
        assert (orphan["quantity"], orphan["end_reason"], orphan["exited_qty"]) == (0, "exited", 7)
        assert orphan["realized_pnl"] is None  # their cost is unknown
        assert scenario.components is not None
        assert not scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")


async def test_orphan_shares_are_sold_with_close_policy(database: str) -> None:
    """With `close` confirmed orphan shares are sold once, despite failed reads."""
    async with open_scenario(database, now=at("15:30", MONDAY), reconcile={"orphans": "close"}) as scenario:
        await scenario.inject_fault("status", method="GET", route="/v2/positions/AAPL", status=503, count=2)
        await hold_orphan_shares(scenario)
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        assert (await orphan_row(scenario))["end_reason"] == "exited"
        exits = [o for o in await scenario.orders("AAPL") if o["origin"] == "orphan"]
        assert [(o["order_purpose"], o["status"], o["quantity"]) for o in exits] == [("exit", "filled", 7)]


async def test_buyback_of_surplus_is_not_repeated_after_crash(database: str) -> None:
    """A crash after the buyback of oversold shares: the next start adopts it and buys no more."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("double_exit", symbol="AAPL")
        scenario.print_trade("AAPL", "194.05")
        await scenario.crash_at("POST /orders", Moment.AFTER)
        await scenario.start()
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        assert (await orphan_row(scenario))["end_reason"] == "exited"
        assert await scenario.count_submitted("AAPL") == 2
        await scenario.assert_consistent(crossed_zero=True)


async def test_hard_to_borrow_orphan_gets_day_stop(database: str) -> None:
    """A hard-to-borrow orphan, which takes no OCO, is protected by a day stop."""
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await scenario.admin("settings", {"hard_to_borrow": ["AAPL"]})
        await hold_orphan_shares(scenario)
        await scenario.advance(seconds=10)
        assert (await orphan_row(scenario))["protected_at"] is not None
        working = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["time_in_force"], o["quantity"]) for o in working} == {("day", Decimal(7))}


async def test_own_entry_with_lost_row_is_adopted_with_its_legs(database: str) -> None:
    """An own entry whose row was lost, e.g. after a restored backup, is adopted as a position with its legs;
    nothing is sent again."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(
            scenario,
            "MSFT",
            10,
            client_order_id=scenario.own_order_id("lost", "e"),
            order_class="bracket",
            take_profit={"limit_price": "194.00"},
            stop_loss={"stop_price": "188.00"},
        )
        await scenario.advance(seconds=20)
        position = await scenario.position("MSFT")
        assert position is not None
        assert (position["quantity"], position["stop_loss"], position["take_profit"]) == (10, 188, 194)
        assert position["protected_at"] is not None
        assert "ORDER_ADOPTED" in await scenario.alert_events()
        assert len(await scenario.orders("MSFT")) == 3
        await scenario.assert_consistent()
