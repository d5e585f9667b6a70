"""Ticks: the prints of one symbol in arrays, and the bars made from them, for data finer than minute bars."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.interface import BarColumns, Ints, Print
from catalyst.simulator.market.snapshots import Instant, bars_in_dollars, missing_bars

MINUTE: Final = 60


@dataclass(frozen=True, slots=True)
class Ticks:
    """Prints in time order: epoch seconds, price units, shares.

    `cumulative_shares` is a running sum with one row more.
    """

    times: Ints
    units: Ints
    sizes: Ints
    cumulative_shares: Ints = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cumulative_shares", np.concatenate(([0], np.cumsum(self.sizes))))

    @classmethod
    def of(cls, prints: Sequence[Print]) -> Self:
        """Return the ticks of `prints`, which are in time order."""
        rows = [(int(p.at.timestamp() // 1), round(p.price * intrabar_path.UNITS), p.size) for p in prints]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
        return cls(columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2].copy())

    def count_until(self, second: int) -> int:
        """Return the number of prints at or before `second`."""
        return int(np.searchsorted(self.times, second, side="right"))

    def count_before(self, second: int) -> int:
        """Return the number of prints before `second`."""
        return int(np.searchsorted(self.times, second))

    def bars(self, length: int, begin: int, until: int) -> BarColumns:
        """Return the bars that start in [begin, until]; starts are multiples of `length` seconds since the epoch."""
        first = -(-begin // length) * length
        return self._group_by_length(
            self.count_before(first), self.count_before(until // length * length + length), length
        )

    def latest_minute_bar(self, at: int) -> BarColumns:
        """Return the newest minute with a print that ended by `at`, as one row; `starts` is -1 without one."""
        last = self.count_before(at // MINUTE * MINUTE)
        if not last:
            return missing_bars(1)
        begin = int(self.times[last - 1]) // MINUTE * MINUTE
        return self._group_by_length(self.count_before(begin), last, MINUTE)

    def running_day_bar(self, instant: Instant) -> BarColumns:
        """Return the running bar of the instant's day, as one row: prices of regular hours, volume of all hours.

        `starts` is -1 before the first regular print and on a day without a session.
        """
        begin, end = self.count_before(instant.opens), self.count_until(min(instant.at, instant.closes - 1))
        if not instant.opens or end <= begin:
            return missing_bars(1)
        rows = slice(begin, end)
        units, sizes = self.units[rows], self.sizes[rows]
        day_volume = (
            self.cumulative_shares[self.count_until(instant.at)]
            - self.cumulative_shares[self.count_before(instant.midnight)]
        )
        mean = (units * sizes).sum() / max(int(sizes.sum()), 1) if sizes.any() else units[-1]
        return bars_in_dollars(
            np.array([instant.midnight]),
            units[:1],
            units.max(keepdims=True),
            units.min(keepdims=True),
            units[-1:],
            np.array([day_volume]),
            np.array([float(mean)]),
            np.array([self.count_until(instant.at) - self.count_before(instant.midnight)]),
        )

    def _group_by_length(self, begin: int, end: int, length: int) -> BarColumns:
        """Return the prints of rows [begin, end) as bars of `length` seconds."""
        if end <= begin:
            return missing_bars(0)
        rows = slice(begin, end)
        times, units, sizes = self.times[rows], self.units[rows], self.sizes[rows]
        intervals = times // length
        first_rows = np.flatnonzero(np.concatenate(([True], intervals[1:] != intervals[:-1])))
        last_rows = np.append(first_rows[1:], len(intervals)) - 1
        volume = np.add.reduceat(sizes, first_rows)
        value = np.add.reduceat(units * sizes, first_rows)
        return bars_in_dollars(
            intervals[first_rows] * length,
            units[first_rows],
            np.maximum.reduceat(units, first_rows),
            np.minimum.reduceat(units, first_rows),
            units[last_rows],
            volume,
            np.where(volume > 0, value / np.maximum(volume, 1), units[last_rows]),
            last_rows - first_rows + 1,
        )
