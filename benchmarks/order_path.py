"""Order path, from a signal to a durable fill: the time of each step against its floor.

Rounds run in turns: floor, ours, ours with PAST orders of earlier years. The floor of an order is one durable INSERT
and one minimal POST. `bare` sends our order with that minimal POST, `alpaca-py` with the real client. Every figure is
measured with commits that wait for the disk, and again with `synchronous_commit = off`.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median
from time import perf_counter_ns
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import structlog

from benchmarks._floor import (
    BarePost,
    Row,
    bare_broker,
    database_server,
    insert_past_orders,
    measure_interleaved,
    new_database,
    ratio_rows,
)
from catalyst.broker import parse
from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.order_payload import build_payload
from catalyst.broker.port import Priority
from catalyst.clock import SystemClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.order import PositionSide, Purpose, Side
from catalyst.domain.report import OrderReport, OrderRequest
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.store.pool import Store, open_store

ROUNDS = int(os.environ.get("ROUNDS", "200"))
PAST = int(os.environ.get("PAST", "200000"))
BURST_SIZE = 50
COUNTED_LIFECYCLES = 50
BURSTS = int(os.environ.get("BURSTS", "6"))
CYCLE = "20260617-081500"
SYMBOLS = 12_000
Step = Callable[[int], Awaitable[Sequence[float]]]


def run() -> list[Row]:
    return asyncio.run(measure_all())


async def measure_all() -> list[Row]:
    """Measure rows 9 to 13 of the table of targets."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows: list[Row] = []
    with database_server() as server:
        async with bare_broker() as (url, received_at):
            fresh = await new_database(server, "today")
            full = await new_database(server, "years")
            await insert_past_orders(full, PAST)
            for dsn in (fresh, full):
                await insert_day(dsn)
            first = 0
            for commits, note in (("on", ""), ("off", " (sync off)")):
                rows += await measure_lifecycles(url, received_at, fresh, full, commits, note, first)
                first += SYMBOLS // 2
            rows += await measure_wal_syncs(url, fresh)
    return rows


async def insert_day(dsn: str) -> None:
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute("UPDATE daemon SET epoch = 1")
        await conn.execute(
            """
            INSERT INTO trading_cycles (cycle_id, cycle_date, mode, max_positions, max_daily_loss, scan_frequency,
                                        start_time, updated_at, config_hash)
            VALUES ($1, '2026-06-17', 'autonomous', 5, 2000, 1800, '2026-06-17 12:15Z', '2026-06-17 12:15Z', 'h')
            """,
            CYCLE,
        )
        await conn.execute(
            "INSERT INTO securities (symbol) SELECT 'S' || n FROM generate_series(0, $1::int) AS n",
            SYMBOLS + 200,
        )
        await conn.execute("VACUUM (ANALYZE)")
    finally:
        await conn.close()


class BareBroker:
    """A broker that uses only the minimal POST and our parser of the response."""

    def __init__(self, http: BarePost) -> None:
        self.http = http
        self.answered = 0

    async def submit(self, request: OrderRequest, *, priority: Priority) -> OrderReport:
        assert priority is Priority.ROUTINE
        response = await self.http.post(orjson.dumps(build_payload(request)))
        self.answered = perf_counter_ns()
        return parse.order_report(orjson.loads(response), fail_on_malformed)


def fail_on_malformed(reason: str, raw: object) -> None:
    raise AssertionError(reason, raw)


@dataclass
class OrderPath:
    """The daemon's order path on one database, with one broker."""

    store: Store
    ledger: OrderLedger
    execution: OrderSubmission
    symbols: "SymbolSequence"
    last: OrderRow | None = None

    async def place(self, _: int) -> tuple[OrderRow, int]:
        """Send the order of a new signal; return its acknowledged row and the signal's time in nanoseconds."""
        symbol = self.symbols.next()
        new = NewOrder(
            client_order_id=f"cat-{uuid4().hex[:20]}-e0",
            symbol=symbol,
            purpose=Purpose.ENTRY,
            position_side=PositionSide.LONG,
            side=Side.BUY,
            quantity=Decimal(100),
            order_type="limit",
            time_in_force="day",
            order_class="bracket",
            limit_price=Decimal("190.10"),
            bracket_stop=Decimal("188.00"),
            bracket_target=Decimal("194.00"),
            cycle_id=CYCLE,
            signal_id=f"bench|{symbol}|{uuid4().hex[:8]}",
            epoch=1,
        )
        signal_at = perf_counter_ns()
        return await self.execution.place(new, note="a signal"), signal_at


