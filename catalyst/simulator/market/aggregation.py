"""Bars of any length for one symbol, made from the tape's own."""

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
    """The daily bars of `number` whose midnight lies in [begin, until], today's running one last.

    `running` is today's bar when somebody knows it better than the tape's bars do.
    """
    rows = daily.row_slice(number, begin, min(until, instant.midnight - 1) + 1)
    found = [daily_bars(daily, np.arange(rows.start, rows.stop))]
    if number >= 0 and begin <= instant.midnight <= until:
        today = running_daily_bars(bars, np.array([number]), instant) if running is None else running
        if today.starts[0] >= 0:
            found.append(today)
    return concatenate_bars(found)


def intraday_bars(tables: Sequence[BarTable], number: int, length: int, begin: int, until: int) -> BarColumns:
    """The bars of `length` seconds that start in [begin, until], from tables in time order.

    Lengths are counted from the epoch, which for those that divide an hour is also the New York clock; a bar
    that began before `begin` is left out rather than served in part.
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
    """The rows of all parts, in order."""
    if not parts:
        return missing_bars(0)
    if len(parts) == 1:
        return parts[0]
    return BarColumns(*(np.concatenate([getattr(part, name) for part in parts]) for name in BAR_FIELDS))


def _unsplit_bars(table: BarTable, rows: Ints) -> BarColumns:
    """Each row as it is."""
    bar_path = table.paths(rows)
    return bars_of_prints(bar_path, np.zeros_like(rows), bar_path.count - 1, table.key[rows] % KEY_STRIDE)


def _minutes_inside(table: BarTable, rows: Ints, before: int) -> BarColumns:
    """The minutes inside longer bars that begin before `before`, from their prints; without a print, no bar."""
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
    """Neighbours of one interval of `length` seconds as one bar."""
    return group_by_start(bars, bars.starts // length * length)


def group_by_start(bars: BarColumns, starts: Ints) -> BarColumns:
    """Neighbours of the same start as one bar; `starts` has one for each row."""
    if not len(bars.starts):
        return bars
    heads = np.flatnonzero(np.concatenate(([True], starts[1:] != starts[:-1])))
    tails = np.append(heads[1:], len(starts)) - 1
    volume = np.add.reduceat(bars.volume, heads)
    value = np.add.reduceat(bars.vwap * bars.volume, heads)
    return BarColumns(
        starts[heads],
        bars.open[heads],
        np.maximum.reduceat(bars.high, heads),
        np.minimum.reduceat(bars.low, heads),
        bars.close[tails],
        volume,
        np.round(value / np.maximum(volume, 1), 6),
        np.add.reduceat(bars.trades, heads),
    )


def select_rows(bars: BarColumns, rows: Ints | slice) -> BarColumns:
    """Some rows of `bars`."""
    return BarColumns(*(getattr(bars, name)[rows] for name in BAR_FIELDS))
