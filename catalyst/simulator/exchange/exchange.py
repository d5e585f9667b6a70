"""Exchange: the operations of one customer. No I/O, no await; call `venue.advance` before each operation.

`Venue` processes time, `OrderAdmission` checks requests; `order_creation` builds orders;
this module carries out requests on the venue's state and responds to queries.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from catalyst.simulator.exchange.account import Account
from catalyst.simulator.exchange.admission import OrderAdmission
from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.lifecycle import Transfer, VenueState
from catalyst.simulator.exchange.order_creation import new_legs, new_order, new_replacement, set_trailing_stop
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
    OrderSide,
    OrderStatus,
    OrderType,
    ReplaceRequest,
    SubmitRequest,
    TimeInForce,
)
from catalyst.simulator.rules.request_rules import (
    check_decimal_places,
    check_stop_side,
    check_tick,
    forbidden,
    malformed,
)
from catalyst.simulator.rules.request_rules import unprocessable as refused
from catalyst.simulator.rules.wire_format import NOT_FOUND, ApiError, seconds

REPLACEABLE_STATUSES = {OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.HELD}


class Exchange:
    """One account at one exchange over one market: `state` has the account and its orders, `venue` moves the time."""

    def __init__(
        self,
        market: TradingFeed,
        start: datetime,
        *,
        seed: int = 7,
        deposit: Decimal = Decimal(100_000),
        multiplier: int = 4,
        settings: ExchangeSettings | None = None,
        account_id: str | None = None,
    ) -> None:
        random_source = RandomSource(seed)
        seeded_id, seeded_number = random_source.uuid(), random_source.uuid()
        account = Account(
            id=account_id or seeded_id,
            number=f"PA{int((account_id or seeded_number)[:8], 16):010d}",
            created_at=start,
            cash=deposit,
            deposits=deposit,
            last_equity=deposit,
            multiplier=multiplier,
        )
        state = VenueState(market, account, start, random_source, settings or ExchangeSettings())
        self.state = state
        self.venue = Venue(state)
        self.admission = OrderAdmission(state.order_store, account, market, state.settings, state.halted)
        self.watchlists = Watchlists(market, random_source)
        self.venue.schedule_first_session()

    # ------------------------------------------------------------------ submit

    def submit(self, request: SubmitRequest, *, source: str = "api") -> Order:
        """Accept an order and its legs; they are not working yet. Raises ApiError, and then nothing is stored."""
        state = self.state
        position = self.position_qty(request.symbol)
        admitted = self.admission.admit(request, state.now, position, state.mark_price)
        order = new_order(state, request, admitted, source)
        legs = new_legs(state, order, request)
        order.legs = [leg.id for leg in legs]
        for each in (*legs, order):
            state.store_order(each)
        state.event_queue.schedule(order.expires_at, EventKind.EXPIRE, order.id)
        if order.status is OrderStatus.PENDING_NEW and not state.faults.fire_matching(
            FaultKind.NEVER_ACK, **state.fault_facts(order)
        ):
            state.schedule_event(
                EventKind.ACKNOWLEDGE,
                state.random_source.draw_latency(state.settings.acknowledge),
                order,
            )
        elif order.status is OrderStatus.ACCEPTED and order.extended_hours:
            routed = state.hours.routing_time(state.now, extended_hours=True)
            if routed is not None:
                state.event_queue.schedule(routed, EventKind.ACKNOWLEDGE, order.id)
        if state.settings.emit_pending_new and order.status is OrderStatus.PENDING_NEW:
            state.emit_update(order, "pending_new")
        if state.settings.emit_accepted:
            state.emit_update(order, "accepted")
        return order

    # ------------------------------------------------------------------ cancel

    def cancel(self, order_id: str) -> Order:
        """Request a cancel; the order may still fill until the venue confirms. Raises ApiError."""
        state = self.state
        order = self.find_order(order_id)
        again = order.status is OrderStatus.CANCELED and not state.settings.second_cancel_rejected
        if again or order.status is OrderStatus.PENDING_CANCEL:
            return order
        if order.terminal or order.status is OrderStatus.PENDING_REPLACE:
            raise refused(f'order is already in "{order.status}" state')
        order.status_before_pending = order.status
        order.status = OrderStatus.PENDING_CANCEL
        order.cancel_requested_at = state.now
        state.store_order(order)
        if state.settings.emit_pending:
            state.emit_update(order, "pending_cancel")
        delay = state.random_source.draw_latency(state.settings.cancel)
        slow = state.faults.fire_matching(FaultKind.CANCEL_DELAY, **state.fault_facts(order))
        if slow is not None:
            delay = seconds(slow.seconds)
        if order.acknowledged and state.faults.fire_matching(
            FaultKind.CANCEL_LOSES, **state.fault_facts(order)
        ):
            state.schedule_event(EventKind.FILL_REMAINING, delay / 2, order)
        state.schedule_event(EventKind.CANCEL, delay, order)
        return order

    def cancel_all(self) -> list[tuple[str, Order]]:
        """Request the cancel of all open orders; return (cancelled id, order shown in the response).

        The response shows the parent of an exit leg, as the broker's does.
        """
        cancelled = []
        for order in self.state.order_store.live():
            if order.status is OrderStatus.HELD or order.status is OrderStatus.PENDING_REPLACE:
                continue
            self.cancel(order.id)
            cancelled.append((order.id, self.state.order_store.parent(order) or order))
        return cancelled

    def confirm_cancels(self) -> None:
        """Confirm every pending cancel at once."""
        state = self.state
        for order in state.order_store.live():
            if order.status is OrderStatus.PENDING_CANCEL:
                state.finish_order(order, OrderStatus.CANCELED)
                for linked in (*state.order_store.siblings(order), *state.order_store.legs(order)):
                    state.finish_order(linked, OrderStatus.CANCELED)

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
            set_trailing_stop(self.state, changed)
        if changed == old:
            raise refused("order parameters are not changed")
        self.admission.check_time_in_force(changed.type, changed.time_in_force, self.state.now)
        self._check_changed(old, changed)
        return self._schedule_replacement(old, changed, request.client_order_id)

    def _schedule_replacement(self, old: Order, changed: Order, client_order_id: str | None) -> Order:
        state = self.state
        new = new_replacement(state, changed, client_order_id)
        old.status_before_pending, old.status, old.replaced_by = (
            old.status,
            OrderStatus.PENDING_REPLACE,
            new.id,
        )
        state.store_order(new)
        state.store_order(old)
        if state.settings.emit_pending:
            state.emit_update(old, "pending_replace")
        if new.parent_id is None:
            state.event_queue.schedule(new.expires_at, EventKind.EXPIRE, new.id)
        state.schedule_event(
            EventKind.REPLACE, state.random_source.draw_latency(state.settings.replace), old, new
        )
        return new

    def _check_replaceable(self, old: Order, request: ReplaceRequest) -> None:
        if old.terminal:
            raise refused("unable to replace order, order is not open")
        is_inactive_leg = old.status is OrderStatus.HELD and not (
            old.active and self.state.settings.held_replaceable
        )
        if old.status not in REPLACEABLE_STATUSES or is_inactive_leg:
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
        for name, price in (("limit_price", request.limit_price), ("stop_price", request.stop_price)):
            if price is not None and price <= 0:
                raise malformed(f"{name} must be > 0")
        check_decimal_places("qty", request.qty)
        if request.qty is not None and request.qty <= old.filled_qty:
            raise refused("unable to replace order, qty must be > filled_qty")

    def _check_changed(self, old: Order, changed: Order) -> None:
        check_tick("limit_price", changed.limit_price)
        check_tick("stop_price", changed.stop_price if changed.type is not OrderType.TRAILING_STOP else None)
        if changed.stop_price != old.stop_price and changed.type is not OrderType.TRAILING_STOP:
            market = self.admission.market_price(old.symbol, old.side, self.state.now)
            if market is not None:
                check_stop_side(old.side, changed.stop_price, market)
        if old.intent.opens_position:
            if changed.limit_price is not None:
                changed.unit_reserve = max(changed.limit_price, Decimal(0))
            if changed.reserve > old.reserve:
                self.admission.check_buying_power(changed.reserve, self.state.mark_price, freed=old.reserve)
        elif changed.remaining > old.remaining:
            position = self.position_qty(old.symbol)
            self.admission.check_available(old.symbol, old.side, changed.remaining, position, old.remaining)

    # ------------------------------------------------------------------ positions

    def position_qty(self, symbol: str) -> Decimal:
        """Return the signed quantity that the account shows, which may lag behind the fills."""
        state = self.state
        qty = state.account.qty(symbol)
        if state.settings.position_lag > 0:
            booked = state.now - seconds(state.settings.position_lag)
            for execution in reversed(state.executions):
                if execution.at <= booked:
                    break
                if execution.symbol == symbol:
                    qty -= execution.side.sign * execution.qty
        for until, execution in state.delayed_fills:
            if execution.symbol == symbol and until > state.now:
                qty -= execution.side.sign * execution.qty
        return qty

    def position(self, symbol: str) -> Position:
        """Return the shown position. Raises ApiError (404) when there is none."""
        shown = self.position_qty(symbol)
        if not shown:
            raise ApiError(404, NOT_FOUND, "position does not exist")
        position = self.state.account.positions.get(symbol)
        if position is None or position.qty != shown:
            price = self.state.mark_price(symbol) or Decimal(0) if position is None else position.average_cost
            return Position(symbol, shown, shown * price)
        return position

    def positions(self) -> list[Position]:
        """Return every shown position, by symbol."""
        state = self.state
        symbols = set(state.account.positions) | {execution.symbol for _, execution in state.delayed_fills}
        if state.settings.position_lag > 0:
            symbols |= {execution.symbol for execution in state.executions}
        return [self.position(symbol) for symbol in sorted(symbols) if self.position_qty(symbol)]

    def held_for_orders(self, position: Position) -> Decimal:
        """Return the shares of a position that open exits reserve."""
        return self.state.order_store.reserved_shares(
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
        order = self.state.order_store.get(order_id)
        if order is None:
            raise ApiError(404, NOT_FOUND, f"order not found for {order_id}")
        return order

    def visible_state(self, order: Order) -> Order:
        """Return the order as REST shows it, which may lag behind the stream."""
        state = self.state
        if state.settings.order_lag <= 0:
            return order
        return state.stale_views.state_at(order, state.now - seconds(state.settings.order_lag))

    def find_order_by_client_id(self, client_order_id: str) -> Order:
        """Return the order with this client id, once it is visible. Raises ApiError (404)."""
        state = self.state
        order = state.order_store.by_client_id(client_order_id)
        if order is not None:
            hidden = state.settings.visibility_delay
            fault = state.faults.active(FaultKind.VISIBILITY, **state.fault_facts(order))
            if fault is not None:
                hidden = max(hidden, fault.seconds)
            if state.now >= order.submitted_at + seconds(hidden):
                return order
            if fault is not None:
                fault.fired += 1
        raise ApiError(404, NOT_FOUND, f"order not found for {client_order_id}")

    # ------------------------------------------------------------------ operator

    def deposit(self, amount: Decimal) -> None:
        """Deposit an amount, or withdraw it when negative."""
        state = self.state
        if state.account.cash + amount < 0:
            raise forbidden("insufficient cash")
        state.account.cash += amount
        state.account.deposits += amount
        state.transfers.append(Transfer(state.random_source.uuid(), state.now, amount))
