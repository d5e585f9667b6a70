"""Batches of trade updates: one transaction writes them all, with the rows of single updates, at a cost per
order that stays constant over the day."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import ManualClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain import order as order_machine
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.report import Fill, OrderReport, TradeUpdate
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.store import orders
from catalyst.store.pool import Store
from tests.store.raw_rows import AT, CYCLE, RawRows

LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")  # a symbol has no digits
FULL = Decimal(100)


@dataclass
class LedgerSetup:
    """A store with an open trading day, its order ledger, and helpers for orders and trade updates."""

    store: Store
    ledger: OrderLedger

    async def create_entry(self, number: int) -> OrderRow:
        """Insert a working entry of 100 shares with the two legs of its bracket; return its row."""
        new = NewOrder(
            client_order_id=f"cat-{number}", symbol=f"S{number:03}".translate(LETTERS), purpose=Purpose.ENTRY,
            position_side=PositionSide.LONG, side=Side.BUY, quantity=FULL, order_type="limit", time_in_force="day",
            order_class="bracket", limit_price=Decimal("190.10"), bracket_stop=Decimal(188),
            bracket_target=Decimal(194), cycle_id=CYCLE, epoch=1,
        )  # fmt: skip
        async with self.store.order_statement("given") as conn:
            row = await orders.insert_returning(
                conn, new, status=Status.SUBMITTED, at=AT, source="submit", note="given"
            )
        self.ledger.cache_row(row)
        legs = tuple(
            make_report(row, f"{role}-{number}", "held", side=Side.SELL, order_type=kind)
            for role, kind in (("target", "limit"), ("stop", "stop"))
        )
        assert await self.ledger.apply_report(
            make_report(row, row.client_order_id, "pending_new", legs=legs), "submit"
        )
        cached = self.ledger.cached_row(row.client_order_id)
        assert cached is not None
        return cached

    async def current_transaction_id(self) -> int:
        """Return the transaction number of this query."""
        async with self.store.read() as conn:
            number: int = await conn.fetchval("SELECT pg_current_xact_id()::text::bigint")
        return number

    async def fetched_rows(self) -> dict[str, int]:
        """Return the rows read from each table so far, by the server's statistics."""
        async with self.store.order_statement("counted") as conn:
            await conn.execute("SELECT pg_stat_force_next_flush()")
        async with self.store.read() as conn:
            return {
                row["relname"]: row["seq_tup_read"] + (row["idx_tup_fetch"] or 0)
                for row in await conn.fetch(
                    "SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = ANY($1)",
                    ["orders", "positions", "executions", "order_events", "journal_chain", "securities"],
                )
            }

    async def apply_updates(self, updates: Sequence[TradeUpdate]) -> list[int]:
        """Apply all updates as the stream consumer does; return the size of each batch, 0 for a single
        update."""
        batch_sizes = []
        while updates:
            count = await self.ledger.apply_batch(updates)
            if not count:
                assert await self.ledger.apply_trade_update(updates[0])
            batch_sizes.append(count)
            updates = updates[count or 1 :]
        return batch_sizes

    async def written_rows(self, cids: Sequence[str]) -> list[list[dict[str, Any]]]:
        """Return all rows of these entries and their legs, without generated ids."""
        queries = (
            "SELECT o.* FROM orders o JOIN named USING (order_id)",
            "SELECT x.* FROM executions x JOIN named USING (order_id)",
            "SELECT p.* FROM positions p JOIN orders USING (position_id) JOIN named USING (order_id)",
            "SELECT e.* FROM order_events e JOIN named USING (order_id)",
        )
        ids = {
            "order_id",
            "client_order_id",
            "alpaca_order_id",
            "security_id",
            "position_id",
            "parent_order_id",
            "seq",
        }
        tables = []
        async with self.store.read() as conn:
            for sql in queries:
                rows = await conn.fetch(
                    "WITH named AS (SELECT o.order_id, row_number() OVER (ORDER BY coalesce(p.order_id, o.order_id),"
                    " o.order_id) AS n FROM orders o LEFT JOIN orders p ON p.order_id = o.parent_order_id"
                    f" WHERE coalesce(p.client_order_id, o.client_order_id) = ANY($1)) {sql} ORDER BY n"
                    + (", seq" if "order_events" in sql else ""),
                    cids,
                )
                tables.append([{k: v for k, v in row.items() if k not in ids} for row in rows])
        for line in tables[3]:
            line["note"] = str(line["note"]).split(":")[-1]  # the note of a leg contains the id of its parent
        return tables


def make_report(
    row: OrderRow, cid: str, broker_status: str, filled: Decimal = Decimal(0), **facts: Any
) -> OrderReport:
    """Return a report of the order with this client order id and broker status."""
    return OrderReport(
        **{
            "broker_id": f"b-{cid}", "client_order_id": cid, "symbol": row.symbol, "side": row.side,
            "quantity": row.quantity, "filled_qty": filled, "filled_avg_price": Decimal(190) if filled else None,
            "broker_status": broker_status, "order_type": "limit", "order_class": "bracket", "time_in_force": "day",
            "limit_price": Decimal("190.10"), "stop_price": None, **facts,
        }
    )  # fmt: skip


