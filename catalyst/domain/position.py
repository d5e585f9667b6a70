"""A position: opened by the first entry fill, changed only by fills, closed at zero with its realised P&L."""

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.errors import IllegalTransition
from catalyst.domain.order import PositionSide

CENT: Final = Decimal("0.01")
ZERO: Final = Decimal(0)


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
    RECONCILED_PHANTOM = "RECONCILED_PHANTOM"
    EXTERNAL = "EXTERNAL"


POSITION_EDGES: Final = frozenset({(PositionStatus.OPEN, PositionStatus.CLOSED)})


@dataclass(frozen=True, slots=True)
class PositionState:
    """The running totals of one position. Quantities in shares, never negative; cost and proceeds in dollars.

    `cost` is what the entries paid (short: received), `proceeds` what the exits brought (short: paid), both
    exact sums of quantity times price.
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
        """Quantity-weighted average over the entry fills."""
        return self.cost / self.entered_qty

    @property
    def exit_price(self) -> Decimal | None:
        """Quantity-weighted average over the exit fills; None before the first."""
        return self.proceeds / self.exited_qty if self.exited_qty else None

    @property
    def realized_pnl(self) -> Decimal:
        """Dollars, fees apart, from the exact cost basis, rounded once to the cent."""
        if not self.exited_qty:
            return ZERO
        return self._profit(self.proceeds, self.exited_qty)

    def unrealized_pnl(self, price: Decimal) -> Decimal:
        """Dollars at `price`, to the cent."""
        return self._profit(price * self.quantity, self.quantity)

    def _profit(self, value: Decimal, quantity: Decimal) -> Decimal:
        # Multiplied before it is divided: an average with endless digits would tip a half cent.
        gain = value - self.cost * quantity / self.entered_qty
        return (gain if self.side is PositionSide.LONG else -gain).quantize(CENT, ROUND_HALF_EVEN)


def add_fill(position: PositionState, quantity: Decimal, price: Decimal) -> PositionState:
    """The holding after an entry fill. A closed position never reopens: that is a new one."""
    if position.entered_qty and position.status is PositionStatus.CLOSED:
        raise IllegalTransition("a closed position cannot be entered again")
    return replace(
        position, entered_qty=position.entered_qty + quantity, cost=position.cost + quantity * price
    )


def reduce_by_fill(
    position: PositionState, quantity: Decimal, price: Decimal
) -> tuple[PositionState, Decimal]:
    """The holding after an exit fill, and the quantity oversold: shares that left though we held none."""
    taken = min(quantity, position.quantity)
    left = replace(
        position, exited_qty=position.exited_qty + taken, proceeds=position.proceeds + taken * price
    )
    return left, quantity - taken
