"""A market with a hand in it: gaps, trades out of nowhere, halts, a tape that stops, quotes that cannot be.

Wraps any market; what is not touched is answered by it. The exchange and the market data API look through the
same wrapper, so that what trades is what is shown: from the first touch on, a symbol's bars are made from the
trades that are heard here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

import numpy as np

from catalyst.simulator.market.announcements import (
    Announcements,
    LateTrade,
    TradeCancel,
    TradeCorrection,
    TradingStatus,
)
from catalyst.simulator.market.interface import (
    Asset,
    BarColumns,
    BestQuote,
    Market,
    MarketSession,
    NewsArticle,
    Print,
    SnapshotColumns,
)
from catalyst.simulator.market.override_bars import FIRST_OVERRIDE_NUMBER, OverrideBars, ReportedTrades
from catalyst.simulator.market.snapshots import copy_bars, write_row

CENT: Final = Decimal("0.01")
_INSTANT: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class PriceGap:
    """From `at` on every price is `factor` times what it would have been."""

    at: datetime
    factor: Decimal


@dataclass(slots=True)
class SymbolOverride:
    """Overrides of one symbol; from `since` on its trades differ from the market's."""

    gaps: list[PriceGap] = field(default_factory=list)
    trades: list[Print] = field(default_factory=list)
    halts: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    feed_stopped_at: datetime | None = None
    quote: tuple[Decimal, Decimal] | None = None
    reported: ReportedTrades = field(default_factory=ReportedTrades)
    overridden_from: datetime | None = None

    def extend_back_to(self, at: datetime) -> None:
        """Trades after `at` are this hand's."""
        self.overridden_from = at if self.overridden_from is None else min(self.overridden_from, at)

    def halt_at(self, at: datetime) -> tuple[datetime, datetime | None] | None:
        """The halt in which `at` lies: from the instant after its first to its last."""
        for began, ended in self.halts:
            if began < at and (ended is None or at <= ended):
                return began, ended
        return None

    def price_factor(self, at: datetime) -> Decimal:
        factor = Decimal(1)
        for gap in self.gaps:
            if at > gap.at:
                factor *= gap.factor
        return factor

    def with_gaps(self, trade: Print) -> Print:
        factor = self.price_factor(trade.at)
        return trade if factor == 1 else replace(trade, price=_on_tick(trade.price * factor))