def fill_update(row: OrderRow, quantity: Decimal = FULL, *, before: Decimal = Decimal(0)) -> TradeUpdate:
    """Return the trade update of a fill of `quantity` shares after `before` filled shares."""
    cid, total = row.client_order_id, before + quantity
    broker_status = "filled" if total == row.quantity else "partially_filled"
    fill = Fill(f"b-{cid}", total, quantity, Decimal(190), AT, execution_id=f"x-{cid}-{total}")
    return TradeUpdate("fill", make_report(row, cid, broker_status, total), fill, total, AT)


def cancel_update(row: OrderRow) -> TradeUpdate:
    """Return the trade update of a cancel."""
    cid = row.client_order_id
    return TradeUpdate("canceled", make_report(row, cid, "canceled"), None, None, AT)


@pytest.fixture
async def ledger_setup(store: Store, clock: ManualClock) -> AsyncIterator[LedgerSetup]:
    """Open a trading day and its order ledger; the broker is unreachable."""
    async with store.read() as conn:
        await RawRows(conn).insert_day()
    broker = AlpacaBroker(clock, base_url="http://127.0.0.1:1", key="k", secret="s")
    yield LedgerSetup(store, OrderLedger(store, broker, clock, 1, CurrentConfig(Config()), EntryGate(clock)))
    await broker.close()


async def test_batch_of_fifty_fills_is_one_transaction(ledger_setup: LedgerSetup) -> None:
    """Fifty entry fills are one commit with executions, positions, journal and linked legs; the rows equal
    those of single updates."""
    rows = [await ledger_setup.create_entry(number) for number in range(50)]
    before = await ledger_setup.current_transaction_id()
    assert await ledger_setup.apply_updates([fill_update(row) for row in rows]) == [50]
    assert await ledger_setup.current_transaction_id() - before == 2  # the batch, and this query
    single_rows = [await ledger_setup.create_entry(number) for number in range(50, 53)]
    for row in single_rows:
        assert await ledger_setup.ledger.apply_trade_update(fill_update(row))
    batch_tables = await ledger_setup.written_rows([row.client_order_id for row in rows[:3]])
    single_tables = await ledger_setup.written_rows([row.client_order_id for row in single_rows])
    assert [len(table) for table in batch_tables] == [9, 3, 9, 15]
    for table in (*batch_tables, *single_tables):
        for line in table:
            line.pop("execution_id", None)
    assert batch_tables == single_tables


async def test_rows_read_per_order_stay_constant_over_the_day(ledger_setup: LedgerSetup) -> None:
    """A fill reads as many rows at the end of the day as at its start, although its plans were made on empty
    tables."""

    async def run_orders(numbers: range) -> None:
        for number in numbers:
            assert await ledger_setup.ledger.apply_trade_update(
                fill_update(await ledger_setup.create_entry(number))
            )

    async with ledger_setup.store.read() as conn:
        await conn.execute("VACUUM (ANALYZE)")  # now the statistics show empty tables
    await run_orders(range(12))  # a statement keeps its plan from the sixth run
    reads = []
    for first in (12, 172):
        before = await ledger_setup.fetched_rows()
        await run_orders(range(first, first + 10))
        after = await ledger_setup.fetched_rows()
        reads.append({name: after[name] - before[name] for name in after})
        await run_orders(range(first + 10, first + 160))
    early, late = reads
    assert min(early.values()) > 0
    assert late == {name: pytest.approx(count, abs=25) for name, count in early.items()}, (early, late)


async def test_batch_stops_before_second_fill_of_same_order(ledger_setup: LedgerSetup) -> None:
    """A batch ends before the second fill of an order, so that the first is written before it."""
    first, second, third = [await ledger_setup.create_entry(number) for number in range(3)]
    part = Decimal(40)
    updates = [
        fill_update(first, part),
        fill_update(second),
        fill_update(first, FULL - part, before=part),
        fill_update(third),
    ]
    assert await ledger_setup.apply_updates(updates) == [2, 0, 0]
    async with ledger_setup.store.read() as conn:
        booked = await conn.fetch("SELECT order_id, cum_qty FROM executions ORDER BY order_id, cum_qty")
    assert [tuple(line) for line in booked] == [
        (first.order_id, 40), (first.order_id, 100), (second.order_id, 100), (third.order_id, 100),
    ]  # fmt: skip


async def test_batch_of_cancels_is_split_at_a_fill(ledger_setup: LedgerSetup) -> None:
    """Consecutive cancels are one batch with each order once; a fill between them keeps its place in the
    journal."""
    rows = [await ledger_setup.create_entry(number) for number in range(5)]
    updates = [
        *map(cancel_update, (rows[0], rows[1], rows[0])),
        fill_update(rows[2]),
        *map(cancel_update, rows[3:]),
    ]
    assert await ledger_setup.apply_updates(updates) == [2, 0, 0, 2]
    async with ledger_setup.store.read() as conn:
        events = await conn.fetch(
            "SELECT to_status FROM order_events WHERE to_status IN ('cancelled', 'filled') ORDER BY seq"
        )
    assert [line["to_status"] for line in events] == [
        "cancelled",
        "cancelled",
        "filled",
        "cancelled",
        "cancelled",
    ]


