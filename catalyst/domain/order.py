"""Order state machine: statuses, allowed transitions, and the effect of a broker's report.

Rule 1: EDGES holds every transition between statuses that a report or a step of ours makes.
Rule 2: a fill is booked whatever the order's status is; a report only changes the status, and never past fills that
        are not booked yet.
Rule 3: this module does not await, log or read a clock.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, assert_never

from catalyst.domain.errors import IllegalTransition


class Status(StrEnum):
    CREATED = "created"  # the row is written; certainly never sent
    SUBMITTED = "submitted"  # may have been sent
    ACCEPTED = "accepted"
    PARTIAL_FILL = "partial_fill"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    REPLACED = "replaced"


class Purpose(StrEnum):
    ENTRY = "entry"
    STOP_LOSS = "stop_loss"
    TAKE_PROFIT = "take_profit"
    EXIT = "exit"  # monitor, time, manual, close of day
    FLATTEN = "flatten"


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"


class PositionSide(StrEnum):
    LONG = "long"
    SHORT = "short"


class EdgeKind(StrEnum):
    NORMAL = "normal"
    LATE = "late"  # out of a terminal status; it happens in practice and raises an alert


S = Status

TERMINAL: Final = frozenset({S.FILLED, S.CANCELLED, S.REJECTED, S.EXPIRED, S.REPLACED})
WORKING: Final = frozenset(set(S) - TERMINAL)
_FILLABLE: Final = WORKING - {S.CREATED}
EXITS: Final = frozenset({Purpose.STOP_LOSS, Purpose.TAKE_PROFIT, Purpose.EXIT, Purpose.FLATTEN})

NEVER_ARRIVED: Final = "NEVER_ARRIVED"
NOT_SENT: Final = "NOT_SENT"  # one of our checks ended the order before its request

EDGES: Final[dict[tuple[Status, Status], EdgeKind]] = {
    **{(S.CREATED, then): EdgeKind.NORMAL for then in (S.SUBMITTED, S.CANCELLED, S.REJECTED)},
    # A fill can arrive before the acknowledgement, so `submitted` leads to every other status.
    **{
        (S.SUBMITTED, then): EdgeKind.NORMAL
        for then in (S.ACCEPTED, S.PARTIAL_FILL, S.FILLED, S.CANCELLED, S.REJECTED, S.EXPIRED, S.REPLACED)
    },
    **{
        (S.ACCEPTED, then): EdgeKind.NORMAL
        for then in (S.PARTIAL_FILL, S.FILLED, S.CANCELLED, S.REJECTED, S.EXPIRED, S.REPLACED)
    },
    **{
        (S.PARTIAL_FILL, then): EdgeKind.NORMAL
        for then in (S.PARTIAL_FILL, S.FILLED, S.CANCELLED, S.REJECTED, S.EXPIRED, S.REPLACED)
    },
    # A fill can arrive after a terminal status, and an order marked terminal can still be working.
    **{
        (before, then): EdgeKind.LATE
        for before in (S.CANCELLED, S.EXPIRED, S.REPLACED)
        for then in (S.PARTIAL_FILL, S.FILLED)
    },
    **{
        (S.REJECTED, then): EdgeKind.LATE
        for then in (S.ACCEPTED, S.PARTIAL_FILL, S.FILLED, S.CANCELLED)  # only when NEVER_ARRIVED
    },
}


def transition(seen: Status, then: Status, *, reason: str | None = None) -> EdgeKind:
    """Return the kind of the edge from `seen` to `then`. Raises IllegalTransition when there is none.

    `reason` is the stored rejection reason: a rejected order can become working only with `NEVER_ARRIVED`.
    """
    kind = EDGES.get((seen, then))
    if kind is None or (seen is S.REJECTED and reason != NEVER_ARRIVED):
        raise IllegalTransition(f"an order that is {seen} cannot become {then}")
    return kind


def side_for(position: PositionSide, purpose: Purpose) -> Side:
    """Return the side of an order: an entry has the position's side, an exit the opposite. The only place for this."""
    match position, purpose:
        case (PositionSide.LONG, Purpose.ENTRY):
            return Side.BUY
        case (PositionSide.SHORT, Purpose.ENTRY):
            return Side.SELL
        case (PositionSide.LONG, _):
            return Side.SELL
        case (PositionSide.SHORT, _):
            return Side.BUY
        case _:
            assert_never(position)


def position_side_for(side: Side, purpose: Purpose) -> PositionSide:
    """Return the side of the position to which an order of this side and purpose belongs."""
    return next(position_side for position_side in PositionSide if side_for(position_side, purpose) is side)


