"""Stocks in play of a synthetic day: their news, price moves and chart patterns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.simulator.market.interface import Floats, MarketSession
from catalyst.simulator.synthetic.chart_setups import ChartSetup, draw_setup
from catalyst.simulator.synthetic.listings import Listings
from catalyst.simulator.synthetic.news import CompanyEvent, draw_event

IN_PLAY_COUNT: Final = (38, 58)  # stocks with news: minimum, and maximum plus one
CHART_ONLY_COUNT: Final = 90  # stocks with a pattern and without news
LONG_SHARE: Final = 0.6
OVERNIGHT_SHARE: Final = 0.72  # fraction of the news published overnight, the rest during the session
# how often the chart points in the direction of the news; the gap has priced in most of the news already
CHART_AGREES_SHARE: Final = 0.55
MIN_DOLLAR_VOLUME: Final = 4e6  # minimum turnover of a stock in play, dollars a day


@dataclass(frozen=True, slots=True)
class StockInPlay:
    """One stock in play: its news event, price move and chart pattern."""

    number: int
    event: CompanyEvent
    side: int  # 1 good news, -1 bad
    published: datetime
    minute: int  # session minute of the price move; negative for a gap at the open
    move: float  # log size of the gap or jump, signed
    volume: float  # as a multiple of the usual
    setup: ChartSetup


def draw_stocks_in_play(
    rng: Generator, listings: Listings, sigma: Floats, session: MarketSession, since: datetime
) -> list[StockInPlay]:
    """Return the stocks in play of a session; `since` is the close of the previous session."""
    sector = np.array(listings.sectors)
    pool = np.flatnonzero(
        ~listings.is_real
        & (sector != "")
        & (listings.price >= 2)
        & (listings.price <= 400)
        & (listings.dollar_volume >= MIN_DOLLAR_VOLUME)
    )
    count = min(int(rng.integers(*IN_PLAY_COUNT)), len(pool))
    numbers = np.sort(rng.choice(pool, size=count, replace=False))
    return [
        _draw_stock_in_play(rng, listings, int(number), float(sigma[number]), session, since)
        for number in numbers
    ]


def draw_chart_setups(
    rng: Generator, listings: Listings, sigma: Floats, minutes: int, in_play: Sequence[StockInPlay]
) -> list[ChartSetup]:
    """Return chart patterns of liquid stocks without news; the stocks of `in_play` are left out."""
    in_play_numbers = {stock.number for stock in in_play}
    pool = [
        n
        for n in np.flatnonzero(
            (listings.dollar_volume >= MIN_DOLLAR_VOLUME) & (listings.price >= 2)
        ).tolist()
        if n not in in_play_numbers
    ]
    numbers = np.sort(
        rng.choice(np.array(pool, dtype=np.int64), size=min(CHART_ONLY_COUNT, len(pool)), replace=False)
    )
    return [
        draw_setup(rng, int(number), 1 if rng.random() < LONG_SHARE else -1, float(sigma[number]), minutes, 0)
        for number in numbers.tolist()
    ]


def _draw_stock_in_play(
    rng: Generator, listings: Listings, number: int, sigma: float, session: MarketSession, since: datetime
) -> StockInPlay:
    side = 1 if rng.random() < LONG_SHARE else -1
    minutes = int((session.close - session.open).total_seconds()) // 60
    size = min(0.025 + float(rng.exponential(0.035)), 0.22)
    published, minute = _draw_news_time(rng, session, since, minutes)
    chart_side = side if rng.random() < CHART_AGREES_SHARE else -side
    return StockInPlay(
        number=number,
        event=draw_event(rng, listings.sectors[number], side),
        side=side,
        published=published,
        minute=minute,
        move=side * (size if minute < 0 else size * 0.7),
        volume=float(np.clip(np.exp(rng.normal(np.log(4.0), 0.5)), 1.8, 15.0)),
        setup=draw_setup(rng, number, chart_side, sigma, minutes, max(minute + 3, 0)),
    )


def _draw_news_time(
    rng: Generator, session: MarketSession, since: datetime, minutes: int
) -> tuple[datetime, int]:
    """Return the publication time of the news, and the session minute of the price reaction (-1: overnight)."""
    seconds = timedelta(seconds=int(rng.integers(60)))
    if rng.random() >= OVERNIGHT_SHARE:
        minute = int(rng.integers(8, max(minutes - 120, 9)))
        return session.open + timedelta(minutes=minute) - seconds, minute
    if rng.random() < 0.4:
        return since + timedelta(minutes=int(rng.integers(3, 110))) + seconds, -1
    return session.open - timedelta(minutes=int(rng.integers(15, 210))) + seconds, -1
