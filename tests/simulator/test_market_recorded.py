"""Recorded bars as a market: small written and generated days, and recorded days where the files are present."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalyst.simulator.market import quote_model
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.bar_table import BarTable
from catalyst.simulator.market.print_windows import PrintWindows
from catalyst.simulator.recorded import market as recorded_market
from tests.simulator.recordings import (
    DATA,
    GENERATED,
    SOURCES,
    Recording,
    five_minute_rows,
    generated_files,
    recorded_files,
)

DAY = date(2026, 4, 8)
OPEN = datetime(2026, 4, 8, 13, 30, tzinfo=UTC)

Bar = tuple[str, datetime, float, float, float, float, float]


def write_bars(path: Path, bars: Sequence[Bar]) -> Path:
    """Write bars as a Parquet file in the documented columns."""
    names = ("symbol", "timestamp", "open", "high", "low", "close", "volume")
    columns = [pa.array(column) for column in zip(*bars, strict=True)]
    columns[1] = columns[1].cast(pa.timestamp("us", "UTC"))
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
    return path


def write_daily(path: Path, days: Sequence[tuple[str, date, float, float, float, float, float]]) -> Path:
    """Write daily bars as a Parquet file in the documented columns."""
    names = ("symbol", "date", "open", "high", "low", "close", "volume")
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*days, strict=True)), strict=True))), path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> BarMarket:
    """ALFA with pre-market, two regular bars and a missing stretch; NULL (a symbol) without a trade today."""
    bars = write_bars(
        tmp_path / "bars.parquet",
        [
            ("ALFA", OPEN - timedelta(days=1), 9.5, 9.9, 9.4, 9.8, 3000.0),
            ("ALFA", OPEN - timedelta(minutes=30), 10.1, 10.2, 10.1, 10.2, 500.0),
            ("ALFA", OPEN, 10.2, 10.8, 10.0, 10.5, 6000.0),
            ("ALFA", OPEN + timedelta(minutes=1), 10.5, 10.6, 10.4, 10.44, 1200.0),
            ("ALFA", OPEN + timedelta(minutes=5), 10.5, 10.5, 10.5, 10.5, 100.0),
            ("ALFA", OPEN + timedelta(minutes=6), 10.5, 10.5, 10.5, 10.5, 0.0),
        ],
    )
    daily = write_daily(
        tmp_path / "daily.parquet",
        [
            ("ALFA", date(2026, 4, 6), 9.0, 9.6, 8.9, 9.4, 50_000.0),
            ("NULL", date(2026, 4, 6), 3.0, 3.1, 2.9, 3.05, 1000.0),
            ("NULL", date(2026, 4, 7), 3.0, 3.2, 2.9, 3.15, 2000.0),
        ],
    )
    return recorded_market.load_market(bars, daily, day=DAY)


@given(st.lists(st.tuples(st.integers(-90_000, 600), st.integers(0, 4000)), min_size=1, max_size=8))
def test_print_windows_give_the_same_result_after_any_queries(queries: list[tuple[int, int]]) -> None:
    """Cached windows give the results of fresh ones: forwards, backwards and before the first trade."""
    open_s = int(OPEN.timestamp())
    rows = np.arange(0, 80, 2)
    price = np.full(80, 10.0)
    starts = np.concatenate([open_s + rows * 5, open_s + 30 + rows * 5])
    bar_table = BarTable.build(
        ["ALFA", "BETA"], np.repeat([0, 1], 40), starts, [price] * 4, np.full(80, 900.0), np.array([5, 5])
    )
    cached = PrintWindows(bar_table)
    for number in (0, 1):
        for after, length in queries:
            fresh, second = PrintWindows(bar_table), open_s + after
            assert cached.next_print_time(number, second) == fresh.next_print_time(number, second)
            until = second + length
            assert cached.prints_between(number, second, until) == PrintWindows(bar_table).prints_between(
                number, second, until
            )
            assert (cached.window_at(number, second) is None) == (
                PrintWindows(bar_table).window_at(number, second) is None
            )


def test_first_print_window_is_built_once(small: BarMarket) -> None:
    """Repeated queries before a symbol's first trade return the same window object."""
    windows = PrintWindows(small.intraday)
    first = windows.first_window(0)
    assert first is not None
    assert first.is_first
    for _ in range(3):
        assert windows.next_print_time(0, first.times[0] - 100) == first.times[0]
        assert windows.first_window(0) is first


