"""Snapshots: newest trade, quote and bars of any number of symbols at one instant, in array operations.

The daily bar follows the broker's aggregation: prices from regular hours only, volume from all trades of the
day. Therefore a symbol has no bar of today before its first regular trade: `daily` is then the previous
session's bar and `previous` the one before. The bar's start shows which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from catalyst.simulator.market import calendar, intrabar_path
from catalyst.simulator.market.bar_table import KEY_STRIDE, BarTable
from catalyst.simulator.market.interface import BarColumns, Floats, Ints, MarketSession, SnapshotColumns
from catalyst.simulator.market.quote_model import QuoteColumns

CLOSE_SIZE: Final = 100  # shares of the print made from an earlier day's official close
BAR_FIELDS: Final = ("starts", "open", "high", "low", "close", "volume", "vwap", "trades")
SHARES_PER_TRADE: Final = 100  # estimates the number of trades of a daily bar, which has none


@dataclass(frozen=True, slots=True)
class Instant:
    """An instant in its New York day, in epoch seconds; `opens` and `closes` are 0 on a day without a session."""

    at: int
    midnight: int
    opens: int
    closes: int


@dataclass(slots=True)
class SessionTimes:
    """Midnights and closes of a market's sessions, in epoch seconds."""

    midnights: Ints
    closes: Ints
    _cached: Instant = Instant(0, 0, 0, 0)
    _next_midnight: int = 0

    @classmethod
    def of(cls, sessions: Sequence[MarketSession]) -> Self:
        """Return the times of `sessions`, which are in order."""
        midnights = [int(calendar.midnight(session.day).timestamp()) for session in sessions]
        closes = [int(session.close.timestamp()) for session in sessions]
        return cls(np.array(midnights, dtype=np.int64), np.array(closes, dtype=np.int64))

    def instant(self, at: datetime) -> Instant:
        """Return `at` with midnight, open and close of its New York day."""
        second = int(at.timestamp() // 1)
        cached = self._cached
        if cached.at == second:
            return cached
        if not cached.midnight <= second < self._next_midnight:
            cached = self._day_instant(calendar.trading_day(at))
        self._cached = Instant(second, cached.midnight, cached.opens, cached.closes)
        return self._cached

    def _day_instant(self, day: date) -> Instant:
        session = calendar.session(day)
        self._next_midnight = int(calendar.midnight(day + timedelta(days=1)).timestamp())
        return Instant(
            0,
            int(calendar.midnight(day).timestamp()),
            int(session.open.timestamp()) if session else 0,
            int(session.close.timestamp()) if session else 0,
        )

    def close_of(self, midnights: Ints) -> Ints:
        """Return the close of each session whose day begins at one of `midnights`."""
        rows = np.minimum(np.searchsorted(self.midnights, midnights), len(self.midnights) - 1)
        return self.closes[rows]


# A row number, its newest finished minute bar and its running daily bar, one row each.
FinerBars = tuple[int, BarColumns, BarColumns]


@dataclass(frozen=True, slots=True)
class LatestTrades:
    """The newest trade of each symbol; `at` (epoch seconds) is -1 without one."""

    at: Ints
    price: Ints  # units
    size: Ints


def latest_trades(
    bars: BarTable, daily: BarTable, days: SessionTimes, numbers: Ints, instant: Instant
) -> LatestTrades:
    """Return each number's newest print, or its last official close before today when that is newer."""
    none = np.full(len(numbers), -1)
    at, price, size = none, none, none
    if len(bars.key):
        rows = bars.last_rows(numbers, instant.at)
        bar_path = bars.paths(rows)
        number = intrabar_path.last_print_number(bar_path, instant.at - bars.key[rows] % KEY_STRIDE)
        printed_at = bars.key[rows] % KEY_STRIDE + intrabar_path.print_offset(bar_path, number)
        at = np.where(rows >= 0, printed_at, -1)
        price, size = intrabar_path.print_price(bar_path, number), intrabar_path.print_size(bar_path, number)
    if len(daily.key):
        rows = daily.last_rows(numbers, instant.midnight - 1)
        closed_at = np.where(rows >= 0, days.close_of(daily.key[rows] % KEY_STRIDE), -1)
        close_is_newer = closed_at > at
        at = np.where(close_is_newer, closed_at, at)
        price = np.where(close_is_newer, daily.close[rows], price)
        size = np.where(close_is_newer, CLOSE_SIZE, size)
    return LatestTrades(at, np.where(at >= 0, price, 0), np.where(at >= 0, size, 0))


def snapshot_columns(
    symbols: Sequence[str],
    numbers: Ints,
    instant: Instant,
    bars: BarTable,
    daily: BarTable,
    latest: LatestTrades,
    quotes: QuoteColumns,
    finer: Sequence[FinerBars] = (),
) -> SnapshotColumns:
    """Return the snapshots of `numbers` as of `instant`; `finer` replaces bars of rows that have a finer source."""
    today, previous = (
        running_daily_bars(bars, numbers, instant),
        daily.last_rows(numbers, instant.midnight - 1),
    )
    minute = latest_minute_bars(bars, numbers, instant.at)
    if finer:
        today, minute = copy_bars(today), copy_bars(minute)
    for row, last_minute, running in finer:
        write_row(minute, row, last_minute)
        write_row(today, row, running)
    has_today, has_trade = today.starts >= 0, latest.at >= 0
    yesterday = daily_bars(daily, previous)
    day_before = daily_bars(daily, _previous_rows(daily, previous))
    return SnapshotColumns(
        symbols=symbols,
        trade_at=latest.at,
        trade_price=latest.price / intrabar_path.UNITS,
        trade_size=latest.size,
        quote_at=np.where(has_trade, quotes.at, -1),
        bid=np.where(has_trade, quotes.bid, 0) / intrabar_path.UNITS,
        ask=np.where(has_trade, quotes.ask, 0) / intrabar_path.UNITS,
        bid_size=np.where(has_trade, quotes.bid_size, 0),
        ask_size=np.where(has_trade, quotes.ask_size, 0),
        minute=minute,
        daily=select_bars(has_today, today, yesterday),
        previous=select_bars(has_today, yesterday, day_before),
    )


def latest_minute_bars(bars: BarTable, numbers: Ints, at: int) -> BarColumns:
    """Return each number's newest finished minute with a trade; `starts` is -1 without one."""
    if not len(bars.key):
        return missing_bars(len(numbers))
    ended = at // 60 * 60
    rows = bars.last_rows(numbers, ended - 1)
    bar_path = bars.paths(rows)
    start = bars.key[rows] % KEY_STRIDE
    end = intrabar_path.last_print_number(bar_path, ended - 1 - start)
    minute = intrabar_path.print_offset(bar_path, end) // 60 * 60
    columns = bars_of_prints(
        bar_path, intrabar_path.first_print_number(bar_path, minute), end, start + minute
    )
    return select_bars(rows >= 0, columns, missing_bars(len(numbers)))


def bars_of_prints(bar_path: intrabar_path.IntrabarPath, begin: Ints, end: Ints, starts: Ints) -> BarColumns:
    """Return one bar per path, made of its prints `begin` to `end`, both included."""
    open_, close = intrabar_path.print_price(bar_path, begin), intrabar_path.print_price(bar_path, end)
    high, low = (
        intrabar_path.highest_price(bar_path, begin, end),
        intrabar_path.lowest_price(bar_path, begin, end),
    )
    # prints that begin inside a bar have no exact mean: use the average of the four prices
    mean: Floats = np.where(
        begin == 0, intrabar_path.mean_price(bar_path, end), (open_ + high + low + close) / 4
    )
    mean = np.clip(mean, low, high)
    volume = intrabar_path.cumulative_shares(bar_path, end) - intrabar_path.cumulative_shares(
        bar_path, begin - 1
    )
    return bars_in_dollars(starts, open_, high, low, close, volume, mean, end - begin + 1)


def running_daily_bars(bars: BarTable, numbers: Ints, instant: Instant) -> BarColumns:
    """Return each number's bar of today so far; `starts` is -1 before the first regular trade."""
    if not instant.opens or not len(bars.key) or instant.at < instant.opens:
        return missing_bars(len(numbers))
    day_start = bars.first_rows(numbers, instant.midnight)
    first = bars.first_rows(numbers, instant.opens)
    newest = bars.last_rows(numbers, instant.at)
    last = np.minimum(newest, bars.first_rows(numbers, instant.closes) - 1)
    has_trade = last >= first
    bar_path = bars.paths(last)
    end = intrabar_path.last_print_number(bar_path, np.maximum(instant.at - bars.key[last] % KEY_STRIDE, 0))
    start = np.zeros_like(end)
    high, low = bars.extremes(first, last)
    high = np.maximum(high, intrabar_path.highest_price(bar_path, start, end))
    low = np.minimum(low, intrabar_path.lowest_price(bar_path, start, end))
    running = bars.paths(newest)
    number = intrabar_path.last_print_number(
        running, np.maximum(instant.at - bars.key[newest] % KEY_STRIDE, 0)
    )
    volume = (
        bars.cumulative_shares[newest]
        - bars.cumulative_shares[day_start]
        + intrabar_path.cumulative_shares(running, number)
    )
    value = (
        bars.cumulative_value[last]
        - bars.cumulative_value[first]
        + intrabar_path.mean_price(bar_path, end) * intrabar_path.cumulative_shares(bar_path, end)
    )
    shares = (
        bars.cumulative_shares[last]
        - bars.cumulative_shares[first]
        + intrabar_path.cumulative_shares(bar_path, end)
    )
    mean = np.clip(value / np.maximum(shares, 1), low, high)
    open_ = bars.open[np.minimum(first, len(bars.key) - 1)]
    trades = np.maximum(volume // SHARES_PER_TRADE, 1)
    midnight = np.full(len(numbers), instant.midnight)
    columns = bars_in_dollars(
        midnight, open_, high, low, intrabar_path.print_price(bar_path, end), volume, mean, trades
    )
    return select_bars(has_trade, columns, missing_bars(len(numbers)))


def daily_bars(daily: BarTable, rows: Ints) -> BarColumns:
    """Return the daily bars in `rows`; `starts` is -1 for a negative row."""
    if not len(daily.key):
        return missing_bars(len(rows))
    open_, high, low, close = daily.open[rows], daily.high[rows], daily.low[rows], daily.close[rows]
    volume = daily.volume[rows]
    mean, trades = (high + low + close) / 3, np.maximum(volume // SHARES_PER_TRADE, 1)
    columns = bars_in_dollars(daily.key[rows] % KEY_STRIDE, open_, high, low, close, volume, mean, trades)
    return select_bars(rows >= 0, columns, missing_bars(len(rows)))


def bars_in_dollars(
    starts: Ints, open_: Ints, high: Ints, low: Ints, close: Ints, volume: Ints, mean: Floats, trades: Ints
) -> BarColumns:
    """Return bars in dollars from bars in price units."""
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


def missing_bars(count: int) -> BarColumns:
    """Return `count` missing bars: `starts` is -1, the rest is 0."""
    zero_prices, zero_counts = np.zeros(count), np.zeros(count, dtype=np.int64)
    return BarColumns(
        np.full(count, -1),
        zero_prices,
        zero_prices,
        zero_prices,
        zero_prices,
        zero_counts,
        zero_prices,
        zero_counts,
    )


def select_bars(condition: NDArray[np.bool_], chosen: BarColumns, alternative: BarColumns) -> BarColumns:
    """Return row by row the bar of `chosen` where `condition` is true, else the bar of `alternative`."""
    return BarColumns(
        *(np.where(condition, getattr(chosen, name), getattr(alternative, name)) for name in BAR_FIELDS)
    )


def copy_bars(bars: BarColumns) -> BarColumns:
    """Return a copy of the bars."""
    return BarColumns(*(getattr(bars, name).copy() for name in BAR_FIELDS))


def write_row(bars: BarColumns, row: int, bar: BarColumns) -> None:
    """Overwrite a row of `bars` with the single bar `bar`, also when that is missing."""
    for name in BAR_FIELDS:
        getattr(bars, name)[row] = getattr(bar, name)[0]


def _previous_rows(daily: BarTable, rows: Ints) -> Ints:
    """Return the row before each of `rows` when it has the same symbol, else -1."""
    if not len(daily.key):
        return rows
    has_previous = (rows > 0) & (daily.key[rows - 1] // KEY_STRIDE == daily.key[rows] // KEY_STRIDE)
    return np.where(has_previous, rows - 1, -1)