_PENDING: Final = frozenset({"pending_new", "new", "pending_review"})
_ACTIVE: Final = frozenset(
    {
        "accepted",
        "accepted_for_bidding",
        "held",
        "stopped",
        "suspended",
        "pending_cancel",
        "pending_replace",
        "done_for_day",
        "calculated",
        "partially_filled",
    }
)
_KNOWN_WORKING: Final = _PENDING | _ACTIVE
# Broker statuses of an order that was accepted and is not at a venue, and those that show no venue: as in
# `set_broker_times` of the database.
WAITING_FOR_VENUE: Final = frozenset({"pending_new", "accepted"})
NOT_AT_VENUE: Final = WAITING_FOR_VENUE | {
    "pending_review",
    "pending_cancel",
    "canceled",
    "expired",
    "rejected",
}
_TERMINAL_BY_BROKER_STATUS: Final = {
    "filled": S.FILLED,
    "canceled": S.CANCELLED,
    "expired": S.EXPIRED,
    "rejected": S.REJECTED,
    "replaced": S.REPLACED,
}


def is_pending(broker_status: str | None) -> bool:
    """Return true for the broker statuses of an order that was received and not processed yet."""
    return broker_status in _PENDING


def status_of(broker_status: str, filled: Decimal, quantity: Decimal) -> Status | None:
    """Return our status for the broker's status; None for an unknown one.

    Source: Alpaca, orders documentation, order lifecycle.
    """
    if broker_status in _TERMINAL_BY_BROKER_STATUS:
        return _TERMINAL_BY_BROKER_STATUS[broker_status]
    if broker_status not in _KNOWN_WORKING:
        return None
    if filled >= quantity > 0:
        return S.FILLED
    if filled > 0:
        return S.PARTIAL_FILL
    return S.SUBMITTED if broker_status in _PENDING else S.ACCEPTED


@dataclass(frozen=True, slots=True)
class OrderState:
    """The state of one order in our order ledger."""

    status: Status
    quantity: Decimal
    filled_qty: Decimal
    rejection_reason: str | None = None


class Verdict(StrEnum):
    """The decision about a report."""

    MOVE = "move"  # change the status along an edge
    SAME = "same"  # the status is already right
    STALE = "stale"  # the report is older than our state
    MISSING_FILLS = "missing_fills"  # the broker has filled more than we booked: fetch the fills first
    UNKNOWN = "unknown"  # an unknown broker status: log it, read the order again, continue
    CONTRADICTION = "contradiction"  # no edge leads to this status: quarantine


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    verdict: Verdict
    then: Status | None = None
    kind: EdgeKind | None = None


_RANK: Final = {S.CREATED: 0, S.SUBMITTED: 1, S.ACCEPTED: 2, S.PARTIAL_FILL: 3} | dict.fromkeys(TERMINAL, 4)


def outcome_of_report(order: OrderState, broker_status: str, broker_filled: Decimal) -> ReportOutcome:
    """Decide the effect of a broker's report (status, cumulative filled quantity) on `order`.

    Idempotent and independent of the sequence: reports in any order, any number of times, lead to one final state.
    """
    then = status_of(broker_status, broker_filled, order.quantity)
    if then is None:
        return ReportOutcome(Verdict.UNKNOWN)
    if broker_filled > order.filled_qty or (then is S.FILLED and order.filled_qty < order.quantity):
        return ReportOutcome(Verdict.MISSING_FILLS, then)  # a status alone books no fill
    if then is order.status:
        return ReportOutcome(Verdict.SAME, then)
    if broker_filled < order.filled_qty or _RANK[then] < _RANK[order.status]:
        if order.status is S.REJECTED and order.rejection_reason == NEVER_ARRIVED and then in WORKING:
            return ReportOutcome(Verdict.MOVE, S.ACCEPTED, EdgeKind.LATE)
        return ReportOutcome(Verdict.STALE, then)
    try:
        return ReportOutcome(
            Verdict.MOVE, then, transition(order.status, then, reason=order.rejection_reason)
        )
    except IllegalTransition:
        return ReportOutcome(Verdict.CONTRADICTION, then)


def after_fill(order: OrderState, quantity: Decimal) -> tuple[Status, EdgeKind]:
    """Return the status after `quantity` more shares filled, and LATE when the row did not expect the fill.

    A fill is a fact: it is booked in every status, and no edge is looked up. The row does not expect a fill of an
    order that is terminal or was never sent, or more shares than ordered.
    """
    filled = order.filled_qty + quantity
    is_expected = order.status in _FILLABLE and filled <= order.quantity
    then = S.FILLED if filled >= order.quantity else S.PARTIAL_FILL
    return then, EdgeKind.NORMAL if is_expected else EdgeKind.LATE
