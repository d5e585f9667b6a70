"""The account's past: its equity and profit at each step of a period.

Days come from the equity kept at each close. Inside a day the equity is computed again, from the executions, the
fees and the transfers up to each instant and the market's trades: nothing is sampled, and a restart loses nothing.
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
from catalyst.simulator.exchange.venue import Venue
from catalyst.simulator.market.interface import Session
from catalyst.simulator.rules.trading_hours import POST_CLOSE, PRE_OPEN, day_of
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, Refusal, instant, names, type_json

DAY: Final = timedelta(days=1)
MOMENT: Final = timedelta(microseconds=1)
FRAMES: Final = {
    "1Min": timedelta(minutes=1),
    "5Min": timedelta(minutes=5),
    "15Min": timedelta(minutes=15),
    "1H": timedelta(hours=1),
    "1D": DAY,
}
REPORTINGS: Final = ("market_hours", "extended_hours", "continuous")
LONGEST_INTRADAY: Final = timedelta(days=30)
NOMINAL: Final = {"D": 1, "W": 7, "M": 30, "A": 365}  # days
LONGEST_PERIOD: Final = 4000  # of any unit
CASHFLOWS: Final = ("CSD", "CSW", "FEE")


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What GET /v2/account/portfolio/history was asked for."""

    start: datetime
    end: datetime
    frame: str
    reporting: str
    per_day: bool
    cashflows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One step: its label, the instant it is valued at, and the session day it belongs to."""

    label: datetime
    at: datetime
    day: date


def read_history(venue: Venue, query: Mapping[str, str]) -> HistoryQuery:
    """The question in a query string. Raises Refusal (422)."""
    given = [name for name in ("period", "start", "end") if query.get(name)]
    if len(given) == 3:
        raise Refusal(422, BAD_PARAMETER, "only two of start, end and period can be specified")
    start, end = _range(venue, query)
    if start > end:
        raise Refusal(422, BAD_PARAMETER, "start must not be after end")
    length = end - start if len(given) == 2 and not query.get("period") else _nominal(query.get("period"))
    frame = query.get("timeframe") or _usual(length)
    if frame not in FRAMES:
        raise Refusal(422, BAD_PARAMETER, f"invalid timeframe: {frame}")
    if frame != "1D" and length > LONGEST_INTRADAY:
        raise Refusal(422, BAD_PARAMETER, "only 1D timeframe is supported for periods longer than 30 days")
    # Recorded: the broker answers 200 to `extended_hours=` with a word that is no boolean; here alone it counts as no.
    extended = query.get("extended_hours", "").strip().lower() in {"true", "1", "t", "yes"}
    reporting = query.get("intraday_reporting") or ("extended_hours" if extended else "market_hours")
    if reporting not in REPORTINGS:
        raise Refusal(422, BAD_PARAMETER, f"invalid intraday_reporting: {reporting}")
    reset = query.get("pnl_reset") or "per_day"
    if reset not in {"per_day", "no_reset"}:
        raise Refusal(422, BAD_PARAMETER, f"invalid pnl_reset: {reset}")
    asked = [name.upper() for name in names(query.get("cashflow_types"))]
    flows = CASHFLOWS if asked == ["ALL"] else tuple(name for name in CASHFLOWS if name in asked)
    return HistoryQuery(start, end, frame, reporting, reset == "per_day", flows)


def _range(venue: Venue, query: Mapping[str, str]) -> tuple[datetime, datetime]:
    """From where to where: a period ends at `end`, or begins at `start`; `date_end` is the older name of a last day."""
    start = instant(query["start"], "start") if query.get("start") else None
    end = instant(query["end"], "end") if query.get("end") else None
    if end is None and query.get("date_end"):
        last = instant(query["date_end"], "date_end").astimezone(NEW_YORK).date()
        end = _midnight(last + DAY) - MOMENT
    if start is not None and query.get("period"):
        return start, _moved(start, query["period"], 1) - MOMENT
    end = venue.now if end is None else end
    return (start or _moved(end, query.get("period") or "1M", -1)), end


def _moved(at: datetime, period: str, sign: int) -> datetime:
    """A period away, at New York's midnight before or after. Days and weeks count the last day as one of them."""
    number, unit = _parsed(period)
    day = at.astimezone(NEW_YORK).date()
    if unit in "DW":
        days = number * (7 if unit == "W" else 1)
        return _midnight(day + sign * DAY * (days - 1)) if sign < 0 else _midnight(day + DAY * days)
    months = number * (12 if unit == "A" else 1)
    return _midnight(_months_away(day, sign * months))


