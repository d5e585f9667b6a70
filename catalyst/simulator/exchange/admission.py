"""Which orders the exchange takes: Alpaca's rules with Alpaca's words, in the order a request meets them."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange.account import MARGIN_MINIMUM, Account, Marks
from catalyst.simulator.exchange.order_store import Book
from catalyst.simulator.exchange.settings import Switches
from catalyst.simulator.market.interface import Asset
from catalyst.simulator.market.trading_feed import Tape
from catalyst.simulator.rules.orders import (
    LISTED_OPEN,
    Intent,
    OrderClass,
    OrderRequest,
    OrderType,
    Side,
    TimeInForce,
)
from catalyst.simulator.rules.pricing import band, far_side
from catalyst.simulator.rules.request_rules import (
    CENT,
    check_against_base,
    check_shape,
    check_stop_side,
    check_ticks,
    forbidden,
    infer_intent,
    malformed,
    may_meet,
    unprocessable,
)
from catalyst.simulator.rules.trading_hours import Hours, day_of
from catalyst.simulator.rules.wire_format import Refusal, text_of

LONGEST_CLIENT_ID: Final = 128
SMALLEST_SHARE: Final = Decimal("0.000000001")
BELL: Final = time(9, 30)  # of a day without a session; the windows are wall time there
CLOSE: Final = time(16, 0)
EVENING: Final = time(19, 0)  # orders for the next session's auctions are taken again
OPG_AHEAD: Final = timedelta(minutes=2)
CLS_AHEAD: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order that was let in: what it does to the position, its shares, and what a share of it reserves.

    The shares of an amount of money are known now when it leaves a position, and with the trade when it opens one.
    """

    asset: Asset
    intent: Intent
    qty: Decimal | None
    unit_reserve: Decimal


