"""Proposals: in supervised mode each trade waits for a person's decision, for a limited time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from catalyst.store.pool import Connection, storable_text

if TYPE_CHECKING:
    from asyncpg import Record


class Decision(StrEnum):
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class ProposalRow:
    """One proposal; `decision` is None while it waits."""

    proposal_id: int
    order_id: int
    cycle_id: str
    security_id: int
    symbol: str
    ticket: dict[str, object]
    created_at: datetime
    expires_at: datetime
    decision: Decision | None
    decided_at: datetime | None
    decided_by: str | None
    note: str | None


_SELECT: Final = """
    SELECT p.proposal_id, p.order_id, p.cycle_id, p.security_id, s.symbol, p.ticket, p.created_at, p.expires_at,
           p.decision, p.decided_at, p.decided_by, p.note
      FROM proposals p JOIN securities s USING (security_id)
"""
_BY_ID: Final = _SELECT + " WHERE p.proposal_id = $1"
_OF_ORDER: Final = _SELECT + " WHERE p.order_id = $1"
_WAITING: Final = _SELECT + " WHERE p.decision IS NULL ORDER BY p.proposal_id"
_OF_CYCLE: Final = _SELECT + " WHERE p.cycle_id = $1 ORDER BY p.proposal_id"
_OF_IDS: Final = _SELECT + " WHERE p.proposal_id = ANY($1::bigint[]) ORDER BY p.proposal_id"


def _row(record: "Record") -> ProposalRow:
    decision = record["decision"]
    return ProposalRow(**{**record, "decision": None if decision is None else Decision(decision)})


async def put(
    conn: Connection,
    *,
    order_id: int,
    cycle_id: str,
    security_id: int,
    ticket: Mapping[str, object],
    at: datetime,
    expires_at: datetime,
) -> int:
    """Write a proposal; return its id."""
    proposal_id: int = await conn.fetchval(
        """
        INSERT INTO proposals (order_id, cycle_id, security_id, ticket, created_at, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6) RETURNING proposal_id
        """,
        order_id,
        cycle_id,
        security_id,
        ticket,
        at,
        expires_at,
    )
    return proposal_id


async def get(conn: Connection, proposal_id: int) -> ProposalRow | None:
    """Return the proposal with that id."""
    record = await conn.fetchrow(_BY_ID, proposal_id)
    return None if record is None else _row(record)


async def of_order(conn: Connection, order_id: int) -> ProposalRow | None:
    """Return the proposal that an order waits for."""
    record = await conn.fetchrow(_OF_ORDER, order_id)
    return None if record is None else _row(record)


async def waiting(conn: Connection) -> list[ProposalRow]:
    """Return every proposal without a decision, oldest first; also expired ones that are not marked yet."""
    return [_row(record) for record in await conn.fetch(_WAITING)]


async def of_cycle(conn: Connection, cycle_id: str) -> list[ProposalRow]:
    """Return every proposal of a cycle, oldest first."""
    return [_row(record) for record in await conn.fetch(_OF_CYCLE, cycle_id)]


async def decide(
    conn: Connection,
    proposal_id: int,
    decision: Decision,
    *,
    by: str,
    at: datetime,
    note: str | None = None,
) -> tuple[ProposalRow, bool]:
    """Return the decided proposal, and whether this call decided it: the first decision holds.

    An approval after the deadline is written as expired. Raises KeyError when there is no such proposal.
    """
    fresh = await conn.fetchval(
        """
        UPDATE proposals
           SET decision = CASE WHEN $2 = 'approved' AND $4 > expires_at THEN 'expired' ELSE $2 END,
               decided_by = $3, decided_at = $4, note = $5
         WHERE proposal_id = $1 AND decision IS NULL RETURNING proposal_id
        """,
        proposal_id,
        decision,
        by,
        at,
        None if note is None else storable_text(note, 1000),
    )
    proposal = await get(conn, proposal_id)
    if proposal is None:
        raise KeyError(proposal_id)
    return proposal, fresh is not None


async def expire(conn: Connection, *, at: datetime) -> list[ProposalRow]:
    """Mark every proposal whose deadline is before `at` as expired; return them."""
    ended = await conn.fetch(
        """
        UPDATE proposals SET decision = 'expired', decided_at = $1, decided_by = 'daemon'
         WHERE decision IS NULL AND expires_at <= $1 RETURNING proposal_id
        """,
        at,
    )
    found = await conn.fetch(_OF_IDS, [record["proposal_id"] for record in ended])
    return [_row(record) for record in found]
