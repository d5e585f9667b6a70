"""The ledger line of the day's report: tables and exchange agree, shares that no position explains included."""

from catalyst.report.exchange_audit import Agreement, compare_with_exchange
from catalyst.store import orphans, reporting_queries
from catalyst.store.pool import open_store
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_orphan_positions import hold_orphan_shares


async def audit_against_exchange(scenario: Scenario) -> Agreement:
    """What the demo's last line says, from the raw rows of both sides."""
    store = await open_store(scenario.dsn, scenario.clock, size=2, name="report")
    try:
        async with store.read() as conn:
            fills, rows = (
                await reporting_queries.all_fills(conn),
                await reporting_queries.recent_positions(conn),
            )
            found = await orphans.recent(conn)
    finally:
        await store.close()
    ledger = await scenario.admin("logs")
    return compare_with_exchange(fills, rows, await scenario.admin("audit"), ledger["executions"], found)


async def test_exchange_audit_matches_with_held_orphan(database: str) -> None:
    """Seven shares that nobody of us bought, under their stop: they are no difference."""
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await hold_orphan_shares(scenario)
        assert scenario.held_qty("AAPL") == 7
        result = await audit_against_exchange(scenario)
        assert result.matches, result.differences


async def test_exchange_audit_matches_with_sold_orphan(database: str) -> None:
    """Sold as `reconcile.orphans` says: its result is in the realised figure, to the cent."""
    async with open_scenario(database, now=at("15:30", MONDAY), reconcile={"orphans": "close"}) as scenario:
        await hold_orphan_shares(scenario)
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        result = await audit_against_exchange(scenario)
        assert result.matches, result.differences
        ours = await scenario.conn.fetchval("SELECT sum(realized_pnl) FROM positions")
        assert result.realized != ours  # the seven were sold at another price than they were bought for


async def test_exchange_audit_counts_oversold_shares(database: str) -> None:
    """Both exits fill, and the surplus is bought back: the only difference is what the exchange says of itself."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("double_exit", symbol="AAPL")
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        result = await audit_against_exchange(scenario)
        assert all("across zero" in one for one in result.differences), result.differences
