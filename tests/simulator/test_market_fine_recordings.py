"""Symbols recorded finer than minute bars: prints follow the recorded trades and quotes the recorded quotes."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.recorded import market as recorded_market
from tests.simulator.data_feed import BAR, DAY, OPEN, serve_data_feed, write_parquet

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_recorded_days = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded days are not here")
TRADES = ("symbol", "timestamp", "price", "size", "suspicious")
QUOTE_TICKS = ("symbol", "timestamp", "bid_price", "bid_size", "ask_price", "ask_size", "suspicious")
QUOTES = ("symbol", "timestamp", "bid_open", "bid_close", "bid_size", "ask_open", "ask_close", "ask_size")
PREMARKET = OPEN - timedelta(hours=2)


def after_open(seconds: float) -> datetime:
    return OPEN + timedelta(seconds=seconds)


@pytest.fixture
def minutes(tmp_path: Path) -> Path:
    """Minute bars of two symbols: ten minutes of the day and of the day before."""
    rows = [
        (symbol, begin + timedelta(minutes=n), 10.0, 10.5, 9.5, 10.2, 600.0)
        for symbol in ("ALFA", "BETA")
        for begin in (OPEN - timedelta(days=1), OPEN)
        for n in range(10)
    ]
    return write_parquet(tmp_path / "minutes.parquet", ("symbol", "timestamp", *BAR), rows)


@pytest.fixture
def seconds(tmp_path: Path) -> Path:
    """Second bars of ALFA: two before the open, four after."""
    rows = [
        ("ALFA", PREMARKET, 9.9, 9.9, 9.9, 9.9, 50.0),
        ("ALFA", PREMARKET + timedelta(seconds=61), 9.95, 9.95, 9.95, 9.95, 50.0),
        ("ALFA", after_open(2), 10.0, 10.3, 9.9, 10.1, 400.0),
        ("ALFA", after_open(3), 10.1, 10.1, 10.1, 10.1, 100.0),
        ("ALFA", after_open(59), 10.4, 10.4, 10.4, 10.4, 200.0),
        ("ALFA", after_open(71), 10.2, 10.6, 10.2, 10.6, 300.0),
    ]
    return write_parquet(tmp_path / "seconds.parquet", ("symbol", "timestamp", *BAR), rows)


@pytest.fixture
def trades(tmp_path: Path) -> Path:
    """Single trades of ALFA: three in one second, and one marked suspicious."""
    rows = [
        ("ALFA", after_open(2.1), 10.0, 100, "0"),
        ("ALFA", after_open(2.4), 10.3, 30, "0"),
        ("ALFA", after_open(2.4), 9.9, 270, "0"),
        ("ALFA", after_open(3), 99.0, 100, "1"),
        ("ALFA", after_open(59.9), 10.4, 200, "0"),
        ("ALFA", after_open(71), 10.6, 300, "0"),
    ]
    return write_parquet(tmp_path / "trades.parquet", TRADES, rows)


def quotes_file(path: Path, step: int) -> Path:
    """Write ALFA's quotes in bars of `step` seconds: 10.00 by 10.04, widening to 10.08; one without an ask."""
    rows = [
        ("ALFA", after_open(0), 10.0, 10.0, 300, 10.04, 10.08, 500),
        ("ALFA", after_open(step), 10.1, 10.1, 200, 10.12, 10.13, 100),
        ("ALFA", after_open(10 * step + (step == 1)), 10.1, 10.1, 200, 0.0, 0.0, 0),
    ]
    return write_parquet(path, QUOTES, rows)


def prints_from_open(market: BarMarket, symbol: str, until: datetime) -> list[tuple[float, str, int]]:
    """Return seconds from the open, price and size of each print."""
    prints = market.prints(symbol, PREMARKET - timedelta(seconds=1), until)
    return [((p.at - OPEN).total_seconds(), str(p.price), p.size) for p in prints]


def test_second_bars_are_replayed_second_by_second(minutes: Path, seconds: Path) -> None:
    """The prints of a second bar are in its second; other symbols use minute bars."""
    market = recorded_market.load_market([minutes, seconds])
    assert prints_from_open(market, "ALFA", after_open(70)) == [
        (-7200, "9.90", 50),
        (-7139, "9.95", 50),
        (2, "10.00", 100),
        (2, "9.90", 100),
        (2, "10.30", 100),
        (2, "10.10", 100),
        (3, "10.10", 100),
        (59, "10.40", 200),
    ]
    assert market.next_print_time("ALFA", after_open(3)) == after_open(59)
    assert market.next_print_time("ALFA", after_open(71)) is None
    assert [each[0] for each in prints_from_open(market, "BETA", after_open(30))] == [0, 10, 20, 30]


