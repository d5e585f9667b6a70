"""Exit intents: decisions to close a position, written before the first request."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from catalyst.domain.order import Purpose

if TYPE_CHECKING:
    from catalyst.store.orders import Conn


@dataclass(frozen=True, slots=True)
class ExitIntent:
    """A decision to close a position, open until it is flat."""

    intent_id: int
    position_id: int
    reason: str
    purpose: Purpose
    requested_by: str
    requested_at: datetime


async def create_intent(
    conn: "Conn", position_id: int, *, reason: str, purpose: Purpose, requested_by: str, at: datetime
) -> bool:
    """Write the one exit intent of a position; false when it has one."""
    new_id = await conn.fetchval(
        """
        INSERT INTO exit_intents (position_id, reason, purpose, requested_by, requested_at, state)
        VALUES ($1, left($2::text, 255), $3, $4, $5, 'open')
        ON CONFLICT (position_id) WHERE state = 'open' DO NOTHING
        RETURNING intent_id
        """,
        position_id,
        reason,
        purpose,
        requested_by,
        at,
    )
    return new_id is not None


async def open_intents(conn: "Conn") -> list[ExitIntent]:
    """Return every open exit intent, oldest first."""
    found = await conn.fetch(
        """
        SELECT intent_id, position_id, reason, purpose, requested_by, requested_at
          FROM exit_intents WHERE state = 'open' ORDER BY intent_id
        """
    )
    return [ExitIntent(**{**record, "purpose": Purpose(record["purpose"])}) for record in found]


async def open_intent_of(conn: "Conn", position_id: int) -> ExitIntent | None:
    """Return the open exit intent of a position."""
    record = await conn.fetchrow(
        """
        SELECT intent_id, position_id, reason, purpose, requested_by, requested_at
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
