"""Portfolio history: equity and profit at each step of a period.

Daily points use the equity stored at each close. Intraday equity is computed from executions, fees and
transfers up to each instant and the market's trades: nothing is sampled, and a restart loses nothing.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange.lifecycle import VenueState
from catalyst.simulator.market.interface import MarketSession
from catalyst.simulator.rules.trading_hours import POST_CLOSE, PRE_OPEN, new_york_date
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    ApiError,
    JsonObject,
    parse_instant,
    split_list,
)

DAY: Final = timedelta(days=1)
ONE_MICROSECOND: Final = timedelta(microseconds=1)
TIMEFRAMES: Final = {
    "1Min": timedelta(minutes=1),
    "5Min": timedelta(minutes=5),
    "15Min": timedelta(minutes=15),
    "1H": timedelta(hours=1),
    "1D": DAY,
}
INTRADAY_REPORTINGS: Final = ("market_hours", "extended_hours", "continuous")
MAX_INTRADAY_PERIOD: Final = timedelta(days=30)
UNIT_DAYS: Final = {"D": 1, "W": 7, "M": 30, "A": 365}  # days
MAX_PERIOD_UNITS: Final = 4000  # of any unit
CASHFLOW_TYPES: Final = ("CSD", "CSW", "FEE")


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Parameters of GET /v2/account/portfolio/history."""

    start: datetime
    end: datetime
    timeframe: str
    reporting: str
    per_day: bool
    cashflows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One step: its label, the instant of its valuation, and its session day."""

    label: datetime
    at: datetime
    day: date


def parse_history_query(state: VenueState, query: Mapping[str, str]) -> HistoryQuery:
    """Parse a query string. Raises ApiError (422)."""
    given = [name for name in ("period", "start", "end") if query.get(name)]
    if len(given) == 3:
        raise ApiError(422, BAD_PARAMETER, "only two of start, end and period can be specified")
    start, end = _parse_range(state, query)
    if start > end:
        raise ApiError(422, BAD_PARAMETER, "start must not be after end")
    length = (
        end - start if len(given) == 2 and not query.get("period") else _nominal_length(query.get("period"))
    )
    frame = query.get("timeframe") or _default_timeframe(length)
    if frame not in TIMEFRAMES:
        raise ApiError(422, BAD_PARAMETER, f"invalid timeframe: {frame}")
    if frame != "1D" and length > MAX_INTRADAY_PERIOD:
        raise ApiError(422, BAD_PARAMETER, "only 1D timeframe is supported for periods longer than 30 days")
    # Recorded: the broker returns 200 for `extended_hours=` with a word that is no boolean; only here it
    # counts as false.
    extended = query.get("extended_hours", "").strip().lower() in {"true", "1", "t", "yes"}
    reporting = query.get("intraday_reporting") or ("extended_hours" if extended else "market_hours")
    if reporting not in INTRADAY_REPORTINGS:
        raise ApiError(422, BAD_PARAMETER, f"invalid intraday_reporting: {reporting}")
    reset = query.get("pnl_reset") or "per_day"
    if reset not in {"per_day", "no_reset"}:
        raise ApiError(422, BAD_PARAMETER, f"invalid pnl_reset: {reset}")
    asked = [name.upper() for name in split_list(query.get("cashflow_types"))]
    flows = CASHFLOW_TYPES if asked == ["ALL"] else tuple(name for name in CASHFLOW_TYPES if name in asked)
    return HistoryQuery(start, end, frame, reporting, reset == "per_day", flows)


def _parse_range(state: VenueState, query: Mapping[str, str]) -> tuple[datetime, datetime]:
    """Return start and end: a period ends at `end`, or begins at `start`; `date_end` is the older name of the
    last day."""
    start = parse_instant(query["start"], "start") if query.get("start") else None
    end = parse_instant(query["end"], "end") if query.get("end") else None
    if end is None and query.get("date_end"):
        last = parse_instant(query["date_end"], "date_end").astimezone(NEW_YORK).date()
        end = _midnight(last + DAY) - ONE_MICROSECOND
    if start is not None and query.get("period"):
        return start, _shift_by_period(start, query["period"], 1) - ONE_MICROSECOND
    end = state.now if end is None else end
    return (start or _shift_by_period(end, query.get("period") or "1M", -1)), end


def _shift_by_period(at: datetime, period: str, sign: int) -> datetime:
    """Return a period away, at New York's midnight before or after. Days and weeks include the last day."""
    number, unit = _parse_period(period)
    day = at.astimezone(NEW_YORK).date()
    if unit in "DW":
        days = number * (7 if unit == "W" else 1)
        return _midnight(day + sign * DAY * (days - 1)) if sign < 0 else _midnight(day + DAY * days)
    months = number * (12 if unit == "A" else 1)
    return _midnight(_months_away(day, sign * months))


