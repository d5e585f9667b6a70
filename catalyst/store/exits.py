"""Exit intents and latches: what we have decided to do, written before the first request of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from catalyst.domain.order import Purpose

if TYPE_CHECKING:
    from catalyst.store.orders import Conn


@dataclass(frozen=True, slots=True)
class ExitIntent:
    """A decision to leave a position, open until it is flat."""

    intent_id: int
    position_id: int
    reason: str
    purpose: Purpose
    asked_by: str
    asked_at: datetime


async def intend(
    conn: "Conn", position_id: int, *, reason: str, purpose: Purpose, asked_by: str, at: datetime
) -> bool:
    """Persist the one exit intent of a position; false when it has one already."""
    fresh = await conn.fetchval(
        """
        INSERT INTO exit_intents (position_id, reason, purpose, asked_by, asked_at, state)
        VALUES ($1, left($2::text, 255), $3, $4, $5, 'open')
        ON CONFLICT (position_id) WHERE state = 'open' DO NOTHING
        RETURNING intent_id
        """,
        position_id,
        reason,
        purpose,
        asked_by,
        at,
    )
    return fresh is not None


async def open_intents(conn: "Conn") -> list[ExitIntent]:
    """Every exit that was decided and is not done, oldest first."""
    found = await conn.fetch(
        """
        SELECT intent_id, position_id, reason, purpose, asked_by, asked_at
          FROM exit_intents WHERE state = 'open' ORDER BY intent_id
        """
    )
    return [ExitIntent(**{**record, "purpose": Purpose(record["purpose"])}) for record in found]


async def intent_of(conn: "Conn", position_id: int) -> ExitIntent | None:
    """The open exit intent of a position."""
    record = await conn.fetchrow(
        """
        SELECT intent_id, position_id, reason, purpose, asked_by, asked_at
          FROM exit_intents WHERE position_id = $1 AND state = 'open'
        """,
        position_id,
    )
    return None if record is None else ExitIntent(**{**record, "purpose": Purpose(record["purpose"])})


async def end_intent(conn: "Conn", position_id: int, *, state: str, at: datetime) -> None:
    """Close the intent: `done` when flat, `abandoned` when there was nothing left to do."""
    await conn.execute(
        "UPDATE exit_intents SET state = $2, done_at = $3 WHERE position_id = $1 AND state = 'open'",
        position_id,
        state,
        at,
    )


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
    """Set a latch; false when it is set already."""
    fresh = await conn.fetchval(
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
    return fresh is not None


async def deepen_latch(conn: "Conn", name: str, *, reason: str, facts: Mapping[str, object]) -> None:
    """A latch that is set has more reasons now; what it knew already stays."""
    await conn.execute(
        "UPDATE latches SET reason = $2, facts = $3::jsonb || facts || jsonb_build_object('broken',"
        " coalesce(facts -> 'broken', '{}') || coalesce($3::jsonb -> 'broken', '{}'))"
        " WHERE name = $1 AND cleared_at IS NULL",
        name,
        reason,
        facts,
    )


async def latch_facts(conn: "Conn", name: str) -> dict[str, object] | None:
    """What a latch that is set was set for; None when it is not set."""
    facts: dict[str, object] | None = await conn.fetchval(
        "SELECT facts FROM latches WHERE name = $1 AND cleared_at IS NULL", name
    )
    return facts


async def active_latches(conn: "Conn") -> dict[str, str]:
    """Name → reason of every latch that is set."""
    found = await conn.fetch("SELECT name, reason FROM latches WHERE cleared_at IS NULL ORDER BY set_at")
    return {record["name"]: record["reason"] for record in found}


async def latched_at(conn: "Conn", name: str) -> datetime | None:
    """Since when this latch is set; None when it is not."""
    at: datetime | None = await conn.fetchval(
        "SELECT set_at FROM latches WHERE name = $1 AND cleared_at IS NULL", name
    )
    return at


async def clear_latches(conn: "Conn", *, by: str, at: datetime) -> list[str]:
    """Clear every latch; return their names."""
    found = await conn.fetch(
        "UPDATE latches SET cleared_at = $1, cleared_by = $2 WHERE cleared_at IS NULL RETURNING name", at, by
    )
    return [record["name"] for record in found]