class SymbolSequence:
    """Yields each symbol once, because a second entry in one symbol takes another path."""

    def __init__(self, first: int) -> None:
        self._next = first

    def next(self) -> str:
        self._next += 1
        return f"S{self._next}"


def fill_frame(row: OrderRow) -> bytes:
    """Return the stream frame of a complete fill of an order."""
    order: dict[str, Any] = {
        "id": row.alpaca_order_id, "client_order_id": row.client_order_id, "symbol": row.symbol, "side": row.side,
        "qty": str(row.quantity), "filled_qty": str(row.quantity), "filled_avg_price": "190.05", "status": "filled",
        "type": row.order_type, "order_class": row.order_class, "time_in_force": row.time_in_force,
        "limit_price": str(row.limit_price), "stop_price": None, "legs": None,
    }  # fmt: skip
    now = datetime.now(UTC).isoformat()
    data = {
        "event": "fill", "execution_id": str(uuid4()), "price": "190.05", "qty": str(row.quantity),
        "position_qty": str(row.quantity), "timestamp": now, "order": order,
    }  # fmt: skip
    return orjson.dumps({"stream": "trade_updates", "data": data})


async def measure_lifecycles(
    url: str, received_at: Callable[[], int], fresh: str, full: str, commits: str, note: str, first: int
) -> list[Row]:
    """Measure complete order lifecycles, step by step, in turns."""
    async with AsyncExitStack() as stack:
        symbols = SymbolSequence(first)

        async def open_order_path(dsn: str, *, bare: bool) -> OrderPath:
            clock = SystemClock()
            store = await open_store(dsn, clock)
            stack.push_async_callback(store.close)
            broker: Any
            if bare:
                broker = BareBroker(await BarePost.open(url))
                stack.callback(broker.http.close)
            else:
                broker = AlpacaBroker(clock, base_url=url, key="k", secret="s", rate_limit=1_000_000)
                stack.push_async_callback(broker.close)
            gate = EntryGate(clock, reasons={})
            config = CurrentConfig(Config())
            ledger = OrderLedger(store, broker, clock, 1, config, gate)
            return OrderPath(
                store,
                ledger,
                OrderSubmission(store, broker, ledger, gate, clock, config, 1, "0a1b2c"),
                symbols,
            )

        floor = OrderFloor(await asyncpg.connect(fresh), await BarePost.open(url), received_at, symbols)
        stack.push_async_callback(floor.conn.close)
        stack.callback(floor.http.close)
        await floor.conn.execute(f"SET synchronous_commit = {commits}")
        paths = {
            "bare": await open_order_path(fresh, bare=True),
            "full": await open_order_path(full, bare=True),
            "alpaca-py": await open_order_path(fresh, bare=False),
        }
        for path in paths.values():
            async with path.store.order_statement("set synchronous_commit") as conn:
                await conn.execute(f"SET synchronous_commit = {commits}")
        works: dict[str, Step] = {"floor": floor.lifecycle}
        works |= {name: lifecycle_of(path, received_at) for name, path in paths.items()}
        spent = await measure_interleaved(works, ROUNDS)
        rows = [
            *ratio_rows(
                f"signal to the wire{note}, bare",
                spent["bare"][0],
                spent["floor"][0],
                1.5 if not note else 1.8,
            ),
            *ratio_rows(
                f"signal to the wire{note}, by alpaca-py", spent["alpaca-py"][0], spent["floor"][0], 2.5
            ),
            (f"signal to acknowledgement{note}, floor", median(spent["floor"][1]), "ms"),
            (f"signal to acknowledgement{note}, bare", median(spent["bare"][1]), "ms"),
            (f"signal to acknowledgement{note}, by alpaca-py", median(spent["alpaca-py"][1]), "ms"),
            past_ratio_row(f"signal to the wire{note}", spent, 0),
            *ratio_rows(f"acknowledgement to durable{note}", spent["bare"][2], spent["floor"][2], 1.2),
            past_ratio_row(f"acknowledgement to durable{note}", spent, 2),
            *ratio_rows(f"fill to position durable{note}", spent["bare"][3], spent["floor"][3], 1.0),
            (
                f"fill to position durable{note}: against one minimal CTE",
                median(spent["bare"][3]) / median(spent["floor"][4]),
                "x",
            ),
            past_ratio_row(f"fill to position durable{note}", spent, 3),
        ]
        burst = await measure_interleaved(
            {"floor": floor.burst, "ours": burst_of(paths["bare"])}, BURSTS, warm=1
        )
        rows += ratio_rows(
            f"{BURST_SIZE} fills at once, all durable{note}", burst["ours"][0], burst["floor"][0], 1.2
        )
        return rows


