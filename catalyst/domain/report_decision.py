"""Report decision: what reports and fills of the broker change, computed from the rows as they are. Pure.

`decide` is the only judgement of a report. Its result names every row to write, every alert, and what must be read from
the broker first; `store.report_rows` loads the rows, `store.report_writes` writes the result.

Rule 1: every fill of an order that has a row is booked once, whatever the row's status is (`fill_decision`).
Rule 2: a report without a fill moves a status and never creates a fill.
Rule 3: the reports of one group (an order and its legs) are one decision, so they are written together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Literal

from catalyst.domain import order as machine
from catalyst.domain.fill_decision import Circumstances, FillDecision, FillRows
from catalyst.domain.order import TERMINAL, EdgeKind, OrderState, PositionSide, Purpose, Status, Verdict
from catalyst.domain.report import Fill, OrderReport
from catalyst.domain.report_changes import (
    JournalLine,
    NewLeg,
    OrderAlert,
    OrderChange,
    QuarantineEntry,
    ReportDecision,
)
from catalyst.domain.rows import NewOrder, OrderRow, changed


@dataclass(frozen=True, slots=True)
class ReportRows:
    """Order rows of one group, by both ids. `current` means: just read, so an order that is missing has no row."""

    by_client_id: Mapping[str, OrderRow]
    by_broker_id: Mapping[str, OrderRow]
    current: bool
    fill_rows: FillRows | None = None

    @classmethod
    def just_read(cls, rows: Iterable[OrderRow], fill_rows: FillRows | None = None) -> "ReportRows":
        rows = list(rows)
        by_broker_id = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
        return cls({row.client_order_id: row for row in rows}, by_broker_id, True, fill_rows)

    def row_of(self, report: OrderReport) -> OrderRow | None:
        """Return the row of a report, by the broker's id or else by ours; None without a row."""
        row = self.by_broker_id.get(report.broker_id)
        if row is None and report.client_order_id:
            row = self.by_client_id.get(report.client_order_id)
        return row


def decide(
    rows: ReportRows, report: OrderReport | None, fills: Sequence[Fill], given: Circumstances
) -> ReportDecision | None:
    """Return what the report of an order and its legs, and these fills of the group, change.

    Return None when the rows do not suffice: cached order rows without one that may exist, or fills without their rows.
    A decision with reads that are needed first (`missing_fills`, `unread_entries`) must not be written before them.
    """
    group = () if report is None else (report, *report.legs)
    if not rows.current and any(each.replaced_by or each.replaces for each in group):
        return None  # the other order of the replacement may have a row
    group = tuple(_without_carried_fills(rows, each) for each in group)
    report = group[0] if group else None
    decision = _DecisionBuilder(rows, given)
    reported = [(each, rows.row_of(each)) for each in group]
    for each, row in reported:
        if row is not None:
            decision.match(row, each)
        elif each is report:
            return ReportDecision(unknown_broker_ids=frozenset({each.broker_id})) if rows.current else None
    for fill in sorted(fills, key=lambda each: each.cum_qty):
        if not decision.book(fill):
            return None
    parent = reported[0][1] if reported else None
    for each, row in reported:
        if row is not None:
            decision.apply(row, each)
        elif parent is not None and not decision.add_leg(parent, each):
            return None
    return decision.result(group)


def _without_carried_fills(rows: ReportRows, report: OrderReport) -> OrderReport:
    """Return the report of a replacement of ours without the fills of the order it replaces.

    The broker shows the fills and the quantity of both as those of the replacement; our rows have each share once.
    """
    if report.replaces is None:
        return report
    row, replaced = rows.row_of(report), rows.by_broker_id.get(report.replaces)
    if row is None or row.origin != "catalyst" or replaced is None or row.replaces != replaced.order_id:
        return report
    carried = min(replaced.filled_qty, report.filled_qty)
    return replace(report, quantity=report.quantity - carried, filled_qty=report.filled_qty - carried)


