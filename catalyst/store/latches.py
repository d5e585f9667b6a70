"""Latches: flags that stop entries until a person clears them, or until the next session after `until`."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catalyst.store.orders import Conn


async def set_latch(
    conn: "Conn",
    name: str,
    *,
    reason: str,
    by: str,
    at: datetime,
    until: datetime | None,
    facts: Mapping[str, object] | None = None,
) -> bool:
    """Set a latch; false when it is set already. The later `until` of the two stays, and none is the latest."""
    new_name = await conn.fetchval(
        """
        INSERT INTO latches (name, set_at, reason, set_by, until, facts) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (name) WHERE cleared_at IS NULL DO NOTHING
        RETURNING name
        """,
        name,
        at,
        reason,
        by,
        until,
        facts or {},
    )
    if new_name is None:
        await conn.execute(
            "UPDATE latches SET until = CASE WHEN $2::timestamptz IS NOT NULL THEN greatest(until, $2) END"
            " WHERE name = $1 AND cleared_at IS NULL AND until IS NOT NULL",
            name,
            until,
        )
    return new_name is not None


async def extend_latch(conn: "Conn", name: str, *, reason: str, facts: Mapping[str, object]) -> None:
    """Add reasons to a set latch; its earlier facts stay."""
    await conn.execute(
        "UPDATE latches SET reason = $2, facts = $3::jsonb || facts || jsonb_build_object('failed_invariants',"
        " coalesce(facts -> 'failed_invariants', '{}') || coalesce($3::jsonb -> 'failed_invariants', '{}'))"
        " WHERE name = $1 AND cleared_at IS NULL",
        name,
        reason,
        facts,
    )


async def latch_facts(conn: "Conn", name: str) -> dict[str, object] | None:
    """Return the facts of a set latch; None when it is not set."""
    facts: dict[str, object] | None = await conn.fetchval(
        "SELECT facts FROM latches WHERE name = $1 AND cleared_at IS NULL", name
    )
    return facts


async def active_latches(conn: "Conn") -> dict[str, str]:
    """Return name → reason of every set latch."""
    found = await conn.fetch("SELECT name, reason FROM latches WHERE cleared_at IS NULL ORDER BY set_at")
    return {record["name"]: record["reason"] for record in found}


async def latched_at(conn: "Conn", name: str) -> datetime | None:
    """Return when this latch was set; None when it is not."""
    at: datetime | None = await conn.fetchval(
        "SELECT set_at FROM latches WHERE name = $1 AND cleared_at IS NULL", name
    )
    return at


async def clear_latch(conn: "Conn", name: str, *, by: str, at: datetime) -> None:
    """Clear one latch."""
    await conn.execute(
        "UPDATE latches SET cleared_at = $2, cleared_by = $3 WHERE name = $1 AND cleared_at IS NULL",
        name,
        at,
        by,
    )


async def clear_expired(conn: "Conn", *, at: datetime) -> list[str]:
    """Clear the latches whose `until` has passed, because a session begins; return their names."""
    found = await conn.fetch(
        "UPDATE latches SET cleared_at = $1, cleared_by = 'the next session'"
        " WHERE cleared_at IS NULL AND until <= $1 RETURNING name",
        at,
    )
    return [record["name"] for record in found]


async def clear_latches(conn: "Conn", *, by: str, at: datetime) -> list[str]:
    """Clear every latch; return their names."""
    found = await conn.fetch(
        "UPDATE latches SET cleared_at = $1, cleared_by = $2 WHERE cleared_at IS NULL RETURNING name", at, by
    )
    return [record["name"] for record in found]
