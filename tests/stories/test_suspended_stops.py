"""Suspended stops: the broker shows an accepted stop in a state in which it protects nothing."""

import pytest

from tests.stories.scenario import open_scenario


@pytest.mark.parametrize("status", ["suspended", "done_for_day", "calculated"])
async def test_stop_that_the_broker_shows_as_inactive_is_replaced_at_a_growing_pace(
    database: str, status: str
) -> None:
    """Given every stop is shown in this state, then it is replaced at once, and again after growing pauses; few
    alerts are raised, no read exceeds the rate limit, and the stop that works all the same sells the shares."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin("settings", {"shown_stop_status": status})
        await scenario.advance(minutes=3)
        assert 3 <= await scenario.count_submitted("AAPL") <= 7
        for _ in range(3):
            scenario.print_trade("AAPL", "190.00")
            await scenario.advance(minutes=1)
        sent = await scenario.count_submitted("AAPL")
        assert sent <= 8
        alerts = await scenario.conn.fetch("SELECT event, count(*) AS n FROM alerts GROUP BY event")
        assert [row["event"] for row in alerts] == ["UNPROTECTED_OVER_BUDGET"]
        assert alerts[0]["n"] <= 4  # one for each gap longer than the budget
        reads = (await scenario.admin("logs?method=GET&path=/v2/orders"))["requests"]
        assert not [request for request in reads if request["status"] == 429]
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()
