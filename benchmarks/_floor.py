"""Floors of the benchmarks: a minimal broker, minimal tables and interleaved rounds, to compare the order path with."""

import asyncio
import gc
import mmap
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter_ns
from uuid import uuid4

import asyncpg
import orjson

from catalyst import embedded
from catalyst.store import migrate

Row = tuple[str, float, str]
ROOT = Path(__file__).parents[1]
SLOTS = 1 << 16

BARE = """
CREATE TABLE bare_orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, client_id text NOT NULL UNIQUE,
    symbol text NOT NULL, quantity numeric NOT NULL, status text NOT NULL, broker_id text,
    filled numeric NOT NULL DEFAULT 0, at timestamptz NOT NULL);
CREATE TABLE bare_fills (id bigint NOT NULL, cum numeric NOT NULL, quantity numeric NOT NULL,
    price numeric NOT NULL, PRIMARY KEY (id, cum));
CREATE TABLE bare_positions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, symbol text NOT NULL,
    quantity numeric NOT NULL, cost numeric NOT NULL);
CREATE TABLE bare_journal (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id bigint NOT NULL,
    was text, became text NOT NULL, at timestamptz NOT NULL);
"""


@contextmanager
def database_server() -> Iterator[embedded.EmbeddedPostgres]:
    """Start a separate PostgreSQL, durable as in production: fsync on, synchronous commits."""
    folder = Path(tempfile.mkdtemp(prefix="catalyst-bench-"))
    try:
        with embedded.start(folder, settings={"autovacuum": "off"}) as server:
            yield server
    finally:
        embedded.remove_data_dir(folder)


