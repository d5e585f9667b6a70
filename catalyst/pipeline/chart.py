"""A chart of many symbols as the pattern detectors read it, and the vocabulary they share.

Every detector is written once, for rising prices. Falling ones are the same chart turned upside down (each price
its own negative), so a bear pattern is exactly the mirror of its bull twin. Nothing is measured in percent: the
unit is the mean true range of today's bars, so the price level changes nothing.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from catalyst.pipeline.bar_matrix import BarMatrix
from catalyst.pipeline.frame import Bools, Floats, Ints

# The last few turning points are all a pattern that breaks now can be made of.
MAX_PIVOTS: Final = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """Today's bars, symbols down, bars across. Indices are columns; -1 is none. Mirrored prices are negative."""

    high: Floats
    low: Floats
    close: Floats
    cumulative_volume: Floats  # shares before each bar of the day; one column more than there are bars
    vwap: Floats
    minute: Floats  # of each bar's start, counted from the open
    bar_count: Ints  # bars a symbol
    range_unit: Floats  # mean true range, dollars
    prev_close: Floats
    bar_minutes: int
    tops: Ints  # symbols x KEPT_PIVOTS: columns of the latest pivot highs, latest first
    bottoms: Ints
    recent_closes: Floats  # closes of the last bars, latest last: where a fresh crossing must lie

    @property
    def last(self) -> Ints:
        return self.bar_count - 1

    @property
    def last_close(self) -> Floats:
        """The last close."""
        return self.recent_closes[:, -1]

    def mirrored(self) -> "Chart":
        """The same day upside down."""
        return replace(
            self, high=-self.low, low=-self.high, close=-self.close, vwap=-self.vwap,
            prev_close=-self.prev_close, tops=self.bottoms, bottoms=self.tops, recent_closes=-self.recent_closes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setups:
    """What one detector found, a value a symbol. `trigger` is the level that was crossed, `stop` where the pattern
    is wrong, `target` its measured move, `shape` how good it looks in [0, 1], `first` its first bar."""

    found: Bools
    trigger: Floats
    stop: Floats
    target: Floats
    shape: Floats
    first: Ints


def chart_of(
    grid: BarMatrix, vwap: Floats, true_ranges: Floats, open_at: float, prev_close: Floats, **kw: int
) -> Chart:
    """The chart of today's bars.

    `reach` is the true range of each bar; `opened` the open in seconds since the epoch. Keywords: bar_minutes,
    pivot_bars (a pivot is the extreme of that many bars to both sides), tail_bars.
    """
    total = np.nansum(true_ranges, axis=1)
    known = np.isfinite(true_ranges).sum(axis=1)
    places = grid.counts[:, None] + np.arange(-kw["tail_bars"], 0)
    rows = np.arange(grid.counts.size)[:, None]
    tail = np.where(places >= 0, grid.close[rows, np.maximum(places, 0)], np.nan)
    return Chart(
        high=grid.high, low=grid.low, close=grid.close, cumulative_volume=_cumulative_volume(grid.volume), vwap=vwap,
        minute=(grid.time - open_at) / 60, bar_count=grid.counts,
        range_unit=np.divide(total, known, out=np.full(total.size, np.nan), where=known > 0),
        prev_close=prev_close, bar_minutes=kw["bar_minutes"],
        tops=pivots(grid.high, grid.counts, kw["pivot_bars"]),
        bottoms=pivots(-grid.low, grid.counts, kw["pivot_bars"]),
        recent_closes=tail,
    )  # fmt: skip


def _cumulative_volume(volume: Floats) -> Floats:
    out = np.zeros((volume.shape[0], volume.shape[1] + 1))
    np.cumsum(np.nan_to_num(volume), axis=1, out=out[:, 1:])
    return out


def mean_volume(chart: Chart, first: Ints, end: Ints) -> Floats:
    """Shares a bar over the columns from `first` up to, not with, `end`; NaN when there are none."""
    rows = np.arange(first.size)
    many = end - first
    total = (
        chart.cumulative_volume[rows, np.maximum(end, 0)]
        - chart.cumulative_volume[rows, np.maximum(first, 0)]
    )
    mean: Floats = np.divide(total, many, out=np.full(first.size, np.nan), where=many > 0)
    return mean


def pivots(values: Floats, count: Ints, reach: int) -> Ints:
    """Columns of the latest KEPT_PIVOTS local maxima of each row, latest first, -1 where there are fewer.

    A maximum is above every one of the `reach` bars before it and not below any of the `reach` after it, all of
    which must have happened.
    """
    width = values.shape[1]
    is_top = np.zeros(values.shape, dtype=np.bool_)
    if width > 2 * reach:
        middle = values[:, reach : width - reach]
        top = np.ones(middle.shape, dtype=np.bool_)
        for step in range(1, reach + 1):
            top &= middle > values[:, reach - step : width - reach - step]
            top &= middle >= values[:, reach + step : width - reach + step]
        is_top[:, reach : width - reach] = top
    row, column = np.nonzero(is_top)
    ends = np.cumsum(np.bincount(row, minlength=count.size))
    from_end = ends[row] - 1 - np.arange(row.size) if row.size else row
    kept = from_end < MAX_PIVOTS
    out = np.full((count.size, MAX_PIVOTS), -1, dtype=np.int64)
    out[row[kept], from_end[kept]] = column[kept]
    return out


def value_at(values: Floats, column: Ints) -> Floats:
    """One value a row; NaN where the column is -1."""
    inside = column >= 0
    picked = (
        values[np.arange(column.size), np.where(inside, column, 0)] if values.shape[1] else column * np.nan
    )
    return np.where(inside, picked, np.nan)


def lowest(values: Floats, first: Ints, last: Ints) -> tuple[Floats, Ints]:
    """The minimum of each row over columns first..last (both inside) and its column; NaN and -1 when empty.

    The columns named must hold numbers: they lie inside the symbol's day.
    """
    columns = np.arange(values.shape[1])
    inside = (
        (columns >= first[:, None])
        & (columns <= last[:, None])
        & (first >= 0)[:, None]
        & (last >= 0)[:, None]
    )
    held = np.where(inside, values, np.inf)
    place = held.argmin(axis=1)
    least = held[np.arange(place.size), place]
    some = np.isfinite(least)
    return np.where(some, least, np.nan), np.where(some, place, -1)


def highest(values: Floats, first: Ints, last: Ints) -> tuple[Floats, Ints]:
    """The maximum of each row over columns first..last and its column."""
    least, place = lowest(-values, first, last)
    return -least, place


def bars_above(chart: Chart, level: Floats) -> Ints:
    """For how many bars in a row, up to the last, the close has been above `level`; 0 when it is not."""
    with np.errstate(invalid="ignore"):
        below = ~(chart.recent_closes > level[:, None])
    length = chart.recent_closes.shape[1]
    run: Ints = np.where(below.any(axis=1), below[:, ::-1].argmax(axis=1), length)
    return run


def bars_in(chart: Chart, minutes: float) -> int:
    """How many bars make up `minutes`, at least one."""
    return max(1, round(minutes / chart.bar_minutes))


def mean_quality(*terms: Floats) -> Floats:
    """The mean of terms cut to [0, 1]."""
    cut = [np.clip(np.nan_to_num(term), 0.0, 1.0) for term in terms]
    mean: Floats = np.mean(cut, axis=0)
    return mean
