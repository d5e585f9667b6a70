"""Pricing: what a print, or the quote on arrival, does to one order. Pure."""

from collections.abc import Callable
from decimal import ROUND_DOWN, Decimal
from typing import Final

from catalyst.simulator.market.interface import BestQuote
from catalyst.simulator.rules.orders import Order, OrderSide, OrderType

COLLAR_PRICE_LIMIT: Final = Decimal(50)


def opposite_quote(quote: BestQuote | None, side: OrderSide) -> tuple[Decimal, int] | None:
    """Return the price and size that a marketable order gets; None when the quote is absent, one-sided or crossed."""
    if quote is None or quote.bid <= 0 or quote.ask <= 0 or quote.bid > quote.ask:
        return None
    return (quote.ask, quote.ask_size) if side is OrderSide.BUY else (quote.bid, quote.bid_size)


def effective_limit(order: Order) -> Decimal | None:
    """Return the worst price the order accepts; None for one without a limit.

    A triggered buy stop is a limit order 4 % (under $50) or 2.5 % above its stop; a triggered sell stop is a
    market order (Alpaca, "Orders", stop order conversion).
    """
    if order.type in {OrderType.LIMIT, OrderType.STOP_LIMIT}:
        return order.limit_price
    if order.type is OrderType.STOP and order.side is OrderSide.BUY and order.stop_price is not None:
        return order.stop_price * collar_factor(order.stop_price)
    return None


def collar_factor(price: Decimal) -> Decimal:
    """Return the collar of a buy without a limit."""
    return Decimal("1.04") if price < COLLAR_PRICE_LIMIT else Decimal("1.025")


def is_stop(order: Order) -> bool:
    return order.type in {OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP}


def triggers(order: Order, price: Decimal) -> bool:
    """Return true when a trade at `price` triggers this stop order."""
    if not is_stop(order) or order.triggered or order.stop_price is None:
        return False
    return price >= order.stop_price if order.side is OrderSide.BUY else price <= order.stop_price


def update_trailing_stop(order: Order, price: Decimal) -> bool:
    """Move the high-water mark and the stop of a trailing order with the trade; true when they moved."""
    if order.type is not OrderType.TRAILING_STOP or order.triggered:
        return False
    better = order.hwm is None or (price > order.hwm if order.side is OrderSide.SELL else price < order.hwm)
    if better:
        order.hwm = price
        order.stop_price = price - order.side.opposite.sign * trail_distance(order, price)
    return better


def trail_distance(order: Order, price: Decimal) -> Decimal:
    """Return the distance of a trailing stop from its mark."""
    if order.trail_price is not None:
        return order.trail_price
    return price * (order.trail_percent or Decimal(0)) / 100


def is_within_limit(limit: Decimal | None, side: OrderSide, price: Decimal) -> bool:
    return limit is None or (price <= limit if side is OrderSide.BUY else price >= limit)


def price_on_arrival(order: Order, quote: BestQuote | None) -> tuple[Decimal, int] | None:
    """Return price and size for an arriving order: the opposite quote, if its limit allows it, else None."""
    far = opposite_quote(quote, order.side)
    return far if far is not None and is_within_limit(effective_limit(order), order.side, far[0]) else None


def price_on_print(order: Order, price: Decimal, quote: Callable[[], BestQuote | None]) -> Decimal | None:
    """Return the price at which a print fills a working order; None when it does not.

    A print outside the limit fills nothing. Inside it, a marketable order pays the opposite quote, and a resting order
    that the print reaches gets its limit or better: after a gap that is the gap's price, against the customer
    for stops and in favour for limits. The quote is read only when needed.
    """
    limit = effective_limit(order)
    if not is_within_limit(limit, order.side, price):
        return None
    far = opposite_quote(quote(), order.side)
    if far is None:
        return price
    return far[0] if is_within_limit(limit, order.side, far[0]) else limit


def participation_qty(size: int, participation: Decimal) -> Decimal:
    """Return how many shares of a print may fill one order: at least one."""
    return max((size * participation).to_integral_value(ROUND_DOWN), Decimal(1))