async def new_database(server: embedded.EmbeddedPostgres, name: str) -> str:
    """Create a migrated database that also has the minimal tables; return its DSN."""
    admin = await asyncpg.connect(server.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
    finally:
        await admin.close()
    dsn = server.dsn_of(name)
    await migrate.migrate(dsn)
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute(BARE)
    finally:
        await conn.close()
    return dsn


# Two thousand orders a day, nine seconds apart, from 15:00 to 20:00 UTC; each day is a session.
PAST_DAYS = """
INSERT INTO trading_days (date, open, close, half_day)
SELECT day, day + time '14:30' AT TIME ZONE 'UTC', day + time '21:00' AT TIME ZONE 'UTC', false
  FROM (SELECT date '2018-01-02' + n AS day FROM generate_series(0, $1::int / 2000) AS n) AS days
"""
PAST_POSITIONS = """
INSERT INTO positions (security_id, side, quantity, entered_qty, entry_price, cost, exited_qty, proceeds, exit_price,
                       realized_pnl, entry_time, exit_time, status, close_reason, protected_at, updated_at)
SELECT $2 + n % 4000, 'long', 0, 10, 100, 1000, 10, 1010, 101, 10, at, at + interval '1 min', 'closed', 'MARKET_CLOSE',
       at, at + interval '1 min'
  FROM (SELECT n, timestamptz '2018-01-02 15:00Z' + n / 1000 * interval '24 h' + n % 1000 * interval '18 s' AS at
          FROM generate_series(0, $1::int / 2 - 1) AS n) AS past
"""
PAST_ORDERS = """
INSERT INTO orders (client_order_id, alpaca_order_id, security_id, position_id, order_purpose, position_side, side,
                    order_type, time_in_force, quantity, limit_price, status, filled_qty, filled_avg_price,
                    broker_status, epoch, created_at, submitted_at, accepted_at, filled_at, closed_at, updated_at)
SELECT 'past-' || n, 'broker-past-' || n, $2 + (n / 2) % 4000, $3 + n / 2,
       CASE n % 2 WHEN 0 THEN 'entry' ELSE 'exit' END, 'long', CASE n % 2 WHEN 0 THEN 'buy' ELSE 'sell' END, 'limit',
       'day', 10, 100 + n % 2, 'filled', 10, 100 + n % 2, 'filled', 0, at, at, at, at, at, at
  FROM (SELECT n, timestamptz '2018-01-02 15:00Z' + n / 2000 * interval '24 h' + n % 2000 * interval '9 s' AS at
          FROM generate_series(0, $1::int / 2 * 2 - 1) AS n) AS past
"""
PAST_FILLS = """
INSERT INTO executions (order_id, cum_qty, quantity, price, at, source, activity_id)
SELECT order_id, 10, 10, filled_avg_price, created_at, 'stream', 'activity-' || order_id FROM orders
"""
PAST_JOURNAL = """
INSERT INTO order_events (order_id, at, source, kind, from_status, to_status)
SELECT order_id, created_at, step.source, step.kind, step.was, step.became
  FROM orders, (VALUES (1, 'submit', 'transition', NULL, 'created'),
                       (2, 'submit', 'transition', 'created', 'submitted'),
                       (3, 'stream', 'fill', 'submitted', 'filled')) AS step (n, source, kind, was, became)
 ORDER BY order_id, step.n
"""
CHAIN = """
CREATE FUNCTION pg_temp.link(before bytea, line text) RETURNS bytea LANGUAGE plpgsql AS
$$ BEGIN RETURN sha256(before || convert_to(line, 'UTF8')); END $$;
CREATE AGGREGATE pg_temp.chain(text) (sfunc = pg_temp.link, stype = bytea, initcond = '');
INSERT INTO journal_chain (link, seq, hash)
SELECT row_number() OVER whole, e.seq, pg_temp.chain(journal_line(e)) OVER whole
  FROM order_events e WINDOW whole AS (ORDER BY e.seq ROWS UNBOUNDED PRECEDING);
INSERT INTO flat_proofs (at, cause, requested_by, flat, broker_orders, broker_positions, facts)
SELECT now(), 'MARKET_CLOSE', 'schedule', true, 0, 0,
       jsonb_build_object('journal', jsonb_build_object('link', link, 'seq', seq, 'hash', encode(hash, 'hex')))
  FROM journal_chain ORDER BY link DESC LIMIT 1;
"""


async def insert_past_orders(dsn: str, orders: int) -> None:
    """Insert `orders` closed orders of earlier years into a consistent ledger: every second order is the exit of a
    closed position; each has its fill, a complete journal and its link in the hash chain, up to a flat proof."""
    conn = await asyncpg.connect(dsn, command_timeout=1_800)
    try:
        await conn.execute(
            "SET session_replication_role = replica"
        )  # no triggers: these orders were checked long ago
        await conn.execute("SET synchronous_commit = off")
        await conn.execute(
            "INSERT INTO securities (symbol) SELECT 'OLD' || n FROM generate_series(1, 4000) AS n"
        )
        security = await conn.fetchval("SELECT min(security_id) FROM securities WHERE symbol LIKE 'OLD%'")
        await conn.execute(PAST_DAYS, orders)
        await conn.execute(PAST_POSITIONS, orders, security)
        position = await conn.fetchval("SELECT min(position_id) FROM positions")
        await conn.execute(PAST_ORDERS, orders, security, position)
        await conn.execute(PAST_FILLS)
        await conn.execute(PAST_JOURNAL)
        await conn.execute(CHAIN)
        await conn.execute("VACUUM (ANALYZE)")
        await conn.execute("CHECKPOINT")
    finally:
        await conn.close()


@asynccontextmanager
async def bare_broker() -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """Run a minimal broker in its own process; yield its URL and a function that returns when the last byte of the last
    order arrived, in nanoseconds of the machine's monotonic clock."""
    with tempfile.TemporaryDirectory() as folder:
        received = Path(folder) / "seen"
        received.write_bytes(bytes(8))
        ready = Path(folder) / "port"
        code = "import sys; from benchmarks._floor import answer_orders; answer_orders(*sys.argv[1:])"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(ready), str(received), cwd=ROOT
        )
        try:
            while not ready.exists() or not ready.read_text():
                assert child.returncode is None
                await asyncio.sleep(0.02)
            file = os.open(received, os.O_RDONLY)
            memory = mmap.mmap(file, 8, prot=mmap.PROT_READ)
            os.close(file)
            yield (
                f"http://127.0.0.1:{ready.read_text()}",
                lambda: int(struct.unpack("<q", memory[:8])[0]),
            )
        finally:
            child.send_signal(signal.SIGTERM)
            await child.wait()


