"""How long shares stood without protection, as the exchange saw it."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from catalyst.simulator.exchange.order_store import Book
from catalyst.simulator.rules.orders import OrderType, Side
from catalyst.simulator.rules.pricing import is_stop


def unprotected(book: Book, symbol: str, position: Decimal) -> Decimal:
    """Shares that no live stop and no working exit at the market covers."""
    if not position:
        return Decimal(0)
    way_out = Side.SELL if position > 0 else Side.BUY
    covered = sum(
        (
            order.remaining
            for order in book.working(symbol)
            if order.side is way_out
            and not order.intent.opens
            and (is_stop(order) or order.type is OrderType.MARKET)
        ),
        Decimal(0),
    )
    return max(abs(position) - covered, Decimal(0))


@dataclass(slots=True)
class Exposure:
    """Naked share-seconds by symbol."""

    share_seconds: dict[str, Decimal] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)  # seconds without a break
    _naked: dict[str, tuple[Decimal, datetime, datetime]] = field(default_factory=dict)

    def observe(self, symbol: str, naked: Decimal, at: datetime) -> None:
        """From `at` on, `naked` shares of the symbol are unprotected."""
        before = self._naked.pop(symbol, None)
        began = at
        if before is not None:
            shares, since, first = before
            lasted = Decimal(str((at - since).total_seconds()))
            self.share_seconds[symbol] = self.share_seconds.get(symbol, Decimal(0)) + shares * lasted
            self.longest[symbol] = max(self.longest.get(symbol, 0.0), (at - first).total_seconds())
            began = first
        if naked:
            self._naked[symbol] = (naked, at, began)

    def now(self, at: datetime) -> dict[str, dict[str, str]]:
        """The totals up to `at`, by symbol."""
        for symbol, (shares, _, _) in list(self._naked.items()):
            self.observe(symbol, shares, at)
        return {
            symbol: {
                "share_seconds": str(total),
                "longest_seconds": str(self.longest.get(symbol, 0.0)),
                "naked_now": str(self._naked[symbol][0]) if symbol in self._naked else "0",
            }
            for symbol, total in self.share_seconds.items()
        }
