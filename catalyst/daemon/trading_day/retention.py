"""Retention: deletes the frames of old scans after the close. Everything else is kept for ever."""

from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.store import candidates
from catalyst.store.pool import Store

log = structlog.get_logger()

MAX_FRAMES_A_DAY: Final = 200  # ten days' worth: a backlog shrinks in a few days, and no statement takes long


async def delete_old_frames(store: Store, clock: Clock, *, keep_days: int) -> None:
    """Delete the frames older than `keep_days` where our role may; a failure waits for the next day."""
    before = clock.now() - timedelta(days=keep_days)
    try:
        async with store.read() as conn:
            if not await candidates.count_frames(conn, before=before):
                return
            if not await candidates.may_delete_frames(conn):
                log.info(
                    "scan_frames_kept", advice="run `catalyst retention --apply` as the database's owner"
                )
                return
        async with store.tx("retention") as conn:
            deleted = await candidates.delete_frames(conn, before=before, limit=MAX_FRAMES_A_DAY)
    except (DatabaseUnavailable, DatabaseContention) as error:
        log.warning("retention_failed", error=str(error))
        return
    log.info("scan_frames_deleted", deleted=deleted, older_than_days=keep_days)
