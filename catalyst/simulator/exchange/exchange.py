"""The exchange: what one customer may ask of it. No I/O, no await; `advance` before each question.

`Venue` lives through time, `Gate` judges requests; here a request becomes orders, and questions get answers.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from catalyst.simulator.exchange.account import Account
from catalyst.simulator.exchange.admission import Gate, Ticket
from catalyst.simulator.exchange.event_queue import DueKind
from catalyst.simulator.exchange.positions import Position
from catalyst.simulator.exchange.randomness import Draws
from catalyst.simulator.exchange.settings import Switches
from catalyst.simulator.exchange.venue import Transfer, Venue
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.trading_feed import Tape
from catalyst.simulator.rules.orders import (
    Order,
    OrderClass,
    OrderRequest,
    OrderType,
    ReplaceRequest,
    Role,
    Side,
    Status,
    TimeInForce,
)
from catalyst.simulator.rules.request_rules import check_stop_side, check_tick, forbidden, malformed
from catalyst.simulator.rules.request_rules import unprocessable as refused
from catalyst.simulator.rules.wire_format import NOT_FOUND, Refusal, seconds

CLOSABLE = {Status.NEW, Status.PARTIALLY_FILLED, Status.HELD}


class Exchange(Venue):
    """One account at one exchange over one market."""

    def __init__(
        self,
        market: Tape,
        start: datetime,
        *,
        seed: int = 7,
        deposit: Decimal = Decimal(100_000),
        multiplier: int = 4,
        switches: Switches | None = None,
    ) -> None:
        draws = Draws(seed)
        account = Account(
            id=draws.identity(),
            number=f"PA{int(draws.identity()[:8], 16):010d}",
            created_at=start,
            cash=deposit,
            deposits=deposit,
            last_equity=deposit,
            multiplier=multiplier,
        )
        super().__init__(market, account, start, draws, switches or Switches())
        self.gate = Gate(self.book, self.account, market, self.switches, self.halted)
        self.begin()

    # ------------------------------------------------------------------ submit

    def submit(self, request: OrderRequest, *, source: str = "api") -> Order:
        """Take an order and its legs; nothing of it works yet. Raises Refusal, and then nothing was stored."""
        position = self.position_qty(request.symbol)
        ticket = self.gate.admit(request, self.now, position, self.mark)
        order = self._born(request, ticket, source)
        legs = self._legs(order, request)
        order.legs = [leg.id for leg in legs]
        for each in (*legs, order):
            self.file(each)
        self.agenda.promise(order.expires_at, DueKind.EXPIRE, order.id)
        if order.status is Status.PENDING_NEW and not self.faults.take(
            FaultKind.NEVER_ACK, **self.facts(order)
        ):
            self.later(DueKind.ACKNOWLEDGE, self.draws.latency(self.switches.acknowledge), order)
        elif order.status is Status.ACCEPTED and order.extended_hours:
            routed = self.hours.routes_at(self.now, extended_hours=True)
            if routed is not None:
                self.agenda.promise(routed, DueKind.ACKNOWLEDGE, order.id)
        if self.switches.emit_accepted:
            self.tell(order, "accepted")
        return order

    def _born(self, request: OrderRequest, ticket: Ticket, source: str) -> Order:
        routed = self.hours.tradable(self.now, extended_hours=request.extended_hours)
        is_oco = request.order_class is OrderClass.OCO
        simple = request.order_class is OrderClass.SIMPLE
        role = Role.PLAIN if simple else Role.TARGET if is_oco else Role.ENTRY
        order = Order(
            id=self.draws.identity(),
            client_order_id=request.client_order_id or self.draws.identity(),
            symbol=request.symbol,
            asset_id=ticket.asset.id,
            side=request.side,
            type=request.type,
            order_class=request.order_class,
            time_in_force=request.time_in_force,
            role=role,
            intent=ticket.intent,
            status=Status.PENDING_NEW if routed else Status.ACCEPTED,
            created_at=self.now,
            submitted_at=self.now,
            updated_at=self.now,
            sequence=self.next_sequence(),
            expires_at=self.hours.expiry(
                self.now, request.time_in_force, extended_hours=request.extended_hours
            ),
            source=source,
            qty=ticket.qty,
            notional=request.notional,
            limit_price=request.take_profit if is_oco else request.limit_price,
            stop_price=request.stop_price,
            trail_price=request.trail_price,
            trail_percent=request.trail_percent,
            extended_hours=request.extended_hours,
            unit_reserve=ticket.unit_reserve,
            active=is_oco,
        )
        if order.type is OrderType.TRAILING_STOP:
            self._set_trail(order)
        return order

    def _set_trail(self, order: Order) -> None:
        price = self.mark(order.symbol)
        if price is not None:
            order.hwm = price
            gap = order.trail_price or price * (order.trail_percent or Decimal(0)) / 100
            order.stop_price = price - gap if order.side is Side.SELL else price + gap

    def _legs(self, parent: Order, request: OrderRequest) -> list[Order]:
        legs = []
        if request.take_profit is not None and parent.order_class is not OrderClass.OCO:
            legs.append(self._leg(parent, Role.TARGET, OrderType.LIMIT, request.take_profit, None))
        if request.stop_loss is not None:
            kind = OrderType.STOP if request.stop_loss_limit is None else OrderType.STOP_LIMIT
            legs.append(self._leg(parent, Role.STOP, kind, request.stop_loss_limit, request.stop_loss))
        return legs

    def _leg(
        self, parent: Order, role: Role, kind: OrderType, limit: Decimal | None, stop: Decimal | None
    ) -> Order:
        is_oco = parent.order_class is OrderClass.OCO
        side = parent.side if is_oco else parent.side.opposite
        opening = {Side.BUY: "sell_to_close", Side.SELL: "buy_to_close"}
        return replace(
            parent,
            id=self.draws.identity(),
            client_order_id=self.draws.identity(),
            side=side,
            type=kind,
            role=role,
            intent=parent.intent if is_oco else type(parent.intent)(opening[parent.side]),
            status=Status.HELD,
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
        """Ask for a cancel; the order may still fill until the venue confirms. Raises Refusal."""
        order = self.find(order_id)
        again = order.status is Status.CANCELED and not self.switches.recancel_refused
        if again or order.status is Status.PENDING_CANCEL:
            return order
        if order.terminal or order.status is Status.PENDING_REPLACE:
            raise refused(f'order is already in "{order.status}" state')
        order.resting = order.status
        order.status = Status.PENDING_CANCEL
        order.cancel_requested_at = self.now
        self.file(order)
        if self.switches.emit_pending:
            self.tell(order, "pending_cancel")
        delay = self.draws.latency(self.switches.cancel)
        slow = self.faults.take(FaultKind.CANCEL_DELAY, **self.facts(order))
        if slow is not None:
            delay = seconds(slow.seconds)
        if order.acknowledged and self.faults.take(FaultKind.CANCEL_LOSES, **self.facts(order)):
            self.later(DueKind.FILL_REST, delay / 2, order)
        self.later(DueKind.CANCEL, delay, order)
        return order

    def cancel_all(self) -> list[tuple[str, Order]]:
        """Ask for the cancel of everything open; (id of what was cancelled, the order that speaks for it).

        An exit leg is spoken for by its parent, as the broker's own answer does.
        """
        answers = []
        for order in self.book.live():
            if order.status is Status.HELD or order.status is Status.PENDING_REPLACE:
                continue
            self.cancel(order.id)
            answers.append((order.id, self.book.parent(order) or order))
        return answers

    def confirm_cancels(self) -> None:
        """Have every cancel that is under way confirmed at once."""
        for order in self.book.live():
            if order.status is Status.PENDING_CANCEL:
                self.finish(order, Status.CANCELED)
                for sibling in self.book.siblings(order):
                    self.finish(sibling, Status.CANCELED)

    # ------------------------------------------------------------------ replace

    def replace(self, order_id: str, request: ReplaceRequest) -> Order:
        """Ask for a changed order under a new id; both the old and the new one may turn out to live on."""
        old = self.find(order_id)
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
            self._set_trail(changed)
        if changed == old:
            raise refused("order parameters are not changed")
        self.gate.check_life(changed.type, changed.time_in_force, self.now)
        self._check_changed(old, changed)
        return self._promise_replacement(old, changed, request.client_order_id)

    def _promise_replacement(self, old: Order, changed: Order, client_order_id: str | None) -> Order:
        new = replace(
            changed,
            id=self.draws.identity(),
            client_order_id=client_order_id or self.draws.identity(),
            status=Status.PENDING_NEW,
            submitted_at=self.now,
            sequence=self.next_sequence(),
            replaces=old.id,
            acknowledged=False,
            active=False,
            resting=None,
            filled_qty=Decimal(0),
            filled_value=Decimal(0),
            carried_qty=Decimal(0),
            filled_at=None,
            legs=[],
        )
        new.expires_at = self.hours.expiry(self.now, new.time_in_force, extended_hours=new.extended_hours)
        old.resting, old.status, old.replaced_by = old.status, Status.PENDING_REPLACE, new.id
        self.file(new)
        self.file(old)
        if self.switches.emit_pending:
            self.tell(old, "pending_replace")
        if new.parent_id is None:
            self.agenda.promise(new.expires_at, DueKind.EXPIRE, new.id)
        self.later(DueKind.REPLACE, self.draws.latency(self.switches.replace), old, new)
        return new

    def _check_replaceable(self, old: Order, request: ReplaceRequest) -> None:
        if old.terminal:
            raise refused("unable to replace order, order is not open")
        leg_asleep = old.status is Status.HELD and not (old.active and self.switches.held_replaceable)
        if old.status not in CLOSABLE or leg_asleep:
            raise malformed("unable to replace order, order isn't sent to exchange yet")
        if old.order_class is OrderClass.OTO:
            raise refused("replacement of oto orders is not supported")
        self.gate.check_client_id(request.client_order_id)
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
            market = self.gate.market_price(old.symbol, old.side, self.now)
            if market is not None:
                check_stop_side(old.side, changed.stop_price, market)
        if old.intent.opens:
            if changed.limit_price is not None:
                changed.unit_reserve = max(changed.limit_price, Decimal(0))
            if changed.reserve > old.reserve:
                self.gate.check_buying_power(changed.reserve, self.mark, freed=old.reserve)
        elif changed.remaining > old.remaining:
            position = self.position_qty(old.symbol)
            self.gate.check_available(old.symbol, old.side, changed.remaining, position, old.remaining)

    # ------------------------------------------------------------------ positions

    def position_qty(self, symbol: str) -> Decimal:
        """The signed quantity that the position book shows, which may lag behind the fills."""
        qty = self.account.qty(symbol)
        if self.switches.position_lag > 0:
            booked = self.now - seconds(self.switches.position_lag)
            for execution in reversed(self.executions):
                if execution.at <= booked:
                    break
                if execution.symbol == symbol:
                    qty -= execution.side.sign * execution.qty
        for until, execution in self.unbooked:
            if execution.symbol == symbol and until > self.now:
                qty -= execution.side.sign * execution.qty
        return qty

    def position(self, symbol: str) -> Position:
        """The position as shown. Raises Refusal (404) when there is none."""
        shown = self.position_qty(symbol)
        if not shown:
            raise Refusal(404, NOT_FOUND, "position does not exist")
        position = self.account.positions.get(symbol)
        if position is None or position.qty != shown:
            price = self.mark(symbol) or Decimal(0) if position is None else position.average
            return Position(symbol, shown, shown * price)
        return position

    def positions(self) -> list[Position]:
        """Every position shown, by symbol."""
        symbols = set(self.account.positions) | {execution.symbol for _, execution in self.unbooked}
        if self.switches.position_lag > 0:
            symbols |= {execution.symbol for execution in self.executions}
        return [self.position(symbol) for symbol in sorted(symbols) if self.position_qty(symbol)]

    def held_for_orders(self, position: Position) -> Decimal:
        """Shares of a position that open exits hold."""
        return self.book.held(position.symbol, Side.SELL if position.qty > 0 else Side.BUY)[0]

    def close(self, symbol: str, qty: Decimal | None = None, *, related: bool = False) -> Order:
        """Send a market order for `qty` shares of a position, all when None. Raises Refusal."""
        position = self.position(symbol)
        wanted = abs(position.qty) if qty is None else qty
        side = Side.SELL if position.qty > 0 else Side.BUY
        self.gate.check_available(symbol, side, wanted, position.qty, Decimal(0), related=related)
        request = OrderRequest(
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

    # ------------------------------------------------------------------ questions

    def find(self, order_id: str) -> Order:
        """The order of this id. Raises Refusal (404)."""
        order = self.book.get(order_id)
        if order is None:
            raise Refusal(404, NOT_FOUND, f"order not found for {order_id}")
        return order

    def seen(self, order: Order) -> Order:
        """The order as REST shows it, which may trail what the stream has told."""
        if self.switches.order_lag <= 0:
            return order
        return self.lag.seen(order, self.now - seconds(self.switches.order_lag))

    def find_by_client_id(self, client_order_id: str) -> Order:
        """The order with this client id, once it can be seen. Raises Refusal (404)."""
        order = self.book.by_client_id(client_order_id)
        if order is not None:
            hidden = self.switches.visibility_delay
            fault = self.faults.standing(FaultKind.VISIBILITY, **self.facts(order))
            if fault is not None:
                hidden = max(hidden, fault.seconds)
            if self.now >= order.submitted_at + seconds(hidden):
                return order
            if fault is not None:
                fault.fired += 1
        raise Refusal(404, NOT_FOUND, f"order not found for {client_order_id}")

    # ------------------------------------------------------------------ the market, by hand

    def deposit(self, amount: Decimal) -> None:
        """Money comes in, or goes out when negative."""
        if self.account.cash + amount < 0:
            raise forbidden("insufficient cash")
        self.account.cash += amount
        self.account.deposits += amount
        self.transfers.append(Transfer(self.draws.identity(), self.now, amount))
