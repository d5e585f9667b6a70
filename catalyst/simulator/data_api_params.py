"""What a market data request may say, and how the broker refuses what it may not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from catalyst.simulator import calendar

FEEDS: Final = frozenset({"iex", "sip", "delayed_sip", "otc", "boats", "overnight"})
DELAY: Final = timedelta(minutes=15)  # of delayed_sip, and what "recent" means
MOST_ROWS: Final = 10_000
_TIMEFRAME: Final = re.compile(r"^(\d{1,2})(Min|T|Hour|H|Day|D)$")
_UNITS: Final = {
    "Min": timedelta(minutes=1),
    "T": timedelta(minutes=1),
    "Hour": timedelta(hours=1),
    "H": timedelta(hours=1),
    "Day": timedelta(days=1),
    "D": timedelta(days=1),
}
_LARGEST: Final = {"Min": 59, "T": 59, "Hour": 23, "H": 23, "Day": 1, "D": 1}
_SYMBOL: Final = re.compile(r"^[A-Z0-9]+([./-][A-Z0-9]+)*$")


class RefusalError(Exception):
    """The broker's no: an HTTP status, a sentence, and a code for some."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass(slots=True)
class Entitlements:
    """What the account may see, and how long a request line the proxy lets through; may change at any time."""

    recent_sip: bool = True
    url_limit: int = 8000


@dataclass(frozen=True, slots=True)
class Range:
    """A stretch of history, asked page by page."""

    start: datetime
    end: datetime
    limit: int
    descending: bool
    token: str | None


def only(query: Mapping[str, str], *allowed: str) -> None:
    """Refuse parameters an endpoint does not know."""
    unexpected = [name for name in query if name not in allowed]
    if unexpected:
        raise RefusalError(400, f"unexpected parameter(s): {', '.join(unexpected)}")


def symbols_of(query: Mapping[str, str]) -> Sequence[str]:
    """The asked symbols in order, each once."""
    asked = [symbol for symbol in query.get("symbols", "").split(",") if symbol]
    if not asked:
        raise RefusalError(400, "symbols is required")
    for symbol in asked:
        if not _SYMBOL.match(symbol):
            raise RefusalError(400, f"invalid symbol: {symbol}")
    return list(dict.fromkeys(asked))


def feed_of(query: Mapping[str, str]) -> str | None:
    """The asked feed; None leaves it to the account's subscription."""
    feed = query.get("feed")
    if feed is not None and feed not in FEEDS:
        raise RefusalError(400, f"invalid feed: {feed}")
    return feed


def length_of(query: Mapping[str, str]) -> timedelta:
    """The asked bar length; weeks and months are not served."""
    text = query.get("timeframe", "")
    found = _TIMEFRAME.match(text)
    if not found or not 1 <= int(found[1]) <= _LARGEST[found[2]]:
        raise RefusalError(400, f"invalid timeframe: {text}")
    return int(found[1]) * _UNITS[found[2]]


def range_of(query: Mapping[str, str], now: datetime) -> Range:
    """The asked stretch; by default today, oldest first, 1,000 rows."""
    today = calendar.midnight(calendar.trading_day(now)).astimezone(UTC)
    return Range(
        start=time_of(query, "start") or today,
        end=time_of(query, "end") or now,
        limit=limit_of(query, 1000, MOST_ROWS),
        descending=descending_of(query, "asc"),
        token=query.get("page_token") or None,
    )


def limit_of(query: Mapping[str, str], usual: int, most: int) -> int:
    """The asked number of rows."""
    text = query.get("limit")
    if text is None:
        return usual
    if not text.isdecimal() or int(text) < 1:
        raise RefusalError(400, f"invalid limit: {text}")
    if int(text) > most:
        raise RefusalError(400, f"invalid limit: larger than the allowed maximum of {most}")
    return int(text)


def descending_of(query: Mapping[str, str], usual: str) -> bool:
    """True when the newest come first."""
    sort = query.get("sort", usual).lower()
    if sort not in ("asc", "desc"):
        raise RefusalError(400, f"invalid sort: {sort}")
    return sort == "desc"


def time_of(query: Mapping[str, str], name: str) -> datetime | None:
    """An RFC 3339 time, or the New York midnight of a date."""
    text = query.get(name)
    if not text:
        return None
    try:
        if len(text) == len("2026-01-02"):
            return calendar.midnight(date.fromisoformat(text)).astimezone(UTC)
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace(" ", "+")))
    except ValueError:
        raise RefusalError(400, f"invalid {name}: {text}") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
