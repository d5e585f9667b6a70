"""The little that the trading half of the exchange asks of a market."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Protocol

from catalyst.simulator.market.interface import Asset, BestQuote, MarketSession, Print


class TradingFeed(Protocol):
    """A calendar, the listings, the trades and the quotes. Every answer for `at` is about the past of `at`."""

    def assets(self) -> Mapping[str, Asset]: ...

    def session(self, day: date) -> MarketSession | None: ...

    def sessions(self, start: date, end: date) -> Sequence[MarketSession]: ...

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]: ...

    def last_print(self, symbol: str, at: datetime) -> Print | None: ...

    def quote(self, symbol: str, at: datetime) -> BestQuote | None: ...

    def next_print_time(self, symbol: str, after: datetime) -> datetime | None: ...
