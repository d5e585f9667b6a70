"""The one market there is: bars in arrays, whoever made them, played as a tape.

What happened before the tape begins is told by daily bars: a symbol that has not traded yet today shows
yesterday's official close as its newest trade, printed at the instant of that close.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zlib import crc32

import numpy as np

from catalyst.simulator import calendar, market_quotes
from catalyst.simulator.market import (
    Asset,
    BarColumns,
    Floats,
    Headline,
    Ints,
    Print,
    Quote,
    Session,
    SnapshotColumns,
)
from catalyst.simulator.market_aggregate import day_bars, intraday_bars
from catalyst.simulator.market_reel import NEVER, Reels, dollars
from catalyst.simulator.market_snapshot import Days, Moment, Newest, newest_trades, snapshot_columns
from catalyst.simulator.market_table import BarTable
from catalyst.simulator.news import News

_ONE_DAY: Final = timedelta(days=1)
_KEPT_HISTORIES: Final = 512


@dataclass(slots=True)
class BarMarket:
    """A market made of bars; see `catalyst.simulator.market.Market` for what it answers.

    `tape` holds the intraday bars, `daily` bars stamped with New York midnight, none younger than `day`; the
    rows of `listings`, `spread` (fraction of the price) and `depth` (shares) are symbol numbers. `history`
    makes older intraday bars of one symbol number when somebody asks for bars from before the tape.
    """

    day: date
    listings: Mapping[str, Asset]
    tape: BarTable
    daily: BarTable
    spread: Floats
    depth: Ints
    news: News
    sectors: Mapping[str, str] = field(default_factory=dict)
    history: Callable[[int], BarTable] | None = None
    numbers: dict[str, int] = field(init=False)
    days: Days = field(init=False)
    _begins: int = field(init=False)
    _salt: Ints = field(init=False)
    _reels: Reels = field(init=False)
    _histories: dict[int, BarTable] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {symbol: number for number, symbol in enumerate(self.listings)}
        self._salt = np.array([crc32(symbol.encode()) for symbol in self.listings], dtype=np.int64)
        self._reels = Reels(self.tape)
        self._begins = int(calendar.midnight(self.day).timestamp())
        oldest = datetime.fromtimestamp(int(self.daily.start.min(initial=self._begins)), UTC)
        self.days = Days.of(calendar.sessions(calendar.trading_day(oldest), self.day))

    def assets(self) -> Mapping[str, Asset]:
        return self.listings

    def session(self, day: date) -> Session | None:
        return calendar.session(day)

    def sessions(self, start: date, end: date) -> Sequence[Session]:
        return calendar.sessions(start, end)

    def headlines(self, start: datetime, end: datetime, at: datetime) -> Sequence[Headline]:
        return self.news.between(start, min(end, at))

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        number = self.numbers.get(symbol)
        if number is None or until <= after:
            return []
        return self._reels.between(number, _second(after), _second(until))

    def next_print(self, symbol: str, after: datetime) -> datetime | None:
        number = self.numbers.get(symbol)
        if number is None:
            return None
        found = self._reels.next_time(number, _second(after))
        return None if found == NEVER else datetime.fromtimestamp(found, UTC)

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        number = self.numbers.get(symbol)
        if number is None:
            return None
        moment = self.days.moment(at)
        stretch = self._reels.at(number, moment.at)
        if stretch is not None and stretch.times[0] >= moment.midnight:
            return stretch.prints[bisect_right(stretch.times, moment.at) - 1]
        newest = self._newest(np.array([number]), moment)
        if newest.at[0] < 0:
            return None
        traded = datetime.fromtimestamp(int(newest.at[0]), UTC)
        return Print(traded, dollars(int(newest.price[0])), int(newest.size[0]))

    def quote(self, symbol: str, at: datetime) -> Quote | None:
        number = self.numbers.get(symbol)
        if number is None:
            return None
        moment = self.days.moment(at)
        stretch = self._reels.at(number, moment.at)
        if stretch is not None and stretch.times[0] >= moment.midnight:
            index = bisect_right(stretch.times, moment.at) - 1
            units, traded = stretch.units[index], stretch.times[index]
        else:
            newest = self._newest(np.array([number]), moment)
            units, traded = int(newest.price[0]), int(newest.at[0])
        if traded < 0:
            return None
        since, bid, ask, bid_size, ask_size = market_quotes.one_quote(
            int(self._salt[number]),
            units,
            traded,
            float(self.spread[number]),
            int(self.depth[number]),
            moment.at,
            (moment.opens, moment.closes),
        )
        return Quote(datetime.fromtimestamp(since, UTC), dollars(bid), dollars(ask), bid_size, ask_size)

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        known = [symbol for symbol in symbols if symbol in self.numbers]
        numbers = np.array([self.numbers[symbol] for symbol in known], dtype=np.int64)
        moment = self.days.moment(at)
        newest = self._newest(numbers, moment)
        quotes = market_quotes.quotes(
            self._salt[numbers],
            newest.price,
            newest.at,
            self.spread[numbers],
            self.depth[numbers],
            moment.at,
            (moment.opens, moment.closes),
        )
        return snapshot_columns(known, numbers, moment, self.tape, self.daily, newest, quotes)

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        number = self.numbers.get(symbol, -1)
        moment = self.days.moment(at)
        begin, until = _second_up(start), _second(end)
        if length == _ONE_DAY:
            return day_bars(self.tape, self.daily, number, begin, until, moment)
        seconds = int(length.total_seconds())
        tables = [self.tape]
        if self.history is not None and number >= 0 and begin < self._begins:
            tables = [self._history(number), self.tape]
        return intraday_bars(tables, number, seconds, begin, min(until, moment.at - seconds))

    def _newest(self, numbers: Ints, moment: Moment) -> Newest:
        return newest_trades(self.tape, self.daily, self.days, numbers, moment)

    def _history(self, number: int) -> BarTable:
        assert self.history is not None
        if number not in self._histories:
            if len(self._histories) >= _KEPT_HISTORIES:
                self._histories.clear()
            self._histories[number] = self.history(number)
        return self._histories[number]


def _second(at: datetime) -> int:
    """The last whole second not after `at`: prints happen on whole seconds."""
    return int(at.timestamp() // 1)


def _second_up(at: datetime) -> int:
    return -int(-at.timestamp() // 1)
