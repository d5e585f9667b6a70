"""Bar table: bars of many symbols in a few arrays, found by one binary search."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.interface import Floats, Ints

KEY_STRIDE: Final = 1 << 34  # larger than any epoch second, so that a key can hold the start
PRICES: Final = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class BarTable:
    """Bars sorted by symbol number, then start; prices in ten-thousandths of a dollar.

    `key` is number * KEY_STRIDE + start in epoch seconds, so one `searchsorted` finds (number, instant) for any
    number of symbols. `cumulative_shares` and `cumulative_value` are running sums with one row more than the
    table: `cumulative_shares[b] - cumulative_shares[a]` is the volume of rows [a, b). `cumulative_value` is the
    same in price units times shares.
    """

    key: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    step: Ints  # seconds, per symbol number
    cumulative_shares: Ints = field(init=False)
    cumulative_value: Ints = field(init=False)

    def __post_init__(self) -> None:
        bar_path = intrabar_path.build_path(
            self.open, self.high, self.low, self.close, self.volume, self.step[self.symbol_numbers]
        )
        value = np.rint(intrabar_path.mean_price(bar_path, bar_path.count - 1) * self.volume).astype(np.int64)
        object.__setattr__(self, "cumulative_shares", np.concatenate(([0], np.cumsum(self.volume))))
        object.__setattr__(self, "cumulative_value", np.concatenate(([0], np.cumsum(value))))

    @classmethod
    def build(
        cls,
        symbols: Sequence[str],
        number: Ints,
        start: Ints,
        prices: Sequence[Floats],
        volume: Floats,
        step: Ints,
    ) -> Self:
        """Return a sorted and checked table of bars given in dollars and shares.

        A bar without shares is dropped: the broker has no bar for an interval without a trade. Raises
        ValueError for prices that are not positive and finite, an open or close outside [low, high], a negative
        volume, or two bars of one symbol at one time.
        """
        units = [
            np.rint(np.nan_to_num(price, nan=-1.0) * intrabar_path.UNITS).astype(np.int64) for price in prices
        ]
        shares = np.rint(np.nan_to_num(volume, nan=-1.0))
        shares = np.where(volume > 0, np.maximum(shares, 1), shares).astype(np.int64)
        key = number * KEY_STRIDE + start
        order = np.argsort(key, kind="stable")
        order = order[shares[order] != 0]
        open_, high, low, close = (column[order] for column in units)
        key, shares = key[order], shares[order]
        inside = (np.minimum(open_, close) >= low) & (np.maximum(open_, close) <= high)
        invalid = ~inside | (low <= 0) | (shares < 0)
        invalid[1:] |= key[1:] == key[:-1]
        if invalid.any():
            row = int(np.argmax(invalid))
            symbol, at = symbols[int(key[row] // KEY_STRIDE)], np.datetime64(int(key[row] % KEY_STRIDE), "s")
            raise ValueError(
                f"{int(invalid.sum())} rows are not bars: a price is not positive, open or close lies outside "
                f"[low, high], the volume is negative, or the row is a duplicate. Correct or delete these rows; "
                f"the first is {symbol} at {at}Z"
            )
        return cls(key, open_, high, low, close, shares, step)

    @property
    def symbol_numbers(self) -> Ints:
        """Return the symbol number of each row."""
        return self.key // KEY_STRIDE

    @property
    def starts(self) -> Ints:
        """Return the start of each row, in epoch seconds."""
        return self.key % KEY_STRIDE

    def last_rows(self, numbers: Ints, at: int) -> Ints:
        """Return the row of each number's newest bar that starts not after `at` (epoch seconds); -1 without one."""
        rows = np.searchsorted(self.key, numbers * KEY_STRIDE + at, side="right") - 1
        if not len(self.key):
            return rows
        has_bar = (rows >= 0) & (self.key[np.maximum(rows, 0)] >= numbers * KEY_STRIDE)
        return np.where(has_bar, rows, -1)

    def first_rows(self, numbers: Ints, at: int) -> Ints:
        """Return for each number the row where its bars that start at `at` or later begin."""
        return np.searchsorted(self.key, numbers * KEY_STRIDE + at)

    def row_slice(self, number: int, start: int, end: int) -> slice:
        """Return the rows of `number` that start in [start, end)."""
        low, high = np.searchsorted(
            self.key, number * KEY_STRIDE + np.array([max(start, 0), max(end, start, 0)])
        )
        return slice(int(low), int(high))

    def paths(self, rows: Ints) -> intrabar_path.IntrabarPath:
        """Return the intrabar paths of `rows`; a negative row gives an arbitrary path, which the caller must mask."""
        return intrabar_path.build_path(
            self.open[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.volume[rows],
            self.step[self.key[rows] // KEY_STRIDE],
        )

    def extremes(self, begin: Ints, end: Ints) -> tuple[Ints, Ints]:
        """Return the highest high and the lowest low of rows [begin, end); without rows, 0 and the largest integer.

        The table must not be empty.
        """
        # sorted, because reduceat also reduces the unused rows between two pairs
        order = np.argsort(begin, kind="stable")
        last_row = len(self.key) - 1
        pairs = np.minimum(np.stack((begin, np.maximum(end, begin)), axis=1)[order].ravel(), last_row)
        high, low = np.empty_like(begin), np.empty_like(begin)
        high[order] = np.maximum.reduceat(self.high, pairs)[::2]
        low[order] = np.minimum.reduceat(self.low, pairs)[::2]
        reaches_end = end > last_row
        high = np.where(reaches_end, np.maximum(high, self.high[last_row]), high)
        low = np.where(reaches_end, np.minimum(low, self.low[last_row]), low)
        has_rows = end > begin
        return np.where(has_rows, high, 0), np.where(has_rows, low, np.iinfo(np.int64).max)


def concatenate_tables(tables: Sequence[BarTable]) -> BarTable:
    """Return one table with all bars of `tables`, which share one numbering of symbols."""
    if len(tables) == 1:
        return tables[0]
    key = np.concatenate([table.key for table in tables])
    order = np.argsort(key, kind="stable")
    open_, high, low, close, volume = (
        np.concatenate([getattr(table, name) for table in tables])[order] for name in (*PRICES, "volume")
    )
    return BarTable(key[order], open_, high, low, close, volume, tables[0].step)
