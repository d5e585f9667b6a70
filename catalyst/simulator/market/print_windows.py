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
from catalyst.simulator.market.bar_table import SECONDS, BarTable
from catalyst.simulator.market.interface import Print
from catalyst.simulator.market.ticks import Ticks

ROWS: Final = 32  # bars unrolled at once
WINDOW: Final = 600  # seconds of ticks unrolled at once
NEVER: Final = SECONDS


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some bars' prints; those after them begin at `until` (epoch seconds), `NEVER` when there are none."""

    times: list[int]
    units: list[int]
    prints: list[Print]
    until: int
    begins: bool  # nothing of the symbol comes before it


@dataclass(slots=True)
class Reels:
    """The newest stretch asked of each symbol number."""

    tape: BarTable
    ticks: Mapping[int, Ticks] = field(default_factory=dict)
    _stretches: dict[int, Stretch] = field(init=False, default_factory=dict)

    def at(self, number: int, second: int) -> Stretch | None:
        """The stretch that holds the newest print at `second`; None before the first print."""
        known = self._stretches.get(number)
        if known is not None:
            if known.times[0] <= second < known.until:
                return known
            if known.begins and second < known.times[0]:
                return None
        if number in self.ticks:
            last = self.ticks[number].until(second) - 1
            return None if last < 0 else self._ticked(number, last)
        row = int(self.tape.last(np.array([number]), second)[0])
        return None if row < 0 else self._unrolled(number, row)

    def first(self, number: int) -> Stretch | None:
        """The stretch that begins the symbol's tape; None without one."""
        known = self._stretches.get(number)
        if known is not None and known.begins:
            return known
        if number in self.ticks:
            return self._ticked(number, 0)
        row = int(self.tape.first(np.array([number]), 0)[0])
        if row == len(self.tape.key) or self.tape.key[row] // SECONDS != number:
            return None
        return self._unrolled(number, row)

    def between(self, number: int, after: int, until: int) -> Sequence[Print]:
        """The prints of (after, until], in time order."""
        stretch = self.at(number, after) or self.first(number)
        found: list[Print] = []
        while stretch is not None and stretch.times[0] <= until:
            begin, end = bisect_right(stretch.times, after), bisect_right(stretch.times, until)
            found += stretch.prints[begin:end]
            if stretch.until > until:
                break
            stretch = self.at(number, stretch.until)
        return found

    def next_time(self, number: int, after: int) -> int:
        """When the first print after `after` happens; `NEVER` when there is none."""
        stretch = self.at(number, after)
        if stretch is None:
            stretch = self.first(number)
            return NEVER if stretch is None else stretch.times[0]
        index = bisect_right(stretch.times, after)
        return stretch.times[index] if index < len(stretch.times) else stretch.until

    def _ticked(self, number: int, row: int) -> Stretch:
        """The stretch of the window around the tick in `row`; no second is split between two."""
        ticks = self.ticks[number]
        begins = int(ticks.times[row]) // WINDOW * WINDOW
        rows = slice(ticks.before(begins), ticks.before(begins + WINDOW))
        times = ticks.times[rows].tolist()
        first = equals_begin(times)
        prints = [
            Print(datetime.fromtimestamp(second, UTC), dollars(price), size, place - first[place])
            for place, (second, price, size) in enumerate(
                zip(times, ticks.units[rows].tolist(), ticks.sizes[rows].tolist(), strict=True)
            )
        ]
        until = int(ticks.times[rows.stop]) if rows.stop < len(ticks.times) else NEVER
        stretch = Stretch(times, ticks.units[rows].tolist(), prints, until, begins=rows.start == 0)
        self._stretches[number] = stretch
        return stretch

    def _unrolled(self, number: int, row: int) -> Stretch:
        """The stretch that begins with the bar in `row`, which is one of the symbol's."""
        tape = self.tape
        end = int(tape.first(np.array([number + 1]), 0)[0])
        rows = np.arange(row, min(row + ROWS, end))
        counts = tape.walk(rows).count
        walk = tape.walk(np.repeat(rows, counts))
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(tape.key[rows] % SECONDS, counts)
        times = (starts + intrabar_path.offset(walk, steps)).tolist()
        units, sizes = intrabar_path.price(walk, steps).tolist(), intrabar_path.size(walk, steps).tolist()
        prints = [
            Print(datetime.fromtimestamp(second, UTC), dollars(price), size)
            for second, price, size in zip(times, units, sizes, strict=True)
        ]
        after = int(rows[-1]) + 1
        until = int(tape.key[after] % SECONDS) if after < end else NEVER
        begins = row == 0 or bool(tape.key[row - 1] < number * SECONDS)
        stretch = Stretch(times, units, prints, until, begins)
        self._stretches[number] = stretch
        return stretch


def equals_begin(times: Sequence[int]) -> list[int]:
    """For each of the sorted `times`, where its equals begin."""
    begins: list[int] = []
    for place, time in enumerate(times):
        begins.append(begins[-1] if place and times[place - 1] == time else place)
    return begins


def dollars(units: int) -> Decimal:
    """A price with two decimals, or four where it lies between cents."""
    if units % intrabar_path.CENT == 0:
        return Decimal(units // intrabar_path.CENT).scaleb(-2)
    return Decimal(units).scaleb(-4)
