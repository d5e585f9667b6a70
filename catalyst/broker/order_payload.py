"""Order payload: the JSON of an order; every number is the text of its Decimal.

Source: Alpaca API documentation, POST /v2/orders, orders at Alpaca (brackets, OCO, sub-penny rule).
"""

import re
from decimal import Decimal
from typing import Final

from catalyst.domain.errors import OrderRejected
from catalyst.domain.price import on_tick
from catalyst.domain.refusals import RejectionReason
from catalyst.domain.report import OrderRequest

_CLIENT_ORDER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,48}")
_TIMES_IN_FORCE: Final = frozenset({"day", "gtc"})
# prices of each order type: (limit_price, stop_price)
_PRICES_BY_TYPE: Final = {"market": (False, False), "limit": (True, False), "stop": (False, True)}


def check_order_request(request: OrderRequest) -> None:
    """Raise OrderRejected (http_status 0) for an invalid order; nothing is sent."""
    if not _CLIENT_ORDER_ID.fullmatch(request.client_order_id):
        raise _rejection(
            RejectionReason.SUBMIT_FAILED,
            f"client order id {request.client_order_id!r} is not 1 to 48 letters, digits, _ or -",
        )
    quantity = request.quantity
    if not quantity.is_finite() or quantity <= 0 or quantity != quantity.to_integral_value():
        raise _rejection(
            RejectionReason.SUBMIT_FAILED, f"quantity {quantity} is not a positive number of whole shares"
        )
    if request.order_type not in _PRICES_BY_TYPE or request.time_in_force not in _TIMES_IN_FORCE:
        raise _rejection(
            RejectionReason.SUBMIT_FAILED,
            f"a {request.order_type} order with time in force {request.time_in_force} is not supported",
        )
    for name, required in _price_rules(request).items():
        price: Decimal | None = getattr(request, name)
        if required is not None and required != (price is not None):
            raise _rejection(
                RejectionReason.PRICE_RULE,
                f"a {request.order_class} {request.order_type} order {'needs' if required else 'must not have'} {name}",
            )
        if price is not None and not (price.is_finite() and on_tick(price)):
            raise _rejection(RejectionReason.PRICE_RULE, f"{name} {price} is not a price on tick")


def check_replace_request(client_order_id: str, limit_price: Decimal) -> None:
    """Raise OrderRejected (http_status 0) for an invalid change of an order; nothing is sent."""
    if not _CLIENT_ORDER_ID.fullmatch(client_order_id):
        raise _rejection(
            RejectionReason.SUBMIT_FAILED,
            f"client order id {client_order_id!r} is not 1 to 48 letters, digits, _ or -",
        )
    if not (limit_price.is_finite() and on_tick(limit_price)):
        raise _rejection(RejectionReason.PRICE_RULE, f"limit_price {limit_price} is not a price on tick")


def build_payload(request: OrderRequest) -> dict[str, object]:
    """Return the JSON of `request`, which `check_order_request` has accepted."""
    body: dict[str, object] = {
        "client_order_id": request.client_order_id,
        "symbol": request.symbol,
        "side": request.side.value,
        "qty": f"{request.quantity:f}",
        "type": request.order_type,
        "time_in_force": request.time_in_force,
        "order_class": request.order_class,
    }
    if request.limit_price is not None:
        body["limit_price"] = f"{request.limit_price:f}"
    if request.stop_price is not None:
        body["stop_price"] = f"{request.stop_price:f}"
    if request.take_profit is not None:
        body["take_profit"] = {"limit_price": f"{request.take_profit:f}"}
    if request.stop_loss is not None:
        body["stop_loss"] = {"stop_price": f"{request.stop_loss:f}"}
    return body


def _price_rules(request: OrderRequest) -> dict[str, bool | None]:
    """Return which prices an order of this class and type has: required, forbidden, or optional (None)."""
    limit, stop = _PRICES_BY_TYPE[request.order_type]
    match request.order_class:
        case "simple":
            return {"limit_price": limit, "stop_price": stop, "take_profit": False, "stop_loss": False}
        case "bracket":
            return {"limit_price": limit, "stop_price": stop, "take_profit": True, "stop_loss": True}
        case "oco" if request.order_type == "limit":  # the limit order is the take-profit
            return {"limit_price": None, "stop_price": False, "take_profit": True, "stop_loss": True}
        case _:
            raise _rejection(
                RejectionReason.SUBMIT_FAILED,
                f"a {request.order_class} order of type {request.order_type} is not supported",
            )


def _rejection(code: RejectionReason, text: str) -> OrderRejected:
    return OrderRejected(code, f"{text}; it was not sent")