def past_ratio_row(name: str, spent: dict[str, list[list[float]]], column: int) -> Row:
    ratio = median(spent["full"][column]) / median(spent["bare"][column])
    return f"{name}: {PAST:,} past orders over none, target <= 1.1", ratio, "x"


def lifecycle_of(order_path: OrderPath, received_at: Callable[[], int]) -> Step:
    """Return a step that measures one order in milliseconds: signal to wire, signal to acknowledgement,
    acknowledgement to durable, fill to durable."""

    async def lifecycle(number: int) -> Sequence[float]:
        applied_at: list[int] = []
        original = order_path.ledger.apply_report

        async def timed(*args: Any, **keywords: Any) -> Any:
            applied_at.append(perf_counter_ns())
            result = await original(*args, **keywords)
            applied_at.append(perf_counter_ns())
            return result

        order_path.ledger.apply_report = timed  # type: ignore[method-assign]  # measures the real method
        try:
            row, signal_at = await order_path.place(number)
        finally:
            order_path.ledger.apply_report = original  # type: ignore[method-assign]
        assert row.alpaca_order_id is not None
        frame = fill_frame(row)
        frame_at = perf_counter_ns()
        assert await order_path.ledger.apply_trade_update(
            parse.trade_update(orjson.loads(frame), fail_on_malformed)
        )
        done = perf_counter_ns()
        return [
            (received_at() - signal_at) / 1e6,
            (applied_at[0] - signal_at) / 1e6,
            (applied_at[1] - applied_at[0]) / 1e6,
            (done - frame_at) / 1e6,
        ]

    return lifecycle


def burst_of(order_path: OrderPath) -> Step:
    """Return a step that measures fifty waiting fills, applied in batches as by the daemon."""

    async def burst(number: int) -> Sequence[float]:
        rows = [(await order_path.place(number))[0] for _ in range(BURST_SIZE)]
        frames = [fill_frame(row) for row in rows]
        started = perf_counter_ns()
        updates = [parse.trade_update(orjson.loads(frame), fail_on_malformed) for frame in frames]
        while updates:
            count = await order_path.ledger.apply_batch(updates)
            if not count:
                assert await order_path.ledger.apply_trade_update(updates[0])
            updates = updates[count or 1 :]
        return [(perf_counter_ns() - started) / 1e6]

    return burst


