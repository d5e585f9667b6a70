"""Report writes: write a decision about broker reports; the only place that books fills and moves reported states.

The statements of `report_statements` name each order's row as the decision read it. When one differs, StaleRow is
raised and nothing is written. So the rows may have been read earlier, without a lock. A decision that is one statement
is a transaction by itself; any other decision is written in the transaction that locked its rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from catalyst.domain.position import PositionStatus
from catalyst.domain.report import Fill
from catalyst.domain.report_changes import (
    FillBooking,
    LinkedOrders,
    NewLeg,
    OpenedPosition,
    OrderChange,
    QuarantineEntry,
    ReportDecision,
)
from catalyst.store import alerts, exit_intents, orders, orphans, positions, quarantine
from catalyst.store.report_statements import (
    LEG_NAMES,
    OPEN_POSITIONS,
    OPENING_NAMES,
    ORDER_NAMES,
    WRITE_ORDERS,
    row_arguments,
    size_of,
)

if TYPE_CHECKING:
    from catalyst.store.orders import Conn

UNBOOKED_ALERT_WINDOW: Final = timedelta(
    days=14
)  # one alert for each order with a fill that cannot be booked


@dataclass(slots=True)
class WrittenIds:
    """Ids of the new rows: of positions by their entry's order id, of legs by their broker id."""

    positions: dict[int, int] = field(default_factory=dict)
    legs: dict[str, int] = field(default_factory=dict)
    quarantined: tuple[QuarantineEntry, ...] = ()  # those that were not stored before


async def write(
    conn: "Conn", decision: ReportDecision, *, at: datetime, source: str, epoch: int
) -> WrittenIds:
    """Write everything that a decision changes; return the ids of the new rows.

    Raises StaleRow when an order's row has changed, and DuplicateRow when a fill, a leg or an open position of the
    symbol has a row already.
    """
    written = WrittenIds()
    opening_ids = {opened.entry.before.order_id for opened in decision.opened}
    changes = [change for change in decision.order_changes if change.before.order_id not in opening_ids]
    if decision.is_one_statement and not decision.opened:
        written.legs = await _write_orders(
            conn, changes, decision.new_legs, at=at, source=source, epoch=epoch
        )
        return written
    # Orders before positions, because opening one changes its legs; new legs last, because they take over the
    # position to which their parent is linked.
    if changes:
        await _write_orders(conn, changes, (), at=at, source=source, epoch=epoch)
    if decision.opened:
        written.positions = await _open_positions(conn, decision.opened, at=at, source=source, epoch=epoch)
    if decision.is_one_statement:
        return written
    for opened in decision.opened:
        if opened.state.quantity != opened.fill.quantity:  # it has later fills, too
            await positions.update(conn, written.positions[opened.entry.before.order_id], opened.state, at=at)
    opening_fills = {id(opened.fill) for opened in decision.opened}
    later_fills = [booked for booked in decision.booked if id(booked.fill) not in opening_fills]
    await _write_fills(conn, later_fills, decision, source=source)
    await _write_position(conn, decision, written, at=at, epoch=epoch)
    if decision.new_legs:
        written.legs = await _write_orders(conn, (), decision.new_legs, at=at, source=source, epoch=epoch)
    written.quarantined = await _write_effects(conn, decision, at=at, source=source)
    return written


async def _write_orders(
    conn: "Conn",
    changes: Sequence[OrderChange],
    new_legs: Sequence[NewLeg],
    *,
    at: datetime,
    source: str,
    epoch: int,
) -> dict[str, int]:
    """Change every order, insert the row of every leg, and journal each step; return the legs' order ids."""
    found = await conn.fetch(
        WRITE_ORDERS[size_of(changes), size_of(new_legs)],
        at,
        source,
        epoch,
        *_journal_lines(changes),
        *row_arguments([_order_row(change) for change in changes], ORDER_NAMES),
        *(row_arguments([_leg_row(leg) for leg in new_legs], LEG_NAMES) if new_legs else ()),
    )
    if not new_legs:
        return {}
    return {row["alpaca_order_id"]: row["order_id"] for row in found if row["order_id"] is not None}


