"""What becomes of orders as time passes: acknowledgement, trades, triggers, cancels, and the end of the day.

Synchronous and deterministic: the same market, seed and calls give the same executions, whatever the pace.
One file, because it is one life: from acknowledgement to the end. Effects on a group are in `groups`, and
follow Alpaca's description of bracket, OCO and OTO orders.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final

from catalyst.simulator.exchange import auctions, linked_orders
from catalyst.simulator.exchange.account import Account, fees_of
from catalyst.simulator.exchange.event_queue import Agenda, Due, DueKind
from catalyst.simulator.exchange.order_store import Book
from catalyst.simulator.exchange.randomness import Draws
from catalyst.simulator.exchange.settings import Switches
from catalyst.simulator.exchange.stale_views import Lag
from catalyst.simulator.exchange.unprotected_time import Exposure, unprotected
from catalyst.simulator.exchange.views import order_view
from catalyst.simulator.exchange.watchlists import Watchlist
from catalyst.simulator.faults.rules import FaultBook, FaultKind
from catalyst.simulator.market.announcements import Notices, Reason, TradingStatus
from catalyst.simulator.market.interface import Print, Quote
from catalyst.simulator.market.overrides import HandledMarket
from catalyst.simulator.market.trading_feed import Tape
from catalyst.simulator.rules.orders import (
    Execution,
    Order,
    OrderClass,
    Role,
    Side,
    Status,
    TimeInForce,
)
from catalyst.simulator.rules.pricing import (
    elects,
    far_side,
    is_stop,
    limit_of,
    price_on_arrival,
    price_on_print,
    slice_of,
    trail,
    within,
)
from catalyst.simulator.rules.trading_hours import Hours
from catalyst.simulator.rules.wire_format import seconds, stamp_of, text_of, type_json

MOMENT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Update:
    """One trade_updates message, rendered as of its instant."""

    event: str
    symbol: str
    order_id: str
    client_order_id: str
    role: Role
    data: type_json


@dataclass(frozen=True, slots=True)
class Fee:
    """A regulatory fee taken at a close: of the SEC (REG) or of FINRA (TAF)."""

    id: str
    at: datetime
    amount: Decimal
    kind: str = "REG"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that came in, or went out when negative."""

    id: str
    at: datetime
    amount: Decimal


