"""Synthetic minute bars of all symbols: the session, and the pre-market before it."""

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
# dollars a day from which a stock without news trades before the open
PREMARKET_MIN_DOLLAR_VOLUME: Final = 2e7
_NEWS_SHOCK_FACTOR: Final = 3.0  # on the market's moves in the minutes of the day's economic news
# fraction of its random drift that the market retains by the close; the regime's drift is added
_RETAINED_DRIFT: Final = 0.35
# variation of a stock's own volatility from half hour to half hour, log standard deviation
_VOLATILITY_OF_VOLATILITY: Final = 0.35
_EXTREME_DISTANCE: Final = 0.4  # of a minute's extremes from its ends, in its standard deviations


@dataclass(frozen=True, slots=True)
class MarketModel:
    """Inputs of a synthetic day, one value per symbol number."""

    close: Floats  # of the previous session
    gap: Floats  # log
    sigma: Floats  # of a day, log
    market_correlation: Floats  # correlation with the market
    dollar_volume: Floats  # usual turnover
    volume: Floats  # shares of today, regular hours
    regime: profile.MarketRegime


@dataclass(frozen=True, slots=True)
class MinuteBars:
    """Minute bars in (symbol, minute) order; prices in units (ten-thousandths of a dollar), on the tick."""

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
    """Return the minute bars of the regular session; a minute without a trade has no bar."""
    minute_sigmas = profile.minute_sigmas(minutes)
    returns = _minute_returns(rng, model, minute_sigmas, [*[stock.setup for stock in in_play], *charts])
    for stock in in_play:
        if stock.minute >= 0:
            returns[stock.number, stock.minute : stock.minute + 3] += stock.move / 3
    log_price = np.concatenate((np.zeros((len(returns), 1)), np.cumsum(returns, axis=1)), axis=1)
    log_level = (np.log(model.close) + model.gap)[:, None] + log_price
    factors_by_symbol = _trading_factors(in_play, charts, minutes)
    rates = profile.trade_rates(model.dollar_volume, minutes)
    for symbol, factor in factors_by_symbol.items():
        rates[symbol] *= factor
    trade_probability = -np.expm1(-rates)
    number, minute = np.nonzero(rng.random(trade_probability.shape, dtype=np.float32) < trade_probability)
    shares = profile.volume_shares(minutes)[minute] * np.exp(0.6 * rng.standard_normal(len(minute)))
    for symbol, factor in factors_by_symbol.items():
        symbol_rows = slice(*np.searchsorted(number, (symbol, symbol + 1)))
        shares[symbol_rows] *= factor[minute[symbol_rows]]
    shares /= trade_probability[number, minute]
    total = np.bincount(number, shares, len(model.close))
    volume = np.maximum(np.rint(shares * (model.volume / np.maximum(total, 1e-12))[number]), 1).astype(
        np.int64
    )
    log_ends = log_level[number, minute], log_level[number, minute + 1]
    return _make_bars(rng, number, minute, log_ends, (model.sigma[number] * minute_sigmas[minute]), volume)


def premarket_minutes(
    rng: Generator, model: MarketModel, in_play: Sequence[StockInPlay], news_minute: Ints
) -> MinuteBars:
    """Return the pre-market minute bars of liquid stocks and of stocks with overnight news, up to the opening price.

    `news_minute` is the minute (from 04:00) in which each stock in play reacts to its news; 0 for news before
    04:00.
    """
    overnight = [(stock, int(at)) for stock, at in zip(in_play, news_minute, strict=True) if stock.minute < 0]
    overnight_by_number = {stock.number: (stock, at) for stock, at in overnight}
    rows = np.union1d(
        np.flatnonzero(model.dollar_volume >= PREMARKET_MIN_DOLLAR_VOLUME),
        np.array(list(overnight_by_number), dtype=np.int64),
    )
    minute = np.arange(PREMARKET_MINUTES)
    shape = np.interp(minute, (0, 180, 240, PREMARKET_MINUTES), (0.12, 0.3, 0.7, 1.6))
    rates = np.outer(0.9 * (model.dollar_volume[rows] / 1e9) ** 0.7, shape)
    noise = rng.standard_normal((len(rows), PREMARKET_MINUTES)) * (model.sigma[rows] * 0.02)[:, None]
    walk = np.cumsum(noise, axis=1)
    walk -= walk[:, -1:] * (minute + 1) / PREMARKET_MINUTES
    gap_priced_in = np.broadcast_to(
        np.interp(minute, (0, PREMARKET_MINUTES - 1), (0.35, 1.0)), walk.shape
    ).copy()
    volume_fraction = np.full(len(rows), 0.006)  # fraction of a usual day's volume
    for index, number in enumerate(rows.tolist()):
        if number in overnight_by_number:
            stock, at = overnight_by_number[number]
            rates[index] = np.where(minute >= at, np.maximum(rates[index], 0.9), rates[index])
            gap_priced_in[index] = np.where(minute >= at, np.clip(0.8 + (minute - at) / 400, 0, 1), 0.05)
            volume_fraction[index] = 0.02 * stock.volume
    log_level = np.log(model.close[rows])[:, None] + model.gap[rows][:, None] * gap_priced_in + walk
    previous_level = np.concatenate((log_level[:, :1], log_level[:, :-1]), axis=1)
    row, at_minute = np.nonzero(rng.random(rates.shape) < -np.expm1(-rates))
    shares = rates[row, at_minute] * np.exp(0.7 * rng.standard_normal(len(row)))
    total = np.bincount(row, shares, len(rows))
    usual_shares = model.dollar_volume[rows] / model.close[rows] * volume_fraction
    volume = np.maximum(np.rint(shares * (usual_shares / np.maximum(total, 1e-12))[row]), 1).astype(np.int64)
    log_ends = previous_level[row, at_minute], log_level[row, at_minute]
    return _make_bars(rng, rows[row], at_minute, log_ends, model.sigma[rows[row]] * 0.02, volume)


