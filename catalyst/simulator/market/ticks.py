"""The prints of one symbol in arrays, and the bars they make: for tapes that are finer than minute bars."""

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
    """Prints in time order: epoch seconds, price units, shares. `shares` is a running sum, one row longer."""

    times: Ints
    units: Ints
    sizes: Ints
    cumulative_shares: Ints = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cumulative_shares", np.concatenate(([0], np.cumsum(self.sizes))))

    @classmethod
    def of(cls, prints: Sequence[Print]) -> Self:
        """The ticks of prints in time order."""
        rows = [(int(p.at.timestamp() // 1), round(p.price * intrabar_path.UNITS), p.size) for p in prints]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
        return cls(columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2].copy())

    def count_until(self, second: int) -> int:
        """How many prints happened by `second`, it included."""
        return int(np.searchsorted(self.times, second, side="right"))

    def count_before(self, second: int) -> int:
        """How many prints happened before `second`."""
        return int(np.searchsorted(self.times, second))

    def bars(self, length: int, begin: int, until: int) -> BarColumns:
        """The bars of `length` seconds, counted from the epoch, that start in [begin, until]."""
        first = -(-begin // length) * length
        return self._group_by_length(
            self.count_before(first), self.count_before(until // length * length + length), length
        )

    def latest_minute_bar(self, at: int) -> BarColumns:
        """The newest minute with a print that ended by `at`, as one row; `starts` -1 without one."""
        last = self.count_before(at // MINUTE * MINUTE)
        if not last:
            return missing_bars(1)
        begin = int(self.times[last - 1]) // MINUTE * MINUTE
        return self._group_by_length(self.count_before(begin), last, MINUTE)

    def running_day_bar(self, instant: Instant) -> BarColumns:
        """The running bar of the moment's day, as one row: prices of regular hours, volume of all; else -1."""
        begin, end = self.count_before(instant.opens), self.count_until(min(instant.at, instant.closes - 1))
        if not instant.opens or end <= begin:
            return missing_bars(1)
        rows = slice(begin, end)
        units, sizes = self.units[rows], self.sizes[rows]
        all_day = (
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
            np.array([all_day]),
            np.array([float(mean)]),
            np.array([self.count_until(instant.at) - self.count_before(instant.midnight)]),
        )

    def _group_by_length(self, begin: int, end: int, length: int) -> BarColumns:
        """The prints of rows [begin, end) as bars of `length` seconds."""
        if end <= begin:
            return missing_bars(0)
        rows = slice(begin, end)
        times, units, sizes = self.times[rows], self.units[rows], self.sizes[rows]
        bins = times // length
        heads = np.flatnonzero(np.concatenate(([True], bins[1:] != bins[:-1])))
        tails = np.append(heads[1:], len(bins)) - 1
        volume = np.add.reduceat(sizes, heads)
        value = np.add.reduceat(units * sizes, heads)
        return bars_in_dollars(
            bins[heads] * length,
            units[heads],
            np.maximum.reduceat(units, heads),
            np.minimum.reduceat(units, heads),
            units[tails],
            volume,
            np.where(volume > 0, value / np.maximum(volume, 1), units[tails]),
            tails - heads + 1,
        )