class Venue:
    """Orders and the account in time. `advance` is the only way time passes."""

    def __init__(
        self, market: Tape, account: Account, start: datetime, draws: Draws, switches: Switches
    ) -> None:
        self.market = market
        self.account = account
        self.now = start
        self.draws = draws
        self.switches = switches
        self.faults = FaultBook()
        self.book = Book()
        self.agenda = Agenda()
        self.hours = Hours(market)
        self.halted: set[str] = set()
        self.executions: list[Execution] = []
        self.fees: list[Fee] = []
        self.transfers = [Transfer(account.id, start, account.deposits)]
        self.watchlists: dict[str, Watchlist] = {}
        self.equity_history: list[tuple[datetime, Decimal]] = []
        self.exposure = Exposure()
        self.notices = Notices()
        self.lag = Lag()
        self.outbox: list[Update] = []
        self.sequence = 0
        self.unbooked: list[
            tuple[datetime, Execution]
        ] = []  # fills not yet in the position book, and until when
        self._retold: set[str] = set()  # symbols whose tape is not what it was
        self.touched = False  # something outside the orders changed since it was last saved

    # ------------------------------------------------------------------ time

    def due(self) -> datetime | None:
        """The next instant at which something can happen by itself."""
        prints = (self.market.next_print(s, self.now) for s in self.book.watched() if s not in self.halted)
        instants = [at for at in (self.agenda.next_at(), *prints) if at is not None]
        return min(instants, default=None)

    def advance(self, to: datetime) -> None:
        """Live through everything up to and including `to`, in order; a `to` in the past changes nothing."""
        tape: dict[str, deque[Print]] = {}
        heard = self.now  # up to here the tape is over
        while True:
            self._follow(tape, heard, to)
            symbol = min((s for s in tape if tape[s]), key=lambda s: (tape[s][0].at, s), default=None)
            promised = self.agenda.next_at()
            if promised is not None and promised > to:
                promised = None
            if symbol is not None and (promised is None or self._comes_first(tape[symbol][0], promised)):
                trade = tape[symbol].popleft()
                self.now = max(self.now, trade.at)
                self.meet(symbol, trade)
                heard = self.now
            elif promised is not None:
                self.now = max(self.now, promised)
                opens = self.agenda.opens_next
                self._keep(self.agenda.pop())
                heard = self.now - MOMENT if opens else self.now
            else:
                break
        self.now = max(self.now, to)

    def _comes_first(self, trade: Print, promised: datetime) -> bool:
        """A trade goes before a promise of the same instant, but not before the opening bell."""
        return trade.at < promised or (trade.at == promised and not self.agenda.opens_next)

    def _follow(self, tape: dict[str, deque[Print]], heard: datetime, to: datetime) -> None:
        """Have the tape of exactly the symbols in which something works, from what was heard to `to`."""
        watched = set(self.book.watched())
        for symbol in self._retold & tape.keys():
            del tape[symbol]
        self._retold.clear()
        for symbol in watched - tape.keys():
            tape[symbol] = deque(self.market.prints(symbol, heard, to))
        for symbol in tape.keys() - watched:
            del tape[symbol]

    def begin(self) -> None:
        """Promise the next open and close; called once for a new exchange."""
        session = self.hours.current_or_next(self.now)
        if session is not None:
            if session.open > self.now:
                self.agenda.promise(session.open, DueKind.OPEN)
            self.agenda.promise(session.close, DueKind.CLOSE)

    def later(self, kind: DueKind, delay: timedelta, order: Order, other: Order | None = None) -> None:
        """Promise something about an order."""
        self.agenda.promise(self.now + delay, kind, order.id, other.id if other else "")

    def _keep(self, due: Due) -> None:
        if due.kind is DueKind.RESUME:
            self.resume(due.other_id)
            return
        order = self.book.get(due.order_id)
        if order is None:
            self._turn(due.kind)
            return
        if due.kind is DueKind.REPLACE:
            self._replace(order, self.book.orders[due.other_id])
            return
        keep: dict[DueKind, Callable[[Order], object]] = {
            DueKind.ACKNOWLEDGE: self.acknowledge,
            DueKind.ARRIVE: self._arrive,
            DueKind.CANCEL: self._cancel,
            DueKind.LEG_CANCEL: self._cancel_leg,
            DueKind.ACTIVATE: partial(linked_orders.activate, self),
            DueKind.FILL_REST: self._fill_rest,
            DueKind.EXPIRE: self._expire,
        }
        keep[due.kind](order)

    # ------------------------------------------------------------------ the day

    def _turn(self, kind: DueKind) -> None:
        self.touched = True
        if kind is DueKind.OPEN:
            self.account.last_equity = self.account.equity(self.mark)
            self.account.last_maintenance = self.account.margins(self.mark)[1]
            for position in self.account.positions.values():
                position.overnight_qty = position.qty
            auctions.open_session(self)
            return
        auctions.close_session(self)
        self._settle_fees()
        self.equity_history.append((self.now, self.account.equity(self.mark)))
        session = self.hours.next_session(self.now)
        if session is not None:
            self.agenda.promise(session.open, DueKind.OPEN)
            self.agenda.promise(session.close, DueKind.CLOSE)

    def halt(self, symbol: str, reason: Reason = Reason.NEWS) -> None:
        """Trading in the symbol stops, and the tape says so: nothing trades, market orders are refused."""
        if symbol not in self.halted:
            self.halted.add(symbol)
            self.touched = True
            self.notices.say(TradingStatus(self.now, symbol, halted=True, reason=reason))

    def resume(self, symbol: str) -> None:
        """Trading goes on, and the tape says so: the next trade is the reopening auction."""
        if symbol not in self.halted:
            return
        self.halted.discard(symbol)
        self.touched = True
        self.notices.say(TradingStatus(self.now, symbol, halted=False, reason=Reason.NEWS))
        self._retold.add(symbol)  # a halted tape told of no trades to come
        if self.hours.is_open(self.now):
            auctions.route(self, symbol)

    def _settle_fees(self) -> None:
        for kind, amount in self.account.owed().items():
            if amount:
                self.fees.append(Fee(self.draws.identity(), self.now, amount, kind))
                self.account.fees += amount
                self.account.cash -= amount
        self.account.accrued_reg = self.account.accrued_taf = Decimal(0)

    def hard_to_borrow(self, symbol: str) -> bool:
        asset = self.market.assets().get(symbol)
        return symbol in self.switches.hard_to_borrow or (asset is not None and not asset.easy_to_borrow)

    def mark(self, symbol: str) -> Decimal | None:
        """The last trade's price."""
        last = self.market.last_print(symbol, self.now)
        return None if last is None else last.price

    # ------------------------------------------------------------------ telling

    def file(self, order: Order) -> None:
        """Keep a changed order, and account for what it protects."""
        order.updated_at = self.now
        self.book.file(order)
        if self.switches.order_lag > 0:
            self.lag.note(order, self.now)
        naked = unprotected(self.book, order.symbol, self.account.qty(order.symbol))
        self.exposure.observe(order.symbol, naked, self.now)

    def tell(self, order: Order, event: str, **facts: object) -> None:
        """Put a trade update in the outbox, with the order as it is now."""
        data: type_json = {
            "event": event,
            "execution_id": self.draws.identity(),
            "timestamp": stamp_of(self.now),
            "order": order_view(order, self.book, self.switches, nested=True, stream=True),
        }
        data.update(facts)
        self.outbox.append(Update(event, order.symbol, order.id, order.client_order_id, order.role, data))

    def facts(self, order: Order) -> dict[str, str | None]:
        """What fault rules may ask about an order."""
        return {
            "symbol": order.symbol,
            "client_order_id": order.client_order_id,
            "role": order.role.value,
            "side": order.side.value,
        }

    # ------------------------------------------------------------------ acknowledgement and arrival

    def acknowledge(self, order: Order) -> None:
        """The venue has the order: it works from here on, unless it is rejected."""
        if order.terminal or order.acknowledged:
            return
        if self.faults.take(FaultKind.REJECT, **self.facts(order)):
            self.finish(order, Status.REJECTED)
            for leg in self.book.legs(order):
                self.finish(leg, Status.CANCELED)
            return
        order.acknowledged = True
        if order.status is Status.PENDING_CANCEL:
            order.resting = Status.NEW
        else:
            order.status = Status.NEW
        if order.order_class is OrderClass.OCO:
            for leg in self.book.legs(order):
                leg.active = leg.acknowledged = True
                self.file(leg)
        self.file(order)
        self.tell(order, "new")
        self.later(DueKind.ARRIVE, self.draws.latency(self.switches.arrive), order)

    def _arrive(self, order: Order) -> None:
        """The order meets the quote: takers trade with its far side, up to its size."""
        if not order.working or order.opening or self._asleep(order):
            return
        if order.time_in_force is TimeInForce.CLS:
            return
        met = None if is_stop(order) and not order.elected else price_on_arrival(order, self._quote(order))
        if met is not None and order.time_in_force is TimeInForce.FOK and met[1] < order.remaining:
            met = None
        if met is not None:
            self.trade(order, Decimal(max(met[1], 1)), met[0])
        if order.time_in_force in {TimeInForce.IOC, TimeInForce.FOK} and not order.terminal:
            self.finish(order, Status.CANCELED)

    def _asleep(self, order: Order) -> bool:
        open_now = self.hours.prints_count(self.now, extended_hours=order.extended_hours)
        return order.symbol in self.halted or not open_now

    def _quote(self, order: Order) -> Quote | None:
        return self.market.quote(order.symbol, self.now)

    # ------------------------------------------------------------------ trades

    def meet(self, symbol: str, trade: Print) -> None:
        """A trade on the tape meets every order that works in the symbol."""
        if symbol in self.halted:
            return
        if isinstance(self.market, HandledMarket):
            trade = self._gapped(self.market, symbol, trade)
        for order in self.book.working(symbol):
            if not order.working or self._asleep(order) or order.time_in_force is TimeInForce.CLS:
                continue
            if not (order.opening and auctions.cross(self, order, trade.price)):
                self._reach(order, trade)

    def _gapped(self, market: HandledMarket, symbol: str, trade: Print) -> Print:
        """The trade, further away and the market with it when it would trigger a stop and a fault says so."""
        for order in self.book.working(symbol):
            if self._asleep(order) or not elects(order, trade.price):
                continue
            fault = self.faults.take(FaultKind.GAP, **self.facts(order))
            if fault is not None:
                factor = Decimal(fault.factor)
                market.gap(symbol, factor if order.side is Side.SELL else 2 - factor, trade.at - MOMENT)
                self._retold.add(symbol)
                return market.last_print(symbol, trade.at) or trade
        return trade

    def _reach(self, order: Order, trade: Print) -> None:
        """A trade moves, triggers or fills one order."""
        if trail(order, trade.price):
            self.file(order)
        if elects(order, trade.price):
            stuck = self.faults.standing(FaultKind.NO_TRIGGER, **self.facts(order))
            if stuck is not None:
                stuck.strike(order.id)
                return
            self._on_election(self._elect(order), trade)
        elif not is_stop(order) or order.elected:
            price = price_on_print(order, trade.price, lambda: self.market.quote(order.symbol, trade.at))
            if price is not None:
                self.trade(order, slice_of(trade.size, self.switches.participation), price)

    def _on_election(self, order: Order, trade: Print) -> None:
        """A triggered stop is a new taker: it meets the quote, or the trade itself where there is none."""
        quote = self.market.quote(order.symbol, trade.at)
        if far_side(quote, order.side) is None:
            price = price_on_print(order, trade.price, lambda: None)
            size = slice_of(trade.size, self.switches.participation)
            if price is not None:
                self.trade(order, size, price)
            return
        met = price_on_arrival(order, quote)
        if met is not None:
            self.trade(order, Decimal(max(met[1], 1)), met[0])

    def _elect(self, order: Order) -> Order:
        """The stop is triggered: its sibling ends as replaced; the order that now works is returned."""
        order.elected = True
        if order.status is Status.HELD:
            order.status = Status.NEW
        worker = order
        if order.role is Role.STOP and (
            self.switches.stop_by_replacement
            or self.faults.take(FaultKind.STOP_REPLACED, **self.facts(order))
        ):
            worker = linked_orders.substitute(self, order)
        else:
            self.file(order)
        if not self.faults.standing(FaultKind.DOUBLE_EXIT, symbol=order.symbol):
            for sibling in self.book.siblings(worker):
                if not sibling.terminal:
                    linked_orders.supersede(self, sibling, worker)
        return worker

    def trade(self, order: Order, capacity: Decimal, price: Decimal) -> None:
        """Fill up to `capacity` shares, as far as the fault menu lets it."""
        if order.notional is not None and order.qty is None:
            order.qty = (order.notional / price).quantize(Decimal("0.000000001"))
            order.unit_reserve = price
        qty = min(order.remaining, capacity)
        if order.notional is not None:
            qty = order.remaining
        if qty > 1 and self.draws.happens(self.switches.partial_probability):
            qty = max(Decimal(1), qty // 2)
        stall = self.faults.standing(FaultKind.PARTIAL, **self.facts(order))
        if stall is not None and (most := stall.most(order.filled_qty + order.remaining)) is not None:
            stall.strike(order.id)
            qty = min(qty, most - order.filled_qty)
        if qty <= 0:
            return
        halt = self.faults.take(FaultKind.HALT, **self.facts(order)) if order.remaining > 1 else None
        if halt is not None:
            part = Decimal(halt.qty) if halt.qty else max(order.remaining // 2, Decimal(1))
            qty = min(qty, part)
        self._fill(order, qty, price)
        if halt is not None:
            self.halt(order.symbol)
            if halt.seconds:
                until = self.now + seconds(halt.seconds)
                self.agenda.promise(until, DueKind.RESUME, other_id=order.symbol)

    def _fill(self, order: Order, qty: Decimal, price: Decimal) -> None:
        """Book one execution and everything that follows from it."""
        order.filled_qty += qty
        order.filled_value += qty * price
        if not order.remaining:
            order.status = Status.FILLED
            order.filled_at = self.now
            order.active = False
        elif order.status not in {Status.PENDING_CANCEL, Status.PENDING_REPLACE}:
            order.status = Status.PARTIALLY_FILLED
        else:
            order.resting = Status.PARTIALLY_FILLED
        position = self.account.trade(order.symbol, order.side, qty, price)
        execution = Execution(
            id=self.draws.identity(),
            at=self.now,
            order_id=order.id,
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            side=order.side,
            qty=qty,
            price=price,
            cum_qty=order.filled_qty,
            leaves_qty=order.remaining,
            order_status=Status.FILLED if order.status is Status.FILLED else Status.PARTIALLY_FILLED,
            closing=not order.intent.opens,
            position_qty=position,
        )
        self.executions.append(execution)
        lag = self.faults.take(FaultKind.POSITION_LAG, **self.facts(order))
        if lag is not None:
            self.unbooked = [row for row in self.unbooked if row[0] > self.now]
            self.unbooked.append((self.now + seconds(lag.seconds), execution))
        if self.switches.charge_fees:
            terms = self.switches
            reg, taf = fees_of(execution, terms.sec_fee, terms.taf_fee, terms.taf_cap)
            self.account.accrued_reg += reg
            self.account.accrued_taf += taf
        self.file(order)
        self.tell(
            order,
            "fill" if order.status is Status.FILLED else "partial_fill",
            execution_id=execution.id,
            price=text_of(price),
            qty=text_of(qty),
            position_qty=text_of(position),
        )
        self._after_fill(order, price)

    def _after_fill(self, order: Order, price: Decimal) -> None:
        if order.role is Role.ENTRY and order.status is Status.FILLED:
            self.later(DueKind.ACTIVATE, self.draws.latency(self.switches.activate), order)
        if not order.is_exit:
            return
        siblings = [sibling for sibling in self.book.siblings(order) if not sibling.terminal]
        if order.status is not Status.FILLED:
            for sibling in siblings:
                if order.role is Role.TARGET:
                    sibling.qty = sibling.filled_qty + order.remaining
                    self.file(sibling)
            return
        if siblings and self.faults.take(FaultKind.DOUBLE_EXIT, symbol=order.symbol):
            for sibling in siblings:
                self._fill(sibling, sibling.remaining, price)
            return
        for sibling in siblings:
            sibling.active = False  # what is shown may lag, but it can no longer trade
            self.file(sibling)
            self.later(DueKind.LEG_CANCEL, self.draws.latency(self.switches.leg_cancel), sibling)

    def _fill_rest(self, order: Order) -> None:
        price = self.mark(order.symbol)
        if order.working and price is not None:
            limit = limit_of(order)
            self._fill(order, order.remaining, price if within(limit, order.side, price) else limit or price)

    # ------------------------------------------------------------------ endings

    def finish(self, order: Order, status: Status, *, untold: bool = False) -> bool:
        """End an order that is not over; true when it was this. The stream is told unless `untold`."""
        if order.terminal:
            return False
        order.status = status
        order.active = False
        if status is Status.CANCELED:
            order.canceled_at = self.now
        elif status is Status.EXPIRED:
            order.expired_at = self.now
        elif status is Status.REJECTED:
            order.failed_at = self.now
        self.file(order)
        if not untold:
            self.tell(order, status.value)
        return True

    def _cancel(self, order: Order) -> None:
        if order.terminal:
            return
        if self.faults.take(FaultKind.CANCEL_REJECT, **self.facts(order)):
            order.status = order.resting or Status.NEW
            self.file(order)
            self.tell(order, "order_cancel_rejected")
            return
        self.finish(order, Status.CANCELED)
        linked_orders.orphan(self, order)

    def _cancel_leg(self, order: Order) -> None:
        target_sold = any(
            other.role is Role.TARGET and other.status is Status.FILLED for other in self.book.siblings(order)
        )
        self.finish(order, Status.CANCELED, untold=target_sold and self.switches.hide_sibling_cancel)

    def _expire(self, order: Order) -> None:
        """The order's time is over, and its legs' with it."""
        by_venue = self.switches.expire_as_canceled or order.time_in_force in auctions.BY_THE_VENUE
        status = Status.CANCELED if by_venue else Status.EXPIRED
        for each in (order, *self.book.legs(order)):
            self.finish(each, status)

    def _replace(self, old: Order, new: Order) -> None:
        """The venue answers a replacement: the new order works on, or nothing has changed."""
        refused = self.faults.take(FaultKind.REPLACE_REJECT, **self.facts(old)) is not None
        new.filled_qty, new.filled_value = old.filled_qty, old.filled_value
        if old.is_exit and new.remaining > linked_orders.free_of_others(self, old):
            refused = True  # its sibling has sold some in the meantime
        if refused or old.terminal or new.terminal or new.remaining <= 0:
            new.filled_qty = new.filled_value = Decimal(0)
            self.finish(new, Status.REJECTED)
            old.replaced_by = None
            if not old.terminal:
                old.status = old.resting or Status.NEW
            self.file(old)
            self.tell(old, "order_replace_rejected")
            return
        new.carried_qty = old.filled_qty
        new.parent_id = old.parent_id  # the parent may itself have been replaced in the meantime
        new.acknowledged, new.active, new.elected = True, old.active, old.elected
        new.status = old.resting or Status.NEW
        if new.status is Status.NEW and new.filled_qty:
            new.status = Status.PARTIALLY_FILLED
        linked_orders.swap_leg(self, old, new)
        linked_orders.supersede(self, old, new)
        self.file(new)
        self.tell(new, "new")
        linked_orders.resize(self, new)
        self.later(DueKind.ARRIVE, self.draws.latency(self.switches.arrive), new)

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence
