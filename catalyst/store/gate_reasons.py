"""Gate reasons: why entries are closed, since when, as the daemon's entry gate has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from catalyst.domain.closed_entries import ClosedReason, cause_of
from catalyst.store.pool import Connection, storable_text

MAX_REASON_CHARS: Final = 1_000


@dataclass(frozen=True, slots=True)
class GateReason:
    """One reason of the past or present. `ended_at` is None while it is in force."""

    name: str
    reason: str
    since: datetime
    ended_at: datetime | None


async def put_in_force(
    conn: Connection, epoch: int, reasons: Mapping[str, tuple[str, datetime]], *, at: datetime
) -> None:
    """Store `reasons` (name → text, since) as the reasons in force; end all others, and those of earlier epochs."""
    names = list(reasons)
    await conn.execute(
        "UPDATE gate_reasons SET ended_at = $3 WHERE ended_at IS NULL AND (epoch <> $1 OR name <> ALL($2::text[]))",
        epoch,
        names,
        at,
    )
    if not reasons:
        return
    await conn.execute(
        """
        INSERT INTO gate_reasons (epoch, name, reason, since)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::timestamptz[])
        ON CONFLICT (name) WHERE ended_at IS NULL DO UPDATE SET reason = excluded.reason
        """,
        epoch,
        names,
        [storable_text(reason, MAX_REASON_CHARS) for reason, _ in reasons.values()],
        [since for _, since in reasons.values()],
    )


async def end_all(conn: Connection, epoch: int, *, at: datetime) -> None:
    """End every reason of a run, because the run has ended."""
    await conn.execute(
        "UPDATE gate_reasons SET ended_at = $2 WHERE epoch = $1 AND ended_at IS NULL", epoch, at
    )


async def closed_reasons(
    conn: Connection, *, running_epoch: int | None, market_open: bool
) -> list[ClosedReason]:
    """Return why entries are closed, oldest first: as the running daemon stated, or the latches that a start obeys.

    A latch counts since it was set, also by an earlier run.
    """
    found = await conn.fetch(
        """
        SELECT g.name, g.reason, coalesce(l.set_at, g.since) AS since, l.set_by
          FROM gate_reasons g LEFT JOIN latches l ON l.name = g.name AND l.cleared_at IS NULL
         WHERE g.epoch = $1 AND g.ended_at IS NULL
         UNION ALL
        SELECT name, reason, set_at, set_by FROM latches WHERE cleared_at IS NULL AND $1::bigint IS NULL
         ORDER BY since, name
        """,
        running_epoch,
    )
    names = {record["name"] for record in found}
    return [
        ClosedReason(
            record["name"],
            record["reason"],
            record["since"],
            cause_of(record["name"], record["set_by"], names=names, market_open=market_open),
        )
        for record in found
    ]


async def between(conn: Connection, begin: datetime, end: datetime) -> list[GateReason]:
    """Return the reasons that were in force at some time from `begin` to `end`, oldest first."""
    found = await conn.fetch(
        "SELECT name, reason, since, ended_at FROM gate_reasons"
        " WHERE since < $2 AND (ended_at IS NULL OR ended_at > $1) ORDER BY since, name",
        begin,
        end,
    )
    return [GateReason(**record) for record in found]
