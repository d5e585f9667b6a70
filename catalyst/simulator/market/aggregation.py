"""Bars of any length for one symbol, made from the tape's own."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.bar_table import SECONDS, BarTable
from catalyst.simulator.market.interface import BarColumns, Ints
from catalyst.simulator.market.snapshots import FIELDS, Moment, daily_bars, nothing, running_days, section

_MINUTE: Final = 60


def day_bars(
    bars: BarTable,
    daily: BarTable,
    number: int,
    begin: int,
    until: int,
    moment: Moment,
    running: BarColumns | None = None,
) -> BarColumns:
    """The daily bars of `number` whose midnight lies in [begin, until], today's running one last.

    `running` is today's bar when somebody knows it better than the tape's bars do.
    """
    rows = daily.between(number, begin, min(until, moment.midnight - 1) + 1)
    found = [daily_bars(daily, np.arange(rows.start, rows.stop))]
    if number >= 0 and begin <= moment.midnight <= until:
        today = running_days(bars, np.array([number]), moment) if running is None else running
        if today.starts[0] >= 0:
            found.append(today)
    return join(found)


def intraday_bars(tables: Sequence[BarTable], number: int, length: int, begin: int, until: int) -> BarColumns:
    """The bars of `length` seconds that start in [begin, until], from tables in time order.

    Lengths are counted from the epoch, which for those that divide an hour is also the New York clock; a bar
    that began before `begin` is left out rather than served in part.
    """
    begin = -(-begin // length) * length
    end = until // length * length + length
    if number < 0 or end <= begin:
        return nothing(0)
    parts = []
    for table in tables:
        rows = np.arange(*table.between(number, begin, end).indices(len(table.key))[:2])
        if not len(rows):
            continue
        step = int(table.step[number])
        columns = _minutes(table, rows, end) if length % step else _whole(table, rows)
        parts.append(columns if length == step else _group(columns, length))
    return join(parts)


def join(parts: Sequence[BarColumns]) -> BarColumns:
    """The rows of all parts, in order."""
    if not parts:
        return nothing(0)
    if len(parts) == 1:
        return parts[0]
    return BarColumns(*(np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS))


def _whole(table: BarTable, rows: Ints) -> BarColumns:
    """Each row as it is."""
    walk = table.walk(rows)
    return section(walk, np.zeros_like(rows), walk.count - 1, table.key[rows] % SECONDS)


def _minutes(table: BarTable, rows: Ints, before: int) -> BarColumns:
    """The minutes inside longer bars that begin before `before`, from their prints; without a print, no bar."""
    per_bar = int(table.step[table.key[rows[0]] // SECONDS]) // _MINUTE
    walk = table.walk(np.repeat(rows, per_bar))
    minute = np.tile(np.arange(per_bar), len(rows)) * _MINUTE
    begin, end = intrabar_path.oldest(walk, minute), intrabar_path.newest(walk, minute + _MINUTE - 1)
    columns = section(
        walk, begin, np.maximum(end, begin), np.repeat(table.key[rows] % SECONDS, per_bar) + minute
    )
    return take(columns, np.flatnonzero((end >= begin) & (columns.starts < before)))


def _group(bars: BarColumns, length: int) -> BarColumns:
    """Neighbours of one interval of `length` seconds as one bar."""
    return grouped(bars, bars.starts // length * length)


def grouped(bars: BarColumns, starts: Ints) -> BarColumns:
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


def take(bars: BarColumns, rows: Ints | slice) -> BarColumns:
    """Some rows of `bars`."""
    return BarColumns(*(getattr(bars, name)[rows] for name in FIELDS))