def to_tick(price: Floats) -> Ints:
    """Return dollars as units rounded to the tick: cents from $1 up, hundredths of a cent below."""
    units = np.maximum(np.rint(price * intrabar_path.UNITS), 1).astype(np.int64)
    tick = intrabar_path.tick_units(units)
    return (units + tick // 2) // tick * tick


def _minute_returns(
    rng: Generator, model: MarketModel, minute_sigmas: Floats, setups_drawn: Sequence[ChartSetup]
) -> Floats:
    """Return each symbol's (rows) log return in each minute (columns)."""
    minutes, count = len(minute_sigmas), len(model.close)
    market = rng.standard_normal(minutes)
    shock = int(rng.integers(minutes // 3, minutes * 2 // 3))
    market[shock : shock + 3] *= _NEWS_SHOCK_FACTOR
    market -= (1 - _RETAINED_DRIFT) * (market @ minute_sigmas) * minute_sigmas
    volatility = np.exp(_VOLATILITY_OF_VOLATILITY * rng.standard_normal((count, minutes // 30 + 1)))
    own = (
        rng.standard_normal((count, minutes), dtype=np.float32)
        * np.repeat(volatility, 30, axis=1)[:, :minutes]
    )
    own /= np.exp(_VOLATILITY_OF_VOLATILITY**2)
    standard_returns = (
        model.market_correlation[:, None] * market + np.sqrt(1 - model.market_correlation**2)[:, None] * own
    )
    for setup in setups_drawn:
        standard_returns[setup.number] *= setups.noise_factors(setup, minutes)
    returns = standard_returns * model.sigma[:, None] * minute_sigmas
    drift = (
        profile.REGIME_DRIFT[model.regime] * model.market_correlation * model.sigma
        - profile.GAP_FADE[model.regime] * model.gap
    )
    returns += drift[:, None] * minute_sigmas**2
    for setup in setups_drawn:
        returns[setup.number] += np.diff(setups.log_path(rng, setup, minutes))
    return np.asarray(returns, dtype=np.float64)


def _trading_factors(
    in_play: Sequence[StockInPlay], charts: Sequence[ChartSetup], minutes: int
) -> dict[int, Floats]:
    """Return by symbol number the factors of news and patterns on the trading of each minute."""
    factors = {chart.number: setups.volume_factors(chart, minutes) for chart in charts}
    for stock in in_play:
        factor = setups.volume_factors(stock.setup, minutes)
        if stock.minute >= 0:
            minute = np.arange(minutes)
            minutes_since = np.maximum(minute - stock.minute, 0)
            factor = factor * np.where(minute >= stock.minute, 1 + 7 * np.exp(-minutes_since / 20), 0.6)
        factors[stock.number] = factor
    return factors


def _make_bars(
    rng: Generator, number: Ints, minute: Ints, log_ends: tuple[Floats, Floats], sigma: Floats, volume: Ints
) -> MinuteBars:
    """Return bars from their log opens and closes and the standard deviation of their minutes."""
    overshoot = np.abs(rng.standard_normal((2, len(number)))) * (_EXTREME_DISTANCE * sigma)
    open_, close = to_tick(np.exp(log_ends[0])), to_tick(np.exp(log_ends[1]))
    high = to_tick(np.exp(np.maximum(*log_ends) + overshoot[0]))
    low = to_tick(np.exp(np.minimum(*log_ends) - overshoot[1]))
    return MinuteBars(
        number,
        minute,
        open_,
        np.maximum(np.maximum(open_, close), high),
        np.minimum(np.minimum(open_, close), low),
        close,
        volume,
    )
