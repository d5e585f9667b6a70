"""Missing calendar: it delays only what needs the session times."""

from catalyst.daemon.app import ExitCode
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Scenario, open_scenario


async def fail_calendar_requests(scenario: Scenario) -> None:
    """Let every calendar request fail with 503."""
    await scenario.inject_fault("status_before", route="/v2/calendar", status=503, count=0)


async def test_restart_without_calendar_resumes_begun_day(database: str) -> None:
    """Given a crash with shares held, when the daemon restarts without a calendar, then it uses the session
    in the database, recovers at once and exits before the close."""
    async with open_scenario(database, now=at("15:45")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await fail_calendar_requests(scenario)
        await scenario.start()
        assert scenario.components is not None
        assert "recovery" not in scenario.components.gate.reasons
        assert scenario.components.exits.market_open
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")


async def test_first_start_without_calendar_recovers_and_waits(database: str) -> None:
    """Without a known session the daemon recovers at once and begins the day when the calendar is available."""
    async with open_scenario(database, started=False) as scenario:
        await fail_calendar_requests(scenario)
        await scenario.start()
        assert scenario.components is not None
        assert "recovery" not in scenario.components.gate.reasons
        await scenario.advance(seconds=30)
        assert scenario.components.current_day.cycle_id is None
        assert scenario.components.current_day.session is None
        await scenario.clear_faults()
        await scenario.advance(seconds=10)
        assert scenario.components.current_day.cycle_id is not None
        scenario.print_trade("AAPL", "190.00")
        await scenario.submit_entry("AAPL", 10, **ENTRY)
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 10
        await scenario.assert_consistent()
