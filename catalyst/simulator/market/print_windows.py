"""The tape of single symbols, unrolled a stretch at a time: for who follows a few of them print by print.

A symbol that has ticks is followed by them, every other one along the paths of its bars.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import numpy as np

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.bar_table import KEY_STRIDE, BarTable
from catalyst.simulator.market.interface import Print
from catalyst.simulator.market.ticks import Ticks

BARS_PER_WINDOW: Final = 32  # bars unrolled at once
TICK_WINDOW_S: Final = 600  # seconds of ticks unrolled at once
NO_MORE_PRINTS: Final = KEY_STRIDE


@dataclass(frozen=True, slots=True)
class PrintWindow:
    """Some bars' prints; those after them begin at `until` (epoch seconds), `NEVER` when there are none."""

    times: list[int]
    units: list[int]
    prints: list[Print]
    next_at: int
    is_first: bool  # nothing of the symbol comes before it


@dataclass(slots=True)
class PrintWindows:
    """The newest stretch asked of each symbol number."""

    bars: BarTable
    ticks: Mapping[int, Ticks] = field(default_factory=dict)
    _windows: dict[int, PrintWindow] = field(init=False, default_factory=dict)

    def window_at(self, number: int, second: int) -> PrintWindow | None:
        """The stretch that holds the newest print at `second`; None before the first print."""
        known = self._windows.get(number)
        if known is not None:
            if known.times[0] <= second < known.next_at:
                return known
            if known.is_first and second < known.times[0]:
                return None
        if number in self.ticks:
            last = self.ticks[number].count_until(second) - 1
            return None if last < 0 else self._window_of_ticks(number, last)
        row = int(self.bars.last_rows(np.array([number]), second)[0])
        return None if row < 0 else self._window_of_bars(number, row)

    def first_window(self, number: int) -> PrintWindow | None:
        """The stretch that begins the symbol's tape; None without one."""
        known = self._windows.get(number)
        if known is not None and known.is_first:
            return known
        if number in self.ticks:
            return self._window_of_ticks(number, 0)
        row = int(self.bars.first_rows(np.array([number]), 0)[0])
        if row == len(self.bars.key) or self.bars.key[row] // KEY_STRIDE != number:
            return None
        return self._window_of_bars(number, row)

    def prints_between(self, number: int, after: int, until: int) -> Sequence[Print]:
        """The prints of (after, until], in time order."""
        window = self.window_at(number, after) or self.first_window(number)
        found: list[Print] = []
        while window is not None and window.times[0] <= until:
            begin, end = bisect_right(window.times, after), bisect_right(window.times, until)
            found += window.prints[begin:end]
            if window.next_at > until:
                break
            window = self.window_at(number, window.next_at)
        return found

    def next_print_time(self, number: int, after: int) -> int:
        """When the first print after `after` happens; `NEVER` when there is none."""
        window = self.window_at(number, after)
        if window is None:
            window = self.first_window(number)
            return NO_MORE_PRINTS if window is None else window.times[0]
        index = bisect_right(window.times, after)
        return window.times[index] if index < len(window.times) else window.next_at

    def _window_of_ticks(self, number: int, row: int) -> PrintWindow:
        """The stretch of the window around the tick in `row`; no second is split between two."""
        ticks = self.ticks[number]
        begins = int(ticks.times[row]) // TICK_WINDOW_S * TICK_WINDOW_S
        rows = slice(ticks.count_before(begins), ticks.count_before(begins + TICK_WINDOW_S))
        times = ticks.times[rows].tolist()
        first = first_equal_index(times)
        prints = [
            Print(datetime.fromtimestamp(second, UTC), units_to_dollars(price), size, place - first[place])
            for place, (second, price, size) in enumerate(
                zip(times, ticks.units[rows].tolist(), ticks.sizes[rows].tolist(), strict=True)
            )
        ]
        until = int(ticks.times[rows.stop]) if rows.stop < len(ticks.times) else NO_MORE_PRINTS
        window = PrintWindow(times, ticks.units[rows].tolist(), prints, until, is_first=rows.start == 0)
        self._windows[number] = window
        return window

    def _window_of_bars(self, number: int, row: int) -> PrintWindow:
        """The stretch that begins with the bar in `row`, which is one of the symbol's."""
        bars = self.bars
        end = int(bars.first_rows(np.array([number + 1]), 0)[0])
        rows = np.arange(row, min(row + BARS_PER_WINDOW, end))
        counts = bars.paths(rows).count
        bar_path = bars.paths(np.repeat(rows, counts))
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(bars.key[rows] % KEY_STRIDE, counts)
        times = (starts + intrabar_path.print_offset(bar_path, steps)).tolist()
        units, sizes = (
            intrabar_path.print_price(bar_path, steps).tolist(),
            intrabar_path.print_size(bar_path, steps).tolist(),
        )
        prints = [
            Print(datetime.fromtimestamp(second, UTC), units_to_dollars(price), size)
            for second, price, size in zip(times, units, sizes, strict=True)
        ]
        after = int(rows[-1]) + 1
        until = int(bars.key[after] % KEY_STRIDE) if after < end else NO_MORE_PRINTS
        begins = row == 0 or bool(bars.key[row - 1] < number * KEY_STRIDE)
        window = PrintWindow(times, units, prints, until, begins)
        self._windows[number] = window
        return window


def first_equal_index(times: Sequence[int]) -> list[int]:
    """For each of the sorted `times`, where its equals begin."""
    begins: list[int] = []
    for place, time in enumerate(times):
        begins.append(begins[-1] if place and times[place - 1] == time else place)
    return begins


def units_to_dollars(units: int) -> Decimal:
    """A price with two decimals, or four where it lies between cents."""
    if units % intrabar_path.CENT == 0:
        return Decimal(units // intrabar_path.CENT).scaleb(-2)
    return Decimal(units).scaleb(-4)
