"""Concurrency tests: twenty connections call one guarded function at once, a hundred rounds each. They show
what one fixed schedule of steps cannot: deadlocks, a second winner, a share reserved twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from store.raw_rows import AT, CYCLE, RawRows

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import ManualClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import StaleOrder
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.report import Fill
from catalyst.domain.rows import NewOrder
from catalyst.store import (
    alerts,
    commands,
    daemon_epoch,
    exit_intents,
    latches,
    orders,
    pipeline_views,
    proposals,
    quarantine,
    securities,
)
from catalyst.store.constraint_errors import ExitExceedsPosition, StaleEpoch
from catalyst.store.daemon_epoch import RunInfo
from catalyst.store.pool import Connection, Store, open_store
from catalyst.store.proposals import Decision

T = TypeVar("T")

CONNECTIONS = 20
ROUNDS = 100
RUN_INFO = RunInfo("0", "", "hash", "", 1)


@pytest.fixture
async def concurrent_store(database: str, clock: ManualClock) -> AsyncIterator[Store]:
    """Open a store with twenty connections and one spare."""
    store = await open_store(database, clock, size=CONNECTIONS + 1)
    async with store.read() as conn:
        await RawRows(conn).insert_day()
    yield store
    await store.close()


async def run_concurrently(store: Store, work: Callable[[Connection, int], Awaitable[T]]) -> list[T]:
    """Call `work` in twenty transactions at once; return the results."""
    ready = asyncio.Barrier(CONNECTIONS)

    async def run_one(number: int) -> T:
        async with store.tx("at_once") as conn:
            await ready.wait()
            return await work(conn, number)

    return list(await asyncio.gather(*(run_one(number) for number in range(CONNECTIONS))))


def new_order(cid: str, symbol: str = "AAPL", **facts: Any) -> NewOrder:
    """Return an order of 100 shares; an entry unless `facts` overrides it."""
    return NewOrder(
        **{
            "client_order_id": cid,
            "symbol": symbol,
            "purpose": Purpose.ENTRY,
            "position_side": PositionSide.LONG,
            "side": Side.BUY,
            "quantity": Decimal(100),
            "order_type": "market",
            "time_in_force": "day",
            "order_class": "simple",
            "cycle_id": CYCLE,
            "epoch": 1,
            **facts,
        }
    )


async def insert_submitted(store: Store, new: NewOrder) -> int:
    async with store.tx("prepare") as conn:
        return await orders.insert(
            conn, new, status=Status.SUBMITTED, at=AT, source="submit", note="prepared"
        )


@pytest.mark.promise("L3b")
async def test_concurrent_exits_reserve_no_share_twice(concurrent_store: Store) -> None:
    """Of twenty exits of one position one is written and nineteen are refused; the reserved quantity never
    exceeds the position."""
    async with concurrent_store.read() as conn:
        position = await RawRows(conn).insert_position()
    for turn in range(ROUNDS):

        async def insert_exit(conn: Connection, number: int, turn: int = turn) -> int | None:
            new = new_order(f"x-{turn}-{number}", purpose=Purpose.EXIT, side=Side.SELL, position_id=position)
            try:
                async with conn.transaction():
                    return await orders.insert(
                        conn, new, status=Status.SUBMITTED, at=AT, source="submit", note=""
                    )
            except ExitExceedsPosition:
                return None

        written = [
            order_id
            for order_id in await run_concurrently(concurrent_store, insert_exit)
            if order_id is not None
        ]
        assert len(written) == 1
        async with concurrent_store.tx("check") as conn:
            assert await pipeline_views.open_exit_quantity(conn, position) == 100
            await orders.transition(
                conn,
                written[0],
                from_status=Status.SUBMITTED,
                to_status=Status.CANCELLED,
                at=AT,
                source="poll",
                epoch=1,
            )


@pytest.mark.promise("L3b")
async def test_concurrent_reports_book_each_fill_once(concurrent_store: Store, clock: ManualClock) -> None:
    """Twenty sources report two fills at once, ten reports each: each fill is booked once, and the position
    has the final quantity and the cost of both."""
    broker = AlpacaBroker(clock, base_url="http://127.0.0.1:1", key="k", secret="s")
    config = CurrentConfig(Config())
    ledgers = [
        OrderLedger(concurrent_store, broker, clock, 1, config, EntryGate(clock)) for _ in range(CONNECTIONS)
    ]
    for turn in range(ROUNDS):
        order_id = await insert_submitted(
            concurrent_store, new_order(f"f-{turn}", f"S{turn:03}".translate(LETTERS))
        )
        async with concurrent_store.tx("prepare") as conn:
            await conn.execute(
                "UPDATE orders SET alpaca_order_id = $2, broker_status = 'new' WHERE order_id = $1",
                order_id,
                f"b-{turn}",
            )

        async def book_fill(number: int, turn: int = turn) -> bool:
            part = number % 2 == 0
            return await ledgers[number].apply_fill(
                Fill(
                    broker_id=f"b-{turn}",
                    cum_qty=Decimal(40) if part else Decimal(100),
                    quantity=Decimal(40) if part else Decimal(60),
                    price=Decimal("190.00") if part else Decimal("191.00"),
                    at=AT,
                    execution_id=None,
                    activity_id=f"a-{turn}-{part}",
                ),
                "stream",
            )

        await asyncio.gather(*(book_fill(number) for number in range(CONNECTIONS)))
        for number in (0, 1):  # a report that came out of order is repeated, as every source repeats it
            await book_fill(number)
        async with concurrent_store.read() as conn:
            row = await orders.get(conn, order_id)
            booked = await conn.fetch(
                "SELECT cum_qty, quantity FROM executions WHERE order_id = $1 ORDER BY 1", order_id
            )
            held = await conn.fetchrow(
                "SELECT quantity, cost FROM positions WHERE position_id = $1", row.position_id
            )
        assert [tuple(fill) for fill in booked] == [(40, 40), (100, 60)]
        assert (row.status, row.filled_qty) == (Status.FILLED, 100)
        assert held is not None
        assert tuple(held) == (100, Decimal("19060"))
    await broker.close()


LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")  # a symbol has no digits


@pytest.mark.promise("L3b")
async def test_concurrent_transitions_change_order_once(concurrent_store: Store) -> None:
    """Twenty callers cancel one order: one transition is written, the others get StaleOrder."""
    for turn in range(ROUNDS):
        order_id = await insert_submitted(concurrent_store, new_order(f"m-{turn}"))

        async def cancel(conn: Connection, _: int, order_id: int = order_id) -> bool:
            try:
                async with conn.transaction():
                    await orders.transition(
                        conn,
                        order_id,
                        from_status=Status.SUBMITTED,
                        to_status=Status.CANCELLED,
                        at=AT,
                        source="poll",
                        epoch=1,
                    )
            except StaleOrder:
                return False
            return True

        assert sum(await run_concurrently(concurrent_store, cancel)) == 1
        async with concurrent_store.read() as conn:
            lines = await conn.fetchval(
                "SELECT count(*) FROM order_events WHERE order_id = $1 AND to_status = 'cancelled'", order_id
            )
        assert lines == 1


@pytest.mark.promise("L3b")
async def test_concurrent_starts_get_distinct_epochs(concurrent_store: Store) -> None:
    """Fifteen starts at once get an epoch each, without a gap; a write under the old epoch commits before all
    of them or is refused."""
    for turn in range(ROUNDS):

        async def begin(conn: Connection, number: int, turn: int = turn) -> int:
            if number % 4:
                return await daemon_epoch.begin_epoch(conn, "PA1", RUN_INFO, at=AT)
            try:
                async with conn.transaction():
                    await orders.insert(
                        conn,
                        new_order(f"e-{turn}-{number}", epoch=1 + turn * 15),
                        status=Status.CREATED,
                        at=AT,
                        source="submit",
                        note="",
                    )
            except StaleEpoch:
                return 0
            return -1

        epochs = [epoch for epoch in await run_concurrently(concurrent_store, begin) if epoch > 0]
        first = 2 + turn * 15
        assert sorted(epochs) == list(range(first, first + 15))
        with pytest.raises(StaleEpoch):  # after the first new epoch the old one cannot write
            await insert_submitted(concurrent_store, new_order(f"late-{turn}", epoch=1 + turn * 15))


@pytest.mark.promise("L3b")
async def test_concurrent_stops_set_latch_once(concurrent_store: Store) -> None:
    """Of twenty concurrent stops one sets the latch; after it is cleared it can be set again."""

    async def stop(conn: Connection, number: int) -> bool:
        return await latches.set_latch(conn, "flatten", reason=f"{number}", by="somebody", at=AT, until=None)

    for _ in range(ROUNDS):
        assert sum(await run_concurrently(concurrent_store, stop)) == 1
        async with concurrent_store.tx("check") as conn:
            assert list(await latches.active_latches(conn)) == ["flatten"]
            await conn.execute("UPDATE latches SET cleared_at = $1, cleared_by = 'a person'", AT)


@pytest.mark.promise("L3b")
async def test_concurrent_exit_requests_create_one_intent(concurrent_store: Store) -> None:
    """Twenty concurrent requests create one exit intent, as from monitor, close of day, emergency and
    operator."""
    async with concurrent_store.read() as conn:
        position = await RawRows(conn).insert_position()

    async def create_intent(conn: Connection, number: int) -> bool:
        return await exit_intents.create_intent(
            conn, position, reason=f"{number}", purpose=Purpose.EXIT, requested_by="somebody", at=AT
        )

    for _ in range(ROUNDS):
        assert sum(await run_concurrently(concurrent_store, create_intent)) == 1
        async with concurrent_store.tx("check") as conn:
            await exit_intents.end_intent(conn, position, state="abandoned", at=AT, epoch=1)


@pytest.mark.promise("L3b")
async def test_concurrent_takers_take_each_command_once(concurrent_store: Store) -> None:
    """Twenty takers take ten commands: each command is taken exactly once."""
    for _ in range(ROUNDS):
        async with concurrent_store.tx("prepare") as conn:
            command_ids = [
                await commands.put(conn, "halt", {}, by="me", at=AT) for _ in range(CONNECTIONS // 2)
            ]

        async def take(conn: Connection, _: int) -> int | None:
            command = await commands.take_next(conn, at=AT)
            return None if command is None else command.command_id

        taken = [
            command_id
            for command_id in await run_concurrently(concurrent_store, take)
            if command_id is not None
        ]
        async with concurrent_store.tx(
            "check"
        ) as conn:  # a taker that found the next command locked may have returned without one
            while (command := await commands.take_next(conn, at=AT)) is not None:
                taken.append(command.command_id)
        assert sorted(taken) == command_ids


@pytest.mark.promise("L3b")
async def test_concurrent_decisions_decide_proposal_once(concurrent_store: Store) -> None:
    """Ten approve, ten reject: the first decision holds, and every caller receives it."""
    for turn in range(ROUNDS):
        async with concurrent_store.tx("prepare") as conn:
            order_id = await orders.insert(
                conn, new_order(f"p-{turn}"), status=Status.CREATED, at=AT, source="submit", note=""
            )
            row = await orders.get(conn, order_id)
            proposal = await proposals.put(
                conn,
                order_id=order_id,
                cycle_id=CYCLE,
                security_id=row.security_id,
                ticket={},
                at=AT,
                expires_at=AT.replace(hour=20),
            )

        async def decide(conn: Connection, number: int, proposal: int = proposal) -> tuple[Any, bool]:
            which = Decision.APPROVED if number % 2 else Decision.REJECTED
            found, mine = await proposals.decide(conn, proposal, which, by=f"{number}", at=AT)
            return (found.decision, found.decided_by), mine

        decisions = await run_concurrently(concurrent_store, decide)
        assert sum(mine for _, mine in decisions) == 1
        assert len({decision for decision, _ in decisions}) == 1


@pytest.mark.promise("L3b")
async def test_concurrent_identical_alerts_are_one_row(concurrent_store: Store) -> None:
    """Twenty alerts at once under two keys give two rows with nine repeats each."""
    for turn in range(ROUNDS):

        async def raise_alert(conn: Connection, number: int, turn: int = turn) -> bool:
            return await alerts.raise_alert(
                conn, "TEST", f"{number}", subject=f"{turn}-{number % 2}", facts={}, at=AT
            )

        assert sum(await run_concurrently(concurrent_store, raise_alert)) == 2
        async with concurrent_store.read() as conn:
            rows = await conn.fetch("SELECT repeats FROM alerts WHERE dedupe_key LIKE $1", f"TEST:{turn}-%")
        assert [row["repeats"] for row in rows] == [9, 9]


@pytest.mark.promise("L3b")
async def test_concurrent_quarantine_keeps_all_and_resolves_once(concurrent_store: Store) -> None:
    """Twenty payloads quarantined at once are all stored; of twenty concurrent resolutions of one payload one
    succeeds."""
    for turn in range(ROUNDS):

        async def insert_payload(conn: Connection, number: int, turn: int = turn) -> int:
            return await quarantine.put(
                conn, source="stream", reason="odd", payload=f"{turn} {number}", at=AT
            )

        payload_ids = await run_concurrently(concurrent_store, insert_payload)
        assert len(set(payload_ids)) == CONNECTIONS

        async def resolve(conn: Connection, number: int, which: int = payload_ids[0]) -> bool:
            return await quarantine.resolve(conn, which, by=f"{number}", note="seen", at=AT)

        assert sum(await run_concurrently(concurrent_store, resolve)) == 1


@pytest.mark.promise("L3b")
async def test_concurrent_creation_gives_symbol_one_id(concurrent_store: Store) -> None:
    """Twenty callers create two new symbols in opposite orders: one row each, and no deadlock."""
    for turn in range(ROUNDS):
        pair = [f"A{turn:03}".translate(LETTERS), f"B{turn:03}".translate(LETTERS)]

        async def create_ids(conn: Connection, number: int, pair: list[str] = pair) -> tuple[int, ...]:
            found = await securities.get_or_create_ids(conn, pair if number % 2 else pair[::-1])
            return tuple(found[symbol] for symbol in pair)

        assert len(Counter(await run_concurrently(concurrent_store, create_ids))) == 1
