"""Print windows: the prints of single symbols, made one time window at a time, for readers of a few symbols.

A symbol with ticks is read from its ticks, every other one from the paths of its bars.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.bar_table import KEY_STRIDE, BarTable
from catalyst.simulator.market.interface import Print
from catalyst.simulator.market.ticks import Ticks

BARS_PER_WINDOW: Final = 32  # bars in one window
TICK_WINDOW_S: Final = 600  # seconds of ticks in one window
NO_MORE_PRINTS: Final = KEY_STRIDE


@dataclass(frozen=True, slots=True)
class PrintWindow:
    """Consecutive prints of one symbol; the next print is at `next_at` (epoch seconds) or `NO_MORE_PRINTS`.

    Compact arrays: thousands of symbols have a window each.
    """

    times: "array[int]"  # epoch seconds
    units: "array[int]"
    sizes: "array[int]"
    next_at: int
    is_first: bool  # the symbol has no earlier print
    has_numbers: bool  # prints of one second are numbered: they are ticks

    def print_at(self, index: int) -> Print:
        """Return the print at this index."""
        second = self.times[index]
        number = index - bisect_left(self.times, second) if self.has_numbers else 0
        at = datetime.fromtimestamp(second, UTC)
        return Print(at, units_to_dollars(self.units[index]), self.sizes[index], number)


@dataclass(slots=True)
class PrintWindows:
    """The last window read of each symbol number."""

    bars: BarTable
    ticks: Mapping[int, Ticks] = field(default_factory=dict)
    _windows: dict[int, PrintWindow] = field(init=False, default_factory=dict)

    def window_at(self, number: int, second: int) -> PrintWindow | None:
        """Return the window with the newest print at `second`; None before the first print."""
        cached = self._windows.get(number)
        if cached is not None:
            if cached.times[0] <= second < cached.next_at:
                return cached
            if cached.is_first and second < cached.times[0]:
                return None
        if number in self.ticks:
            last = self.ticks[number].count_until(second) - 1
            return None if last < 0 else self._window_of_ticks(number, last)
        row = int(self.bars.last_rows(np.array([number]), second)[0])
        return None if row < 0 else self._window_of_bars(number, row)

    def first_window(self, number: int) -> PrintWindow | None:
        """Return the symbol's first window; None without a print."""
        cached = self._windows.get(number)
        if cached is not None and cached.is_first:
            return cached
        if number in self.ticks:
            return self._window_of_ticks(number, 0)
        row = int(self.bars.first_rows(np.array([number]), 0)[0])
        if row == len(self.bars.key) or self.bars.key[row] // KEY_STRIDE != number:
            return None
        return self._window_of_bars(number, row)

    def prints_between(self, number: int, after: int, until: int) -> Sequence[Print]:
        """Return the prints of (after, until], in time order."""
        window = self.window_at(number, after) or self.first_window(number)
        prints: list[Print] = []
        while window is not None and window.times[0] <= until:
            begin, end = bisect_right(window.times, after), bisect_right(window.times, until)
            prints += map(window.print_at, range(begin, end))
            if window.next_at > until:
                break
            window = self.window_at(number, window.next_at)
        return prints

    def next_print_time(self, number: int, after: int) -> int:
        """Return the second of the first print after `after`; `NO_MORE_PRINTS` when there is none."""
        window = self.window_at(number, after)
        if window is None:
            window = self.first_window(number)
            return NO_MORE_PRINTS if window is None else window.times[0]
        index = bisect_right(window.times, after)
        return window.times[index] if index < len(window.times) else window.next_at

    def _window_of_ticks(self, number: int, row: int) -> PrintWindow:
        """Return the window with the tick in `row`; all prints of a second are in one window."""
        ticks = self.ticks[number]
        window_start = int(ticks.times[row]) // TICK_WINDOW_S * TICK_WINDOW_S
        rows = slice(ticks.count_before(window_start), ticks.count_before(window_start + TICK_WINDOW_S))
        next_at = int(ticks.times[rows.stop]) if rows.stop < len(ticks.times) else NO_MORE_PRINTS
        window = PrintWindow(
            _compact(ticks.times[rows]),
            _compact(ticks.units[rows]),
            _compact(ticks.sizes[rows]),
            next_at,
            is_first=rows.start == 0,
            has_numbers=True,
        )
        self._windows[number] = window
        return window

    def _window_of_bars(self, number: int, row: int) -> PrintWindow:
        """Return the window that begins with the bar in `row`, which belongs to the symbol."""
        bars = self.bars
        end = int(bars.first_rows(np.array([number + 1]), 0)[0])
        rows = np.arange(row, min(row + BARS_PER_WINDOW, end))
        counts = bars.paths(rows).count
        bar_path = bars.paths(np.repeat(rows, counts))
        print_numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(bars.key[rows] % KEY_STRIDE, counts)
        times = starts + intrabar_path.print_offset(bar_path, print_numbers)
        units = intrabar_path.print_price(bar_path, print_numbers)
        sizes = intrabar_path.print_size(bar_path, print_numbers)
        next_row = int(rows[-1]) + 1
        next_at = int(bars.key[next_row] % KEY_STRIDE) if next_row < end else NO_MORE_PRINTS
        is_first = row == 0 or bool(bars.key[row - 1] < number * KEY_STRIDE)
        window = PrintWindow(
            _compact(times), _compact(units), _compact(sizes), next_at, is_first, has_numbers=False
        )
        self._windows[number] = window
        return window


def _compact(values: Any) -> "array[int]":
    """Return whole numbers of a numpy array as 64-bit integers, which read as plain Python integers."""
    return array("q", np.ascontiguousarray(values, dtype=np.int64).tobytes())


def units_to_dollars(units: int) -> Decimal:
    """Return a price in dollars with two decimals, or with four when it lies between cents."""
    if units % intrabar_path.CENT == 0:
        return Decimal(units // intrabar_path.CENT).scaleb(-2)
    return Decimal(units).scaleb(-4)
