"""Resend of an order: the attempt is counted only while the row as it is now may be sent."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from store.raw_rows import RawRows

from catalyst.domain.order import PositionSide
from catalyst.store import orders, orphans


async def count_attempt(raw_rows: RawRows, order_id: int, at: datetime) -> tuple[bool, int]:
    """Count an attempt; return whether the order may be sent, and the attempts in its row."""
    async with raw_rows.conn.transaction():
        row = await orders.count_attempt(raw_rows.conn, order_id, at, epoch=1)
    attempts = (await orders.get(raw_rows.conn, order_id)).attempts
    assert row is None or (row.attempts, row.last_attempt_at, row.symbol) == (attempts, at, "AAPL")
    return row is not None, attempts


@pytest.mark.parametrize(
    ("status", "columns", "may_be_sent"),
    [
        ("submitted", {}, True),
        ("submitted", {"alpaca_order_id": "b-1"}, False),
        ("created", {}, False),
        ("accepted", {"alpaca_order_id": "b-1"}, False),
        ("partial_fill", {"alpaca_order_id": "b-1", "filled_qty": Decimal(40)}, False),
        ("filled", {"alpaca_order_id": "b-1", "filled_qty": Decimal(100)}, False),
        ("cancelled", {}, False),
        ("rejected", {"rejection_reason": "SUBMIT_FAILED: 401"}, False),
        ("expired", {}, False),
        ("replaced", {}, False),
    ],
)
async def test_resend_is_counted_only_while_outcome_is_unknown(
    raw_rows: RawRows, later: datetime, status: str, columns: dict[str, Any], may_be_sent: bool
) -> None:
    """An exit of held shares may be sent again only while it is submitted and has no broker id."""
    order_id = await raw_rows.insert_exit(await raw_rows.insert_position())
    if status != "created":
        await raw_rows.set_status(order_id, "submitted")
    filled_qty = columns.get("filled_qty")
    if status not in ("created", "submitted") or columns:
        async with raw_rows.conn.transaction():
            if filled_qty:
                await raw_rows.insert_fill(order_id, int(filled_qty), int(filled_qty))
            await raw_rows.set_status(order_id, status, journaled=status != "submitted", **columns)
    assert await count_attempt(raw_rows, order_id, later) == (may_be_sent, int(may_be_sent))


@pytest.mark.parametrize(("held", "may_be_sent"), [(100, True), (99, False), (0, False)])
@pytest.mark.parametrize("purpose", ["exit", "flatten", "take_profit", "stop_loss"])
async def test_resend_of_exit_needs_its_shares_in_the_position(
    raw_rows: RawRows, later: datetime, purpose: str, held: int, may_be_sent: bool
) -> None:
    """An order that closes or protects 100 shares is sent again only while its position holds them."""
    position_id = await raw_rows.insert_position()
    order_id = await raw_rows.insert_exit(position_id, order_purpose=purpose)
    await raw_rows.set_status(order_id, "submitted")
    await raw_rows.conn.execute(
        """
        UPDATE positions SET quantity = $2, exited_qty = entered_qty - $2,
               status = CASE WHEN $2 > 0 THEN 'open' ELSE 'closed' END,
               exit_time = CASE WHEN $2 = 0 THEN $3::timestamptz END,
               close_reason = CASE WHEN $2 = 0 THEN 'MANUAL: sold' END
         WHERE position_id = $1
        """,
        position_id,
        Decimal(held),
        later,
    )
    assert await count_attempt(raw_rows, order_id, later) == (may_be_sent, int(may_be_sent))


@pytest.mark.parametrize(("held", "may_be_sent"), [(100, True), (60, False), (None, False)])
async def test_resend_of_orphan_exit_needs_its_shares_in_the_orphan(
    raw_rows: RawRows, later: datetime, held: int | None, may_be_sent: bool
) -> None:
    """An exit of 100 orphan shares is sent again only while the open orphan holds them."""
    await orphans.record(raw_rows.conn, "AAPL", PositionSide.LONG, Decimal(100), at=later)
    (orphan,) = await orphans.open_orphans(raw_rows.conn)
    order_id = await raw_rows.insert_order(
        order_purpose="exit", side="sell", order_type="market", limit_price=None, origin="orphan"
    )
    await raw_rows.set_status(order_id, "submitted")
    if held is None:
        await orphans.close(raw_rows.conn, orphan.orphan_id, end_reason="gone", at=later)
    else:
        await orphans.resize(raw_rows.conn, orphan.orphan_id, Decimal(held), at=later)
    assert await count_attempt(raw_rows, order_id, later) == (may_be_sent, int(may_be_sent))


async def test_resend_of_entry_needs_no_shares(raw_rows: RawRows, later: datetime) -> None:
    """An entry may be sent again while its outcome is unknown, also beside an older position."""
    order_id = await raw_rows.insert_order()
    await raw_rows.set_status(order_id, "submitted")
    assert await count_attempt(raw_rows, order_id, later) == (True, 1)


async def test_outage_attempt_is_recorded_whatever_the_row_is(raw_rows: RawRows, later: datetime) -> None:
    """An attempt that was made during an outage is counted on a terminal row too."""
    order_id = await raw_rows.insert_exit(await raw_rows.insert_position())
    await raw_rows.set_status(order_id, "submitted")
    await raw_rows.set_status(order_id, "rejected", rejection_reason="SUBMIT_FAILED: 401")
    await orders.record_outage_attempt(raw_rows.conn, order_id, later, epoch=1)
    row = await orders.get(raw_rows.conn, order_id)
    assert (row.attempts, row.last_attempt_at) == (1, later)
