"""Parameters of market data requests: parsing, checks, and the broker's errors for invalid values."""

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

from catalyst.simulator.market import calendar
from catalyst.simulator.rules.wire_format import parse_count, within_range

FEEDS: Final = frozenset({"iex", "sip", "otc", "boats"})
LATEST_FEEDS: Final = FEEDS | {"delayed_sip", "overnight"}  # the history endpoints accept neither
DELAY: Final = timedelta(minutes=15)  # of delayed_sip; newer SIP data is "recent"
MAX_ROWS: Final = 10_000
_TIMEFRAME: Final = re.compile(r"([0-9]{1,2})(Min|T|Hour|H|Day|D|Week|W|Month|M)")
_TIMEFRAME_UNITS: Final = {
    "Min": timedelta(minutes=1),
    "T": timedelta(minutes=1),
    "Hour": timedelta(hours=1),
    "H": timedelta(hours=1),
    "Day": timedelta(days=1),
    "D": timedelta(days=1),
}
_MAX_TIMEFRAME_COUNT: Final = {"Min": 59, "T": 59, "Hour": 23, "H": 23, "Day": 1, "D": 1, "Week": 1, "W": 1}
_MONTH_COUNTS: Final = (1, 2, 3, 4, 6, 12)
ADJUSTMENTS: Final = frozenset({"raw", "split", "dividend", "spin-off", "all"})
ACTION_TYPES: Final = frozenset(
    {
        "reverse_split",
        "forward_split",
        "unit_split",
        "cash_dividend",
        "stock_dividend",
        "spin_off",
        "cash_merger",
        "stock_merger",
        "stock_and_cash_merger",
        "redemption",
        "name_change",
        "worthless_removal",
        "rights_distribution",
        "partial_call",
        "reorganization",
    }
)
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_SYMBOL: Final = re.compile(r"[A-Z0-9]+([./-][A-Z0-9]+)*")


class DataApiError(Exception):
    """The broker's error response: an HTTP status, a message, and for some errors a code."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass(slots=True)
class Entitlements:
    """The account's data subscription, the proxy's limit on the request target in characters, and the name changes of
    the day: old symbol → new symbol.

    All may change at any time.
    """

    recent_sip: bool = True
    url_limit: int = 8000
    name_changes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Weeks:
    """Weeks, from Monday to Sunday."""

    def begin(self, day: date) -> date:
        """Return the first day of the week of `day`."""
        return day - timedelta(days=day.weekday())

    def end(self, day: date) -> date:
        """Return the first day of the next week."""
        return self.begin(day) + timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Months:
    """Periods of `count` months, counted from January."""

    count: int

    def begin(self, day: date) -> date:
        """Return the first day of the period of `day`."""
        return date(day.year, (day.month - 1) // self.count * self.count + 1, 1)

    def end(self, day: date) -> date:
        """Return the first day of the next period."""
        first = self.begin(day)
        month = first.month - 1 + self.count
        return date(first.year + month // 12, month % 12 + 1, 1)


BarLength = timedelta | Weeks | Months


@dataclass(frozen=True, slots=True)
class HistoryRange:
    """A requested time range of history, served in pages of at most `limit` rows."""

    start: datetime
    end: datetime
    limit: int
    descending: bool
    token: str | None


def check_param_names(query: Mapping[str, str], *allowed: str) -> None:
    """Raise DataApiError (400) for a parameter that the endpoint does not have."""
    unexpected = [name for name in query if name not in allowed]
    if unexpected:
        raise DataApiError(400, f"unexpected parameter(s): {', '.join(unexpected)}")


def symbols_of(query: Mapping[str, str]) -> Sequence[str]:
    """Return the requested symbols in order, each once."""
    requested = [symbol for symbol in query.get("symbols", "").split(",") if symbol]
    if not requested:
        raise DataApiError(400, "symbols is required")
    for symbol in requested:
        if not _SYMBOL.fullmatch(symbol):
            raise DataApiError(400, f"invalid symbol: {symbol}")
    return list(dict.fromkeys(requested))


def feed_of(query: Mapping[str, str], feeds: AbstractSet[str] = FEEDS) -> str | None:
    """Return the requested feed; None means that the account's subscription decides."""
    feed = query.get("feed")
    if feed is not None and feed not in feeds:
        raise DataApiError(400, f"invalid feed: {feed}")
    return feed


