"""What a market data subscription hears between two instants, and when it will hear something next."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Final

import numpy as np

from catalyst.clock import NEW_YORK
from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_stream.announcements import channel_of, message
from catalyst.simulator.market import calendar
from catalyst.simulator.market.announcements import Corrected, LateTrade, Notice, Withdrawn
from catalyst.simulator.market.interface import Headline, Market
from catalyst.simulator.market.override_bars import OWN_NUMBERS
from catalyst.simulator.market.quote_model import RENEWAL

EVERYTHING: Final = "*"
STOCK_CHANNELS: Final = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds")
UNTOLD: Final = (
    "imbalances"  # may be asked for, is named in an answer only then, and never has anything to tell
)
NEWS_CHANNELS: Final = ("news",)
FEW: Final = 40  # up to so many symbols are asked one by one when their next trade comes
_MINUTE: Final = 60
_WEEK: Final = timedelta(days=7)  # the longest the exchange ever stays closed, and a bit more


@dataclass(slots=True)
class Subscription:
    """What one connection listens to; `*` is everything."""

    channels: dict[str, set[str]] = field(default_factory=dict)

    def wants(self, channel: str, symbol: str) -> bool:
        """True when the channel tells this symbol."""
        asked = self.channels.get(channel, set())
        return symbol in asked or EVERYTHING in asked

    def symbols(self, channels: Iterable[str], market: Market) -> list[str]:
        """The symbols asked for in any of `channels`."""
        asked: set[str] = set().union(*(self.channels.get(channel, set()) for channel in channels))
        if EVERYTHING in asked:
            return list(market.assets())
        return sorted(symbol for symbol in asked if symbol in market.assets())


def messages(
    market: Market,
    heard: Subscription,
    after: datetime,
    until: datetime,
    notices: Sequence[Notice] = (),
) -> list[wire.Json]:
    """Everything to tell of (after, until]: trades and quotes, then the bars that ended, then news.

    Quotes that stood only in between are left out, as a slow reader would miss them. Times are datetimes.
    """
    told = _ticks(market, heard, after, until)
    first = int(after.timestamp()) // _MINUTE + 1
    for minute in range(first, int(until.timestamp()) // _MINUTE + 1):
        told += _minute_bars(market, heard, minute * _MINUTE)
    if heard.channels.get("updatedBars"):
        told += _updated_bars(market, heard, notices, after, until)
    if heard.channels.get("news"):
        fresh = market.headlines(after + timedelta(microseconds=1), until, until)
        told += [
            _article(each) for each in fresh if any(heard.wants("news", symbol) for symbol in each.symbols)
        ]
    return told


def announcements(market: Market, heard: Subscription, notices: Iterable[Notice]) -> list[wire.Json]:
    """The notices somebody who listens so is told, in order."""
    wanted = [each for each in notices if heard.wants(channel_of(each), each.symbol)]
    known = [each for each in wanted if each.symbol in market.assets()]
    tapes = wire.tapes_of([each.symbol for each in known], market.assets())
    return [message(each, tape) for each, tape in zip(known, tapes, strict=True)]


def next_due(
    market: Market, heard: Subscription, at: datetime, notices: Sequence[Notice] = ()
) -> datetime | None:
    """The next instant after `at` at which there may be something to tell; None when nothing is asked."""
    second = datetime.fromtimestamp(int(at.timestamp()), UTC)
    due: list[datetime] = []
    if heard.channels.get("news"):
        due += [
            each.published
            for each in market.headlines(at + timedelta(microseconds=1), at + _WEEK, at + _WEEK)[:1]
        ]
    live = heard.symbols(("trades", "quotes"), market)
    if len(live) > FEW:
        due.append(_awake(market, second + timedelta(seconds=1)))
    else:
        due += [next_at for symbol in live if (next_at := market.next_print(symbol, at)) is not None]
    if heard.channels.get("quotes"):
        renewal = int(at.timestamp()) // RENEWAL * RENEWAL + RENEWAL
        due.append(_awake(market, datetime.fromtimestamp(renewal, UTC)))
    if heard.channels.get("bars") or heard.channels.get("dailyBars"):
        minute = int(at.timestamp()) // _MINUTE * _MINUTE + _MINUTE
        due.append(_awake(market, datetime.fromtimestamp(minute, UTC)))
    if heard.channels.get("updatedBars"):
        due += [mark for each in notices if (mark := _half_minute(each)) is not None and mark > at]
    return min(due, default=None)


def _half_minute(notice: Notice) -> datetime | None:
    """When the bar that a notice changed is told again: at the next half minute. None when it was not yet told."""
    if not isinstance(notice, LateTrade | Withdrawn | Corrected):
        return None
    if notice.trade.at.timestamp() // _MINUTE == notice.at.timestamp() // _MINUTE:
        return None
    mark = -((-notice.at.timestamp() + _MINUTE / 2) // _MINUTE) * _MINUTE + _MINUTE / 2
    return datetime.fromtimestamp(mark, UTC)


def _updated_bars(
    market: Market, heard: Subscription, notices: Sequence[Notice], after: datetime, until: datetime
) -> list[wire.Json]:
    """The finished minutes that late, withdrawn or corrected trades changed, once each half minute."""
    changed: dict[tuple[datetime, str, int], None] = {}
    for each in notices:
        mark = _half_minute(each)
        if mark is None or not after < mark <= until or not heard.wants("updatedBars", each.symbol):
            continue
        assert isinstance(each, LateTrade | Withdrawn | Corrected)
        changed[mark, each.symbol, int(each.trade.at.timestamp()) // _MINUTE * _MINUTE] = None
    told: list[wire.Json] = []
    for mark, symbol, begins in sorted(changed):
        minute = datetime.fromtimestamp(begins, UTC)
        bars = wire.bars(market.bars(symbol, timedelta(seconds=_MINUTE), minute, minute, mark))
        told += [{"T": "u", "S": symbol, **bar, "t": minute} for bar in bars if bar is not None]
    return told


def _awake(market: Market, at: datetime) -> datetime:
    """`at`, or when extended hours begin next if it lies outside them."""
    day = calendar.trading_day(at)
    for session in market.sessions(day, day + 2 * _WEEK):
        begins = datetime.combine(session.day, calendar.EXTENDED_OPEN, NEW_YORK).astimezone(UTC)
        ends = datetime.combine(session.day, time(20, 1), NEW_YORK).astimezone(UTC)
        if at <= ends:
            return max(at, begins)
    return at + _WEEK


def _ticks(market: Market, heard: Subscription, after: datetime, until: datetime) -> list[wire.Json]:
    symbols = heard.symbols(("trades", "quotes"), market)
    if not symbols:
        return []
    columns = market.snapshots(symbols, until)
    tapes = wire.tapes_of(columns.symbols, market.assets())
    since = int(after.timestamp())
    told: list[wire.Json] = []
    traded = columns.trade_at > since
    if columns.trade_number is not None:
        # a trade by hand may be younger than `after` within one second
        traded |= (columns.trade_at == since) & (columns.trade_number >= OWN_NUMBERS)
    for row in np.flatnonzero(traded).tolist():
        symbol = columns.symbols[row]
        if heard.wants("trades", symbol):
            told += [
                {"T": "t", "S": symbol, **wire.trade(each, tapes[row]), "t": each.at}
                for each in market.prints(symbol, after, until)
            ]
    fresh = np.flatnonzero((columns.quote_at > since) | (traded & (columns.trade_at == since)))
    quotes = wire.quotes(columns, tapes) if heard.channels.get("quotes") else []
    for row in fresh.tolist() if quotes else ():
        symbol, quote = columns.symbols[row], quotes[row]
        if quote is not None and heard.wants("quotes", symbol):
            at = datetime.fromtimestamp(int(columns.quote_at[row]), UTC)
            told.append({"T": "q", "S": symbol, **quote, "t": at})
    return told


def _minute_bars(market: Market, heard: Subscription, ended: int) -> list[wire.Json]:
    """The bars of the minute that ended, and the day's for who wants it."""
    symbols = heard.symbols(("bars", "dailyBars"), market)
    if not symbols:
        return []
    columns = market.snapshots(symbols, datetime.fromtimestamp(ended, UTC))
    rows = np.flatnonzero(columns.minute.starts == ended - _MINUTE).tolist()
    if not rows:
        return []
    told = _bar_messages("b", "bars", heard, columns.symbols, wire.bars(columns.minute), rows)
    if heard.channels.get("dailyBars"):
        today = int(calendar.midnight(calendar.trading_day(datetime.fromtimestamp(ended, UTC))).timestamp())
        running = [row for row in rows if columns.daily.starts[row] == today]
        told += _bar_messages("d", "dailyBars", heard, columns.symbols, wire.bars(columns.daily), running)
    return told


def _bar_messages(
    kind: str,
    channel: str,
    heard: Subscription,
    symbols: Sequence[str],
    bars: Sequence[wire.Json | None],
    rows: Sequence[int],
) -> list[wire.Json]:
    told: list[wire.Json] = []
    for row in rows:
        bar = bars[row]
        if bar is not None and heard.wants(channel, symbols[row]):
            told.append({"T": kind, "S": symbols[row], **bar, "t": datetime.fromisoformat(str(bar["t"]))})
    return told


def _article(each: Headline) -> wire.Json:
    article = wire.article(each, content=True)
    del article["images"]
    return {"T": "n", **article, "created_at": each.published, "updated_at": each.published}
