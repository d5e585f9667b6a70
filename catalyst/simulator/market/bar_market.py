"""Market made of bar arrays: the one implementation of `Market`, for recorded and synthetic bars.

The bars are played as prints. Daily bars describe the time before the intraday bars begin: a symbol without a
trade today shows the previous session's official close as its newest trade, at the instant of that close.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zlib import crc32

import numpy as np

from catalyst.simulator.market import calendar, quote_model
from catalyst.simulator.market.aggregation import concatenate_bars, day_bars, intraday_bars
from catalyst.simulator.market.bar_table import BarTable
from catalyst.simulator.market.interface import (
    Asset,
    BarColumns,
    BestQuote,
    Floats,
    Ints,
    MarketSession,
    NewsArticle,
    Print,
    SnapshotColumns,
)
from catalyst.simulator.market.news import NewsArchive
from catalyst.simulator.market.print_windows import NO_MORE_PRINTS, PrintWindows, units_to_dollars
from catalyst.simulator.market.recorded_quotes import QuoteRow, RecordedQuotes
from catalyst.simulator.market.snapshots import (
    Instant,
    LatestTrades,
    SessionTimes,
    latest_trades,
    snapshot_columns,
)
from catalyst.simulator.market.ticks import Ticks

_ONE_DAY: Final = timedelta(days=1)
_MAX_CACHED_HISTORIES: Final = 512
_HOUR: Final = 3600


@dataclass(slots=True)
class BarMarket:
    """A market made of bars; `catalyst.simulator.market.interface.Market` describes its methods.

    `intraday` holds the bars that are played; `daily` holds bars stamped with New York midnight, none younger
    than `day`. The rows of `listings`, `spread` (fraction of the price) and `depth` (shares) are symbol
    numbers. `history` returns older intraday bars of one symbol number, for requests that begin before `day`. A
    symbol number in `ticks` trades along its ticks, and its rows of `intraday` are the minute bars of these
    ticks. A symbol number in `recorded_quotes` shows recorded quotes instead of modelled ones.
    """

    day: date
    listings: Mapping[str, Asset]
    intraday: BarTable
    daily: BarTable
    spread: Floats
    depth: Ints
    news: NewsArchive
    sectors: Mapping[str, str] = field(default_factory=dict)
    history: Callable[[int], BarTable] | None = None
    ticks: Mapping[int, Ticks] = field(default_factory=dict)
    recorded_quotes: Mapping[int, RecordedQuotes] = field(default_factory=dict)
    symbol_numbers: dict[str, int] = field(init=False)
    session_times: SessionTimes = field(init=False)
    _day_start: int = field(init=False)
    _salt: Ints = field(init=False)
    _print_windows: PrintWindows = field(init=False)
    _histories: dict[int, BarTable] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.symbol_numbers = {symbol: number for number, symbol in enumerate(self.listings)}
        self._salt = np.array([crc32(symbol.encode()) for symbol in self.listings], dtype=np.int64)
        self._print_windows = PrintWindows(self.intraday, self.ticks)
        self._day_start = int(calendar.midnight(self.day).timestamp())
        oldest = datetime.fromtimestamp(int(self.daily.starts.min(initial=self._day_start)), UTC)
        self.session_times = SessionTimes.of(calendar.sessions(calendar.trading_day(oldest), self.day))

    def assets(self) -> Mapping[str, Asset]:
        return self.listings

    def session(self, day: date) -> MarketSession | None:
        return calendar.session(day)

    def sessions(self, start: date, end: date) -> Sequence[MarketSession]:
        return calendar.sessions(start, end)

    def headlines(self, start: datetime, end: datetime, at: datetime) -> Sequence[NewsArticle]:
        return self.news.between(start, min(end, at))

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        number = self.symbol_numbers.get(symbol)
        if number is None or until <= after:
            return []
        return self._print_windows.prints_between(number, _floor_second(after), _floor_second(until))

    def trades(self, symbol: str, after: datetime, until: datetime, at: datetime) -> Sequence[Print]:
        return self.prints(symbol, after, min(until, at))

    def next_print_time(self, symbol: str, after: datetime) -> datetime | None:
        number = self.symbol_numbers.get(symbol)
        if number is None:
            return None
        second = self._print_windows.next_print_time(number, _floor_second(after))
        return None if second == NO_MORE_PRINTS else datetime.fromtimestamp(second, UTC)

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        number = self.symbol_numbers.get(symbol)
        if number is None:
            return None
        instant = self.session_times.instant(at)
        window = self._print_windows.window_at(number, instant.at)
        if window is not None and window.times[0] >= instant.midnight:
            return window.print_at(bisect_right(window.times, instant.at) - 1)
        newest = self._latest_trades(np.array([number]), instant)
        if newest.at[0] < 0:
            return None
        traded_at = datetime.fromtimestamp(int(newest.at[0]), UTC)
        return Print(traded_at, units_to_dollars(int(newest.price[0])), int(newest.size[0]))

    def quote(self, symbol: str, at: datetime) -> BestQuote | None:
        number = self.symbol_numbers.get(symbol)
        if number is None:
            return None
        instant = self.session_times.instant(at)
        window = self._print_windows.window_at(number, instant.at)
        if window is not None and window.times[0] >= instant.midnight:
            index = bisect_right(window.times, instant.at) - 1
            units, traded_at = window.units[index], window.times[index]
        else:
            newest = self._latest_trades(np.array([number]), instant)
            units, traded_at = int(newest.price[0]), int(newest.at[0])
        if traded_at < 0:
            return None
        quote_row = quote_model.one_quote(
            int(self._salt[number]),
            units,
            traded_at,
            float(self.spread[number]),
            int(self.depth[number]),
            instant.at,
            (instant.opens, instant.closes),
        )
        if number in self.recorded_quotes:
            quote_row = self.recorded_quotes[number].quote_at(instant.at, instant.midnight, units, quote_row)
        return _quote_of(quote_row)

    def quotes(self, symbol: str, after: datetime, until: datetime) -> Sequence[BestQuote]:
        recorded = self.recorded_quotes.get(self.symbol_numbers.get(symbol, -1))
        if recorded is not None and recorded.exact:
            rows = recorded.between(_floor_second(after), _floor_second(until))
            return [_quote_of(recorded.closing_quote(row)) for row in rows]
        instants = dict.fromkeys(trade.at for trade in self.prints(symbol, after, until))
        at_trades = (self.quote(symbol, at) for at in instants)
        return [quote for quote in at_trades if quote is not None]

    def snapshots(self, symbols: Sequence[str], at: datetime) -> SnapshotColumns:
        listed = [symbol for symbol in symbols if symbol in self.symbol_numbers]
        numbers = np.array([self.symbol_numbers[symbol] for symbol in listed], dtype=np.int64)
        instant = self.session_times.instant(at)
        newest = self._latest_trades(numbers, instant)
        quotes = quote_model.quotes(
            self._salt[numbers],
            newest.price,
            newest.at,
            self.spread[numbers],
            self.depth[numbers],
            instant.at,
            (instant.opens, instant.closes),
        )
        finer = [
            (row, ticks.latest_minute_bar(instant.at), ticks.running_day_bar(instant))
            for row, ticks in self._rows_with_ticks(numbers)
        ]
        columns = snapshot_columns(listed, numbers, instant, self.intraday, self.daily, newest, quotes, finer)
        if self.recorded_quotes:
            columns = self._with_recorded_quotes(columns, numbers, instant)
        return replace(columns, trade_number=self._print_numbers(numbers, newest)) if finer else columns

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, at: datetime
    ) -> BarColumns:
        number = self.symbol_numbers.get(symbol, -1)
        instant = self.session_times.instant(at)
        begin, until = _ceil_second(start), _floor_second(end)
        if length == _ONE_DAY:
            ticks = self.ticks.get(number)
            today = None if ticks is None else ticks.running_day_bar(instant)
            return day_bars(self.intraday, self.daily, number, begin, until, instant, today)
        seconds = int(length.total_seconds())
        if number in self.ticks:
            return self._bars_of_ticks(number, seconds, begin, min(until, instant.at - seconds))
        tables = [self.intraday]
        if self.history is not None and number >= 0 and begin < self._day_start:
            tables = [self._history_of(number), self.intraday]
        return intraday_bars(tables, number, seconds, begin, min(until, instant.at - seconds))

    def _latest_trades(self, numbers: Ints, instant: Instant) -> LatestTrades:
        newest = latest_trades(self.intraday, self.daily, self.session_times, numbers, instant)
        for row, ticks in self._rows_with_ticks(numbers):
            last = ticks.count_until(instant.at) - 1
            # an earlier day's official close may be newer than the newest tick
            if last >= 0 and (ticks.times[last] >= instant.midnight or ticks.times[last] >= newest.at[row]):
                newest.at[row], newest.price[row] = ticks.times[last], ticks.units[last]
                newest.size[row] = ticks.sizes[last]
        return newest

    def _rows_with_ticks(self, numbers: Ints) -> Iterator[tuple[int, Ticks]]:
        """Yield each row of `numbers` that has ticks, with its ticks."""
        if not self.ticks:
            return
        for row in np.flatnonzero(np.isin(numbers, list(self.ticks))).tolist():
            yield row, self.ticks[int(numbers[row])]

    def _print_numbers(self, numbers: Ints, latest: LatestTrades) -> Ints:
        """Return the number of each newest trade within its second."""
        print_numbers = np.zeros(len(numbers), dtype=np.int64)
        for row, ticks in self._rows_with_ticks(numbers):
            at = int(latest.at[row])
            print_numbers[row] = max(ticks.count_until(at) - 1 - ticks.count_before(at), 0)
        return print_numbers

    def _with_recorded_quotes(
        self, columns: SnapshotColumns, numbers: Ints, instant: Instant
    ) -> SnapshotColumns:
        """Return the snapshots with recorded quotes in the rows that have any."""
        names = ("quote_at", "bid", "ask", "bid_size", "ask_size")
        quote_columns = {name: np.array(getattr(columns, name)) for name in names}
        at = datetime.fromtimestamp(instant.at, UTC)
        for row in np.flatnonzero(np.isin(numbers, list(self.recorded_quotes))).tolist():
            quote = self.quote(columns.symbols[row], at)
            if quote is not None:
                quote_columns["quote_at"][row] = int(quote.at.timestamp())
                quote_columns["bid"][row], quote_columns["ask"][row] = float(quote.bid), float(quote.ask)
                quote_columns["bid_size"][row], quote_columns["ask_size"][row] = (
                    quote.bid_size,
                    quote.ask_size,
                )
        return replace(
            columns,
            quote_at=quote_columns["quote_at"],
            bid=quote_columns["bid"],
            ask=quote_columns["ask"],
            bid_size=quote_columns["bid_size"],
            ask_size=quote_columns["ask_size"],
        )

    def _bars_of_ticks(self, number: int, seconds: int, begin: int, until: int) -> BarColumns:
        """Return today's bars from the ticks; older bars, and bars longer than an hour, from the minute bars."""
        ticks_from = until + 1 if seconds > _HOUR else self._day_start
        minute_based_bars = intraday_bars([self.intraday], number, seconds, begin, min(until, ticks_from - 1))
        return concatenate_bars(
            [minute_based_bars, self.ticks[number].bars(seconds, max(begin, ticks_from), until)]
        )

    def _history_of(self, number: int) -> BarTable:
        assert self.history is not None
        if number not in self._histories:
            if len(self._histories) >= _MAX_CACHED_HISTORIES:
                self._histories.clear()
            self._histories[number] = self.history(number)
        return self._histories[number]


def _quote_of(quote_row: QuoteRow) -> BestQuote:
    since, bid, ask, bid_size, ask_size = quote_row
    return BestQuote(
        datetime.fromtimestamp(since, UTC), units_to_dollars(bid), units_to_dollars(ask), bid_size, ask_size
    )


def _floor_second(at: datetime) -> int:
    """Return the last whole second not after `at`; prints happen on whole seconds."""
    return int(at.timestamp() // 1)


def _ceil_second(at: datetime) -> int:
    return -int(-at.timestamp() // 1)
