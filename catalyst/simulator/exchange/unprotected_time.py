"""Unprotected time: how long shares had no protection, as the exchange measures it."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from catalyst.simulator.exchange.order_store import OrderStore
from catalyst.simulator.rules.orders import OrderSide, OrderType
from catalyst.simulator.rules.pricing import is_stop
from catalyst.simulator.rules.wire_format import JsonObject


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


@dataclass(frozen=True, slots=True)
class UnprotectedGap:
    """A time without interruption in which shares of a symbol were unprotected; `ended` is the present while it lasts.

    `order_id` is the order whose change began it. `shares` were unprotected at its last change.
    """

    symbol: str
    order_id: str
    began: datetime
    ended: datetime
    shares: Decimal
    share_seconds: Decimal = Decimal(0)

    def extended_to(self, at: datetime) -> "UnprotectedGap":
        """Return the gap as it is at `at`, when it still lasts."""
        lasted = Decimal(str((at - self.ended).total_seconds()))
        return replace(self, ended=at, share_seconds=self.share_seconds + self.shares * lasted)

    @property
    def seconds(self) -> float:
        return (self.ended - self.began).total_seconds()


@dataclass(slots=True)
class UnprotectedTime:
    """Every time in which shares were unprotected: those that ended, and by symbol those that last."""

    ended: list[UnprotectedGap] = field(default_factory=list)
    lasting: dict[str, UnprotectedGap] = field(default_factory=dict)

    def record(self, symbol: str, order_id: str, unprotected_shares: Decimal, at: datetime) -> None:
        """Record that this many shares of the symbol are unprotected from `at` on, by the change of an order."""
        gap = self.lasting.pop(symbol, None)
        if gap is not None:
            gap = gap.extended_to(at)
        if unprotected_shares:
            gap = gap or UnprotectedGap(symbol, order_id, at, at, unprotected_shares)
            self.lasting[symbol] = replace(gap, shares=unprotected_shares)
        elif gap is not None:
            self.ended.append(gap)

    def totals(self, at: datetime) -> dict[str, JsonObject]:
        """Return the totals up to `at` and every gap, by symbol."""
        gaps: dict[str, list[UnprotectedGap]] = {}
        for gap in [*self.ended, *(lasting.extended_to(at) for lasting in self.lasting.values())]:
            gaps.setdefault(gap.symbol, []).append(gap)
        return {
            symbol: {
                "share_seconds": str(sum((gap.share_seconds for gap in own), Decimal(0))),
                "longest_seconds": str(max(gap.seconds for gap in own)),
                "unprotected_now": str(self.lasting[symbol].shares) if symbol in self.lasting else "0",
                "gaps": [
                    {
                        "began": gap.began.isoformat(),
                        "ended": gap.ended.isoformat(),
                        "order_id": gap.order_id,
                    }
                    for gap in own
                ],
            }
            for symbol, own in gaps.items()
        }
