"""Exit orders: builds the order that exits a position, and the take-profit that is moved to the market."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from catalyst.domain.exit_ids import exit_id_base
from catalyst.domain.ids import client_order_id, unused_client_order_id
from catalyst.domain.order import PositionSide, Purpose, Status, side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.price import round_nearest, tick_of
from catalyst.domain.refusals import REPLACE_ANSWERS, ReplaceAnswer, reason_of
from catalyst.domain.rows import NewOrder, OrderRow, PositionRow
from catalyst.store.exit_intents import ExitIntent

# Distance of a queued exit's limit beyond the last price, as a share of it: any likely reopening price fills it.
QUEUED_EXIT_OFFSET: Final = Decimal("0.2")


def exit_order(
    position: PositionRow,
    rows: Sequence[OrderRow],
    intent: ExitIntent,
    quantity: Decimal,
    *,
    installation: str,
    epoch: int,
) -> NewOrder:
    """Return the order that exits `quantity` shares; `rows` are all orders of the position.

    It is a market order, or a limit order when the last exit was rejected for a halt.
    """
    base = exit_id_base(position, rows)
    role = "x" if intent.purpose is Purpose.EXIT else "f"
    previous_exits = [row for row in rows if row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)]
    limit = _queued_exit_limit(position, previous_exits)
    return NewOrder(
        client_order_id=unused_client_order_id(
            installation, base, role, len(previous_exits), {row.client_order_id for row in rows}
        ),
        symbol=position.symbol,
        purpose=intent.purpose,
        position_side=position.side,
        side=side_for(position.side, intent.purpose),
        quantity=quantity,
        order_type="market" if limit is None else "limit",
        limit_price=limit,
        time_in_force="day",
        order_class="simple",
        cycle_id=position.cycle_id,
        position_id=position.position_id,
        epoch=epoch,
    )


def prepared_exit(rows: Sequence[OrderRow]) -> OrderRow | None:
    """Return the sale that was written and never sent."""
    return next(
        (
            row
            for row in rows
            if row.status is Status.CREATED and row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)
        ),
        None,
    )


def group_broker_ids(working: Sequence[OrderRow], rows: Sequence[OrderRow]) -> set[str]:
    """Return the broker ids whose reports contain every working order: a leg is reported with its parent."""
    by_id = {row.order_id: row for row in rows}
    parents = [by_id.get(row.parent_order_id or row.order_id, row) for row in working]
    return {row.alpaca_order_id for row in parents if row.alpaca_order_id is not None}


@dataclass(frozen=True, slots=True)
class Repricing:
    """A take-profit that the broker can replace, and the price of its stop."""

    target: OrderRow
    stop: Decimal
    attempt: int = 0  # of this target

    @property
    def limit(self) -> Decimal:
        """The new limit: one tick from the stop, on the side of the target."""
        step = tick_of(self.stop)
        return self.stop + (step if self.target.position_side is PositionSide.LONG else -step)

    def order(self, *, installation: str, epoch: int) -> NewOrder:
        """Return the order that replaces the take-profit.

        Any better price fills it, otherwise the stop triggers. The group stays linked, so no share is sold twice and
        none loses its stop. Source: Alpaca staff, on exiting a bracketed position.
        """
        target = self.target
        return NewOrder(
            client_order_id=client_order_id(installation, target.client_order_id, "m", self.attempt),
            symbol=target.symbol,
            purpose=Purpose.TAKE_PROFIT,
            position_side=target.position_side,
            side=target.side,
            quantity=target.quantity,
            order_type="limit",
            time_in_force=target.time_in_force,
            order_class=target.order_class,
            cycle_id=target.cycle_id,
            position_id=target.position_id,
            parent_order_id=target.parent_order_id or target.order_id,
            replaces=target.order_id,
            limit_price=self.limit,
            epoch=epoch,
        )


def repricing_of(
    position: PositionRow, working: Sequence[OrderRow], rows: Sequence[OrderRow], intent: ExitIntent
) -> Repricing | None:
    """Return the repricing that exits the position with its stop in place; None when there is none.

    There is none while an entry works, for a target without a stop or for more shares than are held, and when the price
    is beyond the stop already.
    """
    if intent.reason.startswith(CloseReason.STOP_LOSS_HIT) or any(
        row.order_purpose is Purpose.ENTRY for row in working
    ):
        return None
    stops = {row.parent_order_id: row.stop_price for row in working if row.order_purpose is Purpose.STOP_LOSS}
    for target in working:
        stop = stops.get(target.parent_order_id or target.order_id)
        if stop is not None and target.quantity <= position.quantity and _is_repriceable(target, rows):
            repricing = Repricing(target, stop, sum(row.replaces == target.order_id for row in rows))
            return repricing if _is_marketable(position, repricing.limit) else None
    return None


def _is_marketable(position: PositionRow, limit: Decimal) -> bool:
    """Return true unless the last price shows that an order with this limit would rest."""
    price = position.last_price
    if price is None:
        return True
    return price >= limit if position.side is PositionSide.LONG else price <= limit


def _queued_exit_limit(position: PositionRow, previous_exits: Sequence[OrderRow]) -> Decimal | None:
    """Return the limit price of an exit that is queued at the broker during a halt, so that the reopening fills it.

    None, for a market order, when the last exit was not rejected for a halt.
    """
    if not previous_exits or not str(previous_exits[-1].rejection_reason).startswith("HALTED"):
        return None
    reference = position.last_price or position.entry_price
    if position.side is PositionSide.LONG:
        return round_nearest(reference * (1 - QUEUED_EXIT_OFFSET))
    return round_nearest(reference * (1 + QUEUED_EXIT_OFFSET))


def _is_repriceable(row: OrderRow, rows: Sequence[OrderRow]) -> bool:
    return (
        row.order_purpose is Purpose.TAKE_PROFIT
        and row.origin != "external"
        and not (row.origin == "catalyst" and row.replaces is not None)  # repriced before
        and row.alpaca_order_id is not None
        and row.broker_status == "new"
        and not any(other.replaces == row.order_id and not _was_postponed(other) for other in rows)
    )


def _was_postponed(row: OrderRow) -> bool:
    """Return true for a replacement that the broker refused as it refuses every sale: it is tried again."""
    is_rejected = row.status is Status.REJECTED
    return is_rejected and REPLACE_ANSWERS[reason_of(row.rejection_reason or "")] is ReplaceAnswer.POSTPONE
