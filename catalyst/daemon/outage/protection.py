"""Outage protection: keeps positions protected during a database outage.

It derives the positions from the last known state and from our orders at the broker, so a position that opens during
the outage is monitored too, with the stop and target of its entry. It protects unprotected shares through the spool:
the rest of a partly filled entry is cancelled after its grace, and an OCO is placed for exactly the shares held.
Positions past their time limit are exited. The spool import records all this in the database afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Priority
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.outage.exits import OutageExit, OutageFlatResult
from catalyst.daemon.outage.snapshot import OutageSnapshot
from catalyst.daemon.outage.spool import SpoolEntryKind
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.errors import BrokerError, DuplicateOrder, OrderRejected
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import PositionSide, Purpose, side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.protection import (
    Protection,
    default_levels,
    exit_orders_of_reports,
    protection_of,
)
from catalyst.domain.protection_step import (
    HeldShares,
    ProtectionAction,
    ProtectionRules,
    ProtectionStep,
    Refusal,
    StateSince,
    next_protection_step,
)
from catalyst.domain.report import OrderReport, OrderRequest, PositionReport
from catalyst.domain.rows import OrderRow, PositionRow

log = structlog.get_logger()

CLIENT_ID_ROLE: Final = "zp"  # protection sent during a database outage
# The broker's lists may lag, so two reads at least 2 s apart must show shares without a stop.
# Without rows it is not certain whose exits the broker shows, so none is cancelled.
RULES: Final = ProtectionRules(may_exit=True, may_cancel_exits=False, confirm_after=timedelta(seconds=2))
# The process ends: nothing else can be done for shares that could not be sold.
ENDING_RULES: Final = ProtectionRules(
    may_exit=False, may_cancel_exits=False, time_in_force="gtc", must_outlive_session=True
)
PROTECT_INTERVAL: Final = timedelta(seconds=1)
EXIT_TIMEOUT: Final = timedelta(seconds=30)
LOG_INTERVAL: Final = timedelta(seconds=60)
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class OvernightStops:
    """Symbols of our shares by their stops in the last read of the broker; `is_read` is false when it failed.

    `ending`: the stop is a day order. `unexplained`: our order works, but no fill of ours explains the shares held.
    """

    is_read: bool
    lasting: frozenset[str] = frozenset()
    ending: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    unexplained: frozenset[str] = frozenset()


@dataclass
class ShownStops:
    """What one read of the broker showed of the stops.

    `unprotected`: ids of the positions without a working stop. `unexplained`: symbols held in which an order of ours
    works, but without a position; only without rows. `ending`: symbols whose stop is a day order.
    """

    unprotected: set[int] = field(default_factory=set)
    unexplained: set[str] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)


@dataclass
class OutageProtection:
    """Protects positions from broker reads, without the database. `shown`: what the last read showed."""

    outage_exit: OutageExit
    clock: Clock
    config: CurrentConfig
    shown: ShownStops = field(default_factory=ShownStops)
    _placeholder_ids: dict[str, int] = field(default_factory=dict)  # symbol → negative id instead of a row's
    _states: StateSince[str] = field(default_factory=StateSince[str])  # by symbol
    _partial_fill_since: dict[str, datetime] = field(default_factory=dict)  # by broker id of the entry
    # By symbol: the refusals since the last accepted order.
    _refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    _unprotectable: dict[str, str] = field(default_factory=dict)  # by symbol: the last refusal
    _refused_count: dict[str, int] = field(default_factory=dict)  # by symbol: part of the next order's id
    _unprotected_since: dict[str, datetime] = field(default_factory=dict)  # by symbol
    _over_budget_logged_at: dict[str, datetime] = field(default_factory=dict)  # by symbol
    # By symbol: stop and target of shares without levels, from the price at which they were first seen.
    _default_levels: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
    _rules: ProtectionRules = RULES
    _outage_since: datetime | None = None

    async def check(
        self, outage_since: datetime
    ) -> tuple[Sequence[PositionRow], Mapping[int, Sequence[OrderRow]]]:
        """Do one step of protection for each unprotected position of the outage that began at `outage_since`.

        Return our positions with the broker's quantities, and the last known order rows by position id. When the broker
        cannot be read either, return the last known state without any step.
        """
        self._begin_outage(outage_since)
        last_known = self.outage_exit.last_known
        snapshot = await self.outage_exit.read_broker()
        if snapshot is None:
            return list(last_known.positions), last_known.orders
        return await self._protect(snapshot), last_known.orders

    def _begin_outage(self, since: datetime) -> None:
        """Forget what an earlier outage showed."""
        if since != self._outage_since:
            self._outage_since = since
            self._forget_symbols_except(set())

    async def _protect(self, snapshot: OutageSnapshot) -> list[PositionRow]:
        """Do one step for each unprotected position that the broker shows; return our positions."""
        held: list[PositionRow] = []
        self.shown.unexplained.clear()
        self.shown.ending.clear()
        for symbol in sorted(self.outage_exit.our_symbols(snapshot) & snapshot.positions.keys()):
            position = self._reconstruct_position(snapshot, snapshot.positions[symbol])
            if position is not None:
                held.append(self._with_levels(position, snapshot.positions[symbol]))
            elif self.outage_exit.without_rows:
                self.shown.unexplained.add(symbol)
        if (
            snapshot.unreadable_rows
        ):  # a position that is not shown may exist: its stop level is still watched
            held += [
                row for row in self.outage_exit.last_known.positions if row.symbol not in snapshot.positions
            ]
        self._forget_symbols_except({position.symbol for position in held})
        self.shown.unprotected.clear()
        for position in held:
            if position.symbol in snapshot.positions:
                await self._protect_position(snapshot, position)
        return held

    async def protect_overnight(self, within: timedelta) -> OvernightStops:
        """Place a good-till-cancelled stop for each share of ours that has none, because the process ends.

        Return what the last read shows when the broker shows one for each, or after `within`.
        """
        self._rules = ENDING_RULES
        began = self.clock.now()
        self._begin_outage(began)
        while True:
            snapshot = await self.outage_exit.read_broker()
            held = [] if snapshot is None else await self._protect(snapshot)
            is_done = snapshot is not None and not self.shown.unprotected and not self.shown.unexplained
            if is_done or self.clock.now() - began >= within:
                return _overnight_stops(self, held, is_read=snapshot is not None)
            await self.clock.sleep(PROTECT_INTERVAL)

    def _with_levels(self, position: PositionRow, held: PositionReport) -> PositionRow:
        """Return the position with a stop and a target; without a plan they are the configured percentages."""
        if position.stop_loss is not None and position.take_profit is not None:
            return position
        stop, target = self._default_levels.setdefault(
            position.symbol,
            default_levels(
                position.side,
                held.current_price or position.entry_price,
                stop_pct=self.config.positions.default_stop_loss_pct,
                target_pct=self.config.positions.default_take_profit_pct,
            ),
        )
        return replace(
            position, stop_loss=position.stop_loss or stop, take_profit=position.take_profit or target
        )

    def _forget_symbols_except(self, symbols: set[str]) -> None:
        self._states.keep(symbols)
        for by_symbol in (
            self._refusals,
            self._unprotectable,
            self._refused_count,
            self._unprotected_since,
            self._over_budget_logged_at,
            self._default_levels,
        ):
            for symbol in by_symbol.keys() - symbols:
                del by_symbol[symbol]

    def _reconstruct_position(self, snapshot: OutageSnapshot, held: PositionReport) -> PositionRow | None:
        """Return the last known position with the broker's quantity, or else one built from its entry order.

        None when neither explains the shares.
        """
        side = PositionSide.LONG if held.quantity > 0 else PositionSide.SHORT
        for row in self.outage_exit.last_known.positions:
            if row.symbol == held.symbol and row.side is side:
                return replace(row, quantity=abs(held.quantity))
        entry = self._latest_entry(snapshot, held.symbol, side)
        if entry is None:
            return None
        placeholder_id = self._placeholder_ids.setdefault(held.symbol, -1 - len(self._placeholder_ids))
        entry_time = entry.submitted_at or self.clock.now()
        stop = next((leg.stop_price for leg in entry.legs if leg.order_type != "limit"), None)
        target = next((leg.limit_price for leg in entry.legs if leg.order_type == "limit"), None)
        quantity = (
            self.outage_exit.exit_quantity(snapshot, held)
            if self.outage_exit.without_rows
            else abs(held.quantity)
        )
        price = held.entry_price or entry.filled_avg_price
        if price is None or quantity == 0:
            return None
        return PositionRow(
            position_id=placeholder_id, cycle_id=None, security_id=0, symbol=held.symbol, sector=None, side=side,
            quantity=quantity, entered_qty=quantity, cost=quantity * price, exited_qty=ZERO, proceeds=ZERO,
            entry_price=price, stop_loss=stop, take_profit=target, entry_time=entry_time, exit_time=None, status="open",
            realized_pnl=None, unrealized_pnl=None, last_price=None, protected_at=None, unprotected_seconds=ZERO,
            close_reason=None, carried=False,
        )  # fmt: skip

    def _latest_entry(self, snapshot: OutageSnapshot, symbol: str, side: PositionSide) -> OrderReport | None:
        """Return our latest entry with a fill; None when the broker shows none."""
        entry_side = side_for(side, Purpose.ENTRY)
        entries = [
            order
            for order in snapshot.top_level_orders
            if order.symbol == symbol
            and order.side is entry_side
            and self.outage_exit.is_own(order)
            and order.filled_qty
        ]
        return entries[-1] if entries else None

    async def _protect_position(self, snapshot: OutageSnapshot, position: PositionRow) -> None:
        """Do one step towards a stop for exactly the shares held."""
        symbol, now = position.symbol, self.clock.now()
        state = protection_of(
            position.quantity, exit_orders_of_reports(snapshot.counted_parents, symbol, position.side)
        )
        working = snapshot.working_orders(symbol)
        entries = [order for order in working if self._is_own_entry(order, position.side)]
        expires_today = any(order.time_in_force == "day" for order in working if order not in entries)
        if expires_today:
            self.shown.ending.add(symbol)
        shares = HeldShares(
            expires_today=expires_today,
            state=state,
            since=self._states.update(symbol, state, now),
            exits_working=len(working) > len(entries),
            refusals=self._refusals.get(symbol, ()),
            entry_since=min(
                (self._partial_fill_since.setdefault(entry.broker_id, now) for entry in entries), default=None
            ),
            entry_grace=timedelta(seconds=self.config.execution.partial_entry_grace_seconds),
        )
        step = next_protection_step(shares, self._rules, now)
        if state in (Protection.PROTECTED, Protection.EXCESS):
            self._unprotected_since.pop(symbol, None)
        else:
            self.shown.unprotected.add(position.position_id)
            self._log_over_budget(position, self._unprotected_since.setdefault(symbol, now), now)
        if step.action is not ProtectionAction.EXIT:
            self._unprotectable.pop(symbol, None)
        match step.action:
            case ProtectionAction.CANCEL_ENTRY:
                for entry in entries:
                    await self.outage_exit.cancel(entry)
            case ProtectionAction.PLACE:
                if not self._has_in_flight_request(symbol):
                    async with self.outage_exit.lock:
                        await self._place_protection(snapshot, position, step)
            case ProtectionAction.EXIT:
                self._unprotectable[symbol] = step.reason
            case _:
                return  # nothing to do now

    def _log_over_budget(self, position: PositionRow, since: datetime, now: datetime) -> None:
        """Log, once a minute, shares that are unprotected for longer than the budget.

        The alert follows when the database is back, measured from the imported rows.
        """
        budget = timedelta(seconds=self.config.protection.unprotected_budget_seconds)
        logged_at = self._over_budget_logged_at.get(position.symbol)
        if now - since <= budget or (logged_at is not None and now - logged_at < LOG_INTERVAL):
            return
        self._over_budget_logged_at[position.symbol] = now
        log.critical(
            "unprotected_over_budget",
            symbol=position.symbol,
            quantity=str(position.quantity),
            seconds=str((now - since).total_seconds()),
            budget=str(budget.total_seconds()),
        )

    def _has_in_flight_request(self, symbol: str) -> bool:
        """Return true while a request of ours in the symbol may still arrive."""
        return any(row.symbol == symbol for row in self.outage_exit.requests.unresolved.values())

    async def _place_protection(
        self, snapshot: OutageSnapshot, position: PositionRow, step: ProtectionStep
    ) -> None:
        """Write the order of the step to the spool and send it; its id is derived from what the broker shows.

        It is sent also when the spool cannot hold it: the next start adopts an order with our id that has no row.
        """
        symbol, held = position.symbol, snapshot.positions[position.symbol]
        quantity = self.outage_exit.exit_quantity(snapshot, held)
        if quantity == 0 or abs(held.available) < quantity:
            return
        order_states = sorted(f"{order.broker_id}:{order.filled_qty}" for order in snapshot.orders_of(symbol))
        refusals = self._refusals.setdefault(symbol, [])
        attempt = self._refused_count.get(symbol, 0)
        base = f"{symbol}|{quantity}|{'|'.join(order_states)}"
        cid = client_order_id(self.outage_exit.installation, base, CLIENT_ID_ROLE, attempt)
        is_stop = step.order_class == "simple"
        purpose = Purpose.STOP_LOSS if is_stop else Purpose.TAKE_PROFIT
        target = None if is_stop else position.take_profit
        request = OrderRequest(
            client_order_id=cid,
            symbol=symbol,
            side=side_for(position.side, purpose),
            quantity=quantity,
            order_type="stop" if is_stop else "limit",
            time_in_force=step.time_in_force,
            order_class=step.order_class,
            limit_price=target,
            stop_price=position.stop_loss if is_stop else None,
            take_profit=target,
            stop_loss=None if is_stop else position.stop_loss,
        )
        self.outage_exit.requests.symbols.add(SymbolReason.OUTAGE_EXIT, symbol)
        self.outage_exit.spool.write(
            SpoolEntryKind.PROTECT,
            self.clock.now(),
            client_order_id=cid,
            symbol=symbol,
            position_side=position.side,
            quantity=str(quantity),
            purpose=purpose,
            stop=str(position.stop_loss),
            target="" if target is None else str(target),
            time_in_force=step.time_in_force,
            reason=f"stop and target for the {quantity} shares held",
        )
        log.critical(
            "outage_protection_placed", symbol=symbol, qty=str(quantity), stop=str(position.stop_loss)
        )
        try:
            await self.outage_exit.broker.submit(request, priority=Priority.EXIT)
        except DuplicateOrder:
            refusals.clear()
            self.outage_exit.record_response(cid, "accepted", "the broker had accepted it before")
        except OrderRejected as error:
            log.warning("order_rejected", symbol=symbol, code=error.code, reason=error.text)
            self.outage_exit.record_response(cid, "rejected", str(error))
            self._refused_count[symbol] = attempt + 1
            refusals.append(Refusal(f"{error.code}: {error.text}", self.clock.now()))
        except BrokerError as error:  # sent again with the same id, unless the next read shows it
            log.warning("order_unconfirmed", symbol=symbol, error=str(error))
            self.outage_exit.record_response(cid, "unknown", str(error))
        else:
            refusals.clear()
            self.outage_exit.record_response(cid, "accepted", "")

    async def exit_unprotectable(self, held: Sequence[PositionRow]) -> None:
        """Exit the positions for which the broker accepts no stop."""
        for position in held:
            if (refusal := self._unprotectable.get(position.symbol)) is None:
                continue
            reason = f"{CloseReason.EMERGENCY_STOP}: {position.symbol} cannot be protected: {refusal}"
            result = await self.exit_position(position, reason)
            if result.flat:
                self._refusals.pop(position.symbol, None)
                self._unprotectable.pop(position.symbol, None)

    async def exit_overdue(self, held: Sequence[PositionRow]) -> None:
        """Exit the positions held longer than `max_hold_time_minutes`. Call it only while the market is open.

        The age counts from the last known entry time, or from the submission of the entry.
        """
        max_hold_time = timedelta(minutes=self.config.positions.max_hold_time_minutes)
        for position in held:
            hold_time = self.clock.now() - position.entry_time
            if hold_time < max_hold_time:
                continue
            minutes = int(hold_time.total_seconds() // 60)
            await self.exit_position(
                position, f"{CloseReason.TIME_LIMIT}: {position.symbol} held {minutes} minutes"
            )

    def must_exit_all(self, close: datetime) -> bool:
        """Return true from `session.flat_before_close_minutes` before the close, unless positions are held over it."""
        minutes = timedelta(minutes=self.config.session.flat_before_close_minutes)
        return self.config.positions.close_all_at_market_close and self.clock.now() >= close - minutes

    async def exit_position(self, position: PositionRow, reason: str) -> OutageFlatResult:
        """Exit one position through the spool; return after EXIT_TIMEOUT at the latest."""
        return await self.outage_exit.exit_symbol(
            position.symbol, reason=reason, by="stop_monitor", within=EXIT_TIMEOUT
        )

    def _is_own_entry(self, order: OrderReport, side: PositionSide) -> bool:
        is_entry = order.side is side_for(side, Purpose.ENTRY)
        return is_entry and self.outage_exit.is_own(order)


def _overnight_stops(
    protection: OutageProtection, held: Sequence[PositionRow], *, is_read: bool
) -> OvernightStops:
    if not is_read:
        return OvernightStops(is_read=False)
    missing = frozenset(row.symbol for row in held if row.position_id in protection.shown.unprotected)
    protected = frozenset(row.symbol for row in held) - missing
    ending = protected & protection.shown.ending
    unexplained = frozenset(protection.shown.unexplained)
    return OvernightStops(True, protected - ending, ending, missing, unexplained)
