"""Writer lock of the order ledger: while it is held, no report, fill or write-off is written."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.domain.rows import OrderRow
from tests.daemon.test_apply_batch import (
    FULL,
    LedgerSetup,
    cancel_update,
    fill_update,
    ledger_setup,
    make_report,
)

__all__ = ["ledger_setup"]  # the fixture

Write = Callable[[OrderLedger, OrderRow, OrderRow], Awaitable[object]]


async def apply_fill_report(ledger: OrderLedger, first: OrderRow, _second: OrderRow) -> object:
    """Apply the stream's message of a fill."""
    return await ledger.apply_trade_update(fill_update(first))


async def apply_status_report(ledger: OrderLedger, first: OrderRow, _second: OrderRow) -> object:
    """Apply a report that moves the status without a fill."""
    return await ledger.apply_report(make_report(first, first.client_order_id, "canceled"), "poll")


async def apply_fill_of_activities(ledger: OrderLedger, first: OrderRow, _second: OrderRow) -> object:
    """Apply a fill of the account activities, whose rows are locked first."""
    fill = fill_update(first).fill
    assert fill is not None
    return await ledger.apply_fill(fill, "poll")


async def apply_batch_of_fills(ledger: OrderLedger, first: OrderRow, second: OrderRow) -> object:
    """Apply the fills of two orders as one batch."""
    return await ledger.apply_batch([fill_update(first), fill_update(second)])


async def apply_batch_of_cancels(ledger: OrderLedger, first: OrderRow, second: OrderRow) -> object:
    """Apply the cancels of two orders as one batch."""
    return await ledger.apply_batch([cancel_update(first), cancel_update(second)])


async def written(setup: LedgerSetup) -> list[tuple[object, ...]]:
    """Return status and filled quantity of each order, and quantity and status of each position."""
    async with setup.store.read() as conn:
        orders = await conn.fetch("SELECT order_id, status, filled_qty FROM orders ORDER BY order_id")
        positions = await conn.fetch(
            "SELECT position_id, status, quantity FROM positions ORDER BY position_id"
        )
    return [tuple(row) for row in (*orders, *positions)]


async def assert_waits_for_lock(writing: "asyncio.Task[object]", lock: asyncio.Lock) -> None:
    """Run the event loop until the write waits for the lock or is complete; check that it waits."""
    while not writing.done() and not lock._waiters:  # noqa: ASYNC110 - a lock has no event for its first waiter
        await asyncio.sleep(0)
    assert not writing.done(), "written while the writer lock is held"


@pytest.mark.parametrize(
    "write",
    [
        apply_fill_report,
        apply_status_report,
        apply_fill_of_activities,
        apply_batch_of_fills,
        apply_batch_of_cancels,
    ],
)
async def test_report_waits_for_the_writer_lock(ledger_setup: LedgerSetup, write: Write) -> None:
    """A report or fill that arrives while the lock is held changes no row; it is written once the lock is free."""
    ledger = ledger_setup.ledger
    first, second = await ledger_setup.create_entry(1), await ledger_setup.create_entry(2)
    before = await written(ledger_setup)
    async with ledger.write_lock():
        writing = asyncio.ensure_future(write(ledger, first, second))
        await assert_waits_for_lock(writing, ledger.write_lock())
        assert await written(ledger_setup) == before
    assert await writing
    assert await written(ledger_setup) != before


async def test_write_off_waits_for_the_writer_lock(ledger_setup: LedgerSetup) -> None:
    """A position is written off only once the lock is free: a fill that is being booked may close it first."""
    ledger = ledger_setup.ledger
    entry = await ledger_setup.create_entry(1)
    assert await ledger.apply_trade_update(fill_update(entry))
    before = await written(ledger_setup)
    position_id = before[-1][0]
    assert isinstance(position_id, int)
    async with ledger.write_lock():
        writing = asyncio.ensure_future(ledger.write_off(position_id, "RECONCILED_PHANTOM", "reconcile"))
        await assert_waits_for_lock(writing, ledger.write_lock())
        assert await written(ledger_setup) == before
    assert await writing
    assert (await written(ledger_setup))[-1] == (position_id, "closed", FULL - FULL)
