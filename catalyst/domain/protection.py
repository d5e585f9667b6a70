"""Protection of a position: decides from its exit orders whether every share is under a working stop. Pure."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.order import EXITS, WORKING, PositionSide, Purpose, Status, side_for, status_of
from catalyst.domain.price import round_stop, round_target
from catalyst.domain.report import OrderReport
from catalyst.domain.rows import OrderRow

# The broker statuses of an exit order that is working.
LIVE_STATUSES: Final = frozenset(
    {"new", "accepted", "partially_filled", "held", "pending_replace", "accepted_for_bidding"}
)
# Sent to the exchange, not acknowledged: usually for milliseconds, but once it stayed so for ever.
UNACKNOWLEDGED_STATUS: Final = "pending_new"
# The reason stored with a stop that was cancelled because the exchange never acknowledged it.
UNACKNOWLEDGED_REASON: Final = "UNACKNOWLEDGED"


class Protection(StrEnum):
    PROTECTED = "protected"  # working stops at the broker for exactly the position
    EXCESS = "excess"  # working stops for more than the position: they would reverse it
    INACTIVE_LEGS = "inactive_legs"  # legs of an entry that is not completely filled: they protect nothing
    PENDING = "pending"  # stops for the whole position, not yet acknowledged by the exchange
    PARTIAL = "partial"  # a working stop for a part of the position
    UNPROTECTED = "unprotected"


@dataclass(frozen=True, slots=True)
class ExitOrder:
    """One exit order of a position, with the status of our row and the broker's last status."""

    purpose: Purpose
    status: Status
    broker_status: str | None
    remaining: Decimal
    inactive: bool  # a leg whose entry may still fill
    group: int = 0  # equal for a stop and its target


def exit_orders_of(rows: Sequence[OrderRow]) -> list[ExitOrder]:
    """Return the exit orders of a position or an orphan, by its rows.

    A leg is inactive while its entry is not completely filled.
    """
    unfilled = unfilled_entries(rows)
    return [
        ExitOrder(
            row.order_purpose,
            row.status,
            row.broker_status,
            row.remaining,
            row.parent_order_id in unfilled,
            row.parent_order_id or row.order_id,
        )
        for row in rows
        if row.order_purpose in EXITS
    ]


def lasting_stop(rows: Sequence[OrderRow]) -> OrderRow | None:
    """Return the working stop that outlives the session; None when there is none.

    A day order counts where the broker has refused a good-till-cancelled one: it takes no other.
    """
    day_only = any(str(row.rejection_reason).startswith("HARD_TO_BORROW") for row in rows)
    return next(
        (
            row
            for row in rows
            if row.order_purpose is Purpose.STOP_LOSS
            and row.is_working
            and (row.time_in_force == "gtc" or day_only)
        ),
        None,
    )


def unfilled_entries(rows: Sequence[OrderRow]) -> set[int | None]:
    """Return the ids of entries that are not completely filled: their legs protect nothing.

    A replaced entry counts as filled when the order that replaced it is filled.
    """
    replacements = {row.replaces: row for row in rows if row.replaces is not None}
    unfilled: set[int | None] = set()
    for row in rows:
        last = row
        while last.status is Status.REPLACED and last.order_id in replacements:
            last = replacements[last.order_id]
        if row.order_purpose is Purpose.ENTRY and last.status is not Status.FILLED:
            unfilled.add(row.order_id)
    if unfilled:  # legs of an entry that was replaced before it filled are inactive with its replacement
        order_ids = {row.order_id for row in rows}
        unfilled |= {row.parent_order_id for row in rows if row.parent_order_id not in {None, *order_ids}}
    return unfilled


def exit_orders_of_reports(
    parents: Sequence[OrderReport], symbol: str, side: PositionSide
) -> list[ExitOrder]:
    """Return the working exits of a symbol that the broker shows; `parents` are its top-level orders, with their legs.

    Legs of an entry that is not completely filled are inactive.
    """
    exits: list[ExitOrder] = []
    for group, parent in enumerate(parents):
        if parent.symbol != symbol:
            continue
        is_entry = parent.side is side_for(side, Purpose.ENTRY)
        inactive = is_entry and _status_of(parent) is not Status.FILLED
        for order in (parent, *parent.legs):
            status = _status_of(order)
            if order.side is side_for(side, Purpose.EXIT) and status in WORKING:
                exits.append(
                    ExitOrder(
                        _exit_purpose(order),
                        status,
                        order.broker_status,
                        order.quantity - order.filled_qty,
                        inactive,
                        group,
                    )
                )
    return exits


