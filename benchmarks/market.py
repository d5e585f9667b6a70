"""Cost of a simulated market: creation or loading, memory, snapshots of all symbols, bars, prints and quotes.

The recorded market needs the recorded files; without them only the generated market is measured.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import orjson

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.bar_table import BarTable
from catalyst.simulator.recorded import market as recorded_market
from catalyst.simulator.synthetic import market as synthetic_market

Row = tuple[str, float, str]

DATA = Path(__file__).parents[2] / "shared" / "data"
DAY = date(2026, 11, 20)
CHUNK = 500  # symbols in one snapshot request
ROUNDS = 7


def run() -> list[Row]:
    """Measure both kinds of market; medians of ROUNDS rounds, CPU time for rates."""
    rows: list[Row] = []
    synthetic_market.make_market(1, DAY, 200)  # imports and the calendar are not part of the market's cost
    rows += measure_market(
        "generated 4,129",
        lambda: synthetic_market.make_market(7, DAY),
        datetime(2026, 11, 20, 17, 0, 3, tzinfo=UTC),
    )
    if DATA.is_dir():
        rows += measure_market(
            "recorded 2026-04-08",
            lambda: recorded_market.load_market(
                DATA / "bars_5min_market_2026-04-08.parquet",
                DATA / "bars_daily_market_2026-01-26_04-17.parquet",
            ),
            datetime(2026, 4, 8, 17, 0, 3, tzinfo=UTC),
        )
    return rows


def measure_market(name: str, make: Callable[[], BarMarket], at: datetime) -> list[Row]:
    """Measure one market at one instant of its day."""
    started = perf_counter()
    market = make()
    rows: list[Row] = [(f"{name}: created in", perf_counter() - started, "s")]
    rows.append((f"{name}: arrays", (table_bytes(market.intraday) + table_bytes(market.daily)) / 1e6, "MB"))
    rows.append((f"{name}: minutes and daily bars", len(market.intraday.key) + len(market.daily.key), "bars"))
    symbols = list(market.assets())
    seconds = median_cpu_seconds(
        lambda: [snapshot_request(market, symbols[i : i + CHUNK], at) for i in range(0, len(symbols), CHUNK)]
    )
    rows.append((f"{name}: {len(symbols):,} snapshots as JSON", seconds * 1e3, "ms CPU"))
    rows.append((f"{name}: snapshots", len(symbols) / seconds, "symbols/s"))
    busiest_rows = market.snapshots(symbols, at).daily.volume.argsort()[::-1][:200].tolist()
    active = [symbols[row] for row in busiest_rows]
    minute, start = timedelta(minutes=1), at - timedelta(hours=3)
    seconds = median_cpu_seconds(
        lambda: [wire.bars(market.bars(symbol, minute, start, at, at)) for symbol in active]
    )
    rows.append((f"{name}: 3 h of minute bars of 200 symbols", seconds * 1e3, "ms CPU"))
    seconds = median_cpu_seconds(
        lambda: [market.prints(symbol, at, at + timedelta(seconds=20)) for symbol in active]
    )
    rows.append((f"{name}: prints of 20 s", seconds / len(active) * 1e6, "us CPU per symbol"))
    seconds = median_cpu_seconds(lambda: [market.quote(symbol, at) for symbol in active])
    rows.append((f"{name}: quote", seconds / len(active) * 1e6, "us CPU per symbol"))
    return rows


def snapshot_request(market: BarMarket, symbols: list[str], at: datetime) -> bytes:
    """Answer one snapshot request without the network."""
    columns = market.snapshots(symbols, at)
    return orjson.dumps(wire.snapshots(columns, wire.tapes_of(columns.symbols, market.assets())))


def table_bytes(table: BarTable) -> int:
    """Return the bytes of a table's arrays."""
    names = ("key", "open", "high", "low", "close", "volume", "step", "shares", "value")
    return sum(getattr(table, name).nbytes for name in names)


def median_cpu_seconds(job: Callable[[], object]) -> float:
    """Return the median CPU seconds of a job over ROUNDS rounds."""
    seconds = []
    for _ in range(ROUNDS):
        started = process_time()
        job()
        seconds.append(process_time() - started)
    return median(seconds)


if __name__ == "__main__":
    for name, value, unit in run():
        print(f"{name:<60} {value:>14,.3f} {unit}")
