"""A market with a hand in it: gaps, trades out of nowhere, a tape that stops, quotes that cannot be.

Wraps any market; what is not touched is answered by it. The exchange and the market data API look through the
same wrapper, so that what trades is what is shown.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

import numpy as np

from catalyst.simulator.market import (
    Asset,
    BarColumns,
    Headline,
    Market,
    Print,
    Quote,
    Session,
    SnapshotColumns,
)

CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Gap:
    """From `at` on every price is `factor` times what it would have been."""

    at: datetime
    factor: Decimal


class HandledMarket:
    """A market, and what was done to it by hand."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._gaps: dict[str, list[Gap]] = defaultdict(list)
        self._trades: dict[str, list[Print]] = defaultdict(list)
        self._stopped: dict[str, datetime] = {}
        self._quotes: dict[str, tuple[Decimal, Decimal]] = {}

    # ------------------------------------------------------------------ by hand

    def gap(self, symbol: str, factor: Decimal, at: datetime) -> None:
        """Multiply every price after `at`."""
        self._gaps[symbol].append(Gap(at, factor))

    def trade(self, symbol: str, trade: Print) -> None:
        """Put a trade on the tape; it must be later than everything already looked at."""
        self._trades[symbol].append(trade)
        self._trades[symbol].sort(key=lambda each: each.at)

    def stop(self, symbol: str, at: datetime) -> None:
        """Nothing is heard of the symbol after `at`: no trades, and the quote of that instant for ever."""
        self._stopped[symbol] = at

    def go_on(self, symbol: str) -> None:
        """The tape of the symbol is heard again, and its quotes are its own."""
        self._stopped.pop(symbol, None)
        self._quotes.pop(symbol, None)

    def quotes(self, symbol: str, bid: Decimal, ask: Decimal) -> None:
        """Show this quote from now on, however absurd."""
        self._quotes[symbol] = (bid, ask)

    # ------------------------------------------------------------------ the market

    def assets(self) -> Mapping[str, Asset]:
        return self._market.assets()

    def session(self, day: date) -> Session | None:
        return self._market.session(day)

    def sessions(self, start: date, end: date) -> Sequence[Session]:
        return self._market.sessions(start, end)

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        until = min(until, self._stopped.get(symbol, until))
        told = self._market.prints(symbol, after, until)
        if symbol not in self._gaps and symbol not in self._trades:
            return told
        own = [trade for trade in self._trades[symbol] if after < trade.at <= until]
        return sorted([*(self._moved(symbol, each) for each in told), *own], key=lambda each: each.at)

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        at = min(at, self._stopped.get(symbol, at))
        told = self._market.last_print(symbol, at)
        newest = None if told is None else self._moved(symbol, told)
        for trade in self._trades.get(symbol, ()):
            if trade.at <= at and (newest is None or trade.at >= newest.at):
                newest = trade
        return newest

    def quote(self, symbol: str, at: datetime) -> Quote | None:
        at = min(at, self._stopped.get(symbol, at))
        told = self._market.quote(symbol, at)
        if told is None:
            return None
        if symbol in self._quotes:
            bid, ask = self._quotes[symbol]
            return replace(told, at=at, bid=bid, ask=ask)
        own = [trade for trade in self._trades.get(symbol, ()) if told.at < trade.at <= at]
        if own:
            half = max((told.ask - told.bid) / 2, CENT)
            bid, ask = (own[-1].price - half).quantize(CENT), (own[-1].price + half).quantize(CENT)
            return replace(told, at=own[-1].at, bid=bid, ask=ask)
        factor = self._factor(symbol, at)
        return replace(told, bid=_tick(told.bid * factor), ask=_tick(told.ask * factor))

    def next_print(self, symbol: str, after: datetime) -> datetime | None:
        own = (trade.at for trade in self._trades.get(symbol, ()) if trade.at > after)
        instants = [at for at in (self._market.next_print(symbol, after), *own) if at is not None]
        following = min(instants, default=None)
        stopped = self._stopped.get(symbol)
        return None if following is None or (stopped is not None and following > stopped) else following

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        """As the market's, with the newest trade and quote of touched symbols as they are here."""
        columns = self._market.snapshots(symbols, at)
        touched = self._gaps.keys() | self._trades.keys() | self._stopped.keys() | self._quotes.keys()
        rows = [row for row, symbol in enumerate(columns.symbols) if symbol in touched]
        if not rows:
            return columns
        names = ("trade_at", "trade_price", "trade_size", "quote_at", "bid", "ask", "bid_size", "ask_size")
        own = {name: np.array(getattr(columns, name)) for name in names}
        for row in rows:
            trade, quote = self.last_print(columns.symbols[row], at), self.quote(columns.symbols[row], at)
            if trade is not None:
                own["trade_at"][row] = int(trade.at.timestamp())
                own["trade_price"][row], own["trade_size"][row] = float(trade.price), trade.size
            if quote is not None:
                own["quote_at"][row] = int(quote.at.timestamp())
                own["bid"][row], own["ask"][row] = float(quote.bid), float(quote.ask)
                own["bid_size"][row], own["ask_size"][row] = quote.bid_size, quote.ask_size
        return replace(
            columns,
            trade_at=own["trade_at"],
            trade_price=own["trade_price"],
            trade_size=own["trade_size"],
            quote_at=own["quote_at"],
            bid=own["bid"],
            ask=own["ask"],
            bid_size=own["bid_size"],
            ask_size=own["ask_size"],
        )

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        return self._market.bars(symbol, length, start, end, at)

    def headlines(self, start: datetime, end: datetime, at: datetime) -> Sequence[Headline]:
        return self._market.headlines(start, end, at)

    def _factor(self, symbol: str, at: datetime) -> Decimal:
        factor = Decimal(1)
        for gap in self._gaps.get(symbol, ()):
            if at > gap.at:
                factor *= gap.factor
        return factor

    def _moved(self, symbol: str, trade: Print) -> Print:
        factor = self._factor(symbol, trade.at)
        return trade if factor == 1 else replace(trade, price=_tick(trade.price * factor))


def _tick(price: Decimal) -> Decimal:
    return price.quantize(CENT if price >= 1 else CENT / 100)