async def _open_positions(
    conn: "Conn",
    opened: Sequence[OpenedPosition],
    *,
    at: datetime,
    source: str,
    epoch: int,
) -> dict[int, int]:
    """Book the first fill of each entry, open its position and link its legs; return the positions' ids by entry."""
    found = await conn.fetch(
        OPEN_POSITIONS[size_of(opened)],
        at,
        source,
        epoch,
        *_journal_lines([each.entry for each in opened]),
        *row_arguments([_order_row(each.entry) | _fill_columns(each.fill) for each in opened], OPENING_NAMES),
    )
    return {row["order_id"]: row["position_id"] for row in found}


def _order_row(change: OrderChange) -> dict[str, object]:
    before, after = change.before, change.after
    return {
        "order_id": before.order_id,
        "old_status": before.status,
        "old_filled": before.filled_qty,
        "old_quantity": before.quantity,
        "old_broker_status": before.broker_status,
        "old_broker_id": before.alpaca_order_id,
        "old_position_id": before.position_id,
        "broker_id": after.alpaca_order_id,
        "broker_status": after.broker_status,
        "new_status": after.status,
        "new_quantity": after.quantity,
        "new_filled": after.filled_qty,
        "avg_price": after.filled_avg_price,
        "rejection": after.rejection_reason,
        "submitted_at": after.broker_submitted_at,
        "filled_at": after.broker_filled_at,
        "canceled_at": after.broker_canceled_at,
        "expired_at": after.broker_expired_at,
        "acknowledged_at": after.acknowledged_at,
    }


def _fill_columns(fill: Fill) -> dict[str, object]:
    return {
        "fill_cum_qty": fill.cum_qty,
        "fill_quantity": fill.quantity,
        "fill_price": fill.price,
        "fill_at": fill.at,
        "execution_id": fill.execution_id,
        "activity_id": fill.activity_id,
    }


def _leg_row(leg: NewLeg) -> dict[str, object]:
    row, report = leg.order, leg.report
    return {
        "parent": row.parent_order_id,
        "client_id": row.client_order_id,
        "purpose": row.purpose,
        "side": row.side,
        "quantity": row.quantity,
        "type": row.order_type,
        "force": row.time_in_force,
        "class": row.order_class,
        "limit_price": row.limit_price,
        "stop_price": row.stop_price,
        "broker_id": row.alpaca_order_id,
        "broker_status": row.broker_status,
        "status": leg.status,
        "replaces": row.replaces,
        "submitted_at": report.submitted_at,
        "filled_at": report.filled_at,
        "canceled_at": report.canceled_at,
        "expired_at": report.expired_at,
        "rejection": leg.rejection_reason,
        "origin": row.origin,
    }


def _journal_lines(changes: Iterable[OrderChange]) -> tuple[list[object], ...]:
    """Return the columns of the journal's lines."""
    lines = [(change.before.order_id, line) for change in changes for line in change.journal]
    return (
        [order_id for order_id, _ in lines],
        [line.kind for _, line in lines],
        [line.from_status for _, line in lines],
        [line.to_status for _, line in lines],
        [line.note for _, line in lines],
    )


async def _write_fills(
    conn: "Conn", fills: Sequence[FillBooking], decision: ReportDecision, *, source: str
) -> None:
    """Insert executions, and add the ids that booked ones did not have."""
    if fills:
        await conn.execute(
            """
            INSERT INTO executions (order_id, cum_qty, quantity, price, at, execution_id, activity_id, source)
            SELECT x.*, $8 FROM unnest($1::bigint[], $2::numeric[], $3::numeric[], $4::numeric[], $5::timestamptz[],
                                       $6::text[], $7::text[]) AS x
            """,
            [booked.order.order_id for booked in fills],
            [booked.fill.cum_qty for booked in fills],
            [booked.fill.quantity for booked in fills],
            [booked.fill.price for booked in fills],
            [booked.fill.at for booked in fills],
            [booked.fill.execution_id for booked in fills],
            [booked.fill.activity_id for booked in fills],
            source,
        )
    for order_id, fill in decision.known_fills:
        await conn.execute(
            """
            UPDATE executions SET execution_id = coalesce(execution_id, $3), activity_id = coalesce(activity_id, $4)
             WHERE order_id = $1 AND cum_qty = $2
            """,
            order_id,
            fill.cum_qty,
            fill.execution_id,
            fill.activity_id,
        )


