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
    retry_at: datetime | None = None  # postponed until then, because the broker refused the exit
    refusal: str | None = None  # the last one: our code, ": ", the broker's message
    refusals: int = 0

    def is_postponed(self, now: datetime) -> bool:
        """Return true while the exit waits and the protective orders work."""
        return self.retry_at is not None and now < self.retry_at


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


async def any_since(conn: "Conn", at: datetime) -> bool:
    """Return true when an exit was requested at `at` or later."""
    return bool(
        await conn.fetchval("SELECT EXISTS (SELECT 1 FROM exit_intents WHERE requested_at >= $1)", at)
    )


async def open_intents(conn: "Conn") -> list[ExitIntent]:
    """Return every open exit intent, oldest first."""
    found = await conn.fetch(
        """
        SELECT intent_id, position_id, reason, purpose, requested_by, requested_at, retry_at, refusal, refusals
          FROM exit_intents WHERE state = 'open' ORDER BY intent_id
        """
    )
    return [ExitIntent(**{**record, "purpose": Purpose(record["purpose"])}) for record in found]


async def open_intent_of(conn: "Conn", position_id: int) -> ExitIntent | None:
    """Return the open exit intent of a position."""
    record = await conn.fetchrow(
        """
        SELECT intent_id, position_id, reason, purpose, requested_by, requested_at, retry_at, refusal, refusals
          FROM exit_intents WHERE position_id = $1 AND state = 'open'
        """,
        position_id,
    )
    return None if record is None else ExitIntent(**{**record, "purpose": Purpose(record["purpose"])})


async def postpone(
    conn: "Conn", intent_id: int, *, retry_at: datetime, refusal: str | None, refusals: int
) -> None:
    """Postpone an exit; `refusal` None keeps the last one."""
    await conn.execute(
        """
        UPDATE exit_intents SET retry_at = $2, refusal = coalesce($3, refusal), refusals = $4
         WHERE intent_id = $1 AND state = 'open'
        """,
        intent_id,
        retry_at,
        refusal,
        refusals,
    )


async def retry_now(conn: "Conn", position_id: int) -> None:
    """End the postponement of a position's exit; the pauses begin short again."""
    await conn.execute(
        "UPDATE exit_intents SET retry_at = NULL, refusals = 0 WHERE position_id = $1 AND state = 'open'",
        position_id,
    )


async def end_intent(conn: "Conn", position_id: int, *, state: str, at: datetime, epoch: int) -> None:
    """Close the intent: `done` when flat, `abandoned` when there was nothing left to do.

    The sale that was written and never sent ends with it.
    """
    await conn.execute(
        "UPDATE exit_intents SET state = $2, done_at = $3 WHERE position_id = $1 AND state = 'open'",
        position_id,
        state,
        at,
    )
    await drop_unsent_exits(conn, position_id, at=at, epoch=epoch)


async def drop_unsent_exits(conn: "Conn", position_id: int, *, at: datetime, epoch: int) -> None:
    """End every exit of the position that was written and never sent."""
    await conn.execute(
        """
        WITH dropped AS (
            UPDATE orders SET status = 'cancelled', cancel_reason = 'NEVER_SENT', updated_at = $2, epoch = $3
             WHERE position_id = $1 AND status = 'created' AND order_purpose IN ('exit', 'flatten')
            RETURNING order_id
        )
        INSERT INTO order_events (order_id, at, source, kind, from_status, to_status)
        SELECT order_id, $2, 'exit', 'transition', 'created', 'cancelled' FROM dropped
        """,
        position_id,
        at,
        epoch,
    )
