"""Journal hash chain: no fork, no gap, no deadlock, and every change by the owner is found."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from store.raw_rows import AT, RawRows

from catalyst.store import journal, orders
from catalyst.store.journal import ChainBreak, ChainLink
from catalyst.store.pool import Connection, Store, connect

CONNECTIONS = 20
REPETITIONS = 100
LOCK_POSITION = "SELECT 1 FROM positions WHERE position_id = $1 FOR UPDATE"


async def insert_lines(conn: Connection, *, n: int = 8) -> list[int]:
    """Insert `n` journal rows with all kinds of content, each in its own transaction; return their numbers."""
    payload = {
        "price": "190.10",
        "text": "Zürich – 東京 \U0001f4c8",
        "n": 1.50,
        "a": [None, True, {"b": '\\ " \n'}],
    }
    for number in range(n):
        await orders.journal(
            conn,
            None,
            at=AT + timedelta(microseconds=number * 333_333),
            source="stream",
            kind="note",
            note=None if number % 3 else f"line {number}\x1f\t\u2028 'quoted' \\",
            payload=None if number % 2 else payload,
        )
    return [row["seq"] for row in await conn.fetch("SELECT seq FROM order_events ORDER BY seq")]


@asynccontextmanager
async def as_owner(conn: Connection) -> AsyncIterator[Connection]:
    """Disable the append-only triggers inside the block."""
    tables = ("order_events", "journal_chain")
    for table in tables:
        await conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield conn
    for table in tables:
        await conn.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


async def test_unchanged_journal_verifies(raw_rows: RawRows) -> None:
    """The chain computed here from the columns ends at the head that the database wrote."""
    await raw_rows.insert_position()
    await insert_lines(raw_rows.conn)
    head = await journal.head(raw_rows.conn)
    assert head.link == await raw_rows.conn.fetchval("SELECT count(*) FROM order_events")
    assert await journal.verify(raw_rows.conn) == head
    middle = await journal.verify(raw_rows.conn, max_links=3)
    assert isinstance(middle, ChainLink)
    assert middle.link == 3
    assert await journal.verify(raw_rows.conn, middle) == head
    assert await journal.verify(raw_rows.conn, head) == head
    assert journal.link_from_facts(head.facts) == head


async def test_journal_is_verified_over_every_page(
    raw_rows: RawRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal longer than one read is verified to its head, also when its last page is full; a change on the last
    page is named."""
    await raw_rows.insert_position()
    await insert_lines(raw_rows.conn)
    head = await journal.head(raw_rows.conn)
    for page in range(1, head.link + 2):
        monkeypatch.setattr(journal, "LINKS_PER_READ", page)
        assert await journal.verify(raw_rows.conn) == head
    async with as_owner(raw_rows.conn) as conn:
        await conn.execute("UPDATE order_events SET note = 'nothing happened' WHERE seq = $1", head.seq)
    for page in range(1, head.link + 2):
        monkeypatch.setattr(journal, "LINKS_PER_READ", page)
        found = await journal.verify(raw_rows.conn)
        assert isinstance(found, ChainBreak)
        assert found.link == head.link


@pytest.mark.parametrize(
    ("what", "sql"),
    [
        ("a note", "UPDATE order_events SET note = 'nothing happened' WHERE seq = $1"),
        ("a price in the payload", """UPDATE order_events SET payload = '{"price": "191.10"}' WHERE seq = $1"""),
        ("an instant", "UPDATE order_events SET at = at + interval '1 microsecond' WHERE seq = $1"),
        ("a state", "UPDATE order_events SET to_status = 'filled' WHERE seq = $1"),
        ("an empty word for none", "UPDATE order_events SET from_status = '' WHERE seq = $1"),
        ("its order", "UPDATE order_events SET order_id = (SELECT max(order_id) FROM orders) WHERE seq = $1"),
    ],
)  # fmt: skip
async def test_altered_journal_row_is_named(raw_rows: RawRows, what: str, sql: str) -> None:
    """The verifier names the one row that the owner altered, however small the change, from any start before
    it."""
    await raw_rows.insert_position()
    numbers = await insert_lines(raw_rows.conn)
    before = await journal.verify(raw_rows.conn, max_links=len(numbers) - 4)
    assert isinstance(before, ChainLink)
    async with as_owner(raw_rows.conn):
        await raw_rows.conn.execute(sql, numbers[-3])
    found = await journal.verify(raw_rows.conn)
    assert isinstance(found, ChainBreak), what
    assert found.seq == numbers[-3]
    assert await journal.verify(raw_rows.conn, before) == found


async def test_removed_journal_row_is_named(raw_rows: RawRows) -> None:
    """A row removed from the journal, or from the chain too, is reported at its place."""
    numbers = await insert_lines(raw_rows.conn)
    async with as_owner(raw_rows.conn):
        await raw_rows.conn.execute("DELETE FROM order_events WHERE seq = $1", numbers[3])
    found = await journal.verify(raw_rows.conn)
    assert found == ChainBreak(4, numbers[3], "the line was removed")
    async with as_owner(raw_rows.conn):
        await raw_rows.conn.execute("DELETE FROM journal_chain WHERE seq = $1", numbers[3])
    found = await journal.verify(raw_rows.conn)
    assert isinstance(found, ChainBreak)
    assert found.link == 4
    assert "missing" in found.reason


