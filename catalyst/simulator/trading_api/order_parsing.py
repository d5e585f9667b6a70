"""Order parsing: request bodies into typed requests; unreadable ones are rejected."""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from catalyst.simulator.rules.orders import (
    OrderClass,
    OrderSide,
    OrderType,
    ReplaceRequest,
    SubmitRequest,
    TimeInForce,
)
from catalyst.simulator.rules.request_rules import check_decimal_places
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, ApiError, parse_amount, parse_bool

EnumT = TypeVar("EnumT", bound=StrEnum)


def parse_submit_request(body: Mapping[str, object]) -> SubmitRequest:
    """Return the requested order. Raises ApiError (422), which names what is missing or malformed.

    The legs of an order without a class are ignored, as the broker does: a simple order has none.
    """
    symbol = body.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise ApiError(422, BAD_PARAMETER, "symbol is required")
    order_class = _parse_enum(OrderClass, body.get("order_class") or "simple", "order_class")
    simple = order_class is OrderClass.SIMPLE
    target = {} if simple else dict(_nested_object(body, "take_profit"))
    stop = {} if simple else _nested_object(body, "stop_loss")
    if order_class is OrderClass.OCO and not target.get("limit_price"):
        target["limit_price"] = body.get("limit_price")  # the parent of an OCO is its take profit
    return SubmitRequest(
        symbol=symbol.upper(),
        side=_parse_enum(OrderSide, body.get("side"), "side"),
        type=_parse_enum(OrderType, body.get("type") or body.get("order_type"), "type"),
        time_in_force=_parse_enum(TimeInForce, body.get("time_in_force"), "time_in_force"),
        order_class=order_class,
        qty=parse_amount(body.get("qty"), "qty"),
        notional=parse_amount(body.get("notional"), "notional"),
        limit_price=parse_amount(body.get("limit_price"), "limit_price"),
        stop_price=parse_amount(body.get("stop_price"), "stop_price"),
        trail_price=parse_amount(body.get("trail_price"), "trail_price"),
        trail_percent=parse_amount(body.get("trail_percent"), "trail_percent"),
        extended_hours=parse_bool(body.get("extended_hours")),
        client_order_id=_optional_text(body, "client_order_id"),
        take_profit=parse_amount(target.get("limit_price"), "take_profit.limit_price"),
        stop_loss=parse_amount(stop.get("stop_price"), "stop_loss.stop_price"),
        stop_loss_limit=parse_amount(stop.get("limit_price"), "stop_loss.limit_price"),
        position_intent=_optional_text(body, "position_intent"),
    )


def parse_replace_request(body: Mapping[str, object]) -> ReplaceRequest:
    """Return the requested changes."""
    tif = body.get("time_in_force")
    return ReplaceRequest(
        qty=parse_amount(body.get("qty"), "qty"),
        time_in_force=None if tif in (None, "") else _parse_enum(TimeInForce, tif, "time_in_force"),
        limit_price=parse_amount(body.get("limit_price"), "limit_price"),
        stop_price=parse_amount(body.get("stop_price"), "stop_price"),
        trail=parse_amount(body.get("trail"), "trail"),
        client_order_id=_optional_text(body, "client_order_id"),
    )


def closing_qty(held: Decimal, qty: str | None, percentage: str | None) -> Decimal | None:
    """Return how many shares a close request means; None is all of them."""
    if qty is not None and percentage is not None:
        raise ApiError(422, BAD_PARAMETER, "only one of qty or percentage is allowed")
    if qty is not None:
        shares = parse_amount(qty, "qty")
        check_decimal_places("qty", shares)
        return shares
    if percentage is None:
        return None
    share = parse_amount(percentage, "percentage") or Decimal(0)
    check_decimal_places("percentage", share)
    if not 0 < share <= 100:
        raise ApiError(422, BAD_PARAMETER, "percentage must be between 0 and 100")
    return (abs(held) * share / 100).quantize(Decimal("0.000000001")).normalize()


def _nested_object(body: Mapping[str, object], name: str) -> Mapping[str, object]:
    child = body.get(name)
    if child is None or child == "":
        return {}
    if not isinstance(child, dict):
        raise ApiError(422, BAD_PARAMETER, f"{name} must be an object")
    return child


def _optional_text(body: Mapping[str, object], name: str) -> str | None:
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ApiError(422, BAD_PARAMETER, f"{name} must be a string")
    return value


def _parse_enum(kind: type[EnumT], value: object, name: str) -> EnumT:
    try:
        return kind(str(value).lower())
    except ValueError:
        what = f"{name} is required" if value in (None, "") else f"invalid {name}: {value}"
        raise ApiError(422, BAD_PARAMETER, what) from None
