"""Order admission: Alpaca's rules with Alpaca's messages, in the order in which a request meets them."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange.account import MIN_MARGIN_EQUITY, Account, Marks
from catalyst.simulator.exchange.order_store import OrderStore
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.market.interface import Asset
from catalyst.simulator.market.trading_feed import TradingFeed
from catalyst.simulator.rules.orders import (
    OPEN_STATUSES,
    OrderClass,
    OrderSide,
    OrderType,
    PositionIntent,
    SubmitRequest,
    TimeInForce,
)
from catalyst.simulator.rules.pricing import collar_factor, opposite_quote
from catalyst.simulator.rules.request_rules import (
    CENT,
    check_leg_prices,
    check_shape,
    check_stop_side,
    check_ticks,
    could_match,
    forbidden,
    infer_intent,
    malformed,
    unprocessable,
)
from catalyst.simulator.rules.trading_hours import TradingHours, new_york_date
from catalyst.simulator.rules.wire_format import ApiError, format_decimal

MAX_CLIENT_ORDER_ID_LENGTH: Final = 128
QTY_STEP: Final = Decimal("0.000000001")
REGULAR_OPEN: Final = time(9, 30)  # for a day without a session; the windows are wall time there
REGULAR_CLOSE: Final = time(16, 0)
AUCTION_ORDERS_RESUME: Final = time(19, 0)  # orders for the next session's auctions are accepted again
OPG_CUTOFF: Final = timedelta(minutes=2)
CLS_CUTOFF: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class AdmittedOrder:
    """An accepted order: its effect on the position, its shares, and the buying power that a share reserves.

    The shares of a notional exit are known now; those of a notional entry are known at the trade.
    """

    asset: Asset
    intent: PositionIntent
    qty: Decimal | None
    unit_reserve: Decimal


class OrderAdmission:
    """Checks a request against orders, account and market at one instant."""

    def __init__(
        self,
        order_store: OrderStore,
        account: Account,
        market: TradingFeed,
        settings: ExchangeSettings,
        halted: set[str],
    ) -> None:
        self._order_store = order_store
        self._account = account
        self._market = market
        self._settings = settings
        self._halted = halted
        self._hours = TradingHours(market)

    def admit(self, request: SubmitRequest, now: datetime, position: Decimal, marks: Marks) -> AdmittedOrder:
        """Accept the order, or raise the ApiError that Alpaca would send.

        `position` is the quantity the account shows, which may lag behind the fills.
        """
        self.check_client_id(request.client_order_id)
        self._check_account()
        check_shape(request)
        check_ticks(request)
        asset = self._check_asset(request)
        self._check_hours(request, now)
        self._check_halt(request)
        intent = infer_intent(request.side, position)
        if request.position_intent is not None and request.position_intent != intent:
            raise unprocessable(
                f"position intent mismatch, inferred: {intent}, specified: {request.position_intent}"
            )
        self._check_borrow(request, asset, intent, marks)
        self._check_order_class(request, position)
        self._check_prices(request, now)
        qty = request.qty if intent.opens_position else self._exit_qty(request, now)
        self._check_crossing(request, intent, qty, position)
        self._check_wash_trade(request)
        unit = self.unit_reserve(request, intent, now)
        if intent.opens_position:
            self.check_buying_power(unit * (request.qty or Decimal(1)), marks)
        return AdmittedOrder(asset, intent, qty, unit)

    def check_client_id(self, client_order_id: str | None) -> None:
        """Reject an id that is too long or was used before."""
        if client_order_id is None:
            return
        if len(client_order_id) > MAX_CLIENT_ORDER_ID_LENGTH:
            raise malformed(f"client_order_id must be no more than {MAX_CLIENT_ORDER_ID_LENGTH} characters")
        if client_order_id in self._order_store.id_by_client_id:
            raise ApiError(422, self._settings.duplicate_code, "client_order_id must be unique")

    def check_buying_power(self, cost: Decimal, marks: Marks, freed: Decimal = Decimal(0)) -> None:
        """Reject an order above the remaining buying power; `freed` is returned by a replaced order."""
        power = self._account.buying_power(marks, self._order_store.reserved_buying_power() - freed)
        if cost > power:
            raise forbidden(
                "insufficient buying power",
                buying_power=format_decimal(power.quantize(CENT)),
                cost_basis=format_decimal(cost),
            )

    def check_available(
        self,
        symbol: str,
        side: OrderSide,
        qty: Decimal,
        position: Decimal,
        freed: Decimal,
        *,
        related: bool = True,
    ) -> None:
        """Reject an exit for more shares than other exits leave free."""
        held, holders = self._order_store.reserved_shares(symbol, side)
        existing = abs(position)
        available = max(existing - held + freed, Decimal(0))
        if qty > available:
            facts: dict[str, object] = {
                "available": format_decimal(available),
                "existing_qty": format_decimal(existing),
                "held_for_orders": format_decimal(held),
                "symbol": symbol,
            }
            if related:
                facts["related_orders"] = holders
            asked = f"(requested: {format_decimal(qty)}, available: {format_decimal(available)})"
            raise forbidden(f"insufficient qty available for order {asked}", **facts)

    def market_price(self, symbol: str, side: OrderSide, now: datetime) -> Decimal | None:
        """Return the opposite quote in regular hours, its middle in extended hours, else the last trade."""
        if self._hours.in_extended_hours(now):
            quote = self._market.quote(symbol, now)
            far, near = opposite_quote(quote, side), opposite_quote(quote, side.opposite)
            if far is not None and near is not None:
                return far[0] if self._hours.is_open(now) else (far[0] + near[0]) / 2
        last = self._market.last_print(symbol, now)
        return None if last is None else last.price

    def unit_reserve(self, request: SubmitRequest, intent: PositionIntent, now: datetime) -> Decimal:
        """Return the buying power that a share of this order reserves; for a notional order, the whole
        amount."""
        if not intent.opens_position:
            return Decimal(0)
        if request.notional is not None:
            return request.notional
        price = request.limit_price
        if price is None and request.stop_price is not None:
            price = request.stop_price * (
                collar_factor(request.stop_price) if request.side is OrderSide.BUY else 1
            )
        if intent is PositionIntent.SELL_TO_OPEN:
            ask = self.market_price(request.symbol, OrderSide.BUY, now) or Decimal(0)
            return max(price or Decimal(0), ask * Decimal("1.03"))
        if price is not None:
            return price
        market = self.market_price(request.symbol, request.side, now) or Decimal(0)
        return market * collar_factor(market)

    def _check_account(self) -> None:
        if self._account.configuration.suspend_trade:
            raise forbidden("new orders are rejected by user request")
        if self._account.trading_blocked or self._account.account_blocked:
            raise forbidden("trading is blocked for this account")

    def _check_asset(self, request: SubmitRequest) -> Asset:
        asset = self._market.assets().get(request.symbol)
        if asset is None:
            raise unprocessable(f'asset "{request.symbol}" not found')
        if asset.status != "active" or not asset.tradable:
            raise unprocessable(f"asset {request.symbol} is not active")
        fractional = request.notional is not None or (request.qty is not None and request.qty % 1 != 0)
        if fractional:
            if request.time_in_force is not TimeInForce.DAY:
                raise unprocessable("fractional orders must be DAY orders")
            if request.order_class is not OrderClass.SIMPLE:
                raise unprocessable("fractional orders must be simple orders")
            if not asset.fractionable or not self._account.configuration.fractional_trading:
                raise forbidden(f'asset "{request.symbol}" is not fractionable')
        return asset

    def _check_hours(self, request: SubmitRequest, now: datetime) -> None:
        if request.extended_hours and (
            request.type is not OrderType.LIMIT
            or request.time_in_force not in {TimeInForce.DAY, TimeInForce.GTC}
        ):
            raise unprocessable("extended hours order must be DAY or GTC limit orders")
        self.check_time_in_force(request.type, request.time_in_force, now)

    def check_time_in_force(self, kind: OrderType, tif: TimeInForce, now: datetime) -> None:
        """Reject an auction's time in force for a stop, and near or after the auction; half days close early."""
        if tif not in {TimeInForce.OPG, TimeInForce.CLS}:
            return
        if kind not in {OrderType.MARKET, OrderType.LIMIT}:
            raise malformed(f"{tif} orders must be market or limit orders")
        day = new_york_date(now)
        evening = datetime.combine(day, AUCTION_ORDERS_RESUME, NEW_YORK)
        session = self._hours.session(day)
        opening = session.open if session else datetime.combine(day, REGULAR_OPEN, NEW_YORK)
        closing = session.close if session else datetime.combine(day, REGULAR_CLOSE, NEW_YORK)
        if tif is TimeInForce.OPG and opening - OPG_CUTOFF <= now < evening:
            raise unprocessable("opg orders must be submitted after 7:00pm and before 9:28am")
        if tif is TimeInForce.CLS and closing - CLS_CUTOFF <= now < evening:
            raise unprocessable("cls orders must be submitted after 7:00pm and before 3:55pm")

    def _check_halt(self, request: SubmitRequest) -> None:
        if request.symbol in self._halted and request.type is OrderType.MARKET:
            raise unprocessable(
                f'market order rejected due to trading halt on symbol: "{request.symbol}", '
                "please place a limit order instead"
            )

    def _check_borrow(
        self, request: SubmitRequest, asset: Asset, intent: PositionIntent, marks: Marks
    ) -> None:
        hard = not asset.easy_to_borrow or asset.symbol in self._settings.hard_to_borrow
        if intent is PositionIntent.SELL_TO_OPEN:
            if not asset.shortable or hard:
                raise unprocessable(f'asset "{asset.symbol}" cannot be sold short')
            equity = self._account.equity(marks)
            barred = self._account.configuration.no_shorting or self._account.multiplier < 2
            if barred or equity < MIN_MARGIN_EQUITY:
                raise forbidden("account is not allowed to short")
            if request.notional is not None or (request.qty is not None and request.qty % 1 != 0):
                raise unprocessable("fractional orders cannot be sold short")
        if hard and request.time_in_force is TimeInForce.GTC:
            raise unprocessable(f'only day orders are allowed for hard-to-borrow asset "{asset.symbol}"')

    def _check_order_class(self, request: SubmitRequest, position: Decimal) -> None:
        if request.order_class is OrderClass.BRACKET:
            any_order = self._settings.bracket_blocked_by_any_order
            conflicting = any(
                (any_order or order.side is not request.side) and order.status in OPEN_STATUSES
                for order in self._order_store.live(request.symbol)
            )
            if position or conflicting:
                raise unprocessable("bracket orders must be entry orders")
        if request.order_class is OrderClass.OCO and (
            not position or (position > 0) == (request.side is OrderSide.BUY)
        ):
            raise unprocessable("oco orders must be exit orders")
        if request.order_class is OrderClass.OTO and not infer_intent(request.side, position).opens_position:
            raise unprocessable("oto orders must be entry orders")

    def _check_prices(self, request: SubmitRequest, now: datetime) -> None:
        simple = request.order_class is OrderClass.SIMPLE
        if simple and request.type not in {OrderType.STOP, OrderType.STOP_LIMIT}:
            return  # independent of the market
        market = self.market_price(request.symbol, request.side, now)
        if not simple:
            for base in self._base_prices(request, market):
                check_leg_prices(request, base)
        elif market is not None:
            check_stop_side(request.side, request.stop_price, market)

    def _base_prices(self, request: SubmitRequest, market: Decimal | None) -> list[Decimal]:
        own = request.take_profit if request.order_class is OrderClass.OCO else request.limit_price
        bases = [] if own is None else [own]
        if market is not None and (not bases or self._settings.base_price_includes_market):
            bases.append(market)
        return bases

    def _exit_qty(self, request: SubmitRequest, now: datetime) -> Decimal | None:
        """Return the shares of an exit; an amount of money is converted at the market price."""
        if request.notional is None:
            return request.qty
        price = self.market_price(request.symbol, request.side, now)
        if not price:
            raise unprocessable(f'no price is known for "{request.symbol}"')
        return (request.notional / price).quantize(QTY_STEP)

    def _check_crossing(
        self, request: SubmitRequest, intent: PositionIntent, qty: Decimal | None, position: Decimal
    ) -> None:
        if not intent.opens_position:
            self.check_available(request.symbol, request.side, qty or Decimal(0), position, Decimal(0))
            return
        for order in self._order_store.live(request.symbol):
            if (
                order.side is not request.side
                and order.intent.opens_position
                and order.status in OPEN_STATUSES
            ):
                if request.side is OrderSide.BUY:
                    raise forbidden("cannot open a long buy while a short sell order is open")
                raise forbidden("cannot open a short sell while a long buy order is open")

    def _check_wash_trade(self, request: SubmitRequest) -> None:
        """Apply Alpaca's wash-trade table; complex orders and trailing stops are exempt, also as legs."""
        if request.order_class is not OrderClass.SIMPLE or request.type is OrderType.TRAILING_STOP:
            return
        for order in self._order_store.live(request.symbol):
            if order.side is request.side or order.status not in OPEN_STATUSES or order.is_exit:
                continue
            if order.type is OrderType.TRAILING_STOP or not could_match(request, order):
                continue
            kind = "limit" if order.type in {OrderType.LIMIT, OrderType.STOP_LIMIT} else "market/stop"
            raise forbidden(
                "potential wash trade detected. use complex orders",
                existing_order_id=order.id,
                reject_reason=f"opposite side {kind} order exists",
            )
