"""Flat proofs: what broker and database showed after a close or a flatten."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from catalyst.store.pool import Connection


@dataclass(frozen=True, slots=True)
class FlatProofRow:
    """One comparison of both sides; None where a side could not be read."""

    proof_id: int
    cycle_id: str | None
    at: datetime
    cause: str
    requested_by: str
    flat: bool
    broker_orders: int | None
    broker_positions: int | None
    stored_orders: int | None
    stored_positions: int | None
    facts: dict[str, object]

    @property
    def proven(self) -> bool:
        """Return true when nothing was left and both results agree; without the database, when nothing was
        left."""
        return self.flat and self.facts.get("proven") is not False


async def put_flat_proof(
    conn: Connection,
    *,
    cycle_id: str | None,
    at: datetime,
    cause: str,
    requested_by: str,
    flat: bool,
    broker_orders: int | None,
    broker_positions: int | None,
    stored_orders: int | None,
    stored_positions: int | None,
    facts: Mapping[str, object] | None = None,
) -> int:
    """Write the proof; return its id. The table refuses `flat` unless the broker reported zero orders and
    shares."""
    proof_id: int = await conn.fetchval(
        """
        INSERT INTO flat_proofs (cycle_id, at, cause, requested_by, flat, broker_orders, broker_positions,
                                 stored_orders, stored_positions, facts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING proof_id
        """,
        cycle_id,
        at,
        cause,
        requested_by,
        flat,
        broker_orders,
        broker_positions,
        stored_orders,
        stored_positions,
        facts or {},
    )
    return proof_id


async def has_flat_proof(conn: Connection, cycle_id: str, cause: str) -> bool:
    """Return true when the end of that cycle was checked for this cause, with any result."""
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT 1 FROM flat_proofs WHERE cycle_id = $1 AND cause = $2)", cycle_id, cause
    )
    return found


async def recent_flat_proofs(conn: Connection, *, limit: int = 20) -> list[FlatProofRow]:
    """Return the latest proofs, newest first."""
    found = await conn.fetch(
        """
        SELECT proof_id, cycle_id, at, cause, requested_by, flat, broker_orders, broker_positions, stored_orders,
               stored_positions, facts
          FROM flat_proofs ORDER BY proof_id DESC LIMIT $1
        """,
        limit,
    )
    return [FlatProofRow(**record) for record in found]


async def still_holds(conn: Connection, proof: FlatProofRow) -> bool:
    """Return true while nothing was traded in the proof's cycle after it, and nothing of that cycle is held or
    working."""
    found: bool = await conn.fetchval(
        """
        SELECT NOT EXISTS (SELECT 1 FROM executions e JOIN orders o USING (order_id)
                            WHERE o.cycle_id = $1 AND e.at > $2)
           AND NOT EXISTS (SELECT 1 FROM positions WHERE cycle_id = $1 AND status = 'open')
           AND NOT EXISTS (SELECT 1 FROM orders WHERE cycle_id = $1 AND origin = 'catalyst'
                              AND status IN ('submitted', 'accepted', 'partial_fill'))
        """,
        proof.cycle_id,
        proof.at,
    )
    return proof.proven and found


async def last_flat_proof(conn: Connection, cycle_id: str) -> FlatProofRow | None:
    """Return the newest proof of a cycle; None when there is none."""
    record = await conn.fetchrow(
        """
        SELECT proof_id, cycle_id, at, cause, requested_by, flat, broker_orders, broker_positions, stored_orders,
               stored_positions, facts
          FROM flat_proofs WHERE cycle_id = $1 ORDER BY proof_id DESC LIMIT 1
        """,
        cycle_id,
    )
    return None if record is None else FlatProofRow(**record)


async def of_cycle(conn: Connection, cycle_id: str) -> list[FlatProofRow]:
    """Return the proofs of a cycle, oldest first."""
    found = await conn.fetch(
        """
        SELECT proof_id, cycle_id, at, cause, requested_by, flat, broker_orders, broker_positions, stored_orders,
               stored_positions, facts
          FROM flat_proofs WHERE cycle_id = $1 ORDER BY proof_id
        """,
        cycle_id,
    )
    return [FlatProofRow(**record) for record in found]
