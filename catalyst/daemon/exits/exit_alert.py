"""Exit alert: raises an alert about exits in a transaction of its own."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.store import alerts
from catalyst.store.pool import Store

log = structlog.get_logger()

SLOW_EXIT_AFTER: Final = timedelta(seconds=30)  # an exit not filled by then raises an alert
# After the first slow exit the alert waits so long, because a flatten makes all of them slow at one time.
SLOW_EXITS_WAIT: Final = timedelta(seconds=5)


async def raise_exit_alert(
    store: Store,
    event: str,
    message: str,
    *,
    subject: object,
    facts: Mapping[str, object],
    at: datetime,
    window: timedelta = alerts.DEDUPE_WINDOW,
) -> bool | None:
    """Return whether the alert is new; None when it could not be written.

    A lock that another session holds on it stops no exit: the caller raises it again later.
    """
    try:
        async with store.tx("alert") as conn:
            return await alerts.raise_alert(
                conn, event, message, subject=subject, facts=facts, at=at, window=window
            )
    except (DatabaseUnavailable, DatabaseContention) as error:
        log.warning("alert_not_written", alert=event, facts=dict(facts), error=str(error))
        return None


async def alert_slow_exits(store: Store, symbols: Sequence[str], *, at: datetime) -> bool:
    """Raise one alert that lists the symbols of slow exits; return false when it could not be written."""
    try:
        async with store.tx("alert") as conn:
            await alerts.raise_for_symbols(
                conn,
                "EXIT_SLOW",
                f"the exit is not complete after {SLOW_EXIT_AFTER.seconds} s; Catalyst keeps trying, check the order "
                "at the broker",
                symbols,
                at=at,
            )
    except (DatabaseUnavailable, DatabaseContention) as error:
        log.warning("alert_not_written", alert="EXIT_SLOW", facts={"symbols": symbols}, error=str(error))
        return False
    return True