def _parse_period(period: str) -> tuple[int, str]:
    found = re.fullmatch(r"([0-9]{1,4})([DWMA])", period.strip().upper())
    if found is None or not 0 < int(found[1]) <= MAX_PERIOD_UNITS:
        raise ApiError(422, BAD_PARAMETER, f"invalid period: {period}")
    return int(found[1]), found[2]


def _nominal_length(period: str | None) -> timedelta:
    number, unit = _parse_period(period or "1M")
    return timedelta(days=number * UNIT_DAYS[unit])


def _months_away(day: date, months: int) -> date:
    """Return this day of another month, or that month's last day."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    if not 1 <= year < 9999:
        raise ApiError(422, BAD_PARAMETER, "invalid period: too long")
    last = (date(year + month // 11, (month + 1) % 12 + 1, 1) - DAY).day
    return date(year, month + 1, min(day.day, last))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), NEW_YORK)


def _default_timeframe(length: timedelta) -> str:
    """Return the timeframe of a query without one."""
    if length < timedelta(days=7):
        return "1Min"
    return "15Min" if length < timedelta(days=30) else "1D"


# ---------------------------------------------------------------------- points


def history_view(state: VenueState, query: HistoryQuery) -> JsonObject:
    """Return equity and profit at each step; profit excludes transfers."""
    steps = _daily_points(state, query) if query.timeframe == "1D" else _intraday_points(state, query)
    points = [point for point in steps if point.at >= state.account.created_at]
    worth = [float(value) for value in _equities(state, query, points)]
    base, since = _base_equity(state, points)
    gains, shares = [], []
    reset, reset_at = base, since
    for index, point in enumerate(points):
        if base is None or reset is None:
            base, since = _initial_base(state, point, worth[index])
            reset, reset_at = base, since
        elif index and query.per_day and query.timeframe != "1D" and point.day != points[index - 1].day:
            kept = _closing_equity_before(state, point.day)
            if kept is not None:
                reset_at, reset = kept
        assert reset is not None
        moved = _net_transfers(state, reset_at, point.at)
        gain = worth[index] - float(reset) - float(moved)
        gains.append(round(gain, 4))
        shares.append(gain / float(reset) if reset else 0.0)
    view: JsonObject = {
        "timestamp": [int(point.label.timestamp()) for point in points],
        "equity": worth,
        "profit_loss": gains,
        "profit_loss_pct": shares,
        "base_value": float(base or 0),
        "timeframe": query.timeframe,
        "cashflow": _cashflows_by_step(state, query, points),
    }
    if points and (kept := _closing_equity_before(state, points[0].day)) is not None:
        view["base_value_asof"] = new_york_date(kept[0]).isoformat()
    return view


def _initial_base(state: VenueState, point: HistoryPoint, equity: float) -> tuple[Decimal, datetime]:
    """Return the base of an account without an earlier close: its opening deposit."""
    opening = state.transfers[0]
    if opening.at <= point.at:
        return opening.amount, opening.at
    return Decimal(str(equity)), point.at


def _base_equity(state: VenueState, points: Sequence[HistoryPoint]) -> tuple[Decimal | None, datetime]:
    kept = _closing_equity_before(state, points[0].day) if points else None
    return (None, state.now) if kept is None else (kept[1], kept[0])


def _closing_equity_before(state: VenueState, day: date) -> tuple[datetime, Decimal] | None:
    """Return the last stored equity before this day."""
    index = bisect_left(state.equity_history, day, key=lambda row: new_york_date(row[0]))
    return state.equity_history[index - 1] if index else None


def _sessions(state: VenueState, query: HistoryQuery) -> Sequence[MarketSession]:
    """Return the requested sessions, from the account's first one to the current one."""
    first = max(new_york_date(query.start), new_york_date(state.account.created_at))
    last = min(new_york_date(query.end), new_york_date(state.now))
    if first > last:
        return []
    return [session for session in state.market.sessions(first, last) if session.open <= state.now]


def _daily_points(state: VenueState, query: HistoryQuery) -> Iterator[HistoryPoint]:
    """Return a point per session, labelled with the end of its extended hours, as the broker's examples are."""
    for session in _sessions(state, query):
        label = datetime.combine(session.day, POST_CLOSE, NEW_YORK)
        yield HistoryPoint(label, min(session.close, state.now), session.day)


