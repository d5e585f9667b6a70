"""Bars of many symbols in a handful of arrays, found by one binary search."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.interface import Floats, Ints

KEY_STRIDE: Final = 1 << 34  # more than any epoch second: room for the time in a key
PRICES: Final = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class BarTable:
    """Bars sorted by symbol number, then start; prices in ten-thousandths of a dollar.

    `key` is number * SECONDS + start in epoch seconds, so that a search for (number, instant) is one
    `searchsorted` for any number of symbols. `shares` and `value` are running sums with one row more than the
    table: `shares[b] - shares[a]` is the volume of rows [a, b), and `value` the same in price units times shares.
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
        whole = intrabar_path.build_path(
            self.open, self.high, self.low, self.close, self.volume, self.step[self.symbol_numbers]
        )
        value = np.rint(intrabar_path.mean_price(whole, whole.count - 1) * self.volume).astype(np.int64)
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
        """Sort and check bars given in dollars and shares.

        A bar without a share is no bar: the broker has none for an interval without a trade.
        Raises ValueError for prices that are not positive and finite, an open or close outside [low, high], a
        negative volume, or two bars of one symbol at one time.
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
        wrong = ~inside | (low <= 0) | (shares < 0)
        wrong[1:] |= key[1:] == key[:-1]
        if wrong.any():
            row = int(np.argmax(wrong))
            symbol, at = symbols[int(key[row] // KEY_STRIDE)], np.datetime64(int(key[row] % KEY_STRIDE), "s")
            raise ValueError(
                f"{int(wrong.sum())} rows are not bars: a price not positive, open or close outside [low, high], "
                f"a negative volume, or a duplicate; the first is {symbol} at {at}Z"
            )
        return cls(key, open_, high, low, close, shares, step)

    @property
    def symbol_numbers(self) -> Ints:
        """The symbol number of each row."""
        return self.key // KEY_STRIDE

    @property
    def starts(self) -> Ints:
        """The start of each row, epoch seconds."""
        return self.key % KEY_STRIDE

    def last_rows(self, numbers: Ints, at: int) -> Ints:
        """The row of the newest bar of each number that starts by `at` (epoch seconds); -1 without one."""
        rows = np.searchsorted(self.key, numbers * KEY_STRIDE + at, side="right") - 1
        if not len(self.key):
            return rows
        mine = (rows >= 0) & (self.key[np.maximum(rows, 0)] >= numbers * KEY_STRIDE)
        return np.where(mine, rows, -1)

    def first_rows(self, numbers: Ints, at: int) -> Ints:
        """The row where bars of each number that start at `at` or later begin."""
        return np.searchsorted(self.key, numbers * KEY_STRIDE + at)

    def row_slice(self, number: int, start: int, end: int) -> slice:
        """The rows of `number` that start in [start, end)."""
        low, high = np.searchsorted(
            self.key, number * KEY_STRIDE + np.array([max(start, 0), max(end, start, 0)])
        )
        return slice(int(low), int(high))

    def paths(self, rows: Ints) -> intrabar_path.IntrabarPath:
        """The walks of `rows`; a negative row gives some walk, to be masked by the caller."""
        return intrabar_path.build_path(
            self.open[rows],
            self.high[rows],
            self.low[rows],
            self.close[rows],
            self.volume[rows],
            self.step[self.key[rows] // KEY_STRIDE],
        )

    def extremes(self, begin: Ints, end: Ints) -> tuple[Ints, Ints]:
        """The highest high and lowest low of rows [begin, end); 0 and a huge price for no rows.

        The table must not be empty.
        """
        order = np.argsort(
            begin, kind="stable"
        )  # a reduction over pairs out of order would walk back and forth
        edge = len(self.key) - 1
        pairs = np.minimum(np.stack((begin, np.maximum(end, begin)), axis=1)[order].ravel(), edge)
        high, low = np.empty_like(begin), np.empty_like(begin)
        high[order] = np.maximum.reduceat(self.high, pairs)[::2]
        low[order] = np.minimum.reduceat(self.low, pairs)[::2]
        to_edge = end > edge
        high = np.where(to_edge, np.maximum(high, self.high[edge]), high)
        low = np.where(to_edge, np.minimum(low, self.low[edge]), low)
        full = end > begin
        return np.where(full, high, 0), np.where(full, low, np.iinfo(np.int64).max)


def concatenate_tables(tables: Sequence[BarTable]) -> BarTable:
    """All bars of tables over the same symbol numbers."""
    if len(tables) == 1:
        return tables[0]
    key = np.concatenate([table.key for table in tables])
    order = np.argsort(key, kind="stable")
    open_, high, low, close, volume = (
        np.concatenate([getattr(table, name) for table in tables])[order] for name in (*PRICES, "volume")
    )
    return BarTable(key[order], open_, high, low, close, volume, tables[0].step)