def test_recorded_prints_add_up_to_their_bars(small: BarMarket) -> None:
    """Prints of a minute add up to its bar; a bar without volume gives no print."""
    prints = small.prints("ALFA", OPEN - timedelta(microseconds=1), OPEN + timedelta(seconds=59))
    assert prints[0].at == OPEN
    assert prints[0].price == Decimal("10.20")
    assert (max(p.price for p in prints), min(p.price for p in prints)) == (
        Decimal("10.80"),
        Decimal("10.00"),
    )
    assert (prints[-1].price, sum(p.size for p in prints)) == (Decimal("10.50"), 6000)
    assert small.prints("ALFA", OPEN + timedelta(minutes=5), OPEN + timedelta(hours=6)) == []
    assert small.prints("NONE", OPEN, OPEN + timedelta(hours=6)) == []


def test_next_print_is_the_next_recorded_trade(small: BarMarket) -> None:
    """The next print is 5 seconds later inside a bar, at the next bar after missing ones, and None at the
    end."""
    assert small.next_print_time("ALFA", OPEN) == OPEN + timedelta(seconds=5)
    assert small.next_print_time("ALFA", OPEN + timedelta(minutes=3)) == OPEN + timedelta(minutes=5)
    assert small.next_print_time("ALFA", OPEN + timedelta(minutes=5)) is None
    assert small.next_print_time("NULL", OPEN) is None


def test_last_print_is_the_previous_close_before_the_first_trade(small: BarMarket) -> None:
    """A symbol without a trade today has the official close of its last session, at the time of that close."""
    found = small.last_print("NULL", OPEN + timedelta(hours=1))
    assert found is not None
    assert (found.price, found.at) == (Decimal("3.15"), datetime(2026, 4, 7, 20, 0, tzinfo=UTC))
    assert small.last_print("NULL", datetime(2026, 4, 7, 15, 0, tzinfo=UTC)).price == Decimal("3.05")  # type: ignore[union-attr]
    assert small.last_print("NULL", datetime(2026, 4, 1, tzinfo=UTC)) is None


def test_daily_bar_begins_with_the_first_regular_trade(small: BarMarket) -> None:
    """In pre-market the newest daily bar is yesterday's; after the open it is today's, with all volume."""
    early = small.snapshots(["ALFA"], OPEN - timedelta(minutes=15))
    assert (early.daily.close[0], early.previous.close[0], early.trade_price[0]) == (9.8, 9.4, 10.2)
    late = small.snapshots(["ALFA"], OPEN + timedelta(minutes=2))
    assert (late.daily.open[0], late.daily.high[0], late.daily.low[0], late.daily.close[0]) == (
        10.2,
        10.8,
        10.0,
        10.44,
    )
    assert (late.daily.volume[0], late.previous.close[0]) == (7700, 9.8)


def test_minute_bar_is_the_last_finished_one(small: BarMarket) -> None:
    """A minute bar appears when its minute is over and stays until the next minute with a trade is over."""
    for second, start in ((59, -30), (60, 0), (119, 0), (120, 1), (360, 5)):
        found = small.snapshots(["ALFA"], OPEN + timedelta(seconds=second))
        assert found.minute.starts[0] == (OPEN + timedelta(minutes=start)).timestamp()


def test_aggregated_bars_are_finished_ones(small: BarMarket) -> None:
    """Five-minute bars aggregate minutes, and the unfinished one is not served."""
    five = small.bars(
        "ALFA", timedelta(minutes=5), OPEN, OPEN + timedelta(hours=1), OPEN + timedelta(minutes=7)
    )
    assert five.volume.tolist() == [7200]
    assert (five.open[0], five.high[0], five.low[0], five.close[0]) == (10.2, 10.8, 10.0, 10.44)
    days = small.bars("ALFA", timedelta(days=1), OPEN - timedelta(days=5), OPEN, OPEN + timedelta(minutes=1))
    assert days.close.tolist() == [9.4, 9.8, 10.5]


