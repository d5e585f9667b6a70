"""Unprotected time: computes from facts when shares had no working stop at the broker. Pure.

Daemon, alerts, status, report and doctor take every figure from `unprotected_gaps`. The facts are fills and the life of
each order that covers the shares, at the broker's own times. Two times may be ours, because the broker reports none:
when the venue had an order that was reported as waiting for it before (the broker's last change of the order, or else
the receipt of the first report that shows it); and when we first heard that the broker has suspended it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from catalyst.domain.order import TERMINAL, Purpose, Status
from catalyst.domain.protection import UNACKNOWLEDGED_REASON, unfilled_entries
from catalyst.domain.rows import OrderRow, Orphan, PositionRow

ZERO: Final = Decimal(0)
# A target with one of these statuses ended without a fill: the stop held behind it never triggers.
_ENDED_UNFILLED: Final = (Status.CANCELLED, Status.EXPIRED, Status.REJECTED)


@dataclass(frozen=True, slots=True)
class OrderFill:
    """One execution of an order: shares, and the broker's time."""

    order_id: int
    quantity: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which shares had no working stop; `lasts`: they had none at the instant of the measurement either.

    `shares` had none at the last change within the gap.
    """

    began: datetime
    ended: datetime
    lasts: bool
    shares: Decimal

    @property
    def seconds(self) -> Decimal:
        return Decimal(str(round((self.ended - self.began).total_seconds(), 3)))


def seconds_of(gaps: Sequence[Gap]) -> Decimal:
    """Return the unprotected seconds of all gaps."""
    return sum((gap.seconds for gap in gaps), ZERO)


def position_gaps(
    position: PositionRow, rows: Sequence[OrderRow], fills: Sequence[OrderFill], now: datetime
) -> tuple[Gap, ...] | None:
    """Return the gaps of a position until it closed, or until now; `rows` are its orders, `fills` their executions.

    Return None when the fills of its entries are not all known: a late fill moves an entry to the position that it
    opens, with all its executions, and the closed position keeps what was measured before.
    """
    entered_at = _entered_at(position, rows, fills)
    if entered_at is None:
        return None
    return unprotected_gaps(rows, fills, until=position.exit_time or now, entered_at=entered_at)


def _entered_at(
    position: PositionRow, rows: Sequence[OrderRow], fills: Sequence[OrderFill]
) -> datetime | None:
    """Return when the shares of the position began to fill; earlier fills of its entries opened another position.

    Return None when the fills add up to fewer shares than the position entered.
    """
    entry_ids = {row.order_id for row in rows if row.order_purpose is Purpose.ENTRY}
    missing = position.entered_qty
    for fill in sorted(fills, key=lambda each: each.at, reverse=True):
        if fill.order_id in entry_ids:
            missing -= fill.quantity
            if missing <= 0:
                # The row may be older than the fills: then its entry time is the earlier one.
                return min(fill.at, position.entry_time)
    return None


def orphan_gaps(
    orphan: Orphan, rows: Sequence[OrderRow], fills: Sequence[OrderFill], now: datetime
) -> tuple[Gap, ...]:
    """Return the gaps of orphan shares from the time they were found; `rows` are the orders sent for them."""
    sold = sum((fill.quantity for fill in fills), ZERO)
    found = (orphan.found_at, orphan.quantity + sold)
    return unprotected_gaps(rows, fills, until=orphan.ended_at or now, found=found)


def unprotected_gaps(
    rows: Sequence[OrderRow],
    fills: Sequence[OrderFill],
    *,
    until: datetime,
    entered_at: datetime | None = None,
    found: tuple[datetime, Decimal] | None = None,
) -> tuple[Gap, ...]:
    """Return in order of time when shares were held that no working stop and no working market exit covered.

    `rows` are all orders of the shares, `fills` their executions. `entered_at`: earlier fills were of other shares.
    `found`: shares held from that time on without a fill (an orphan).
    """
    purposes = {row.order_id: row.order_purpose for row in rows}
    changes = [
        (fill.at, fill.quantity if purposes[fill.order_id] is Purpose.ENTRY else -fill.quantity)
        for fill in fills
        if fill.order_id in purposes and (entered_at is None or fill.at >= entered_at)
    ]
    if found is not None:
        changes.append(found)
    covers = list(_covers(rows, fills))
    instants = {at for at, _ in changes}
    instants |= {at for cover in covers for at in (cover.began, cover.ended) if at is not None}
    gaps: list[Gap] = []
    since: datetime | None = None
    bare = ZERO
    for at in sorted(instant for instant in instants if instant <= until):
        held = sum((quantity for changed_at, quantity in changes if changed_at <= at), ZERO)
        covered = sum((cover.quantity_at(at) for cover in covers), ZERO)
        if covered >= held and since is not None:
            gaps.append(Gap(since, at, lasts=False, shares=bare))
            since = None
        elif covered < held:
            bare = held - covered
            since = since or at
    if since is not None:
        gaps.append(Gap(since, until, lasts=True, shares=bare))
    return tuple(gaps)


@dataclass(frozen=True, slots=True)
class _Cover:
    """The life of one order that covers shares: from its acknowledgement by the venue to its end without a fill."""

    quantity: Decimal  # of the row: its last size
    fills: tuple[OrderFill, ...]
    target_fills: tuple[OrderFill, ...]  # of its target: each takes its shares from the size of the stop
    target_qty: Decimal  # the largest of its targets: a stop has no more shares than the target has left
    began: datetime
    ended: datetime | None

    def quantity_at(self, at: datetime) -> Decimal:
        """Return the shares that the order covers at this instant."""
        if at < self.began or (self.ended is not None and at >= self.ended):
            return ZERO
        return self._size_at(at) - sum((fill.quantity for fill in self.fills if fill.at <= at), ZERO)

    def _size_at(self, at: datetime) -> Decimal:
        """Return the size of the order at this instant: the broker reduces a stop when its target fills.

        A fill that the row does not show yet, or that ended the stop, has not reduced it: so the target is the limit.
        """
        filled = sum((fill.quantity for fill in self.target_fills if fill.at <= at), ZERO)
        later = sum((fill.quantity for fill in self.target_fills if fill.at > at), ZERO)
        return min(self.quantity + later, max(self.quantity, self.target_qty - filled))


def _covers(rows: Sequence[OrderRow], fills: Sequence[OrderFill]) -> Iterator[_Cover]:
    by_id = {row.order_id: row for row in rows}
    unfilled = unfilled_entries(rows)
    for row in rows:
        is_stop = row.order_purpose is Purpose.STOP_LOSS
        is_market_exit = row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) and row.order_type == "market"
        if not (is_stop or is_market_exit) or row.parent_order_id in unfilled:
            continue
        began = _working_since(row, by_id, fills)
        if began is not None:
            targets = _targets_of(row, rows) if is_stop else []
            yield _Cover(
                row.quantity,
                _fills_of([row], fills),
                _fills_of(targets, fills),
                max((target.quantity for target in targets), default=ZERO),
                began,
                _ended_at(row, rows),
            )


def _fills_of(rows: Sequence[OrderRow], fills: Sequence[OrderFill]) -> tuple[OrderFill, ...]:
    order_ids = {row.order_id for row in rows}
    return tuple(fill for fill in fills if fill.order_id in order_ids)


def _targets_of(stop: OrderRow, rows: Sequence[OrderRow]) -> list[OrderRow]:
    """Return the target of the stop's group, with the orders that replaced it; a refused replacement did not."""
    group = stop.parent_order_id or stop.order_id
    targets: dict[int, OrderRow] = {}
    for row in sorted(rows, key=lambda row: row.order_id):
        is_of_group = (row.parent_order_id or row.order_id) == group or row.replaces in targets
        is_refused = row.replaces is not None and row.status is Status.REJECTED
        if row.order_purpose is Purpose.TAKE_PROFIT and is_of_group and not is_refused:
            targets[row.order_id] = row
    return list(targets.values())