def answer_orders(port_file: str, received_file: str) -> None:
    """Answer every POST with an accepted bracket, and store the time of its last byte; runs until the process ends."""
    file = os.open(received_file, os.O_RDWR)
    memory = mmap.mmap(file, 8)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                writer.close()
                return
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ),
                0,
            )
            body = await reader.readexactly(length)
            memory[:8] = struct.pack("<q", perf_counter_ns())
            response = orjson.dumps(accepted_order(orjson.loads(body)))
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(response), response)
            )

    async def run() -> None:
        server = await asyncio.start_server(serve, sock=listening)
        await server.serve_forever()

    listening = socket.create_server(("127.0.0.1", 0))
    Path(port_file).write_text(str(listening.getsockname()[1]))
    gc.freeze()
    asyncio.run(run())


def accepted_order(body: Mapping[str, object]) -> dict[str, object]:
    """Return the broker's response to an order, with the legs of a bracket."""
    stamp = "2026-06-17T14:30:00.123456789Z"
    parent: dict[str, object] = {
        "id": str(uuid4()), "filled_qty": "0", "filled_avg_price": None, "status": "pending_new", "legs": None,
        "submitted_at": stamp, "updated_at": stamp, "replaced_by": None, "replaces": None, "stop_price": None,
        "limit_price": None, "order_class": "simple",
    } | {key: body[key] for key in body if key not in ("take_profit", "stop_loss")}  # fmt: skip
    if body.get("order_class") == "bracket":
        legs = (("limit", "limit_price", "take_profit"), ("stop", "stop_price", "stop_loss"))
        parent["legs"] = [
            parent | {
                "id": str(uuid4()), "client_order_id": str(uuid4()), "status": "held", "type": kind, "side": "sell",
                "limit_price": None, "stop_price": None, "legs": None,
            } | {price: body[name][price]}  # type: ignore[index]  # a bracket has both
            for kind, price, name in legs
        ]  # fmt: skip
    return parent


class BarePost:
    """A minimal POST: one connection, a constant head, and a complete read of the response."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "BarePost":
        host, port = url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def post(self, body: bytes) -> bytes:
        self._writer.write(
            b"POST /v2/orders HTTP/1.1\r\nHost: broker\r\nAPCA-API-KEY-ID: key\r\nAPCA-API-SECRET-KEY: secret\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


async def measure_interleaved(
    works: Mapping[str, Callable[[int], Awaitable[Sequence[float]]]], rounds: int, *, warm: int = 20
) -> dict[str, list[list[float]]]:
    """Run each work once per round, in turns; return by work one list per figure, in milliseconds."""
    spent: dict[str, list[list[float]]] = {name: [] for name in works}
    gc.collect()
    gc.freeze()
    for number in range(warm + rounds):
        for name, work in works.items():
            measured = await work(number)
            if number >= warm:
                spent[name].append(list(measured))
    gc.unfreeze()
    return {name: [list(column) for column in zip(*rows, strict=True)] for name, rows in spent.items()}


def ratio_rows(name: str, ours: Sequence[float], floor: Sequence[float], target: float) -> list[Row]:
    """Return the rows for the floor, ours, and their ratio with its target; medians in milliseconds."""
    floor_ms, ours_ms = median(floor), median(ours)
    return [
        (f"{name}: floor", floor_ms, "ms"),
        (f"{name}: ours (p99 {percentile(ours, 99):.2f})", ours_ms, "ms"),
        (f"{name}: ratio, target <= {target:g}", ours_ms / floor_ms, "x"),
    ]


def percentile(values: Sequence[float], hundredth: int) -> float:
    return quantiles(values, n=100, method="inclusive")[hundredth - 1] if len(values) > 1 else values[0]
