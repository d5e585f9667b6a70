"""Request bodies become typed requests; what cannot be read is refused."""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar

from catalyst.simulator.rules.orders import (
    OrderClass,
    OrderRequest,
    OrderType,
    ReplaceRequest,
    Side,
    TimeInForce,
)
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, Refusal, amount, truth

Word = TypeVar("Word", bound=StrEnum)


def read_order(body: Mapping[str, object]) -> OrderRequest:
    """The order a client asks for; Refusal (422) names what is missing or malformed."""
    symbol = body.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise Refusal(422, BAD_PARAMETER, "symbol is required")
    target = dict(_child(body, "take_profit"))
    stop = _child(body, "stop_loss")
    if body.get("order_class") == "oco" and not target.get("limit_price"):
        target["limit_price"] = body.get("limit_price")  # the parent of an OCO is its take profit
    return OrderRequest(
        symbol=symbol.upper(),
        side=_word(Side, body.get("side"), "side"),
        type=_word(OrderType, body.get("type") or body.get("order_type"), "type"),
        time_in_force=_word(TimeInForce, body.get("time_in_force"), "time_in_force"),
        order_class=_word(OrderClass, body.get("order_class") or "simple", "order_class"),
        qty=amount(body.get("qty"), "qty"),
        notional=amount(body.get("notional"), "notional"),
        limit_price=amount(body.get("limit_price"), "limit_price"),
        stop_price=amount(body.get("stop_price"), "stop_price"),
        trail_price=amount(body.get("trail_price"), "trail_price"),
        trail_percent=amount(body.get("trail_percent"), "trail_percent"),
        extended_hours=truth(body.get("extended_hours")),
        client_order_id=_optional_text(body.get("client_order_id")),
        take_profit=amount(target.get("limit_price"), "take_profit.limit_price"),
        stop_loss=amount(stop.get("stop_price"), "stop_loss.stop_price"),
        stop_loss_limit=amount(stop.get("limit_price"), "stop_loss.limit_price"),
        position_intent=_optional_text(body.get("position_intent")),
    )


def read_replace(body: Mapping[str, object]) -> ReplaceRequest:
    """The changes a client asks for."""
    tif = body.get("time_in_force")
    return ReplaceRequest(
        qty=amount(body.get("qty"), "qty"),
        time_in_force=None if tif in (None, "") else _word(TimeInForce, tif, "time_in_force"),
        limit_price=amount(body.get("limit_price"), "limit_price"),
        stop_price=amount(body.get("stop_price"), "stop_price"),
        trail=amount(body.get("trail"), "trail"),
        client_order_id=_optional_text(body.get("client_order_id")),
    )


def closing_qty(held: Decimal, qty: str | None, percentage: str | None) -> Decimal | None:
    """How many shares of a position a close request means; None is all of them."""
    if qty is not None and percentage is not None:
        raise Refusal(422, BAD_PARAMETER, "only one of qty or percentage is allowed")
    if qty is not None:
        return amount(qty, "qty")
    if percentage is None:
        return None
    share = amount(percentage, "percentage") or Decimal(0)
    if not 0 < share <= 100:
        raise Refusal(422, BAD_PARAMETER, "percentage must be between 0 and 100")
    return (abs(held) * share / 100).quantize(Decimal("0.000000001")).normalize()


def _child(body: Mapping[str, object], name: str) -> Mapping[str, object]:
    child = body.get(name)
    return child if isinstance(child, dict) else {}


def _optional_text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _word(kind: type[Word], value: object, name: str) -> Word:
    try:
        return kind(str(value).lower())
    except ValueError:
        what = f"{name} is required" if value in (None, "") else f"invalid {name}: {value}"
        raise Refusal(422, BAD_PARAMETER, what) from None