def _working_since(
    row: OrderRow, by_id: Mapping[int, OrderRow], fills: Sequence[OrderFill]
) -> datetime | None:
    """Return since when the venue could execute the order; None when it never could.

    A leg of an entry works from the entry's last fill on, any other leg not before its parent.
    """
    if row.alpaca_order_id is None or row.status is Status.REJECTED:
        return None
    if row.cancel_reason == UNACKNOWLEDGED_REASON:
        return None
    began: datetime | None = row.broker_submitted_at or row.submitted_at or row.created_at
    if row.pending_at is not None:  # an execution proves the acknowledgement too
        signs = [fill.at for fill in fills if fill.order_id == row.order_id]
        signs += [] if row.acknowledged_at is None else [row.acknowledged_at]
        began = min(signs, default=None)
    if began is None:
        return None
    parent = None if row.parent_order_id is None else by_id.get(row.parent_order_id)
    if parent is None:
        return began
    if parent.order_purpose is not Purpose.ENTRY:
        parent_began = _working_since(parent, by_id, fills)
        return None if parent_began is None else max(began, parent_began)
    entries = _replacements_of(parent, by_id)
    return max((fill.at for fill in fills if fill.order_id in entries), default=began)


def _replacements_of(entry: OrderRow, by_id: Mapping[int, OrderRow]) -> set[int]:
    """Return the ids of an entry and of the orders that replaced it."""
    ids = {entry.order_id}
    for row in sorted(by_id.values(), key=lambda row: row.order_id):
        if row.replaces in ids:
            ids.add(row.order_id)
    return ids


def _ended_at(row: OrderRow, rows: Sequence[OrderRow]) -> datetime | None:
    """Return when the order stopped covering its shares; None while it works, and when fills used it up."""
    ends = [row.ended_at] if row.status in TERMINAL and row.status is not Status.FILLED else []
    ends.append(row.inactive_at)
    if row.broker_status == "held":
        ends += [target.ended_at for target in _targets_of(row, rows) if target.status in _ENDED_UNFILLED]
    return min((at for at in ends if at is not None), default=None)