class OverriddenMarket:
    """A market, and what was done to it by hand."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._overrides: dict[str, SymbolOverride] = {}
        self._applied_announcements = 0

    # ------------------------------------------------------------------ by hand

    def add_gap(self, symbol: str, factor: Decimal, at: datetime) -> None:
        """Multiply every price after `at`, of trades made by hand too."""
        override = self._override_of(symbol)
        override.gaps.append(PriceGap(at, factor))
        override.trades = [
            replace(trade, price=_on_tick(trade.price * factor)) if trade.at > at else trade
            for trade in override.trades
        ]
        override.extend_back_to(at)

    def add_trade(self, symbol: str, trade: Print) -> None:
        """Put a trade on the tape; it must be later than everything already looked at."""
        override = self._override_of(symbol)
        override.trades.append(replace(trade, number=FIRST_OVERRIDE_NUMBER + len(override.trades)))
        override.trades.sort(key=lambda each: each.at)
        override.extend_back_to(trade.at - _INSTANT)

    def stop_feed(self, symbol: str, at: datetime) -> None:
        """Nothing is heard of the symbol after `at`: no trades, and the quote of that instant for ever."""
        override = self._override_of(symbol)
        override.feed_stopped_at = at
        override.extend_back_to(at)

    def resume_feed(self, symbol: str) -> None:
        """The tape of the symbol is heard again, and its quotes are its own."""
        override = self._override_of(symbol)
        override.feed_stopped_at = override.quote = None

    def override_quote(self, symbol: str, bid: Decimal, ask: Decimal) -> None:
        """Show this quote from now on, however absurd."""
        self._override_of(symbol).quote = (bid, ask)

    def halt(self, symbol: str, at: datetime) -> None:
        """Nobody trades the symbol after `at`; unlike a tape that stops, what would have traded never did."""
        override = self._override_of(symbol)
        if not override.halts or override.halts[-1][1] is not None:
            override.halts.append((at, None))
            override.extend_back_to(at)

    def resume(self, symbol: str, at: datetime) -> None:
        """Trades after `at` happen again."""
        halts = self._override_of(symbol).halts
        if halts and halts[-1][1] is None:
            halts[-1] = (halts[-1][0], at)

    def apply_announcements(self, announcements: Announcements) -> None:
        """Let the tape be what was announced since the last time."""
        for announcement in announcements.published[self._applied_announcements :]:
            match announcement:
                case TradingStatus(halted=True):
                    self.halt(announcement.symbol, announcement.at)
                case TradingStatus():
                    self.resume(announcement.symbol, announcement.at)
                case LateTrade():
                    override = self._override_of(announcement.symbol)
                    override.reported.late.append((announcement.at, announcement.trade))
                    override.extend_back_to(announcement.trade.at - _INSTANT)
                case TradeCancel() | TradeCorrection():
                    override = self._override_of(announcement.symbol)
                    override.reported.apply_correction(announcement)
                    override.extend_back_to(announcement.trade.at - _SECOND)
        self._applied_announcements = len(announcements.published)

    def _override_of(self, symbol: str) -> SymbolOverride:
        return self._overrides.setdefault(symbol, SymbolOverride())

    # ------------------------------------------------------------------ the market

    def assets(self) -> Mapping[str, Asset]:
        return self._market.assets()

    def session(self, day: date) -> MarketSession | None:
        return self._market.session(day)

    def sessions(self, start: date, end: date) -> Sequence[MarketSession]:
        return self._market.sessions(start, end)

    def headlines(self, start: datetime, end: datetime, at: datetime) -> Sequence[NewsArticle]:
        return self._market.headlines(start, end, at)

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        override = self._overrides.get(symbol)
        if override is None:
            return self._market.prints(symbol, after, until)
        until = min(until, override.feed_stopped_at or until)
        original = [
            override.with_gaps(each)
            for each in self._market.prints(symbol, after, until)
            if override.halt_at(each.at) is None
        ]
        own = [trade for trade in override.trades if after < trade.at <= until]
        return sorted([*original, *own], key=lambda each: each.at) if own else original

    def trades(self, symbol: str, after: datetime, until: datetime, at: datetime) -> Sequence[Print]:
        original = self.prints(symbol, after, min(until, at))
        override = self._overrides.get(symbol)
        return original if override is None else override.reported.trades_as_of(original, after, until, at)

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        override = self._overrides.get(symbol)
        if override is None:
            return self._market.last_print(symbol, at)
        at = min(at, override.feed_stopped_at or at)
        original = self._market.last_print(symbol, at)
        while original is not None and (halt := override.halt_at(original.at)) is not None:
            original = self._market.last_print(symbol, halt[0])
        newest = None if original is None else override.with_gaps(original)
        for trade in override.trades:
            if trade.at <= at and (newest is None or trade.at >= newest.at):
                newest = trade
        return newest

    def quote(self, symbol: str, at: datetime) -> BestQuote | None:
        override = self._overrides.get(symbol)
        if override is None:
            return self._market.quote(symbol, at)
        at = min(at, override.feed_stopped_at or at)
        halt = override.halt_at(at)
        original = self._market.quote(symbol, at if halt is None else halt[0])
        if original is None:
            return None
        if override.quote is not None:
            return replace(original, at=at, bid=override.quote[0], ask=override.quote[1])
        own = [trade for trade in override.trades if original.at < trade.at <= at]
        if own:
            half = max((original.ask - original.bid) / 2, CENT)
            bid, ask = (own[-1].price - half).quantize(CENT), (own[-1].price + half).quantize(CENT)
            return replace(original, at=own[-1].at, bid=bid, ask=ask)
        factor = override.price_factor(at)
        return replace(original, bid=_on_tick(original.bid * factor), ask=_on_tick(original.ask * factor))

    def quotes(self, symbol: str, after: datetime, until: datetime) -> Sequence[BestQuote]:
        if symbol not in self._overrides:
            return self._market.quotes(symbol, after, until)
        instants = dict.fromkeys(trade.at for trade in self.prints(symbol, after, until))
        at_trades = (self.quote(symbol, at) for at in instants)
        return [quote for quote in at_trades if quote is not None]

    def next_print_time(self, symbol: str, after: datetime) -> datetime | None:
        override = self._overrides.get(symbol)
        if override is None:
            return self._market.next_print_time(symbol, after)
        original = self._market.next_print_time(symbol, after)
        while original is not None and (halt := override.halt_at(original)) is not None:
            original = None if halt[1] is None else self._market.next_print_time(symbol, halt[1])
        own = (trade.at for trade in override.trades if trade.at > after)
        following = min((at for at in (original, *own) if at is not None), default=None)
        late = (
            following is not None
            and override.feed_stopped_at is not None
            and following > override.feed_stopped_at
        )
        return None if late else following

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        made = self._override_bars(symbol, at)
        if made is None:
            return self._market.bars(symbol, length, start, end, at)
        return made.bars(length, start, end)

    def _override_bars(self, symbol: str, at: datetime) -> OverrideBars | None:
        """Who makes the symbol's bars as of `at`; None when they are the market's own."""
        override = self._overrides.get(symbol)
        if override is None or override.overridden_from is None or at <= override.overridden_from:
            return None
        return OverrideBars(self._market, self.trades, symbol, override.overridden_from, at)

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        """As the market's, with everything about touched symbols as it is here."""
        columns = self._market.snapshots(symbols, at)
        rows = [row for row, symbol in enumerate(columns.symbols) if symbol in self._overrides]
        if not rows:
            return columns
        names = ("trade_at", "trade_price", "trade_size", "quote_at", "bid", "ask", "bid_size", "ask_size")
        own = {name: np.array(getattr(columns, name)) for name in names}
        numbers = columns.trade_number
        own["trade_number"] = np.zeros(len(columns.symbols), dtype=np.int64) if numbers is None else +numbers
        parts = {name: copy_bars(getattr(columns, name)) for name in ("minute", "daily", "previous")}
        for row in rows:
            symbol = columns.symbols[row]
            trade, quote = self.last_print(symbol, at), self.quote(symbol, at)
            if trade is not None:
                own["trade_at"][row] = int(trade.at.timestamp())
                own["trade_price"][row], own["trade_size"][row] = float(trade.price), trade.size
                own["trade_number"][row] = trade.number
            if quote is not None:
                own["quote_at"][row] = int(quote.at.timestamp())
                own["bid"][row], own["ask"][row] = float(quote.bid), float(quote.ask)
                own["bid_size"][row], own["ask_size"][row] = quote.bid_size, quote.ask_size
            made = self._override_bars(symbol, at)
            if made is not None:
                for name, bar in made.snapshot_bars().items():
                    write_row(parts[name], row, bar)
        return replace(
            columns,
            trade_at=own["trade_at"],
            trade_price=own["trade_price"],
            trade_size=own["trade_size"],
            trade_number=own["trade_number"],
            quote_at=own["quote_at"],
            bid=own["bid"],
            ask=own["ask"],
            bid_size=own["bid_size"],
            ask_size=own["ask_size"],
            minute=parts["minute"],
            daily=parts["daily"],
            previous=parts["previous"],
        )


def _on_tick(price: Decimal) -> Decimal:
    return price.quantize(CENT if price >= 1 else CENT / 100)