@dataclass
class _DecisionBuilder:
    """Collects what one group of reports changes."""

    rows: ReportRows
    given: Circumstances
    fills: FillDecision = field(init=False)
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # by broker id
    changes: dict[int, OrderChange] = field(default_factory=dict)  # by order id
    rows_by_reported_id: dict[str, OrderRow] = field(default_factory=dict)
    already_reported: set[int] = field(default_factory=set)  # rows with the report's broker id and status
    mismatched: set[int] = field(default_factory=set)  # rows whose report is about another order or quantity
    other_orders: set[int] = field(default_factory=set)  # rows whose report has another broker id
    new_legs: list[NewLeg] = field(default_factory=list)
    alerts: list[OrderAlert] = field(default_factory=list)
    quarantined: list[QuarantineEntry] = field(default_factory=list)
    missing_fills: list[str] = field(default_factory=list)
    stale_reports: int = 0
    reconcile: bool = False

    def __post_init__(self) -> None:
        self.fills = FillDecision(self.rows.fill_rows or FillRows(), self.given)

    def current(self, row: OrderRow) -> OrderRow:
        """Return the row as it is after the changes so far."""
        change = self.changes.get(row.order_id)
        return row if change is None else change.after

    def _change(self, before: OrderRow, after: OrderRow, *journal: JournalLine) -> None:
        """Add a change of the order to those so far."""
        earlier = self.changes.get(before.order_id)
        if earlier is not None:
            journal = (*earlier.journal, *journal)
            before = earlier.before
        self.changes[before.order_id] = OrderChange(before, after, journal)

    # -- one report

    def match(self, row: OrderRow, report: OrderReport) -> None:
        """Check that the report is about this order and quantity; take the new size of a leg or a replacement."""
        if row.alpaca_order_id is not None and row.broker_status == report.broker_status:
            self.already_reported.add(row.order_id)
        if row.alpaca_order_id not in (None, report.broker_id):
            self.already_reported.discard(row.order_id)
            reason = (
                f"its broker id is {report.broker_id} at the broker, {row.alpaca_order_id} in the database"
            )
            self._quarantine(row, report, reason, "ORDER_CONTRADICTION")
            self.mismatched.add(row.order_id)
            self.other_orders.add(row.order_id)
            return
        self.rows_by_reported_id[report.broker_id] = row
        if row.quantity != report.quantity:
            # The broker shrinks a replacement by what its predecessor filled, and resizes a leg with its parent.
            is_leg = row.parent_order_id is not None and row.replaces is None
            is_smaller_replacement = row.replaces is not None and report.quantity < row.quantity
            may_change = row.origin == "broker" or is_leg or is_smaller_replacement
            if may_change and row.filled_qty <= report.quantity:
                note = f"the broker resized the order to {report.quantity}"
                resized = changed(row, quantity=report.quantity)
                self._change(row, resized, JournalLine("note", None, row.status, note))
                return
            reason = f"the broker shows quantity {report.quantity}, Catalyst sent {row.quantity}"
            self._quarantine(row, report, reason, "ORDER_CONTRADICTION")
            self.mismatched.add(row.order_id)

    def apply(self, row: OrderRow, report: OrderReport) -> None:
        """Move the order's status as the report shows, and store the broker's id, status and times."""
        before = self.current(row)
        if row.order_id in self.mismatched:
            self.verdicts[report.broker_id] = Verdict.CONTRADICTION
            if row.alpaca_order_id in (None, report.broker_id):
                self._store_report(row, before, report)
            return
        outcome = machine.outcome_of_report(before.state, report.broker_status, report.filled_qty)
        self.verdicts[report.broker_id] = outcome.verdict
        if outcome.verdict is Verdict.STALE:
            self.stale_reports += 1
            is_older = before.status in TERMINAL or report.filled_qty < before.filled_qty
            if is_older and before.alpaca_order_id is not None:
                return
        elif outcome.verdict is Verdict.MISSING_FILLS:
            self.missing_fills.append(report.broker_id)
        elif outcome.verdict is Verdict.UNKNOWN:
            self._quarantine(row, report, "unknown broker status", "UNKNOWN_BROKER_STATUS")
        elif outcome.verdict is Verdict.CONTRADICTION:
            reason = f"no transition from {before.status} to {outcome.then}"
            self._quarantine(row, report, reason, "ORDER_CONTRADICTION")
        then = outcome.then if outcome.verdict is Verdict.MOVE else None
        self._store_report(row, before, report, then, is_late=outcome.kind is EdgeKind.LATE)
        if report.replaced_by is not None and report.replaced_by not in self.rows.by_broker_id:
            # A full pass reads today's orders, which include the replacement.
            self.reconcile |= row.order_id in self.changes

    def _store_report(
        self,
        row: OrderRow,
        before: OrderRow,
        report: OrderReport,
        then: Status | None = None,
        *,
        is_late: bool = False,
    ) -> None:
        """Store the new status of the order, if any, and the broker's id, status and times when they are new.

        A change between pending statuses (pending_new to new) of an entry on the stream is not written by itself; the
        next poll stores it.
        """
        if then is None and not self._has_news(row, before, report):
            return
        reason = _rejection_reason(report) if then is Status.REJECTED else before.rejection_reason
        after = changed(
            before,
            status=then or before.status,
            rejection_reason=reason,
            alpaca_order_id=report.broker_id,
            broker_status=report.broker_status,
            broker_submitted_at=report.submitted_at or before.broker_submitted_at,
            broker_filled_at=report.filled_at or before.broker_filled_at,
            broker_canceled_at=report.canceled_at or before.broker_canceled_at,
            broker_expired_at=report.expired_at or before.broker_expired_at,
            acknowledged_at=_acknowledged_at(before, report, self.given.at),
        )
        if then is None:
            if after != before:
                self._change(row, after)
            return
        line = JournalLine("late" if is_late else "transition", before.status, then, report.broker_status)
        self._change(row, after, line)
        if is_late:
            message = (
                f"order {row.order_id} was {before.status} and is {then} now; check it with "
                f"`catalyst orders --symbol {row.symbol}`"
            )
            self.alerts.append(OrderAlert("ORDER_REVIVED", row, message))

    def _has_news(self, row: OrderRow, before: OrderRow, report: OrderReport) -> bool:
        """Return true when the broker's id or status in the report must be stored, or goes with another change."""
        if row.order_id in self.changes or before.alpaca_order_id is None:
            return True
        if before.broker_status == report.broker_status:
            return False
        stays_pending = machine.is_pending(before.broker_status) and machine.is_pending(report.broker_status)
        return not (stays_pending and self.given.source == "stream" and before.order_purpose is Purpose.ENTRY)

    def add_leg(self, parent: OrderRow, leg: OrderReport) -> bool:
        """Add the row of a leg; return false when the leg may have a row that was not read."""
        if parent.order_id in self.other_orders:
            return True  # the leg of another order
        if not self.rows.current and parent.alpaca_order_id is not None:
            return False
        replaced = None if leg.replaces is None else self.rows.by_broker_id.get(leg.replaces)
        purpose = leg_purpose(leg) if replaced is None else replaced.order_purpose
        unfilled = OrderState(Status.SUBMITTED, leg.quantity, Decimal(0))
        outcome = machine.outcome_of_report(unfilled, leg.broker_status, leg.filled_qty)
        status = Status.SUBMITTED
        if outcome.verdict is Verdict.MOVE and outcome.then is not None:
            status = outcome.then
        elif outcome.verdict is Verdict.MISSING_FILLS:
            self.missing_fills.append(leg.broker_id)
        # A status that no rule understands is quarantined by the next report, once the leg has a row.
        is_odd = outcome.verdict in (Verdict.UNKNOWN, Verdict.CONTRADICTION)
        order = NewOrder(
            client_order_id=leg.client_order_id,
            symbol=leg.symbol,
            purpose=purpose,
            position_side=parent.position_side,
            side=machine.side_for(parent.position_side, purpose),
            quantity=leg.quantity,
            order_type=leg.order_type,
            time_in_force=leg.time_in_force,
            order_class=leg.order_class,
            origin="external" if parent.is_of_another_catalyst else "broker",
            cycle_id=parent.cycle_id,
            position_id=parent.position_id,
            parent_order_id=parent.order_id,
            replaces=None if replaced is None else replaced.order_id,
            limit_price=leg.limit_price,
            stop_price=leg.stop_price,
            alpaca_order_id=leg.broker_id,
            broker_status=None if is_odd else leg.broker_status,
        )
        reason = _rejection_reason(leg) if status is Status.REJECTED else None
        self.new_legs.append(NewLeg(parent, order, status, leg, reason))
        return True

    # -- fills

    def book(self, fill: Fill) -> bool:
        """Book one fill; return false when the rows do not suffice."""
        row = self.rows_by_reported_id.get(fill.broker_id) or self.rows.by_broker_id.get(fill.broker_id)
        if row is None:
            return self.rows.current
        if self.rows.fill_rows is None and not _is_first_fill(row, fill):
            return False
        change = self.fills.book(self.current(row), fill)
        if change is not None:
            self._change(row, change.after, *change.journal)
        return True

    # -- result

    def _quarantine(self, row: OrderRow, report: OrderReport, reason: str, event: str) -> None:
        if row.order_id in self.already_reported:
            return  # quarantine once, not at every poll
        note = f"{reason}: {report.broker_status}"
        alert = OrderAlert(event, row, f"order {row.order_id}: {note}")
        self.quarantined.append(QuarantineEntry(alert, "unknown", reason, note, report.raw))

    def result(self, group: Sequence[OrderReport]) -> ReportDecision:
        """Return the decision."""
        fills = self.fills
        opened = fills.opened
        if opened is not None:
            opened = replace(opened, entry=self.changes[opened.entry.before.order_id])
        known = frozenset(report.broker_id for report in group)
        first = self.rows.row_of(group[0]) if group else None
        return ReportDecision(
            verdict=self.verdicts.get(group[0].broker_id) if group else Verdict.SAME,
            order_changes=tuple(self.changes.values()),
            new_legs=tuple(self.new_legs),
            opened=() if opened is None else (opened,),
            position=fills.position,
            booked=tuple(fills.booked),
            known_fills=tuple(fills.known_fills),
            links=tuple(fills.links),
            oversold=tuple(fills.oversold),
            orphan_fills=tuple(fills.orphan_fills),
            quarantined=(*self.quarantined, *fills.quarantined),
            alerts=(*self.alerts, *fills.alerts),
            stale_reports=self.stale_reports,
            known_broker_ids=known,
            missing_fills=tuple(self.missing_fills),
            is_entry=first is not None and first.order_purpose is Purpose.ENTRY,
            unread_entries=tuple(sorted(fills.unread_entries)),
            reconcile=self.reconcile or fills.reconcile,
            orphans_changed=fills.orphans_changed,
        )


