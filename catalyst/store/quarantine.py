"""Quarantine: inputs that could not be understood, stored as received until a person resolves them."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from catalyst.store.pool import Connection, encode_json, storable_text


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One input; `raw` is storable text, `raw_sha256` the hash of the received bytes. With `order_id` it is a fill
    of that order that could not be booked; with `security_id` a position in it was written off."""

    quarantine_id: int
    at: datetime
    source: str
    reason: str
    raw: str
    raw_sha256: str
    order_id: int | None
    security_id: int | None


@dataclass(frozen=True, slots=True)
class Unbooked:
    """Money of a symbol that is not booked; `is_new`: no person has resumed since it was found."""

    symbol: str
    reason: str
    is_new: bool


async def put(
    conn: Connection,
    *,
    source: str,
    reason: str,
    payload: object,
    at: datetime,
    order_id: int | None = None,
    security_id: int | None = None,
) -> int:
    """Store the payload (bytes and text as received, anything else as JSON); return its id."""
    match payload:
        case bytes():
            raw = payload
        case str():
            raw = payload.encode("utf-8", "surrogatepass")
        case _:
            raw = encode_json(payload)[1:]
    quarantine_id: int = await conn.fetchval(
        """
        INSERT INTO quarantine (at, source, reason, raw, raw_sha256, order_id, security_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING quarantine_id
        """,
        at,
        source,
        storable_text(reason, 1000),
        storable_text(raw.decode("utf-8", "replace")),
        hashlib.sha256(raw).hexdigest(),
        order_id,
        security_id,
    )
    return quarantine_id


async def put_once(conn: Connection, *, source: str, reason: str, payload: object, at: datetime) -> bool:
    """Store as `put` does, unless an unresolved row has this reason; true when stored."""
    if await conn.fetchval(
        "SELECT EXISTS (SELECT 1 FROM quarantine WHERE reason = $1 AND resolved_at IS NULL)",
        storable_text(reason, 1000),
    ):
        return False
    await put(conn, source=source, reason=reason, payload=payload, at=at)
    return True


async def has_unbooked_fill(conn: Connection, order_id: int, reason: str) -> bool:
    """Return true when a row, resolved or not, has this order and reason: the same fill was stored before."""
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT 1 FROM quarantine WHERE order_id = $1 AND reason = $2)",
        order_id,
        storable_text(reason, 1000),
    )
    return found


async def unbooked(conn: Connection, *, since: datetime) -> list[Unbooked]:
    """Return the unresolved fills that could not be booked and the unresolved write-offs: those stored since then, and
    those that no person has seen, because they are newer than the last resume."""
    found = await conn.fetch(
        """
        SELECT s.symbol, q.reason, q.at > resumed.at AS is_new
          FROM (SELECT coalesce(max(taken_at), '-infinity') AS at
                  FROM commands WHERE kind = 'resume' AND ok) AS resumed,
               quarantine q LEFT JOIN orders o USING (order_id)
               JOIN securities s ON s.security_id = coalesce(o.security_id, q.security_id)
         WHERE q.resolved_at IS NULL AND (q.at >= $1 OR q.at > resumed.at)
         ORDER BY q.quarantine_id
        """,
        since,
    )
    return [Unbooked(**record) for record in found]


async def unresolved(conn: Connection, limit: int = 100) -> list[Quarantined]:
    """Return unresolved inputs, oldest first."""
    found = await conn.fetch(
        """
        SELECT quarantine_id, at, source, reason, raw, raw_sha256, order_id, security_id
          FROM quarantine WHERE resolved_at IS NULL ORDER BY at, quarantine_id LIMIT $1
        """,
        limit,
    )
    return [Quarantined(**record) for record in found]


async def count_unresolved(conn: Connection) -> int:
    """Return the number of unresolved inputs."""
    count: int = await conn.fetchval("SELECT count(*) FROM quarantine WHERE resolved_at IS NULL")
    return count


async def resolve_all(conn: Connection, *, by: str, note: str, at: datetime) -> int:
    """Mark every unresolved input as resolved with a note; return their number."""
    resolved = await conn.fetch(
        """
        UPDATE quarantine SET resolved_at = $1, resolved_by = $2, note = $3 WHERE resolved_at IS NULL
        RETURNING quarantine_id
        """,
        at,
        by,
        storable_text(note, 4000),
    )
    return len(resolved)


async def resolve(conn: Connection, quarantine_id: int, *, by: str, note: str, at: datetime) -> bool:
    """Mark an input as resolved with a note; false when it was resolved before."""
    resolved_id = await conn.fetchval(
        """
        UPDATE quarantine SET resolved_at = $2, resolved_by = $3, note = $4
         WHERE quarantine_id = $1 AND resolved_at IS NULL RETURNING quarantine_id
        """,
        quarantine_id,
        at,
        by,
        storable_text(note, 4000),
    )
    return resolved_id is not None
