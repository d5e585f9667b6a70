"""What a broker's word changes, decided before anything is written, from rows as they were seen: pure.

Only the plain cases, which are nearly all: one statement writes each. What needs a look under a lock, a question to
the ledger or a word to somebody is left to the books' long way.
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

Rows = Mapping[str, OrderRow]  # by our own id

_UNCHANGED_VERDICTS = frozenset({Verdict.SAME, Verdict.STALE})


@dataclass(frozen=True, slots=True)
class OrderChanges:
    """Everything that reports change. With `fills`, each is the first of an entry, whose step has the same place."""

    verdict: Verdict
    order_updates: tuple[OrderUpdate, ...] = ()
    new_legs: tuple[NewLeg, ...] = ()
    fills: tuple[Fill, ...] = ()
    stale_reports: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.order_updates or self.new_legs)


def changes_of_report(rows: Rows, report: OrderReport, source: str, *, fresh: bool) -> OrderChanges | None:
    """What the report and those of its legs change; None when one of them is no plain case.

    That a leg has no row is believed when the rows are `fresh`, or before the broker ever spoke of its order.
    """
    top = rows.get(report.client_order_id)
    if top is None:
        return None
    new = fresh or top.alpaca_order_id is None
    steps: list[OrderUpdate] = []
    births: list[NewLeg] = []
    stale = 0
    first = Verdict.SAME
    for one in (report, *report.legs):
        row = rows.get(one.client_order_id)
        if row is None:
            birth = _new_leg(top, one) if new else None
            if birth is None:
                return None
            births.append(birth)
            continue
        outcome = machine.outcome_of_report(row.state, one.broker_status, one.filled_qty)
        step = _order_update(row, one, outcome)
        if step is None:
            return None
        if one is report:
            first = outcome.verdict
        stale += outcome.verdict is Verdict.STALE
        if not _is_redundant(step, outcome.verdict, source):
            steps.append(step)
    return OrderChanges(first, tuple(steps), tuple(births), stale_reports=stale)


def changes_of_opening_fill(rows: Rows, report: OrderReport, fill: Fill) -> OrderChanges | None:
    """What the first fill of an entry changes; None for any other fill, and when it is no plain case."""
    row = rows.get(report.client_order_id)
    if row is None or not _is_same_order(row, report):
        return None
    if any(leg.client_order_id not in rows for leg in report.legs):
        return None
    opens = row.order_purpose is Purpose.ENTRY and row.origin == "catalyst" and row.replaces is None
    if not opens or row.position_id is not None or row.filled_qty or fill.cum_qty != fill.quantity:
        return None
    try:
        then, kind = machine.after_fill(row.state, fill.quantity)
    except (InvariantBroken, IllegalTransition):
        return None
    after = OrderState(then, row.quantity, fill.quantity, row.rejection_reason)
    if (
        kind is EdgeKind.LATE
        or machine.outcome_of_report(after, report.broker_status, report.filled_qty).verdict
        is not Verdict.SAME
    ):
        return None
    return OrderChanges(Verdict.SAME, (OrderUpdate(row, report, then),), fills=(fill,))


def changes_of_batch(rows: Rows, updates: Sequence[TradeUpdate]) -> tuple[int, OrderChanges]:
    """How many of the first of these messages one stroke can write, and the stroke: plain cases of one kind, each of
    orders that none before it spoke of. That they change nothing is believed of none."""
    strokes: list[OrderChanges] = []
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
            or any(one.replaced_by is not None for one in reports)
            or not seen_ids.isdisjoint(one.client_order_id for one in reports)
            or (strokes and bool(changes.fills) != bool(strokes[0].fills))
        ):
            break
        strokes.append(changes)
        seen_ids.update(one.client_order_id for one in reports)
    return len(strokes), OrderChanges(
        Verdict.SAME,
        tuple(step for changes in strokes for step in changes.order_updates),
        tuple(birth for changes in strokes for birth in changes.new_legs),
        tuple(fill for changes in strokes for fill in changes.fills),
        sum(changes.stale_reports for changes in strokes),
    )


def row_after(update: OrderUpdate, fill: Fill | None = None) -> OrderRow:
    """The row once the step is written, as far as the next decision looks at it."""
    row = replace(
        update.row,
        status=update.new_status,
        alpaca_order_id=update.report.broker_id,
        broker_status=update.report.broker_status,
        rejection_reason=update.rejection_reason or update.row.rejection_reason,
    )
    return row if fill is None else replace(row, filled_qty=fill.cum_qty, filled_avg_price=fill.price)


def leg_row(new_leg: NewLeg, order_id: int) -> OrderRow:
    """The row of a leg once it is written, as far as the next decision looks at it."""
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
    """Why the broker refused an order it had accepted, as the row keeps it."""
    reason = report.raw.get("reject_reason") or report.raw.get("reason")
    return f"BROKER: {reason}" if reason else "BROKER: rejected after acceptance, without a reason"


def leg_purpose(leg: OrderReport) -> Purpose:
    """What a bracket's or an OCO's leg is for."""
    return Purpose.TAKE_PROFIT if leg.order_type == "limit" else Purpose.STOP_LOSS


def _order_update(row: OrderRow, report: OrderReport, outcome: machine.ReportOutcome) -> OrderUpdate | None:
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
    if leg.replaces is not None or leg.legs:
        return None
    outcome = machine.outcome_of_report(
        OrderState(Status.SUBMITTED, leg.quantity, Decimal(0)), leg.broker_status, leg.filled_qty
    )
    then = outcome.then
    if outcome.verdict not in (Verdict.SAME, Verdict.MOVE) or then not in (Status.SUBMITTED, Status.ACCEPTED):
        return None
    purpose = leg_purpose(leg)
    return NewLeg(parent, leg, purpose, machine.side_for(parent.position_side, purpose), then)


def _is_same_order(row: OrderRow, report: OrderReport) -> bool:
    """True when the report is of this very row, at the size it has."""
    return row.alpaca_order_id in (None, report.broker_id) and row.quantity == report.quantity


def _is_redundant(update: OrderUpdate, verdict: Verdict, source: str) -> bool:
    """True when nothing is to be written. That an entry rests now, and no longer will soon, changes nothing that
    anybody waits for: told by the stream, it is left to the next poll."""
    row, report = update.row, update.report
    if update.new_status is not row.status or row.alpaca_order_id is None:
        return False
    if row.broker_status == report.broker_status:
        return True
    if verdict is Verdict.STALE and (row.status in TERMINAL or report.filled_qty < row.filled_qty):
        return True
    waits = machine.is_pending(row.broker_status) and machine.is_pending(report.broker_status)
    return waits and source == "stream" and row.order_purpose is Purpose.ENTRY