def decide_batch(
    rows: ReportRows, batch: Sequence[tuple[OrderReport, Fill | None]], given: Circumstances
) -> tuple[int, ReportDecision]:
    """Return the length of the prefix of `batch` that one statement can write, and its changes as one decision.

    The prefix holds decisions of one kind (changes of orders, or opened positions); no order occurs in two of them. It
    ends before a report that changes nothing: `rows` may be outdated, so such a report must be checked by itself.
    """
    decisions: list[ReportDecision] = []
    seen_ids: set[str] = set()
    for report, fill in batch:
        decision = decide(rows, report, () if fill is None else (fill,), given)
        ids = {each.client_order_id for each in (report, *report.legs)}
        if (
            decision is None
            or decision.is_empty
            or not decision.is_one_statement
            or decision.missing_fills
            or decision.unread_entries
            or not seen_ids.isdisjoint(ids)
            or (decisions and bool(decision.opened) != bool(decisions[0].opened))
        ):
            break
        decisions.append(decision)
        seen_ids |= ids
    return len(decisions), ReportDecision(
        verdict=Verdict.SAME,
        order_changes=tuple(change for each in decisions for change in each.order_changes),
        new_legs=tuple(leg for each in decisions for leg in each.new_legs),
        opened=tuple(opened for each in decisions for opened in each.opened),
        booked=tuple(booked for each in decisions for booked in each.booked),
        stale_reports=sum(each.stale_reports for each in decisions),
        known_broker_ids=frozenset().union(*(each.known_broker_ids for each in decisions)),
    )


