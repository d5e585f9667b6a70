"""Entries that a person approved: their times count from the approval."""

from tests.stories.scenario import open_scenario
from tests.stories.test_daily_limits_and_proposals import insert_proposal


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
