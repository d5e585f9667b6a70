"""Bar aggregation: builds daily bars and bars of any length for one symbol from the market's intraday bars."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.bar_table import KEY_STRIDE, BarTable
from catalyst.simulator.market.interface import BarColumns, Ints
from catalyst.simulator.market.snapshots import (
    BAR_FIELDS,
    Instant,
    bars_of_prints,
    daily_bars,
    missing_bars,
    running_daily_bars,
)

_MINUTE: Final = 60


def day_bars(
    bars: BarTable,
    daily: BarTable,
    number: int,
    begin: int,
    until: int,
    instant: Instant,
    running: BarColumns | None = None,
) -> BarColumns:
    """Return the daily bars of symbol `number` whose midnight lies in [begin, until], in time order.

    `running` replaces the running bar of today made from `bars` when the caller has a finer source.
    """
    rows = daily.row_slice(number, begin, min(until, instant.midnight - 1) + 1)
    parts = [daily_bars(daily, np.arange(rows.start, rows.stop))]
    if number >= 0 and begin <= instant.midnight <= until:
        today = running_daily_bars(bars, np.array([number]), instant) if running is None else running
        if today.starts[0] >= 0:
            parts.append(today)
    return concatenate_bars(parts)


def intraday_bars(tables: Sequence[BarTable], number: int, length: int, begin: int, until: int) -> BarColumns:
    """Return the bars of `length` seconds that start in [begin, until]; `tables` are in time order.

    Bar starts are multiples of `length` since the epoch; for lengths that divide an hour they are also full
    intervals of the New York clock. A bar that began before `begin` is left out, because only a part of it
    could be served.
    """
    begin = -(-begin // length) * length
    end = until // length * length + length
    if number < 0 or end <= begin:
        return missing_bars(0)
    parts = []
    for table in tables:
        rows = np.arange(*table.row_slice(number, begin, end).indices(len(table.key))[:2])
        if not len(rows):
            continue
        step = int(table.step[number])
        columns = _minutes_inside(table, rows, end) if length % step else _unsplit_bars(table, rows)
        parts.append(columns if length == step else _group_by_length(columns, length))
    return concatenate_bars(parts)


def concatenate_bars(parts: Sequence[BarColumns]) -> BarColumns:
    """Return the rows of all parts, in order."""
    if not parts:
        return missing_bars(0)
    if len(parts) == 1:
        return parts[0]
    return BarColumns(*(np.concatenate([getattr(part, name) for part in parts]) for name in BAR_FIELDS))


def _unsplit_bars(table: BarTable, rows: Ints) -> BarColumns:
    """Return each of `rows` as one bar."""
    bar_path = table.paths(rows)
    return bars_of_prints(bar_path, np.zeros_like(rows), bar_path.count - 1, table.key[rows] % KEY_STRIDE)


def _minutes_inside(table: BarTable, rows: Ints, before: int) -> BarColumns:
    """Return the minute bars inside the longer bars `rows`, made from their prints.

    Only a minute that begins before `before` (epoch seconds) and has a print gets a bar.
    """
    per_bar = int(table.step[table.key[rows[0]] // KEY_STRIDE]) // _MINUTE
    bar_path = table.paths(np.repeat(rows, per_bar))
    minute = np.tile(np.arange(per_bar), len(rows)) * _MINUTE
    begin, end = (
        intrabar_path.first_print_number(bar_path, minute),
        intrabar_path.last_print_number(bar_path, minute + _MINUTE - 1),
    )
    columns = bars_of_prints(
        bar_path, begin, np.maximum(end, begin), np.repeat(table.key[rows] % KEY_STRIDE, per_bar) + minute
    )
    return select_rows(columns, np.flatnonzero((end >= begin) & (columns.starts < before)))


def _group_by_length(bars: BarColumns, length: int) -> BarColumns:
    """Merge neighbouring bars of one interval of `length` seconds into one bar."""
    return group_by_start(bars, bars.starts // length * length)


def group_by_start(bars: BarColumns, starts: Ints) -> BarColumns:
    """Merge neighbouring bars with equal starts into one bar; `starts` has one start for each row."""
    if not len(bars.starts):
        return bars
    first_rows = np.flatnonzero(np.concatenate(([True], starts[1:] != starts[:-1])))
    last_rows = np.append(first_rows[1:], len(starts)) - 1
    volume = np.add.reduceat(bars.volume, first_rows)
    value = np.add.reduceat(bars.vwap * bars.volume, first_rows)
    return BarColumns(
        starts[first_rows],
        bars.open[first_rows],
        np.maximum.reduceat(bars.high, first_rows),
        np.minimum.reduceat(bars.low, first_rows),
        bars.close[last_rows],
        volume,
        np.round(value / np.maximum(volume, 1), 6),
        np.add.reduceat(bars.trades, first_rows),
    )


def select_rows(bars: BarColumns, rows: Ints | slice) -> BarColumns:
    """Return the given rows of `bars`."""
    return BarColumns(*(getattr(bars, name)[rows] for name in BAR_FIELDS))