def leg_purpose(leg: OrderReport) -> Purpose:
    """Return the purpose of a bracket or OCO leg: a limit order takes profit, any other is the stop."""
    return Purpose.TAKE_PROFIT if leg.order_type == "limit" else Purpose.STOP_LOSS


def order_of_report(report: OrderReport, purpose: Purpose, position_side: PositionSide) -> NewOrder:
    """Return the row to insert for an order that the broker reports; the caller sets origin, cycle and links."""
    return NewOrder(
        client_order_id=report.client_order_id,
        symbol=report.symbol,
        purpose=purpose,
        position_side=position_side,
        side=report.side,
        quantity=report.quantity,
        order_type=report.order_type,
        time_in_force=report.time_in_force,
        order_class=report.order_class,
        limit_price=report.limit_price,
        stop_price=report.stop_price,
        bracket_stop=_bracket_level(report, "stop_price"),
        bracket_target=_bracket_level(report, "limit_price"),
        alpaca_order_id=report.broker_id,
        broker_status=report.broker_status,
    )


def _bracket_level(report: OrderReport, name: Literal["stop_price", "limit_price"]) -> Decimal | None:
    """Return the bracket's target (`limit_price`) or stop (`stop_price`) from the legs; None without such a leg."""
    for leg in report.legs:
        if (leg.order_type == "limit") is (name == "limit_price"):
            return leg.limit_price if name == "limit_price" else leg.stop_price
    return None


