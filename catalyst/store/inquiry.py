"""What screens and reports ask beyond a single table: questions only, nothing here writes."""

from typing import Final

from catalyst.store.dedicated import lock_key
from catalyst.store.pool import Connection

_LOW: Final = 0xFFFF_FFFF


async def is_locked(conn: Connection, account_id: str) -> bool:
    """True while some daemon holds the account's lock through this database: it lives, whatever its clock says."""
    key = lock_key(account_id)
    return bool(
        await conn.fetchval(
            """
            SELECT EXISTS (
                SELECT 1 FROM pg_locks
                 WHERE locktype = 'advisory' AND granted AND objsubid = 1
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND classid::bigint = $1 AND objid::bigint = $2)
            """,
            (key >> 32) & _LOW,
            key & _LOW,
        )
    )
