"""API keys: when each was first used. Only the hash of a key's id is stored."""

import hashlib
from datetime import datetime

from catalyst.store.pool import Connection


async def record_first_use(conn: Connection, key_id: str, *, at: datetime) -> None:
    """Store the first use of a key; a later one changes nothing."""
    await conn.execute(
        "INSERT INTO api_keys (key_sha256, first_seen_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        _hash_of(key_id),
        at,
    )


async def first_used_at(conn: Connection, key_id: str) -> datetime | None:
    """Return when a key was first used; None when it never was."""
    found: datetime | None = await conn.fetchval(
        "SELECT first_seen_at FROM api_keys WHERE key_sha256 = $1", _hash_of(key_id)
    )
    return found


def _hash_of(key_id: str) -> str:
    return hashlib.sha256(key_id.encode()).hexdigest()
