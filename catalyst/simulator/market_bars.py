"""The one market there is: bars in arrays, whoever made them, played as a tape.

What happened before the tape begins is told by daily bars: a symbol that has not traded yet today shows
yesterday's official close as its newest trade, printed at the instant of that close.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final
from zlib import crc32

import numpy as np

from catalyst.simulator import calendar, market_quotes, path
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
from catalyst.simulator.market_snapshot import Days, Newest, newest_trades, snapshot_columns
from catalyst.simulator.market_table import SECONDS, BarTable
from catalyst.simulator.news import News

_ONE_DAY: Final = timedelta(days=1)


@dataclass(slots=True)
class _Prints:
    """The prints of one bar, ready to be handed out."""

    row: int
    times: list[int]
    prints: list[Print]


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
    _salt: Ints = field(init=False)
    _unrolled: dict[int, _Prints] = field(init=False, default_factory=dict)
    _histories: dict[int, BarTable] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {symbol: number for number, symbol in enumerate(self.listings)}
        self._salt = np.array([crc32(symbol.encode()) for symbol in self.listings], dtype=np.int64)
        oldest = self.daily.start.min(initial=int(calendar.midnight(self.day).timestamp()))
        first = calendar.trading_day(datetime.fromtimestamp(int(oldest), UTC))
        self.days = Days.of(calendar.sessions(first, self.day))

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
        begin, end = _second(after), _second(until)
        one = np.array([number])
        newest = int(self.tape.last(one, end)[0])
        oldest = max(int(self.tape.last(one, begin)[0]), int(self.tape.first(one, 0)[0]))
        found: list[Print] = []
        for row in range(oldest, newest + 1):
            prints = self._prints_of(number, row)
            found.extend(p for t, p in zip(prints.times, prints.prints, strict=True) if begin < t <= end)
        return found

    def next_print(self, symbol: str, after: datetime) -> datetime | None:
        number = self.numbers.get(symbol)
        if number is None:
            return None
        second = _second(after)
        row = int(self.tape.last(np.array([number]), second)[0])
        if row >= 0:
            prints = self._prints_of(number, row)
            if prints.times[-1] > second:
                return datetime.fromtimestamp(next(t for t in prints.times if t > second), UTC)
        row = int(self.tape.first(np.array([number]), second + 1)[0])
        if row < len(self.tape.key) and self.tape.key[row] // SECONDS == number:
            return datetime.fromtimestamp(int(self.tape.key[row] % SECONDS), UTC)
        return None

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        number = self.numbers.get(symbol)
        if number is None:
            return None
        newest = self._newest(np.array([number]), at)
        if newest.at[0] < 0:
            return None
        return _print(int(newest.at[0]), int(newest.price[0]), int(newest.size[0]))

    def quote(self, symbol: str, at: datetime) -> Quote | None:
        number = self.numbers.get(symbol)
        if number is None:
            return None
        one = np.array([number])
        newest = self._newest(one, at)
        if newest.at[0] < 0:
            return None
        quotes = self.quotes_around(one, newest, at)
        return Quote(
            datetime.fromtimestamp(int(quotes.at[0]), UTC),
            _decimal(int(quotes.bid[0])),
            _decimal(int(quotes.ask[0])),
            int(quotes.bid_size[0]),
            int(quotes.ask_size[0]),
        )

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        known = [symbol for symbol in symbols if symbol in self.numbers]
        numbers = np.array([self.numbers[symbol] for symbol in known], dtype=np.int64)
        newest = self._newest(numbers, at)
        quotes = self.quotes_around(numbers, newest, at)
        moment = self.days.moment(at)
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
        tables = [self._history(number), self.tape] if self.history else [self.tape]
        return intraday_bars(tables, number, seconds, begin, min(until, moment.at - seconds))

    def quotes_around(self, numbers: Ints, newest: Newest, at: datetime) -> market_quotes.QuoteColumns:
        """The quotes standing at `at` around the newest trades of `numbers`."""
        moment = self.days.moment(at)
        hours = (moment.opens, moment.closes)
        return market_quotes.quotes(
            self._salt[numbers],
            newest.price,
            newest.at,
            self.spread[numbers],
            self.depth[numbers],
            moment.at,
            hours,
        )

    def _newest(self, numbers: Ints, at: datetime) -> Newest:
        return newest_trades(self.tape, self.daily, self.days, numbers, self.days.moment(at))

    def _history(self, number: int) -> BarTable:
        assert self.history is not None
        if number not in self._histories:
            self._histories[number] = self.history(number)
        return self._histories[number]

    def _prints_of(self, number: int, row: int) -> _Prints:
        known = self._unrolled.get(number)
        if known is None or known.row != row:
            known = self._unrolled[number] = _unroll(self.tape, row)
        return known


def _unroll(table: BarTable, row: int) -> _Prints:
    walk = table.walk(np.array([row]))
    steps = np.arange(int(walk.count[0]))
    times = (int(table.key[row] % SECONDS) + path.offset(walk, steps)).tolist()
    prices, sizes = path.price(walk, steps).tolist(), path.size(walk, steps).tolist()
    return _Prints(row, times, [_print(*each) for each in zip(times, prices, sizes, strict=True)])


def _print(second: int, units: int, size: int) -> Print:
    return Print(datetime.fromtimestamp(second, UTC), _decimal(units), size)


def _decimal(units: int) -> Decimal:
    """Dollars with two decimals, or four where the price lies between cents."""
    if units % path.CENT == 0:
        return Decimal(units // path.CENT).scaleb(-2)
    return Decimal(units).scaleb(-4)


def _second(at: datetime) -> int:
    """The last whole second not after `at`: prints happen on whole seconds."""
    return int(at.timestamp() // 1)


def _second_up(at: datetime) -> int:
    return -int(-at.timestamp() // 1)
