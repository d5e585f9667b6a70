"""Order changes: computes what a broker report changes, from rows read before; pure, nothing is written here.

It handles only the simple cases, nearly all: one SQL statement writes each. Cases that need a row lock, a read of the
account activities or an alert are left to the full path of `OrderLedger`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from catalyst.domain import order as machine
from catalyst.domain.errors import IllegalTransition, InvariantBroken
from catalyst.domain.order import TERMINAL, EdgeKind, OrderState, Purpose, Status, Verdict
from catalyst.domain.report import Fill, OrderReport, TradeUpdate
from catalyst.store.orders import OrderRow
from catalyst.store.report_writes import NewLeg, OrderUpdate

Rows = Mapping[str, OrderRow]  # by client order id

_UNCHANGED_VERDICTS = frozenset({Verdict.SAME, Verdict.STALE})


@dataclass(frozen=True, slots=True)
class OrderChanges:
    """Changes of one or more reports. Each fill is the first of an entry, whose order update has the same index."""

    verdict: Verdict
    order_updates: tuple[OrderUpdate, ...] = ()
    new_legs: tuple[NewLeg, ...] = ()
    fills: tuple[Fill, ...] = ()
    stale_reports: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.order_updates or self.new_legs)


def changes_of_report(rows: Rows, report: OrderReport, source: str, *, fresh: bool) -> OrderChanges | None:
    """Return what the report and the reports of its legs change; None when one of them is not a simple case.

    A leg missing in `rows` is new only when the rows are `fresh` or the parent has no broker id yet.
    """
    parent = rows.get(report.client_order_id)
    if parent is None:
        return None
    may_have_new_legs = fresh or parent.alpaca_order_id is None
    order_updates: list[OrderUpdate] = []
    new_legs: list[NewLeg] = []
    stale = 0
    verdict = Verdict.SAME
    for order_report in (report, *report.legs):
        row = rows.get(order_report.client_order_id)
        if row is None:
            new_leg = _new_leg(parent, order_report) if may_have_new_legs else None
            if new_leg is None:
                return None
            new_legs.append(new_leg)
            continue
        outcome = machine.outcome_of_report(row.state, order_report.broker_status, order_report.filled_qty)
        update = _order_update(row, order_report, outcome)
        if update is None:
            return None
        if order_report is report:
            verdict = outcome.verdict
        stale += outcome.verdict is Verdict.STALE
        if not _is_redundant(update, outcome.verdict, source):
            order_updates.append(update)
    return OrderChanges(verdict, tuple(order_updates), tuple(new_legs), stale_reports=stale)


def changes_of_opening_fill(rows: Rows, report: OrderReport, fill: Fill) -> OrderChanges | None:
    """Return what the first fill of an entry changes; None for any other fill, or when it is not a simple case."""
    row = rows.get(report.client_order_id)
    if row is None or not _is_same_order(row, report):
        return None
    if any(leg.client_order_id not in rows for leg in report.legs):
        return None
    is_own_entry = row.order_purpose is Purpose.ENTRY and row.origin == "catalyst" and row.replaces is None
    if not is_own_entry or row.position_id is not None or row.filled_qty or fill.cum_qty != fill.quantity:
        return None
    try:
        new_status, kind = machine.after_fill(row.state, fill.quantity)
    except (InvariantBroken, IllegalTransition):
        return None
    after = OrderState(new_status, row.quantity, fill.quantity, row.rejection_reason)
    if (
        kind is EdgeKind.LATE
        or machine.outcome_of_report(after, report.broker_status, report.filled_qty).verdict
        is not Verdict.SAME
    ):
        return None
    return OrderChanges(Verdict.SAME, (OrderUpdate(row, report, new_status),), fills=(fill,))


def changes_of_batch(rows: Rows, updates: Sequence[TradeUpdate]) -> tuple[int, OrderChanges]:
    """Return the length of the prefix of `updates` that one statement can write, and its changes.

    The prefix holds simple cases of one kind (reports or opening fills); no order occurs in two of them. It ends before
    an update that changes nothing: `rows` may be outdated, so this must be checked by itself.
    """
    batch: list[OrderChanges] = []
    seen_ids: set[str] = set()
    for update in updates:
        reports = (update.order, *update.order.legs)
        changes = (
            changes_of_report(rows, update.order, "stream", fresh=False)
            if update.fill is None
            else changes_of_opening_fill(rows, update.order, update.fill)
        )
        if (
            changes is None
            or changes.is_empty
            or any(report.replaced_by is not None for report in reports)
            or not seen_ids.isdisjoint(report.client_order_id for report in reports)
            or (batch and bool(changes.fills) != bool(batch[0].fills))
        ):
            break
        batch.append(changes)
        seen_ids.update(report.client_order_id for report in reports)
    return len(batch), OrderChanges(
        Verdict.SAME,
        tuple(update for changes in batch for update in changes.order_updates),
        tuple(new_leg for changes in batch for new_leg in changes.new_legs),
        tuple(fill for changes in batch for fill in changes.fills),
        sum(changes.stale_reports for changes in batch),
    )


def row_after(update: OrderUpdate, fill: Fill | None = None) -> OrderRow:
    """Return the row as it is after the update, in the columns that the next decision reads."""
    row = replace(
        update.row,
        status=update.new_status,
        alpaca_order_id=update.report.broker_id,
        broker_status=update.report.broker_status,
        rejection_reason=update.rejection_reason or update.row.rejection_reason,
    )
    return row if fill is None else replace(row, filled_qty=fill.cum_qty, filled_avg_price=fill.price)


def leg_row(new_leg: NewLeg, order_id: int) -> OrderRow:
    """Return the row of a leg after its insert, in the columns that the next decision reads."""
    leg = new_leg.report
    return replace(
        new_leg.parent,
        order_id=order_id,
        client_order_id=leg.client_order_id,
        alpaca_order_id=leg.broker_id,
        parent_order_id=new_leg.parent.order_id,
        order_purpose=new_leg.purpose,
        side=new_leg.side,
        order_class=leg.order_class,
        order_type=leg.order_type,
        time_in_force=leg.time_in_force,
        quantity=leg.quantity,
        limit_price=leg.limit_price,
        stop_price=leg.stop_price,
        bracket_stop=None,
        bracket_target=None,
        status=new_leg.status,
        filled_qty=Decimal(0),
        filled_avg_price=None,
        broker_status=leg.broker_status,
        origin="broker",
        signal_id=None,
    )


def rejection_reason(report: OrderReport) -> str:
    """Return the rejection reason to store for an order that the broker rejected after accepting it."""
    reason = report.raw.get("reject_reason") or report.raw.get("reason")
    return f"BROKER: {reason}" if reason else "BROKER: rejected after acceptance, no reason given"


def leg_purpose(leg: OrderReport) -> Purpose:
    """Return the purpose of a bracket or OCO leg: a limit order takes profit, any other is the stop."""
    return Purpose.TAKE_PROFIT if leg.order_type == "limit" else Purpose.STOP_LOSS


def _order_update(row: OrderRow, report: OrderReport, outcome: machine.ReportOutcome) -> OrderUpdate | None:
    """Return the update of one row; None when the outcome is not a simple case."""
    if not _is_same_order(row, report):
        return None
    if outcome.verdict in _UNCHANGED_VERDICTS:
        return OrderUpdate(row, report, row.status)
    if outcome.verdict is not Verdict.MOVE or outcome.kind is not EdgeKind.NORMAL or outcome.then is None:
        return None
    return OrderUpdate(
        row, report, outcome.then, rejection_reason(report) if outcome.then is Status.REJECTED else None
    )


def _new_leg(parent: OrderRow, leg: OrderReport) -> NewLeg | None:
    """Return the row to insert for a leg that is submitted or accepted and unfilled; None in any other case."""
    if leg.replaces is not None or leg.legs:
        return None
    outcome = machine.outcome_of_report(
        OrderState(Status.SUBMITTED, leg.quantity, Decimal(0)), leg.broker_status, leg.filled_qty
    )
    status = outcome.then
    if outcome.verdict not in (Verdict.SAME, Verdict.MOVE) or status not in (
        Status.SUBMITTED,
        Status.ACCEPTED,
    ):
        return None
    purpose = leg_purpose(leg)
    return NewLeg(parent, leg, purpose, machine.side_for(parent.position_side, purpose), status)


def _is_same_order(row: OrderRow, report: OrderReport) -> bool:
    """Return true when the report has the row's broker id (or the row has none) and its quantity."""
    return row.alpaca_order_id in (None, report.broker_id) and row.quantity == report.quantity


def _is_redundant(update: OrderUpdate, verdict: Verdict, source: str) -> bool:
    """Return true when nothing is to be written.

    Skip changes between pending states (pending_new→new) of an entry from the stream; the next poll records them.
    """
    row, report = update.row, update.report
    if update.new_status is not row.status or row.alpaca_order_id is None:
        return False
    if row.broker_status == report.broker_status:
        return True
    if verdict is Verdict.STALE and (row.status in TERMINAL or report.filled_qty < row.filled_qty):
        return True
    stays_pending = machine.is_pending(row.broker_status) and machine.is_pending(report.broker_status)
    return stays_pending and source == "stream" and row.order_purpose is Purpose.ENTRY
