"""Exchange: the operations of one customer. No I/O, no await; call `advance` before each operation.

`Venue` processes time, `OrderAdmission` checks requests; this module turns requests into orders and answers
queries.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from catalyst.simulator.exchange.account import Account
from catalyst.simulator.exchange.admission import AdmittedOrder, OrderAdmission
from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.lifecycle import Transfer
from catalyst.simulator.exchange.positions import Position
from catalyst.simulator.exchange.randomness import RandomSource
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.exchange.venue import Venue
from catalyst.simulator.exchange.watchlists import Watchlists
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.trading_feed import TradingFeed
from catalyst.simulator.rules.orders import (
    Order,
    OrderClass,
    OrderRole,
    OrderSide,
    OrderStatus,
    OrderType,
    ReplaceRequest,
    SubmitRequest,
    TimeInForce,
)
from catalyst.simulator.rules.request_rules import check_stop_side, check_tick, forbidden, malformed
from catalyst.simulator.rules.request_rules import unprocessable as refused
from catalyst.simulator.rules.wire_format import NOT_FOUND, ApiError, seconds

REPLACEABLE_STATUSES = {OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.HELD}


class Exchange(Venue):
    """One account at one exchange over one market."""

    def __init__(
        self,
        market: TradingFeed,
        start: datetime,
        *,
        seed: int = 7,
        deposit: Decimal = Decimal(100_000),
        multiplier: int = 4,
        settings: ExchangeSettings | None = None,
    ) -> None:
        random_source = RandomSource(seed)
        account = Account(
            id=random_source.uuid(),
            number=f"PA{int(random_source.uuid()[:8], 16):010d}",
            created_at=start,
            cash=deposit,
            deposits=deposit,
            last_equity=deposit,
            multiplier=multiplier,
        )
        super().__init__(market, account, start, random_source, settings or ExchangeSettings())
        self.admission = OrderAdmission(self.order_store, self.account, market, self.settings, self.halted)
        self.watchlists = Watchlists(market, self.random_source)
        self.schedule_first_session()

    # ------------------------------------------------------------------ submit

    def submit(self, request: SubmitRequest, *, source: str = "api") -> Order:
        """Accept an order and its legs; none of it works yet. Raises ApiError, and then nothing is stored."""
        position = self.position_qty(request.symbol)
        admitted = self.admission.admit(request, self.now, position, self.mark_price)
        order = self._new_order(request, admitted, source)
        legs = self._new_legs(order, request)
        order.legs = [leg.id for leg in legs]
        for each in (*legs, order):
            self.store_order(each)
        self.event_queue.schedule(order.expires_at, EventKind.EXPIRE, order.id)
        if order.status is OrderStatus.PENDING_NEW and not self.faults.fire_matching(
            FaultKind.NEVER_ACK, **self.fault_facts(order)
        ):
            self.schedule_event(
                EventKind.ACKNOWLEDGE, self.random_source.draw_latency(self.settings.acknowledge), order
            )
        elif order.status is OrderStatus.ACCEPTED and order.extended_hours:
            routed = self.hours.routing_time(self.now, extended_hours=True)
            if routed is not None:
                self.event_queue.schedule(routed, EventKind.ACKNOWLEDGE, order.id)
        if self.settings.emit_accepted:
            self.emit_update(order, "accepted")
        return order

    def _new_order(self, request: SubmitRequest, admitted: AdmittedOrder, source: str) -> Order:
        routed = self.hours.is_tradable(self.now, extended_hours=request.extended_hours)
        is_oco = request.order_class is OrderClass.OCO
        simple = request.order_class is OrderClass.SIMPLE
        role = OrderRole.PLAIN if simple else OrderRole.TARGET if is_oco else OrderRole.ENTRY
        order = Order(
            id=self.random_source.uuid(),
            client_order_id=request.client_order_id or self.random_source.uuid(),
            symbol=request.symbol,
            asset_id=admitted.asset.id,
            side=request.side,
            type=request.type,
            order_class=request.order_class,
            time_in_force=request.time_in_force,
            role=role,
            intent=admitted.intent,
            status=OrderStatus.PENDING_NEW if routed else OrderStatus.ACCEPTED,
            created_at=self.now,
            submitted_at=self.now,
            updated_at=self.now,
            sequence=self.next_sequence(),
            expires_at=self.hours.expiry(
                self.now, request.time_in_force, extended_hours=request.extended_hours
            ),
            source=source,
            qty=admitted.qty,
            notional=request.notional,
            limit_price=request.take_profit if is_oco else request.limit_price,
            stop_price=request.stop_price,
            trail_price=request.trail_price,
            trail_percent=request.trail_percent,
            extended_hours=request.extended_hours,
            unit_reserve=admitted.unit_reserve,
            active=is_oco,
        )
        if order.type is OrderType.TRAILING_STOP:
            self._set_trailing_stop(order)
        return order

    def _set_trailing_stop(self, order: Order) -> None:
        price = self.mark_price(order.symbol)
        if price is not None:
            order.hwm = price
            gap = order.trail_price or price * (order.trail_percent or Decimal(0)) / 100
            order.stop_price = price - gap if order.side is OrderSide.SELL else price + gap

    def _new_legs(self, parent: Order, request: SubmitRequest) -> list[Order]:
        legs = []
        if request.take_profit is not None and parent.order_class is not OrderClass.OCO:
            legs.append(self._new_leg(parent, OrderRole.TARGET, OrderType.LIMIT, request.take_profit, None))
        if request.stop_loss is not None:
            kind = OrderType.STOP if request.stop_loss_limit is None else OrderType.STOP_LIMIT
            legs.append(
                self._new_leg(parent, OrderRole.STOP, kind, request.stop_loss_limit, request.stop_loss)
            )
        return legs

    def _new_leg(
        self, parent: Order, role: OrderRole, kind: OrderType, limit: Decimal | None, stop: Decimal | None
    ) -> Order:
        is_oco = parent.order_class is OrderClass.OCO
        side = parent.side if is_oco else parent.side.opposite
        opening = {OrderSide.BUY: "sell_to_close", OrderSide.SELL: "buy_to_close"}
        return replace(
            parent,
            id=self.random_source.uuid(),
            client_order_id=self.random_source.uuid(),
            side=side,
            type=kind,
            role=role,
            intent=parent.intent if is_oco else type(parent.intent)(opening[parent.side]),
            status=OrderStatus.HELD,
            sequence=self.next_sequence(),
            limit_price=limit,
            stop_price=stop,
            unit_reserve=Decimal(0),
            active=False,
            parent_id=parent.id,
            legs=[],
        )

    # ------------------------------------------------------------------ cancel

    def cancel(self, order_id: str) -> Order:
        """Request a cancel; the order may still fill until the venue confirms. Raises ApiError."""
        order = self.find_order(order_id)
        again = order.status is OrderStatus.CANCELED and not self.settings.second_cancel_rejected
        if again or order.status is OrderStatus.PENDING_CANCEL:
            return order
        if order.terminal or order.status is OrderStatus.PENDING_REPLACE:
            raise refused(f'order is already in "{order.status}" state')
        order.status_before_pending = order.status
        order.status = OrderStatus.PENDING_CANCEL
        order.cancel_requested_at = self.now
        self.store_order(order)
        if self.settings.emit_pending:
            self.emit_update(order, "pending_cancel")
        delay = self.random_source.draw_latency(self.settings.cancel)
        slow = self.faults.fire_matching(FaultKind.CANCEL_DELAY, **self.fault_facts(order))
        if slow is not None:
            delay = seconds(slow.seconds)
        if order.acknowledged and self.faults.fire_matching(
            FaultKind.CANCEL_LOSES, **self.fault_facts(order)
        ):
            self.schedule_event(EventKind.FILL_REMAINING, delay / 2, order)
        self.schedule_event(EventKind.CANCEL, delay, order)
        return order

    def cancel_all(self) -> list[tuple[str, Order]]:
        """Request the cancel of all open orders; return (cancelled id, order shown in the response).

        The response shows the parent of an exit leg, as the broker's does.
        """
        answers = []
        for order in self.order_store.live():
            if order.status is OrderStatus.HELD or order.status is OrderStatus.PENDING_REPLACE:
                continue
            self.cancel(order.id)
            answers.append((order.id, self.order_store.parent(order) or order))
        return answers

    def confirm_cancels(self) -> None:
        """Confirm every pending cancel at once."""
        for order in self.order_store.live():
            if order.status is OrderStatus.PENDING_CANCEL:
                self.finish_order(order, OrderStatus.CANCELED)
                for sibling in self.order_store.siblings(order):
                    self.finish_order(sibling, OrderStatus.CANCELED)

    # ------------------------------------------------------------------ replace

    def replace(self, order_id: str, request: ReplaceRequest) -> Order:
        """Request a changed order under a new id; until the venue decides, either may work on."""
        old = self.find_order(order_id)
        self._check_replaceable(old, request)
        changed = replace(
            old,
            qty=old.qty if request.qty is None else request.qty,
            time_in_force=request.time_in_force or old.time_in_force,
            limit_price=old.limit_price if request.limit_price is None else request.limit_price,
            stop_price=old.stop_price if request.stop_price is None else request.stop_price,
        )
        if request.trail is not None:
            if old.trail_price is not None:
                changed.trail_price = request.trail
            else:
                changed.trail_percent = request.trail
            self._set_trailing_stop(changed)
        if changed == old:
            raise refused("order parameters are not changed")
        self.admission.check_time_in_force(changed.type, changed.time_in_force, self.now)
        self._check_changed(old, changed)
        return self._schedule_replacement(old, changed, request.client_order_id)

    def _schedule_replacement(self, old: Order, changed: Order, client_order_id: str | None) -> Order:
        new = replace(
            changed,
            id=self.random_source.uuid(),
            client_order_id=client_order_id or self.random_source.uuid(),
            status=OrderStatus.PENDING_NEW,
            submitted_at=self.now,
            sequence=self.next_sequence(),
            replaces=old.id,
            acknowledged=False,
            active=False,
            status_before_pending=None,
            filled_qty=Decimal(0),
            filled_value=Decimal(0),
            inherited_filled_qty=Decimal(0),
            filled_at=None,
            legs=[],
        )
        new.expires_at = self.hours.expiry(self.now, new.time_in_force, extended_hours=new.extended_hours)
        old.status_before_pending, old.status, old.replaced_by = (
            old.status,
            OrderStatus.PENDING_REPLACE,
            new.id,
        )
        self.store_order(new)
        self.store_order(old)
        if self.settings.emit_pending:
            self.emit_update(old, "pending_replace")
        if new.parent_id is None:
            self.event_queue.schedule(new.expires_at, EventKind.EXPIRE, new.id)
        self.schedule_event(
            EventKind.REPLACE, self.random_source.draw_latency(self.settings.replace), old, new
        )
        return new

    def _check_replaceable(self, old: Order, request: ReplaceRequest) -> None:
        if old.terminal:
            raise refused("unable to replace order, order is not open")
        leg_asleep = old.status is OrderStatus.HELD and not (old.active and self.settings.held_replaceable)
        if old.status not in REPLACEABLE_STATUSES or leg_asleep:
            raise malformed("unable to replace order, order isn't sent to exchange yet")
        if old.order_class is OrderClass.OTO:
            raise refused("replacement of oto orders is not supported")
        self.admission.check_client_id(request.client_order_id)
        priced = {OrderType.LIMIT, OrderType.STOP_LIMIT}
        stopped = {OrderType.STOP, OrderType.STOP_LIMIT}
        if request.limit_price is not None and old.type not in priced:
            raise malformed(f"{old.type} orders must not have limit_price")
        if request.stop_price is not None and old.type not in stopped:
            raise malformed(f"{old.type} orders must not have stop_price")
        if request.trail is not None and old.type is not OrderType.TRAILING_STOP:
            raise malformed(f"{old.type} orders must not have trail")
        if request.qty is not None and request.qty <= old.filled_qty:
            raise refused("unable to replace order, qty must be > filled_qty")

    def _check_changed(self, old: Order, changed: Order) -> None:
        check_tick("limit_price", changed.limit_price)
        check_tick("stop_price", changed.stop_price if changed.type is not OrderType.TRAILING_STOP else None)
        if changed.stop_price != old.stop_price and changed.type is not OrderType.TRAILING_STOP:
            market = self.admission.market_price(old.symbol, old.side, self.now)
            if market is not None:
                check_stop_side(old.side, changed.stop_price, market)
        if old.intent.opens_position:
            if changed.limit_price is not None:
                changed.unit_reserve = max(changed.limit_price, Decimal(0))
            if changed.reserve > old.reserve:
                self.admission.check_buying_power(changed.reserve, self.mark_price, freed=old.reserve)
        elif changed.remaining > old.remaining:
            position = self.position_qty(old.symbol)
            self.admission.check_available(old.symbol, old.side, changed.remaining, position, old.remaining)

    # ------------------------------------------------------------------ positions

    def position_qty(self, symbol: str) -> Decimal:
        """Return the signed quantity that the account shows, which may lag behind the fills."""
        qty = self.account.qty(symbol)
        if self.settings.position_lag > 0:
            booked = self.now - seconds(self.settings.position_lag)
            for execution in reversed(self.executions):
                if execution.at <= booked:
                    break
                if execution.symbol == symbol:
                    qty -= execution.side.sign * execution.qty
        for until, execution in self.delayed_fills:
            if execution.symbol == symbol and until > self.now:
                qty -= execution.side.sign * execution.qty
        return qty

    def position(self, symbol: str) -> Position:
        """Return the shown position. Raises ApiError (404) when there is none."""
        shown = self.position_qty(symbol)
        if not shown:
            raise ApiError(404, NOT_FOUND, "position does not exist")
        position = self.account.positions.get(symbol)
        if position is None or position.qty != shown:
            price = self.mark_price(symbol) or Decimal(0) if position is None else position.average_cost
            return Position(symbol, shown, shown * price)
        return position

    def positions(self) -> list[Position]:
        """Return every shown position, by symbol."""
        symbols = set(self.account.positions) | {execution.symbol for _, execution in self.delayed_fills}
        if self.settings.position_lag > 0:
            symbols |= {execution.symbol for execution in self.executions}
        return [self.position(symbol) for symbol in sorted(symbols) if self.position_qty(symbol)]

    def held_for_orders(self, position: Position) -> Decimal:
        """Return the shares of a position that open exits reserve."""
        return self.order_store.reserved_shares(
            position.symbol, OrderSide.SELL if position.qty > 0 else OrderSide.BUY
        )[0]

    def close_position(self, symbol: str, qty: Decimal | None = None, *, related: bool = False) -> Order:
        """Submit a market order for `qty` shares of a position, all when None. Raises ApiError."""
        position = self.position(symbol)
        wanted = abs(position.qty) if qty is None else qty
        side = OrderSide.SELL if position.qty > 0 else OrderSide.BUY
        self.admission.check_available(symbol, side, wanted, position.qty, Decimal(0), related=related)
        request = SubmitRequest(
            symbol=symbol,
            side=side,
            type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            order_class=OrderClass.SIMPLE,
            qty=wanted,
            notional=None,
            limit_price=None,
            stop_price=None,
            trail_price=None,
            trail_percent=None,
            extended_hours=False,
            client_order_id=None,
            take_profit=None,
            stop_loss=None,
            stop_loss_limit=None,
            position_intent=None,
        )
        return self.submit(request, source="close")

    # ------------------------------------------------------------------ queries

    def find_order(self, order_id: str) -> Order:
        """Return the order with this id. Raises ApiError (404)."""
        order = self.order_store.get(order_id)
        if order is None:
            raise ApiError(404, NOT_FOUND, f"order not found for {order_id}")
        return order

    def visible_state(self, order: Order) -> Order:
        """Return the order as REST shows it, which may lag behind the stream."""
        if self.settings.order_lag <= 0:
            return order
        return self.stale_views.state_at(order, self.now - seconds(self.settings.order_lag))

    def find_order_by_client_id(self, client_order_id: str) -> Order:
        """Return the order with this client id, once it is visible. Raises ApiError (404)."""
        order = self.order_store.by_client_id(client_order_id)
        if order is not None:
            hidden = self.settings.visibility_delay
            fault = self.faults.active(FaultKind.VISIBILITY, **self.fault_facts(order))
            if fault is not None:
                hidden = max(hidden, fault.seconds)
            if self.now >= order.submitted_at + seconds(hidden):
                return order
            if fault is not None:
                fault.fired += 1
        raise ApiError(404, NOT_FOUND, f"order not found for {client_order_id}")

    # ------------------------------------------------------------------ operator

    def deposit(self, amount: Decimal) -> None:
        """Deposit an amount, or withdraw it when negative."""
        if self.account.cash + amount < 0:
            raise forbidden("insufficient cash")
        self.account.cash += amount
        self.account.deposits += amount
        self.transfers.append(Transfer(self.random_source.uuid(), self.now, amount))
