"""Restores of the database: each is one line of the journal, and a halt until a person has looked at it."""

from datetime import datetime
from typing import Final

from catalyst.store import journal, latches
from catalyst.store.pool import Connection

SOURCE: Final = "restore"
KIND: Final = "restored"
HALT_LATCH: Final = "halt"


async def record_restore(conn: Connection, *, backup: str, by: str, at: datetime) -> None:
    """Write into a restored database that it is one, in the caller's transaction.

    The line holds the end of the journal in the backup: flat proofs of later links were written by the lost database.
    The halt stands for the latches that were set after the backup and are lost with it.
    """
    head = await journal.head(conn)
    await conn.execute(
        "INSERT INTO order_events (at, source, kind, payload, note) VALUES ($1, $2, $3, $4, $5)",
        at,
        SOURCE,
        KIND,
        {**head.facts, "by": by},
        f"restored from {backup}",
    )
    await latches.set_latch(
        conn,
        HALT_LATCH,
        reason=f"the database is restored from {backup}: compare it with `catalyst doctor`",
        by=by,
        at=at,
        until=None,
    )