def test_recorded_trades_are_replayed_one_by_one(minutes: Path, seconds: Path, trades: Path) -> None:
    """The finest recording is used; trades of one second keep their order and have their own numbers."""
    market = recorded_market.load_market([seconds, trades, minutes])
    found = market.prints("ALFA", OPEN, after_open(600))
    assert [(p.at, str(p.price), p.size, p.number) for p in found] == [
        (after_open(2), "10.00", 100, 0),
        (after_open(2), "10.30", 30, 1),
        (after_open(2), "9.90", 270, 2),
        (after_open(59), "10.40", 200, 0),
        (after_open(71), "10.60", 300, 0),
    ]
    newest = market.snapshots(["ALFA"], after_open(40))
    assert (newest.trade_at[0], newest.trade_price[0], newest.trade_size[0]) == (
        after_open(2).timestamp(),
        9.9,
        270,
    )
    assert newest.trade_number is not None
    assert newest.trade_number[0] == 2


def test_bars_are_aggregated_from_the_finer_recording(minutes: Path, seconds: Path) -> None:
    """Minute bars, today's bar and the day before agree with the second bars; extended hours add volume only."""
    market = recorded_market.load_market([minutes, seconds])
    bars = market.bars("ALFA", timedelta(minutes=1), PREMARKET, after_open(600), after_open(600))
    assert bars.starts.tolist() == [
        t.timestamp() for t in (PREMARKET, PREMARKET + timedelta(minutes=1), OPEN, after_open(60))
    ]
    assert [column[2] for column in (bars.open, bars.high, bars.low, bars.close)] == [10.0, 10.4, 9.9, 10.4]
    assert (bars.volume[2], bars.trades[2]) == (700, 6)
    assert bars.vwap[2] == round((1000 + 990 + 1030 + 1010 + 1010 + 2080) / 700, 6)
    for second, close, volume in ((1, None, None), (2, 10.1, 500), (58, 10.1, 600), (59, 10.4, 800)):
        found = market.snapshots(["BETA", "ALFA"], after_open(second))
        today = found.daily.starts[1] == recorded_market.calendar.midnight(DAY).timestamp()
        assert today == (close is not None)
        if today:
            assert (found.daily.close[1], found.daily.volume[1]) == (close, volume)
            assert (found.daily.open[1], found.daily.high[1]) == (10.0, 10.4 if second == 59 else 10.3)
            day = market.bars(
                "ALFA",
                timedelta(days=1),
                PREMARKET - timedelta(days=9),
                after_open(second),
                after_open(second),
            )
            assert (day.close[-1], day.volume[-1]) == (close, volume)
        assert found.previous.close[1] == (10.2 if today else 0)
    midnight = recorded_market.calendar.midnight(DAY)
    yesterday = market.bars(
        "ALFA", timedelta(minutes=5), OPEN - timedelta(days=1), OPEN - timedelta(hours=20), after_open(0)
    )
    assert yesterday.volume.tolist() == [3000, 3000]
    halves = market.bars("ALFA", timedelta(hours=12), midnight, after_open(40_000), after_open(80_000))
    assert halves.volume.tolist() == [1000]  # a day with a finer recording leaves out the coarser one


def test_second_quotes_are_served_as_recorded(minutes: Path, seconds: Path, tmp_path: Path) -> None:
    """With trades and quotes recorded by the second, no quote is modelled and a missing side stays missing."""
    market = recorded_market.load_market(
        [minutes, seconds], quotes=quotes_file(tmp_path / "quotes.parquet", 1)
    )

    def quote(second: float, symbol: str = "ALFA") -> tuple[datetime, str, str, int, int]:
        found = market.quote(symbol, after_open(second))
        assert found is not None
        return found.at, str(found.bid), str(found.ask), found.bid_size, found.ask_size

    assert quote(0) == (after_open(0), "10.00", "10.08", 300, 500)
    assert quote(10.9) == (after_open(1), "10.10", "10.13", 200, 100)
    assert quote(11) == (after_open(11), "10.10", "0.00", 200, 0)
    snapshots = market.snapshots(["BETA", "ALFA"], after_open(5))
    assert (snapshots.bid[1], snapshots.ask[1], snapshots.bid_size[1], snapshots.quote_at[1]) == (
        10.1, 10.13, 200, after_open(1).timestamp()
    )  # fmt: skip
    assert [q.at for q in market.quotes("ALFA", after_open(-1), after_open(20))] == [
        after_open(0),
        after_open(1),
        after_open(11),
    ]
    modelled = recorded_market.load_market([minutes, seconds])
    assert market.quote("BETA", after_open(5)) == modelled.quote("BETA", after_open(5))
    assert market.quote("ALFA", after_open(-60)) == modelled.quote(
        "ALFA", after_open(-60)
    )  # before today's first recorded quote


