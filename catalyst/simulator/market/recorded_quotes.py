"""Recorded bids and asks of one symbol.

When trades and quotes are both recorded by the second, the recorded quote is used as it is, even one-sided or
crossed. When either is coarser, the path inside a trade bar is modelled and would cross a real quote. Then only
the recorded spread is used, placed around the newest print as the spread model does. Inside a quote bar longer
than a second, the bar's opening quote applies; from the bar's end on, its closing quote.
"""

from dataclasses import dataclass

import numpy as np

from catalyst.simulator.market.interface import Ints
from catalyst.simulator.market.intrabar_path import CENT, UNITS

QuoteRow = tuple[int, int, int, int, int]  # since (epoch seconds), bid, ask (units), bid size, ask size


@dataclass(frozen=True, slots=True)
class RecordedQuotes:
    """Quote bars of `step` seconds in time order: epoch seconds, price units (0: the side is missing), shares."""

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
        """Return the quote at `second` around the newest print `last`.

        Returns `modelled` when nothing was recorded today, or when a recorded quote that is not `exact` has no
        spread.
        """
        row = int(np.searchsorted(self.times, second, side="right")) - 1
        if row < 0 or self.times[row] < midnight:
            return modelled
        inside_bar = self.step > 1 and second < self.times[row] + self.step
        bid, ask = (
            (self.bid_open[row], self.ask_open[row])
            if inside_bar
            else (self.bid_close[row], self.ask_close[row])
        )
        sizes = int(self.bid_size[row]), int(self.ask_size[row])
        if self.exact:
            return int(self.times[row]), int(bid), int(ask), *sizes
        if bid <= 0 or ask <= bid:
            return modelled
        return modelled[0], *quote_around(last, int(ask - bid), modelled[0]), *sizes

    def closing_quote(self, row: int) -> QuoteRow:
        """Return the quote at the end of bar `row`."""
        sides = int(self.bid_close[row]), int(self.ask_close[row])
        return int(self.times[row]), *sides, int(self.bid_size[row]), int(self.ask_size[row])

    def between(self, after: int, until: int) -> range:
        """Return the rows that begin in (after, until]."""
        begin, end = np.searchsorted(self.times, [after, until], side="right")
        return range(int(begin), int(end))


def quote_around(last: int, width: int, since: int) -> tuple[int, int]:
    """Return a bid and an ask on the tick, `width` apart, with the print `last` between them or on one of them."""
    tick = CENT if last >= UNITS else 1
    below, above = last // tick * tick, -(-last // tick) * tick
    extra_ticks = max(max(round(width / tick), 1) - (above - below) // tick, 0)
    ticks_below = (extra_ticks + since % 2) // 2
    return max(below - ticks_below * tick, 1), max(above + (extra_ticks - ticks_below) * tick, below + tick)
