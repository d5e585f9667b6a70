"""Log lines of a written decision about broker reports."""

from decimal import Decimal

import structlog

from catalyst.domain.order import Purpose
from catalyst.domain.position import PositionStatus
from catalyst.domain.report_changes import FillBooking, JournalLine, OrderChange, ReportDecision
from catalyst.store.report_writes import WrittenIds

log = structlog.get_logger()


def log_decision(decision: ReportDecision, written: WrittenIds, source: str) -> None:
    """Log what was written: status changes, new legs, fills, closed positions, alerts."""
    filled_ids = {booked.order.order_id for booked in decision.booked}
    for change in decision.order_changes:
        for line in change.journal:
            is_move = line.kind == "transition" or (
                line.kind == "late" and change.before.order_id not in filled_ids
            )
            if is_move:
                _log_move(change, line, source)
    for leg in decision.new_legs:
        log.info(
            "leg_adopted",
            order_id=leg.parent.order_id,
            symbol=leg.parent.symbol,
            purpose=leg.order.purpose,
        )
    for booked in decision.booked:
        _log_fill(decision, booked, written)
    _log_position(decision, written)
    for alert in (*decision.alerts, *(item.alert for item in written.quarantined)):
        log.error(
            alert.event.lower(),
            order_id=alert.order.order_id,
            symbol=alert.order.symbol,
            message=alert.message,
        )


def _log_move(change: OrderChange, line: JournalLine, source: str) -> None:
    event = f"order_{line.to_status}"
    log.info(
        event,
        order_id=change.before.order_id,
        symbol=change.before.symbol,
        purpose=change.before.order_purpose,
        side=change.before.side,
        qty=str(change.after.quantity),
        broker_status=change.after.broker_status,
        source=source,
    )


def _log_position(decision: ReportDecision, written: WrittenIds) -> None:
    """Log a closed position, reduced orphan shares and linked orders."""
    if (change := decision.position) is not None and change.state.status is PositionStatus.CLOSED:
        log.info(
            "position_closed",
            symbol=change.symbol,
            reason=change.close_reason,
            realized_pnl=str(change.state.realized_pnl),
            position_id=change.position_id,
        )
    for taken in decision.orphan_fills:
        log.info(
            "orphan_reduced",
            symbol=taken.order.symbol,
            purpose=taken.order.order_purpose,
            qty=str(taken.fill.quantity),
            price=str(taken.fill.price),
            left=str(taken.after.quantity),
            realized_pnl=_text_or_none(taken.after.realized_pnl),
        )
    for link in decision.links:
        if link.from_outage:
            position_id = link.position_id or next(iter(written.positions.values()))
            symbol = decision.booked[0].order.symbol
            log.warning("orders_linked", symbol=symbol, position_id=position_id, orders=link.from_outage)


def _log_fill(decision: ReportDecision, booked: FillBooking, written: WrittenIds) -> None:
    row, fill = booked.order, booked.fill
    if booked.held_qty is None:
        return
    position_id = written.positions.get(row.order_id) or (
        decision.position.position_id if decision.position else row.position_id
    )
    if row.order_purpose is Purpose.ENTRY:
        log.info(
            "entry_filled",
            symbol=row.symbol,
            side=row.position_side,
            qty=str(fill.quantity),
            price=str(fill.price),
            held=str(booked.held_qty),
            of=str(row.quantity),
            stop=_text_or_none(row.bracket_stop),
            target=_text_or_none(row.bracket_target),
            position_id=position_id,
        )
        return
    log.info(
        "exit_filled",
        symbol=row.symbol,
        purpose=row.order_purpose,
        qty=str(fill.quantity),
        price=str(fill.price),
        left=str(booked.held_qty),
        position_id=position_id,
    )


def _text_or_none(price: Decimal | None) -> str | None:
    return None if price is None else str(price)
