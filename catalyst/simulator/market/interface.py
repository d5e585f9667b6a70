"""What the exchange may ask of a market, whoever made it: recorded bars and generated ones answer alike.

Everything is a function of an instant: nothing an answer for `at` contains happened after `at`.
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
    """One trade on the tape; `size` in shares. `number` tells it from others of the same second.

    `update` is what became of it since: "canceled", "incorrect" (another replaced it) or "corrected" (it
    replaced another); empty for nearly all.
    """

    at: datetime
    price: Decimal
    size: int
    number: int = 0
    update: str = ""

    @property
    def is_valid(self) -> bool:
        """False once it was taken back."""
        return self.update in ("", "corrected")


@dataclass(frozen=True, slots=True)
class BestQuote:
    """The best bid and offer from `at` on, until the next one; sizes in shares."""

    at: datetime
    bid: Decimal
    ask: Decimal
    bid_size: int
    ask_size: int


@dataclass(frozen=True, slots=True)
class Asset:
    """A listing as the broker describes it."""

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
    """One article; visible from `published` on."""

    id: int
    published: datetime
    title: str
    summary: str
    source: str
    url: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BarColumns:
    """Bars of one or many symbols, one per row: `starts` in epoch seconds, prices in dollars, shares."""

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
    """One row per asked symbol, as of one instant; a part whose `*_at`/`starts` is negative is unknown."""

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
    """A market as the exchange sees it. An unknown symbol has no prints, no quote and no bars."""

    def assets(self) -> Mapping[str, Asset]:
        """Every listing by symbol."""
        ...

    def session(self, day: date) -> MarketSession | None:
        """The regular session of `day`; None when the exchange is closed."""
        ...

    def sessions(self, start: date, end: date) -> Sequence[MarketSession]:
        """The regular sessions of [start, end], in order."""
        ...

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        """The trades of (after, until], in time order, as they happened: what orders meet."""
        ...

    def trades(self, symbol: str, after: datetime, until: datetime, at: datetime) -> Sequence[Print]:
        """The trades of (after, until], in time order, as told at `at`: late ones and corrections included."""
        ...

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        """The newest trade not after `at`."""
        ...

    def quote(self, symbol: str, at: datetime) -> BestQuote | None:
        """The best bid and offer at `at`."""
        ...

    def quotes(self, symbol: str, after: datetime, until: datetime) -> Sequence[BestQuote]:
        """The quotes of (after, until], in time order: those recorded, else those that stood at each trade."""
        ...

    def next_print_time(self, symbol: str, after: datetime) -> datetime | None:
        """When the first trade after `after` happens; None when the tape ends before."""
        ...

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        """The known ones of `symbols`, in the asked order, as of `at`."""
        ...

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        """The bars of `length` that start in [start, end], as of `at`, in time order.

        Shorter than a day: finished ones only (their end is not after `at`). Of a day: the running one too.
        """
        ...

    def headlines(self, start: datetime, end: datetime, at: datetime) -> Sequence[NewsArticle]:
        """The articles published in [start, end] and by `at`, in time order."""
        ...
