"""Synthetic market: an invented day with the proportions of real ones; equal for equal seed and day."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.clock import NEW_YORK
from catalyst.simulator.market import assets, calendar, quote_model
from catalyst.simulator.market import news as stories
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.bar_table import KEY_STRIDE, BarTable
from catalyst.simulator.market.interface import Asset, Floats, Ints, MarketSession
from catalyst.simulator.synthetic import intraday_profile as profile
from catalyst.simulator.synthetic import minutes as synthetic_minutes
from catalyst.simulator.synthetic.history import HISTORY_DAYS, daily_bars, make_minute_source
from catalyst.simulator.synthetic.intraday_profile import MarketRegime
from catalyst.simulator.synthetic.listings import Listings, make_listings, quantile_by_rank
from catalyst.simulator.synthetic.minutes import MarketModel, MinuteBars
from catalyst.simulator.synthetic.news import (
    Company,
    NewsRow,
    write_background_headlines,
    write_event_headlines,
    write_mentions,
)
from catalyst.simulator.synthetic.stocks_in_play import StockInPlay, draw_chart_setups, draw_stocks_in_play

DEFAULT_SYMBOL_COUNT: Final = 4129
BACKGROUND_HEADLINE_COUNT: Final = 320  # headlines without effect on prices
_LEVERAGED: Final = frozenset({"TQQQ", "SQQQ", "SOXL", "SOXS"})
_UNTRADABLE_PER_KIND: Final = 30  # listings of each kind that a careful universe excludes
_KIND_BY_SUFFIX: Final = {".WS": "Warrant", ".U": "Unit", ".PRA": "Preferred Stock Series A", ".R": "Right"}


def make_market(
    seed: int, day: date, symbols: int = DEFAULT_SYMBOL_COUNT, regime: MarketRegime | None = None
) -> BarMarket:
    """Return the market of `day`: `symbols` tradable listings, and some warrants, units and the like.

    The listings follow from the seed, the rest from seed and day. `regime` is drawn when it is None. The market
    has daily bars of the 85 sessions before, minute bars of the last three of them (made on request), and
    pre-market trades from 04:00. Raises ValueError for a day without a session.
    """
    session = calendar.session_of(day)
    previous_sessions = calendar.sessions_before(day, HISTORY_DAYS)
    listings = make_listings(np.random.default_rng((seed, 1)), symbols)
    rng = np.random.default_rng((seed, 2, day.toordinal()))
    regime = regime or MarketRegime(
        rng.choice(list(profile.REGIME_PROBABILITIES), p=list(profile.REGIME_PROBABILITIES.values()))
    )
    sigma = _sigmas(np.random.default_rng((seed, 4)), listings)
    in_play = draw_stocks_in_play(rng, listings, sigma, session, previous_sessions[-1].close)
    minutes = int((session.close - session.open).total_seconds()) // 60
    charts = draw_chart_setups(rng, listings, sigma, minutes, in_play)
    model = _market_model(rng, listings, sigma, in_play, regime)
    daily = daily_bars(rng, model, previous_sessions)
    extra = _untradable_listings(np.random.default_rng((seed, 5)), listings)
    steps = np.full(symbols + len(extra), 60)
    opens = int(session.open.timestamp())
    early = synthetic_minutes.premarket_minutes(
        rng, model, in_play, _price_reaction_minutes(in_play, session)
    )
    regular = synthetic_minutes.session_minutes(rng, model, in_play, charts, minutes)
    intraday = _bar_table(
        ((early, opens - 60 * synthetic_minutes.PREMARKET_MINUTES), (regular, opens)),
        steps,
    )
    zeros = np.zeros(len(extra))
    dollars = np.concatenate((listings.dollar_volume, zeros))
    return BarMarket(
        day=day,
        listings={**_assets(listings), **extra},
        intraday=intraday,
        daily=daily,
        spread=quote_model.spread_of(dollars),
        depth=quote_model.depth_of(np.concatenate((listings.dollar_volume / listings.price, zeros))),
        news=stories.collect_news(
            _write_headlines(rng, seed, listings, in_play, session, previous_sessions[-1])
        ),
        sectors=dict(zip(listings.symbols, listings.sectors, strict=True)),
        history=make_minute_source(seed, model, daily, previous_sessions),
    )


def _sigmas(rng: Generator, listings: Listings) -> Floats:
    """Return each symbol's daily standard deviation: larger for cheap stocks, smaller for funds."""
    cheap = 1 + 0.3 * np.clip(np.log10(15 / listings.price), 0, 3)
    sigma = 0.0215 * cheap * np.exp(0.46 * rng.standard_normal(len(listings.price)))
    fund = np.array(listings.sectors) == ""
    sigma = np.where(fund, sigma * 0.4, sigma)
    sigma = np.where(listings.is_real & ~fund, np.clip(sigma, 0.009, 0.03), sigma)
    sigma = np.where(listings.is_real & fund, 0.009, sigma)
    leveraged = np.isin(listings.symbols, list(_LEVERAGED))
    return np.clip(np.where(leveraged, 0.035, sigma), 0.002, 0.12)


