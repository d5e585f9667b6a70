"""A fraction of a share at the broker, such as a reinvested dividend, is external: no order is for a fraction."""

from decimal import Decimal

from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_orphan_positions import hold_orphan_shares, orphan_row


async def assert_orders_are_of_whole_shares(scenario: Scenario) -> None:
    """Check that every order of AAPL has a whole number of shares."""
    quantities = [order["quantity"] for order in await scenario.orders("AAPL")]
    assert [quantity for quantity in quantities if quantity % 1] == []


async def test_exit_sends_no_order_for_a_fraction(database: str) -> None:
    """Of 20 shares the broker holds only 0.4: the exit has nothing to sell."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.server.exchange.state.account.positions["AAPL"].qty = Decimal("0.4")
        await scenario.refuse_replacements()
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=30)
        await assert_orders_are_of_whole_shares(scenario)
        assert scenario.held_qty("AAPL") == Decimal("0.4")


async def test_orphan_shares_are_protected_without_their_fraction(database: str) -> None:
    """7.5 unexplained shares are 7 orphan shares, and stay 7."""
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await hold_orphan_shares(scenario)
        scenario.server.exchange.state.account.positions["AAPL"].qty += Decimal("0.5")
        await scenario.advance(minutes=2)
        assert (await orphan_row(scenario))["quantity"] == 7
        await assert_orders_are_of_whole_shares(scenario)
