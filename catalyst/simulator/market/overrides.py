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

from catalyst.simulator.market.announcements import Corrected, LateTrade, Notices, TradingStatus, Withdrawn
from catalyst.simulator.market.interface import (
    Asset,
    BarColumns,
    Headline,
    Market,
    Print,
    Quote,
    Session,
    SnapshotColumns,
)
from catalyst.simulator.market.override_bars import OWN_NUMBERS, HandMade, ToldTrades
from catalyst.simulator.market.snapshots import copied, put

CENT: Final = Decimal("0.01")
_INSTANT: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Gap:
    """From `at` on every price is `factor` times what it would have been."""

    at: datetime
    factor: Decimal


@dataclass(slots=True)
class Hand:
    """What was done to one symbol; `since` is from when on its trades differ from the market's."""

    gaps: list[Gap] = field(default_factory=list)
    trades: list[Print] = field(default_factory=list)
    halts: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    stopped: datetime | None = None
    quote: tuple[Decimal, Decimal] | None = None
    told: ToldTrades = field(default_factory=ToldTrades)
    since: datetime | None = None

    def touch(self, at: datetime) -> None:
        """Trades after `at` are this hand's."""
        self.since = at if self.since is None else min(self.since, at)

    def silence(self, at: datetime) -> tuple[datetime, datetime | None] | None:
        """The halt in which `at` lies: from the instant after its first to its last."""
        for began, ended in self.halts:
            if began < at and (ended is None or at <= ended):
                return began, ended
        return None

    def factor(self, at: datetime) -> Decimal:
        factor = Decimal(1)
        for gap in self.gaps:
            if at > gap.at:
                factor *= gap.factor
        return factor

    def moved(self, trade: Print) -> Print:
        factor = self.factor(trade.at)
        return trade if factor == 1 else replace(trade, price=_tick(trade.price * factor))