def test_quote_ticks_are_merged_by_second(minutes: Path, seconds: Path, tmp_path: Path) -> None:
    """A tick may carry one side; the symbol's other side is unchanged. The last tick of a second counts."""
    rows = [
        ("ALFA", after_open(1.2), 10.0, 300, 0.0, 0, "0"),
        ("ALFA", after_open(3.1), 0.0, 0, 10.2, 100, "0"),
        ("ALFA", after_open(3.7), 10.1, 200, 0.0, 0, "0"),
        ("ALFA", after_open(3.9), 9.0, 200, 9.1, 100, "1"),
        ("BETA", after_open(2.0), 0.0, 0, 10.3, 700, "0"),
    ]
    quotes = write_parquet(tmp_path / "quotes.parquet", QUOTE_TICKS, rows)
    market = recorded_market.load_market([minutes, seconds], quotes=quotes)
    found = [
        (q.at, str(q.bid), q.bid_size, str(q.ask), q.ask_size)
        for q in market.quotes("ALFA", after_open(-1), after_open(9))
    ]
    assert found == [(after_open(1), "10.00", 300, "0.00", 0), (after_open(3), "10.10", 200, "10.20", 100)]
    beta = market.quote("BETA", after_open(5))  # its path is modelled, so a one-sided quote is not used
    assert beta == recorded_market.load_market([minutes, seconds]).quote("BETA", after_open(5))


@pytest.mark.parametrize("trades_by", ["seconds", "minutes"])
def test_coarser_quotes_give_only_the_spread(
    minutes: Path, seconds: Path, tmp_path: Path, trades_by: str
) -> None:
    """On a modelled path or inside a quote bar, the recorded spread and sizes surround the newest print."""
    files = {"seconds": [minutes, seconds], "minutes": [minutes]}[trades_by]
    market = recorded_market.load_market(files, quotes=quotes_file(tmp_path / "quotes.parquet", 60))
    for second, width, sizes in (
        (3, "0.04", (300, 500)),
        (61, "0.02", (200, 100)),
        (150, "0.03", (200, 100)),
    ):
        quote, last = market.quote("ALFA", after_open(second)), market.last_print("ALFA", after_open(second))
        assert quote is not None
        assert last is not None
        assert quote.bid <= last.price <= quote.ask
        assert quote.ask - quote.bid == Decimal(width)
        assert (quote.bid_size, quote.ask_size) == sizes
    assert market.quote("ALFA", after_open(601)) == recorded_market.load_market(files).quote(
        "ALFA", after_open(601)
    )


async def test_orders_fill_at_the_recorded_quotes(minutes: Path, seconds: Path, tmp_path: Path) -> None:
    """A market order pays the recorded ask; the stream sends all trades of a second in order."""
    market = recorded_market.load_market(
        [minutes, seconds], quotes=quotes_file(tmp_path / "quotes.parquet", 1)
    )
    async with serve_data_feed(market) as feed, feed.connect() as subscriber:
        await subscriber.request(action="subscribe", trades=["ALFA"], quotes=["ALFA"], bars=["ALFA"])
        await feed.advance(2)
        order = {"symbol": "ALFA", "side": "buy", "type": "market", "time_in_force": "day", "qty": "40"}
        async with feed.http.post("/v2/orders", json=order) as answer:
            assert answer.status == 200, await answer.text()
        await feed.advance(58)
        _, orders = await feed.get("/v2/orders", status="all")
        assert [(each["filled_avg_price"], each["filled_qty"]) for each in orders] == [("10.13", "40")]
        received: list[dict[str, Any]] = []
        while not any(each["T"] == "b" for each in received):
            received += await subscriber.receive()
        trades = [each for each in received if each["T"] == "t"]
        assert [each["p"] for each in trades] == [10.0, 9.9, 10.3, 10.1, 10.1, 10.4]
        assert len({each["i"] for each in trades}) == 6
        assert [(q["bp"], q["ap"]) for q in received if q["T"] == "q"] == [(10.1, 10.13), (10.1, 0)]
        pages, token = [], {}
        while True:
            _, body = await feed.get(
                "/v2/stocks/ALFA/trades", limit="3", start=after_open(0).isoformat(), **token
            )
            pages += body["trades"]
            if body["next_page_token"] is None:
                break
            token = {"page_token": body["next_page_token"]}
        assert [each["i"] for each in pages] == [each["i"] for each in trades]
        _, body = await feed.get("/v2/stocks/ALFA/snapshot")
        assert body["latestTrade"]["i"] == trades[-1]["i"]
        _, body = await feed.get("/v2/stocks/ALFA/quotes", start=after_open(0).isoformat())
        assert [(q["t"][17:19], q["bp"], q["ap"]) for q in body["quotes"]] == [
            ("00", 10.0, 10.08),
            ("01", 10.1, 10.13),
            ("11", 10.1, 0),
        ]