def _market_model(
    rng: Generator, listings: Listings, sigma: Floats, in_play: Sequence[StockInPlay], regime: MarketRegime
) -> MarketModel:
    """Return the model of the day: gaps, volumes and correlations."""
    count = len(sigma)
    close = synthetic_minutes.to_tick(listings.price) / 1e4
    fund = (np.array(listings.sectors) == "") & listings.is_real
    gap_scores = rng.standard_normal(count)
    gap = quantile_by_rank(gap_scores * sigma, profile.OPENING_GAPS[regime]) / 100
    real_gap = np.clip(np.median(gap) + gap_scores * sigma * 0.3, -0.03, 0.03)
    gap = np.log1p(np.where(listings.is_real, real_gap, gap))
    volume_scores = 0.5 * np.abs(gap_scores) + rng.standard_normal(count)
    ratio = np.exp(quantile_by_rank(volume_scores, tuple(np.log(profile.VOLUME_RATIOS))))
    ratio = np.where(listings.is_real, np.clip(ratio, 0.6, 2.0), ratio)
    market_correlation = np.clip(
        profile.MARKET_CORRELATION[regime] * np.exp(0.35 * rng.standard_normal(count)), 0.05, 0.9
    )
    market_correlation = np.where(fund, 0.93, market_correlation)
    day_sigma = sigma.copy()
    for stock in in_play:
        if stock.minute < 0:
            gap[stock.number] = stock.move
        ratio[stock.number] = stock.volume
        day_sigma[stock.number] = np.clip(sigma[stock.number] * 1.6, 0.02, 0.09)
    return MarketModel(
        close=close,
        gap=gap,
        sigma=day_sigma,
        market_correlation=market_correlation,
        dollar_volume=listings.dollar_volume,
        volume=listings.dollar_volume / close * ratio,
        regime=regime,
    )


def _price_reaction_minutes(in_play: Sequence[StockInPlay], session: MarketSession) -> Ints:
    """Return the pre-market minute in which each stock in play reacts to its news."""
    begin = session.open - timedelta(minutes=synthetic_minutes.PREMARKET_MINUTES)
    return np.array(
        [max(int((stock.published - begin).total_seconds()) // 60, 0) for stock in in_play], dtype=np.int64
    )


def _bar_table(parts: Sequence[tuple[MinuteBars, int]], steps: Ints) -> BarTable:
    """Return one bar table of several parts, each given with the epoch second of its minute 0."""
    key = np.concatenate([part.number * KEY_STRIDE + begin + part.minute * 60 for part, begin in parts])
    order = np.argsort(key, kind="stable")
    open_, high, low, close, volume = (
        np.concatenate([getattr(part, name) for part, _ in parts])[order]
        for name in ("open", "high", "low", "close", "volume")
    )
    return BarTable(key[order], open_, high, low, close, volume, steps)


def _assets(listings: Listings) -> dict[str, Asset]:
    rows = zip(
        listings.symbols,
        listings.names,
        listings.exchanges,
        listings.price.tolist(),
        listings.dollar_volume.tolist(),
        strict=True,
    )
    return {row[0]: assets.make_asset(*row) for row in rows}


def _untradable_listings(rng: Generator, listings: Listings) -> Mapping[str, Asset]:
    """Return warrants, units, rights, preferred, foreign over-the-counter and delisted listings, none with a trade."""
    taken = set(listings.symbols)
    bases = np.flatnonzero(~listings.is_real & (np.array([len(symbol) for symbol in listings.symbols]) <= 4))
    assets_by_symbol: dict[str, Asset] = {}
    for suffix, kind in _KIND_BY_SUFFIX.items():
        for number in rng.choice(bases, size=min(_UNTRADABLE_PER_KIND, len(bases)), replace=False).tolist():
            name = f"{listings.names[number].removesuffix(' Common Stock')} {kind}"
            symbol = listings.symbols[number] + suffix
            assets_by_symbol[symbol] = assets.make_asset(symbol, name, listings.exchanges[number], 0.0, 0.0)
    for suffix, exchange in (("F", "OTC"), ("Q", "NYSE")):
        for number in rng.choice(bases, size=min(_UNTRADABLE_PER_KIND, len(bases)), replace=False).tolist():
            symbol = f"{listings.symbols[number]:Z<4.4}{suffix}"
            if symbol not in taken:
                status = "active" if exchange == "OTC" else "inactive"
                assets_by_symbol[symbol] = _untradable_asset(symbol, listings.names[number], exchange, status)
    return assets_by_symbol


def _untradable_asset(symbol: str, name: str, exchange: str, status: str) -> Asset:
    return Asset(
        id=str(assets.asset_id(symbol)),
        symbol=symbol,
        name=name,
        exchange=exchange,
        tradable=False,
        shortable=False,
        easy_to_borrow=False,
        fractionable=False,
        marginable=False,
        status=status,
    )


def _write_headlines(
    rng: Generator,
    seed: int,
    listings: Listings,
    in_play: Sequence[StockInPlay],
    session: MarketSession,
    previous_session: MarketSession,
) -> list[NewsRow]:
    """Return every headline from the previous close to the close."""

    def company(number: int) -> Company:
        name = listings.names[number].removesuffix(" Common Stock")
        return Company(
            listings.symbols[number],
            name,
            listings.sectors[number],
            float(listings.price[number]),
            bool(listings.is_real[number]),
        )

    rows: list[NewsRow] = []
    for stock in in_play:
        rows += write_event_headlines(
            rng, company(stock.number), stock.event, stock.side, stock.published, session.close
        )
    most_traded = [
        company(int(number)) for number in np.argsort(-listings.dollar_volume, kind="stable")[:400]
    ]
    start = datetime.fromtimestamp(previous_session.close.timestamp(), UTC)
    rows += write_background_headlines(rng, most_traded, BACKGROUND_HEADLINE_COUNT, start, session.close)
    # Known symbols have news from the start of the day; draws of their own leave the rest of the day as it is.
    known = [company(int(number)) for number in np.flatnonzero(listings.is_real)]
    early = datetime.combine(session.day, calendar.EXTENDED_OPEN, NEW_YORK).astimezone(UTC)
    return rows + write_mentions(
        np.random.default_rng((seed, 6, session.day.toordinal())), known, start, early
    )
