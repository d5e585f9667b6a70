"""Leaving without the tables: from memory, from what the broker shows, and with the spool as the only record.

Used while the database is away. It cancels, reads and sells in a circle until the broker shows nothing of ours.
Every id it gives an order follows from what the broker shows, so that whoever repeats it, even after a death, gives
the same one: the broker takes an order once, however often it is sent.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.daemon.orders.last_known_state import LastKnownState
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.outage.spool import Spool, SpoolEntryKind
from catalyst.domain.errors import BrokerError, DuplicateOrder, NotFound, OrderRejected
from catalyst.domain.ids import client_order_id, is_ours
from catalyst.domain.order import PositionSide, Purpose, Side, side_for
from catalyst.domain.report import OrderReport, OrderRequest, PositionReport, is_working_report
from catalyst.flat_proof_files import FlatProofFiles

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=1)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
ORDER_LOOKBACK: Final = timedelta(days=1)  # an order of today names a symbol of ours, whatever memory holds
MAX_IN_FLIGHT_TIME: Final = timedelta(seconds=10)  # a request of ours may still be on its way that long
NOT_FOUND_LIMIT: Final = 3
CLIENT_ID_ROLE: Final = "z"
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class OutageFlatResult:
    """What the broker showed at the end. `flat` is true only when it was asked, showed nothing of ours, no request
    of ours may still arrive, and the spool holds that."""

    flat: bool
    orders: int | None
    positions: int | None


@dataclass(frozen=True, slots=True)
class OutageSnapshot:
    """The broker's own word: every order of the last day, legs beside their parents, and what is held."""

    orders: tuple[OrderReport, ...]
    top_level_orders: tuple[OrderReport, ...]
    positions: dict[str, PositionReport]

    def orders_of(self, symbol: str) -> list[OrderReport]:
        return [one for one in self.orders if one.symbol == symbol]

    def working_orders(self, symbol: str) -> list[OrderReport]:
        """What to cancel: a working order, or the working legs of one that is not; a leg ends with its parent."""
        found: list[OrderReport] = []
        for top in self.top_level_orders:
            if top.symbol == symbol:
                found += (
                    [top] if is_working_report(top) else [leg for leg in top.legs if is_working_report(leg)]
                )
        return found


