"""The minutes of a generated session, of all symbols at once, and of the hours before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.interface import Floats, Ints
from catalyst.simulator.synthetic import chart_setups as setups
from catalyst.simulator.synthetic import intraday_profile as profile
from catalyst.simulator.synthetic.chart_setups import ChartSetup
from catalyst.simulator.synthetic.stocks_in_play import StockInPlay

PREMARKET_MINUTES: Final = 330  # 04:00 to 09:30
PREMARKET_MIN_DOLLAR_VOLUME: Final = (
    2e7  # dollars a day from which a stock trades before the open without news
)
_NEWS_SHOCK_FACTOR: Final = 3.0  # how much wider the market moves in the minutes of the day's economic news
_RETAINED_DRIFT: Final = (
    0.35  # how much of its chance drift the market keeps by the close; the mood's comes on top
)
_VOLATILITY_OF_VOLATILITY: Final = (
    0.35  # how much a stock's own volatility varies from half hour to half hour
)
_EXTREME_DISTANCE: Final = 0.4  # how far a minute's extremes lie beyond its ends, in its standard deviations


@dataclass(frozen=True, slots=True)
class MarketModel:
    """What the day is made from, one value per symbol number."""

    close: Floats  # of the day before
    gap: Floats  # log
    sigma: Floats  # of a day, log
    market_correlation: Floats  # correlation with the market
    dollar_volume: Floats  # usual turnover
    volume: Floats  # shares of today, regular hours
    regime: profile.MarketRegime


@dataclass(frozen=True, slots=True)
class MinuteBars:
    """Minute bars in (symbol, minute) order; prices in dollars, on the tick."""

    number: Ints
    minute: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints


def session_minutes(
    rng: Generator,
    model: MarketModel,
    in_play: Sequence[StockInPlay],
    charts: Sequence[ChartSetup],
    minutes: int,
) -> MinuteBars:
    """The regular session. A minute nobody traded in has no bar."""
    size = profile.minute_sigmas(minutes)
    steps = _minute_returns(rng, model, size, [*[stock.setup for stock in in_play], *charts])
    for stock in in_play:
        if stock.minute >= 0:
            steps[stock.number, stock.minute : stock.minute + 3] += stock.move / 3
    log_price = np.concatenate((np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)), axis=1)
    level = (np.log(model.close) + model.gap)[:, None] + log_price
    factors = _trading_factors(in_play, charts, minutes)
    rates = profile.trade_rates(model.dollar_volume, minutes)
    for symbol, factor in factors.items():
        rates[symbol] *= factor
    happens = -np.expm1(-rates)
    number, minute = np.nonzero(rng.random(happens.shape, dtype=np.float32) < happens)
    shares = profile.volume_shares(minutes)[minute] * np.exp(0.6 * rng.standard_normal(len(minute)))
    for symbol, factor in factors.items():
        own = slice(*np.searchsorted(number, (symbol, symbol + 1)))
        shares[own] *= factor[minute[own]]
    shares /= happens[number, minute]
    total = np.bincount(number, shares, len(model.close))
    volume = np.maximum(np.rint(shares * (model.volume / np.maximum(total, 1e-12))[number]), 1).astype(
        np.int64
    )
    ends = level[number, minute], level[number, minute + 1]
    return _make_bars(rng, number, minute, ends, (model.sigma[number] * size[minute]), volume)


def premarket_minutes(
    rng: Generator, model: MarketModel, in_play: Sequence[StockInPlay], news_minute: Ints
) -> MinuteBars:
    """The pre-market of the liquid and the newsworthy, ending where the session opens.

    `news_minute` is the minute (from 04:00) at which each play's price answers its news; not after 04:00 is 0.
    """
    overnight = [(stock, int(at)) for stock, at in zip(in_play, news_minute, strict=True) if stock.minute < 0]
    busy = {stock.number: (stock, at) for stock, at in overnight}
    rows = np.union1d(
        np.flatnonzero(model.dollar_volume >= PREMARKET_MIN_DOLLAR_VOLUME),
        np.array(list(busy), dtype=np.int64),
    )
    minute = np.arange(PREMARKET_MINUTES)
    shape = np.interp(minute, (0, 180, 240, PREMARKET_MINUTES), (0.12, 0.3, 0.7, 1.6))
    rates = np.outer(0.9 * (model.dollar_volume[rows] / 1e9) ** 0.7, shape)
    wander = rng.standard_normal((len(rows), PREMARKET_MINUTES)) * (model.sigma[rows] * 0.02)[:, None]
    walk = np.cumsum(wander, axis=1)
    walk -= walk[:, -1:] * (minute + 1) / PREMARKET_MINUTES
    known = np.broadcast_to(np.interp(minute, (0, PREMARKET_MINUTES - 1), (0.35, 1.0)), walk.shape).copy()
    part = np.full(len(rows), 0.006)  # of a usual day's volume
    for place, number in enumerate(rows.tolist()):
        if number in busy:
            stock, at = busy[number]
            rates[place] = np.where(minute >= at, np.maximum(rates[place], 0.9), rates[place])
            known[place] = np.where(minute >= at, np.clip(0.8 + (minute - at) / 400, 0, 1), 0.05)
            part[place] = 0.02 * stock.volume
    level = np.log(model.close[rows])[:, None] + model.gap[rows][:, None] * known + walk
    before = np.concatenate((level[:, :1], level[:, :-1]), axis=1)
    row, at_minute = np.nonzero(rng.random(rates.shape) < -np.expm1(-rates))
    shares = rates[row, at_minute] * np.exp(0.7 * rng.standard_normal(len(row)))
    total = np.bincount(row, shares, len(rows))
    usual = model.dollar_volume[rows] / model.close[rows] * part
    volume = np.maximum(np.rint(shares * (usual / np.maximum(total, 1e-12))[row]), 1).astype(np.int64)
    ends = before[row, at_minute], level[row, at_minute]
    return _make_bars(rng, rows[row], at_minute, ends, model.sigma[rows[row]] * 0.02, volume)


def to_tick(price: Floats) -> Ints:
    """Dollars as units on the tick: cents from $1 up, hundredths of a cent below."""
    units = np.maximum(np.rint(price * intrabar_path.UNITS), 1).astype(np.int64)
    grid = intrabar_path.tick_units(units)
    return (units + grid // 2) // grid * grid


def _minute_returns(rng: Generator, model: MarketModel, size: Floats, drawn: Sequence[ChartSetup]) -> Floats:
    """Each symbol's log return in each minute."""
    minutes, count = len(size), len(model.close)
    market = rng.standard_normal(minutes)
    shock = int(rng.integers(minutes // 3, minutes * 2 // 3))
    market[shock : shock + 3] *= _NEWS_SHOCK_FACTOR
    market -= (1 - _RETAINED_DRIFT) * (market @ size) * size
    restless = np.exp(_VOLATILITY_OF_VOLATILITY * rng.standard_normal((count, minutes // 30 + 1)))
    own = (
        rng.standard_normal((count, minutes), dtype=np.float32) * np.repeat(restless, 30, axis=1)[:, :minutes]
    )
    own /= np.exp(_VOLATILITY_OF_VOLATILITY**2)
    mixed = (
        model.market_correlation[:, None] * market + np.sqrt(1 - model.market_correlation**2)[:, None] * own
    )
    for setup in drawn:
        mixed[setup.number] *= setups.noise_factors(setup, minutes)
    steps = mixed * model.sigma[:, None] * size
    drift = (
        profile.REGIME_DRIFT[model.regime] * model.market_correlation * model.sigma
        - profile.GAP_FADE[model.regime] * model.gap
    )
    steps += drift[:, None] * size**2
    for setup in drawn:
        steps[setup.number] += np.diff(setups.log_path(rng, setup, minutes))
    return np.asarray(steps, dtype=np.float64)


def _trading_factors(
    in_play: Sequence[StockInPlay], charts: Sequence[ChartSetup], minutes: int
) -> dict[int, Floats]:
    """By how much news and patterns raise a symbol's trading, minute by minute."""
    factors = {chart.number: setups.volume_factors(chart, minutes) for chart in charts}
    for stock in in_play:
        factor = setups.volume_factors(stock.setup, minutes)
        if stock.minute >= 0:
            minute = np.arange(minutes)
            since = np.maximum(minute - stock.minute, 0)
            factor = factor * np.where(minute >= stock.minute, 1 + 7 * np.exp(-since / 20), 0.6)
        factors[stock.number] = factor
    return factors


def _make_bars(
    rng: Generator, number: Ints, minute: Ints, ends: tuple[Floats, Floats], size: Floats, volume: Ints
) -> MinuteBars:
    """Bars from their log ends and the standard deviation of their minute."""
    beyond = np.abs(rng.standard_normal((2, len(number)))) * (_EXTREME_DISTANCE * size)
    open_, close = to_tick(np.exp(ends[0])), to_tick(np.exp(ends[1]))
    high = to_tick(np.exp(np.maximum(*ends) + beyond[0]))
    low = to_tick(np.exp(np.minimum(*ends) - beyond[1]))
    return MinuteBars(
        number,
        minute,
        open_,
        np.maximum(np.maximum(open_, close), high),
        np.minimum(np.minimum(open_, close), low),
        close,
        volume,
    )