def _exit_purpose(order: OrderReport) -> Purpose:
    if order.order_type == "market":
        return Purpose.EXIT
    return Purpose.TAKE_PROFIT if order.order_type == "limit" else Purpose.STOP_LOSS


def _status_of(order: OrderReport) -> Status | None:
    return status_of(order.broker_status, order.filled_qty, order.quantity)


def protection_of(quantity: Decimal, exits: list[ExitOrder]) -> Protection:
    """Decide whether `exits` protect `quantity` shares.

    A `held` stop of a completely filled entry counts while its target is working: the target reserves the shares, and
    the exchange activates the stop itself. A `held` stop of an unfinished entry, or without a working target, does not
    count. An order that the exchange has not acknowledged may never be working.
    """
    working_qty, has_inactive_legs = _working_stop_qty(exits, LIVE_STATUSES)
    if working_qty == quantity:
        return Protection.PROTECTED
    if working_qty > quantity:
        return Protection.EXCESS
    if _working_stop_qty(exits, LIVE_STATUSES | {UNACKNOWLEDGED_STATUS})[0] == quantity:
        return Protection.PENDING
    if working_qty > 0:
        return Protection.PARTIAL
    return Protection.INACTIVE_LEGS if has_inactive_legs else Protection.UNPROTECTED


def protection_by_rows(quantity: Decimal, rows: Sequence[OrderRow]) -> Protection:
    """Decide whether the rows of a position or an orphan protect `quantity` shares.

    A stop that the broker has replaced counts as pending until the row of its replacement is there: an order sent
    beside the replacement would sell the shares a second time.
    """
    state = protection_of(quantity, exit_orders_of(rows))
    return Protection.PENDING if state is Protection.UNPROTECTED and stops_without_successor(rows) else state


def stops_without_successor(rows: Sequence[OrderRow]) -> list[OrderRow]:
    """Return the stops that the broker has replaced by an order without a row."""
    known = {row.replaces for row in rows}
    return [
        row
        for row in rows
        if row.order_purpose is Purpose.STOP_LOSS
        and row.status is Status.REPLACED
        and row.order_id not in known
    ]


def is_covered(quantity: Decimal, rows: Sequence[OrderRow]) -> bool:
    """Return true when working stops and working market exits cover `quantity` shares; `rows` are their orders."""
    stops, _ = _working_stop_qty(exit_orders_of(rows), LIVE_STATUSES)
    exits = sum(
        (
            row.remaining
            for row in rows
            if row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) and row.order_type == "market"
            if row.status in (Status.ACCEPTED, Status.PARTIAL_FILL) or row.broker_status == "new"
            if row.status in WORKING
        ),
        Decimal(0),
    )
    return stops + exits >= quantity


def _working_stop_qty(exits: list[ExitOrder], statuses: AbstractSet[str]) -> tuple[Decimal, bool]:
    """Return the shares under stops in these broker statuses, and whether there is any such stop, active or not."""
    working = (Status.SUBMITTED, Status.ACCEPTED, Status.PARTIAL_FILL)
    # A target that ends `replaced` was replaced by its stop, which the exchange has just activated.
    target_statuses = (*working, Status.REPLACED)
    groups_with_target = {
        exit_order.group
        for exit_order in exits
        if exit_order.purpose is Purpose.TAKE_PROFIT
        and exit_order.status in target_statuses
        and (exit_order.broker_status != UNACKNOWLEDGED_STATUS or UNACKNOWLEDGED_STATUS in statuses)
    }
    stops = [
        exit_order
        for exit_order in exits
        if exit_order.purpose is Purpose.STOP_LOSS
        and exit_order.status in working
        and exit_order.broker_status in statuses
        and (
            exit_order.broker_status != "held"
            or exit_order.inactive
            or exit_order.group in groups_with_target
        )
    ]
    return sum((exit_order.remaining for exit_order in stops if not exit_order.inactive), Decimal(0)), bool(
        stops
    )


def default_levels(
    side: PositionSide, reference: Decimal, *, stop_pct: float, target_pct: float
) -> tuple[Decimal, Decimal]:
    """Return (stop, target) on tick, the given percent away from `reference` (dollars): for shares without levels from
    a chart."""
    stop_share, target_share = Decimal(str(stop_pct)) / 100, Decimal(str(target_pct)) / 100
    sign = 1 if side is PositionSide.LONG else -1
    stop = round_stop(reference * (1 - sign * stop_share), side)
    return stop, round_target(reference * (1 + sign * target_share), side)
