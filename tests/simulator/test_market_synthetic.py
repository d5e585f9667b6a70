"""The generated market: equal for equal seeds, with the measured distributions of the real market."""

import csv
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from catalyst.simulator.market import calendar
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.bar_table import KEY_STRIDE
from catalyst.simulator.market.interface import Floats
from catalyst.simulator.market.listings_file import write_listings
from catalyst.simulator.recorded import market as recorded_market
from catalyst.simulator.synthetic import chart_setups
from catalyst.simulator.synthetic import market as synthetic_market
from catalyst.simulator.synthetic.intraday_profile import OPENING_GAPS, MarketRegime
from catalyst.simulator.synthetic.listings import DOLLAR_VOLUMES, PRICES, QUANTILES

DAY = date(2026, 11, 20)
OPEN = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
CLOSE = datetime(2026, 11, 20, 21, 0, tzinfo=UTC)
CHECKED_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@pytest.fixture(scope="module")
def market() -> BarMarket:
    """A quiet day."""
    return synthetic_market.make_market(11, DAY, regime=MarketRegime.QUIET)


@pytest.fixture(scope="module")
def day(market: BarMarket) -> Mapping[str, Floats]:
    """Gap, move, range and volume ratio per liquid symbol (price from $1, turnover above $1 million)."""
    found = market.snapshots(list(market.assets()), CLOSE + timedelta(minutes=30))
    _, shares, dollars = recorded_market.usual_activity(market.daily, len(market.assets()), DAY)
    today = found.daily.starts == int(calendar.midnight(DAY).timestamp())
    liquid = today & (found.previous.close >= 1) & (dollars > 1e6)
    bar, before = found.daily, found.previous
    columns = {
        "gap": (bar.open / np.maximum(before.close, 1e-9) - 1) * 100,
        "move": (bar.close / np.maximum(bar.open, 1e-9) - 1) * 100,
        "range": (bar.high - bar.low) / np.maximum(bar.open, 1e-9) * 100,
        "ratio": bar.volume / np.maximum(shares, 1),
    }
    return {name: column[liquid] for name, column in columns.items()}


def five_minute_grid(market: BarMarket) -> tuple[Floats, Floats, Floats]:
    """Return open, close and volume per symbol (rows) and five-minute slot (columns); NaN without a trade."""
    intraday, count = market.intraday, len(market.assets())
    start = intraday.starts - int(OPEN.timestamp())
    rows = np.flatnonzero((start >= 0) & (start < 23_400))
    number, slot = intraday.symbol_numbers[rows], start[rows] // 300
    cell = number * 78 + slot
    heads = np.flatnonzero(np.concatenate(([True], cell[1:] != cell[:-1])))
    tails = np.append(heads[1:], len(cell)) - 1
    opens, closes = np.full((2, count * 78), np.nan)
    opens[cell[heads]], closes[cell[tails]] = intraday.open[rows[heads]], intraday.close[rows[tails]]
    volume = np.bincount(cell, intraday.volume[rows], count * 78)
    return opens.reshape(count, 78), closes.reshape(count, 78), volume.reshape(count, 78)


def test_synthetic_market_repeats_with_its_seed() -> None:
    """Two markets of one seed and day agree in every bar and headline; another seed or day differs."""
    first, same_seed, other_seed, other_day = (
        synthetic_market.make_market(*arguments)
        for arguments in ((3, DAY, 400), (3, DAY, 400), (4, DAY, 400), (3, date(2026, 11, 23), 400))
    )
    assert list(first.assets().items()) == list(same_seed.assets().items())
    for table in ("intraday", "daily"):
        for name in ("key", "open", "high", "low", "close", "volume"):
            assert np.array_equal(
                getattr(getattr(first, table), name), getattr(getattr(same_seed, table), name)
            )
    assert first.news.articles == same_seed.news.articles
    symbol = list(first.assets())[7]
    past = [
        m.bars(symbol, timedelta(minutes=1), OPEN - timedelta(days=4), OPEN, OPEN) for m in (first, same_seed)
    ]
    assert past[0].close.tolist() == past[1].close.tolist()
    assert list(other_seed.assets()) != list(first.assets())
    assert list(other_day.assets()) == list(first.assets())
    assert not np.array_equal(other_day.intraday.close, first.intraday.close)


