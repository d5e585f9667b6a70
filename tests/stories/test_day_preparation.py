"""Preparation of the day: it completes or is retried; a partial preparation is never used."""

from pathlib import Path

from catalyst.cli.preflight import DatabaseOwner, _check_broker
from catalyst.daemon.trading_day.schedule import Job
from catalyst.doctor.database_checks import check_database
from catalyst.report.status import read_status
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, ScenarioMarket, open_scenario


def is_prepared(scenario: Scenario) -> bool:
    """Return true when the scanner has the universe of this session."""
    assert scenario.components is not None
    assert scenario.components.current_day.session is not None
    return scenario.components.scanner.prepared_day == scenario.components.current_day.session.day


async def test_preparation_retries_asset_list_without_alert(database: str) -> None:
    """The universe is ready within 90 s after three failed asset reads, without an alert."""
    async with open_scenario(database, started=False) as scenario:
        await scenario.inject_fault("status_before", route="/v2/assets", status=502, count=3)
        await scenario.start()
        assert not is_prepared(scenario)
        await scenario.advance(seconds=90)
        assert is_prepared(scenario)
        assert await scenario.conn.fetchval("SELECT count(*) FROM securities") > 0
        assert await scenario.alert_events() == []


async def test_scan_completes_partial_preparation_first(database: str) -> None:
    """With assets but no daily bars no scan runs; the next scan completes the preparation first."""
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
        scan_count = await scenario.conn.fetchval("SELECT count(*) FROM scans")
        assert scan_count == 1


async def test_overdue_scans_are_skipped_when_exits_are_due(database: str) -> None:
    """Overdue scans and preparations are skipped when the exits before the close are due."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await scenario.advance(minutes=2)
        assert scenario.components is not None
        for job in (Job.PRE_OPEN, Job.FIRST_SCAN, Job.PRICE_SAMPLE, Job.SCAN):
            await scenario.components.trading_day.run(job)
        assert not is_prepared(scenario)
        requests = (await scenario.admin("logs?method=GET&path=/v2/assets"))["requests"]
        assert requests == []
        assert await scenario.conn.fetchval("SELECT count(*) FROM scans") == 0


async def test_day_without_daily_bars_raises_an_alert(database: str) -> None:
    """When the market data has no daily bars, the preparation says that no candidate can be judged; after the scan
    status and doctor show it."""
    market = ScenarioMarket()
    market.has_daily_bars = False
    async with open_scenario(database, now=at("08:00"), market=market) as scenario:
        await scenario.advance(seconds=10)
        assert await scenario.alert_events() == ["DAILY_BARS_MISSING"]
        message = await scenario.conn.fetchval("SELECT message FROM alerts")
        assert message.startswith(
            "no candidate can be judged today: 0 of 6 symbols have the 5 recent daily bars"
        )
        await scenario.clock.advance_to(at("09:36"))
        assert scenario.components is not None
        async with scenario.components.store.read() as conn:
            status = await read_status(conn, scenario.clock.now())
            issues = await check_database(conn, scenario.clock.now())
        assert any("is degraded: 0 of 6 symbols" in problem for problem in status.problems)
        assert [str(issue.kind) for issue in issues] == ["SCAN_DEGRADED"]
        assert await scenario.alert_events() == ["DAILY_BARS_MISSING"]


async def test_names_without_a_listing_fail_the_check_and_raise_one_alert(
    database: str, tmp_path: Path
) -> None:
    """A symbol that the broker does not list, a sector that the listings file lacks and a loss limit above the equity
    fail the check; the names raise one alert at the preparation. Names in another spelling deny their symbol."""
    listings = tmp_path / "listings.csv"
    listings.write_text("symbol,name,sector\nAAPL,Apple,Technology\nMSFT,Microsoft,Healthcare\n")
    async with open_scenario(
        database,
        universe={"deny": ["aapl", "FB"], "listings_file": str(listings)},
        sector_limits={"sectors_to_limit": ["technology", "Health care", "Tech"]},
        risk={"max_daily_loss": 200_000},
    ) as scenario:
        assert scenario.components is not None
        assert scenario.components.scanner.base.at["AAPL", "reason"] == "on universe.deny"
        alerts = await scenario.conn.fetch("SELECT event, severity, message FROM alerts")
        assert [(row["event"], row["severity"]) for row in alerts] == [("CONFIG_UNMATCHED", "WARNING")]
        sentences = (
            "universe.deny: the broker lists no FB; correct it, or use the new symbol",
            "sector_limits.sectors_to_limit: universe.listings_file has no Tech; it has Health Care, Technology",
        )
        for sentence in sentences:
            assert sentence in alerts[0]["message"]
        results = [
            result async for result in _check_broker(scenario.settings, scenario.clock, DatabaseOwner())
        ]
        assert [result.detail for result in results if result.name == "names"] == list(sentences)
        (limit,) = [result for result in results if result.name == "loss limit"]
        assert "is above the account's equity" in limit.detail
        assert limit.verdict == "fail"


async def test_renamed_symbol_denies_its_present_one(database: str) -> None:
    """A denied symbol that was renamed, over two changes, denies its present one, without an alert; the check warns. A
    company without a listing any more is an error."""
    async with open_scenario(
        database, now=at("07:59"), universe={"deny": ["FB", "GONE"]}, started=False
    ) as scenario:
        changes = {"FB": "METV", "METV": "AAPL", "GONE": "NOWHERE"}
        await scenario.admin("data", {"name_changes": changes})
        await scenario.start()
        await scenario.clock.advance_to(at("09:00"))
        assert scenario.components is not None
        assert scenario.components.scanner.base.at["AAPL", "reason"] == "on universe.deny"
        [message] = await scenario.conn.fetch("SELECT message FROM alerts WHERE event = 'CONFIG_UNMATCHED'")
        unmatched = "universe.deny: the broker lists no GONE; correct it, or use the new symbol"
        assert message["message"].endswith(unmatched)
        results = [
            (result.verdict, result.detail)
            async for result in _check_broker(scenario.settings, scenario.clock, DatabaseOwner())
            if result.name == "names"
        ]
        assert results == [
            ("fail", unmatched),
            ("warn", "universe.deny: FB is AAPL now and counts as it; write the present symbol"),
        ]


async def test_sector_limit_without_a_listings_file_raises_an_alert(database: str) -> None:
    """Sectors that no file supplies limit nothing, which an alert says."""
    async with open_scenario(database, sector_limits={"sectors_to_limit": ["Technology"]}) as scenario:
        message = await scenario.conn.fetchval("SELECT message FROM alerts WHERE event = 'CONFIG_UNMATCHED'")
        assert "limits nothing without universe.listings_file" in message