async def test_extended_hours_orders_fill_on_recorded_premarket_trades(seconds: Path) -> None:
    """Recorded pre-market trades are streamed and fill orders with extended hours only."""
    async with (
        serve_data_feed(recorded_market.load_market(seconds), PREMARKET - timedelta(seconds=2)) as feed,
        feed.connect() as subscriber,
    ):
        await subscriber.request(action="subscribe", trades=["ALFA"], bars=["ALFA"], dailyBars=["ALFA"])
        order = {"symbol": "ALFA", "side": "buy", "type": "limit", "limit_price": "10", "qty": "5"}
        order |= {"time_in_force": "day"}
        for early in (False, True):
            async with feed.http.post("/v2/orders", json={**order, "extended_hours": early}) as answer:
                assert answer.status == 200, await answer.text()
        await feed.advance(90)
        _, orders = await feed.get("/v2/orders", status="all")
        filled = {each["extended_hours"]: each["filled_qty"] for each in orders}
        assert filled == {True: "5", False: "0"}
        received = [*await subscriber.receive_of_kind("t"), *await subscriber.receive_of_kind("b")]
        assert [each["t"] for each in received] == ["2026-04-08T11:30:00Z", "2026-04-08T11:30:00Z"]


@pytest.mark.parametrize(
    ("names", "rows", "reason"),
    [
        (
            ("symbol", "timestamp", *BAR),
            [("A", after_open(30 * n), 9.0, 9.0, 9.0, 9.0, 9.0) for n in range(4)],
            "of 30 s",
        ),
        (TRADES, [("A", after_open(1), 0.0, 100, "0")], "not positive"),
        (TRADES, [("A", after_open(1), 9.0, -5, "0")], "not positive"),
        (TRADES, [("A", after_open(1), float("inf"), 5, "0")], "not positive"),
    ],
)
def test_unusable_recording_is_rejected(
    tmp_path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]], reason: str
) -> None:
    """Bars of other lengths and invalid trades are rejected."""
    with pytest.raises(ValueError, match=reason):
        recorded_market.load_market(write_parquet(tmp_path / "bars.parquet", names, rows), day=DAY)


@needs_recorded_days
def test_recorded_second_bars_match_their_minute_bars_and_quotes(tmp_path: Path) -> None:
    """On 2013-10-08 minutes built from seconds equal the recorded minutes, extended hours included, and
    quotes fit the trades."""
    day = date(2013, 10, 8)
    market = recorded_market.load_market(
        [DATA / "bars_1sec_lean_extended.parquet", DATA / "bars_1min_lean_extended.parquet"],
        day=day,
        quotes=DATA / "quotebars_1sec_lean_extended.parquet",
    )
    table = pq.read_table(DATA / "bars_1min_lean_extended.parquet")
    midnight = recorded_market.calendar.midnight(day).astimezone(UTC)
    of_day = pc.and_(
        pc.greater_equal(table["timestamp"], midnight),
        pc.less(table["timestamp"], midnight + timedelta(days=1)),
    )
    end = midnight + timedelta(hours=24)
    for symbol in ("SPY", "IBM", "BAC", "AIG"):
        own = table.filter(pc.and_(of_day, pc.equal(table["symbol"], symbol)))
        bars = market.bars(symbol, timedelta(minutes=1), midnight, end, end)
        starts = own["timestamp"].cast(pa.int64()).to_numpy() // 1_000_000
        both = np.isin(bars.starts, starts)
        assert both.mean() > 0.97
        rows = np.isin(starts, bars.starts)
        for name in ("high", "low", "close"):
            same = np.isclose(getattr(bars, name)[both], own[name].to_numpy()[rows], atol=1e-4)
            assert same.mean() > 0.97, (symbol, name)
    singles = DATA / "ticks_quotes_lean_ibm_20131008.parquet"
    ibm = recorded_market.load_market(DATA / "ticks_trades_lean_ibm_20131008.parquet", quotes=singles)
    both = [each.quotes("IBM", midnight, end) for each in (ibm, market)]
    sides = [{q.at: (q.bid, q.ask) for q in each if q.bid and q.ask} for each in both]
    shared = sides[0].keys() & sides[1].keys()
    assert len(shared) > 12_000
    assert sum(sides[0][instant] == sides[1][instant] for instant in shared) > 0.999 * len(shared)
    outside = total = 0
    for trade in market.prints("SPY", midnight + timedelta(hours=9.5), midnight + timedelta(hours=16)):
        quote = market.quote("SPY", trade.at)
        assert quote is not None
        total += 1
        outside += not quote.bid - Decimal("0.03") <= trade.price <= quote.ask + Decimal("0.03")
    assert total > 20_000
    assert outside < total * 0.01
