"""Charts of many symbols for the pattern detectors, and the functions that the detectors share.

Every detector is written once, for rising prices. For falling prices it reads the mirrored chart, with every price
negated, so a bear pattern is exactly the mirror of its bull pattern. Distances are measured in units of the mean true
range of today's bars instead of percent, so that they do not depend on the price level.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from catalyst.pipeline.bar_matrix import BarMatrix
from catalyst.pipeline.frame import Bools, Floats, Ints

# A pattern that breaks out now uses only the latest pivots.
MAX_PIVOTS: Final = 6


@dataclass(frozen=True, slots=True)
class Chart:
    """Today's bars, symbols x bars. Indices are columns; -1 is none. The prices of a mirrored chart are negative."""

    high: Floats
    low: Floats
    close: Floats
    cumulative_volume: Floats  # shares before each bar of the day; one column more than bars
    vwap: Floats
    minute: Floats  # minutes from the open to each bar's start
    bar_count: Ints  # number of bars of each symbol
    range_unit: Floats  # mean true range, dollars
    prev_close: Floats
    bar_minutes: int
    tops: Ints  # symbols x MAX_PIVOTS: columns of the latest pivot highs, latest first
    bottoms: Ints
    recent_closes: Floats  # closes of the last bars, latest last, in which a recent crossing must lie

    @property
    def last(self) -> Ints:
        return self.bar_count - 1

    @property
    def last_close(self) -> Floats:
        """The close of each symbol's last bar."""
        return self.recent_closes[:, -1]

    def mirrored(self) -> "Chart":
        """Return the chart with every price negated, so that falling prices rise."""
        return replace(
            self, high=-self.low, low=-self.high, close=-self.close, vwap=-self.vwap,
            prev_close=-self.prev_close, tops=self.bottoms, bottoms=self.tops, recent_closes=-self.recent_closes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setups:
    """The result of one detector, one value per symbol. `trigger` is the level that was crossed, `stop` the price that
    invalidates the pattern, `target` its measured move, `shape` its quality in [0, 1], `first` its first bar."""

    found: Bools
    trigger: Floats
    stop: Floats
    target: Floats
    shape: Floats
    first: Ints


def chart_of(
    bars: BarMatrix, vwap: Floats, true_ranges: Floats, open_at: float, prev_close: Floats, **kw: int
) -> Chart:
    """Build the chart of today's bars.

    `true_ranges` has one value per bar; `open_at` is the open in seconds since the epoch. Keywords: bar_minutes,
    pivot_bars (a pivot is the extreme of that many bars on both sides), tail_bars (length of `recent_closes`).
    """
    total = np.nansum(true_ranges, axis=1)
    count = np.isfinite(true_ranges).sum(axis=1)
    tail_columns = bars.counts[:, None] + np.arange(-kw["tail_bars"], 0)
    rows = np.arange(bars.counts.size)[:, None]
    tail = np.where(tail_columns >= 0, bars.close[rows, np.maximum(tail_columns, 0)], np.nan)
    return Chart(
        high=bars.high, low=bars.low, close=bars.close, cumulative_volume=_cumulative_volume(bars.volume), vwap=vwap,
        minute=(bars.time - open_at) / 60, bar_count=bars.counts,
        range_unit=np.divide(total, count, out=np.full(total.size, np.nan), where=count > 0),
        prev_close=prev_close, bar_minutes=kw["bar_minutes"],
        tops=pivots(bars.high, bars.counts, kw["pivot_bars"]),
        bottoms=pivots(-bars.low, bars.counts, kw["pivot_bars"]),
        recent_closes=tail,
    )  # fmt: skip


def _cumulative_volume(volume: Floats) -> Floats:
    out = np.zeros((volume.shape[0], volume.shape[1] + 1))
    np.cumsum(np.nan_to_num(volume), axis=1, out=out[:, 1:])
    return out


def mean_volume(chart: Chart, first: Ints, end: Ints) -> Floats:
    """Return the mean shares per bar of the columns from `first` to `end`, `end` excluded; NaN when there are none."""
    rows = np.arange(first.size)
    count = end - first
    total = (
        chart.cumulative_volume[rows, np.maximum(end, 0)]
        - chart.cumulative_volume[rows, np.maximum(first, 0)]
    )
    mean: Floats = np.divide(total, count, out=np.full(first.size, np.nan), where=count > 0)
    return mean


def pivots(values: Floats, count: Ints, reach: int) -> Ints:
    """Return the columns of the latest MAX_PIVOTS local maxima of each row, latest first, -1 where there are fewer.

    A maximum is above each of the `reach` bars before it and not below any of the `reach` bars after it; all of these
    bars must exist.
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
    is_latest = from_end < MAX_PIVOTS
    out = np.full((count.size, MAX_PIVOTS), -1, dtype=np.int64)
    out[row[is_latest], from_end[is_latest]] = column[is_latest]
    return out


def value_at(values: Floats, column: Ints) -> Floats:
    """Return one value per row; NaN where the column is -1."""
    inside = column >= 0
    picked = (
        values[np.arange(column.size), np.where(inside, column, 0)] if values.shape[1] else column * np.nan
    )
    return np.where(inside, picked, np.nan)


def lowest(values: Floats, first: Ints, last: Ints) -> tuple[Floats, Ints]:
    """Return the minimum of each row over the columns first..last (both included) and its column; NaN and -1 if empty.

    These columns must hold numbers, that is, lie inside the symbol's day.
    """
    columns = np.arange(values.shape[1])
    inside = (
        (columns >= first[:, None])
        & (columns <= last[:, None])
        & (first >= 0)[:, None]
        & (last >= 0)[:, None]
    )
    candidates = np.where(inside, values, np.inf)
    column = candidates.argmin(axis=1)
    minimum = candidates[np.arange(column.size), column]
    exists = np.isfinite(minimum)
    return np.where(exists, minimum, np.nan), np.where(exists, column, -1)


def highest(values: Floats, first: Ints, last: Ints) -> tuple[Floats, Ints]:
    """Return the maximum of each row over the columns first..last and its column."""
    minimum, column = lowest(-values, first, last)
    return -minimum, column


def bars_above(chart: Chart, level: Floats) -> Ints:
    """Return the number of consecutive bars, up to the last, that closed above `level`; 0 when the last did not."""
    with np.errstate(invalid="ignore"):
        below = ~(chart.recent_closes > level[:, None])
    length = chart.recent_closes.shape[1]
    run: Ints = np.where(below.any(axis=1), below[:, ::-1].argmax(axis=1), length)
    return run


def bars_in(chart: Chart, minutes: float) -> int:
    """Return the number of bars in `minutes`, at least one."""
    return max(1, round(minutes / chart.bar_minutes))


def mean_quality(*terms: Floats) -> Floats:
    """Return the mean of the terms, each clipped to [0, 1] with NaN as 0."""
    clipped = [np.clip(np.nan_to_num(term), 0.0, 1.0) for term in terms]
    mean: Floats = np.mean(clipped, axis=0)
    return mean