def leg_row(new_leg: NewLeg, order_id: int) -> OrderRow:
    """Return the row of a leg after its insert, in the columns that the next decision reads."""
    order = new_leg.order
    return changed(
        new_leg.parent,
        order_id=order_id,
        client_order_id=order.client_order_id,
        alpaca_order_id=order.alpaca_order_id,
        parent_order_id=order.parent_order_id,
        replaces=order.replaces,
        order_purpose=order.purpose,
        side=order.side,
        order_class=order.order_class,
        order_type=order.order_type,
        time_in_force=order.time_in_force,
        quantity=order.quantity,
        limit_price=order.limit_price,
        stop_price=order.stop_price,
        bracket_stop=None,
        bracket_target=None,
        status=new_leg.status,
        filled_qty=Decimal(0),
        filled_avg_price=None,
        broker_status=order.broker_status,
        origin="broker",
        signal_id=None,
        rejection_reason=new_leg.rejection_reason,
        cancel_reason=None,
        expires_at=None,
        closed_at=None,
        broker_submitted_at=new_leg.report.submitted_at,
        broker_filled_at=new_leg.report.filled_at,
        broker_canceled_at=new_leg.report.canceled_at,
        broker_expired_at=new_leg.report.expired_at,
    )


def _is_first_fill(row: OrderRow, fill: Fill) -> bool:
    """Return true for the first fill of an own entry; the statement that opens its position needs no other rows."""
    return (
        row.order_purpose is Purpose.ENTRY
        and row.origin == "catalyst"
        and row.replaces is None
        and row.position_id is None
        and not row.filled_qty
        and row.status in (Status.SUBMITTED, Status.ACCEPTED)
        and Decimal(0) < fill.cum_qty == fill.quantity <= row.quantity
    )


def _acknowledged_at(before: OrderRow, report: OrderReport, now: datetime) -> datetime | None:
    """Return since when a venue has an order that waited for one; None when the broker does not show it.

    The broker changed the order when the venue acknowledged it, so it was not after the last change. The report may
    come later.
    """
    if before.broker_status not in machine.WAITING_FOR_VENUE or report.broker_status in machine.NOT_AT_VENUE:
        return before.acknowledged_at
    changed_at, sent_at = report.updated_at, report.submitted_at or before.broker_submitted_at
    is_shown = changed_at is not None and sent_at is not None and changed_at > sent_at
    return min(changed_at, now) if changed_at is not None and is_shown else before.acknowledged_at


def _rejection_reason(report: OrderReport) -> str:
    """Return the rejection reason to store for an order that the broker rejected after accepting it."""
    reason = report.raw.get("reject_reason") or report.raw.get("reason")
    return f"BROKER: {reason}" if reason else "BROKER: rejected after acceptance, no reason given"
