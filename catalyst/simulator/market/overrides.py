"""Market with overrides: price gaps, extra trades, halts, a stopped feed and arbitrary quotes.

Wraps any market; a symbol without an override is answered by the wrapped market. The exchange and the market
data API read one wrapper, so the published data agree with the trades that orders are matched against. From the
first override on, a symbol's bars are made from the trades of this wrapper.
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
    """Every price after `at` is multiplied by `factor`."""

    at: datetime
    factor: Decimal


@dataclass(slots=True)
class SymbolOverride:
    """Overrides of one symbol; after `overridden_from` its trades differ from the market's."""

    gaps: list[PriceGap] = field(default_factory=list)
    trades: list[Print] = field(default_factory=list)
    halts: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    feed_stopped_at: datetime | None = None
    quote: tuple[Decimal, Decimal] | None = None
    reported: ReportedTrades = field(default_factory=ReportedTrades)
    overridden_from: datetime | None = None

    def extend_back_to(self, at: datetime) -> None:
        """Mark the trades after `at` as overridden; an earlier mark stays."""
        self.overridden_from = at if self.overridden_from is None else min(self.overridden_from, at)

    def halt_at(self, at: datetime) -> tuple[datetime, datetime | None] | None:
        """Return the halt (start, end) with start < `at` <= end, or None; an open halt has no end."""
        for start, end in self.halts:
            if start < at and (end is None or at <= end):
                return start, end
        return None

    def price_factor(self, at: datetime) -> Decimal:
        """Return the product of all gaps before `at`."""
        factor = Decimal(1)
        for gap in self.gaps:
            if at > gap.at:
                factor *= gap.factor
        return factor

    def with_gaps(self, trade: Print) -> Print:
        """Return the trade with its price after all gaps, rounded to the tick."""
        factor = self.price_factor(trade.at)
        return trade if factor == 1 else replace(trade, price=_on_tick(trade.price * factor))


