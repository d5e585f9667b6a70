"""Clock and calendar routes, in the broker's old and new form, and the announcements of corporate actions."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from itertools import zip_longest
from typing import Final

from aiohttp import web

from catalyst.clock import NEW_YORK, Clock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.views import calendar_view
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.interface import MarketSession
from catalyst.simulator.rules.trading_hours import POST_CLOSE, PRE_OPEN, new_york_date
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    BAD_REQUEST,
    ApiError,
    JsonObject,
    format_optional_instant,
    parse_instant,
    split_list,
)
from catalyst.simulator.trading_api.responses import without_body

DAY: Final = timedelta(days=1)
FIRST_CALENDAR_DAY: Final = date(1970, 1, 1)
LAST_CALENDAR_DAY: Final = date(2035, 12, 31)
LAST_DEFAULT_DAY: Final = date(2029, 12, 31)  # the documents: "from 1970 to 2029"
SETTLEMENT_SEARCH_RANGE: Final = timedelta(days=10)
MAX_ANNOUNCEMENT_RANGE: Final = timedelta(days=90)
# Codes of the markets whose calendar this exchange has: name, MIC, and BIC where there is one.
MARKETS: Final[dict[str, tuple[str, str]]] = {
    "NYSE": ("New York Stock Exchange", "XNYS"),
    "XNYS": ("New York Stock Exchange", "XNYS"),
    "NASDAQ": ("National Association of Securities Dealers Automated Quotations", "XNAS"),
    "XNAS": ("National Association of Securities Dealers Automated Quotations", "XNAS"),
    "IEX": ("Investors Exchange", "IEXG"),
    "IEXG": ("Investors Exchange", "IEXG"),
    "OTC": ("OTC Markets", "OTCM"),
    "OTCM": ("OTC Markets", "OTCM"),
}
ACRONYMS: Final = {"XNYS": "NYSE", "XNAS": "NASDAQ", "IEXG": "IEX", "OTCM": "OTC"}
ANNOUNCEMENT_TYPES: Final = frozenset({"dividend", "merger", "spinoff", "split"})
ANNOUNCEMENT_DATES: Final = frozenset({"declaration_date", "ex_date", "record_date", "payable_date"})


class Phase(StrEnum):
    """Phases of a market day."""

    CLOSED = "closed"
    PRE = "pre"
    CORE = "core"
    POST = "post"


class CalendarApi:
    """The routes of clock and calendar."""

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock

    def mount(self, app: web.Application) -> None:
        """Add every route to the application."""
        routes = {
            "/v2/clock": self.clock,
            "/v2/calendar": self.calendar,
            "/v3/clock": self.clocks,
            "/v3/calendar/{market}": self.market_calendar,
            "/v2/corporate_actions/announcements": list_announcements,
        }
        for path, answer in routes.items():
            app.router.add_get(path, without_body(answer))

    # ------------------------------------------------------------------ the old form

    def clock(self, _: web.Request) -> object:
        hours = self._exchange.state.hours
        now = self._now()
        running, following = hours.session_at(now), hours.next_session(now)
        closes = running or following
        return {
            "timestamp": format_optional_instant(now, local=True),
            "is_open": running is not None,
            "next_open": format_new_york(following.open) if following else None,
            "next_close": format_new_york(closes.close) if closes else None,
        }

    def calendar(self, request: web.Request) -> object:
        """Return the sessions whose trading day, or with SETTLEMENT whose settlement day, lies in the range."""
        start = parse_date(request.query.get("start"), "start", date(2016, 1, 1))
        end = parse_date(request.query.get("end"), "end", LAST_DEFAULT_DAY)
        kind = request.query.get("date_type") or "TRADING"
        if kind not in {"TRADING", "SETTLEMENT"}:
            raise ApiError(422, BAD_PARAMETER, f"invalid date_type: {kind}")
        by_settlement = kind == "SETTLEMENT"
        return [
            calendar_view(session, settlement, self._exchange.state.settings)
            for session, settlement in self._settled_sessions(start, end)
            if start <= (_settlement_day(session, settlement) if by_settlement else session.day) <= end
        ]

    def _settled_sessions(self, start: date, end: date) -> list[tuple[MarketSession, MarketSession | None]]:
        """Return the sessions from some days before `start` until `end`, each with the one on which it settles."""
        market = self._exchange.state.market
        sessions = market.sessions(
            max(start - SETTLEMENT_SEARCH_RANGE, FIRST_CALENDAR_DAY), end + SETTLEMENT_SEARCH_RANGE
        )
        return list(zip_longest(sessions, sessions[1:]))

    # ------------------------------------------------------------------ the new form

    def clocks(self, request: web.Request) -> object:
        """Return the clock of each requested market, now or at `time`."""
        wanted = request.query.get("time")
        at = parse_instant(wanted, "time") if wanted else self._now()
        codes = split_list(request.query.get("markets")) or ["NYSE"]
        return {"clocks": [self._market_clock(code, at) for code in codes]}

    def _market_clock(self, code: str, at: datetime) -> JsonObject:
        market, hours = market_view(code), self._exchange.state.hours
        session, following = hours.session(new_york_date(at)), hours.next_session(at)
        running = hours.session_at(at)
        closes = running or following
        if following is None or closes is None:
            raise ApiError(422, BAD_PARAMETER, f"invalid time: {at.isoformat()}")
        phase, until = _phase(session, following, at)
        return {
            "market": market,
            "timestamp": format_new_york(at),
            "is_market_day": session is not None,
            "next_market_open": format_new_york(following.open),
            "next_market_close": format_new_york(closes.close),
            "phase": phase.value,
            "phase_until": format_new_york(until),
        }

    def market_calendar(self, request: web.Request) -> object:
        """Return the market days of a range, by default of a week from today on."""
        market = market_view(request.match_info["market"])
        zone = request.query.get("timezone") or None
        if zone not in {None, "UTC"}:
            raise ApiError(400, BAD_REQUEST, f"invalid timezone: {zone}")
        start = parse_date(request.query.get("start"), "start", new_york_date(self._now()))
        end = parse_date(request.query.get("end"), "end", min(start + 7 * DAY, LAST_CALENDAR_DAY))
        return {
            "market": market,
            "calendar": [
                _day_view(session, settlement, UTC if zone else NEW_YORK)
                for session, settlement in self._settled_sessions(start, end)
                if start <= session.day <= end
            ],
        }

    def _now(self) -> datetime:
        skew = self._exchange.state.faults.fire_matching(FaultKind.CLOCK_SKEW)
        return self._clock.now() + timedelta(seconds=skew.seconds if skew else 0.0)


def market_view(code: str) -> JsonObject:
    """Return the market of a code. Raises ApiError (400) for one that this exchange does not have."""
    found = MARKETS.get(code)
    if found is None:
        raise ApiError(400, BAD_REQUEST, f"invalid market: {code}")
    name, mic = found
    return {"acronym": ACRONYMS[mic], "mic": mic, "name": name, "timezone": NEW_YORK.key}


def _phase(session: MarketSession | None, following: MarketSession, at: datetime) -> tuple[Phase, datetime]:
    """Return the phase of the market at an instant, and when it ends."""
    if session is not None:
        ends = (
            (_at(session.day, PRE_OPEN), Phase.CLOSED),
            (session.open, Phase.PRE),
            (session.close, Phase.CORE),
            (_at(session.day, POST_CLOSE), Phase.POST),
        )
        for end, phase in ends:
            if at < end:
                return phase, end
    return Phase.CLOSED, _at(following.day, PRE_OPEN)


def _day_view(session: MarketSession, settlement: MarketSession | None, zone: tzinfo) -> JsonObject:
    opens, closes = (at.astimezone(zone).isoformat() for at in (session.open, session.close))
    return {
        "date": session.day.isoformat(),
        "core_start": opens,
        "core_end": closes,
        "pre_start": _at(session.day, PRE_OPEN).astimezone(zone).isoformat(),
        "pre_end": opens,
        "post_start": closes,
        "post_end": _at(session.day, POST_CLOSE).astimezone(zone).isoformat(),
        "settlement_date": _settlement_day(session, settlement).isoformat(),
    }


def _settlement_day(session: MarketSession, settlement: MarketSession | None) -> date:
    return session.day if settlement is None else settlement.day


def _at(day: date, clock_time: time) -> datetime:
    return datetime.combine(day, clock_time, NEW_YORK)


# ---------------------------------------------------------------------- corporate actions


def list_announcements(request: web.Request) -> object:
    """Return no announcement: neither recorded nor generated bars have corporate actions. Raises ApiError (422)."""
    query = request.query
    types = split_list(query.get("ca_types"))
    if not types:
        raise ApiError(422, BAD_PARAMETER, "ca_types is required")
    invalid = [name for name in types if name.lower() not in ANNOUNCEMENT_TYPES]
    if invalid:
        raise ApiError(422, BAD_PARAMETER, f"invalid ca_types: {', '.join(invalid)}")
    for name in ("since", "until"):
        if not query.get(name):
            raise ApiError(422, BAD_PARAMETER, f"{name} is required")
    since = parse_date(query.get("since"), "since", FIRST_CALENDAR_DAY)
    until = parse_date(query.get("until"), "until", FIRST_CALENDAR_DAY)
    if not timedelta(0) <= until - since <= MAX_ANNOUNCEMENT_RANGE:
        raise ApiError(422, BAD_PARAMETER, "the date range is limited to 90 days")
    date_type = query.get("date_type")
    if date_type and date_type not in ANNOUNCEMENT_DATES:
        raise ApiError(422, BAD_PARAMETER, f"invalid date_type: {date_type}")
    return []


# ---------------------------------------------------------------------- dates


def format_new_york(at: datetime) -> str:
    """Return New York time with its offset."""
    return at.astimezone(NEW_YORK).isoformat()


def parse_date(text: str | None, name: str, default: date) -> date:
    """Return a day of a query, given as a date or as an instant. Raises ApiError (422) for anything else, and for a
    day that no calendar of the exchange has."""
    if not text:
        return default
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = _day_of_instant(text, name)
    if day > LAST_CALENDAR_DAY:
        raise ApiError(422, BAD_PARAMETER, f"invalid {name}: {text} is after {LAST_CALENDAR_DAY}")
    return max(day, FIRST_CALENDAR_DAY)


def _day_of_instant(text: str, name: str) -> date:
    """Return the day of an instant as it is written, whatever its offset."""
    parse_instant(text, name)
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise ApiError(422, BAD_PARAMETER, f"invalid {name}: {text}") from None