class Gate:
    """Judges a request against the book, the account and the market at one instant."""

    def __init__(
        self, book: Book, account: Account, market: Tape, switches: Switches, halted: set[str]
    ) -> None:
        self._book = book
        self._account = account
        self._market = market
        self._switches = switches
        self._halted = halted
        self._hours = Hours(market)

    def admit(self, request: OrderRequest, now: datetime, position: Decimal, marks: Marks) -> Ticket:
        """Let the order in, or raise the Refusal that Alpaca would send.

        `position` is the quantity the position book shows, which may lag behind the fills.
        """
        self.check_client_id(request.client_order_id)
        self._check_account()
        check_shape(request)
        check_ticks(request)
        asset = self._asset(request)
        self._check_hours(request, now)
        self._check_halt(request)
        intent = infer_intent(request.side, position)
        if request.position_intent is not None and request.position_intent != intent:
            raise unprocessable(
                f"position intent mismatch, inferred: {intent}, specified: {request.position_intent}"
            )
        self._check_borrow(request, asset, intent, marks)
        self._check_class(request, position)
        self._check_prices(request, now)
        qty = request.qty if intent.opens else self._exit_qty(request, now)
        self._check_crossing(request, intent, qty, position)
        self._check_wash(request)
        unit = self.unit_reserve(request, intent, now)
        if intent.opens:
            self.check_buying_power(unit * (request.qty or Decimal(1)), marks)
        return Ticket(asset, intent, qty, unit)

    def check_client_id(self, client_order_id: str | None) -> None:
        """Refuse an id that is too long or was ever used before."""
        if client_order_id is None:
            return
        if len(client_order_id) > LONGEST_CLIENT_ID:
            raise malformed(f"client_order_id must be no more than {LONGEST_CLIENT_ID} characters")
        if client_order_id in self._book.by_client:
            raise Refusal(422, self._switches.duplicate_code, "client_order_id must be unique")

    def check_buying_power(self, cost: Decimal, marks: Marks, freed: Decimal = Decimal(0)) -> None:
        """Refuse what costs more than the buying power left; `freed` is returned by a replaced order."""
        power = self._account.buying_power(marks, self._book.reserved() - freed)
        if cost > power:
            raise forbidden(
                "insufficient buying power",
                buying_power=text_of(power.quantize(CENT)),
                cost_basis=text_of(cost),
            )

    def check_available(
        self,
        symbol: str,
        side: Side,
        qty: Decimal,
        position: Decimal,
        freed: Decimal,
        *,
        related: bool = True,
    ) -> None:
        """Refuse an exit for more shares than are free of other exits."""
        held, holders = self._book.held(symbol, side)
        existing = abs(position)
        available = max(existing - held + freed, Decimal(0))
        if qty > available:
            facts: dict[str, object] = {
                "available": text_of(available),
                "existing_qty": text_of(existing),
                "held_for_orders": text_of(held),
                "symbol": symbol,
            }
            if related:
                facts["related_orders"] = holders
            asked = f"(requested: {text_of(qty)}, available: {text_of(available)})"
            raise forbidden(f"insufficient qty available for order {asked}", **facts)

    def market_price(self, symbol: str, side: Side, now: datetime) -> Decimal | None:
        """The far side of the quote in regular hours, its middle in extended ones, else the last trade."""
        if self._hours.extended(now):
            quote = self._market.quote(symbol, now)
            far, near = far_side(quote, side), far_side(quote, side.opposite)
            if far is not None and near is not None:
                return far[0] if self._hours.is_open(now) else (far[0] + near[0]) / 2
        last = self._market.last_print(symbol, now)
        return None if last is None else last.price

    def unit_reserve(self, request: OrderRequest, intent: Intent, now: datetime) -> Decimal:
        """Buying power a share of this order ties up; of a notional order, its whole amount."""
        if not intent.opens:
            return Decimal(0)
        if request.notional is not None:
            return request.notional
        price = request.limit_price
        if price is None and request.stop_price is not None:
            price = request.stop_price * (band(request.stop_price) if request.side is Side.BUY else 1)
        if intent is Intent.SELL_TO_OPEN:
            ask = self.market_price(request.symbol, Side.BUY, now) or Decimal(0)
            return max(price or Decimal(0), ask * Decimal("1.03"))
        if price is not None:
            return price
        market = self.market_price(request.symbol, request.side, now) or Decimal(0)
        return market * band(market)

    def _check_account(self) -> None:
        if self._account.configuration.suspend_trade:
            raise forbidden("new orders are rejected by user request")
        if self._account.trading_blocked or self._account.account_blocked:
            raise forbidden("trading is blocked for this account")

    def _asset(self, request: OrderRequest) -> Asset:
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

    def _check_hours(self, request: OrderRequest, now: datetime) -> None:
        if request.extended_hours and (
            request.type is not OrderType.LIMIT
            or request.time_in_force not in {TimeInForce.DAY, TimeInForce.GTC}
        ):
            raise unprocessable("extended hours order must be DAY or GTC limit orders")
        self.check_life(request.type, request.time_in_force, now)

    def check_life(self, kind: OrderType, tif: TimeInForce, now: datetime) -> None:
        """Refuse an auction's time in force to a stop, and near or after the auction; half days close early."""
        if tif not in {TimeInForce.OPG, TimeInForce.CLS}:
            return
        if kind not in {OrderType.MARKET, OrderType.LIMIT}:
            raise malformed(f"{tif} orders must be market or limit orders")
        day = day_of(now)
        evening = datetime.combine(day, EVENING, NEW_YORK)
        session = self._hours.session(day)
        opening = session.open if session else datetime.combine(day, BELL, NEW_YORK)
        closing = session.close if session else datetime.combine(day, CLOSE, NEW_YORK)
        if tif is TimeInForce.OPG and opening - OPG_AHEAD <= now < evening:
            raise unprocessable("opg orders must be submitted after 7:00pm and before 9:28am")
        if tif is TimeInForce.CLS and closing - CLS_AHEAD <= now < evening:
            raise unprocessable("cls orders must be submitted after 7:00pm and before 3:55pm")

    def _check_halt(self, request: OrderRequest) -> None:
        if request.symbol in self._halted and request.type is OrderType.MARKET:
            raise unprocessable(
                f'market order rejected due to trading halt on symbol: "{request.symbol}", '
                "please place a limit order instead"
            )

    def _check_borrow(self, request: OrderRequest, asset: Asset, intent: Intent, marks: Marks) -> None:
        hard = not asset.easy_to_borrow or asset.symbol in self._switches.hard_to_borrow
        if intent is Intent.SELL_TO_OPEN:
            if not asset.shortable or hard:
                raise unprocessable(f'asset "{asset.symbol}" cannot be sold short')
            equity = self._account.equity(marks)
            barred = self._account.configuration.no_shorting or self._account.multiplier < 2
            if barred or equity < MARGIN_MINIMUM:
                raise forbidden("account is not allowed to short")
            if request.notional is not None or (request.qty is not None and request.qty % 1 != 0):
                raise unprocessable("fractional orders cannot be sold short")
        if hard and request.time_in_force is TimeInForce.GTC:
            raise unprocessable(f'only day orders are allowed for hard-to-borrow asset "{asset.symbol}"')

    def _check_class(self, request: OrderRequest, position: Decimal) -> None:
        if request.order_class is OrderClass.BRACKET:
            anyone = self._switches.bracket_alone
            in_the_way = any(
                (anyone or order.side is not request.side) and order.status in LISTED_OPEN
                for order in self._book.live(request.symbol)
            )
            if position or in_the_way:
                raise unprocessable("bracket orders must be entry orders")
        if request.order_class is OrderClass.OCO and (
            not position or (position > 0) == (request.side is Side.BUY)
        ):
            raise unprocessable("oco orders must be exit orders")
        if request.order_class is OrderClass.OTO and not infer_intent(request.side, position).opens:
            raise unprocessable("oto orders must be entry orders")

    def _check_prices(self, request: OrderRequest, now: datetime) -> None:
        simple = request.order_class is OrderClass.SIMPLE
        if simple and request.type not in {OrderType.STOP, OrderType.STOP_LIMIT}:
            return  # nothing of it depends on the market
        market = self.market_price(request.symbol, request.side, now)
        if not simple:
            for base in self._bases(request, market):
                check_against_base(request, base)
        elif market is not None:
            check_stop_side(request.side, request.stop_price, market)

    def _bases(self, request: OrderRequest, market: Decimal | None) -> list[Decimal]:
        own = request.take_profit if request.order_class is OrderClass.OCO else request.limit_price
        bases = [] if own is None else [own]
        if market is not None and (not bases or self._switches.base_price_includes_market):
            bases.append(market)
        return bases

    def _exit_qty(self, request: OrderRequest, now: datetime) -> Decimal | None:
        """The shares of an exit; an amount of money is turned into shares at the market's price."""
        if request.notional is None:
            return request.qty
        price = self.market_price(request.symbol, request.side, now)
        if not price:
            raise unprocessable(f'no price is known for "{request.symbol}"')
        return (request.notional / price).quantize(SMALLEST_SHARE)

    def _check_crossing(
        self, request: OrderRequest, intent: Intent, qty: Decimal | None, position: Decimal
    ) -> None:
        if not intent.opens:
            self.check_available(request.symbol, request.side, qty or Decimal(0), position, Decimal(0))
            return
        for order in self._book.live(request.symbol):
            if order.side is not request.side and order.intent.opens and order.status in LISTED_OPEN:
                if request.side is Side.BUY:
                    raise forbidden("cannot open a long buy while a short sell order is open")
                raise forbidden("cannot open a short sell while a long buy order is open")

    def _check_wash(self, request: OrderRequest) -> None:
        """Alpaca's wash-trade table; complex orders and trailing stops are exempt, as legs they also are."""
        if request.order_class is not OrderClass.SIMPLE or request.type is OrderType.TRAILING_STOP:
            return
        for order in self._book.live(request.symbol):
            if order.side is request.side or order.status not in LISTED_OPEN or order.is_exit:
                continue
            if order.type is OrderType.TRAILING_STOP or not may_meet(request, order):
                continue
            kind = "limit" if order.type in {OrderType.LIMIT, OrderType.STOP_LIMIT} else "market/stop"
            raise forbidden(
                "potential wash trade detected. use complex orders",
                existing_order_id=order.id,
                reject_reason=f"opposite side {kind} order exists",
            )
