"""Trades as they are told afterwards, and the bars of a symbol whose tape was touched by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from catalyst.simulator.market import calendar
from catalyst.simulator.market.aggregation import concatenate_bars, select_rows
from catalyst.simulator.market.announcements import TradeCancel, TradeCorrection
from catalyst.simulator.market.interface import BarColumns, Market, Print
from catalyst.simulator.market.snapshots import Instant, missing_bars
from catalyst.simulator.market.ticks import Ticks

FIRST_OVERRIDE_NUMBER: Final = 5_000  # `Print.number` of trades by hand begins here: never one of the tape's
FIRST_LATE_NUMBER: Final = 9_000
_ONE_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)
_INSTANT: Final = timedelta(microseconds=1)
_LOOKBACK: Final = timedelta(days=14)  # two sessions lie within, whatever the holidays

TradeReader = Callable[[str, datetime, datetime, datetime], Sequence[Print]]


@dataclass(slots=True)
class ReportedTrades:
    """Trades reported late, and those taken back, each with the instant from which on that is known."""

    late: list[tuple[datetime, Print]] = field(default_factory=list)
    _updates: dict[tuple[datetime, int], tuple[datetime, str]] = field(default_factory=dict)

    def apply_correction(self, announcement: TradeCancel | TradeCorrection) -> None:
        """Note that a trade is no more, and what stands in its place."""
        key = (announcement.trade.at, announcement.trade.number)
        if isinstance(announcement, TradeCorrection):
            self._updates[key] = (announcement.at, "incorrect")
            self.late.append((announcement.at, replace(announcement.replacement, update="corrected")))
        else:
            self._updates[key] = (announcement.at, "canceled")

    def trades_as_of(
        self, prints: Sequence[Print], after: datetime, until: datetime, at: datetime
    ) -> Sequence[Print]:
        """`prints` and the late ones of (after, until], each marked with what is known of it at `at`."""
        late = [trade for arrived, trade in self.late if arrived <= at and after < trade.at <= until]
        found = sorted([*prints, *late], key=lambda each: (each.at, each.number)) if late else prints
        return [self._with_update(each, at) for each in found] if self._updates else found

    def _with_update(self, trade: Print, at: datetime) -> Print:
        known, update = self._updates.get((trade.at, trade.number), (at, ""))
        return replace(trade, update=update) if update and known <= at else trade


@dataclass(frozen=True, slots=True)
class OverrideBars:
    """The bars of `symbol` as of `at`: the market's up to `since`, then made from the trades told."""

    market: Market
    trades: TradeReader
    symbol: str
    since: datetime
    at: datetime

    def bars(self, length: timedelta, start: datetime, end: datetime) -> BarColumns:
        """As `Market.bars`."""
        market_bars = self.market.bars(self.symbol, length, start, end, self.at)
        if length == _ONE_DAY:
            return self._with_today(market_bars, start, end)
        seconds = int(length.total_seconds())
        first = int(self.since.timestamp()) // seconds * seconds
        ticks = self._ticks(datetime.fromtimestamp(first, UTC) - _INSTANT)
        begin, last = -int(-start.timestamp() // 1), int(self.at.timestamp()) - seconds
        own = ticks.bars(seconds, max(begin, first), min(int(end.timestamp()), last))
        return concatenate_bars([select_rows(market_bars, np.flatnonzero(market_bars.starts < first)), own])

    def snapshot_bars(self) -> dict[str, BarColumns]:
        """The parts of a snapshot that bars are: `minute`, `daily` and `previous`, one row each."""
        midnight = calendar.midnight(calendar.trading_day(self.at))
        minutes = self.bars(_MINUTE, midnight, self.at)
        days = self.bars(_ONE_DAY, self.at - _LOOKBACK, self.at)
        found = {"daily": _row_from_end(days, -1), "previous": _row_from_end(days, -2)}
        return {"minute": _row_from_end(minutes, -1), **found} if len(minutes.starts) else found

    def _ticks(self, after: datetime) -> Ticks:
        return Ticks.of([t for t in self.trades(self.symbol, after, self.at, self.at) if t.is_valid])

    def _with_today(self, market_bars: BarColumns, start: datetime, end: datetime) -> BarColumns:
        """The daily bars, today's made of what it was at `since` and the trades after."""
        day = calendar.trading_day(self.at)
        midnight, session = calendar.midnight(day), calendar.session(day)
        if session is None or not start <= midnight <= end:
            return market_bars
        second = int(midnight.timestamp())
        instant = Instant(
            int(self.at.timestamp()), second, int(session.open.timestamp()), int(session.close.timestamp())
        )
        before = self.market.bars(self.symbol, _ONE_DAY, midnight, midnight, self.since)
        own = self._ticks(max(self.since, midnight.astimezone(UTC) - _INSTANT)).running_day_bar(instant)
        today = _merge_day_bars(before, own)
        return concatenate_bars(
            [select_rows(market_bars, np.flatnonzero(market_bars.starts < second)), today]
        )


def _merge_day_bars(before: BarColumns, after: BarColumns) -> BarColumns:
    """Two stretches of one day as one bar; either may not be there."""
    if not len(before.starts):
        return select_rows(after, np.flatnonzero(after.starts >= 0))
    if after.starts[0] < 0:
        return before
    volume = before.volume + after.volume
    value = before.vwap * before.volume + after.vwap * after.volume
    return BarColumns(
        before.starts,
        before.open,
        np.maximum(before.high, after.high),
        np.minimum(before.low, after.low),
        after.close,
        volume,
        np.round(value / np.maximum(volume, 1), 6),
        before.trades + after.trades,
    )


def _row_from_end(bars: BarColumns, row: int) -> BarColumns:
    """One row, counted from the end; none when there are too few."""
    return select_rows(bars, slice(row, row + 1 or None)) if len(bars.starts) >= -row else missing_bars(1)
