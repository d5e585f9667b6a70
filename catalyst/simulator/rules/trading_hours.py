"""Trading hours: sessions, extended hours, and the expiry of orders."""

from datetime import date, datetime, time, timedelta
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.market.interface import MarketSession
from catalyst.simulator.market.trading_feed import TradingFeed
from catalyst.simulator.rules.orders import TimeInForce

SESSION_SEARCH_RANGE: Final = timedelta(days=14)
PRE_OPEN: Final = time(4, 0)
POST_CLOSE: Final = time(20, 0)
GTC_LIFETIME: Final = timedelta(days=90)


def new_york_date(at: datetime) -> date:
    return at.astimezone(NEW_YORK).date()


class TradingHours:
    """The market's calendar by instant."""

    def __init__(self, market: TradingFeed) -> None:
        self._market = market
        self._sessions: dict[date, MarketSession | None] = {}

    def session(self, day: date) -> MarketSession | None:
        """Return the regular session of a day; cached."""
        if day not in self._sessions:
            self._sessions[day] = self._market.session(day)
        return self._sessions[day]

    def session_at(self, at: datetime) -> MarketSession | None:
        """Return the regular session at this instant; the closing instant is outside."""
        session = self.session(new_york_date(at))
        return session if session is not None and session.open <= at < session.close else None

    def is_open(self, at: datetime) -> bool:
        return self.session_at(at) is not None

    def next_session(self, at: datetime) -> MarketSession | None:
        """Return the first session that opens after this instant."""
        day = new_york_date(at)
        return next((s for s in self._market.sessions(day, day + SESSION_SEARCH_RANGE) if s.open > at), None)

    def current_or_next(self, at: datetime) -> MarketSession | None:
        return self.session_at(at) or self.next_session(at)

    def previous_session(self, at: datetime) -> MarketSession | None:
        """Return the last session that closed at or before this instant."""
        day = new_york_date(at)
        ended = [s for s in self._market.sessions(day - SESSION_SEARCH_RANGE, day) if s.close <= at]
        return ended[-1] if ended else None

    def in_extended_hours(self, at: datetime) -> bool:
        """Return true from 04:00 to 20:00 New York on a session day."""
        local = at.astimezone(NEW_YORK)
        return self.session(local.date()) is not None and PRE_OPEN <= local.time() < POST_CLOSE

    def is_tradable(self, at: datetime, *, extended_hours: bool) -> bool:
        """Return whether an order reaches the venue at this instant."""
        return self.is_open(at) or (extended_hours and self.in_extended_hours(at))

    def accepts_trades(self, at: datetime, *, extended_hours: bool) -> bool:
        """Return whether a trade at this instant may fill an order; the closing print may."""
        session = self.session(new_york_date(at))
        if session is not None and session.open <= at <= session.close:
            return True
        return extended_hours and self.in_extended_hours(at)

    def routing_time(self, at: datetime, *, extended_hours: bool) -> datetime | None:
        """Return when an order that waits now will be routed."""
        if self.is_tradable(at, extended_hours=extended_hours):
            return at
        session = self.next_session(at)
        if session is None or not extended_hours:
            return None if session is None else session.open
        return max(at, datetime.combine(session.day, PRE_OPEN, NEW_YORK).astimezone(at.tzinfo))

    def expiry(self, at: datetime, tif: TimeInForce, *, extended_hours: bool) -> datetime:
        """Return when an order submitted now ends by itself: its day's close, or 16:15 after ninety days."""
        if tif is TimeInForce.GTC:
            last = datetime.combine(new_york_date(at) + GTC_LIFETIME, time(16, 15), NEW_YORK)
            return last.astimezone(at.tzinfo)
        if extended_hours and self.in_extended_hours(at):
            return datetime.combine(new_york_date(at), POST_CLOSE, NEW_YORK).astimezone(at.tzinfo)
        session = self.current_or_next(at)
        if session is None:
            return at + SESSION_SEARCH_RANGE
        if extended_hours:
            return datetime.combine(session.day, POST_CLOSE, NEW_YORK).astimezone(at.tzinfo)
        return session.close
