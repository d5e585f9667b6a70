"""Unprotected time: how long shares had no protection, as the exchange measures it."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from catalyst.simulator.exchange.order_store import OrderStore
from catalyst.simulator.rules.orders import OrderSide, OrderType
from catalyst.simulator.rules.pricing import is_stop


def unprotected_qty(order_store: OrderStore, symbol: str, position: Decimal) -> Decimal:
    """Return the shares that no working stop and no working market exit covers."""
    if not position:
        return Decimal(0)
    exit_side = OrderSide.SELL if position > 0 else OrderSide.BUY
    protected = sum(
        (
            order.remaining
            for order in order_store.working(symbol)
            if order.side is exit_side
            and not order.intent.opens_position
            and (is_stop(order) or order.type is OrderType.MARKET)
        ),
        Decimal(0),
    )
    return max(abs(position) - protected, Decimal(0))


@dataclass(slots=True)
class UnprotectedShareSeconds:
    """Unprotected share-seconds by symbol."""

    share_seconds: dict[str, Decimal] = field(default_factory=dict)
    longest_seconds: dict[str, float] = field(default_factory=dict)  # seconds without interruption
    _unprotected: dict[str, tuple[Decimal, datetime, datetime]] = field(default_factory=dict)

    def record(self, symbol: str, unprotected_shares: Decimal, at: datetime) -> None:
        """Record that this many shares of the symbol are unprotected from `at` on."""
        before = self._unprotected.pop(symbol, None)
        began = at
        if before is not None:
            shares, since, first = before
            lasted = Decimal(str((at - since).total_seconds()))
            self.share_seconds[symbol] = self.share_seconds.get(symbol, Decimal(0)) + shares * lasted
            self.longest_seconds[symbol] = max(
                self.longest_seconds.get(symbol, 0.0), (at - first).total_seconds()
            )
            began = first
        if unprotected_shares:
            self._unprotected[symbol] = (unprotected_shares, at, began)

    def totals(self, at: datetime) -> dict[str, dict[str, str]]:
        """Return the totals up to `at`, by symbol."""
        for symbol, (shares, _, _) in list(self._unprotected.items()):
            self.record(symbol, shares, at)
        return {
            symbol: {
                "share_seconds": str(total),
                "longest_seconds": str(self.longest_seconds.get(symbol, 0.0)),
                "unprotected_now": str(self._unprotected[symbol][0]) if symbol in self._unprotected else "0",
            }
            for symbol, total in self.share_seconds.items()
        }
