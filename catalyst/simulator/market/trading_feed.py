"""Trading feed: the part of the market interface that the exchange uses to match orders."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Protocol

from catalyst.simulator.market.interface import Asset, BestQuote, MarketSession, Print


class TradingFeed(Protocol):
    """Calendar, listings, trades and quotes. An answer for `at` contains nothing after `at`."""

    def assets(self) -> Mapping[str, Asset]: ...

    def session(self, day: date) -> MarketSession | None: ...

    def sessions(self, start: date, end: date) -> Sequence[MarketSession]: ...

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]: ...

    def last_print(self, symbol: str, at: datetime) -> Print | None: ...

    def quote(self, symbol: str, at: datetime) -> BestQuote | None: ...

    def next_print_time(self, symbol: str, after: datetime) -> datetime | None: ...