class OverriddenMarket:
    """A market with overrides applied."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._overrides: dict[str, SymbolOverride] = {}
        self._applied_announcements = 0

    # ------------------------------------------------------------------ overrides

    def add_gap(self, symbol: str, factor: Decimal, at: datetime) -> None:
        """Multiply every price after `at` by `factor`, also of override trades."""
        override = self._override_of(symbol)
        override.gaps.append(PriceGap(at, factor))
        override.trades = [
            replace(trade, price=_on_tick(trade.price * factor)) if trade.at > at else trade
            for trade in override.trades
        ]
        override.extend_back_to(at)

    def add_trade(self, symbol: str, trade: Print) -> None:
        """Add a trade to the feed; it must be later than everything already read."""
        override = self._override_of(symbol)
        override.trades.append(replace(trade, number=FIRST_OVERRIDE_NUMBER + len(override.trades)))
        override.trades.sort(key=lambda each: each.at)
        override.extend_back_to(trade.at - _INSTANT)

    def stop_feed(self, symbol: str, at: datetime) -> None:
        """Stop the symbol's feed after `at`: no more trades, and the quote of that instant remains."""
        override = self._override_of(symbol)
        override.feed_stopped_at = at
        override.extend_back_to(at)

    def resume_feed(self, symbol: str) -> None:
        """Resume the symbol's feed and its own quotes; the trades of the stopped period appear."""
        override = self._override_of(symbol)
        override.feed_stopped_at = override.quote = None

    def override_quote(self, symbol: str, bid: Decimal, ask: Decimal) -> None:
        """Show this quote from now on; any prices are accepted."""
        self._override_of(symbol).quote = (bid, ask)

    def halt(self, symbol: str, at: datetime) -> None:
        """Halt trading in the symbol after `at`. Trades of a halt never happen, unlike those of a stopped feed."""
        override = self._override_of(symbol)
        if not override.halts or override.halts[-1][1] is not None:
            override.halts.append((at, None))
            override.extend_back_to(at)

    def resume(self, symbol: str, at: datetime) -> None:
        """Resume trading: trades after `at` happen again."""
        halts = self._override_of(symbol).halts
        if halts and halts[-1][1] is None:
            halts[-1] = (halts[-1][0], at)

    def apply_announcements(self, announcements: Announcements) -> None:
        """Apply the announcements published since the last call to the symbols' trades."""
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

    # ------------------------------------------------------------------ Market

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
        added = [trade for trade in override.trades if after < trade.at <= until]
        return sorted([*original, *added], key=lambda each: each.at) if added else original

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
        added = [trade for trade in override.trades if original.at < trade.at <= at]
        if added:
            half_spread = max((original.ask - original.bid) / 2, CENT)
            bid, ask = (
                (added[-1].price - half_spread).quantize(CENT),
                (added[-1].price + half_spread).quantize(CENT),
            )
            return replace(original, at=added[-1].at, bid=bid, ask=ask)
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
        added = (trade.at for trade in override.trades if trade.at > after)
        following = min((at for at in (original, *added) if at is not None), default=None)
        after_feed_stop = (
            following is not None
            and override.feed_stopped_at is not None
            and following > override.feed_stopped_at
        )
        return None if after_feed_stop else following

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        override_bars = self._override_bars(symbol, at)
        if override_bars is None:
            return self._market.bars(symbol, length, start, end, at)
        return override_bars.bars(length, start, end)

    def _override_bars(self, symbol: str, at: datetime) -> OverrideBars | None:
        """Return the bars of an overridden symbol as of `at`; None when the market's own bars apply."""
        override = self._overrides.get(symbol)
        if override is None or override.overridden_from is None or at <= override.overridden_from:
            return None
        return OverrideBars(self._market, self.trades, symbol, override.overridden_from, at)

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        """Return the market's snapshots, with trade, quote and bars of overridden symbols replaced."""
        columns = self._market.snapshots(symbols, at)
        rows = [row for row, symbol in enumerate(columns.symbols) if symbol in self._overrides]
        if not rows:
            return columns
        names = ("trade_at", "trade_price", "trade_size", "quote_at", "bid", "ask", "bid_size", "ask_size")
        quote_columns = {name: np.array(getattr(columns, name)) for name in names}
        numbers = columns.trade_number
        quote_columns["trade_number"] = (
            np.zeros(len(columns.symbols), dtype=np.int64) if numbers is None else +numbers
        )
        parts = {name: copy_bars(getattr(columns, name)) for name in ("minute", "daily", "previous")}
        for row in rows:
            symbol = columns.symbols[row]
            trade, quote = self.last_print(symbol, at), self.quote(symbol, at)
            if trade is not None:
                quote_columns["trade_at"][row] = int(trade.at.timestamp())
                quote_columns["trade_price"][row], quote_columns["trade_size"][row] = (
                    float(trade.price),
                    trade.size,
                )
                quote_columns["trade_number"][row] = trade.number
            if quote is not None:
                quote_columns["quote_at"][row] = int(quote.at.timestamp())
                quote_columns["bid"][row], quote_columns["ask"][row] = float(quote.bid), float(quote.ask)
                quote_columns["bid_size"][row], quote_columns["ask_size"][row] = (
                    quote.bid_size,
                    quote.ask_size,
                )
            override_bars = self._override_bars(symbol, at)
            if override_bars is not None:
                for name, bar in override_bars.snapshot_bars().items():
                    write_row(parts[name], row, bar)
        return replace(
            columns,
            trade_at=quote_columns["trade_at"],
            trade_price=quote_columns["trade_price"],
            trade_size=quote_columns["trade_size"],
            trade_number=quote_columns["trade_number"],
            quote_at=quote_columns["quote_at"],
            bid=quote_columns["bid"],
            ask=quote_columns["ask"],
            bid_size=quote_columns["bid_size"],
            ask_size=quote_columns["ask_size"],
            minute=parts["minute"],
            daily=parts["daily"],
            previous=parts["previous"],
        )


def _on_tick(price: Decimal) -> Decimal:
    return price.quantize(CENT if price >= 1 else CENT / 100)
