"""Ledger audit for tests: compares the database with the exchange's execution log, and the journal with the
order states. It reads raw rows of both sides and shares no code with the daemon."""

from collections import defaultdict
from decimal import Decimal
from typing import Any

Conn = Any  # asyncpg.Connection is generic for the type checker only


async def assert_ledger_equals_exchange(
    conn: Conn, execution_log: dict[str, Any], audit: dict[str, Any], *, exit_crossed_zero: bool = False
) -> None:
    """Check that fills, quantities and realised P&L of the database equal the exchange's, to the share and
    the cent.

    `exit_crossed_zero`: the scenario lets the exchange fill an exit across zero; no other problem is allowed.
    """
    problems = [text for text in audit["problems"] if not (exit_crossed_zero and "across zero" in text)]
    assert problems == []
    executions = await conn.fetch(
        """
        SELECT o.alpaca_order_id, e.cum_qty, e.quantity, e.price
          FROM executions e JOIN orders o USING (order_id)
        """
    )
    booked = sorted((r["alpaca_order_id"], r["cum_qty"], r["quantity"], r["price"]) for r in executions)
    exchange_fills = sorted(
        (e["order_id"], Decimal(e["cum_qty"]), Decimal(e["qty"]), Decimal(e["price"]))
        for e in execution_log["executions"]
    )
    assert booked == exchange_fills
    await _assert_orders_match(conn, execution_log)
    await _assert_quantities_add_up(conn)
    held = {symbol: Decimal(qty) for symbol, qty in audit["positions"].items()}
    rows = await conn.fetch(
        """
        SELECT s.symbol, sum(CASE p.side WHEN 'long' THEN p.quantity ELSE -p.quantity END) AS quantity
          FROM (SELECT security_id, side, quantity FROM positions WHERE status = 'open'
                UNION ALL SELECT security_id, side, quantity FROM orphans WHERE ended_at IS NULL) p
          JOIN securities s USING (security_id) GROUP BY s.symbol
        """
    )
    assert {row["symbol"]: row["quantity"] for row in rows} == held
    realized = await conn.fetchval(
        "SELECT (SELECT coalesce(sum(realized_pnl), 0) FROM positions)"
        " + (SELECT coalesce(sum(realized_pnl), 0) FROM orphans)"
    )
    assert realized == realized_of(execution_log["executions"])
    assert abs(realized - Decimal(audit["realised"])) < Decimal("0.005")


async def assert_nothing_open(conn: Conn, execution_log: dict[str, Any], audit: dict[str, Any]) -> None:
    """Check that neither side has a share or a working order."""
    assert audit["positions"] == {}
    assert [o["id"] for o in execution_log["orders"] if o["status"] in WORKING_STATUSES] == []
    assert await conn.fetchval("SELECT count(*) FROM positions WHERE status = 'open'") == 0
    open_orders = await conn.fetch(
        "SELECT order_id, status FROM orders WHERE status IN ('created', 'submitted', 'accepted', 'partial_fill')"
    )
    assert [dict(row) for row in open_orders] == []


async def assert_journal_leads_to_state(conn: Conn) -> None:
    """Check that the journal of each order leads through allowed transitions to its stored status."""
    edges = {
        (r["from_status"], r["to_status"])
        for r in await conn.fetch("SELECT from_status, to_status FROM order_edges")
    }
    journal: dict[int, list[tuple[str | None, str, bool]]] = defaultdict(list)
    for row in await conn.fetch(
        """
        SELECT order_id, from_status, to_status, kind IN ('fill', 'late') AS may_be_fill FROM order_events
         WHERE to_status IS NOT NULL AND kind IN ('transition', 'fill', 'late', 'correction') ORDER BY seq
        """
    ):
        journal[row["order_id"]].append((row["from_status"], row["to_status"], row["may_be_fill"]))
    for order in await conn.fetch("SELECT order_id, status FROM orders"):
        state: str | None = None
        for from_status, to_status, may_be_fill in journal[order["order_id"]]:
            assert from_status == state, (
                f"order {order['order_id']}: the journal jumps from {state} to {from_status}"
            )
            is_fill = may_be_fill and to_status in ("partial_fill", "filled")  # booked in every status
            assert state is None or is_fill or (from_status, to_status) in edges, (
                f"{from_status} cannot become {to_status}"
            )
            state = to_status
        assert state == order["status"]


WORKING_STATUSES = {
    "new", "accepted", "pending_new", "held", "partially_filled", "pending_cancel", "pending_replace",
    "accepted_for_bidding", "stopped", "suspended",
}  # fmt: skip


async def _assert_orders_match(conn: Conn, execution_log: dict[str, Any]) -> None:
    """Check that each order of the exchange has one row and each row an order of the exchange."""
    rows = await conn.fetch(
        "SELECT alpaca_order_id, client_order_id FROM orders WHERE alpaca_order_id IS NOT NULL"
    )
    assert {row["alpaca_order_id"] for row in rows} == {order["id"] for order in execution_log["orders"]}
    ids = {order["id"]: order["client_order_id"] for order in execution_log["orders"]}
    assert all(ids[row["alpaca_order_id"]] == row["client_order_id"] for row in rows)


async def _assert_quantities_add_up(conn: Conn) -> None:
    """Check that entries minus exits equal each position; oversold shares are an orphan."""
    rows = await conn.fetch(
        """
        SELECT p.position_id, p.quantity,
               sum(CASE WHEN o.order_purpose = 'entry' THEN e.quantity ELSE -e.quantity END)
               + coalesce((SELECT sum(found_qty) FROM orphans x WHERE x.position_id = p.position_id), 0) AS filled
          FROM positions p JOIN orders o USING (position_id) JOIN executions e USING (order_id)
         GROUP BY p.position_id
        """
    )
    assert all(row["quantity"] == row["filled"] for row in rows), [dict(row) for row in rows]


def realized_of(executions: list[dict[str, Any]]) -> Decimal:
    """Return realised dollars by average cost over each flat-to-flat segment, each rounded to the cent."""
    segments: dict[str, list[tuple[Decimal, Decimal]]] = defaultdict(list)
    total = Decimal(0)
    for execution in executions:
        sign = 1 if execution["side"].startswith("buy") else -1
        segment = segments[execution["symbol"]]
        segment.append((sign * Decimal(execution["qty"]), Decimal(execution["price"])))
        if sum(qty for qty, _ in segment) == 0:
            total += -sum(qty * price for qty, price in segment)
            segment.clear()
    for segment in segments.values():
        total += _realized_of_open_segment(segment)
    return total.quantize(Decimal("0.01"))


def _realized_of_open_segment(segment: list[tuple[Decimal, Decimal]]) -> Decimal:
    """Return realised dollars of a segment that is not flat yet; its entries are all before its exits."""
    if not segment:
        return Decimal(0)
    direction = 1 if segment[0][0] > 0 else -1
    entered = sum((abs(q) for q, _ in segment if q * direction > 0), Decimal(0))
    cost = sum((abs(q) * p for q, p in segment if q * direction > 0), Decimal(0))
    exited = sum((abs(q) for q, _ in segment if q * direction < 0), Decimal(0))
    proceeds = sum((abs(q) * p for q, p in segment if q * direction < 0), Decimal(0))
    return (proceeds - cost / entered * exited) * direction
