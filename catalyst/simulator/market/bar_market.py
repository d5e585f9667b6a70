"""The one market there is: bars in arrays, whoever made them, played as a tape.

What happened before the tape begins is told by daily bars: a symbol that has not traded yet today shows
yesterday's official close as its newest trade, printed at the instant of that close.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zlib import crc32

import numpy as np

from catalyst.simulator.market import calendar, quote_model
from catalyst.simulator.market.aggregation import day_bars, intraday_bars, join
from catalyst.simulator.market.bar_table import BarTable
from catalyst.simulator.market.interface import (
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
from catalyst.simulator.market.news import News
from catalyst.simulator.market.print_windows import NEVER, Reels, dollars
from catalyst.simulator.market.recorded_quotes import QuoteTape, Standing
from catalyst.simulator.market.snapshots import Days, Moment, Newest, newest_trades, snapshot_columns
from catalyst.simulator.market.ticks import Ticks

_ONE_DAY: Final = timedelta(days=1)
_KEPT_HISTORIES: Final = 512
_HOUR: Final = 3600


@dataclass(slots=True)
class BarMarket:
    """A market made of bars; see `catalyst.simulator.market.Market` for what it answers.

    `tape` holds the intraday bars, `daily` bars stamped with New York midnight, none younger than `day`; the
    rows of `listings`, `spread` (fraction of the price) and `depth` (shares) are symbol numbers. `history`
    makes older intraday bars of one symbol number when somebody asks for bars from before the tape. A symbol
    number with `ticks` trades along them, its rows of the tape are their minutes; one with `quoted` shows
    recorded quotes instead of modelled ones.
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
    ticks: Mapping[int, Ticks] = field(default_factory=dict)
    quoted: Mapping[int, QuoteTape] = field(default_factory=dict)
    numbers: dict[str, int] = field(init=False)
    days: Days = field(init=False)
    _begins: int = field(init=False)
    _salt: Ints = field(init=False)
    _reels: Reels = field(init=False)
    _histories: dict[int, BarTable] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {symbol: number for number, symbol in enumerate(self.listings)}
        self._salt = np.array([crc32(symbol.encode()) for symbol in self.listings], dtype=np.int64)
        self._reels = Reels(self.tape, self.ticks)
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

    def trades(self, symbol: str, after: datetime, until: datetime, at: datetime) -> Sequence[Print]:
        return self.prints(symbol, after, min(until, at))

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
        standing = quote_model.one_quote(
            int(self._salt[number]),
            units,
            traded,
            float(self.spread[number]),
            int(self.depth[number]),
            moment.at,
            (moment.opens, moment.closes),
        )
        if number in self.quoted:
            standing = self.quoted[number].standing(moment.at, moment.midnight, units, standing)
        return _quote(standing)

    def quotes(self, symbol: str, after: datetime, until: datetime) -> Sequence[Quote]:
        recorded = self.quoted.get(self.numbers.get(symbol, -1))
        if recorded is not None and recorded.exact:
            rows = recorded.between(_second(after), _second(until))
            return [_quote(recorded.row(row)) for row in rows]
        instants = dict.fromkeys(trade.at for trade in self.prints(symbol, after, until))
        at_trades = (self.quote(symbol, at) for at in instants)
        return [quote for quote in at_trades if quote is not None]

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        known = [symbol for symbol in symbols if symbol in self.numbers]
        numbers = np.array([self.numbers[symbol] for symbol in known], dtype=np.int64)
        moment = self.days.moment(at)
        newest = self._newest(numbers, moment)
        quotes = quote_model.quotes(
            self._salt[numbers],
            newest.price,
            newest.at,
            self.spread[numbers],
            self.depth[numbers],
            moment.at,
            (moment.opens, moment.closes),
        )
        finer = [(row, ticks.minute(moment.at), ticks.day(moment)) for row, ticks in self._ticked(numbers)]
        columns = snapshot_columns(known, numbers, moment, self.tape, self.daily, newest, quotes, finer)
        if self.quoted:
            columns = self._as_quoted(columns, numbers, moment)
        return replace(columns, trade_number=self._places(numbers, newest)) if finer else columns

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        number = self.numbers.get(symbol, -1)
        moment = self.days.moment(at)
        begin, until = _second_up(start), _second(end)
        if length == _ONE_DAY:
            ticks = self.ticks.get(number)
            today = None if ticks is None else ticks.day(moment)
            return day_bars(self.tape, self.daily, number, begin, until, moment, today)
        seconds = int(length.total_seconds())
        if number in self.ticks:
            return self._ticked_bars(number, seconds, begin, min(until, moment.at - seconds))
        tables = [self.tape]
        if self.history is not None and number >= 0 and begin < self._begins:
            tables = [self._history(number), self.tape]
        return intraday_bars(tables, number, seconds, begin, min(until, moment.at - seconds))

    def _newest(self, numbers: Ints, moment: Moment) -> Newest:
        found = newest_trades(self.tape, self.daily, self.days, numbers, moment)
        for row, ticks in self._ticked(numbers):
            last = ticks.until(moment.at) - 1
            # an official close of an earlier day may be younger than the newest tick
            if last >= 0 and (ticks.times[last] >= moment.midnight or ticks.times[last] >= found.at[row]):
                found.at[row], found.price[row] = ticks.times[last], ticks.units[last]
                found.size[row] = ticks.sizes[last]
        return found

    def _ticked(self, numbers: Ints) -> Iterator[tuple[int, Ticks]]:
        """Which rows of `numbers` have ticks."""
        if not self.ticks:
            return
        for row in np.flatnonzero(np.isin(numbers, list(self.ticks))).tolist():
            yield row, self.ticks[int(numbers[row])]

    def _places(self, numbers: Ints, newest: Newest) -> Ints:
        """Which print of its second the newest one is."""
        places = np.zeros(len(numbers), dtype=np.int64)
        for row, ticks in self._ticked(numbers):
            at = int(newest.at[row])
            places[row] = max(ticks.until(at) - 1 - ticks.before(at), 0)
        return places

    def _as_quoted(self, columns: SnapshotColumns, numbers: Ints, moment: Moment) -> SnapshotColumns:
        """The snapshot with the recorded quotes of the rows that have any."""
        names = ("quote_at", "bid", "ask", "bid_size", "ask_size")
        own = {name: np.array(getattr(columns, name)) for name in names}
        at = datetime.fromtimestamp(moment.at, UTC)
        for row in np.flatnonzero(np.isin(numbers, list(self.quoted))).tolist():
            quote = self.quote(columns.symbols[row], at)
            if quote is not None:
                own["quote_at"][row] = int(quote.at.timestamp())
                own["bid"][row], own["ask"][row] = float(quote.bid), float(quote.ask)
                own["bid_size"][row], own["ask_size"][row] = quote.bid_size, quote.ask_size
        return replace(
            columns,
            quote_at=own["quote_at"],
            bid=own["bid"],
            ask=own["ask"],
            bid_size=own["bid_size"],
            ask_size=own["ask_size"],
        )

    def _ticked_bars(self, number: int, seconds: int, begin: int, until: int) -> BarColumns:
        """Today's bars from the ticks, older and very long ones from the tape's minutes."""
        fine_from = until + 1 if seconds > _HOUR else self._begins
        coarse = intraday_bars([self.tape], number, seconds, begin, min(until, fine_from - 1))
        return join([coarse, self.ticks[number].bars(seconds, max(begin, fine_from), until)])

    def _history(self, number: int) -> BarTable:
        assert self.history is not None
        if number not in self._histories:
            if len(self._histories) >= _KEPT_HISTORIES:
                self._histories.clear()
            self._histories[number] = self.history(number)
        return self._histories[number]


def _quote(standing: Standing) -> Quote:
    since, bid, ask, bid_size, ask_size = standing
    return Quote(datetime.fromtimestamp(since, UTC), dollars(bid), dollars(ask), bid_size, ask_size)


def _second(at: datetime) -> int:
    """The last whole second not after `at`: prints happen on whole seconds."""
    return int(at.timestamp() // 1)


def _second_up(at: datetime) -> int:
    return -int(-at.timestamp() // 1)