class HandledMarket:
    """A market, and what was done to it by hand."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._hands: dict[str, Hand] = {}
        self._heard = 0

    # ------------------------------------------------------------------ by hand

    def gap(self, symbol: str, factor: Decimal, at: datetime) -> None:
        """Multiply every price after `at`, of trades made by hand too."""
        hand = self._hand(symbol)
        hand.gaps.append(Gap(at, factor))
        hand.trades = [
            replace(trade, price=_tick(trade.price * factor)) if trade.at > at else trade
            for trade in hand.trades
        ]
        hand.touch(at)

    def trade(self, symbol: str, trade: Print) -> None:
        """Put a trade on the tape; it must be later than everything already looked at."""
        hand = self._hand(symbol)
        hand.trades.append(replace(trade, number=OWN_NUMBERS + len(hand.trades)))
        hand.trades.sort(key=lambda each: each.at)
        hand.touch(trade.at - _INSTANT)

    def stop(self, symbol: str, at: datetime) -> None:
        """Nothing is heard of the symbol after `at`: no trades, and the quote of that instant for ever."""
        hand = self._hand(symbol)
        hand.stopped = at
        hand.touch(at)

    def go_on(self, symbol: str) -> None:
        """The tape of the symbol is heard again, and its quotes are its own."""
        hand = self._hand(symbol)
        hand.stopped = hand.quote = None

    def show(self, symbol: str, bid: Decimal, ask: Decimal) -> None:
        """Show this quote from now on, however absurd."""
        self._hand(symbol).quote = (bid, ask)

    def halt(self, symbol: str, at: datetime) -> None:
        """Nobody trades the symbol after `at`; unlike a tape that stops, what would have traded never did."""
        hand = self._hand(symbol)
        if not hand.halts or hand.halts[-1][1] is not None:
            hand.halts.append((at, None))
            hand.touch(at)

    def resume(self, symbol: str, at: datetime) -> None:
        """Trades after `at` happen again."""
        halts = self._hand(symbol).halts
        if halts and halts[-1][1] is None:
            halts[-1] = (halts[-1][0], at)

    def heed(self, notices: Notices) -> None:
        """Let the tape be what was announced since the last time."""
        for notice in notices.said[self._heard :]:
            match notice:
                case TradingStatus(halted=True):
                    self.halt(notice.symbol, notice.at)
                case TradingStatus():
                    self.resume(notice.symbol, notice.at)
                case LateTrade():
                    hand = self._hand(notice.symbol)
                    hand.told.late.append((notice.at, notice.trade))
                    hand.touch(notice.trade.at - _INSTANT)
                case Withdrawn() | Corrected():
                    hand = self._hand(notice.symbol)
                    hand.told.take_back(notice)
                    hand.touch(notice.trade.at - _SECOND)
        self._heard = len(notices.said)

    def _hand(self, symbol: str) -> Hand:
        return self._hands.setdefault(symbol, Hand())

    # ------------------------------------------------------------------ the market

    def assets(self) -> Mapping[str, Asset]:
        return self._market.assets()

    def session(self, day: date) -> Session | None:
        return self._market.session(day)

    def sessions(self, start: date, end: date) -> Sequence[Session]:
        return self._market.sessions(start, end)

    def headlines(self, start: datetime, end: datetime, at: datetime) -> Sequence[Headline]:
        return self._market.headlines(start, end, at)

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        hand = self._hands.get(symbol)
        if hand is None:
            return self._market.prints(symbol, after, until)
        until = min(until, hand.stopped or until)
        told = [
            hand.moved(each)
            for each in self._market.prints(symbol, after, until)
            if hand.silence(each.at) is None
        ]
        own = [trade for trade in hand.trades if after < trade.at <= until]
        return sorted([*told, *own], key=lambda each: each.at) if own else told

    def trades(self, symbol: str, after: datetime, until: datetime, at: datetime) -> Sequence[Print]:
        told = self.prints(symbol, after, min(until, at))
        hand = self._hands.get(symbol)
        return told if hand is None else hand.told.told(told, after, until, at)

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        hand = self._hands.get(symbol)
        if hand is None:
            return self._market.last_print(symbol, at)
        at = min(at, hand.stopped or at)
        told = self._market.last_print(symbol, at)
        while told is not None and (silence := hand.silence(told.at)) is not None:
            told = self._market.last_print(symbol, silence[0])
        newest = None if told is None else hand.moved(told)
        for trade in hand.trades:
            if trade.at <= at and (newest is None or trade.at >= newest.at):
                newest = trade
        return newest

    def quote(self, symbol: str, at: datetime) -> Quote | None:
        hand = self._hands.get(symbol)
        if hand is None:
            return self._market.quote(symbol, at)
        at = min(at, hand.stopped or at)
        silence = hand.silence(at)
        told = self._market.quote(symbol, at if silence is None else silence[0])
        if told is None:
            return None
        if hand.quote is not None:
            return replace(told, at=at, bid=hand.quote[0], ask=hand.quote[1])
        own = [trade for trade in hand.trades if told.at < trade.at <= at]
        if own:
            half = max((told.ask - told.bid) / 2, CENT)
            bid, ask = (own[-1].price - half).quantize(CENT), (own[-1].price + half).quantize(CENT)
            return replace(told, at=own[-1].at, bid=bid, ask=ask)
        factor = hand.factor(at)
        return replace(told, bid=_tick(told.bid * factor), ask=_tick(told.ask * factor))

    def quotes(self, symbol: str, after: datetime, until: datetime) -> Sequence[Quote]:
        if symbol not in self._hands:
            return self._market.quotes(symbol, after, until)
        instants = dict.fromkeys(trade.at for trade in self.prints(symbol, after, until))
        at_trades = (self.quote(symbol, at) for at in instants)
        return [quote for quote in at_trades if quote is not None]

    def next_print(self, symbol: str, after: datetime) -> datetime | None:
        hand = self._hands.get(symbol)
        if hand is None:
            return self._market.next_print(symbol, after)
        told = self._market.next_print(symbol, after)
        while told is not None and (silence := hand.silence(told)) is not None:
            told = None if silence[1] is None else self._market.next_print(symbol, silence[1])
        own = (trade.at for trade in hand.trades if trade.at > after)
        following = min((at for at in (told, *own) if at is not None), default=None)
        late = following is not None and hand.stopped is not None and following > hand.stopped
        return None if late else following

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        made = self._hand_made(symbol, at)
        if made is None:
            return self._market.bars(symbol, length, start, end, at)
        return made.bars(length, start, end)

    def _hand_made(self, symbol: str, at: datetime) -> HandMade | None:
        """Who makes the symbol's bars as of `at`; None when they are the market's own."""
        hand = self._hands.get(symbol)
        if hand is None or hand.since is None or at <= hand.since:
            return None
        return HandMade(self._market, self.trades, symbol, hand.since, at)

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        """As the market's, with everything about touched symbols as it is here."""
        columns = self._market.snapshots(symbols, at)
        rows = [row for row, symbol in enumerate(columns.symbols) if symbol in self._hands]
        if not rows:
            return columns
        names = ("trade_at", "trade_price", "trade_size", "quote_at", "bid", "ask", "bid_size", "ask_size")
        own = {name: np.array(getattr(columns, name)) for name in names}
        numbers = columns.trade_number
        own["trade_number"] = np.zeros(len(columns.symbols), dtype=np.int64) if numbers is None else +numbers
        parts = {name: copied(getattr(columns, name)) for name in ("minute", "daily", "previous")}
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
            made = self._hand_made(symbol, at)
            if made is not None:
                for name, bar in made.newest().items():
                    put(parts[name], row, bar)
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


def _tick(price: Decimal) -> Decimal:
    return price.quantize(CENT if price >= 1 else CENT / 100)