async def _write_position(
    conn: "Conn", decision: ReportDecision, written: WrittenIds, *, at: datetime, epoch: int
) -> None:
    """Write the changed position, then link orders to it, then end its exit intent when it is closed."""
    change = decision.position
    if change is not None:
        await positions.update(
            conn, change.position_id, change.state, at=change.at, close_reason=change.close_reason
        )
    for link in decision.links:
        position_id = link.position_id
        if position_id is None:
            (position_id,) = written.positions.values()
        await _link(conn, link, position_id, at=at, epoch=epoch)
    if change is not None and change.state.status is PositionStatus.CLOSED:
        await exit_intents.end_intent(conn, change.position_id, state="done", at=at, epoch=epoch)


async def _write_effects(
    conn: "Conn", decision: ReportDecision, *, at: datetime, source: str
) -> tuple[QuarantineEntry, ...]:
    """Write orphan shares, quarantine and alerts; return what is new in quarantine."""
    for surplus in decision.oversold:
        await orphans.record(
            conn,
            surplus.symbol,
            surplus.side,
            surplus.quantity,
            at=at,
            cycle_id=surplus.cycle_id,
            position_id=surplus.position_id,
            cost=surplus.cost,
        )
    for taken in decision.orphan_fills[-1:]:  # the orphan after all fills
        await orphans.update(conn, taken.after, at=taken.fill.at)
    new_items = [item for item in decision.quarantined if await _quarantine(conn, item, at=at, source=source)]
    for alert, window in (
        *((alert, alerts.DEDUPE_WINDOW) for alert in decision.alerts),
        *(
            (item.alert, UNBOOKED_ALERT_WINDOW if item.is_fill else alerts.DEDUPE_WINDOW)
            for item in new_items
        ),
    ):
        await alerts.raise_alert(
            conn,
            alert.event,
            f"{alert.order.symbol}: {alert.message}",
            subject=alert.order.order_id,
            facts={
                "order_id": alert.order.order_id,
                "symbol": alert.order.symbol,
                "purpose": alert.order.order_purpose,
            },
            at=at,
            window=window,
        )
    return tuple(new_items)


async def _link(conn: "Conn", link: LinkedOrders, position_id: int, *, at: datetime, epoch: int) -> None:
    """Link the orders to the position; an exit sent during a database outage gets its exit intent."""
    await orders.link(conn, link.order_ids, position_id, at, epoch=epoch)
    if link.exit_order is not None:
        await exit_intents.create_intent(
            conn,
            position_id,
            reason=link.exit_reason,
            purpose=link.exit_order.order_purpose,
            requested_by="outage",
            at=link.exit_order.created_at,
        )


async def _quarantine(conn: "Conn", item: QuarantineEntry, *, at: datetime, source: str) -> bool:
    """Store an input that cannot be applied in journal and quarantine; false for a fill that was stored before."""
    order_id = item.alert.order.order_id
    if item.is_fill and await quarantine.has_unbooked_fill(conn, order_id, item.reason):
        return False
    await orders.journal(
        conn, order_id, at=at, source=source, kind=item.kind, note=item.note, payload=item.payload
    )
    # A fill has its order in quarantine: the proof and the state of the symbol read it there.
    await quarantine.put(
        conn,
        source=source,
        reason=item.reason,
        payload=item.payload,
        at=at,
        order_id=order_id if item.is_fill else None,
    )
    return True
