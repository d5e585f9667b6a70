"""Bar matrices: one row per symbol, one column per bar, the first bar in column 0, NaN after the last bar."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from catalyst.domain.session import NEW_YORK
from catalyst.pipeline.frame import Bools, Floats, Ints, epoch_seconds, require_aware

BAR_COLUMNS: Final = ("symbol", "timestamp", "open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class BarMatrix:
    """Bars of many symbols as matrices (symbols x bars). `time` is each bar's start in seconds since the epoch."""

    symbols: npt.NDArray[np.object_]
    counts: Ints
    time: Floats
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    @property
    def filled(self) -> Bools:
        """True where a bar exists; symbols x bars."""
        return np.arange(self.close.shape[1]) < self.counts[:, None]

    def at_last_bar(self, values: Floats, back: int = 0) -> Floats:
        """Return the value at each symbol's last bar, or `back` bars before it; NaN where that bar does not exist."""
        columns = self.counts - 1 - back
        out = np.full(len(self.counts), np.nan)
        if values.shape[1]:
            rows = np.flatnonzero(columns >= 0)
            out[rows] = values[rows, columns[rows]]
        return out

    def row_indices(self, index: pd.Index) -> Ints:
        """Return the row of each symbol of `index`, -1 for a symbol without bars."""
        return pd.Index(self.symbols).get_indexer(index).astype(np.int64)


def bar_matrix_of(bars: pd.DataFrame) -> BarMatrix:
    """Build the matrix of all symbols from bars in long form.

    Reads symbol, timestamp, open, high, low, close, volume, sorted by the first two. Raises ValueError when they are
    not sorted, or when a symbol has two bars of one instant. A bar with a missing or impossible price (not positive,
    low above high, open or close outside) is dropped.
    """
    names = bars["symbol"].to_numpy(dtype=object)
    time = epoch_seconds(bars["timestamp"])
    columns = {
        name: bars[name].to_numpy(dtype=np.float64) for name in ("open", "high", "low", "close", "volume")
    }
    valid = _valid_bars(columns) & np.isfinite(time)
    if not valid.all():
        names, time = names[valid], time[valid]
        columns = {name: values[valid] for name, values in columns.items()}
    if not names.size:
        empty = np.empty((0, 0))
        return BarMatrix(np.empty(0, dtype=object), np.empty(0, dtype=np.int64), *(empty,) * 6)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    counts = np.diff(np.r_[starts, names.size])
    symbols = names[starts]
    if np.any(symbols[1:] <= symbols[:-1]):
        raise ValueError("bars must be sorted by symbol, then timestamp")
    row = np.repeat(np.arange(starts.size), counts)
    column = np.arange(names.size) - starts[row]
    if np.any((column[1:] > 0) & (np.diff(time) <= 0)):
        raise ValueError("bars must be sorted by timestamp within a symbol, each instant once")

    def scatter(values: Floats) -> Floats:
        out = np.full((starts.size, int(counts.max())), np.nan)
        out[row, column] = values
        return out

    return BarMatrix(
        symbols, counts.astype(np.int64), scatter(time), *(scatter(values) for values in columns.values())
    )


def _valid_bars(columns: dict[str, Floats]) -> Bools:
    high, low = columns["high"], columns["low"]
    consistent = (low > 0) & (high >= low) & np.isfinite(high)
    for name in ("open", "close"):
        consistent &= (columns[name] >= low) & (columns[name] <= high)
    valid: Bools = consistent & (columns["volume"] >= 0) & np.isfinite(columns["volume"])
    return valid


def finished_bars(bars: pd.DataFrame, now: datetime, bar_minutes: int) -> pd.DataFrame:
    """Return the bars that ended at `now` or before."""
    ends = epoch_seconds(bars["timestamp"]) + 60.0 * bar_minutes
    return bars[ends <= require_aware(now)]


def bars_since(bars: pd.DataFrame, start: datetime) -> pd.DataFrame:
    """Return the bars that began at `start` or after it."""
    return bars[epoch_seconds(bars["timestamp"]) >= require_aware(start)]


def regular_hours_bars(bars: pd.DataFrame) -> pd.DataFrame:
    """Return the bars that began between 9:30 and 16:00 in New York; trading outside these hours is too thin to use."""
    local = bars["timestamp"].dt.tz_convert(NEW_YORK)
    minute = local.dt.hour * 60 + local.dt.minute
    inside: pd.Series[bool] = (minute >= 570) & (minute < 960)
    return bars[inside]


def resample_bars(bars: BarMatrix, origin: float, seconds: float, until: float) -> BarMatrix:
    """Combine bars into longer ones of `seconds`, counted from `origin`, that end at `until` or before.

    `origin` and `until` are seconds since the epoch. A longer bar exists where at least one short bar does.
    """
    slots = np.floor((bars.time - origin) / seconds)
    filled = bars.filled & (origin + (slots + 1) * seconds <= until)
    row = np.nonzero(filled)[0]
    slot = slots[filled]
    first = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (slot[1:] != slot[:-1])]) if row.size else row
    if not first.size:
        return bar_matrix_of(
            pd.DataFrame({name: [] for name in BAR_COLUMNS}).astype({"timestamp": "datetime64[us, UTC]"})
        )
    last = np.r_[first[1:], row.size] - 1
    names = bars.symbols[row[first]]
    table: dict[str, Any] = {
        "symbol": names,
        "timestamp": pd.to_datetime(origin + slot[first] * seconds, unit="s", utc=True),
        "open": bars.open[filled][first],
        "high": np.maximum.reduceat(bars.high[filled], first),
        "low": np.minimum.reduceat(bars.low[filled], first),
        "close": bars.close[filled][last],
        "volume": np.add.reduceat(bars.volume[filled], first),
    }
    return bar_matrix_of(pd.DataFrame(table))
