"""Intraday profile: volume, moves and missing minutes by time of day, and opening gaps by market regime.

Averages measured on five-minute bars of the whole US market in 2026; a half day has the same shape in less
time.
"""

from enum import StrEnum
from typing import Final

import numpy as np

from catalyst.simulator.market.interface import Floats

_FIVE_MINUTE_BARS: Final = 78  # five-minute bars in a full session
# five-minute bar: share of the day's volume in percent
_VOLUME_PROFILE: Final = {0: 2.5, 1: 1.9, 2: 1.6, 3: 1.5, 6: 1.3, 12: 1.1, 18: 1.0, 30: 0.83, 42: 0.77, 54: 0.78,
                  66: 0.95, 70: 1.2, 74: 1.5, 75: 1.9, 76: 3.4, 77: 20.0}  # fmt: skip
# five-minute bar: median size of its move in basis points
_MOVE_PROFILE: Final = {0: 56.0, 1: 35.0, 2: 28.0, 4: 24.0, 8: 20.0, 12: 17.0, 18: 13.5, 24: 11.0, 33: 10.0, 54: 10.0,
                 66: 13.0, 72: 14.5, 77: 17.0}  # fmt: skip
VOLUME_RATIOS: Final = (
    0.02,
    0.05,
    0.32,
    0.45,
    0.63,
    0.87,
    1.2,
    1.6,
    2.1,
    3.8,
    9.0,
)  # volume over its 20-day average
_MEDIAN_STOCK_BARS: Final = 60  # five-minute bars a day of the median stock
_THIN_STOCK_BARS: Final = 4  # of the stock at the tenth percentile
_LAST_MINUTE_SHARE: Final = 0.85  # fraction of the last five minutes' volume: the closing auction


class MarketRegime(StrEnum):
    """Type of day for the market as a whole."""

    QUIET = "quiet"
    GAP_UP = "gap-up"
    SELL_OFF = "sell-off"
    TREND_UP = "trend-up"


REGIME_PROBABILITIES: Final = {
    MarketRegime.QUIET: 0.64,
    MarketRegime.GAP_UP: 0.08,
    MarketRegime.SELL_OFF: 0.14,
    MarketRegime.TREND_UP: 0.14,
}
# opening gaps in percent, at the quantiles of listings.QUANTILES
OPENING_GAPS: Final = {
    MarketRegime.QUIET: (-7.0, -4.0, -1.4, -0.9, -0.4, 0.0, 0.5, 1.4, 2.1, 4.9, 8.0),
    MarketRegime.GAP_UP: (-14.0, -9.5, -2.3, -0.1, 1.3, 2.9, 4.8, 6.9, 8.3, 12.3, 18.0),
    MarketRegime.SELL_OFF: (-11.0, -6.4, -4.0, -3.3, -2.4, -1.4, -0.5, 0.1, 0.9, 4.1, 7.0),
    MarketRegime.TREND_UP: (-6.0, -3.2, -1.2, -0.6, 0.0, 0.5, 1.1, 1.9, 2.7, 5.2, 9.0),
}
# correlation of a stock's five-minute moves with the market's
MARKET_CORRELATION: Final = {
    MarketRegime.QUIET: 0.3,
    MarketRegime.GAP_UP: 0.45,
    MarketRegime.SELL_OFF: 0.6,
    MarketRegime.TREND_UP: 0.6,
}
# drift of the whole day, in daily standard deviations
REGIME_DRIFT: Final = {
    MarketRegime.QUIET: 0.0,
    MarketRegime.GAP_UP: 0.0,
    MarketRegime.SELL_OFF: -0.9,
    MarketRegime.TREND_UP: 1.2,
}
# fraction of the gap that is reversed by the close
GAP_FADE: Final = {
    MarketRegime.QUIET: 0.0,
    MarketRegime.GAP_UP: 0.28,
    MarketRegime.SELL_OFF: 0.1,
    MarketRegime.TREND_UP: 0.0,
}


def volume_shares(minutes: int) -> Floats:
    """Return each minute's share of a session's volume; the shares add up to one."""
    per_five_minutes = np.interp(
        np.arange(_FIVE_MINUTE_BARS), list(_VOLUME_PROFILE), list(_VOLUME_PROFILE.values())
    )
    shares = np.repeat(per_five_minutes / per_five_minutes.sum() / 5, 5)
    shares[-5:] = shares[-5:].sum() * np.array([(1 - _LAST_MINUTE_SHARE) / 4] * 4 + [_LAST_MINUTE_SHARE])
    return _rescaled(shares, minutes)


def minute_sigmas(minutes: int) -> Floats:
    """Return each minute's standard deviation, as a fraction of the session's; the squares add up to one."""
    per_five_minutes = np.interp(
        np.arange(_FIVE_MINUTE_BARS), list(_MOVE_PROFILE), list(_MOVE_PROFILE.values())
    )
    squares = _rescaled(
        np.repeat((per_five_minutes / np.sqrt((per_five_minutes**2).sum())) ** 2 / 5, 5), minutes
    )
    return np.sqrt(squares)


def trade_rates(dollars: Floats, minutes: int) -> Floats:
    """Return the expected trading bursts per minute (columns) of stocks with a turnover of `dollars` a day (rows).

    A minute has a bar when at least one burst happens. The rate is a power of the turnover through the two
    measured points: the median stock (2.1 M$ a day) trades in 60 of 78 five-minute intervals, the tenth
    percentile (11,700 $) in 4.
    """
    median_rate, thin_rate = (
        -np.log1p(-bars / _FIVE_MINUTE_BARS) for bars in (_MEDIAN_STOCK_BARS, _THIN_STOCK_BARS)
    )
    power = np.log(median_rate / thin_rate) / np.log(2.1e6 / 11.7e3)
    per_five_minutes = median_rate * (np.maximum(dollars, 1.0) / 2.1e6) ** power
    shape = volume_shares(minutes) ** power
    return np.outer(per_five_minutes / 5, shape / shape.mean())


def _rescaled(full: Floats, minutes: int) -> Floats:
    """Return a full session's minute values as `minutes` values with an equal total."""
    if minutes == len(full):
        return full
    edges = np.linspace(0, len(full), minutes + 1)
    return np.diff(np.interp(edges, np.arange(len(full) + 1), np.concatenate(([0.0], np.cumsum(full)))))
