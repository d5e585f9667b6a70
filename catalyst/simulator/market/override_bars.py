"""Bars of symbols with overrides, and trades with their late reports, cancels and corrections."""

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

FIRST_OVERRIDE_NUMBER: Final = 5_000  # first `Print.number` of override trades; the market's own are smaller
FIRST_LATE_NUMBER: Final = 9_000
_ONE_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)
_INSTANT: Final = timedelta(microseconds=1)
_LOOKBACK: Final = timedelta(days=14)  # contains at least two sessions, whatever the holidays

TradeReader = Callable[[str, datetime, datetime, datetime], Sequence[Print]]


@dataclass(slots=True)
class ReportedTrades:
    """Late trades, and updates of published trades, each with the instant from which on it is known."""

    late: list[tuple[datetime, Print]] = field(default_factory=list)
    _updates: dict[tuple[datetime, int], tuple[datetime, str]] = field(default_factory=dict)

    def apply_correction(self, announcement: TradeCancel | TradeCorrection) -> None:
        """Store a cancel or a correction; the replacement of a correction becomes a late trade."""
        key = (announcement.trade.at, announcement.trade.number)
        if isinstance(announcement, TradeCorrection):
            self._updates[key] = (announcement.at, "incorrect")
            self.late.append((announcement.at, replace(announcement.replacement, update="corrected")))
        else:
            self._updates[key] = (announcement.at, "canceled")

    def trades_as_of(
        self, prints: Sequence[Print], after: datetime, until: datetime, at: datetime
    ) -> Sequence[Print]:
        """Return `prints` and the late trades of (after, until], each with its update as of `at`."""
        late = [trade for arrived, trade in self.late if arrived <= at and after < trade.at <= until]
        trades = sorted([*prints, *late], key=lambda each: (each.at, each.number)) if late else prints
        return [self._with_update(each, at) for each in trades] if self._updates else trades

    def _with_update(self, trade: Print, at: datetime) -> Print:
        updated_at, update = self._updates.get((trade.at, trade.number), (at, ""))
        return replace(trade, update=update) if update and updated_at <= at else trade


@dataclass(frozen=True, slots=True)
class OverrideBars:
    """Bars of `symbol` as of `at`: the market's own up to `since`, later ones made from `trades`."""

    market: Market
    trades: TradeReader
    symbol: str
    since: datetime
    at: datetime

    def bars(self, length: timedelta, start: datetime, end: datetime) -> BarColumns:
        """Return bars as `Market.bars` does."""
        market_bars = self.market.bars(self.symbol, length, start, end, self.at)
        if length == _ONE_DAY:
            return self._with_today(market_bars, start, end)
        seconds = int(length.total_seconds())
        override_start = int(self.since.timestamp()) // seconds * seconds
        ticks = self._ticks(datetime.fromtimestamp(override_start, UTC) - _INSTANT)
        begin, last = -int(-start.timestamp() // 1), int(self.at.timestamp()) - seconds
        override_bars = ticks.bars(seconds, max(begin, override_start), min(int(end.timestamp()), last))
        return concatenate_bars(
            [select_rows(market_bars, np.flatnonzero(market_bars.starts < override_start)), override_bars]
        )

    def snapshot_bars(self) -> dict[str, BarColumns]:
        """Return the bars of a snapshot, one row each: `daily`, `previous` and, when there is one, `minute`."""
        midnight = calendar.midnight(calendar.trading_day(self.at))
        minutes = self.bars(_MINUTE, midnight, self.at)
        days = self.bars(_ONE_DAY, self.at - _LOOKBACK, self.at)
        day_parts = {"daily": _row_from_end(days, -1), "previous": _row_from_end(days, -2)}
        return {"minute": _row_from_end(minutes, -1), **day_parts} if len(minutes.starts) else day_parts

    def _ticks(self, after: datetime) -> Ticks:
        return Ticks.of([t for t in self.trades(self.symbol, after, self.at, self.at) if t.is_valid])

    def _with_today(self, market_bars: BarColumns, start: datetime, end: datetime) -> BarColumns:
        """Return the daily bars; today's is made of the market's bar at `since` and the trades after it."""
        day = calendar.trading_day(self.at)
        midnight, session = calendar.midnight(day), calendar.session(day)
        if session is None or not start <= midnight <= end:
            return market_bars
        second = int(midnight.timestamp())
        instant = Instant(
            int(self.at.timestamp()), second, int(session.open.timestamp()), int(session.close.timestamp())
        )
        before = self.market.bars(self.symbol, _ONE_DAY, midnight, midnight, self.since)
        later = self._ticks(max(self.since, midnight.astimezone(UTC) - _INSTANT)).running_day_bar(instant)
        today = _merge_day_bars(before, later)
        return concatenate_bars(
            [select_rows(market_bars, np.flatnonzero(market_bars.starts < second)), today]
        )


def _merge_day_bars(before: BarColumns, after: BarColumns) -> BarColumns:
    """Merge the bars of two parts of one day into one bar; either may be missing."""
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
    """Return one row, counted from the end; a missing bar when there are too few rows."""
    return select_rows(bars, slice(row, row + 1 or None)) if len(bars.starts) >= -row else missing_bars(1)
