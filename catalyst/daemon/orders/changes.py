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
from catalyst.store.report_writes import Birth, Step

Rows = Mapping[str, OrderRow]  # by our own id

_STANDING = frozenset({Verdict.SAME, Verdict.STALE})


@dataclass(frozen=True, slots=True)
class Stroke:
    """Everything that reports change. With `fills`, each is the first of an entry, whose step has the same place."""

    verdict: Verdict
    steps: tuple[Step, ...] = ()
    births: tuple[Birth, ...] = ()
    fills: tuple[Fill, ...] = ()
    stale: int = 0

    @property
    def empty(self) -> bool:
        return not (self.steps or self.births)


def decide(rows: Rows, report: OrderReport, source: str, *, fresh: bool) -> Stroke | None:
    """What the report and those of its legs change; None when one of them is no plain case.

    That a leg has no row is believed when the rows are `fresh`, or before the broker ever spoke of its order.
    """
    top = rows.get(report.client_order_id)
    if top is None:
        return None
    new = fresh or top.alpaca_order_id is None
    steps: list[Step] = []
    births: list[Birth] = []
    stale = 0
    first = Verdict.SAME
    for one in (report, *report.legs):
        row = rows.get(one.client_order_id)
        if row is None:
            birth = _birth(top, one) if new else None
            if birth is None:
                return None
            births.append(birth)
            continue
        heard = machine.hear(row.state, one.broker_status, one.filled_qty)
        step = _step(row, one, heard)
        if step is None:
            return None
        if one is report:
            first = heard.verdict
        stale += heard.verdict is Verdict.STALE
        if not _says_nothing(step, heard.verdict, source):
            steps.append(step)
    return Stroke(first, tuple(steps), tuple(births), stale=stale)


def decide_fill(rows: Rows, report: OrderReport, fill: Fill) -> Stroke | None:
    """What the first fill of an entry changes; None for any other fill, and when it is no plain case."""
    row = rows.get(report.client_order_id)
    if row is None or not _same_order(row, report):
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
        or machine.hear(after, report.broker_status, report.filled_qty).verdict is not Verdict.SAME
    ):
        return None
    return Stroke(Verdict.SAME, (Step(row, report, then),), fills=(fill,))


def decide_run(rows: Rows, updates: Sequence[TradeUpdate]) -> tuple[int, Stroke]:
    """How many of the first of these messages one stroke can write, and the stroke: plain cases of one kind, each of
    orders that none before it spoke of. That they change nothing is believed of none."""
    strokes: list[Stroke] = []
    spoken_of: set[str] = set()
    for update in updates:
        family = (update.order, *update.order.legs)
        stroke = (
            decide(rows, update.order, "stream", fresh=False)
            if update.fill is None
            else decide_fill(rows, update.order, update.fill)
        )
        if (
            stroke is None
            or stroke.empty
            or any(one.replaced_by is not None for one in family)
            or not spoken_of.isdisjoint(one.client_order_id for one in family)
            or (strokes and bool(stroke.fills) != bool(strokes[0].fills))
        ):
            break
        strokes.append(stroke)
        spoken_of.update(one.client_order_id for one in family)
    return len(strokes), Stroke(
        Verdict.SAME,
        tuple(step for stroke in strokes for step in stroke.steps),
        tuple(birth for stroke in strokes for birth in stroke.births),
        tuple(fill for stroke in strokes for fill in stroke.fills),
        sum(stroke.stale for stroke in strokes),
    )


def after(step: Step, fill: Fill | None = None) -> OrderRow:
    """The row once the step is written, as far as the next decision looks at it."""
    row = replace(
        step.row,
        status=step.then,
        alpaca_order_id=step.report.broker_id,
        broker_status=step.report.broker_status,
        rejection_reason=step.rejection or step.row.rejection_reason,
    )
    return row if fill is None else replace(row, filled_qty=fill.cum_qty, filled_avg_price=fill.price)


def born(birth: Birth, order_id: int) -> OrderRow:
    """The row of a leg once it is written, as far as the next decision looks at it."""
    leg = birth.report
    return replace(
        birth.parent,
        order_id=order_id,
        client_order_id=leg.client_order_id,
        alpaca_order_id=leg.broker_id,
        parent_order_id=birth.parent.order_id,
        order_purpose=birth.purpose,
        side=birth.side,
        order_class=leg.order_class,
        order_type=leg.order_type,
        time_in_force=leg.time_in_force,
        quantity=leg.quantity,
        limit_price=leg.limit_price,
        stop_price=leg.stop_price,
        bracket_stop=None,
        bracket_target=None,
        status=birth.then,
        filled_qty=Decimal(0),
        filled_avg_price=None,
        broker_status=leg.broker_status,
        origin="broker",
        signal_id=None,
    )


def rejection(report: OrderReport) -> str:
    """Why the broker refused an order it had accepted, as the row keeps it."""
    said = report.raw.get("reject_reason") or report.raw.get("reason")
    return f"BROKER: {said}" if said else "BROKER: rejected after acceptance, without a reason"


def purpose_of(leg: OrderReport) -> Purpose:
    """What a bracket's or an OCO's leg is for."""
    return Purpose.TAKE_PROFIT if leg.order_type == "limit" else Purpose.STOP_LOSS


def _step(row: OrderRow, report: OrderReport, heard: machine.Heard) -> Step | None:
    if not _same_order(row, report):
        return None
    if heard.verdict in _STANDING:
        return Step(row, report, row.status)
    if heard.verdict is not Verdict.MOVE or heard.kind is not EdgeKind.NORMAL or heard.then is None:
        return None
    return Step(row, report, heard.then, rejection(report) if heard.then is Status.REJECTED else None)


def _birth(parent: OrderRow, leg: OrderReport) -> Birth | None:
    if leg.replaces is not None or leg.legs:
        return None
    heard = machine.hear(
        OrderState(Status.SUBMITTED, leg.quantity, Decimal(0)), leg.broker_status, leg.filled_qty
    )
    then = heard.then
    if heard.verdict not in (Verdict.SAME, Verdict.MOVE) or then not in (Status.SUBMITTED, Status.ACCEPTED):
        return None
    purpose = purpose_of(leg)
    return Birth(parent, leg, purpose, machine.side_for(parent.position_side, purpose), then)


def _same_order(row: OrderRow, report: OrderReport) -> bool:
    """True when the report is of this very row, at the size it has."""
    return row.alpaca_order_id in (None, report.broker_id) and row.quantity == report.quantity


def _says_nothing(step: Step, verdict: Verdict, source: str) -> bool:
    """True when nothing is to be written. That an entry rests now, and no longer will soon, changes nothing that
    anybody waits for: told by the stream, it is left to the next poll."""
    row, report = step.row, step.report
    if step.then is not row.status or row.alpaca_order_id is None:
        return False
    if row.broker_status == report.broker_status:
        return True
    if verdict is Verdict.STALE and (row.status in TERMINAL or report.filled_qty < row.filled_qty):
        return True
    waits = machine.is_pending(row.broker_status) and machine.is_pending(report.broker_status)
    return waits and source == "stream" and row.order_purpose is Purpose.ENTRY
