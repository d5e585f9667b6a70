"""Replay of a recorded market day through the whole daemon, over HTTP and WebSocket, into the database."""

from datetime import UTC, date, datetime, time
from pathlib import Path

import pytest

from catalyst.clock import NEW_YORK
from catalyst.simulator.recorded import market as recorded_market
from tests.audit import assert_nothing_open
from tests.stories.scenario import open_scenario

DATA = Path(__file__).parents[3] / "shared" / "data"
DAY = date(2026, 4, 8)

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no recorded market days in shared/data")


@pytest.mark.slow(140)
async def test_daemon_trades_a_recorded_market_day_end_to_end(database: str) -> None:
    """On 8 April 2026 with 7,473 symbols the daemon scans, trades, is flat at the close and agrees with the
    exchange to the cent."""
    listings = DATA / "listings_2026-04-07.csv.gz"
    market = recorded_market.load_market(
        DATA / f"bars_5min_market_{DAY}.parquet",
        DATA / "bars_daily_market_2026-01-26_04-17.parquet",
        DATA / "news_headlines_2026-02-24_04-17.parquet",
        listings,
        official=DATA / "universe_daily_nasdaq_2025-12-22_2026-04-17.parquet",
    )
    start = datetime.combine(DAY, time(7, 59), NEW_YORK).astimezone(UTC)
    sections = {"universe": {"listings_file": str(listings)}, "pipeline": {"bar_minutes": 5}}
    async with open_scenario(database, now=start, market=market, **sections) as scenario:
        assert await scenario.wait_for_exit(step=60) == 0

        conn = scenario.conn
        cycle = await conn.fetchrow("SELECT status, realized_pnl FROM trading_cycles")
        assert cycle is not None
        assert cycle["status"] == "completed"
        scans = await conn.fetch("SELECT counts, universe FROM scans ORDER BY scan_id")
        assert len(scans) >= 10
        assert all(scan["universe"] >= 7_000 for scan in scans)
        entries = await conn.fetchval(
            "SELECT count(*) FROM orders WHERE order_purpose = 'entry' AND status = 'filled'"
        )
        assert entries >= 3
        reasons = await conn.fetch(
            "SELECT split_part(close_reason, ':', 1) AS reason, count(*) AS n FROM positions GROUP BY 1 ORDER BY 1"
        )
        print({row["reason"]: row["n"] for row in reasons}, "realised", cycle["realized_pnl"])

        assert scenario.server.exchange.state.account.positions == {}
        await assert_nothing_open(conn, await scenario.admin("logs"), await scenario.admin("audit"))
        await scenario.assert_consistent()
        assert cycle["realized_pnl"] == await conn.fetchval("SELECT sum(realized_pnl) FROM positions")
        assert await conn.fetchval("SELECT bool_and(flat) FROM flat_proofs")
        assert await conn.fetchval("SELECT count(*) FROM quarantine") == 0
        alerts = [dict(row) for row in await conn.fetch("SELECT event, message FROM alerts")]
        assert [alert["event"] for alert in alerts] == ["DAY_REPORT"], alerts
        windows = await conn.fetchval("SELECT count(*) FROM scan_results WHERE detail ? 'momentum_5m_pct'")
        assert windows > 0, "no scan had the momentum of the last five minutes"
