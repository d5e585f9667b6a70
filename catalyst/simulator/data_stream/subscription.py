"""Subscriptions: the messages a market data client receives between two instants, and when the next one is due."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Final

import numpy as np

from catalyst.clock import NEW_YORK
from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_stream.announcements import announcement_message, channel_of
from catalyst.simulator.market import calendar
from catalyst.simulator.market.announcements import Announcement, LateTrade, TradeCancel, TradeCorrection
from catalyst.simulator.market.interface import Market, NewsArticle
from catalyst.simulator.market.override_bars import FIRST_OVERRIDE_NUMBER
from catalyst.simulator.market.quote_model import QUOTE_INTERVAL_S

ALL_SYMBOLS: Final = "*"
STOCK_CHANNELS: Final = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds")
EMPTY_CHANNEL: Final = "imbalances"  # accepted; listed in answers only when subscribed; never has data
NEWS_CHANNELS: Final = ("news",)
MAX_TRACKED_SYMBOLS: Final = 40  # with more symbols, the next trade is not looked up for each
_MINUTE: Final = 60
_MAX_CLOSED_PERIOD: Final = timedelta(days=7)  # longer than the exchange ever stays closed


@dataclass(slots=True)
class Subscription:
    """Channels and symbols of one connection; `*` means all symbols."""

    channels: dict[str, set[str]] = field(default_factory=dict)

    def includes(self, channel: str, symbol: str) -> bool:
        """Return true when the channel includes this symbol."""
        subscribed = self.channels.get(channel, set())
        return symbol in subscribed or ALL_SYMBOLS in subscribed

    def symbols(self, channels: Iterable[str], market: Market) -> list[str]:
        """Return the listed symbols that are subscribed in any of `channels`."""
        subscribed: set[str] = set().union(*(self.channels.get(channel, set()) for channel in channels))
        if ALL_SYMBOLS in subscribed:
            return list(market.assets())
        return sorted(symbol for symbol in subscribed if symbol in market.assets())


def messages(
    market: Market,
    subscription: Subscription,
    after: datetime,
    until: datetime,
    announcements: Sequence[Announcement] = (),
) -> list[wire.Json]:
    """Return all messages of (after, until]: trades and quotes, then the bars that ended, then news.

    Of each symbol only the newest quote is sent, because a slow reader would miss the others. Times are
    datetimes.
    """
    outgoing = _trades_and_quotes(market, subscription, after, until)
    first = int(after.timestamp()) // _MINUTE + 1
    for minute in range(first, int(until.timestamp()) // _MINUTE + 1):
        outgoing += _minute_bars(market, subscription, minute * _MINUTE)
    if subscription.channels.get("updatedBars"):
        outgoing += _updated_bars(market, subscription, announcements, after, until)
    if subscription.channels.get("news"):
        fresh = market.headlines(after + timedelta(microseconds=1), until, until)
        outgoing += [
            _article_message(each)
            for each in fresh
            if any(subscription.includes("news", symbol) for symbol in each.symbols)
        ]
    return outgoing


def announcement_messages(
    market: Market, subscription: Subscription, announcements: Iterable[Announcement]
) -> list[wire.Json]:
    """Return the announcements that the subscription includes as messages, in order."""
    included = [each for each in announcements if subscription.includes(channel_of(each), each.symbol)]
    listed = [each for each in included if each.symbol in market.assets()]
    tapes = wire.tapes_of([each.symbol for each in listed], market.assets())
    return [announcement_message(each, tape) for each, tape in zip(listed, tapes, strict=True)]


def next_due(
    market: Market, subscription: Subscription, at: datetime, announcements: Sequence[Announcement] = ()
) -> datetime | None:
    """Return the next instant after `at` with a possible message; None without a subscription."""
    last_second = datetime.fromtimestamp(int(at.timestamp()), UTC)
    due: list[datetime] = []
    if subscription.channels.get("news"):
        due += [
            each.published
            for each in market.headlines(
                at + timedelta(microseconds=1), at + _MAX_CLOSED_PERIOD, at + _MAX_CLOSED_PERIOD
            )[:1]
        ]
    live = subscription.symbols(("trades", "quotes"), market)
    if len(live) > MAX_TRACKED_SYMBOLS:
        due.append(_next_extended_hours(market, last_second + timedelta(seconds=1)))
    else:
        due += [next_at for symbol in live if (next_at := market.next_print_time(symbol, at)) is not None]
    if subscription.channels.get("quotes"):
        renewal = int(at.timestamp()) // QUOTE_INTERVAL_S * QUOTE_INTERVAL_S + QUOTE_INTERVAL_S
        due.append(_next_extended_hours(market, datetime.fromtimestamp(renewal, UTC)))
    if subscription.channels.get("bars") or subscription.channels.get("dailyBars"):
        minute = int(at.timestamp()) // _MINUTE * _MINUTE + _MINUTE
        due.append(_next_extended_hours(market, datetime.fromtimestamp(minute, UTC)))
    if subscription.channels.get("updatedBars"):
        due += [mark for each in announcements if (mark := _updated_bar_time(each)) is not None and mark > at]
    return min(due, default=None)


def _updated_bar_time(announcement: Announcement) -> datetime | None:
    """Return the time at which the bar changed by an announcement is sent again: the next half minute.

    None when the announcement changes no trade, or when the bar was not sent yet.
    """
    if not isinstance(announcement, LateTrade | TradeCancel | TradeCorrection):
        return None
    if announcement.trade.at.timestamp() // _MINUTE == announcement.at.timestamp() // _MINUTE:
        return None
    mark = -((-announcement.at.timestamp() + _MINUTE / 2) // _MINUTE) * _MINUTE + _MINUTE / 2
    return datetime.fromtimestamp(mark, UTC)


def _updated_bars(
    market: Market,
    subscription: Subscription,
    announcements: Sequence[Announcement],
    after: datetime,
    until: datetime,
) -> list[wire.Json]:
    """Return the finished minutes changed by late, cancelled or corrected trades, once each half minute."""
    changed: dict[tuple[datetime, str, int], None] = {}
    for each in announcements:
        mark = _updated_bar_time(each)
        if mark is None or not after < mark <= until or not subscription.includes("updatedBars", each.symbol):
            continue
        assert isinstance(each, LateTrade | TradeCancel | TradeCorrection)
        changed[mark, each.symbol, int(each.trade.at.timestamp()) // _MINUTE * _MINUTE] = None
    outgoing: list[wire.Json] = []
    for mark, symbol, minute_start in sorted(changed):
        minute = datetime.fromtimestamp(minute_start, UTC)
        bars = wire.bars(market.bars(symbol, timedelta(seconds=_MINUTE), minute, minute, mark))
        outgoing += [{"T": "u", "S": symbol, **bar, "t": minute} for bar in bars if bar is not None]
    return outgoing


def _next_extended_hours(market: Market, at: datetime) -> datetime:
    """Return `at`, or the next start of extended hours when `at` lies outside them."""
    day = calendar.trading_day(at)
    for session in market.sessions(day, day + 2 * _MAX_CLOSED_PERIOD):
        begins = datetime.combine(session.day, calendar.EXTENDED_OPEN, NEW_YORK).astimezone(UTC)
        ends = datetime.combine(session.day, time(20, 1), NEW_YORK).astimezone(UTC)
        if at <= ends:
            return max(at, begins)
    return at + _MAX_CLOSED_PERIOD


def _trades_and_quotes(
    market: Market, subscription: Subscription, after: datetime, until: datetime
) -> list[wire.Json]:
    symbols = subscription.symbols(("trades", "quotes"), market)
    if not symbols:
        return []
    columns = market.snapshots(symbols, until)
    tapes = wire.tapes_of(columns.symbols, market.assets())
    since = int(after.timestamp())
    outgoing: list[wire.Json] = []
    traded = columns.trade_at > since
    if columns.trade_number is not None:
        # an override trade may be newer than `after` within one second
        traded |= (columns.trade_at == since) & (columns.trade_number >= FIRST_OVERRIDE_NUMBER)
    for row in np.flatnonzero(traded).tolist():
        symbol = columns.symbols[row]
        if subscription.includes("trades", symbol):
            outgoing += [
                {"T": "t", "S": symbol, **wire.trade(each, tapes[row]), "t": each.at}
                for each in market.prints(symbol, after, until)
            ]
    fresh = np.flatnonzero((columns.quote_at > since) | (traded & (columns.trade_at == since)))
    quotes = wire.quotes(columns, tapes) if subscription.channels.get("quotes") else []
    for row in fresh.tolist() if quotes else ():
        symbol, quote = columns.symbols[row], quotes[row]
        if quote is not None and subscription.includes("quotes", symbol):
            at = datetime.fromtimestamp(int(columns.quote_at[row]), UTC)
            outgoing.append({"T": "q", "S": symbol, **quote, "t": at})
    return outgoing


def _minute_bars(market: Market, subscription: Subscription, ended: int) -> list[wire.Json]:
    """Return the bars of the minute that ended at `ended`, and the daily bars for their subscribers."""
    symbols = subscription.symbols(("bars", "dailyBars"), market)
    if not symbols:
        return []
    columns = market.snapshots(symbols, datetime.fromtimestamp(ended, UTC))
    rows = np.flatnonzero(columns.minute.starts == ended - _MINUTE).tolist()
    if not rows:
        return []
    outgoing = _bar_messages("b", "bars", subscription, columns.symbols, wire.bars(columns.minute), rows)
    if subscription.channels.get("dailyBars"):
        today = int(calendar.midnight(calendar.trading_day(datetime.fromtimestamp(ended, UTC))).timestamp())
        running = [row for row in rows if columns.daily.starts[row] == today]
        outgoing += _bar_messages(
            "d", "dailyBars", subscription, columns.symbols, wire.bars(columns.daily), running
        )
    return outgoing


def _bar_messages(
    kind: str,
    channel: str,
    subscription: Subscription,
    symbols: Sequence[str],
    bars: Sequence[wire.Json | None],
    rows: Sequence[int],
) -> list[wire.Json]:
    outgoing: list[wire.Json] = []
    for row in rows:
        bar = bars[row]
        if bar is not None and subscription.includes(channel, symbols[row]):
            outgoing.append({"T": kind, "S": symbols[row], **bar, "t": datetime.fromisoformat(str(bar["t"]))})
    return outgoing


def _article_message(each: NewsArticle) -> wire.Json:
    article = wire.article(each, content=True)
    del article["images"]
    return {"T": "n", **article, "created_at": each.published, "updated_at": each.published}