async def test_removed_journal_row_with_renumbered_links_is_named(raw_rows: RawRows) -> None:
    """A row removed with the later links renumbered is found by the next row's hash."""
    numbers = await insert_lines(raw_rows.conn)
    async with as_owner(raw_rows.conn):
        await raw_rows.conn.execute("DELETE FROM order_events WHERE seq = $1", numbers[3])
        await raw_rows.conn.execute("DELETE FROM journal_chain WHERE seq = $1", numbers[3])
        await raw_rows.conn.execute("UPDATE journal_chain SET link = -link + 1000 WHERE link > 4")
        await raw_rows.conn.execute("UPDATE journal_chain SET link = 999 - link WHERE link > 900")
    found = await journal.verify(raw_rows.conn)
    assert isinstance(found, ChainBreak)
    assert found.seq == numbers[4]


async def test_inserted_journal_row_is_named(raw_rows: RawRows) -> None:
    """A row inserted at the end past the trigger is found, because it has no link."""
    numbers = await insert_lines(raw_rows.conn)
    head = await journal.head(raw_rows.conn)
    async with as_owner(raw_rows.conn):
        seq = await raw_rows.conn.fetchval(
            "INSERT INTO order_events (at, source, kind) VALUES ($1, 'stream', 'note') RETURNING seq", AT
        )
    found = await journal.verify(raw_rows.conn)
    assert found == ChainBreak(len(numbers), seq, "the line was inserted without a link")
    assert await journal.verify(raw_rows.conn, head) == found


async def test_swapped_journal_rows_are_named(raw_rows: RawRows) -> None:
    """Of two swapped rows the first is reported."""
    numbers = await insert_lines(raw_rows.conn)
    async with as_owner(raw_rows.conn):
        await raw_rows.conn.execute(
            """
            UPDATE order_events e SET at = o.at, note = o.note, payload = o.payload FROM order_events o
             WHERE (e.seq, o.seq) IN (($1, $2), ($2, $1))
            """,
            numbers[2],
            numbers[5],
        )
    found = await journal.verify(raw_rows.conn)
    assert isinstance(found, ChainBreak)
    assert found.seq == numbers[2]


async def test_truncated_journal_is_detected_by_stored_head(raw_rows: RawRows) -> None:
    """With the last rows and links removed the chain verifies by itself, but not against its stored head."""
    numbers = await insert_lines(raw_rows.conn)
    head = await journal.head(raw_rows.conn)
    async with as_owner(raw_rows.conn):
        await raw_rows.conn.execute("DELETE FROM order_events WHERE seq >= $1", numbers[-2])
        await raw_rows.conn.execute("DELETE FROM journal_chain WHERE seq >= $1", numbers[-2])
    assert isinstance(await journal.verify(raw_rows.conn), ChainLink)
    broken = await journal.check_anchor(raw_rows.conn, head)
    assert broken is not None
    assert broken.link == head.link - 1
    assert isinstance(await journal.verify(raw_rows.conn, head), ChainBreak)
    await insert_lines(raw_rows.conn, n=2)  # the length is as before, the content is not
    broken = await journal.check_anchor(raw_rows.conn, head)
    assert broken is not None
    assert "another hash" in broken.reason


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE journal_chain SET hash = sha256('') WHERE link = 1",
        "DELETE FROM journal_chain WHERE link = 1",
        "TRUNCATE journal_chain",
    ],
)
async def test_journal_chain_is_append_only(raw_rows: RawRows, sql: str) -> None:
    """The chain is append-only, like the journal."""
    await insert_lines(raw_rows.conn, n=1)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await raw_rows.conn.execute(sql)
    assert refused.value.sqlstate == "CT004"


async def test_rolled_back_transaction_leaves_no_chain_link(raw_rows: RawRows) -> None:
    """Journal numbers may have gaps, links may not."""
    await insert_lines(raw_rows.conn, n=2)
    undone = raw_rows.conn.transaction()
    await undone.start()
    await orders.journal(raw_rows.conn, None, at=AT, source="stream", kind="note")
    await undone.rollback()
    await insert_lines(raw_rows.conn, n=2)
    head = await journal.head(raw_rows.conn)
    assert (head.link, head.seq) == (4, 5)
    assert await journal.verify(raw_rows.conn) == head


async def test_twenty_concurrent_writers_keep_chain_complete(database: str, store: Store) -> None:
    """Twenty connections with a hundred transactions each lock orders and positions in no common order: no
    deadlock, no duplicate link, no missing link, and every row has its link."""
    async with store.read() as conn:
        raw_rows = RawRows(conn)
        await raw_rows.insert_day()
        position_id = await raw_rows.insert_position()
    gate = asyncio.Barrier(CONNECTIONS)

    async def write(number: int) -> None:
        conn = await connect(database, f"writer {number}")
        try:
            await gate.wait()
            for turn in range(REPETITIONS):
                async with conn.transaction():
                    if (number + turn) % 4 == 0:  # lock shared with other writers, before the row is written
                        await conn.execute(LOCK_POSITION, position_id)
                    await orders.journal(
                        conn, None, at=AT, source="stream", kind="note", note=f"{number}/{turn}"
                    )
                    if (number + turn) % 4 == 1:  # and after it
                        await conn.execute(LOCK_POSITION, position_id)
                    if turn % 5 == 0:
                        await orders.journal(conn, None, at=AT, source="poll", kind="note")
        finally:
            await conn.close()

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(write(number))
    async with store.read() as conn:
        written = await conn.fetchval("SELECT count(*) FROM order_events")
        assert written >= CONNECTIONS * REPETITIONS * 6 / 5
        head = await journal.verify(conn)
        assert isinstance(head, ChainLink)
        assert head.link == written
