"""Journal chain: the hash of each line covers all lines before it, so every change is detected.

The database writes the chain at each commit (see migrations/). This module recomputes it from the bare
columns, without the SQL function that wrote it.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from catalyst.store.pool import Connection

if TYPE_CHECKING:
    from asyncpg import Record

LINKS_PER_READ: Final = 5_000  # links read at once
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A place in the chain; its hash covers everything up to it. Link 0 is the beginning."""

    link: int
    seq: int
    hash: bytes

    @property
    def hex(self) -> str:
        return self.hash.hex()

    @property
    def facts(self) -> dict[str, object]:
        """Return the link as it is written into proofs and the log."""
        return {"link": self.link, "seq": self.seq, "hash": self.hex}


START: Final = ChainLink(0, 0, b"")


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first place where the journal differs from what was written. `seq` is the line's number."""

    link: int
    seq: int | None
    reason: str

    @property
    def sentence(self) -> str:
        return f"the journal breaks at link {self.link}" + (
            f" (line {self.seq}): {self.reason}" if self.seq is not None else f": {self.reason}"
        )


def link_from_facts(facts: object) -> ChainLink | None:
    """Return the link written by `facts`; None when it holds none."""
    if not isinstance(facts, dict):
        return None
    link, seq, text = facts.get("link"), facts.get("seq"), facts.get("hash")
    if not (isinstance(link, int) and isinstance(seq, int) and isinstance(text, str)):
        return None
    try:
        return ChainLink(link, seq, bytes.fromhex(text))
    except ValueError:
        return None


_LINKS: Final = """
    SELECT c.link, c.seq AS chained_seq, c.hash, e.seq, e.order_id, e.at, e.source, e.kind, e.from_status, e.to_status,
           e.payload::text AS payload, e.note
      FROM journal_chain c LEFT JOIN order_events e ON e.seq = c.seq
     WHERE c.link > $1 ORDER BY c.link LIMIT $2
"""


async def head(conn: Connection) -> ChainLink:
    """Return the last link; START when nothing was written."""
    record = await conn.fetchrow("SELECT link, seq, hash FROM journal_chain ORDER BY link DESC LIMIT 1")
    return START if record is None else ChainLink(record["link"], record["seq"], record["hash"])


async def head_facts(conn: Connection) -> dict[str, object]:
    """Return the head as it is written elsewhere, with the journal's first hash, which identifies the
    journal."""
    return {**(await head(conn)).facts, "origin": await first_hash(conn)}


async def first_hash(conn: Connection) -> str | None:
    """Return the journal's first hash, which identifies it; None before the first line."""
    first: bytes | None = await conn.fetchval("SELECT hash FROM journal_chain WHERE link = 1")
    return None if first is None else first.hex()


async def verify(
    conn: Connection, since: ChainLink = START, *, max_links: int | None = None
) -> ChainLink | ChainBreak:
    """Recompute the chain from `since`, over `max_links` links; return the last good link, or the break.

    Lines without a link are searched among those after `since`; from START on, everywhere.
    """
    broken = await check_anchor(conn, since)
    if broken is not None:
        return broken
    good, done = since, 0
    while max_links is None or done < max_links:
        limit = LINKS_PER_READ if max_links is None else min(LINKS_PER_READ, max_links - done)
        records = await conn.fetch(_LINKS, good.link, limit)
        for record in records:
            step = _next_link(good, record)
            if isinstance(step, ChainBreak):
                return step
            good = step
        done += len(records)
        if len(records) < limit:
            return await _first_unlinked_line(conn, since) or good
    return good


async def check_anchor(conn: Connection, anchor: ChainLink) -> ChainBreak | None:
    """Return None while the chain still has this link with this hash; used for links written elsewhere."""
    if anchor.link == 0:
        return None
    found = await conn.fetchrow("SELECT seq, hash FROM journal_chain WHERE link = $1", anchor.link)
    if found is None:
        last = await head(conn)
        return ChainBreak(
            last.link + 1, None, f"it ends at link {last.link}; link {anchor.link} existed before"
        )
    if (found["seq"], found["hash"]) != (anchor.seq, anchor.hash):
        return ChainBreak(anchor.link, found["seq"], "it has another hash than the recorded one")
    return None


async def check_proof(conn: Connection, anchor: ChainLink, written_at: datetime | None) -> ChainBreak | None:
    """Check the link in a flat proof outside the database, as `check_anchor` does.

    A proof that was written after the backup from which this database was restored, and before the restore, belongs to
    the lost database: it is no break.
    """
    chain_break = await check_anchor(conn, anchor)
    if chain_break is None or written_at is None:
        return chain_break
    is_lost = await conn.fetchval(
        """
        SELECT EXISTS (SELECT 1 FROM order_events
                        WHERE source = 'restore' AND kind = 'restored' AND order_id IS NULL
                          AND (payload ->> 'link')::bigint < $1 AND at >= $2)
        """,
        anchor.link,
        written_at,
    )
    return None if is_lost else chain_break


async def anchors(conn: Connection, *, limit: int = 100) -> list[ChainLink]:
    """Return the journal heads in the latest flat proofs, newest first."""
    found = await conn.fetch(
        """
        SELECT facts -> 'journal' AS journal FROM flat_proofs WHERE facts ? 'journal'
         ORDER BY proof_id DESC LIMIT $1
        """,
        limit,
    )
    return [link for record in found if (link := link_from_facts(record["journal"])) is not None]


async def last_anchor(conn: Connection) -> ChainLink:
    """Return the chain link in the latest proof; START when there is none."""
    found = await anchors(conn, limit=10)
    return found[0] if found else START


async def _first_unlinked_line(conn: Connection, since: ChainLink) -> ChainBreak | None:
    """Return the first line without a link: it was written past the trigger."""
    record = await conn.fetchrow(
        """
        SELECT e.seq, (SELECT coalesce(max(link), 0) FROM journal_chain) AS last
          FROM order_events e LEFT JOIN journal_chain c ON c.seq = e.seq
         WHERE e.seq > $1 AND c.seq IS NULL ORDER BY e.seq LIMIT 1
        """,
        since.seq,
    )
    return (
        None
        if record is None
        else ChainBreak(record["last"], record["seq"], "the line was inserted without a link")
    )


def _next_link(before: ChainLink, record: "Record") -> ChainLink | ChainBreak:
    link, chained_seq = record["link"], record["chained_seq"]
    if link != before.link + 1:
        return ChainBreak(before.link + 1, None, f"the link is missing; the next one is {link}")
    if record["seq"] is None:
        return ChainBreak(link, chained_seq, "the line was removed")
    expected_hash = hashlib.sha256(before.hash + hashed_text(record).encode()).digest()
    if expected_hash != record["hash"]:
        return ChainBreak(link, chained_seq, "the line was changed or moved")
    return ChainLink(link, chained_seq, expected_hash)


def hashed_text(record: "Record") -> str:
    """Return the hashed text of a line, from its bare columns; `payload` as PostgreSQL's text."""
    order_id = record["order_id"]
    return json.dumps(
        [
            str(record["seq"]),
            None if order_id is None else str(order_id),
            str((record["at"] - _EPOCH) // _MICROSECOND),
            record["source"],
            record["kind"],
            record["from_status"],
            record["to_status"],
            record["payload"],
            record["note"],
        ],
        ensure_ascii=False,
    )