def bar_length_of(query: Mapping[str, str]) -> BarLength:
    """Return the requested bar length.

    Valid are 1 to 59 minutes, 1 to 23 hours, a day, a week, or a divisor of twelve months.
    """
    text = query.get("timeframe", "")
    parsed = _TIMEFRAME.fullmatch(text)
    if parsed and parsed[2] in ("Month", "M") and int(parsed[1]) in _MONTH_COUNTS:
        return Months(int(parsed[1]))
    if not parsed or not 1 <= int(parsed[1]) <= _MAX_TIMEFRAME_COUNT.get(parsed[2], 0):
        raise DataApiError(400, f"invalid timeframe: {text}")
    return Weeks() if parsed[2] in ("Week", "W") else int(parsed[1]) * _TIMEFRAME_UNITS[parsed[2]]


def check_common_params(query: Mapping[str, str]) -> None:
    """Raise DataApiError (400) for an invalid `adjustment`, `asof` or `currency`. Valid values change nothing.

    The bars here have no splits or dividends, the listings no former names, and all prices are in dollars.
    """
    adjustment = query.get("adjustment", "raw")
    if not ADJUSTMENTS.issuperset(adjustment.split(",")):
        raise DataApiError(400, f"invalid adjustment: {adjustment}")
    asof = query.get("asof", "-")
    try:
        if asof != "-":
            date.fromisoformat(asof)
    except ValueError:
        raise DataApiError(400, f"invalid asof: {asof}") from None
    currency = query.get("currency", "USD")
    if not _CURRENCY.fullmatch(currency):
        raise DataApiError(400, f"invalid currency: {currency}")


def check_corporate_action_params(query: Mapping[str, str]) -> None:
    """Raise DataApiError (400) for an invalid request of corporate actions."""
    check_param_names(
        query, "symbols", "cusips", "types", "region", "start", "end", "ids", "limit", "page_token", "sort"
    )
    if query.get("ids") and any(query.get(name) for name in ("symbols", "types", "start", "end")):
        raise DataApiError(400, "ids is mutually exclusive with the other filters")
    invalid = [each for each in query.get("types", "").split(",") if each and each not in ACTION_TYPES]
    if invalid:
        raise DataApiError(400, f"invalid types: {', '.join(invalid)}")
    for name in ("start", "end"):
        time_of(query, name)
    limit_of(query, 100, 1000)
    descending_of(query, "asc")


def history_range_of(query: Mapping[str, str], now: datetime) -> HistoryRange:
    """Return the requested range; by default today, oldest first, 1,000 rows."""
    today = calendar.midnight(calendar.trading_day(now)).astimezone(UTC)
    return HistoryRange(
        start=time_of(query, "start") or today,
        end=time_of(query, "end") or now,
        limit=limit_of(query, 1000, MAX_ROWS),
        descending=descending_of(query, "asc"),
        token=query.get("page_token") or None,
    )


def limit_of(query: Mapping[str, str], default: int, maximum: int) -> int:
    """Return the requested number of rows."""
    text = query.get("limit")
    if text is None:
        return default
    number = parse_count(text)
    if not number:
        raise DataApiError(400, f"invalid limit: {text}")
    if number > maximum:
        raise DataApiError(400, f"invalid limit: larger than the allowed maximum of {maximum}")
    return number


def descending_of(query: Mapping[str, str], default: str) -> bool:
    """Return true when the newest rows come first."""
    sort = query.get("sort", default).lower()
    if sort not in ("asc", "desc"):
        raise DataApiError(400, f"invalid sort: {sort}")
    return sort == "desc"


def time_of(query: Mapping[str, str], name: str) -> datetime | None:
    """Return the time of an RFC 3339 text; of a date its New York midnight, and as `end` the last instant of that
    day: the broker's ranges of dates include both. None without the parameter."""
    text = query.get(name)
    if not text:
        return None
    try:
        if len(text) == len("2026-01-02"):
            midnight = within_range(calendar.midnight(date.fromisoformat(text)))
            return midnight if name != "end" else _end_of_day(midnight)
        at = datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text.replace(" ", "+")))
    except ValueError:
        raise DataApiError(400, f"invalid {name}: {text}") from None
    return within_range(at.replace(tzinfo=UTC) if at.tzinfo is None else at)


def _end_of_day(midnight: datetime) -> datetime:
    """Return the last instant of the New York day that begins then; a day may have 23 or 25 hours."""
    following = calendar.trading_day(midnight) + timedelta(days=1)
    return calendar.midnight(following).astimezone(UTC) - timedelta(microseconds=1)
