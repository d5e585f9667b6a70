"""Exchange comparison of the day report, with orphan shares and oversold shares."""

from catalyst.report.exchange_audit import Agreement, compare_with_exchange
from catalyst.store import orphans, reporting_queries
from catalyst.store.pool import open_store
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_orphan_positions import hold_orphan_shares


async def audit_against_exchange(scenario: Scenario) -> Agreement:
    """Compare the raw rows of the database with the exchange, as the last line of the demo does."""
    store = await open_store(scenario.dsn, scenario.clock, size=2, name="report")
    try:
        async with store.read() as conn:
            fills, rows = (
                await reporting_queries.all_fills(conn),
                await reporting_queries.recent_positions(conn),
            )
            orphan_rows = await orphans.recent(conn)
    finally:
        await store.close()
    logs = await scenario.admin("logs")
    return compare_with_exchange(fills, rows, await scenario.admin("audit"), logs["executions"], orphan_rows)


async def test_exchange_audit_matches_with_held_orphan(database: str) -> None:
    """Seven protected orphan shares are no difference."""
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await hold_orphan_shares(scenario)
        assert scenario.held_qty("AAPL") == 7
        result = await audit_against_exchange(scenario)
        assert result.matches, result.differences


async def test_exchange_audit_matches_with_sold_orphan(database: str) -> None:
    """The result of sold orphan shares is in the realised figure to the cent."""
    async with open_scenario(database, now=at("15:30", MONDAY), reconcile={"orphans": "close"}) as scenario:
        await hold_orphan_shares(scenario)
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        result = await audit_against_exchange(scenario)
        assert result.matches, result.differences
        positions_pnl = await scenario.conn.fetchval("SELECT sum(realized_pnl) FROM positions")
        assert result.realized != positions_pnl  # the orphan shares have a result too


async def test_exchange_audit_counts_oversold_shares(database: str) -> None:
    """When both legs fill, the only difference is the exchange's own remark that an exit crossed zero."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("double_exit", symbol="AAPL")
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        result = await audit_against_exchange(scenario)
        (difference,) = result.differences
        assert "across zero" in difference
