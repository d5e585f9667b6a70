"""All chart patterns of 200 symbols over a day of minute bars, both sides, against TA-Lib's 61 candlesticks.

python -m benchmarks.patterns
"""

from datetime import timedelta

import numpy as np
import pandas as pd
import talib

from benchmarks.indicators import random_walks
from benchmarks.scan import SESSION, interleaved
from catalyst.config.schema import Config
from catalyst.pipeline.chart import pivots
from catalyst.pipeline.pattern import pattern
from catalyst.pipeline.universe import universe

SYMBOLS, BARS, ROUNDS = 200, 390, 20


def run() -> list[tuple[str, float, str]]:
    """Measure TA-Lib's candlesticks, the numpy pivots, the whole stage, and their ratio."""
    high, low, close, volume = random_walks(SYMBOLS, BARS)
    open_ = np.c_[close[:, :1], close[:, :-1]]
    high, low = np.maximum(high, open_), np.minimum(low, open_)
    names = [f"S{k:03}" for k in range(SYMBOLS)]
    minutes = pd.date_range(SESSION.open, periods=BARS, freq="1min")
    bars = pd.DataFrame(
        {
            "symbol": np.repeat(names, BARS), "timestamp": list(minutes) * SYMBOLS,
            "open": open_.ravel(), "high": high.ravel(), "low": low.ravel(), "close": close.ravel(),
            "volume": volume.ravel(),
        }
    )  # fmt: skip
    assets = pd.DataFrame(
        {"name": "A Company", "exchange": "NYSE", "tradable": True, "status": "active"},
        index=pd.Index(names, name="symbol"),
    )
    cfg = Config()
    frame = universe(assets, cfg.universe).assign(
        prev_close=close[:, 0] * 0.98, momentum_pct=1.0, news_rank=1.0
    )
    now = SESSION.open + timedelta(minutes=BARS)
    counts = np.full(SYMBOLS, BARS)
    candlesticks = [getattr(talib, name) for name in dir(talib) if name.startswith("CDL")]

    def run_candlesticks() -> None:
        for o, h, lo, c in zip(open_, high, low, close, strict=True):
            for candlestick in candlesticks:
                candlestick(o, h, lo, c)

    def ours() -> pd.DataFrame:
        return pattern(frame, bars, SESSION, now, cfg.pattern, bar_minutes=1, allow_short=True)

    def find_pivots() -> None:
        pivots(high, counts, 10)
        pivots(-low, counts, 10)

    candlestick_ms, pivot_ms, stage_ms = interleaved(run_candlesticks, find_pivots, ours, rounds=ROUNDS)
    return [
        (f"{SYMBOLS} x {BARS}: TA-Lib's {len(candlesticks)} candlesticks", candlestick_ms, "ms CPU"),
        (f"{SYMBOLS} x {BARS}: numpy pivots, both ways", pivot_ms, "ms CPU"),
        (f"{SYMBOLS} x {BARS}: the whole stage, both sides", stage_ms, "ms CPU"),
        ("stage over candlesticks (target <= 1)", stage_ms / candlestick_ms, "x"),
        ("symbols with a pattern on random walks", float(ours()["pattern"].notna().sum()), f"of {SYMBOLS}"),
    ]
