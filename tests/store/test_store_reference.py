"""Securities, sectors, the calendar, and the SQL functions of the seed data."""

import asyncio
from datetime import UTC, date, datetime, time

import pytest
from store.raw_rows import AT

from catalyst.domain.report import AssetReport
from catalyst.domain.session import session_of
from catalyst.store import securities, trading_days
from catalyst.store.pool import Store, connect
from catalyst.store.securities import RefreshCounts

FULL = session_of(date(2026, 4, 8), time(9, 30), time(16, 0))
HALF = session_of(date(2026, 11, 27), time(9, 30), time(13, 0))


def asset(symbol: str, **fields: object) -> AssetReport:
    values = {
        "asset_id": symbol, "symbol": symbol, "name": f"{symbol} Inc.", "exchange": "NASDAQ", "status": "active",
        "tradable": True, "shortable": True, "easy_to_borrow": True, "fractionable": True, "marginable": True,
    }  # fmt: skip
    return AssetReport(**{**values, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "table"),
    [
        ("SELECT get_or_create_security('new')", "securities"),
        ("SELECT get_or_create_time('2026-04-08T14:15:30Z')", "time_dimension"),
    ],
)
async def test_get_or_create_gives_concurrent_callers_one_id(database: str, call: str, table: str):
    """Twenty connections request one new row at once: one row, one id, no error."""
    conns = [await connect(database, "race") for _ in range(20)]
    try:
        ready = asyncio.Barrier(20)

        async def create(conn) -> int:
            await ready.wait()
            return await conn.fetchval(call)

        ids = await asyncio.gather(*(create(conn) for conn in conns))
        assert len(set(ids)) == 1
        assert await conns[0].fetchval(f"SELECT count(*) FROM {table}") == 1
    finally:
        for conn in conns:
            await conn.close()


async def test_new_security_has_default_columns(store: Store):
    """The SQL function creates the row that the seed functions expect."""
    async with store.tx("security") as conn:
        security_id = await conn.fetchval("SELECT get_or_create_security('aapl')")
        row = await securities.get(conn, "AAPL")
    assert row is not None
    assert (row.security_id, row.exchange, row.is_active, row.refreshed_at) == (
        security_id,
        "UNKNOWN",
        True,
        None,
    )


@pytest.mark.parametrize(
    ("at", "market", "trading"),
    [
        ("2026-04-08T13:29:59Z", False, True),
        ("2026-04-08T13:30:00Z", True, True),
        ("2026-04-08T19:59:59Z", True, True),
        ("2026-04-08T20:00:00Z", False, True),
        ("2026-11-27T17:59:00Z", True, True),  # winter time, half day
        ("2026-11-27T18:00:00Z", False, True),
        ("2026-04-09T01:00:00Z", False, True),  # still the 8th in New York
        ("2026-04-11T15:00:00Z", False, False),  # a Saturday
    ],
)
async def test_time_dimension_follows_exchange_hours(store: Store, at: str, market: bool, trading: bool):
    """The time dimension follows the exchange's hours in New York, with daylight saving and half days."""
    async with store.tx("time") as conn:
        await trading_days.put(conn, [FULL, HALF])
        time_id = await conn.fetchval("SELECT get_or_create_time($1)", datetime.fromisoformat(at))
        row = await conn.fetchrow("SELECT * FROM time_dimension WHERE time_id = $1", time_id)
    assert (row["is_market_hours"], row["is_trading_day"]) == (market, trading)


async def test_time_dimension_is_corrected_by_later_calendar(store: Store):
    """A minute created before its day was in the calendar is corrected later and keeps its id."""
    async with store.tx("time") as conn:
        early = await conn.fetchval("SELECT get_or_create_time($1)", AT)
        assert not await conn.fetchval("SELECT is_market_hours FROM time_dimension")
        await trading_days.put(conn, [FULL])
        assert await conn.fetchval("SELECT get_or_create_time($1)", AT) == early
        row = await conn.fetchrow("SELECT * FROM time_dimension")
    assert row["is_market_hours"]
    assert (row["date"], row["hour"], row["minute"], row["day_of_week"]) == (date(2026, 4, 8), 10, 15, 3)


