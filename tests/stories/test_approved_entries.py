"""Entry timeout and the grace of partial entries: they count from the approval, and end no order of a person."""

from tests.stories.scenario import ENTRY, open_scenario
from tests.stories.test_daily_limits_and_proposals import insert_proposal
from tests.stories.test_operator_actions import order_by_hand
from tests.stories.test_orphan_positions import working_exits


async def test_approved_entry_rests_for_the_whole_entry_timeout(database: str) -> None:
    """Given a proposal waited longer than an entry may rest, when it is approved, then its order rests for the entry
    timeout from the approval on, and is cancelled after it."""
    async with open_scenario(database, execution={"entry_timeout_seconds": 60}) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        proposal = await insert_proposal(scenario, "AAPL", minutes=10)
        await scenario.advance(seconds=90)
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        assert (await scenario.send_command("approve", proposal_id=proposal))["ok"]
        await scenario.advance(seconds=45)
        assert (await scenario.orders("AAPL"))[0]["status"] in ("submitted", "accepted")
        await scenario.advance(seconds=45)
        entry = (await scenario.orders("AAPL"))[0]
        assert (entry["status"], entry["cancel_reason"]) == ("cancelled", "ENTRY_TIMEOUT")
        await scenario.assert_consistent()


async def test_entry_timeout_leaves_the_order_of_a_person(database: str) -> None:
    """Given a person's order rests beside an entry of ours, when the entry timeout is over, then only ours is
    cancelled."""
    async with open_scenario(database, execution={"entry_timeout_seconds": 60}) as scenario:
        for symbol in ("AAPL", "TSLA"):
            scenario.print_trade(symbol, "191.00")
        await scenario.advance(seconds=1)
        resting = await order_by_hand(scenario, "TSLA", "buy", 3, type="limit", limit_price="100.00")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=120)
        assert (await scenario.orders("AAPL"))[0]["cancel_reason"] == "ENTRY_TIMEOUT"
        (by_hand,) = await scenario.orders("TSLA")
        assert (by_hand["origin"], by_hand["order_purpose"], by_hand["cancel_reason"]) == (
            "external",
            "entry",
            None,
        )
        assert scenario.server.exchange.find_order(resting).status == "new"


async def test_rest_of_an_order_of_a_person_is_not_cancelled_when_its_shares_are_protected(
    database: str,
) -> None:
    """Given a person buys 7 shares of a held symbol and 3 of them fill, then one stop protects all 23 shares, and the
    person's other 4 go on waiting."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("partial", symbol="AAPL", qty="3", role="plain")
        resting = await order_by_hand(scenario, "AAPL", "buy", 7)
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["protected_at"] is not None) == (23, True)
        assert await working_exits(scenario, "AAPL") == [
            ("limit", "new", 23),
            ("market", "partially_filled", 7),
            ("stop", "held", 23),
        ]
        by_hand = scenario.server.exchange.find_order(resting)
        assert (by_hand.status, by_hand.filled_qty) == ("partially_filled", 3)
