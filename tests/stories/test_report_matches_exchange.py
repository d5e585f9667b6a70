"""The ledger line of the day's report: tables and exchange agree, shares that no position explains included."""

from catalyst.report.exchange_audit import Agreement, compare
from catalyst.store import orphans, reporting_queries
from catalyst.store.pool import open_store
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import Desk, open_desk
from tests.stories.test_orphan_positions import inherits


async def agreement(desk: Desk) -> Agreement:
    """What the demo's last line says, from the raw rows of both sides."""
    store = await open_store(desk.dsn, desk.clock, size=2, name="report")
    try:
        async with store.read() as conn:
            fills, rows = (
                await reporting_queries.all_fills(conn),
                await reporting_queries.every_position(conn),
            )
            found = await orphans.recent(conn)
    finally:
        await store.close()
    ledger = await desk.admin("ledger")
    return compare(fills, rows, await desk.admin("audit"), ledger["executions"], found)


async def test_an_orphan_that_is_held_is_counted(database: str) -> None:
    """Seven shares that nobody of us bought, under their stop: they are no difference."""
    async with open_desk(database, now=at("15:30", MONDAY)) as desk:
        await inherits(desk)
        assert desk.held("AAPL") == 7
        told = await agreement(desk)
        assert told.holds, told.differences


async def test_an_orphan_that_was_sold_is_counted(database: str) -> None:
    """Sold as `reconcile.orphans` says: its result is in the realised figure, to the cent."""
    async with open_desk(database, now=at("15:30", MONDAY), reconcile={"orphans": "close"}) as desk:
        await inherits(desk)
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 0
        told = await agreement(desk)
        assert told.holds, told.differences
        ours = await desk.conn.fetchval("SELECT sum(realized_pnl) FROM positions")
        assert told.realized != ours  # the seven were sold at another price than they were bought for


async def test_what_our_exits_sold_too_much_of_is_counted(database: str) -> None:
    """Both exits fill, and the surplus is bought back: the only difference is what the exchange says of itself."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("double_exit", symbol="AAPL")
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=5)
        told = await agreement(desk)
        assert all("across zero" in one for one in told.differences), told.differences
