"""Request rules: shape, ticks, and prices on the right side. Pure."""

from decimal import Decimal
from typing import Final

from catalyst.simulator.rules.orders import (
    Order,
    OrderClass,
    OrderSide,
    OrderType,
    PositionIntent,
    SubmitRequest,
    TimeInForce,
)
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    FORBIDDEN,
    UNPROCESSABLE,
    ApiError,
    format_decimal,
)

CENT: Final = Decimal("0.01")
MAX_QTY_PLACES: Final = 9  # of the broker's documents: "can take up to 9 decimal points"


def unprocessable(message: str, **facts: object) -> ApiError:
    return ApiError(422, UNPROCESSABLE, message, **facts)


def malformed(message: str) -> ApiError:
    return ApiError(422, BAD_PARAMETER, message)


def forbidden(message: str, **facts: object) -> ApiError:
    return ApiError(403, FORBIDDEN, message, **facts)


def infer_intent(side: OrderSide, position: Decimal) -> PositionIntent:
    """Return what an order on this side does to a position of this sign."""
    if side is OrderSide.BUY:
        return PositionIntent.BUY_TO_CLOSE if position < 0 else PositionIntent.BUY_TO_OPEN
    return PositionIntent.SELL_TO_CLOSE if position > 0 else PositionIntent.SELL_TO_OPEN


def check_shape(request: SubmitRequest) -> None:
    """Reject amounts and prices that do not belong to the order's type and class."""
    if request.notional is not None:
        _check_notional(request)
    elif request.qty is None or request.qty <= 0:
        raise malformed("qty must be > 0")
    check_decimal_places("qty", request.qty)
    for name in ("limit_price", "stop_price", "take_profit", "stop_loss", "stop_loss_limit", "trail_price"):
        price: Decimal | None = getattr(request, name)
        if price is not None and price <= 0:
            raise malformed(f"{name} must be > 0")
    if request.order_class is OrderClass.OCO:
        _check_oco(request)
    else:
        _check_own_prices(request)
    if request.type is OrderType.TRAILING_STOP:
        _check_trailing(request)
    if request.order_class is not OrderClass.SIMPLE:
        _check_complex(request)


def check_decimal_places(name: str, number: Decimal | None) -> None:
    """Reject a quantity, amount or percentage of more than nine decimal places."""
    if number is not None and number != round(number, MAX_QTY_PLACES):
        raise malformed(f"{name} must be limited to {MAX_QTY_PLACES} decimal places")


def _check_own_prices(request: SubmitRequest) -> None:
    has_limit, has_stop = request.limit_price is not None, request.stop_price is not None
    match request.type:
        case OrderType.MARKET if has_limit or has_stop:
            raise malformed("market orders require no stop or limit price")
        case OrderType.LIMIT if not has_limit:
            raise malformed("limit orders require a limit price")
        case OrderType.LIMIT if has_stop:
            raise malformed("limit orders must not have stop_price")
        case OrderType.STOP if not has_stop:
            raise malformed("stop orders require a stop price")
        case OrderType.STOP if has_limit:
            raise malformed("stop orders must not have limit_price")
        case OrderType.STOP_LIMIT if not (has_limit and has_stop):
            raise malformed("stop limit orders require both stop and limit price")
        case _:
            return


def _check_notional(request: SubmitRequest) -> None:
    if request.qty is not None:
        raise malformed("only one of qty or notional is accepted")
    check_decimal_places("notional", request.notional)
    if request.notional is None or request.notional < 1:
        raise forbidden("notional must be >= 1.00")
    if request.type is not OrderType.MARKET:
        raise unprocessable("notional orders must be market orders")


def _check_trailing(request: SubmitRequest) -> None:
    if (request.trail_price is None) == (request.trail_percent is None):
        raise malformed("trailing stop orders require one of trail_price or trail_percent")
    check_decimal_places("trail_price", request.trail_price)
    check_decimal_places("trail_percent", request.trail_percent)
    if request.trail_percent is not None and request.trail_percent < Decimal("0.1"):
        raise malformed("trail_percent must be >= 0.1")
    if request.order_class is not OrderClass.SIMPLE:
        raise unprocessable("trailing stop orders must be simple orders")
    if request.time_in_force not in {TimeInForce.DAY, TimeInForce.GTC}:
        raise malformed('trailing stop orders support only "day" or "gtc" time_in_force')


