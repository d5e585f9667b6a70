"""Sessions: reads today's or the next trading session from the broker's calendar."""

from datetime import date, timedelta
from typing import Final

import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import Clock
from catalyst.domain.errors import BrokerError, DatabaseUnavailable
from catalyst.domain.session import Session, regular_session, trading_date
from catalyst.store import trading_days as stored_sessions
from catalyst.store.pool import Store

log = structlog.get_logger()

CURRENT_AFTER_CLOSE: Final = timedelta(minutes=5)  # until then a session that ended is still today's
RETRY_PAUSE: Final = timedelta(seconds=5)
CALENDAR_TIMEOUT: Final = timedelta(seconds=5)  # for an exit that waits for the session
CALENDAR_RETRY_PAUSE: Final = timedelta(seconds=1)


async def next_session(broker: AlpacaBroker, store: Store, clock: Clock) -> Session:
    """Return today's session, or the next one when today's is over or there is none; retry until one is read.

    It is stored: a weekday before it without a row is a holiday.
    """
    while (session := await current_or_next_session(broker, store, clock)) is None:
        await clock.sleep(RETRY_PAUSE)
    async with store.tx("calendar") as conn:
        await stored_sessions.put(conn, [session])
    return session


async def current_or_next_session(broker: AlpacaBroker, store: Store, clock: Clock) -> Session | None:
    """Return today's session, or the next one when today's is over or there is none.

    When the broker cannot be read, today's session comes from the database, where the start of the day stored it. None
    when neither has one.
    """
    today = trading_date(clock.now())
    try:
        sessions = await broker.calendar(today, today + timedelta(days=10))
    except BrokerError as error:
        stored = await _stored_session(store, today)
        log.warning("calendar_read_failed", error=str(error), stored=stored is not None)
        sessions = [] if stored is None else [stored]
    not_over = [session for session in sessions if session.close + CURRENT_AFTER_CLOSE > clock.now()]
    if not not_over:
        log.warning("no_session_known", days=len(sessions))
    return not_over[0] if not_over else None


async def _stored_session(store: Store, today: date) -> Session | None:
    """Return today's session from the database; None when it has none or is unavailable."""
    try:
        async with store.read() as conn:
            return await stored_sessions.get(conn, today)
    except DatabaseUnavailable:
        return None


async def session_of_today(broker: AlpacaBroker, clock: Clock) -> Session | None:
    """Return today's session; None when there is none.

    A failed read is not a closed market: it is retried for CALENDAR_TIMEOUT, then the broker's clock is asked, and when
    that fails too, a weekday has the regular hours.
    """
    today = trading_date(clock.now())
    deadline = clock.now() + CALENDAR_TIMEOUT
    while True:
        try:
            sessions = await broker.calendar(today, today)
        except BrokerError as error:
            log.warning("calendar_read_failed", error=str(error))
        else:
            return sessions[0] if sessions else None
        if clock.now() >= deadline:
            return await _session_without_calendar(broker, today)
        await clock.sleep(CALENDAR_RETRY_PAUSE)


async def _session_without_calendar(broker: AlpacaBroker, today: date) -> Session | None:
    regular = regular_session(today)
    try:
        now = await broker.clock()
    except BrokerError as error:
        log.warning("broker_clock_read_failed", error=str(error))
        return regular
    if not now.is_open:
        return None
    opened = now.at if regular is None else min(regular.open, now.at)
    return Session(today, opened, now.next_close)
