"""Twelve indicators of 200 symbols over a day of minute bars: our matrices against TA-Lib's C and the package `ta`.

python -m benchmarks.indicators
"""

import numpy as np
import pandas as pd
import talib

from benchmarks.scan import interleaved
from catalyst.pipeline import indicators as ours
from catalyst.pipeline.frame import Floats

SYMBOLS, BARS, ROUNDS = 200, 390, 40
Market = tuple[Floats, Floats, Floats, Floats]


def random_walks(symbols: int, bars: int) -> Market:
    """Return random walks as matrices (symbols x bars): high, low, close, volume."""
    rng = np.random.default_rng(5)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.001, (symbols, bars)), axis=1))
    spread = rng.uniform(0, 0.001, (2, symbols, bars))
    return close * (1 + spread[0]), close * (1 - spread[1]), close, rng.uniform(1e3, 1e5, (symbols, bars))


def all_ours(high: Floats, low: Floats, close: Floats, volume: Floats) -> list[object]:
    """Compute EMA 9, 20, 50, RSI, MACD, Bollinger, ATR, ADX with both DI, stochastics, OBV and its slope."""
    return [
        ours.ema(close, 9, 20, 50), ours.rsi(close), ours.macd(close), ours.bollinger(close),
        ours.atr(high, low, close), ours.adx(high, low, close), ours.stochastic(high, low, close),
        ours.slope(ours.obv(close, volume), 20),
    ]  # fmt: skip


def all_talib(high: Floats, low: Floats, close: Floats, volume: Floats) -> list[object]:
    """Compute the indicators symbol by symbol."""
    out: list[object] = []
    for h, lo, c, v in zip(high, low, close, volume, strict=True):
        out += [talib.EMA(c, 9), talib.EMA(c, 20), talib.EMA(c, 50), talib.RSI(c), talib.MACD(c)]
        out += [talib.BBANDS(c, 20), talib.ATR(h, lo, c), talib.ADX(h, lo, c), talib.PLUS_DI(h, lo, c)]
        out += [talib.MINUS_DI(h, lo, c), talib.STOCH(h, lo, c, 14, 3, 0, 3, 0)]
        out.append(talib.LINEARREG_SLOPE(talib.OBV(c, v), 20))
    return out


def some_ta(high: Floats, low: Floats, close: Floats, symbols: int) -> None:
    """Compute RSI, MACD, Bollinger, ATR and ADX of a few symbols with `ta`, whose cost grows with the symbols."""
    from ta.momentum import RSIIndicator
    from ta.trend import MACD, ADXIndicator
    from ta.volatility import AverageTrueRange, BollingerBands

    for k in range(symbols):
        h, lo, c = (pd.Series(matrix[k]) for matrix in (high, low, close))
        RSIIndicator(c).rsi()
        MACD(c).macd_signal()
        BollingerBands(c).bollinger_hband()
        AverageTrueRange(h, lo, c).average_true_range()
        ADXIndicator(h, lo, c).adx()


def run() -> list[tuple[str, float, str]]:
    """Measure TA-Lib, ours, and `ta` scaled to all symbols, their ratios, and the cost per symbol of few and many."""
    day = random_walks(SYMBOLS, BARS)
    c_code, numpy_code = interleaved(lambda: all_talib(*day), lambda: all_ours(*day), rounds=ROUNDS)
    (ta_code,) = interleaved(lambda: some_ta(*day[:3], 4), rounds=3)
    ta_code *= SYMBOLS / 4
    few, many = random_walks(35, BARS), random_walks(1000, BARS)
    small, large = interleaved(lambda: all_ours(*few), lambda: all_ours(*many), rounds=10)
    return [
        (f"{SYMBOLS} x {BARS}: TA-Lib's C", c_code, "ms CPU"),
        (f"{SYMBOLS} x {BARS}: ours", numpy_code, "ms CPU"),
        ("ours over TA-Lib (target <= 2)", numpy_code / c_code, "x"),
        ("`ta`, five of the indicators, over ours (target >= 50)", ta_code / numpy_code, "x"),
        ("cost per symbol, 1,000 over 35 symbols (target <= 1.1)", large / 1000 / (small / 35), "x"),
    ]