async def test_calendar_is_stored_and_replaced(store: Store):
    """Days are read back as sessions; a second calendar replaces a day's hours; the current or next session
    is found."""
    async with store.tx("calendar") as conn:
        await trading_days.put(conn, [FULL, session_of(HALF.day, time(9, 30), time(16, 0))])
        await trading_days.put(conn, [HALF])
        assert await trading_days.get(conn, HALF.day) == HALF
        assert await trading_days.get(conn, date(2026, 4, 11)) is None
        assert await trading_days.between(conn, FULL.day, HALF.day) == [FULL, HALF]
        assert await trading_days.current_or_next(conn, FULL.open) == FULL
        assert await trading_days.current_or_next(conn, FULL.close) == HALF
        assert await trading_days.current_or_next(conn, HALF.close) is None
        assert await conn.fetchval("SELECT half_day FROM trading_days WHERE date = $1", HALF.day)


async def test_asset_refresh_takes_one_statement_each_way(store: Store, later: datetime):
    """The broker's list is written, repeated and reduced, each time by one statement for the assets on it and one
    for the others; assets no longer on it become inactive and are not deleted."""
    assets = [asset(f"S{n:05}") for n in range(10_000)]
    statements: list[str] = []
    async with store.tx("assets") as conn:
        with conn.query_logger(lambda logged: statements.append(logged.query)):
            assert await securities.refresh(conn, assets, at=AT) == RefreshCounts(10_000, 10_000, 0)
            await asyncio.sleep(0)  # the driver calls the logger in the next step of the loop
    own = [statement.split()[0] for statement in statements if "securities" in statement]
    assert own == ["WITH", "UPDATE"]  # the driver reads the types of the parameters by itself
    changed = [asset("S00000", shortable=False), asset("S00001", easy_to_borrow=False), *assets[2:9_000]]
    async with store.tx("assets") as conn:
        assert await securities.refresh(conn, changed, at=later) == RefreshCounts(9_000, 0, 1_000)
        rows = await securities.of_symbols(conn, ["S00000", "S00001", "S00002", "S09999"])
        assert len(await securities.active(conn)) == 9_000
    assert [rows[f"S0000{n}"].borrow_status for n in range(3)] == [
        "not_shortable", "hard_to_borrow", "easy_to_borrow",
    ]  # fmt: skip
    assert (rows["S09999"].is_active, rows["S09999"].refreshed_at) == (False, AT)


async def test_empty_asset_list_retires_nothing(store: Store, later: datetime):
    """An empty list makes no asset inactive."""
    async with store.tx("assets") as conn:
        await securities.refresh(conn, [asset("AAPL")], at=AT)
        assert await securities.refresh(conn, [], at=later) == RefreshCounts(0, 0, 0)
        assert [row.symbol for row in await securities.active(conn)] == ["AAPL"]


async def test_sectors_are_read_from_listing(store: Store):
    """A listing sets the sectors of existing symbols; a second run changes nothing."""
    async with store.tx("sectors") as conn:
        await securities.refresh(conn, [asset("AAPL"), asset("XOM"), asset("NEW")], at=AT)
        listing = {"AAPL": "Technology", "xom": "Energy", "NEW": "", "GONE": "Energy"}
        assert await securities.put_sectors(conn, listing) == 2
        assert await securities.put_sectors(conn, listing) == 0
        rows = await securities.of_symbols(conn, ["AAPL", "XOM", "NEW"])
    assert {symbol: row.sector for symbol, row in rows.items()} == {
        "AAPL": "Technology", "XOM": "Energy", "NEW": None,
    }  # fmt: skip


async def test_security_ids_are_created_only_for_new_symbols(store: Store):
    """One call returns the ids of existing and new symbols; the next call returns equal ids."""
    async with store.tx("ids") as conn:
        first = await securities.get_or_create_ids(conn, ["AAPL", "MSFT", "aapl"])
        second = await securities.get_or_create_ids(conn, ["MSFT", "AAPL", "TSLA"])
    assert set(first) == {"AAPL", "MSFT"}
    assert second == first | {"TSLA": second["TSLA"]}


@pytest.fixture
def later() -> datetime:
    return datetime(2026, 4, 9, 12, tzinfo=UTC)