@pytest.mark.parametrize(
    ("bar", "reason"),
    [
        (("A", OPEN, 10.0, 9.0, 8.0, 8.5, 1.0), "rows are not bars.*is A at 2026-04-08T13:30:00Z"),
        (("A", OPEN, 0.0, 9.0, 0.0, 8.5, 1.0), "rows are not bars.*is A at 2026-04-08T13:30:00Z"),
        (("A", OPEN, 8.5, 9.0, float("nan"), 8.5, 1.0), "rows are not bars.*is A at 2026-04-08T13:30:00Z"),
        (("A", OPEN, 8.5, 9.0, 8.0, 8.5, -1.0), "rows are not bars.*is A at 2026-04-08T13:30:00Z"),
        (("A", OPEN + timedelta(seconds=7), 8.5, 9.0, 8.0, 8.5, 1.0), "1 or 5 minutes"),
        (("A", OPEN + timedelta(days=3), 8.5, 9.0, 8.0, 8.5, 1.0), "no session"),
    ],
)
def test_invalid_recorded_bars_are_rejected(tmp_path: Path, bar: Bar, reason: str) -> None:
    """Invalid bars, other lengths and closed days are rejected with the reason."""
    with pytest.raises(ValueError, match=reason):
        recorded_market.load_market(write_bars(tmp_path / "bars.parquet", [bar]))


def test_recorded_bars_load_from_csv(tmp_path: Path) -> None:
    """CSV gives the same bars as Parquet, and NA, NULL and TRUE stay symbols."""
    text = "symbol,timestamp,open,high,low,close,volume\n"
    text += "".join(
        f"{symbol},2026-04-08T13:30:00Z,8.5,9.0,8.0,8.25,700\n" for symbol in ("NA", "NULL", "TRUE")
    )
    (tmp_path / "bars.csv").write_text(text)
    listed = "symbol,name,sector,exchange\nNA,Nano Corp,Technology,NASDAQ\nTRUE,True Inc,,NYSE\n"
    (tmp_path / "listings.csv").write_text(listed)
    market = recorded_market.load_market(tmp_path / "bars.csv", listings=tmp_path / "listings.csv")
    assert list(market.assets()) == ["NA", "NULL", "TRUE"]
    assert (market.assets()["NA"].name, market.assets()["TRUE"].exchange) == ("Nano Corp", "NYSE")
    assert market.sectors["NA"] == "Technology"
    assert (
        sum(p.size for p in market.prints("NULL", OPEN - timedelta(seconds=1), OPEN + timedelta(minutes=5)))
        == 700
    )


def test_recorded_market_replays_the_shortest_bars_of_a_symbol(tmp_path: Path) -> None:
    """A symbol with minute and five-minute bars uses the minute bars; others use their five-minute bars."""
    fives = [
        (s, OPEN + timedelta(minutes=5 * n), 8.5, 9.0, 8.0, 8.25, 500.0) for s in ("A", "B") for n in range(3)
    ]
    ones = [("A", OPEN + timedelta(minutes=n), 8.5, 9.0, 8.0, 8.25, 300.0) for n in range(15)]
    files = [write_bars(tmp_path / "fives.parquet", fives), write_bars(tmp_path / "ones.parquet", ones)]
    market = recorded_market.load_market(files)
    end = OPEN + timedelta(hours=1)
    for symbol, shares in (("A", 4500), ("B", 1500)):
        assert market.snapshots([symbol], end).daily.volume[0] == shares
        bars = market.bars(symbol, timedelta(minutes=5), OPEN, end, end)
        assert bars.volume.sum() == shares
        assert len(bars.starts) == 3
    minutes = market.bars("B", timedelta(minutes=1), OPEN, end, end)
    assert (minutes.volume.sum(), minutes.open[0], minutes.close[-1]) == (1500, 8.5, 8.25)
    assert (minutes.high.max(), minutes.low.min()) == (9.0, 8.0)


def test_duplicate_bars_are_rejected(tmp_path: Path) -> None:
    """Two bars of one symbol at one time are rejected."""
    bar = ("A", OPEN, 8.5, 9.0, 8.0, 8.5, 1.0)
    with pytest.raises(ValueError, match="duplicate"):
        recorded_market.load_market(write_bars(tmp_path / "bars.parquet", [bar, bar]))


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    """A generated day, and the recorded one where it is present."""
    return str(request.param)


@pytest.fixture(scope="module")
def files_of(source: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[date], Recording]:
    """Files of a market day: bars, daily bars, headlines, listings and official closes."""
    if source == GENERATED:
        return lambda day: generated_files(tmp_path_factory.mktemp("day"), day)
    return recorded_files