def test_synthetic_universe_has_the_requested_size(market: BarMarket) -> None:
    """The universe has 4,129 tradable common listings, the famous ones included, and others that a scan must
    leave out."""
    assets = market.assets().values()
    common = [
        a for a in assets if a.tradable and a.status == "active" and "." not in a.symbol.replace("BRK.B", "")
    ]
    assert len(common) == 4129
    assert {"AAPL", "MSFT", "SPY", "QQQ", "BRK.B"} <= set(market.assets())
    assert {a.exchange for a in common} <= {"NYSE", "NASDAQ", "AMEX", "ARCA"}
    assert any(a.exchange == "OTC" for a in assets)
    assert any(a.symbol.endswith(".WS") for a in assets)
    assert len({a.id for a in assets}) == len(market.assets())


def test_synthetic_prices_and_turnover_match_measured_quantiles(market: BarMarket) -> None:
    """Quantiles of price and daily dollar volume are within a third of the measured ones."""
    price, _, dollars = recorded_market.usual_activity(market.daily, len(market.assets()), DAY)
    listed = price > 0
    for found, table in ((price, PRICES), (dollars, DOLLAR_VOLUMES)):
        for q in (0.05, 0.1, 0.25, 0.5, 0.75):
            wanted = np.exp(np.interp(q, QUANTILES, np.log(table)))
            assert np.quantile(found[listed], q) == pytest.approx(wanted, rel=0.34)


@pytest.mark.parametrize("regime", [MarketRegime.QUIET, MarketRegime.GAP_UP, MarketRegime.SELL_OFF])
def test_synthetic_gaps_follow_the_market_regime(regime: MarketRegime) -> None:
    """Opening gaps of liquid stocks are within 0.5 points of the measured quantiles, 1 point in the tails."""
    market = synthetic_market.make_market(5, DAY, regime=regime)
    found = market.snapshots(list(market.assets()), CLOSE)
    _, _, dollars = recorded_market.usual_activity(market.daily, len(market.assets()), DAY)
    liquid = (found.daily.open > 0) & (found.previous.close >= 1) & (dollars > 1e6)
    gap = (found.daily.open[liquid] / found.previous.close[liquid] - 1) * 100
    for q in CHECKED_QUANTILES:
        wanted = np.interp(q, QUANTILES, OPENING_GAPS[regime])
        assert np.quantile(gap, q) == pytest.approx(wanted, abs=0.5 if 0.1 <= q <= 0.9 else 1.0), q
    large = float((np.abs(gap) > 4).mean())
    assert 0.02 < large < 0.5


def test_synthetic_day_range_moves_and_volume_are_realistic(day: Mapping[str, Floats]) -> None:
    """Range, open-to-close moves and volume ratio are within the stated tolerances of a quiet day."""
    assert 2.6 < np.median(day["range"]) < 4.8
    # the measured day leaned up and the generated one is symmetric, so half the width is compared
    for low, high, wanted in ((0.05, 0.95, 4.55), (0.25, 0.75, 1.25)):
        width = np.quantile(day["move"], high) - np.quantile(day["move"], low)
        assert width / 2 == pytest.approx(wanted, rel=0.3), high
    for q, wanted in ((0.05, 0.32), (0.25, 0.63), (0.5, 0.87), (0.75, 1.2), (0.95, 2.1)):
        assert np.quantile(day["ratio"], q) == pytest.approx(wanted, rel=0.3), q
    assert abs(np.corrcoef(day["gap"], day["move"])[0, 1]) < 0.15


