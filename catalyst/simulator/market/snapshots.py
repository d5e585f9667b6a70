"""The newest trade and the snapshot of any number of symbols at an instant, in array operations.

The daily bar follows the broker's aggregation: its prices come from regular hours only, its volume from all
trades of the day. So before a symbol's first regular trade there is no bar of today: `daily` is then the
previous session's and `previous` the one before. The bar's own time tells which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from catalyst.simulator.market import calendar, intrabar_path
from catalyst.simulator.market.bar_table import SECONDS, BarTable
from catalyst.simulator.market.interface import BarColumns, Floats, Ints, Session, SnapshotColumns
from catalyst.simulator.market.quote_model import QuoteColumns

CLOSE_SIZE: Final = 100  # shares of the print that stands for an earlier day's official close
FIELDS: Final = ("starts", "open", "high", "low", "close", "volume", "vwap", "trades")
SHARES_PER_TRADE: Final = 100  # a daily bar from elsewhere does not tell its trades; this estimates them


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant in its New York day, epoch seconds; `opens` and `closes` are 0 on a closed day."""

    at: int
    midnight: int
    opens: int
    closes: int


@dataclass(slots=True)
class Days:
    """When the sessions of a market began and closed, epoch seconds."""

    midnights: Ints
    closes: Ints
    _known: Moment = Moment(0, 0, 0, 0)
    _next_midnight: int = 0

    @classmethod
    def of(cls, sessions: Sequence[Session]) -> Self:
        """The days of `sessions`, in order."""
        midnights = [int(calendar.midnight(session.day).timestamp()) for session in sessions]
        closes = [int(session.close.timestamp()) for session in sessions]
        return cls(np.array(midnights, dtype=np.int64), np.array(closes, dtype=np.int64))

    def moment(self, at: datetime) -> Moment:
        """Where `at` lies in its day."""
        second = int(at.timestamp() // 1)
        known = self._known
        if known.at == second:
            return known
        if not known.midnight <= second < self._next_midnight:
            known = self._begin(calendar.trading_day(at))
        self._known = Moment(second, known.midnight, known.opens, known.closes)
        return self._known

    def _begin(self, day: date) -> Moment:
        session = calendar.session(day)
        self._next_midnight = int(calendar.midnight(day + timedelta(days=1)).timestamp())
        return Moment(
            0,
            int(calendar.midnight(day).timestamp()),
            int(session.open.timestamp()) if session else 0,
            int(session.close.timestamp()) if session else 0,
        )

    def close_of(self, midnights: Ints) -> Ints:
        """The close of each session that begins at one of `midnights`."""
        rows = np.minimum(np.searchsorted(self.midnights, midnights), len(self.midnights) - 1)
        return self.closes[rows]


# A row, its newest finished minute and its running day, one bar each.
Finer = tuple[int, BarColumns, BarColumns]


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest trade of each symbol; `at` (epoch seconds) is -1 where there has been none."""

    at: Ints
    price: Ints  # units
    size: Ints


def newest_trades(bars: BarTable, daily: BarTable, days: Days, numbers: Ints, moment: Moment) -> Newest:
    """The newest print of each number, or the newest earlier official close when that is younger."""
    empty = np.full(len(numbers), -1)
    at, price, size = empty, empty, empty
    if len(bars.key):
        rows = bars.last(numbers, moment.at)
        walk = bars.walk(rows)
        number = intrabar_path.newest(walk, moment.at - bars.key[rows] % SECONDS)
        printed = bars.key[rows] % SECONDS + intrabar_path.offset(walk, number)
        at = np.where(rows >= 0, printed, -1)
        price, size = intrabar_path.price(walk, number), intrabar_path.size(walk, number)
    if len(daily.key):
        rows = daily.last(numbers, moment.midnight - 1)
        closed = np.where(rows >= 0, days.close_of(daily.key[rows] % SECONDS), -1)
        older = closed > at
        at = np.where(older, closed, at)
        price = np.where(older, daily.close[rows], price)
        size = np.where(older, CLOSE_SIZE, size)
    return Newest(at, np.where(at >= 0, price, 0), np.where(at >= 0, size, 0))


def snapshot_columns(
    symbols: Sequence[str],
    numbers: Ints,
    moment: Moment,
    bars: BarTable,
    daily: BarTable,
    newest: Newest,
    quotes: QuoteColumns,
    finer: Sequence[Finer] = (),
) -> SnapshotColumns:
    """Everything the broker tells of `numbers` as of `moment`; some rows may be known better than by `bars`."""
    today, previous = running_days(bars, numbers, moment), daily.last(numbers, moment.midnight - 1)
    minute = minute_bars(bars, numbers, moment.at)
    if finer:
        today, minute = copied(today), copied(minute)
    for row, last_minute, running in finer:
        put(minute, row, last_minute)
        put(today, row, running)
    has_today, traded = today.starts >= 0, newest.at >= 0
    yesterday = daily_bars(daily, previous)
    before = daily_bars(daily, _one_before(daily, previous))
    return SnapshotColumns(
        symbols=symbols,
        trade_at=newest.at,
        trade_price=newest.price / intrabar_path.UNITS,
        trade_size=newest.size,
        quote_at=np.where(traded, quotes.at, -1),
        bid=np.where(traded, quotes.bid, 0) / intrabar_path.UNITS,
        ask=np.where(traded, quotes.ask, 0) / intrabar_path.UNITS,
        bid_size=np.where(traded, quotes.bid_size, 0),
        ask_size=np.where(traded, quotes.ask_size, 0),
        minute=minute,
        daily=choose(has_today, today, yesterday),
        previous=choose(has_today, yesterday, before),
    )


def minute_bars(bars: BarTable, numbers: Ints, at: int) -> BarColumns:
    """The newest finished minute with a trade, of each number; `starts` -1 without one."""
    if not len(bars.key):
        return nothing(len(numbers))
    ended = at // 60 * 60
    rows = bars.last(numbers, ended - 1)
    walk = bars.walk(rows)
    start = bars.key[rows] % SECONDS
    end = intrabar_path.newest(walk, ended - 1 - start)
    minute = intrabar_path.offset(walk, end) // 60 * 60
    columns = section(walk, intrabar_path.oldest(walk, minute), end, start + minute)
    return choose(rows >= 0, columns, nothing(len(numbers)))


def section(walk: intrabar_path.Walk, begin: Ints, end: Ints, starts: Ints) -> BarColumns:
    """The bars made of prints `begin` to `end`, both included, of each walk."""
    open_, close = intrabar_path.price(walk, begin), intrabar_path.price(walk, end)
    high, low = intrabar_path.highest(walk, begin, end), intrabar_path.lowest(walk, begin, end)
    # a stretch from within a bar tells its average by its four prices
    mean: Floats = np.where(begin == 0, intrabar_path.mean(walk, end), (open_ + high + low + close) / 4)
    mean = np.clip(mean, low, high)
    volume = intrabar_path.traded(walk, end) - intrabar_path.traded(walk, begin - 1)
    return columns_of(starts, open_, high, low, close, volume, mean, end - begin + 1)


def running_days(bars: BarTable, numbers: Ints, moment: Moment) -> BarColumns:
    """Today's bar so far, of each number; `starts` -1 before the first regular trade."""
    if not moment.opens or not len(bars.key) or moment.at < moment.opens:
        return nothing(len(numbers))
    day = bars.first(numbers, moment.midnight)
    first = bars.first(numbers, moment.opens)
    newest = bars.last(numbers, moment.at)
    last = np.minimum(newest, bars.first(numbers, moment.closes) - 1)
    has = last >= first
    walk = bars.walk(last)
    end = intrabar_path.newest(walk, np.maximum(moment.at - bars.key[last] % SECONDS, 0))
    start = np.zeros_like(end)
    high, low = bars.extremes(first, last)
    high = np.maximum(high, intrabar_path.highest(walk, start, end))
    low = np.minimum(low, intrabar_path.lowest(walk, start, end))
    running = bars.walk(newest)
    number = intrabar_path.newest(running, np.maximum(moment.at - bars.key[newest] % SECONDS, 0))
    volume = bars.shares[newest] - bars.shares[day] + intrabar_path.traded(running, number)
    value = (
        bars.value[last] - bars.value[first] + intrabar_path.mean(walk, end) * intrabar_path.traded(walk, end)
    )
    shares = bars.shares[last] - bars.shares[first] + intrabar_path.traded(walk, end)
    mean = np.clip(value / np.maximum(shares, 1), low, high)
    open_ = bars.open[np.minimum(first, len(bars.key) - 1)]
    trades = np.maximum(volume // SHARES_PER_TRADE, 1)
    midnight = np.full(len(numbers), moment.midnight)
    columns = columns_of(midnight, open_, high, low, intrabar_path.price(walk, end), volume, mean, trades)
    return choose(has, columns, nothing(len(numbers)))


def daily_bars(daily: BarTable, rows: Ints) -> BarColumns:
    """The daily bars in `rows`; `starts` -1 for a negative row."""
    if not len(daily.key):
        return nothing(len(rows))
    open_, high, low, close = daily.open[rows], daily.high[rows], daily.low[rows], daily.close[rows]
    volume = daily.volume[rows]
    mean, trades = (high + low + close) / 3, np.maximum(volume // SHARES_PER_TRADE, 1)
    columns = columns_of(daily.key[rows] % SECONDS, open_, high, low, close, volume, mean, trades)
    return choose(rows >= 0, columns, nothing(len(rows)))


def columns_of(
    starts: Ints, open_: Ints, high: Ints, low: Ints, close: Ints, volume: Ints, mean: Floats, trades: Ints
) -> BarColumns:
    """Bars in dollars from bars in units."""
    return BarColumns(
        starts,
        open_ / intrabar_path.UNITS,
        high / intrabar_path.UNITS,
        low / intrabar_path.UNITS,
        close / intrabar_path.UNITS,
        volume,
        np.round(mean / intrabar_path.UNITS, 6),
        trades,
    )


def nothing(count: int) -> BarColumns:
    """`count` bars that are not there."""
    zero, none = np.zeros(count), np.zeros(count, dtype=np.int64)
    return BarColumns(np.full(count, -1), zero, zero, zero, zero, none, zero, none)


def choose(first: NDArray[np.bool_], one: BarColumns, other: BarColumns) -> BarColumns:
    """Row by row, `one` where `first` is true, else `other`."""
    return BarColumns(*(np.where(first, getattr(one, name), getattr(other, name)) for name in FIELDS))


def copied(bars: BarColumns) -> BarColumns:
    """The same bars in arrays of their own."""
    return BarColumns(*(getattr(bars, name).copy() for name in FIELDS))


def put(bars: BarColumns, row: int, one: BarColumns) -> None:
    """Write the single bar `one` over a row, be it there or not."""
    for name in FIELDS:
        getattr(bars, name)[row] = getattr(one, name)[0]


def _one_before(daily: BarTable, rows: Ints) -> Ints:
    """The row of the same symbol before each of `rows`; -1 without one."""
    if not len(daily.key):
        return rows
    same = (rows > 0) & (daily.key[rows - 1] // SECONDS == daily.key[rows] // SECONDS)
    return np.where(same, rows - 1, -1)