def _intraday_points(state: VenueState, query: HistoryQuery) -> Iterator[HistoryPoint]:
    """Return a point per step: of each session, of its extended hours too, or of the whole day."""
    frame = TIMEFRAMES[query.timeframe]
    if query.reporting == "continuous":
        origin = max(query.start, state.account.created_at)
        at = datetime.fromtimestamp(
            origin.timestamp() // frame.total_seconds() * frame.total_seconds(), NEW_YORK
        )
        while at <= min(query.end, state.now):
            yield HistoryPoint(at, min(at + frame - ONE_MICROSECOND, state.now), new_york_date(at))
            at += frame
        return
    for session in _sessions(state, query):
        at, last = session.open, session.close
        if query.reporting == "extended_hours":
            at = datetime.combine(session.day, PRE_OPEN, NEW_YORK)
            last = datetime.combine(session.day, POST_CLOSE, NEW_YORK)
        begins = at
        while at <= min(last, query.end, state.now):
            if begins + frame > query.start or at + frame > query.start:
                yield HistoryPoint(at, min(at + frame - ONE_MICROSECOND, last, state.now), session.day)
            at += frame


# ---------------------------------------------------------------------- valuation


def _equities(state: VenueState, query: HistoryQuery, points: Sequence[HistoryPoint]) -> Iterator[Decimal]:
    if query.timeframe == "1D":
        kept = {new_york_date(at): equity for at, equity in state.equity_history}
        for point in points:
            yield kept[point.day] if point.day in kept else _equity_at(state, point.at)
        return
    yield from EquityReplay(state).equities([point.at for point in points])


def _equity_at(state: VenueState, at: datetime) -> Decimal:
    return (
        state.account.equity(state.mark_price)
        if at == state.now
        else next(iter(EquityReplay(state).equities([at])))
    )


class EquityReplay:
    """Cash and shares at past instants, found by one pass over every booking."""

    def __init__(self, state: VenueState) -> None:
        self._state = state
        self._cash = Decimal(0)
        self._qty: dict[str, Decimal] = defaultdict(Decimal)
        self._last_fill_price: dict[str, Decimal] = {}

    def equities(self, instants: Sequence[datetime]) -> Iterator[Decimal]:
        """Yield the equity at each instant; the instants must ascend."""
        state = self._state
        moves = sorted(
            [*((t.at, t.amount) for t in state.transfers), *((f.at, -f.amount) for f in state.fees)]
        )
        moved = traded = 0
        for at in instants:
            while moved < len(moves) and moves[moved][0] <= at:
                self._cash += moves[moved][1]
                moved += 1
            while traded < len(state.executions) and state.executions[traded].at <= at:
                execution = state.executions[traded]
                signed = execution.side.sign * execution.qty
                self._cash -= signed * execution.price
                self._qty[execution.symbol] += signed
                self._last_fill_price[execution.symbol] = execution.price
                traded += 1
            yield self._cash + sum((self._position_value(symbol, at) for symbol in self._qty), Decimal(0))

    def _position_value(self, symbol: str, at: datetime) -> Decimal:
        qty = self._qty[symbol]
        if not qty:
            return Decimal(0)
        last = self._state.market.last_print(symbol, at)
        return qty * (self._last_fill_price[symbol] if last is None else last.price)


def _cash_movements(state: VenueState) -> Iterator[tuple[str, datetime, Decimal]]:
    for move in state.transfers[1:]:
        yield ("CSD" if move.amount >= 0 else "CSW"), move.at, move.amount
    for fee in state.fees:
        yield "FEE", fee.at, -fee.amount


def _net_transfers(state: VenueState, after: datetime, until: datetime) -> Decimal:
    return sum((m.amount for m in state.transfers if after < m.at <= until), Decimal(0))


def _cashflows_by_step(state: VenueState, query: HistoryQuery, points: Sequence[HistoryPoint]) -> JsonObject:
    """Return for each requested type with cash flows the sum within each step."""
    shown: dict[str, list[float]] = {}
    if not points:
        return {}
    ends = [point.at for point in points]
    for kind, at, amount in _cash_movements(state):
        index = bisect_left(ends, at)
        if kind in query.cashflows and index < len(ends) and new_york_date(at) >= points[0].day:
            shown.setdefault(kind, [0.0] * len(points))[index] += float(amount)
    return dict(shown)
