"""Every indicator against TA-Lib, an independent implementation."""

from collections.abc import Callable

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from catalyst.pipeline import indicators as ours
from catalyst.pipeline.frame import Floats

Market = tuple[Floats, Floats, Floats, Floats]


def random_walks(seed: int, symbols: int = 6, bars: int = 300) -> Market:
    """Return random walks: high, low, close, volume."""
    rng = np.random.default_rng(seed)
    close = rng.uniform(2, 400, (symbols, 1)) * np.exp(
        np.cumsum(rng.normal(0, 0.01, (symbols, bars)), axis=1)
    )
    reach = rng.uniform(0.0005, 0.02, (2, symbols, bars))
    low, high = close * (1 - reach[0]), close * (1 + reach[1])
    return high, low, close, rng.integers(0, 100_000, (symbols, bars)).astype(float)


CASES: dict[str, tuple[Callable[[Market], Floats], Callable[[Market], Floats]]] = {
    "ema_9": (lambda m: ours.ema(m[2], 9, 20, 50)[0], lambda m: talib.EMA(m[2], 9)),
    "ema_20": (lambda m: ours.ema(m[2], 9, 20, 50)[1], lambda m: talib.EMA(m[2], 20)),
    "ema_50": (lambda m: ours.ema(m[2], 9, 20, 50)[2], lambda m: talib.EMA(m[2], 50)),
    "sma": (lambda m: ours.sma(m[2], 20), lambda m: talib.SMA(m[2], 20)),
    "rsi": (lambda m: ours.rsi(m[2]), lambda m: talib.RSI(m[2], 14)),
    "macd": (lambda m: ours.macd(m[2]).line, lambda m: talib.MACD(m[2], 12, 26, 9)[0]),
    "macd_signal": (lambda m: ours.macd(m[2]).signal, lambda m: talib.MACD(m[2], 12, 26, 9)[1]),
    "macd_histogram": (lambda m: ours.macd(m[2]).histogram, lambda m: talib.MACD(m[2], 12, 26, 9)[2]),
    "bollinger_upper": (
        lambda m: ours.bollinger(m[2]).upper,
        lambda m: talib.BBANDS(m[2], 20, 2.0, 2.0)[0],
    ),
    "bollinger_lower": (
        lambda m: ours.bollinger(m[2]).lower,
        lambda m: talib.BBANDS(m[2], 20, 2.0, 2.0)[2],
    ),
    "atr": (lambda m: ours.atr(*m[:3]), lambda m: talib.ATR(m[0], m[1], m[2], 14)),
    "adx": (lambda m: ours.adx(*m[:3]).adx, lambda m: talib.ADX(m[0], m[1], m[2], 14)),
    "plus_di": (lambda m: ours.adx(*m[:3]).plus, lambda m: talib.PLUS_DI(m[0], m[1], m[2], 14)),
    "minus_di": (lambda m: ours.adx(*m[:3]).minus, lambda m: talib.MINUS_DI(m[0], m[1], m[2], 14)),
    "stoch_k": (
        lambda m: ours.stochastic(*m[:3]).k,
        lambda m: talib.STOCH(m[0], m[1], m[2], 14, 3, 0, 3, 0)[0],
    ),
    "stoch_d": (
        lambda m: ours.stochastic(*m[:3]).d,
        lambda m: talib.STOCH(m[0], m[1], m[2], 14, 3, 0, 3, 0)[1],
    ),
    "obv": (lambda m: ours.obv(m[2], m[3]), lambda m: talib.OBV(m[2], m[3])),
    "slope": (lambda m: ours.slope(m[2], 20), lambda m: talib.LINEARREG_SLOPE(m[2], 20)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_indicator_equals_talib_and_is_nan_until_warm(name: str, seed: int):
    """Values are within 1e-9 of TA-Lib's on every bar where it has one, and NaN on every other."""
    market = random_walks(seed)
    mine, theirs = CASES[name]
    got = mine(market)
    for row in range(len(got)):
        golden = theirs(tuple(np.ascontiguousarray(matrix[row]) for matrix in market))  # type: ignore[arg-type]
        assert (np.isnan(got[row]) == np.isnan(golden)).all()
        np.testing.assert_allclose(got[row], golden, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_indicator_is_independent_of_histories_of_other_lengths(name: str):
    """NaN padding after a symbol's last bar does not change its values, nor those of other symbols."""
    market = random_walks(3)
    alone = CASES[name][0](tuple(matrix[:1, :120] for matrix in market))  # type: ignore[arg-type]
    padded = tuple(matrix.copy() for matrix in market)
    for matrix in padded:
        matrix[0, 120:] = np.nan
    together = CASES[name][0](padded)  # type: ignore[arg-type]
    np.testing.assert_allclose(together[0, :120], alone[0], rtol=1e-12)
    whole = CASES[name][0](market)
    np.testing.assert_allclose(together[1:], whole[1:], rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bars", [0, 1, 2, 13, 14, 15])
def test_indicator_is_nan_when_history_is_too_short(name: str, bars: int):
    """From zero bars upwards, values are NaN until TA-Lib is warm, in the requested shape."""
    market = random_walks(4, symbols=2, bars=40)
    short = tuple(matrix[:, :bars] for matrix in market)
    got = CASES[name][0](short)  # type: ignore[arg-type]
    assert got.shape == (2, bars)
    full = CASES[name][0](market)
    np.testing.assert_allclose(got, full[:, :bars], rtol=1e-9, atol=1e-9)


def test_oscillators_are_neutral_when_the_price_never_moves():
    """Without price movement, where TA-Lib gives 0, RSI and stochastics are 50; ADX and ATR are 0."""
    flat = np.full((1, 60), 10.0)
    assert ours.rsi(flat)[0, -1] == 50.0
    assert ours.stochastic(flat, flat, flat).k[0, -1] == pytest.approx(50.0)
    assert ours.adx(flat, flat, flat).adx[0, -1] == 0.0
    assert ours.atr(flat, flat, flat)[0, -1] == 0.0


def test_vwap_is_the_volume_weighted_typical_price():
    """VWAP is the volume-weighted typical price since the first bar, and NaN before the first trade."""
    high, low, close = (
        np.array([[11.0, 12.0, 13.0]]),
        np.array([[9.0, 10.0, 11.0]]),
        np.array([[10.0, 11.0, 12.0]]),
    )
    assert ours.vwap(high, low, close, np.array([[0.0, 100.0, 300.0]]))[0].tolist()[1:] == [11.0, 11.75]
    assert np.isnan(ours.vwap(high, low, close, np.array([[0.0, 100.0, 300.0]]))[0, 0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100))
def test_oscillators_are_independent_of_the_price_level(seed: int, factor: float):
    """Scaling every price scales the ATR and does not change RSI, ADX and stochastics."""
    high, low, close, _ = random_walks(seed, symbols=2, bars=80)
    up = (high * factor, low * factor, close * factor)
    np.testing.assert_allclose(ours.rsi(up[2]), ours.rsi(close), rtol=1e-7)
    np.testing.assert_allclose(ours.adx(*up).adx, ours.adx(high, low, close).adx, rtol=1e-6)
    np.testing.assert_allclose(ours.stochastic(*up).k, ours.stochastic(high, low, close).k, rtol=1e-6)
    np.testing.assert_allclose(ours.atr(*up), ours.atr(high, low, close) * factor, rtol=1e-7)


def test_rsi_and_bollinger_equal_package_ta_once_warm():
    """The widely used package `ta` gives equal RSI and Bollinger bands once warm."""
    import pandas as pd
    from ta.momentum import RSIIndicator
    from ta.volatility import BollingerBands

    _, _, close, _ = random_walks(5, symbols=1, bars=600)
    series = pd.Series(close[0])
    bands = BollingerBands(series, 20, 2)
    np.testing.assert_allclose(ours.bollinger(close).upper[0, 40:], bands.bollinger_hband()[40:], rtol=1e-9)
    # `ta` seeds its RSI with the first change instead of a mean: after 500 bars the difference is gone.
    np.testing.assert_allclose(ours.rsi(close)[0, -50:], RSIIndicator(series, 14).rsi()[-50:], rtol=1e-9)
