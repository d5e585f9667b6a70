"""Parsing of a scan's snapshots: our columns against the floor, on equal bytes.

The floor is orjson and one numpy array for each of the four values that a ranking needs. Ours builds all 23 columns,
four of them times, with invalid values as NaN. CPU time, interleaved, medians.
"""

import gc
import statistics
import time

import numpy as np
import orjson

from catalyst.broker.columns import snapshot_columns, snapshot_frame
from catalyst.broker.symbol_batches import MAX_SYMBOLS

ROUNDS = 25


def chunks_of(symbols: int) -> list[bytes]:
    """Return the market's responses for that many symbols, as bytes from the wire."""
    rng = np.random.default_rng(7)
    price = np.round(rng.uniform(2, 400, symbols), 2)
    rows = [(f"S{number:04d}", float(price[number])) for number in range(symbols)]
    return [
        orjson.dumps({symbol: _snapshot(at) for symbol, at in rows[start : start + MAX_SYMBOLS]})
        for start in range(0, symbols, MAX_SYMBOLS)
    ]


def _snapshot(price: float) -> dict[str, object]:
    bar = {"o": price, "h": price, "l": price, "c": price, "v": 123456, "n": 1234, "vw": price}
    return {
        "latestTrade": {
            "t": "2026-11-20T15:03:59.123456789Z",
            "x": "V",
            "p": price,
            "s": 100,
            "c": ["@"],
            "i": 5,
            "z": "C",
        },
        "latestQuote": {
            "t": "2026-11-20T15:03:59.523456789Z",
            "ax": "V",
            "ap": price + 0.01,
            "as": 3,
            "bx": "V",
            "bp": price - 0.01,
            "bs": 2,
            "c": ["R"],
            "z": "C",
        },
        "minuteBar": {"t": "2026-11-20T15:03:00Z", **bar},
        "dailyBar": {"t": "2026-11-20T05:00:00Z", **bar},
        "prevDailyBar": {"t": "2026-11-19T05:00:00Z", **bar},
    }


def floor(chunks: list[bytes]) -> object:
    """Parse with orjson, build four columns and rank."""
    rows = [row for chunk in chunks for row in orjson.loads(chunk).values()]
    last = np.array([row["latestTrade"]["p"] for row in rows])
    before = np.array([row["prevDailyBar"]["c"] for row in rows])
    volume = np.array([row["dailyBar"]["v"] for row in rows])
    vwap = np.array([row["dailyBar"]["vw"] for row in rows])
    return np.argsort(np.abs(last / before - 1) * volume * vwap)


def ours(chunks: list[bytes]) -> object:
    """Build all columns, as for a scan."""
    return snapshot_frame([snapshot_columns(orjson.loads(chunk)) for chunk in chunks])


def parse_only(chunks: list[bytes]) -> object:
    """Parse with orjson only."""
    return [orjson.loads(chunk) for chunk in chunks]


def run() -> list[tuple[str, float, str]]:
    """Measure 4,129 and 7,473 snapshots: ours, the floors, their ratio, and the first chunk alone."""
    figures = []
    gc.collect()
    gc.freeze()
    for symbols in (4_129, 7_473):
        chunks = chunks_of(symbols)
        spent: dict[str, list[float]] = {"ours": [], "floor": [], "orjson": [], "chunk": []}
        for _ in range(ROUNDS):
            for name, work in (("floor", floor), ("ours", ours), ("orjson", parse_only)):
                spent[name].append(_cpu(work, chunks))
            spent["chunk"].append(_cpu(ours, chunks[:1]))
        ms = {name: statistics.median(times) * 1_000 for name, times in spent.items()}
        figures += [
            (f"snapshots {symbols}: all columns", ms["ours"], "ms"),
            (f"snapshots {symbols}: orjson + numpy rank", ms["floor"], "ms"),
            (f"snapshots {symbols}: orjson alone", ms["orjson"], "ms"),
            (f"snapshots {symbols}: all columns / (orjson + numpy rank)", ms["ours"] / ms["floor"], "x"),
            (f"snapshots {symbols}: one chunk of {MAX_SYMBOLS}", ms["chunk"], "ms"),
        ]
    gc.unfreeze()
    return figures


def _cpu(work: object, chunks: list[bytes]) -> float:
    assert callable(work)
    started = time.thread_time()
    work(chunks)
    return time.thread_time() - started


if __name__ == "__main__":
    for what, figure, unit in run():
        print(f"{what:60} {figure:8.2f} {unit}")