@pytest.fixture(scope="module")
def files(files_of: Callable[[date], Recording]) -> Recording:
    """Files of 8 April 2026; recorded, the market opened with a gap up."""
    return files_of(DAY)


@pytest.fixture(scope="module")
def market(files: Recording) -> BarMarket:
    """The market of these files."""
    return files.load()


def test_recorded_day_bars_equal_the_file(market: BarMarket, files: Recording) -> None:
    """After the close every symbol's daily bar has the recorded open, high, low, close and total volume."""
    table = pq.read_table(files.bars)
    table = table.filter(pc.greater(table["volume"], 0))
    day = table.group_by("symbol", use_threads=False).aggregate(
        [("open", "first"), ("high", "max"), ("low", "min"), ("close", "last"), ("volume", "sum")]
    )
    found = market.snapshots(day["symbol"].to_pylist(), datetime(2026, 4, 8, 20, 30, tzinfo=UTC))
    for name, column in (
        ("open", "open_first"),
        ("high", "high_max"),
        ("low", "low_min"),
        ("close", "close_last"),
    ):
        assert np.array_equal(getattr(found.daily, name), day[column].to_numpy()), name
    # adjusted volumes are fractional; prints have whole shares, at least one per bar
    assert np.abs(found.daily.volume - day["volume_sum"].to_numpy()).max() <= 39
    assert abs(int(found.daily.volume.sum()) / pc.sum(table["volume"]).as_py() - 1) < 1e-6


