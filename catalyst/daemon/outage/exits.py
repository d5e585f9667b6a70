"""Outage exit: exits positions during a database outage, from the last known state and what the broker shows.

It repeats cancel, read and sell until the broker shows no order and no position of ours; the spool is the only record.
Each client order id is derived from what the broker shows, so that a repetition, even after a crash, sends the same id:
the broker accepts each id once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock, TurnsLock
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.last_known_state import LastKnownState
from catalyst.daemon.orders.open_requests import OpenRequests
from catalyst.daemon.outage.snapshot import OutageSnapshot, read_orders
from catalyst.daemon.outage.spool import Spool, SpoolEntryKind
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.errors import BrokerError, DuplicateOrder, NotFound, OrderRejected
from catalyst.domain.ids import client_order_id, is_of_another_catalyst, is_ours, role_of
from catalyst.domain.order import PositionSide, Purpose, Side, side_for
from catalyst.domain.outcome import MAX_IN_FLIGHT_TIME, NotFoundCount, may_still_arrive
from catalyst.domain.own_shares import own_entries
from catalyst.domain.position import whole_shares
from catalyst.domain.report import (
    OrderReport,
    OrderRequest,
    PositionReport,
    fills_by_order,
)
from catalyst.domain.rows import OrderRow
from catalyst.flat_proof_files import FlatProofFiles

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=1)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
ORDER_LOOKBACK: Final = timedelta(days=1)  # our orders of this time also determine our symbols and shares
CLIENT_ID_ROLE: Final = "z"
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class OutageFlatResult:
    """Counts of our working orders and positions at the broker; None where it could not be read.

    `flat` is true only when both are zero, no request of ours may still arrive, and the spool holds the proof.
    """

    flat: bool
    orders: int | None
    positions: int | None


@dataclass
class OutageExit:
    """Exits our positions without the database; one exit runs at a time, under `lock`.

    `requests` supplies the requests that may still arrive, and gets the symbols closed here. `without_rows`: nothing
    was read from the database, so only our orders tell what is ours, and an unknown request of ours may still arrive.
    """

    broker: Broker
    requests: OpenRequests
    last_known: LastKnownState
    spool: Spool
    proofs: FlatProofFiles
    clock: Clock
    installation: str
    order_lookback: timedelta = ORDER_LOOKBACK
    without_rows: bool = False
    lock: TurnsLock = field(default_factory=TurnsLock)
    _cancels: CancelThrottle[str] = field(default_factory=lambda: CancelThrottle(CANCEL_RETRY_AFTER))
    _accepted_orders: dict[str, str] = field(default_factory=dict)  # client order id → symbol
    _not_found: dict[int, NotFoundCount] = field(default_factory=dict)  # by order id
    _flat_since: datetime | None = None  # since when each read showed nothing of ours

    async def flatten(
        self,
        *,
        latch: str | None,
        reason: str,
        by: str,
        within: timedelta,
        market_open: bool,
        purpose: Purpose = Purpose.FLATTEN,
        keep_running: bool = False,
        latch_until: datetime | None = None,
    ) -> OutageFlatResult:
        """Exit everything that is ours; return when the account is proven flat, or after `within`.

        With `market_open` false, only orders that protect no shares are cancelled. `keep_running`: this process goes
        on, and sends no other order in the exited symbols until the spool is imported. `latch`: also write it to the
        spool; with `latch_until` it ends with the first session after it, and is not set when nothing was to exit.
        """
        async with self.lock:
            log.critical("outage_flatten", reason=reason, by=by, spool=str(self.spool.path))
            if latch is not None:
                until = None if latch_until is None else latch_until.isoformat()
                self.spool.write(
                    SpoolEntryKind.LATCH, self.clock.now(), name=latch, reason=reason, by=by, until=until
                )
            symbols = self.requests.symbols
            previous_symbols = symbols.symbols(SymbolReason.OUTAGE_EXIT)
            if keep_running:
                symbols.add(SymbolReason.OUTAGE_EXIT, *self.last_known.symbols)
                await self.requests.wait_until_idle(MAX_IN_FLIGHT_TIME)
            result = await self._exit_until_flat(None, reason, by, within, purpose, market_open=market_open)
            if keep_running and not (result.flat and self.spool.pending):
                # Not proven: these symbols may be exited again, with or without the database.
                symbols.set_symbols(
                    SymbolReason.OUTAGE_EXIT, symbols.symbols(SymbolReason.OUTAGE_EXIT) & previous_symbols
                )
            return result

    async def exit_symbol(self, symbol: str, *, reason: str, by: str, within: timedelta) -> OutageFlatResult:
        """Exit one symbol while the market is open; return when it is flat, or after `within`.

        After that, no other order is sent in it until the spool is imported.
        """
        async with self.lock:
            log.critical("outage_exit", symbol=symbol, reason=reason, spool=str(self.spool.path))
            self.requests.symbols.add(SymbolReason.OUTAGE_EXIT, symbol)
            await self.requests.wait_until_idle(MAX_IN_FLIGHT_TIME, symbol)
            result = await self._exit_until_flat({symbol}, reason, by, within, Purpose.EXIT, market_open=True)
            if not result.flat:
                # It may be exited again, with or without the database.
                self.requests.symbols.remove(SymbolReason.OUTAGE_EXIT, symbol)
            return result

    async def exit_contended_symbol(self, symbol: str, reason: str, by: str, within: timedelta) -> bool:
        """Exit a symbol whose rows another session keeps locked; return true when it is flat."""
        result = await self.exit_symbol(symbol, reason=reason, by=by, within=within)
        return result.flat

    async def _exit_until_flat(
        self,
        only_symbols: set[str] | None,
        reason: str,
        by: str,
        within: timedelta,
        purpose: Purpose,
        *,
        market_open: bool,
    ) -> OutageFlatResult:
        """Cancel and sell until these symbols are flat (None: all of ours) or `within` is over; record the proof."""
        deadline = self.clock.now() + within
        recorded_symbols: set[str] = set()
        result = OutageFlatResult(False, None, None)
        while True:
            snapshot = await self.read_broker()
            if snapshot is None:
                self._flat_since, result = None, replace(result, flat=False)
            else:
                symbols = only_symbols if only_symbols is not None else self.our_symbols(snapshot)
                result = await self._count_remaining(snapshot, symbols)
                if self._is_confirmed(result):
                    break
                for symbol in sorted(symbols):
                    if symbol not in recorded_symbols and (
                        snapshot.working_orders(symbol) or symbol in snapshot.positions
                    ):
                        recorded_symbols.add(symbol)
                        self.spool.write(
                            SpoolEntryKind.EXIT_BEGIN,
                            self.clock.now(),
                            symbol=symbol,
                            reason=reason,
                            by=by,
                            purpose=purpose,
                        )
                    await self._cancel_or_sell(snapshot, symbol, purpose, reason, market_open=market_open)
            if self.clock.now() >= deadline and not result.flat:
                break
            await self.clock.sleep(POLL_INTERVAL)
        return self._record_proof(result, reason, by, only_symbols)

    def _is_confirmed(self, result: OutageFlatResult) -> bool:
        """Return true when it is flat, without rows for as long as a request of a dead daemon may still arrive."""
        now = self.clock.now()
        self._flat_since = (self._flat_since or now) if result.flat else None
        confirm_after = MAX_IN_FLIGHT_TIME if self.without_rows else timedelta(0)
        return self._flat_since is not None and now - self._flat_since >= confirm_after

    def _record_proof(
        self, result: OutageFlatResult, reason: str, by: str, only_symbols: set[str] | None
    ) -> OutageFlatResult:
        """Write the proof to the spool, and for the whole account to a proof file; return what could be recorded.

        A result that the spool does not hold is not flat.
        """
        at = self.clock.now()
        facts = {
            "flat": result.flat,
            "broker_orders": result.orders,
            "broker_positions": result.positions,
            "cause": reason,
            "by": by,
            "symbol": None if only_symbols is None else ", ".join(sorted(only_symbols)),
            "journal": self.proofs.journal_head,
        }
        file = self.proofs.write(at, {**facts, "database": "unavailable"}) if only_symbols is None else None
        written = self.spool.write(
            SpoolEntryKind.PROOF, at, **facts, file=None if file is None else file.name
        )
        log.log(
            20 if result.flat and written else 50,
            "outage_flatten_finished",
            flat=result.flat,
            broker_orders=result.orders,
            broker_positions=result.positions,
            proof=str(self.spool.path) if written else None,
            file=None if file is None else str(file),
        )
        return result if written else OutageFlatResult(False, result.orders, result.positions)

    # -- reading

    async def read_broker(self) -> OutageSnapshot | None:
        """Read the broker's orders and positions; None when either read fails."""
        try:
            after = self.clock.now() - self.order_lookback
            all_parents = await read_orders(self.broker, after, with_older=self.without_rows)
            positions = await self.broker.positions(priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("broker_read_failed", error=str(error))
            return None
        stored_ids = {row.alpaca_order_id for rows in self.last_known.orders.values() for row in rows}
        parents = [
            parent
            for parent in all_parents
            if parent.broker_id in stored_ids
            or self.is_own(parent)
            or not is_of_another_catalyst(parent.client_order_id, self.installation)
        ]
        all_orders = tuple(order for parent in parents for order in (parent, *parent.legs))
        own_ids = frozenset(order.broker_id for order in self._own_orders(all_orders, set()))
        return OutageSnapshot(
            all_orders,
            tuple(parents),
            {position.symbol: position for position in positions if whole_shares(position.quantity) != 0},
            all_parents.unreadable_rows + positions.unreadable_rows,
            own_ids,
            only_own=self.without_rows,
        )

    def is_own(self, order: OrderReport) -> bool:
        """Return true when the order has an id of this installation, or one of a working order of the database."""
        return (
            is_ours(order.client_order_id, self.installation)
            or order.client_order_id in self.last_known.own_ids
        )

    def our_symbols(self, snapshot: OutageSnapshot) -> set[str]:
        """Return the symbols of the last known state, of our orders at the broker and of unresolved requests."""
        order_symbols = {order.symbol for order in snapshot.top_level_orders if self.is_own(order)}
        if self.without_rows:
            order_symbols = {
                symbol
                for symbol in order_symbols
                if snapshot.own_net(symbol) or snapshot.working_orders(symbol)
            }
        unresolved_symbols = {row.symbol for row in self.requests.unresolved.values()}
        return self.last_known.symbols | order_symbols | unresolved_symbols

    async def _count_remaining(self, snapshot: OutageSnapshot, symbols: set[str]) -> OutageFlatResult:
        working = sum(len(snapshot.working_orders(symbol)) for symbol in symbols)
        if (
            self.without_rows
        ):  # the positions may lag behind our fills; other shares of the symbol are not ours
            held = sum(1 for symbol in symbols if snapshot.own_net(symbol))
        else:
            held = sum(1 for symbol in symbols if symbol in snapshot.positions)
        nothing_left = not working and not held and not snapshot.unreadable_rows
        flat = nothing_left and not await self._may_still_arrive(snapshot, symbols)
        return OutageFlatResult(flat, working, held)

    async def _may_still_arrive(self, snapshot: OutageSnapshot, symbols: set[str]) -> bool:
        """Return true while an order of ours that the broker does not show may still reach it."""
        shown_ids = {order.client_order_id for order in snapshot.orders}
        pending = bool(
            [
                cid
                for cid, symbol in self._accepted_orders.items()
                if symbol in symbols and cid not in shown_ids
            ]
        )
        for row in list(self.requests.unresolved.values()):
            if row.symbol not in symbols or row.client_order_id in shown_ids:
                continue
            since_sent = self.clock.now() - (row.last_attempt_at or row.created_at)
            found = await _is_at_broker(self.broker, row)
            may_arrive = may_still_arrive(since_sent, in_flight=self.requests.is_in_flight(row.order_id))
            not_found = self._not_found.get(row.order_id, NotFoundCount())
            not_found = not_found.after_lookup(found, may_arrive=may_arrive)
            self._not_found[row.order_id] = not_found
            # An order that was found is in the next read; a failed lookup proves nothing.
            pending |= found is not False or not not_found.proves_absence
        return pending

    # -- cancelling and selling

    async def _cancel_or_sell(
        self, snapshot: OutageSnapshot, symbol: str, purpose: Purpose, reason: str, *, market_open: bool
    ) -> None:
        """Do one step for one symbol: cancel its working orders, or else sell its position."""
        held = snapshot.positions.get(symbol)
        if held is not None and not market_open and not self.without_rows:
            return  # nothing can be sold: the protective orders stay
        working = [order for order in snapshot.working_orders(symbol) if not self._is_outage_exit(order)]
        keeps_exits = self.without_rows and not snapshot.may_cancel_own_exits(symbol, market_open=market_open)
        if keeps_exits:
            entries = own_entries(snapshot.orders_of(symbol), snapshot.own_ids)
            working = [order for order in working if order.broker_id in entries]
        for order in working:
            await self.cancel(order)
        if held is None or keeps_exits or working or len(snapshot.working_orders(symbol)) > len(working):
            return
        shown_ids = {order.client_order_id for order in snapshot.orders}
        if any(
            cid not in shown_ids
            for cid, order_symbol in self._accepted_orders.items()
            if order_symbol == symbol
        ):
            return  # the broker accepted an order that its list does not show yet
        quantity = self.exit_quantity(snapshot, held)
        others = snapshot.others_that_reserve(held, quantity) if self.without_rows else []
        for order in others:
            await self.cancel(order)
        if quantity > 0 and not others:
            await self._send_exit_order(snapshot, held, quantity, purpose, reason)

    async def cancel(self, order: OrderReport) -> None:
        """Write a spool entry and request the cancel of one order, at most once every CANCEL_RETRY_AFTER."""
        now = self.clock.now()
        if not self._cancels.acquire(order.broker_id, now):
            return
        self.spool.write(SpoolEntryKind.CANCEL, now, symbol=order.symbol, broker_id=order.broker_id)
        try:
            await self.broker.cancel(order.broker_id)
        except (OrderRejected, NotFound) as error:
            log.info("cancel_rejected", symbol=order.symbol, reason=str(error))
        except BrokerError as error:  # outcome unknown or not sent: the next read shows it
            log.warning("cancel_unconfirmed", symbol=order.symbol, error=str(error))

    def exit_quantity(self, snapshot: OutageSnapshot, held: PositionReport) -> Decimal:
        """Return the shares to sell (or buy back): at most the broker's quantity and what our own fills explain.

        The broker's positions may lag behind its fills, so shares that its orders have sold are not sold again. A
        position older than ORDER_LOOKBACK counts with its last known quantity, less the fills of outage exits.
        """
        if self.without_rows:
            return snapshot.own_held(held)
        orders = snapshot.orders_of(held.symbol)
        stored_rows = (row for rows in self.last_known.orders.values() for row in rows)
        own_orders = list(
            self._own_orders(orders, {row.alpaca_order_id for row in stored_rows if row.alpaca_order_id})
        )
        is_older = any(
            row.symbol == held.symbol and row.entry_time < self.clock.now() - self.order_lookback
            for row in self.last_known.positions
        )
        available_qty = abs(whole_shares(held.available)) or abs(whole_shares(held.quantity))
        if is_older:
            exited_qty = sum((order.filled_qty for order in own_orders if self._is_outage_exit(order)), ZERO)
            last_known_qty = sum(
                (
                    position.quantity
                    for position in self.last_known.positions
                    if position.symbol == held.symbol
                ),
                ZERO,
            )
            return min(available_qty, max(last_known_qty - exited_qty, ZERO))
        net_qty = sum(
            (
                quantity if order.side is Side.BUY else -quantity
                for order, quantity in fills_by_order(own_orders)
            ),
            ZERO,
        )
        if (net_qty > 0) is not (held.quantity > 0):
            return ZERO
        return min(available_qty, abs(net_qty))

    async def _send_exit_order(
        self, snapshot: OutageSnapshot, held: PositionReport, quantity: Decimal, purpose: Purpose, reason: str
    ) -> None:
        side = PositionSide.LONG if held.quantity > 0 else PositionSide.SHORT
        order_states = sorted(
            f"{order.broker_id}:{order.filled_qty}" for order in snapshot.orders_of(held.symbol)
        )
        base = f"{held.symbol}|{quantity}|{'|'.join(order_states)}"
        cid = client_order_id(self.installation, base, CLIENT_ID_ROLE, 0)
        request = OrderRequest(
            client_order_id=cid,
            symbol=held.symbol,
            side=side_for(side, purpose),
            quantity=quantity,
            order_type="market",
            time_in_force="day",
            order_class="simple",
            limit_price=None,
            stop_price=None,
            take_profit=None,
            stop_loss=None,
        )
        self.spool.write(
            SpoolEntryKind.EXIT_ORDER,
            self.clock.now(),
            client_order_id=cid,
            symbol=held.symbol,
            position_side=side,
            quantity=str(quantity),
            purpose=purpose,
            reason=reason,
        )
        try:
            await self.broker.submit(request, priority=Priority.EXIT)
        except OrderRejected as error:
            log.warning("order_rejected", symbol=held.symbol, code=error.code, reason=error.text)
            self.record_response(cid, "rejected", str(error))
        except DuplicateOrder:
            self._accepted_orders[cid] = held.symbol
            self.record_response(cid, "accepted", "the broker had accepted it before")
        except BrokerError as error:  # sent again with the same id, unless the next read shows the order
            log.warning("order_unconfirmed", symbol=held.symbol, error=str(error))
            self.record_response(cid, "unknown", str(error))
        else:
            self._accepted_orders[cid] = held.symbol
            self.record_response(cid, "accepted", "")

    def record_response(self, cid: str, outcome: str, text: str) -> None:
        """Write the broker's response to the spool; `outcome` is accepted, rejected or unknown."""
        self.spool.write(
            SpoolEntryKind.RESPONSE, self.clock.now(), client_order_id=cid, outcome=outcome, text=text
        )

    def _is_outage_exit(self, order: OrderReport) -> bool:
        return (
            is_ours(order.client_order_id, self.installation)
            and role_of(order.client_order_id) == CLIENT_ID_ROLE
        )

    def _own_orders(self, orders: Sequence[OrderReport], own_broker_ids: set[str]) -> Iterator[OrderReport]:
        """Yield the orders with one of our ids or a stored broker id, their legs, and the orders that replaced one."""
        ids = set(own_broker_ids)
        for order in orders:
            is_own = self.is_own(order)
            if is_own or order.replaces in ids or order.broker_id in ids:
                ids |= {order.broker_id, *(leg.broker_id for leg in order.legs)}
                yield order


async def _is_at_broker(broker: Broker, row: OrderRow) -> bool | None:
    """Return true when the broker has the order, false when it has not, None when the lookup failed."""
    try:
        await broker.order_by_client_id(row.client_order_id, priority=Priority.EXIT)
    except NotFound:
        return False
    except BrokerError:
        return None
    return True
