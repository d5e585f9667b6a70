"""Shorts in rare states: bought back by a person, seen as a long, joined by shares that no order explains."""

import pytest

from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_operator_actions import order_by_hand
from tests.stories.test_orphan_positions import orphan_row, working_exits

SHORT = {"limit": "189.90", "stop": "192.00", "target": "186.00", "side": "short"}
ALLOWED = {"allow_short": True}


async def given_short(scenario: Scenario, *, cancel_exits: bool = False) -> None:
    """Sell 20 AAPL short by a bracket entry; `cancel_exits`: a person then cancels its exits."""
    scenario.print_trade("AAPL", "190.00")
    await scenario.advance(seconds=1)
    await scenario.submit_entry("AAPL", 20, **SHORT)
    await scenario.advance(seconds=5)
    assert scenario.held_qty("AAPL") == -20
    if cancel_exits:
        target = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        await scenario.admin("cancel", {"id": target["alpaca_order_id"]})
        scenario.server.exchange.confirm_cancels()


async def test_short_bought_back_by_hand_closes_as_external(database: str) -> None:
    """A short that a person buys back closes as EXTERNAL; the purchase opens no long."""
    async with open_scenario(database, trading=ALLOWED) as scenario:
        await given_short(scenario, cancel_exits=True)
        await order_by_hand(scenario, "AAPL", "buy", 20)
        await scenario.advance(seconds=40)
        positions = await scenario.conn.fetch("SELECT side, status, close_reason FROM positions")
        assert [(row["side"], row["status"], row["close_reason"][:8]) for row in positions] == [
            ("short", "closed", "EXTERNAL")
        ]
        (bought,) = (o for o in await scenario.orders("AAPL") if o["origin"] == "external")
        assert (bought["order_purpose"], bought["side"]) == ("exit", "buy")
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_exit_of_short_sends_nothing_when_the_broker_shows_a_long(database: str) -> None:
    """Given a person bought 40 shares and no list shows it yet, then the exit of the short of 20 buys nothing: the
    broker shows a long."""
    async with open_scenario(database, trading=ALLOWED) as scenario:
        await given_short(scenario)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=500, count=0)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        await scenario.inject_fault("stream_drop", symbol="AAPL", side="buy", count=0)
        target = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        await scenario.admin("cancel", {"id": target["alpaca_order_id"]})
        scenario.server.exchange.confirm_cancels()
        for _ in range(2):
            await order_by_hand(scenario, "AAPL", "buy", 20)
            await scenario.advance(seconds=1)
        assert scenario.held_qty("AAPL") == 20
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=30)
        exits = [order for order in await scenario.orders("AAPL") if order["order_purpose"] == "exit"]
        assert not [order for order in exits if order["submitted_at"] is not None]
        assert scenario.held_qty("AAPL") == 20
        assert await scenario.conn.fetchval("SELECT state FROM exit_intents") == "abandoned"


@pytest.mark.parametrize("side", ["long", "short"])
async def test_orphan_shares_beside_a_position_are_protected_alone(database: str, side: str) -> None:
    """Given the broker shows twice the shares of a position, on either side, then the other 20 are orphan shares with
    stop and target of their own; the position keeps its bracket."""
    sign = 1 if side == "long" else -1
    async with open_scenario(database, trading=ALLOWED, risk={"max_daily_loss": 50_000}) as scenario:
        if side == "long":
            await scenario.given_position("AAPL", 20)
        else:
            await given_short(scenario)
        scenario.server.exchange.state.account.positions["AAPL"].qty *= 2
        await scenario.advance(seconds=90)
        orphan = await orphan_row(scenario)
        assert (orphan["side"], orphan["quantity"], orphan["found_qty"]) == (side, 20, 20)
        assert orphan["protected_at"] is not None
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (20, "open")
        assert await working_exits(scenario, "AAPL") == [
            ("limit", "new", 20), ("limit", "new", 20), ("stop", "held", 20), ("stop", "held", 20),
        ]  # fmt: skip
        assert scenario.held_qty("AAPL") == 40 * sign


async def test_orders_of_orphan_shares_are_cancelled_when_the_shares_are_gone(database: str) -> None:
    """Given protected orphan shares that leave the account without an order, then their stop and target are
    cancelled, because they would open a position, and the orphan ends as gone."""
    async with open_scenario(database, risk={"max_daily_loss": 50_000}) as scenario:
        await scenario.given_position("AAPL", 20)
        held = scenario.server.exchange.state.account.positions["AAPL"]
        held.qty *= 2
        await scenario.advance(seconds=60)
        assert (await orphan_row(scenario))["protected_at"] is not None
        held.qty /= 2
        await scenario.advance(seconds=60)
        orphan = await orphan_row(scenario)
        assert (orphan["quantity"], orphan["end_reason"]) == (0, "gone")
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 20), ("stop", "held", 20)]
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["quantity"]) == ("open", 20)


async def test_flatten_leaves_the_stop_of_orphan_shares(database: str) -> None:
    """A flatten sells the position and leaves the stop and the target of the orphan shares beside it: it neither
    cancels, replaces nor awaits them, and the account is not proven flat, because the broker holds the shares."""
    async with open_scenario(database, risk={"max_daily_loss": 50_000}) as scenario:
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        scenario.server.exchange.state.account.positions["AAPL"].qty *= 2
        await scenario.advance(seconds=60)
        assert (await orphan_row(scenario))["protected_at"] is not None
        assert (await scenario.send_command("flatten"))["flat"] is False
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 20
        proof = await scenario.conn.fetchrow("SELECT * FROM flat_proofs")
        assert proof is not None
        assert (proof["stored_orders"], proof["stored_positions"], proof["broker_positions"]) == (0, 1, 1)
        assert await scenario.components.flatten.is_flat()
        orphan_orders = [order for order in await scenario.orders("AAPL") if order["origin"] == "orphan"]
        assert [(order["status"], order["cancel_reason"]) for order in orphan_orders] == [("submitted", None)]
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 20), ("stop", "held", 20)]


async def test_second_change_of_orphan_shares_is_confirmed_from_its_own_start(database: str) -> None:
    """Given the broker shows 23 instead of 20 orphan shares for eight seconds and then 26, then the row takes 26 once
    they have lasted, and neither earlier nor 23."""
    async with open_scenario(database, risk={"max_daily_loss": 50_000}) as scenario:
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        held = scenario.server.exchange.state.account.positions["AAPL"]
        held.qty *= 2
        await scenario.advance(seconds=60)
        quantities = []
        for added in (3, 3, 0, 0):
            held.qty += added
            await scenario.components.orphans.check()
            quantities.append((await orphan_row(scenario))["quantity"])
            await scenario.advance(seconds=8)
        assert quantities == [20, 20, 20, 26]