def test_synthetic_intraday_profile_is_realistic(market: BarMarket) -> None:
    """Volume and moves by time of day, missing intervals and correlations are within the measured ranges."""
    opens, closes, volume = five_minute_grid(market)
    _, _, dollars = recorded_market.usual_activity(market.daily, len(market.assets()), DAY)
    traded = dollars > 0
    slots = (~np.isnan(closes)).sum(axis=1)[: int(np.flatnonzero(dollars != 1e7).max()) + 1]
    assert 48 <= np.median(slots) <= 70
    assert np.quantile(slots, 0.1) <= 10
    liquid = np.flatnonzero(traded & (dollars > 1e6) & (slots.size > 0) & (volume.sum(axis=1) > 0))
    share = np.mean(volume[liquid] / volume[liquid].sum(axis=1, keepdims=True), axis=0) * 100
    for slot, wanted in ((0, 2.5), (3, 1.5), (18, 1.0), (40, 0.8), (70, 1.2), (76, 3.4), (77, 20.0)):
        assert share[slot] == pytest.approx(wanted, rel=0.2), slot
    move = np.nanmedian(np.abs(closes / opens - 1)[liquid], axis=0) * 1e4
    for slot, wanted, off in (
        (0, 56, 16),
        (1, 35, 14),
        (12, 17, 6),
        (slice(28, 55), 10, 3),
        (slice(70, 78), 14, 5),
    ):
        assert np.mean(move[slot]) == pytest.approx(wanted, abs=off), slot
    returns = np.log(closes / opens)[liquid]
    full = returns[~np.isnan(returns).any(axis=1)]
    assert 20e-4 < np.median(full.std(axis=1)) < 33e-4
    mean_return = full.mean(axis=0)
    correlations = [np.corrcoef(row, mean_return)[0, 1] for row in full]
    assert 0.2 < np.median(correlations) < 0.42
    autocorrelations = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in full]
    assert -0.15 < np.median(autocorrelations) < 0.03


def test_synthetic_spreads_widen_with_low_turnover_and_near_the_open(market: BarMarket) -> None:
    """The highest turnover has spreads of one or two basis points, low turnover tens; all are wider at the
    open."""
    symbols = list(market.assets())
    price, _, dollars = recorded_market.usual_activity(market.daily, len(symbols), DAY)

    def spreads(at: datetime) -> Floats:
        found = market.snapshots(symbols, at)
        return (found.ask - found.bid) / np.maximum(found.trade_price, 1e-9) * 1e4

    noon = spreads(OPEN + timedelta(hours=3))
    expensive = price > 20
    assert np.median(noon[expensive & (dollars > 1e9)]) < 4
    assert 5 < np.median(noon[(dollars > 1e7) & (dollars < 1e8) & expensive]) < 20
    assert 30 < np.median(noon[(dollars > 2e5) & (dollars < 2e6) & expensive]) < 150
    common = expensive & (dollars > 2e5)
    wide = spreads(OPEN + timedelta(seconds=20))[common] / noon[common]
    assert 1.8 < np.median(wide) < 4


def test_synthetic_market_trades_before_the_open(market: BarMarket) -> None:
    """At 09:15 liquid symbols and those with news have traded, and the newest price is near the later open."""
    at = OPEN - timedelta(minutes=15)
    found = market.snapshots(list(market.assets()), at)
    morning = int((OPEN - timedelta(hours=6)).timestamp())
    assert 300 < int((found.trade_at >= morning).sum()) < 2500
    aapl = market.last_print("AAPL", at)
    first = market.prints("AAPL", OPEN - timedelta(seconds=1), OPEN)[0]
    assert aapl is not None
    assert float(aapl.price) == pytest.approx(float(first.price), rel=0.02)
    gaps = np.abs(found.trade_price / np.maximum(found.daily.close, 1e-9) - 1)[found.trade_at >= morning]
    assert int((gaps > 0.03).sum()) >= 10


