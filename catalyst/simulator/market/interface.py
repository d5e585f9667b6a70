"""Market interface: the data that the simulated exchange and the market data API read, recorded or synthetic.

Every answer is a function of an instant: an answer for `at` contains nothing that happened after `at`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Print:
    """One trade on the trading feed; `size` in shares. `number` distinguishes trades of one second.

    `update` is a later change of the trade: "canceled", "incorrect" (replaced by another trade) or "corrected"
    (replaces another trade); empty for nearly all trades.
    """

    at: datetime
    price: Decimal
    size: int
    number: int = 0
    update: str = ""

    @property
    def is_valid(self) -> bool:
        """Return false when the trade was cancelled or replaced."""
        return self.update in ("", "corrected")


@dataclass(frozen=True, slots=True)
class BestQuote:
    """The best bid and ask from `at` on, until the next quote; sizes in shares."""

    at: datetime
    bid: Decimal
    ask: Decimal
    bid_size: int
    ask_size: int


@dataclass(frozen=True, slots=True)
class Asset:
    """A listing in the form of the broker's asset record."""

    id: str
    symbol: str
    name: str
    exchange: str
    tradable: bool
    shortable: bool
    easy_to_borrow: bool
    fractionable: bool
    marginable: bool
    status: str


@dataclass(frozen=True, slots=True)
class MarketSession:
    """One regular trading session; `open` and `close` in UTC."""

    day: date
    open: datetime
    close: datetime


@dataclass(frozen=True, slots=True)
class NewsArticle:
    """One news article; visible from `published` on."""

    id: int
    published: datetime
    title: str
    summary: str
    source: str
    url: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BarColumns:
    """Bars of one or many symbols, one per row: `starts` in epoch seconds, prices in dollars, volume in shares."""

    starts: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Ints
    vwap: Floats
    trades: Ints


@dataclass(frozen=True, slots=True)
class SnapshotColumns:
    """One row per requested symbol, as of one instant. A part with a negative `*_at` or `starts` is missing."""

    symbols: Sequence[str]
    trade_at: Ints  # epoch seconds
    trade_price: Floats
    trade_size: Ints
    quote_at: Ints  # epoch seconds
    bid: Floats
    ask: Floats
    bid_size: Ints
    ask_size: Ints
    minute: BarColumns
    daily: BarColumns
    previous: BarColumns
    trade_number: Ints | None = None  # `Print.number`; None where all are 0


class Market(Protocol):
    """A market as the simulated exchange reads it. An unknown symbol has no prints, no quote and no bars."""

    def assets(self) -> Mapping[str, Asset]:
        """Return every listing by symbol."""
        ...

    def session(self, day: date) -> MarketSession | None:
        """Return the regular session of `day`; None when the exchange is closed."""
        ...

    def sessions(self, start: date, end: date) -> Sequence[MarketSession]:
        """Return the regular sessions of [start, end], in order."""
        ...

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        """Return the trades of (after, until] as they happened, in time order; orders are matched against them."""
        ...

    def trades(self, symbol: str, after: datetime, until: datetime, at: datetime) -> Sequence[Print]:
        """Return the trades of (after, until] as published at `at`: late trades and corrections are included."""
        ...

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        """Return the newest trade not after `at`."""
        ...

    def quote(self, symbol: str, at: datetime) -> BestQuote | None:
        """Return the best bid and ask at `at`."""
        ...

    def quotes(self, symbol: str, after: datetime, until: datetime) -> Sequence[BestQuote]:
        """Return the quotes of (after, until], in time order: recorded ones, or else the quote at each trade."""
        ...

    def next_print_time(self, symbol: str, after: datetime) -> datetime | None:
        """Return the instant of the first trade after `after`; None when the feed ends before one."""
        ...

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        """Return snapshots as of `at` for those of `symbols` that are listed, in the requested order."""
        ...

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        """Return the bars of `length` that start in [start, end], as of `at`, in time order.

        Bars shorter than a day: finished ones only (their end is not after `at`). Daily bars: the running one
        too.
        """
        ...

    def headlines(self, start: datetime, end: datetime, at: datetime) -> Sequence[NewsArticle]:
        """Return the articles published in [start, end] and not after `at`, in time order."""
        ...