@dataclass
class OutageExit:
    """One hand that leaves what is ours. `execution` is only asked what it may still have on its way."""

    broker: Broker
    submission: OrderSubmission
    last_known: LastKnownState
    spool: Spool
    proofs: FlatProofFiles
    clock: Clock
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _cancel_requested_at: dict[str, datetime] = field(default_factory=dict)
    _accepted_orders: dict[str, str] = field(
        default_factory=dict
    )  # client order id → symbol, of what the broker took
    _not_found_counts: dict[int, int] = field(
        default_factory=dict
    )  # rows the broker does not know: times it said so

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
    ) -> OutageFlatResult:
        """Leave everything that is ours; return when it is proven, or after `within`.

        With `selling` false (the market is shut) only what protects no share is cancelled. `lasting`: this process
        lives on, and nobody of it sends an order in what was left before the tables have heard.
        """
        async with self.lock:
            log.critical("outage_flatten", reason=reason, by=by, spool=str(self.spool.path))
            if latch is not None:
                self.spool.write(SpoolEntryKind.LATCH, self.clock.now(), name=latch, reason=reason, by=by)
            before = set(self.submission.outage_symbols)
            if keep_running:
                self.submission.outage_symbols |= self.last_known.symbols
                await self.submission.wait_until_idle(MAX_IN_FLIGHT_TIME)
            left = await self._exit_until_flat(None, reason, by, within, purpose, market_open=market_open)
            if keep_running and not (left.flat and self.spool.pending):
                self.submission.outage_symbols &= before  # it is tried again, with or without the tables
            return left

    async def exit_symbol(self, symbol: str, *, reason: str, by: str, within: timedelta) -> OutageFlatResult:
        """Leave one symbol, and nothing else. Once left, nobody of ours sends an order in it before the tables
        have heard."""
        elsewhere = self.submission.outage_symbols
        async with self.lock:
            log.critical("outage_exit", symbol=symbol, reason=reason, spool=str(self.spool.path))
            elsewhere.add(symbol)
            await self.submission.wait_until_idle(MAX_IN_FLIGHT_TIME, symbol)
            left = await self._exit_until_flat({symbol}, reason, by, within, Purpose.EXIT, market_open=True)
            if not left.flat:
                elsewhere.discard(symbol)  # it is tried again, with or without the tables
            return left

    async def _exit_until_flat(
        self,
        only: set[str] | None,
        reason: str,
        by: str,
        within: timedelta,
        purpose: Purpose,
        *,
        market_open: bool,
    ) -> OutageFlatResult:
        deadline = self.clock.now() + within
        recorded_symbols: set[str] = set()
        left = OutageFlatResult(False, None, None)
        while True:
            snapshot = await self.read_broker()
            if snapshot is not None:
                symbols = only if only is not None else self.our_symbols(snapshot)
                left = await self._count_remaining(snapshot, symbols)
                if left.flat:
                    break
                for symbol in sorted(symbols):
                    if symbol not in recorded_symbols and (
                        snapshot.working_orders(symbol) or symbol in snapshot.positions
                    ):
                        recorded_symbols.add(symbol)
                        self.spool.write(
                            SpoolEntryKind.LEAVE,
                            self.clock.now(),
                            symbol=symbol,
                            reason=reason,
                            by=by,
                            purpose=purpose,
                        )
                    await self._cancel_or_sell(snapshot, symbol, purpose, reason, market_open=market_open)
            if self.clock.now() >= deadline:
                break
            await self.clock.sleep(POLL_INTERVAL)
        return self._record_proof(left, reason, by, only)

    def _record_proof(
        self, left: OutageFlatResult, reason: str, by: str, only: set[str] | None
    ) -> OutageFlatResult:
        at = self.clock.now()
        facts = {
            "flat": left.flat,
            "broker_orders": left.orders,
            "broker_positions": left.positions,
            "cause": reason,
            "by": by,
            "symbol": None if only is None else ", ".join(sorted(only)),
            "journal": self.proofs.journal_head,
        }
        file = self.proofs.write(at, {**facts, "database": "unavailable"}) if only is None else None
        written = self.spool.write(
            SpoolEntryKind.PROOF, at, **facts, file=None if file is None else file.name
        )
        log.log(
            20 if left.flat and written else 50,
            "outage_flatten_finished",
            flat=left.flat,
            broker_orders=left.orders,
            broker_positions=left.positions,
            proof=str(self.spool.path) if written else None,
            file=None if file is None else str(file),
        )
        return left if written else OutageFlatResult(False, left.orders, left.positions)

    # -- looking

    async def read_broker(self) -> OutageSnapshot | None:
        """The broker's word, or None when it could not be heard whole."""
        try:
            tops = await self.broker.orders(
                status="all", after=self.clock.now() - ORDER_LOOKBACK, priority=Priority.EXIT
            )
            held = await self.broker.positions(priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("broker_read_failed", error=str(error))
            return None
        flat = tuple(one for top in tops for one in (top, *top.legs))
        return OutageSnapshot(flat, tuple(tops), {one.symbol: one for one in held if one.quantity != 0})

    def our_symbols(self, snapshot: OutageSnapshot) -> set[str]:
        mine = {top.symbol for top in snapshot.top_level_orders if is_ours(top.client_order_id)}
        doubtful = {row.symbol for row in self.submission.unresolved.values()}
        return self.last_known.symbols | mine | doubtful

    async def _count_remaining(self, snapshot: OutageSnapshot, symbols: set[str]) -> OutageFlatResult:
        working = sum(len(snapshot.working_orders(symbol)) for symbol in symbols)
        held = sum(1 for symbol in symbols if symbol in snapshot.positions)
        sure = not working and not held and not await self._may_still_arrive(snapshot, symbols)
        return OutageFlatResult(sure, working, held)

    async def _may_still_arrive(self, snapshot: OutageSnapshot, symbols: set[str]) -> bool:
        """True while an order of ours that the broker does not show may still reach it."""
        shown = {one.client_order_id for one in snapshot.orders}
        pending = bool(
            [cid for cid, symbol in self._accepted_orders.items() if symbol in symbols and cid not in shown]
        )
        for row in list(self.submission.unresolved.values()):
            if row.symbol not in symbols or row.client_order_id in shown:
                continue
            try:
                await self.broker.order_by_client_id(row.client_order_id, priority=Priority.EXIT)
            except NotFound:
                since = self.clock.now() - (row.last_attempt_at or row.created_at)
                quiet = since >= MAX_IN_FLIGHT_TIME and not self.submission.is_in_flight(row.order_id)
                self._not_found_counts[row.order_id] = (
                    self._not_found_counts.get(row.order_id, 0) + 1 if quiet else 0
                )
                pending |= self._not_found_counts[row.order_id] < NOT_FOUND_LIMIT
            except BrokerError:
                pending = True
            else:
                pending = True  # it is there: the next look shows it
        return pending

    # -- acting

    async def _cancel_or_sell(
        self, snapshot: OutageSnapshot, symbol: str, purpose: Purpose, reason: str, *, market_open: bool
    ) -> None:
        """One step for one symbol: cancel what works, else sell what is held."""
        held = snapshot.positions.get(symbol)
        if held is not None and not market_open:
            return  # nothing can be sold: what protects the shares stays
        working = [one for one in snapshot.working_orders(symbol) if not _is_outage_exit(one)]
        for one in working:
            await self.cancel(one)
        if held is None or working or len(snapshot.working_orders(symbol)) > len(working):
            return
        shown = {one.client_order_id for one in snapshot.orders}
        if any(cid not in shown for cid, of in self._accepted_orders.items() if of == symbol):
            return  # the broker took one that its list does not show yet
        quantity = self.exit_quantity(snapshot, held)
        if quantity > 0:
            await self._send_exit_order(snapshot, held, quantity, purpose, reason)

    async def cancel(self, one: OrderReport) -> None:
        """Ask for the cancel of one order, on record, and not more often than every few seconds."""
        now = self.clock.now()
        if (
            one.broker_id in self._cancel_requested_at
            and now - self._cancel_requested_at[one.broker_id] < CANCEL_RETRY_AFTER
        ):
            return
        self._cancel_requested_at[one.broker_id] = now
        self.spool.write(SpoolEntryKind.CANCEL, now, symbol=one.symbol, broker_id=one.broker_id)
        try:
            await self.broker.cancel(one.broker_id)
        except (OrderRejected, NotFound) as error:
            log.info("cancel_rejected", symbol=one.symbol, reason=str(error))
        except BrokerError as error:  # unknown or unheard: the next look shows what it came to
            log.warning("cancel_unconfirmed", symbol=one.symbol, error=str(error))

    def exit_quantity(self, snapshot: OutageSnapshot, held: PositionReport) -> Decimal:
        """Shares to sell (or buy back): no more than the broker holds, nor than our own fills explain.

        Positions may lag behind fills at the broker: what its orders have sold is not sold again. A position that
        is older than the orders looked at is taken as the broker has it, less what was sold here.
        """
        orders = snapshot.orders_of(held.symbol)
        known_rows = (row for rows in self.last_known.orders.values() for row in rows)
        mine = list(_own_orders(orders, {row.alpaca_order_id for row in known_rows if row.alpaca_order_id}))
        carried = any(
            row.symbol == held.symbol and row.entry_time < self.clock.now() - ORDER_LOOKBACK
            for row in self.last_known.positions
        )
        there = abs(held.available if held.available != 0 else held.quantity)
        if carried:
            sold = sum((one.filled_qty for one in mine if _is_outage_exit(one)), ZERO)
            remembered = sum((p.quantity for p in self.last_known.positions if p.symbol == held.symbol), ZERO)
            return min(there, max(remembered - sold, ZERO))
        net = sum((one.filled_qty if one.side is Side.BUY else -one.filled_qty for one in mine), ZERO)
        if (net > 0) is not (held.quantity > 0):
            return ZERO
        return min(there, abs(net))

    async def _send_exit_order(
        self, snapshot: OutageSnapshot, held: PositionReport, quantity: Decimal, purpose: Purpose, reason: str
    ) -> None:
        side = PositionSide.LONG if held.quantity > 0 else PositionSide.SHORT
        known = sorted(f"{one.broker_id}:{one.filled_qty}" for one in snapshot.orders_of(held.symbol))
        cid = client_order_id(f"{held.symbol}|{quantity}|{'|'.join(known)}", CLIENT_ID_ROLE, 0)
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
            SpoolEntryKind.SELL,
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
            self.record_response(cid, "accepted", "the broker had it")
        except BrokerError as error:  # the same id goes again, unless the next look shows the order
            log.warning("order_unconfirmed", symbol=held.symbol, error=str(error))
            self.record_response(cid, "unknown", str(error))
        else:
            self._accepted_orders[cid] = held.symbol
            self.record_response(cid, "accepted", "")

    def record_response(self, cid: str, outcome: str, text: str) -> None:
        self.spool.write(
            SpoolEntryKind.RESPONSE, self.clock.now(), client_order_id=cid, outcome=outcome, text=text
        )


def _is_outage_exit(one: OrderReport) -> bool:
    return is_ours(one.client_order_id) and one.client_order_id.endswith(f"-{CLIENT_ID_ROLE}")


def _own_orders(orders: Sequence[OrderReport], own_broker_ids: set[str]) -> Iterator[OrderReport]:
    """Our orders, those the tables had a row for in a position of ours, their legs, and what took the place of one."""
    mine = set(own_broker_ids)
    for one in orders:
        if is_ours(one.client_order_id) or one.replaces in mine or one.broker_id in mine:
            mine |= {one.broker_id, *(leg.broker_id for leg in one.legs)}
            yield one