async def test_batch_with_stale_row_writes_nothing(ledger_setup: LedgerSetup, later: datetime) -> None:
    """A batch with one stale cached row writes nothing; the single updates then read the row from the
    database."""
    rows = [await ledger_setup.create_entry(number) for number in range(3)]
    async with ledger_setup.store.tx("another writer") as conn:
        await conn.execute(
            "UPDATE orders SET broker_status = 'accepted', updated_at = $2 WHERE order_id = $1",
            rows[1].order_id,
            later,
        )
    assert await ledger_setup.ledger.apply_batch([fill_update(row) for row in rows]) == 0
    async with ledger_setup.store.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM executions") == 0
        assert await conn.fetchval("SELECT count(*) FROM positions") == 0
    assert await ledger_setup.apply_updates([fill_update(row) for row in rows]) == [0, 0, 0]
    async with ledger_setup.store.read() as conn:
        assert await conn.fetchval("SELECT sum(quantity) FROM positions") == 300


@pytest.mark.parametrize("status", [Status.REJECTED, Status.CANCELLED, Status.EXPIRED, Status.REPLACED])
async def test_fill_is_booked_without_any_edge_in_code_or_database(
    ledger_setup: LedgerSetup, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every edge removed from the code and the database, the fill of a terminal order opens its position."""
    row = await ledger_setup.create_entry(1)
    async with ledger_setup.store.tx("end") as conn:
        await orders.transition(
            conn,
            row.order_id,
            from_status=Status.SUBMITTED,
            to_status=status,
            at=AT,
            source="poll",
            rejection_reason="AUTH_REFUSED: no" if status is Status.REJECTED else None,
            epoch=1,
        )
        await conn.execute("DELETE FROM order_edges")
    monkeypatch.setattr(order_machine, "EDGES", {})
    fill = fill_update(row).fill
    assert fill is not None
    assert await ledger_setup.ledger.apply_fill(fill, "reconcile")
    assert not await ledger_setup.ledger.apply_fill(fill, "reconcile")
    async with ledger_setup.store.read() as conn:
        booked = await orders.get(conn, row.order_id)
        events = [record["event"] for record in await conn.fetch("SELECT event FROM alerts")]
        held = await conn.fetchval(
            "SELECT quantity FROM positions WHERE position_id = $1", booked.position_id
        )
    assert (booked.status, booked.filled_qty, held, events) == (Status.FILLED, FULL, FULL, ["LATE_FILL"])


async def test_cancel_has_the_time_of_the_broker_and_its_journal_the_time_of_receipt(
    ledger_setup: LedgerSetup,
) -> None:
    """A cancel reported three minutes later has ended when the broker says so; the journal has the time of receipt."""
    row = await ledger_setup.create_entry(1)
    canceled_at = AT - timedelta(minutes=3)
    report = make_report(
        row, row.client_order_id, "canceled", submitted_at=AT - timedelta(minutes=9), canceled_at=canceled_at
    )
    assert await ledger_setup.ledger.apply_report(report, "poll")
    async with ledger_setup.store.read() as conn:
        stored = await orders.get(conn, row.order_id)
        cancelled_at = await conn.fetchval(
            "SELECT cancelled_at FROM orders WHERE order_id = $1", row.order_id
        )
        received_at = await conn.fetchval(
            "SELECT at FROM order_events WHERE order_id = $1 AND to_status = 'cancelled'", row.order_id
        )
    assert (stored.broker_submitted_at, stored.broker_canceled_at) == (AT - timedelta(minutes=9), canceled_at)
    assert (stored.closed_at, cancelled_at, stored.ended_at) == (canceled_at,) * 3
    assert received_at > canceled_at


async def test_first_fill_with_changed_and_new_legs_is_one_transaction(ledger_setup: LedgerSetup) -> None:
    """A fill whose message shows a changed leg and a leg without a row writes all, linked to the new position."""
    row = await ledger_setup.create_entry(1)
    update = fill_update(row)
    legs = (
        make_report(row, "target-1", "new", side=Side.SELL, order_type="limit"),
        make_report(row, "second-stop-1", "held", side=Side.SELL, order_type="stop", stop_price=Decimal(187)),
    )
    with_legs = TradeUpdate("fill", replace(update.order, legs=legs), update.fill, FULL, AT)
    assert await ledger_setup.ledger.apply_trade_update(with_legs)
    async with ledger_setup.store.read() as conn:
        booked = await orders.get(conn, row.order_id)
        stored = await orders.legs_of(conn, row.order_id)
    assert booked.position_id is not None
    assert {leg.position_id for leg in stored} == {booked.position_id}
    assert {leg.client_order_id: leg.broker_status for leg in stored} == {
        "target-1": "new",
        "stop-1": "held",
        "second-stop-1": "held",
    }


@pytest.fixture
def later() -> datetime:
    """Return a time after AT."""
    return AT.replace(hour=15)