def test_finished_five_minute_bars_equal_the_file(market: BarMarket, files: Recording) -> None:
    """The five-minute bars served after the close equal the file's, row by row."""
    table = pq.read_table(files.bars)
    for symbol in ("AAPL", "BRK.A", "SNDL", "MSFT"):
        own = table.filter(pc.equal(table["symbol"], symbol))
        end = datetime(2026, 4, 8, 21, tzinfo=UTC)
        found = market.bars(symbol, timedelta(minutes=5), OPEN, end, end)
        assert found.starts.tolist() == (own["timestamp"].cast(pa.int64()).to_numpy() // 10**6).tolist()
        for name in ("open", "high", "low", "close"):
            assert getattr(found, name).tolist() == own[name].to_pylist()


def test_snapshots_agree_with_the_prints(market: BarMarket) -> None:
    """At any time, the last trade and the bars of the array operations agree with a scan of the prints."""
    pick = np.random.default_rng(7)
    symbols = sorted(market.assets())
    for _ in range(60):
        symbol = symbols[int(pick.integers(len(symbols)))]
        at = OPEN + timedelta(seconds=int(pick.integers(0, 23_500)))
        found = market.snapshots([symbol], at)
        prints = market.prints(symbol, OPEN - timedelta(hours=6), at)
        if not prints:
            assert found.trade_at[0] < OPEN.timestamp()
            continue
        prices = [float(p.price) for p in prints]
        assert (found.trade_at[0], found.trade_price[0]) == (prints[-1].at.timestamp(), prices[-1])
        daily = found.daily
        assert (daily.open[0], daily.high[0], daily.low[0]) == (prices[0], max(prices), min(prices))
        assert daily.volume[0] == sum(p.size for p in prints)
        minute = [p for p in prints if p.at < at.replace(second=0)]
        if minute:
            last = minute[-1].at.replace(second=0)
            own = [float(p.price) for p in minute if p.at >= last]
            bar = found.minute
            assert bar.starts[0] == last.timestamp()
            assert (bar.open[0], bar.high[0], bar.low[0], bar.close[0]) == (
                own[0],
                max(own),
                min(own),
                own[-1],
            )
            assert bar.volume[0] == sum(p.size for p in minute if p.at >= last)


def test_modelled_quotes_surround_the_last_trade(market: BarMarket) -> None:
    """No quote is crossed or locked, and each quote surrounds the newest print."""
    for hours in (-1, 0, 0.05, 3, 6.4, 7):
        found = market.snapshots(list(market.assets()), OPEN + timedelta(hours=hours))
        has_trade = found.trade_at >= 0
        assert (found.bid < found.ask)[has_trade].all()
        assert (found.bid <= found.trade_price)[has_trade].all()
        assert (found.ask >= found.trade_price)[has_trade].all()
        assert (found.bid > 0)[has_trade].all()
        assert (np.minimum(found.bid_size, found.ask_size) >= 100)[has_trade].all()


@given(
    st.integers(0, 2**32),
    st.integers(1, 8_000_000_000),
    st.integers(0, 30_000),
    st.floats(0.00005, 0.03),
    st.integers(0, 30_000),
)
def test_single_quote_equals_the_vectorized_quote(
    salt: int, last: int, traded: int, spread: float, at: int
) -> None:
    """The quote of one symbol equals the vectorized quote for many."""
    traded, hours = min(traded, at), (5000, 28_400)
    single = quote_model.one_quote(salt, last, traded, spread, 300, at, hours)
    columns = (np.array([value]) for value in (salt, last, traded, spread, 300))
    vectorized = quote_model.quotes(*columns, at, hours)
    found = (vectorized.at, vectorized.bid, vectorized.ask, vectorized.bid_size, vectorized.ask_size)
    assert single == tuple(int(column[0]) for column in found)
    assert single[1] < single[2]
    assert single[1] <= last <= single[2]


def test_single_symbol_queries_agree_with_snapshots(market: BarMarket) -> None:
    """At times in any order, the newest trade and quote equal those of the snapshots."""
    pick = np.random.default_rng(3)
    for symbol in ("AAPL", "SNDL", "BRK.A", "ACHR"):
        seconds = np.concatenate((np.arange(-600, 900, 7), pick.integers(-3000, 26_000, 60)))
        for second in seconds.tolist():
            at = OPEN + timedelta(seconds=second)
            columns = market.snapshots([symbol], at)
            trade, quote = market.last_print(symbol, at), market.quote(symbol, at)
            assert trade is not None
            assert quote is not None
            assert (trade.at.timestamp(), float(trade.price)) == (columns.trade_at[0], columns.trade_price[0])
            assert (quote.at.timestamp(), float(quote.bid)) == (columns.quote_at[0], columns.bid[0])
            assert (float(quote.ask), quote.ask_size) == (columns.ask[0], columns.ask_size[0])
            later = market.next_print_time(symbol, at)
            ahead = market.prints(symbol, at, at + timedelta(minutes=10))
            assert later == ahead[0].at if ahead else later is None or later > at + timedelta(minutes=10)


def test_market_data_does_not_depend_on_later_bars(
    files_of: Callable[[date], Recording], tmp_path: Path
) -> None:
    """All data visible at a time is equal with and without the later bars."""
    files = files_of(date(2026, 3, 31))
    table = pq.read_table(files.bars)
    # the unfinished bar stays: its path is drawn from the whole bar, and its prints appear one by one
    at = datetime(2026, 3, 31, 15, 22, 17, tzinfo=UTC)
    cut = tmp_path / "cut.parquet"
    pq.write_table(table.filter(pc.less(table["timestamp"], pa.scalar(at, pa.timestamp("us", "UTC")))), cut)
    whole, past = (recorded_market.load_market(bars, files.daily) for bars in (files.bars, cut))
    symbols = sorted(set(whole.assets()) & set(past.assets()))
    whole_view, past_view = whole.snapshots(symbols, at), past.snapshots(symbols, at)
    for name in ("trade_at", "trade_price", "trade_size", "quote_at", "bid", "ask", "bid_size", "ask_size"):
        assert np.array_equal(getattr(whole_view, name), getattr(past_view, name)), name
    for part in ("minute", "daily", "previous"):
        for name in ("starts", "open", "high", "low", "close", "volume", "vwap", "trades"):
            assert np.array_equal(
                getattr(getattr(whole_view, part), name), getattr(getattr(past_view, part), name)
            )
    later = at + timedelta(days=9)
    for length in (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(days=1)):
        for symbol in ("AAPL", "ACHR", symbols[0]):
            whole_bars = whole.bars(symbol, length, at - timedelta(days=30), later, at)
            past_bars = past.bars(symbol, length, at - timedelta(days=30), later, at)
            assert whole_bars.starts.tolist() == past_bars.starts.tolist()
            assert whole_bars.close.tolist() == past_bars.close.tolist()
            if length < timedelta(days=1) and len(whole_bars.starts):
                assert whole_bars.starts[-1] + length.total_seconds() <= at.timestamp()


def test_headlines_appear_when_published(market: BarMarket) -> None:
    """No headline published later is returned, and one headline with several symbols is one article."""
    at = OPEN - timedelta(minutes=15)
    headlines = market.headlines(at - timedelta(days=1), at + timedelta(days=1), at)
    assert headlines
    assert max(each.published for each in headlines) <= at
    assert any(len(each.symbols) > 1 for each in headlines)


@pytest.mark.parametrize(
    ("recorded_name", "day", "close"),
    [
        ("bars_5min_ibkr101_2025-05_2025-11.parquet", date(2025, 7, 3), "17:00"),
        ("bars_5min_ibkr101_2025-05_2025-11.parquet", date(2025, 11, 3), "21:00"),
        ("bars_1min_tech100_2025-01_extended.parquet", date(2025, 1, 27), "21:00"),
    ],
)
def test_recorded_half_days_and_clock_changes_follow_the_calendar(
    source: str, recorded_name: str, day: date, close: str, tmp_path: Path
) -> None:
    """On half days and on both sides of a clock change the daily bar has only the session's bars."""
    file = DATA / recorded_name
    if source == GENERATED:
        days = [session.day for session in recorded_market.calendar.sessions(day - timedelta(days=6), day)]
        rows = five_minute_rows(days, ["NVDA"], extended=True)
        file = write_bars(tmp_path / "bars.parquet", list(rows))
    market = recorded_market.load_market(file, day=day)
    session = market.session(day)
    assert session is not None
    assert f"{session.close:%H:%M}" == close
    table = pq.read_table(file, filters=[("symbol", "==", "NVDA")])
    inside = pc.and_(
        pc.greater_equal(table["timestamp"], session.open), pc.less(table["timestamp"], session.close)
    )
    own = table.filter(inside)
    found = market.snapshots(["NVDA"], session.close + timedelta(hours=2))
    assert found.daily.high[0] == pc.max(own["high"]).as_py()
    assert found.daily.close[0] == own["close"][-1].as_py()
    assert market.bars(
        "NVDA", timedelta(days=1), session.open - timedelta(days=9), session.close, session.close
    ).starts[-2] == int(
        datetime.combine(
            market.sessions(day - timedelta(days=6), day)[-2].day,
            datetime.min.time(),
            recorded_market.NEW_YORK,
        ).timestamp()
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read: Empty CSV file"),
        ("symbol,timestamp,open,high,low,close,volume\n", "has no rows"),
        (
            "{}ALFA,2026-04-08T13:30:00Z,10,11,9,10,5\n,2026-04-08T13:31:00Z,10,11,9,10,5\n",
            "row 2: symbol is empty",
        ),
        (
            "{}ALFA,2026-04-08T13:30:00Z,10,11,9,10,5\nALFA,2026-04-08T13:31:00Z,ten,11,9,10,5\n",
            "row 2: open is 'ten', which is no number; correct or delete the row",
        ),
        ("{}ALFA,soon,10,11,9,10,5\n", "cannot be read"),
        (
            "symbol,timestamp,open,high,low,close\nALFA,2026-04-08T13:30:00Z,1,1,1,1\n",
            "has no column 'volume'",
        ),
        ("symbol,timestamp\nALFA,2026-04-08T13:30:00Z\n", "has no column 'open'"),
        ("symbol,open\nALFA,1\n", "has no column 'timestamp'"),
        ("{}ALFA,2026-04-08T13:30:00Z,,11,9,10,5\n", "row 1: open is empty"),
    ],
)
def test_recorded_file_with_bad_rows_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str):
    """An empty file, a missing column, a symbol or price that is none: the sentence names file and row or bar."""
    path = tmp_path / "bars.csv"
    path.write_text(text.replace("{}", "symbol,timestamp,open,high,low,close,volume\n"))
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        recorded_market.load_market(path, day=DAY)
    assert "\n" not in str(caught.value)


def test_recorded_parquet_with_a_null_symbol_names_the_row(tmp_path: Path):
    """A null symbol, or a file that is no Parquet, is refused with the file."""
    table = pa.table({"symbol": ["ALFA", None], "timestamp": [OPEN, OPEN], "open": ["10", "x"]})
    pq.write_table(table, tmp_path / "bars.parquet")
    with pytest.raises(ValueError, match=r"bars\.parquet, row 2: symbol is empty"):
        recorded_market.load_market(tmp_path / "bars.parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.parquet cannot be read"):
        recorded_market.load_market(tmp_path / "empty.parquet")
