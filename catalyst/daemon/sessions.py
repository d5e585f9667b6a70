"""Which session is today's or the next, asked of the broker."""

from datetime import timedelta
from typing import Final

import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import Clock
from catalyst.domain.errors import BrokerError
from catalyst.domain.session import Session, trading_date

log = structlog.get_logger()

LINGER: Final = timedelta(minutes=5)  # after its close a session is today's no longer
RETRY: Final = timedelta(seconds=5)


async def next_session(broker: AlpacaBroker, clock: Clock) -> Session:
    """Today's session, or the next one when today's is over or there is none."""
    today = trading_date(clock.now())
    while True:
        try:
            sessions = await broker.calendar(today, today + timedelta(days=10))
        except BrokerError as error:
            log.warning("calendar_unreadable", error=str(error))
            sessions = []
        for session in sessions:
            if session.close + LINGER > clock.now():
                return session
        log.warning("no_session_known", days=len(sessions))
        await clock.sleep(RETRY)


async def session_of_today(broker: AlpacaBroker, clock: Clock) -> Session | None:
    """Today's session; None when there is none, or when it could not be read."""
    today = trading_date(clock.now())
    try:
        sessions = await broker.calendar(today, today)
    except BrokerError as error:
        log.warning("calendar_unreadable", error=str(error))
        return None
    return sessions[0] if sessions else None
