"""Position arithmetic: opened by the first entry fill, changed only by fills, closed at zero with its realised P&L."""

from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.errors import IllegalTransition
from catalyst.domain.order import PositionSide

CENT: Final = Decimal("0.01")
ZERO: Final = Decimal(0)


def whole_shares(quantity: Decimal) -> Decimal:
    """Return the quantity without its fraction of a share; the sign stays. Our orders are of whole shares, so a
    fraction, such as a reinvested dividend, is external."""
    return quantity.to_integral_value(ROUND_DOWN)


class PositionStatus(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class CloseReason(StrEnum):
    STOP_LOSS_HIT = "STOP_LOSS_HIT"
    TAKE_PROFIT_HIT = "TAKE_PROFIT_HIT"
    TIME_LIMIT = "TIME_LIMIT"
    MARKET_CLOSE = "MARKET_CLOSE"
    MANUAL = "MANUAL"
    EMERGENCY_STOP = "EMERGENCY_STOP"
    SHUTDOWN = "SHUTDOWN"  # a signal ended the process
    RECONCILED_PHANTOM = "RECONCILED_PHANTOM"
    EXTERNAL = "EXTERNAL"


# Exits that the plan of a trade or of the day contains; every other exit needs a person's attention.
PLANNED_EXITS: Final = frozenset(
    {CloseReason.STOP_LOSS_HIT, CloseReason.TAKE_PROFIT_HIT, CloseReason.TIME_LIMIT, CloseReason.MARKET_CLOSE}
)

POSITION_EDGES: Final = frozenset({(PositionStatus.OPEN, PositionStatus.CLOSED)})


@dataclass(frozen=True, slots=True)
class PositionState:
    """The running totals of one position. Quantities in shares, never negative; cost and proceeds in dollars.

    `cost` is the amount that the entries paid (short: received), `proceeds` the amount that the exits received (short:
    paid); both are exact sums of quantity times price.
    """

    side: PositionSide
    entered_qty: Decimal = ZERO
    cost: Decimal = ZERO
    exited_qty: Decimal = ZERO
    proceeds: Decimal = ZERO

    @property
    def quantity(self) -> Decimal:
        return self.entered_qty - self.exited_qty

    @property
    def status(self) -> PositionStatus:
        return PositionStatus.OPEN if self.quantity > 0 else PositionStatus.CLOSED

    @property
    def entry_price(self) -> Decimal:
        """Average price of the entry fills, weighted by quantity."""
        return self.cost / self.entered_qty

    @property
    def exit_price(self) -> Decimal | None:
        """Average price of the exit fills, weighted by quantity; None before the first."""
        return self.proceeds / self.exited_qty if self.exited_qty else None

    @property
    def realized_pnl(self) -> Decimal:
        """Realised result in dollars without fees, from the exact cost basis, rounded once to the cent."""
        if not self.exited_qty:
            return ZERO
        return self._profit(self.proceeds, self.exited_qty)

    def unrealized_pnl(self, price: Decimal) -> Decimal:
        """Return the unrealised result at `price`, in dollars, to the cent."""
        return self._profit(price * self.quantity, self.quantity)

    def _profit(self, value: Decimal, quantity: Decimal) -> Decimal:
        # Multiply before dividing: an average with endless digits could change the rounding of half a cent.
        gain = value - self.cost * quantity / self.entered_qty
        return (gain if self.side is PositionSide.LONG else -gain).quantize(CENT, ROUND_HALF_EVEN)


def add_fill(position: PositionState, quantity: Decimal, price: Decimal) -> PositionState:
    """Return the position after an entry fill. Raises IllegalTransition for a closed position: it never reopens."""
    if position.entered_qty and position.status is PositionStatus.CLOSED:
        raise IllegalTransition("a closed position cannot be entered again")
    return replace(
        position, entered_qty=position.entered_qty + quantity, cost=position.cost + quantity * price
    )


def reduce_by_fill(
    position: PositionState, quantity: Decimal, price: Decimal
) -> tuple[PositionState, Decimal]:
    """Return the position after an exit fill, and the oversold quantity: exited shares beyond the position."""
    exited = min(quantity, position.quantity)
    reduced = replace(
        position, exited_qty=position.exited_qty + exited, proceeds=position.proceeds + exited * price
    )
    return reduced, quantity - exited


def is_planned_exit(reason: str) -> bool:
    """Return true when the text of an exit begins with a reason of PLANNED_EXITS."""
    return reason.partition(":")[0] in PLANNED_EXITS