def test_synthetic_daily_bars_agree_with_their_minutes(market: BarMarket) -> None:
    """Open and close lie inside high and low, each symbol has 85 days, and yesterday's minutes add up to its
    day."""
    for table in (market.intraday, market.daily):
        assert (table.low <= np.minimum(table.open, table.close)).all()
        assert (table.high >= np.maximum(table.open, table.close)).all()
        assert (table.low > 0).all()
        assert (np.diff(table.key) > 0).all()
        prices = np.concatenate((table.open, table.high, table.low, table.close))
        assert (prices[prices >= 10_000] % 100 == 0).all()
    assert (np.bincount(market.daily.key // KEY_STRIDE) == 85).all()
    symbols = [symbol for number, symbol in enumerate(market.assets()) if number % 97 == 0 and number < 4129]
    yesterday = calendar.sessions_before(DAY, 1)[0]
    for symbol in symbols:
        minutes = market.bars(symbol, timedelta(minutes=1), yesterday.open, yesterday.close, OPEN)
        daily = market.bars(
            symbol, timedelta(days=1), yesterday.open - timedelta(hours=12), yesterday.close, OPEN
        )
        assert len(minutes.starts)
        assert (minutes.open[0], minutes.close[-1]) == (daily.open[0], daily.close[0])
        assert minutes.volume.sum() == daily.volume[0]
        assert daily.low[0] <= minutes.low.min() <= minutes.high.max() <= daily.high[0]


def test_synthetic_news_appears_before_and_during_the_day(market: BarMarket) -> None:
    """30 to 60 invented companies have news with a gap or a jump; real companies only appear in other news."""
    assert len(market.news.articles) > 200
    assert all(
        calendar.sessions_before(DAY, 1)[0].close <= a.published <= CLOSE for a in market.news.articles
    )
    early = [a for a in market.news.articles if a.published < OPEN]
    assert 100 < len(early) < len(market.news.articles)
    assert len({a.title for a in market.news.articles}) > 150
    eventful = ("FDA", "beat", "raises", "cuts", "upgrade", "downgrade", "acquired", "offering", "contract")
    eventful_articles = [a for a in market.news.articles if any(word in a.title for word in eventful)]
    assert len(eventful_articles) >= 12
    assert all(not {"AAPL", "MSFT", "NVDA", "TSLA"} & set(a.symbols) for a in eventful_articles)


def test_synthetic_patterns_continue_as_often_as_they_fail() -> None:
    """Over 3,000 patterns the mean outcome after the trigger is zero, so a pattern predicts nothing."""
    rng = np.random.default_rng(1)
    outcomes, continued = [], 0
    for number in range(3000):
        setup = chart_setups.draw_setup(rng, number, 1, 0.03, 390, 0)
        path = chart_setups.log_path(rng, setup, 390)
        outcomes.append((path[-1] - path[setup.end]) / setup.height)
        continued += setup.succeeds
    assert continued / 3000 == pytest.approx(0.5, abs=0.03)
    assert np.mean(outcomes) == pytest.approx(0, abs=0.06)


def test_synthetic_patterns_complete_at_all_hours() -> None:
    """Some patterns complete soon after 09:45, some only in the afternoon."""
    rng = np.random.default_rng(2)
    ends = [chart_setups.draw_setup(rng, n, 1, 0.03, 390, 0).end for n in range(500)]
    assert np.mean([15 < end <= 60 for end in ends]) > 0.25
    assert np.mean([end > 200 for end in ends]) > 0.15


def test_synthetic_half_day_ends_at_13_00() -> None:
    """On the day after Thanksgiving trades end at 13:00, and the closing minute has the most volume."""
    short = synthetic_market.make_market(1, date(2026, 11, 27), 300)
    close = datetime(2026, 11, 27, 18, 0, tzinfo=UTC)
    assert short.intraday.starts.max() == int(close.timestamp()) - 60
    bars = short.bars("AAPL", timedelta(minutes=1), close - timedelta(hours=4), close, close)
    assert int(np.argmax(bars.volume)) == len(bars.starts) - 1


def test_synthetic_market_rejects_a_closed_day() -> None:
    """Thanksgiving has no session."""
    with pytest.raises(ValueError, match="no session"):
        synthetic_market.make_market(1, date(2026, 11, 26), 50)


def test_listings_file_has_every_symbol_with_its_sector(market: BarMarket, tmp_path: Path) -> None:
    """The file has symbol, name and sector of every listing, as the configuration reads them."""
    write_listings(market, tmp_path / "listings.csv")
    with (tmp_path / "listings.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["symbol"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(market.assets())
    assert rows["AAPL"] == {"symbol": "AAPL", "name": "Apple Inc. Common Stock", "sector": "Technology"}
    assert rows["SPY"]["sector"] == ""
    counted = [row["sector"] for row in rows.values()]
    assert counted.count("Finance") > counted.count("Technology") > counted.count("Utilities") > 0
