"""A day is prepared whole or not at all, and a broker that stumbles is asked again."""

from catalyst.daemon.trading_day.schedule import Job
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario


def is_prepared(scenario: Scenario) -> bool:
    """Whether the scanner holds this session's universe and yardsticks."""
    assert scenario.components is not None
    assert scenario.components.exits.session is not None
    return scenario.components.scanner.prepared_day == scenario.components.exits.session.day


async def test_preparation_retries_asset_list_without_alert(database: str) -> None:
    """The list of assets fails three times: within a minute and a half the universe stands, and nobody is told."""
    async with open_scenario(database, started=False) as scenario:
        await scenario.inject_fault("status_before", route="/v2/assets", status=502, count=3)
        await scenario.start()
        assert not is_prepared(scenario)
        await scenario.advance(seconds=90)
        assert is_prepared(scenario)
        assert await scenario.conn.fetchval("SELECT count(*) FROM securities") > 0
        assert await scenario.alert_events() == []


async def test_scan_completes_partial_preparation_first(database: str) -> None:
    """The assets are read, their daily bars are not: no scan goes by half of it; the next makes it whole."""
    async with open_scenario(database, started=False) as scenario:
        await scenario.inject_fault("status_before", route="/v2/stocks/bars", status=502, count=0)
        await scenario.start()
        await scenario.advance(seconds=120)
        assert not is_prepared(scenario)
        assert scenario.components is not None
        assert scenario.components.scanner.base.empty
        assert await scenario.alert_events() == ["JOB_FAILED"]
        await scenario.clear_faults()
        await scenario.advance(minutes=14)
        assert is_prepared(scenario)
        status = await scenario.conn.fetchval("SELECT count(*) FROM scans")
        assert status == 1


async def test_overdue_scans_are_skipped_when_exits_are_due(database: str) -> None:
    """Scans that took too long are still waiting when the exits are due: none of them, nor a preparation, holds the
    exits up."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await scenario.advance(minutes=2)
        assert scenario.components is not None
        assert scenario.components.trading_day is not None
        for job in (Job.PRE_OPEN, Job.FIRST_SCAN, Job.PRICE_SAMPLE, Job.SCAN):
            await scenario.components.trading_day.run(job)
        assert not is_prepared(scenario)
        requests = (await scenario.admin("logs?method=GET&path=/v2/assets"))["requests"]
        assert requests == []
        assert await scenario.conn.fetchval("SELECT count(*) FROM scans") == 0
