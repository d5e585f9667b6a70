"""Technical indicators of many symbols at once: matrices in, matrices out, NaN until warm.

Each row is one symbol's history from its first bar, with NaN after its last bar. The definitions are Wilder's with the
usual seeds, so every warm value equals TA-Lib's to 1e-9. Exception: without any movement TA-Lib returns 0, and these
functions return the middle (RSI 50, stochastics 50). The loops run over bars, never over symbols: one step computes one
column for the whole market, and recursions of one series run in parallel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from catalyst.pipeline.frame import Floats

_EPSILON = 1e-14


def _exponential_means(
    values: Floats, alphas: Sequence[float], starts: Sequence[int], seeds: Sequence[Floats]
) -> list[Floats]:
    """Compute exponential means of `values` (symbols x bars, or one such matrix per mean), each from its own start.

    Mean k is NaN before bar `starts[k]`, `seeds[k]` at that bar, and afterwards moves by `alphas[k]` of the difference.
    """
    kinds, bars = len(alphas), values.shape[-1]
    by_bar = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    symbols = values.shape[-2]
    out = np.full((bars, kinds, symbols), np.nan)
    before = np.full((kinds, symbols), np.nan)
    alpha = np.asarray(alphas)[:, None]
    means_by_start = {start: [k for k in range(kinds) if starts[k] == start] for start in starts}
    for bar in range(min(starts), bars):
        level = out[bar]
        np.subtract(by_bar[bar], before, out=level)
        level *= alpha
        level += before
        for k in means_by_start.get(bar, ()):
            level[k] = seeds[k]
        before = level
    return [np.ascontiguousarray(out[:, k].T) for k in range(kinds)]


def _mean_of(values: Floats, first: int, window: int) -> Floats:
    """Return the mean of `window` columns from `first` on; NaN when the matrix is too short."""
    part = values[:, first : first + window]
    return part.mean(axis=1) if part.shape[1] == window else np.full(len(values), np.nan)


def _rolling_sum(values: Floats, window: int) -> Floats:
    """Return the sum of every `window` neighbouring columns; only additions, so cancellation loses no precision."""
    width = values.shape[1] - window + 1
    total = values[:, :width].copy()
    for step in range(1, window):
        total += values[:, step : step + width]
    return total


def sma(values: Floats, window: int) -> Floats:
    """Return the simple mean of the last `window` bars."""
    out = np.full(values.shape, np.nan)
    if values.shape[1] >= window:
        out[:, window - 1 :] = _rolling_sum(values, window) / window
    return out


def rolling_max(values: Floats, window: int) -> Floats:
    """Return the maximum of every `window` neighbouring columns, computed by doubling."""
    width = values.shape[1] - window + 1
    span, best = 1, values
    while 2 * span <= window:
        best = np.maximum(best[:, : best.shape[1] - span], best[:, span:])
        span *= 2
    return np.maximum(best[:, :width], best[:, window - span : window - span + width])


def ema(close: Floats, *windows: int) -> list[Floats]:
    """Return exponential means with alpha 2 / (window + 1), each seeded with the mean of its first `window` bars."""
    seeds = [_mean_of(close, 0, window) for window in windows]
    return _exponential_means(close, [2 / (w + 1) for w in windows], [w - 1 for w in windows], seeds)


def rsi(close: Floats, window: int = 14) -> Floats:
    """Return Wilder's relative strength index, 0-100, from bar `window` on; 50 where the price never moved."""
    change = np.diff(close, axis=1, prepend=np.nan)
    moves = np.stack([np.maximum(change, 0.0), np.maximum(-change, 0.0)])
    seeds = [_mean_of(move, 1, window) for move in moves]
    up, down = _exponential_means(moves, [1 / window] * 2, [window] * 2, seeds)
    total = up + down
    with np.errstate(all="ignore"):
        return np.where(total < _EPSILON, 50.0, 100.0 * up / total)


class Macd(NamedTuple):
    line: Floats
    signal: Floats
    histogram: Floats


def macd(close: Floats, fast: int = 12, slow: int = 26, smooth: int = 9) -> Macd:
    """Return the fast minus the slow exponential mean, its signal and histogram; warm from bar slow + smooth - 2 on.

    Both means are seeded at bar slow - 1, the fast one with the mean of the `fast` bars up to it (as TA-Lib does).
    """
    seeds = [_mean_of(close, slow - fast, fast), _mean_of(close, 0, slow)]
    fast_mean, slow_mean = _exponential_means(close, [2 / (fast + 1), 2 / (slow + 1)], [slow - 1] * 2, seeds)
    line = fast_mean - slow_mean
    start = slow + smooth - 2
    (signal,) = _exponential_means(line, [2 / (smooth + 1)], [start], [_mean_of(line, slow - 1, smooth)])
    line = np.where(np.isnan(signal), np.nan, line)
    return Macd(line, signal, line - signal)


class Bands(NamedTuple):
    upper: Floats
    middle: Floats
    lower: Floats


def bollinger(close: Floats, window: int = 20, width: float = 2.0) -> Bands:
    """Return Bollinger bands: the mean of `window` bars, plus and minus `width` population standard deviations."""
    middle = np.full(close.shape, np.nan)
    spread = np.full(close.shape, np.nan)
    columns = close.shape[1] - window + 1
    if columns > 0:
        mean = _rolling_sum(close, window) / window
        square, deviation = np.zeros(mean.shape), np.empty(mean.shape)
        for step in range(window):
            np.subtract(close[:, step : step + columns], mean, out=deviation)
            deviation *= deviation
            square += deviation
        middle[:, window - 1 :] = mean
        spread[:, window - 1 :] = np.sqrt(square / window)
    return Bands(middle + width * spread, middle, middle - width * spread)