def _parsed(period: str) -> tuple[int, str]:
    found = re.fullmatch(r"([0-9]{1,4})([DWMA])", period.strip().upper())
    if found is None or not 0 < int(found[1]) <= LONGEST_PERIOD:
        raise Refusal(422, BAD_PARAMETER, f"invalid period: {period}")
    return int(found[1]), found[2]


def _nominal(period: str | None) -> timedelta:
    number, unit = _parsed(period or "1M")
    return timedelta(days=number * NOMINAL[unit])


def _months_away(day: date, months: int) -> date:
    """The same day of another month, or that month's last."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    if not 1 <= year < 9999:
        raise Refusal(422, BAD_PARAMETER, "invalid period: too long")
    last = (date(year + month // 11, (month + 1) % 12 + 1, 1) - DAY).day
    return date(year, month + 1, min(day.day, last))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), NEW_YORK)


def _usual(length: timedelta) -> str:
    """The timeframe of a question that names none."""
    if length < timedelta(days=7):
        return "1Min"
    return "15Min" if length < timedelta(days=30) else "1D"


# ---------------------------------------------------------------------- the points


def history_view(venue: Venue, query: HistoryQuery) -> type_json:
    """Equity and profit at each step; profit is without the money that came in or went out."""
    steps = _days(venue, query) if query.frame == "1D" else _steps(venue, query)
    points = [point for point in steps if point.at >= venue.account.created_at]
    worth = [float(value) for value in _equities(venue, query, points)]
    base, since = _base(venue, points)
    gains, shares = [], []
    reset, reset_at = base, since
    for index, point in enumerate(points):
        if base is None or reset is None:
            base, since = _first(venue, point, worth[index])
            reset, reset_at = base, since
        elif index and query.per_day and query.frame != "1D" and point.day != points[index - 1].day:
            kept = _close_before(venue, point.day)
            if kept is not None:
                reset_at, reset = kept
        assert reset is not None
        moved = _transferred(venue, reset_at, point.at)
        gain = worth[index] - float(reset) - float(moved)
        gains.append(round(gain, 4))
        shares.append(gain / float(reset) if reset else 0.0)
    view: type_json = {
        "timestamp": [int(point.label.timestamp()) for point in points],
        "equity": worth,
        "profit_loss": gains,
        "profit_loss_pct": shares,
        "base_value": float(base or 0),
        "timeframe": query.frame,
        "cashflow": _cashflows(venue, query, points),
    }
    if points and (kept := _close_before(venue, points[0].day)) is not None:
        view["base_value_asof"] = day_of(kept[0]).isoformat()
    return view


def _first(venue: Venue, point: Point, worth: float) -> tuple[Decimal, datetime]:
    """The base of an account without an earlier close: what it began with."""
    opening = venue.transfers[0]
    if opening.at <= point.at:
        return opening.amount, opening.at
    return Decimal(str(worth)), point.at


def _base(venue: Venue, points: Sequence[Point]) -> tuple[Decimal | None, datetime]:
    kept = _close_before(venue, points[0].day) if points else None
    return (None, venue.now) if kept is None else (kept[1], kept[0])


def _close_before(venue: Venue, day: date) -> tuple[datetime, Decimal] | None:
    """The last equity kept before this day."""
    index = bisect_left(venue.equity_history, day, key=lambda row: day_of(row[0]))
    return venue.equity_history[index - 1] if index else None


def _sessions(venue: Venue, query: HistoryQuery) -> Sequence[Session]:
    """The sessions asked for, from the one in which the account was opened, to the running one."""
    first = max(day_of(query.start), day_of(venue.account.created_at))
    last = min(day_of(query.end), day_of(venue.now))
    if first > last:
        return []
    return [session for session in venue.market.sessions(first, last) if session.open <= venue.now]


def _days(venue: Venue, query: HistoryQuery) -> Iterator[Point]:
    """A point a session, labelled with the end of its extended hours as the broker's own examples are."""
    for session in _sessions(venue, query):
        label = datetime.combine(session.day, POST_CLOSE, NEW_YORK)
        yield Point(label, min(session.close, venue.now), session.day)


