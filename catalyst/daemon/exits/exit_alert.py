"""Exit alert: raises an alert about an exit in a transaction of its own."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.store import alerts
from catalyst.store.pool import Store

log = structlog.get_logger()


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
