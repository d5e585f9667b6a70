"""Recorded data finer than minute bars: bars of one second, single trades, and quotes.

Columns of trades: symbol, timestamp (UTC), price, size, optionally suspicious (1: the row is left out). Quote
bars: symbol, timestamp (UTC, start of the bar), bid_open, bid_close, bid_size, ask_open, ask_close, ask_size;
one second or one minute long; a price of 0 means that the side is missing. Single quotes: symbol, timestamp,
bid_price, bid_size, ask_price, ask_size, optionally suspicious; a price of 0 means that the message does not
contain the side. Market time has a resolution of one second: the trades of a second happen at its beginning, in
the recorded order; of its quotes the last one applies.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from catalyst.simulator.market import calendar, intrabar_path
from catalyst.simulator.market.bar_table import KEY_STRIDE, BarTable
from catalyst.simulator.market.interface import Floats, Ints
from catalyst.simulator.market.recorded_quotes import RecordedQuotes
from catalyst.simulator.market.snapshots import BAR_FIELDS
from catalyst.simulator.market.ticks import MINUTE, Ticks

QUOTE_LENGTHS_S: Final = (1, 60)
NumberedTable = tuple[pa.Table, Ints, Ints]  # rows, the symbol number of each, its start in epoch seconds


def is_trade_table(table: pa.Table) -> bool:
    """Return true for a table of single trades, false for a table of bars."""
    return "price" in table.column_names and "open" not in table.column_names


def ticks_of_trades(table: pa.Table, number: Ints, start: Ints, until: int) -> dict[int, Ticks]:
    """Return the ticks of each symbol number before `until` (epoch seconds).

    Raises ValueError for a price or a size that is not positive and finite.
    """
    rows = np.flatnonzero((start < until) & _mask_not_suspicious(table))
    price, size = _floats(table, "price")[rows], _floats(table, "size")[rows]
    if not ((price > 0) & np.isfinite(price) & (size > 0) & np.isfinite(size)).all():
        raise ValueError(
            "a trade has a price or a size that is not positive and finite; correct or delete the row"
        )
    at = table["timestamp"].cast(pa.int64()).to_numpy()[rows]
    order = np.lexsort((at, number[rows]))
    units = np.rint(price * intrabar_path.UNITS).astype(np.int64)
    sizes = np.maximum(np.rint(size), 1).astype(np.int64)
    return _ticks_by_number(number[rows][order], start[rows][order], units[order], sizes[order])


def ticks_of_seconds(bars: BarTable) -> dict[int, Ticks]:
    """Return the ticks of one-second bars: the whole path of a bar lies within its second."""
    bar_paths = bars.paths(np.arange(len(bars.key)))
    rows = np.repeat(np.arange(len(bars.key)), bar_paths.count)
    print_numbers = np.arange(len(rows)) - np.repeat(
        np.cumsum(bar_paths.count) - bar_paths.count, bar_paths.count
    )
    print_paths = bars.paths(rows)
    return _ticks_by_number(
        bars.symbol_numbers[rows],
        bars.starts[rows],
        intrabar_path.print_price(print_paths, print_numbers),
        intrabar_path.print_size(print_paths, print_numbers),
    )


def _ticks_by_number(number: Ints, times: Ints, units: Ints, sizes: Ints) -> dict[int, Ticks]:
    """Return the ticks by symbol number; the rows are in (number, time) order."""
    numbers, heads = np.unique(number, return_index=True)
    ends = np.append(heads[1:], len(number))
    return {
        int(n): Ticks(times[begin:end].copy(), units[begin:end].copy(), sizes[begin:end].copy())
        for n, begin, end in zip(numbers.tolist(), heads.tolist(), ends.tolist(), strict=True)
    }


def minute_bars_of_ticks(ticks: Mapping[int, Ticks], steps: Ints) -> BarTable:
    """Return the minute bars made from the ticks of every symbol number."""
    columns: dict[str, list[Ints | Floats]] = {name: [] for name in BAR_FIELDS}
    keys: list[Ints] = []
    for number in sorted(ticks):
        symbol_ticks = ticks[number]
        bars = symbol_ticks.bars(MINUTE, 0, int(symbol_ticks.times[-1]))
        keys.append(number * KEY_STRIDE + bars.starts)
        for name in BAR_FIELDS:
            columns[name].append(getattr(bars, name))

    def units(name: str) -> Ints:
        return np.rint(np.concatenate(columns[name]) * intrabar_path.UNITS).astype(np.int64)

    return BarTable(
        np.concatenate(keys),
        units("open"),
        units("high"),
        units("low"),
        units("close"),
        np.concatenate(columns["volume"]).astype(np.int64),
        steps,
    )


def mask_without_ticks(number: Ints, start: Ints, ticks: Mapping[int, Ticks]) -> Ints:
    """Return a mask of the bars on New York days on which their symbol has no ticks."""
    without_ticks = np.ones(len(number), dtype=bool)
    for tick_number, symbol_ticks in ticks.items():
        symbol_rows = np.flatnonzero(number == tick_number)
        first = calendar.trading_day(datetime.fromtimestamp(int(symbol_ticks.times[0]), UTC))
        last = calendar.trading_day(datetime.fromtimestamp(int(symbol_ticks.times[-1]), UTC))
        for ordinal in range(first.toordinal(), last.toordinal() + 1):
            day = first + timedelta(days=ordinal - first.toordinal())
            begin, end = (int(calendar.midnight(d).timestamp()) for d in (day, day + timedelta(days=1)))
            if symbol_ticks.count_before(end) > symbol_ticks.count_before(begin):
                without_ticks[symbol_rows] &= (start[symbol_rows] < begin) | (start[symbol_rows] >= end)
    return without_ticks


def _mask_not_suspicious(table: pa.Table) -> NDArray[np.bool_]:
    """Return a mask of the rows that are not marked as suspicious."""
    if "suspicious" not in table.column_names:
        return np.ones(len(table), dtype=bool)
    marks = np.array(pc.cast(table["suspicious"], pa.string()).to_pylist())
    return ~np.isin(marks, ["1", "true", "True"])


def quotes_by_number(
    tables: Sequence[NumberedTable], until: int, ticks: Mapping[int, Ticks]
) -> dict[int, RecordedQuotes]:
    """Return the quotes of each symbol number before `until`, from tables of (rows, numbers, starts).

    Of several tables with one symbol, the one with the shortest bars is used. Raises ValueError for bar lengths
    other than a second or a minute.
    """
    quotes: dict[int, RecordedQuotes] = {}
    quote_tables = [
        (1, *_second_bars_of_quotes(*each))
        if "bid_price" in each[0].column_names
        else (_quote_bar_length(each[2]), *each)
        for each in tables
    ]
    for step, table, number, start in sorted(quote_tables, key=lambda each: each[0], reverse=True):
        rows = np.flatnonzero((start < until) & (number >= 0))
        rows = rows[np.lexsort((start[rows], number[rows]))]
        columns = [_prices(table, name)[rows] for name in ("bid_open", "ask_open", "bid_close", "ask_close")]
        sizes = [np.rint(_floats(table, name)[rows]).astype(np.int64) for name in ("bid_size", "ask_size")]
        numbers, heads = np.unique(number[rows], return_index=True)
        ends = np.append(heads[1:], len(rows))
        for n, begin, end in zip(numbers.tolist(), heads.tolist(), ends.tolist(), strict=True):
            symbol_rows = slice(begin, end)
            parts = [column[symbol_rows].copy() for column in (start[rows], *columns, *sizes)]
            quotes[n] = RecordedQuotes(step, step == 1 and n in ticks, *parts)
    return quotes


def _second_bars_of_quotes(table: pa.Table, number: Ints, start: Ints) -> NumberedTable:
    """Return single quotes as one-second quote bars: each side as of the second's end, 0 before its first price."""
    at = table["timestamp"].cast(pa.int64()).to_numpy()
    rows = np.flatnonzero(_mask_not_suspicious(table) & (number >= 0))
    rows = rows[np.lexsort((at[rows], number[rows]))]
    number, start = number[rows], start[rows]
    index = np.arange(len(rows))
    first_of_symbol = np.maximum.accumulate(np.where(np.diff(number, prepend=-1) != 0, index, 0))
    ends = (number[1:] != number[:-1]) | (start[1:] != start[:-1])
    last = np.flatnonzero(np.append(ends, len(rows) > 0))
    columns: dict[str, Floats] = {}
    for side in ("bid", "ask"):
        price, size = (_floats(table, f"{side}_{part}")[rows] for part in ("price", "size"))
        latest = np.maximum.accumulate(np.where(price > 0, index, -1))[last]
        has_price = latest >= first_of_symbol[last]
        columns[f"{side}_open"] = columns[f"{side}_close"] = np.where(has_price, price[latest], 0)
        columns[f"{side}_size"] = np.where(has_price, size[latest], 0)
    return pa.table(columns), number[last], start[last]


def _quote_bar_length(start: Ints) -> int:
    """Return the length of quote bars in seconds: the longest that divides all starts.

    Raises ValueError when no supported length fits.
    """
    step = int(np.gcd.reduce(np.unique(start % 86_400)))
    bar_length = next((length for length in reversed(QUOTE_LENGTHS_S) if step and step % length == 0), None)
    if bar_length is None or (bar_length == 1 and step != 1):
        raise ValueError(
            f"quote bars start on multiples of {step} s; use quote bars of one second or one minute"
        )
    return bar_length


def _floats(table: pa.Table, name: str) -> Floats:
    column: Floats = np.nan_to_num(table[name].to_numpy().astype(np.float64), posinf=0.0, neginf=0.0)
    return column


def _prices(table: pa.Table, name: str) -> Ints:
    units: Ints = np.rint(np.maximum(_floats(table, name), 0) * intrabar_path.UNITS).astype(np.int64)
    return units