def _check_oco(request: SubmitRequest) -> None:
    if request.type is not OrderType.LIMIT:
        raise unprocessable("oco orders must be limit orders")
    if request.take_profit is None and request.limit_price is None:
        raise malformed("oco orders require take_profit.limit_price")


def _check_complex(request: SubmitRequest) -> None:
    kind = request.order_class
    if request.time_in_force not in {TimeInForce.DAY, TimeInForce.GTC}:
        raise malformed(f'{kind} orders support only "day" or "gtc" time_in_force')
    if request.extended_hours:
        raise forbidden(f"{kind} orders do not support extended hours trading")
    if kind is OrderClass.BRACKET and request.take_profit is None:
        raise malformed("bracket orders require take_profit.limit_price")
    if kind in {OrderClass.BRACKET, OrderClass.OCO} and request.stop_loss is None:
        raise malformed(f"{kind} orders require stop_loss.stop_price")
    if kind is OrderClass.OTO and request.take_profit is None and request.stop_loss is None:
        raise malformed("oto orders require stop_loss.stop_price")
    if kind is OrderClass.OTO and request.take_profit is not None and request.stop_loss is not None:
        raise malformed("oto orders require only one of take_profit or stop_loss")
    target = request.take_profit if request.take_profit is not None else request.limit_price
    if kind is OrderClass.OTO or target is None or request.stop_loss is None:
        return
    exit_side = request.side if kind is OrderClass.OCO else request.side.opposite
    if exit_side is OrderSide.SELL and target <= request.stop_loss:
        raise unprocessable("take_profit.limit_price must be > stop_loss.stop_price")
    if exit_side is OrderSide.BUY and target >= request.stop_loss:
        raise unprocessable("take_profit.limit_price must be < stop_loss.stop_price")


def check_ticks(request: SubmitRequest) -> None:
    """Reject prices finer than a cent, or than a hundredth of a cent under a dollar."""
    check_tick("limit_price", request.limit_price)
    check_tick("stop_price", request.stop_price)
    check_tick("take_profit.limit_price", request.take_profit)
    check_tick("stop_loss.stop_price", request.stop_loss)
    check_tick("stop_loss.limit_price", request.stop_loss_limit)


def check_tick(name: str, price: Decimal | None) -> None:
    if price is None:
        return
    tick = CENT if price >= 1 else Decimal("0.0001")
    if price % tick:
        raise unprocessable(
            f"invalid {name} {format_decimal(price)}. sub-penny increment does not fulfill minimum pricing criteria"
        )


def check_stop_side(side: OrderSide, stop: Decimal | None, market: Decimal) -> None:
    """Reject a stop that the market has already passed."""
    if stop is None or (stop < market if side is OrderSide.SELL else stop > market):
        return
    word = "less" if side is OrderSide.SELL else "greater"
    raise unprocessable(
        f"stop price must be {word} than current price",
        market_price=format_decimal(market),
        stop_price=format_decimal(stop),
    )


def check_leg_prices(request: SubmitRequest, base: Decimal) -> None:
    """Reject legs that are not at least a cent away from the base price, each on its side."""
    exit_side = request.side if request.order_class is OrderClass.OCO else request.side.opposite
    sign = 1 if exit_side is OrderSide.SELL else -1
    words = ("<= base_price - 0.01", ">= base_price + 0.01")
    stop, target = request.stop_loss, request.take_profit
    if stop is not None and (base - stop) * sign < CENT:
        raise unprocessable(
            f"stop_loss.stop_price must be {words[0] if sign > 0 else words[1]}",
            base_price=format_decimal(base),
        )
    own = request.order_class is OrderClass.OCO and base == target
    if target is not None and not own and (target - base) * sign < CENT:
        raise unprocessable(
            f"take_profit.limit_price must be {words[1] if sign > 0 else words[0]}",
            base_price=format_decimal(base),
        )


def could_match(request: SubmitRequest, order: Order) -> bool:
    """Return whether a new order and an opposite one could trade with each other."""
    limits = {OrderType.LIMIT, OrderType.STOP_LIMIT}
    if request.type not in limits or order.type not in limits:
        return True
    assert request.limit_price is not None
    assert order.limit_price is not None
    if request.side is OrderSide.BUY:
        return request.limit_price >= order.limit_price
    return order.limit_price >= request.limit_price
