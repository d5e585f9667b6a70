"""Long bars to matrices: one row a symbol, one column a bar, the first bar in column 0, NaN after the last."""

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
    """Bars of many symbols side by side. `time` is each bar's start, seconds since the epoch."""

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
        """True where there is a bar."""
        return np.arange(self.close.shape[1]) < self.counts[:, None]

    def at_last_bar(self, values: Floats, back: int = 0) -> Floats:
        """The value at each symbol's last bar, or `back` bars before it; NaN where there is none."""
        places = self.counts - 1 - back
        out = np.full(len(self.counts), np.nan)
        if values.shape[1]:
            rows = np.flatnonzero(places >= 0)
            out[rows] = values[rows, places[rows]]
        return out

    def row_indices(self, index: pd.Index) -> Ints:
        """Where each symbol of `index` is, -1 where it is not."""
        return pd.Index(self.symbols).get_indexer(index).astype(np.int64)


def bar_matrix_of(bars: pd.DataFrame) -> BarMatrix:
    """The bars of every symbol. Reads symbol, timestamp, open, high, low, close, volume, sorted by the first two.

    Raises ValueError when they are not sorted, or a symbol has one instant twice. A bar with a missing or
    impossible price (not positive, low above high, open or close outside) is left out: it never happened.
    """
    names = bars["symbol"].to_numpy(dtype=object)
    time = epoch_seconds(bars["timestamp"])
    columns = {
        name: bars[name].to_numpy(dtype=np.float64) for name in ("open", "high", "low", "close", "volume")
    }
    sound = _valid_bars(columns) & np.isfinite(time)
    if not sound.all():
        names, time = names[sound], time[sound]
        columns = {name: values[sound] for name, values in columns.items()}
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
    inside = (low > 0) & (high >= low) & np.isfinite(high)
    for name in ("open", "close"):
        inside &= (columns[name] >= low) & (columns[name] <= high)
    sound: Bools = inside & (columns["volume"] >= 0) & np.isfinite(columns["volume"])
    return sound


def finished_bars(bars: pd.DataFrame, now: datetime, bar_minutes: int) -> pd.DataFrame:
    """The bars whose end is not after `now`: what could be known."""
    ends = epoch_seconds(bars["timestamp"]) + 60.0 * bar_minutes
    return bars[ends <= require_aware(now)]


def bars_since(bars: pd.DataFrame, start: datetime) -> pd.DataFrame:
    """The bars that began at `start` or after it."""
    return bars[epoch_seconds(bars["timestamp"]) >= require_aware(start)]


def regular_hours_bars(bars: pd.DataFrame) -> pd.DataFrame:
    """The bars that began between 9:30 and 16:00 in New York: thin trading before and after is another market."""
    local = bars["timestamp"].dt.tz_convert(NEW_YORK)
    minute = local.dt.hour * 60 + local.dt.minute
    inside: pd.Series[bool] = (minute >= 570) & (minute < 960)
    return bars[inside]


def resample_bars(grid: BarMatrix, origin: float, seconds: float, until: float) -> BarMatrix:
    """Coarser bars counted from `origin` (seconds since the epoch), those that end at `until` or before.

    A coarse bar exists where any fine one does.
    """
    slots = np.floor((grid.time - origin) / seconds)
    filled = grid.filled & (origin + (slots + 1) * seconds <= until)
    row = np.nonzero(filled)[0]
    slot = slots[filled]
    first = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (slot[1:] != slot[:-1])]) if row.size else row
    if not first.size:
        return bar_matrix_of(
            pd.DataFrame({name: [] for name in BAR_COLUMNS}).astype({"timestamp": "datetime64[us, UTC]"})
        )
    last = np.r_[first[1:], row.size] - 1
    names = grid.symbols[row[first]]
    table: dict[str, Any] = {
        "symbol": names,
        "timestamp": pd.to_datetime(origin + slot[first] * seconds, unit="s", utc=True),
        "open": grid.open[filled][first],
        "high": np.maximum.reduceat(grid.high[filled], first),
        "low": np.minimum.reduceat(grid.low[filled], first),
        "close": grid.close[filled][last],
        "volume": np.add.reduceat(grid.volume[filled], first),
    }
    return bar_matrix_of(pd.DataFrame(table))
