"""Positions: signed shares, their cost, and the effect of a trade."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from catalyst.simulator.rules.orders import OrderSide

COST_STEP: Final = Decimal("0.0000000001")  # costs have ten decimal places, so sums stay exact


@dataclass(slots=True)
class Position:
    """Shares held in one symbol; `qty` and `cost` are negative for a short."""

    symbol: str
    qty: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)
    overnight_qty: Decimal = Decimal(0)  # what is left of yesterday's shares, signed

    @property
    def average_cost(self) -> Decimal:
        return self.cost / self.qty if self.qty else Decimal(0)

    def book_fill(self, side: OrderSide, qty: Decimal, price: Decimal) -> Decimal:
        """Book one execution; return the realised profit.

        A trade against the position first closes it at its average cost; the rest opens the other side.
        """
        signed = qty * side.sign
        if not self.qty or (self.qty > 0) == (signed > 0):
            self.qty += signed
            self.cost += signed * price
            return Decimal(0)
        closed = min(qty, abs(self.qty))
        released = (self.cost * closed / abs(self.qty)).quantize(COST_STEP)
        if closed == abs(self.qty):
            released = self.cost
        realised = -side.sign * closed * price - released
        self.cost -= released
        self.qty += side.sign * closed
        self.overnight_qty = _reduce_toward_zero(self.overnight_qty, closed)
        if rest := qty - closed:
            self.qty += side.sign * rest
            self.cost += side.sign * rest * price
        return realised


def _reduce_toward_zero(qty: Decimal, by: Decimal) -> Decimal:
    left = max(abs(qty) - by, Decimal(0))
    return left if qty > 0 else -left