@dataclass
class OrderFloor:
    """The floor of each step: minimal statements on minimal tables over one connection, and a minimal POST."""

    conn: "asyncpg.Connection[asyncpg.Record]"
    http: BarePost
    received_at: Callable[[], int]
    symbols: SymbolSequence

    async def lifecycle(self, _: int) -> Sequence[float]:
        symbol, client_id = self.symbols.next(), uuid4().hex
        body = orjson.dumps(
            {
                "client_order_id": client_id, "symbol": symbol, "side": "buy", "qty": "100", "type": "limit",
                "time_in_force": "day", "order_class": "bracket", "limit_price": "190.10",
                "take_profit": {"limit_price": "194.00"}, "stop_loss": {"stop_price": "188.00"},
            }
        )  # fmt: skip
        started = perf_counter_ns()
        order = await self._insert(client_id, symbol)
        response = orjson.loads(await self.http.post(body))
        answered = perf_counter_ns()
        await self.conn.execute(
            "UPDATE bare_orders SET status = 'accepted', broker_id = $2, at = $3 WHERE id = $1",
            order,
            response["id"],
            datetime.now(UTC),
        )
        updated = perf_counter_ns()
        await self._fill_in_four(order, symbol)
        filled_in_four = perf_counter_ns()
        second_order = await self._insert(uuid4().hex, symbol)
        inserted = perf_counter_ns()
        await self._fill_in_one(second_order, symbol)
        done = perf_counter_ns()
        marks = (
            self.received_at() - started,
            answered - started,
            updated - answered,
            filled_in_four - updated,
            done - inserted,
        )
        return [mark / 1e6 for mark in marks]

    async def burst(self, _: int) -> Sequence[float]:
        symbol = self.symbols.next()
        ids = [await self._insert(uuid4().hex, symbol) for _ in range(BURST_SIZE)]
        began = perf_counter_ns()
        for order in ids:
            await self._fill_in_one(order, symbol)
        return [(perf_counter_ns() - began) / 1e6]

    async def _insert(self, client: str, symbol: str) -> int:
        order: int = await self.conn.fetchval(
            "INSERT INTO bare_orders (client_id, symbol, quantity, status, at) VALUES ($1, $2, $3, 'submitted', $4)"
            " RETURNING id",
            client,
            symbol,
            Decimal(100),
            datetime.now(UTC),
        )
        return order

    async def _fill_in_four(self, order: int, symbol: str) -> None:
        quantity, price = Decimal(100), Decimal("190.05")
        async with self.conn.transaction():
            await self.conn.execute(
                "UPDATE bare_orders SET status = 'filled', filled = $2 WHERE id = $1", order, quantity
            )
            await self.conn.execute(
                "INSERT INTO bare_fills (id, cum, quantity, price) VALUES ($1, $2, $2, $3)",
                order,
                quantity,
                price,
            )
            await self.conn.execute(
                "INSERT INTO bare_positions (symbol, quantity, cost) VALUES ($1, $2, $3)",
                symbol,
                quantity,
                quantity * price,
            )
            await self.conn.execute(
                "INSERT INTO bare_journal (id, was, became, at) VALUES ($1, 'accepted', 'filled', $2)",
                order,
                datetime.now(UTC),
            )

    async def _fill_in_one(self, order: int, symbol: str) -> None:
        await self.conn.execute(
            """
            WITH moved AS (UPDATE bare_orders SET status = 'filled', filled = $2 WHERE id = $1),
                 booked AS (INSERT INTO bare_fills (id, cum, quantity, price) VALUES ($1, $2, $2, $3)),
                 held AS (INSERT INTO bare_positions (symbol, quantity, cost) VALUES ($4, $2, $2 * $3))
            INSERT INTO bare_journal (id, was, became, at) VALUES ($1, 'accepted', 'filled', $5)
            """,
            order,
            Decimal(100),
            Decimal("190.05"),
            symbol,
            datetime.now(UTC),
        )


async def measure_wal_syncs(url: str, dsn: str) -> list[Row]:
    """Measure the WAL syncs of one order from signal to filled entry, by the server's own counters."""
    clock = SystemClock()
    counts = []
    for lifecycles in (0, COUNTED_LIFECYCLES):
        before = await read_wal_syncs(dsn)
        store = await open_store(dsn, clock)
        broker: Any = BareBroker(await BarePost.open(url))
        config = CurrentConfig(Config())
        gate = EntryGate(clock, reasons={})
        ledger = OrderLedger(store, broker, clock, 1, config, gate)
        execution = OrderSubmission(store, broker, ledger, gate, clock, config, 1, "0a1b2c")
        path = OrderPath(store, ledger, execution, SymbolSequence(SYMBOLS + 100))
        step = lifecycle_of(path, perf_counter_ns)
        for number in range(lifecycles):
            await step(number)
        await store.close()
        broker.http.close()
        await asyncio.sleep(0.5)  # a backend flushes its statistics when it ends
        counts.append(await read_wal_syncs(dsn) - before)
    return [
        (
            "WAL syncs from signal to filled entry, target 3",
            (counts[1] - counts[0]) / COUNTED_LIFECYCLES,
            "per order",
        )
    ]


async def read_wal_syncs(dsn: str) -> int:
    conn = await asyncpg.connect(dsn)
    try:
        count: int = await conn.fetchval("SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'")
    finally:
        await conn.close()
    return count


if __name__ == "__main__":
    for name, value, unit in run():
        print(f"{name:<70} {value:>12,.3f} {unit}")
