"""Scan stage on a whole market, against the floor: parsing the snapshots and ranking four columns.

python -m benchmarks.scan
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from statistics import median
from time import process_time

import numpy as np
import orjson
import pandas as pd

from catalyst.config.schema import Config
from catalyst.domain.session import NEW_YORK, Session
from catalyst.pipeline.scan import scan
from catalyst.pipeline.universe import universe

SYMBOLS = 4_129
ROUNDS = 60
DAY = date(2026, 3, 2)
SESSION = Session(DAY, datetime(2026, 3, 2, 14, 30, tzinfo=UTC), datetime(2026, 3, 2, 21, 0, tzinfo=UTC))
NOW = SESSION.open + timedelta(minutes=90)


def sample_market(symbols: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return a seeded market: the frame after the universe stage, snapshots and reference values."""
    rng = np.random.default_rng(11)
    names = pd.Index([f"S{k:05}" for k in range(symbols)], name="symbol", dtype="str")
    assets = pd.DataFrame(
        {
            "name": "Some Company Common Stock", "exchange": "NASDAQ", "tradable": True, "shortable": True,
            "easy_to_borrow": True, "status": "active", "sector": "Technology",
        },
        index=names,
    )  # fmt: skip
    prev_close = rng.lognormal(3, 1, symbols)
    open_ = prev_close * (1 + rng.normal(0, 0.02, symbols))
    price = open_ * (1 + rng.normal(0, 0.02, symbols))
    volume = rng.lognormal(12, 2, symbols)
    at = pd.Timestamp(NOW - timedelta(seconds=20))
    snapshots = pd.DataFrame(
        {
            "trade_price": price, "trade_at": at, "bid": price * 0.9996, "ask": price * 1.0004, "bid_size": 100.0,
            "ask_size": 100.0, "quote_at": at, "minute_close": price, "minute_volume": volume / 100, "minute_at": at,
            "day_open": open_, "day_high": np.maximum(open_, price), "day_low": np.minimum(open_, price),
            "day_close": price, "day_volume": volume, "day_vwap": (open_ + price) / 2,
            "day_at": pd.Timestamp(datetime(2026, 3, 2, tzinfo=NEW_YORK)), "prev_close": prev_close,
        },
        index=names,
    )  # fmt: skip
    usual_volume = volume * rng.lognormal(1, 0.5, symbols)
    ref = pd.DataFrame(
        {
            "prev_close": prev_close, "avg_volume_20d": usual_volume,
            "avg_dollar_volume_20d": usual_volume * prev_close, "atr_14d": prev_close * 0.03, "days": 50,
            "last_at": pd.Timestamp(NOW - timedelta(days=3)),
        },
        index=names,
    )  # fmt: skip
    return universe(assets, Config().universe), snapshots, ref


def snapshots_json(snapshots: pd.DataFrame) -> bytes:
    """Return this market as a broker's JSON, one object per symbol, for the floor."""
    stamp = "2026-03-02T15:59:40.123456789Z"
    bar = {"t": stamp, "o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 10, "n": 1, "vw": 1.0}
    return json.dumps(
        {
            symbol: {
                "latestTrade": {
                    "t": stamp,
                    "p": row["trade_price"],
                    "s": 100,
                    "x": "V",
                    "c": ["@"],
                    "i": 1,
                    "z": "C",
                },
                "latestQuote": {
                    "t": stamp,
                    "bp": row["bid"],
                    "ap": row["ask"],
                    "bs": 1,
                    "as": 1,
                    "ax": "V",
                    "bx": "V",
                },
                "minuteBar": bar,
                "dailyBar": bar | {"c": row["day_close"], "v": row["day_volume"]},
                "prevDailyBar": bar | {"c": row["prev_close"]},
            }
            for symbol, row in snapshots.to_dict("index").items()
        }
    ).encode()


def parse_and_rank(body: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Compute the floor: parse the response, take four numbers per symbol and rank the symbols, best first."""
    rows = orjson.loads(body).values()
    table = np.array(
        [
            (r["latestTrade"]["p"], r["dailyBar"]["v"], r["prevDailyBar"]["c"], r["latestQuote"]["ap"])
            for r in rows
        ]
    )
    gap = table[:, 0] / table[:, 2] - 1
    return np.argsort(-(np.argsort(np.argsort(np.abs(gap))) + np.argsort(np.argsort(table[:, 1]))))


def interleaved(*works: Callable[[], object], rounds: int) -> list[float]:
    """Run the works in turns and return the median CPU milliseconds of each."""
    spent: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, times in zip(works, spent, strict=True):
            started = process_time()
            work()
            times.append(process_time() - started)
    return [median(times) * 1e3 for times in spent]


def run() -> list[tuple[str, float, str]]:
    """Measure the floor (orjson and numpy), the stage alone, and the growth when the market doubles."""
    cfg = Config().scan
    figures: list[tuple[str, float, str]] = []
    spent = {}
    for symbols in (SYMBOLS, 2 * SYMBOLS):
        frame, snapshots, ref = sample_market(symbols)
        body = snapshots_json(snapshots)

        def ours(
            frame: pd.DataFrame = frame, snapshots: pd.DataFrame = snapshots, ref: pd.DataFrame = ref
        ) -> pd.DataFrame:
            return scan(frame, snapshots, ref, SESSION, NOW, cfg, allow_short=False)

        def bare(body: bytes = body) -> object:
            return parse_and_rank(body)

        floor, stage = interleaved(bare, ours, rounds=ROUNDS)
        spent[symbols] = stage
        figures += [
            (f"{symbols:,} symbols: floor, orjson + rank", floor, "ms CPU"),
            (f"{symbols:,} symbols: the stage alone", stage, "ms CPU"),
            (f"{symbols:,} symbols: stage over floor", stage / floor, "x"),
        ]
    return [
        *figures,
        ("growth when the market doubles (target <= 2.2)", spent[2 * SYMBOLS] / spent[SYMBOLS], "x"),
    ]