def true_range(high: Floats, low: Floats, close: Floats) -> Floats:
    """Return each bar's true range, which includes the previous close; NaN for the first bar."""
    out = np.full(close.shape, np.nan)
    before = close[:, :-1]
    out[:, 1:] = np.maximum(high[:, 1:], before) - np.minimum(low[:, 1:], before)
    return out


def atr(high: Floats, low: Floats, close: Floats, window: int = 14) -> Floats:
    """Return Wilder's average true range, in dollars, from bar `window` on."""
    ranges = true_range(high, low, close)
    (out,) = _exponential_means(ranges, [1 / window], [window], [_mean_of(ranges, 1, window)])
    return out


class Adx(NamedTuple):
    adx: Floats
    plus: Floats
    minus: Floats


def adx(high: Floats, low: Floats, close: Floats, window: int = 14) -> Adx:
    """Return Wilder's directional movement: +DI and -DI from bar `window` on, the ADX from bar 2 x window - 1 on.

    The sums start with window - 1 bars, as in TA-Lib. A bar without any movement does not change the ADX.
    """
    up = np.diff(high, axis=1, prepend=np.nan)
    down = -np.diff(low, axis=1, prepend=np.nan)
    moves = np.stack(
        [
            np.where((up > down) & (up > 0), up, 0.0 * up),
            np.where((down > up) & (down > 0), down, 0.0 * down),
            true_range(high, low, close),
        ]
    )
    # Wilder's running sum equals `window` times an exponential mean with weight 1 / window.
    seeds = [_mean_of(move, 1, window - 1) * (window - 1) / window for move in moves]
    plus, minus, range_mean = (
        m[:, :] for m in _exponential_means(moves, [1 / window] * 3, [window - 1] * 3, seeds)
    )
    for matrix in (plus, minus):
        with np.errstate(all="ignore"):
            np.divide(100.0 * matrix, range_mean, out=matrix, where=range_mean > _EPSILON)
        matrix[range_mean <= _EPSILON] = 0.0
        matrix[:, :window] = np.nan
    total = plus + minus
    with np.errstate(all="ignore"):
        index = 100.0 * np.abs(plus - minus) / total
    return Adx(_mean_dx(np.where(total > _EPSILON, index, np.nan), total, window), plus, minus)


def _mean_dx(index: Floats, total: Floats, window: int) -> Floats:
    """Return the ADX: the mean of the first `window` indices, then Wilder's smoothing over the bars with an index."""
    out = np.full(index.shape, np.nan)
    start = 2 * window - 1
    if index.shape[1] <= start:
        return out
    level = np.nan_to_num(index[:, window : start + 1]).sum(axis=1) / window
    level = np.where(np.isnan(total[:, start]), np.nan, level)
    if not (np.isnan(index) & ~np.isnan(total)).any():
        return _exponential_means(index, [1 / window], [start], [level])[0]
    out[:, start] = level
    for bar in range(start + 1, index.shape[1]):
        now = index[:, bar]
        level = np.where(np.isnan(now), level, level + (now - level) / window)
        out[:, bar] = level
    out[np.isnan(total)] = np.nan
    return out


class Stochastic(NamedTuple):
    k: Floats
    d: Floats


def stochastic(high: Floats, low: Floats, close: Floats, window: int = 14, slow: int = 3) -> Stochastic:
    """Return slow stochastics, 0-100: the close's position in the range of `window` bars, smoothed twice by `slow`."""
    position = np.full(close.shape, np.nan)
    if close.shape[1] >= window:
        top, bottom = rolling_max(high, window), -rolling_max(-low, window)
        with np.errstate(all="ignore"):
            inside = 100.0 * (close[:, window - 1 :] - bottom) / (top - bottom)
        position[:, window - 1 :] = np.where(top - bottom < _EPSILON, 50.0, inside)
    k = sma(position, slow)
    d = sma(k, slow)
    return Stochastic(np.where(np.isnan(d), np.nan, k), d)


def obv(close: Floats, volume: Floats) -> Floats:
    """Return on-balance volume: starts with the first bar's volume, adds it on up bars, subtracts it on down bars."""
    sign = np.sign(np.diff(close, axis=1, prepend=close[:, :1]))
    flow = sign * volume
    flow[:, :1] = volume[:, :1]
    return np.cumsum(flow, axis=1)


def slope(values: Floats, window: int) -> Floats:
    """Return the least-squares slope of the last `window` bars, per bar."""
    out = np.full(values.shape, np.nan)
    if values.shape[1] >= window:
        x = np.arange(window) - (window - 1) / 2
        views = np.lib.stride_tricks.sliding_window_view(values, window, axis=1)
        out[:, window - 1 :] = views @ (x / (x @ x))
    return out


def vwap(high: Floats, low: Floats, close: Floats, volume: Floats) -> Floats:
    """Return the volume-weighted mean of (high + low + close) / 3 since the first column; NaN before any volume."""
    cumulative = np.cumsum(volume, axis=1)
    with np.errstate(all="ignore"):
        return np.where(
            cumulative > 0, np.cumsum((high + low + close) / 3 * volume, axis=1) / cumulative, np.nan
        )