def _steps(venue: Venue, query: HistoryQuery) -> Iterator[Point]:
    """A point a step: of each session, of its extended hours too, or of the whole clock."""
    frame = FRAMES[query.frame]
    if query.reporting == "continuous":
        origin = max(query.start, venue.account.created_at)
        at = datetime.fromtimestamp(
            origin.timestamp() // frame.total_seconds() * frame.total_seconds(), NEW_YORK
        )
        while at <= min(query.end, venue.now):
            yield Point(at, min(at + frame - MOMENT, venue.now), day_of(at))
            at += frame
        return
    for session in _sessions(venue, query):
        at, last = session.open, session.close
        if query.reporting == "extended_hours":
            at = datetime.combine(session.day, PRE_OPEN, NEW_YORK)
            last = datetime.combine(session.day, POST_CLOSE, NEW_YORK)
        begins = at
        while at <= min(last, query.end, venue.now):
            if begins + frame > query.start or at + frame > query.start:
                yield Point(at, min(at + frame - MOMENT, last, venue.now), session.day)
            at += frame


# ---------------------------------------------------------------------- what it was worth


def _equities(venue: Venue, query: HistoryQuery, points: Sequence[Point]) -> Iterator[Decimal]:
    if query.frame == "1D":
        kept = {day_of(at): equity for at, equity in venue.equity_history}
        for point in points:
            yield kept[point.day] if point.day in kept else _worth(venue, point.at)
        return
    yield from Past(venue).equities([point.at for point in points])


def _worth(venue: Venue, at: datetime) -> Decimal:
    return venue.account.equity(venue.mark) if at == venue.now else next(iter(Past(venue).equities([at])))


class Past:
    """Cash and shares as they were, found by living through every booking once."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._cash = Decimal(0)
        self._qty: dict[str, Decimal] = defaultdict(Decimal)
        self._paid: dict[str, Decimal] = {}

    def equities(self, instants: Sequence[datetime]) -> Iterator[Decimal]:
        """The equity at each instant; the instants must ascend."""
        venue = self._venue
        moves = sorted(
            [*((t.at, t.amount) for t in venue.transfers), *((f.at, -f.amount) for f in venue.fees)]
        )
        moved = traded = 0
        for at in instants:
            while moved < len(moves) and moves[moved][0] <= at:
                self._cash += moves[moved][1]
                moved += 1
            while traded < len(venue.executions) and venue.executions[traded].at <= at:
                execution = venue.executions[traded]
                signed = execution.side.sign * execution.qty
                self._cash -= signed * execution.price
                self._qty[execution.symbol] += signed
                self._paid[execution.symbol] = execution.price
                traded += 1
            yield self._cash + sum((self._value(symbol, at) for symbol in self._qty), Decimal(0))

    def _value(self, symbol: str, at: datetime) -> Decimal:
        qty = self._qty[symbol]
        if not qty:
            return Decimal(0)
        last = self._venue.market.last_print(symbol, at)
        return qty * (self._paid[symbol] if last is None else last.price)


def _flows(venue: Venue) -> Iterator[tuple[str, datetime, Decimal]]:
    for move in venue.transfers[1:]:
        yield ("CSD" if move.amount >= 0 else "CSW"), move.at, move.amount
    for fee in venue.fees:
        yield "FEE", fee.at, -fee.amount


def _transferred(venue: Venue, after: datetime, until: datetime) -> Decimal:
    return sum((m.amount for m in venue.transfers if after < m.at <= until), Decimal(0))


def _cashflows(venue: Venue, query: HistoryQuery, points: Sequence[Point]) -> type_json:
    """Of each type asked for that moved money: the sum within each step."""
    shown: dict[str, list[float]] = {}
    if not points:
        return {}
    ends = [point.at for point in points]
    for kind, at, amount in _flows(venue):
        index = bisect_left(ends, at)
        if kind in query.cashflows and index < len(ends) and day_of(at) >= points[0].day:
            shown.setdefault(kind, [0.0] * len(points))[index] += float(amount)
    return dict(shown)
