"""The day's result is what our positions made: money and holdings that are not ours do not count."""

from datetime import timedelta
from decimal import Decimal

from catalyst.daemon.shutdown import ExitCode
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_flat_proofs import proof_files
from tests.stories.test_orphan_positions import buy_by_hand

LIMITS = {"max_daily_loss": 2_000, "warning_threshold_pct": 75}


async def risk_events(scenario: Scenario) -> list[str]:
    """Return the types of all risk events of losses, oldest first."""
    rows = await scenario.conn.fetch(
        "SELECT event_type FROM risk_events WHERE event_type LIKE ANY ('{DAILY_LOSS%,EMERGENCY_STOP}')"
    )
    return [row["event_type"] for row in rows]


async def test_withdrawal_is_no_loss(database: str) -> None:
    """A withdrawal above the loss limit, while 20 shares are held, is no loss: no stop, no warning, no alert, and the
    risk check sees the result of our positions."""
    async with open_scenario(database, risk=LIMITS) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin("deposit", {"amount": "-2500"})
        await scenario.advance(minutes=5)
        assert scenario.held_qty("AAPL") == 20
        assert await risk_events(scenario) == []
        assert "ACCOUNT_DIFFERENCE" not in await scenario.alert_events()


async def test_holding_of_a_person_is_no_loss_of_ours(database: str) -> None:
    """A person's 100 TSLA lose 3,000 dollars, more than the loss limit: no stop, no warning, and the difference is
    explained, on the day of the purchase by its trade and on the next by what the holding made."""
    async with open_scenario(database, now=at("15:50"), once=False, risk=LIMITS) as scenario:
        scenario.print_trade("TSLA", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(scenario, "TSLA", 100)
        scenario.print_trade("TSLA", "160.00", after=1)
        await scenario.advance(minutes=4)
        assert await risk_events(scenario) == []
        await scenario.crash()
        await scenario.clock.advance_to(at("10:15", MONDAY + timedelta(days=1)))
        await scenario.start()
        scenario.print_trade("TSLA", "130.00")
        await scenario.advance(minutes=4)
        assert scenario.held_qty("TSLA") == 100
        assert await risk_events(scenario) == []
        assert "ACCOUNT_DIFFERENCE" not in await scenario.alert_events()


async def test_transfers_of_the_start_are_read_until_they_are_stored(database: str) -> None:
    """The read of the day's transfers fails at the start: it is repeated, so that an outage knows what the
    start equity contains."""
    async with open_scenario(database, started=False) as scenario:
        await scenario.admin("deposit", {"amount": "100"})
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/account/activities", status=500, count=3
        )
        await scenario.start()
        stored = "SELECT start_transfers FROM trading_cycles"
        assert await scenario.conn.fetchval(stored) is None
        await scenario.advance(minutes=4)
        assert await scenario.conn.fetchval(stored) == 100_100  # the simulated account was funded today


async def test_unexplained_change_of_the_account_is_an_alert_and_no_stop(database: str) -> None:
    """Cash that leaves the account without a trade and without an activity raises one alert; nothing is sold."""
    async with open_scenario(database, risk=LIMITS) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.server.exchange.state.account.cash -= 2_500
        assert scenario.components is not None
        comparison = scenario.components.daily_loss_limit.comparison
        await scenario.advance(seconds=65)
        assert abs(comparison.unexplained) < 1  # one read may be older than our fills
        await scenario.advance(minutes=5)
        assert abs(comparison.unexplained + 2_500) < 1
        assert scenario.held_qty("AAPL") == 20
        assert await risk_events(scenario) == []
        alerts = await scenario.conn.fetch("SELECT message FROM alerts WHERE event = 'ACCOUNT_DIFFERENCE'")
        assert len(alerts) == 1
        assert alerts[0]["message"].startswith(
            "the account made -2500.20 today without transfers and fees, our"
        )


async def test_loss_far_beyond_the_limit_raises_no_warning_after_the_stop(database: str) -> None:
    """A loss that passes warning and limit at once stops the day; no warning follows the stop."""
    async with open_scenario(database, risk={**LIMITS, "max_daily_loss": 30}) as scenario:
        await scenario.given_position("AAPL", 20, stop="150.00")
        scenario.print_trade("AAPL", "186.00")
        await scenario.advance(minutes=5)
        assert scenario.held_qty("AAPL") == 0
        assert await risk_events(scenario) == ["EMERGENCY_STOP"]
        assert "DAILY_LOSS_WARNING" not in await scenario.alert_events()


async def test_shares_that_catalyst_did_not_buy_do_not_fail_the_proof(database: str) -> None:
    """0.4 share of a symbol of ours, such as a reinvested dividend, is listed in the proof; SIGTERM ends with 0."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.server.exchange.state.account.positions["AAPL"].qty += Decimal("0.4")
        await scenario.advance(minutes=3)
        assert len(await scenario.orders("AAPL")) == 3
        assert scenario.components is not None
        assert scenario.components.gate.refusal("AAPL") is None
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert scenario.held_qty("AAPL") == Decimal("0.4")
        (proof,) = proof_files(scenario)
        assert (proof["proven"], proof["external_shares"]) == (True, {"AAPL": "0.4"})
        assert not {"NOT_FLAT", "FLAT_NOT_PROVEN"} & set(await scenario.alert_events())
