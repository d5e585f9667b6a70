"""The report on the database: what it shows, and what it warns of."""

import asyncio

import asyncpg
import pytest

from catalyst.store import database_report
from catalyst.store.database_report import read_report, table_warnings
from catalyst.store.pool import Store
from tests.waiting import pause

HEALTHY = {"autovacuum": "on", "transaction_age": 1000}


async def test_report_names_open_transactions_waits_and_broken_indexes(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that stays open, a session that waits for its lock and an index that is not valid are warned of."""
    monkeypatch.setattr(database_report, "LONG_TRANSACTION_S", 0)
    monkeypatch.setattr(database_report, "BLOCKED_S", 0)
    holder, waiter = await asyncpg.connect(database), await asyncpg.connect(database)
    await holder.execute("SET application_name = 'forgotten'; BEGIN; LOCK TABLE sectors")
    waiting = asyncio.create_task(
        waiter.execute("SET application_name = 'daemon'; SELECT count(*) FROM sectors")
    )
    await holder.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'scans_by_cycle'::regclass"
    )
    report = await report_of(store)
    while not report["blocked"]:
        await pause()
        report = await report_of(store)
    pid = holder.get_server_pid()
    warnings = "\n".join(report["warnings"])
    assert [table["total_bytes"] for table in report["tables"] if table["name"] == "sectors"] in ([None], [])
    assert f"the transaction of forgotten (pid {pid}) is open for" in warnings
    assert f"for a lock of pid {pid}" in warnings
    await holder.execute("COMMIT")
    await waiting
    report = await report_of(store)
    assert report["blocked"] == report["long_transactions"] == []
    assert [warning for warning in report["warnings"] if "autovacuum" not in warning] == [
        "the index scans_by_cycle is not valid: create it again with REINDEX INDEX CONCURRENTLY scans_by_cycle"
    ]
    for conn in (holder, waiter):
        await conn.close()


async def test_report_lists_sizes_sessions_and_unused_indexes(store: Store) -> None:
    """Tables and indexes come largest first; an index without a scan is listed unless it keeps rows unique."""
    report = await report_of(store)
    sizes = [table["total_bytes"] for table in report["tables"]]
    assert sizes == sorted(sizes, reverse=True)
    assert report["server"]["database_bytes"] > sum(sizes) > 0
    assert "positions_by_close_reason" in report["unused_indexes"]
    assert "positions_one_open" not in report["unused_indexes"]
    assert "catalyst" in {row["application"] for row in report["connections"]}
    assert report["slow_queries"] is None
    assert report["scan_frames"]["frames"] == 0


async def report_of(store: Store) -> database_report.Row:
    """Return the report as it is now."""
    async with store.read() as conn:
        return await read_report(conn)


@pytest.mark.parametrize(
    ("dead", "live", "warned"), [(20_000, 60_000, True), (20_000, 900_000, False), (9_000, 10, False)]
)
def test_report_warns_of_many_dead_rows(dead: int, live: int, warned: bool) -> None:
    """Dead rows are warned of when they are many and more than a fifth."""
    table = {"name": "orders", "dead_rows": dead, "live_rows": live}
    assert bool(table_warnings(HEALTHY, [table], [])) is warned


def test_report_warns_of_a_server_that_cleans_nothing() -> None:
    """Autovacuum that is off and transaction ids that run out are warned of."""
    (off, old) = table_warnings({"autovacuum": "off", "transaction_age": 1_600_000_000}, [], [])
    assert off.startswith("autovacuum is off")
    assert "1,600,000,000 transactions old" in old
