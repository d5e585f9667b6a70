"""Recorded bids and offers of one symbol.

Where trades and quotes are both known by the second, the recorded quote stands as it is, one-sided or crossed
if it was. Where either is coarser, the path inside a trade bar is invented and would cross a real quote: then
only the recorded spread is used, laid around the newest print as the spread model lays its own. Inside a quote
bar longer than a second the bar's opening quote stands; its closing one from the bar's end on.
"""

from dataclasses import dataclass

import numpy as np

from catalyst.simulator.market.interface import Ints
from catalyst.simulator.market.intrabar_path import CENT, UNITS

QuoteRow = tuple[int, int, int, int, int]  # since, bid, ask, bid size, ask size


@dataclass(frozen=True, slots=True)
class RecordedQuotes:
    """Quote bars of `step` seconds in time order: epoch seconds, price units (0: no such side), shares."""

    step: int
    exact: bool
    times: Ints
    bid_open: Ints
    ask_open: Ints
    bid_close: Ints
    ask_close: Ints
    bid_size: Ints
    ask_size: Ints

    def quote_at(self, second: int, midnight: int, last: int, modelled: QuoteRow) -> QuoteRow:
        """The quote at `second` around the newest print `last`; the model's when nothing was recorded today."""
        row = int(np.searchsorted(self.times, second, side="right")) - 1
        if row < 0 or self.times[row] < midnight:
            return modelled
        within = self.step > 1 and second < self.times[row] + self.step
        bid, ask = (
            (self.bid_open[row], self.ask_open[row]) if within else (self.bid_close[row], self.ask_close[row])
        )
        sizes = int(self.bid_size[row]), int(self.ask_size[row])
        if self.exact:
            return int(self.times[row]), int(bid), int(ask), *sizes
        if bid <= 0 or ask <= bid:
            return modelled
        return modelled[0], *quote_around(last, int(ask - bid), modelled[0]), *sizes

    def closing_quote(self, row: int) -> QuoteRow:
        """The quote that row ends with."""
        sides = int(self.bid_close[row]), int(self.ask_close[row])
        return int(self.times[row]), *sides, int(self.bid_size[row]), int(self.ask_size[row])

    def between(self, after: int, until: int) -> range:
        """The rows that begin in (after, until]."""
        begin, end = np.searchsorted(self.times, [after, until], side="right")
        return range(int(begin), int(end))


def quote_around(last: int, width: int, since: int) -> tuple[int, int]:
    """A bid and an offer `width` apart with the print `last` between them or on one of them, on the tick."""
    grid = CENT if last >= UNITS else 1
    below, above = last // grid * grid, -(-last // grid) * grid
    rest = max(max(round(width / grid), 1) - (above - below) // grid, 0)
    lower = (rest + since % 2) // 2
    return max(below - lower * grid, 1), max(above + (rest - lower) * grid, below + grid)
