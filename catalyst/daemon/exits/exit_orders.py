"""Exit orders: builds the order that exits a position, and the take-profit that is repriced where cancels fail."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from catalyst.domain.ids import client_order_id, exit_id_base, unused_client_order_id
from catalyst.domain.order import PositionSide, Purpose, side_for
from catalyst.domain.price import round_nearest, tick_of
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


def target_to_reprice(working: Sequence[OrderRow], rows: Sequence[OrderRow]) -> OrderRow | None:
    """Return the working take-profit that the broker can replace and that was not repriced before; None without one."""
    return next((row for row in working if _is_repriceable(row, rows)), None)


def repriced_target(target: OrderRow, stop: Decimal, *, installation: str, epoch: int) -> NewOrder:
    """Return the order that replaces the take-profit: its limit is one tick from the stop.

    Any better price fills it, otherwise the stop triggers. The group stays linked, so no share is sold twice.
    Source: Alpaca staff, on exiting a bracketed position.
    """
    step = tick_of(stop) if target.position_side is PositionSide.LONG else -tick_of(stop)
    return NewOrder(
        client_order_id=client_order_id(installation, target.client_order_id, "m", 0),
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
        limit_price=stop + step,
        epoch=epoch,
    )


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
        and not any(other.replaces == row.order_id for other in rows)
    )
