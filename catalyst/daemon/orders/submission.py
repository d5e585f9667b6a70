"""Order submission: writes an order row, sends the request, writes the outcome; resolves unknown outcomes.

The row is committed before the request, the outcome after it. A failure or crash in between leaves a `submitted` row
without a broker id; `resolve` looks it up at the broker by client order id until the outcome is certain.
"""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import (
    AuthRefused,
    BrokerError,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRejected,
    OutcomeUnknown,
)
from catalyst.domain.order import NEVER_ARRIVED, Purpose, Status
from catalyst.domain.report import OrderReport, OrderRequest
from catalyst.store import alerts, orders, positions
from catalyst.store.orders import NewOrder, OrderRow
from catalyst.store.pool import Store, is_outage

log = structlog.get_logger()

MAX_ATTEMPTS: Final = 3
BACKOFF: Final = (timedelta(seconds=1), timedelta(seconds=2))
MAX_IN_FLIGHT_TIME: Final = timedelta(seconds=10)  # a sent request may still arrive within this time
NOT_FOUND_LIMIT: Final = 3
IDLE_POLL_INTERVAL: Final = timedelta(seconds=0.2)
MAX_LOOKUP_INTERVAL: Final = timedelta(seconds=4)
NOT_FOUND_INTERVAL: Final = timedelta(seconds=2)


@dataclass
class OrderSubmission:
    """Sends all orders while the database is reachable."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    gate: EntryGate
    clock: Clock
    config: CurrentConfig
    epoch: int
    unresolved: dict[int, OrderRow] = field(default_factory=dict)  # sent, outcome unknown; by order id
    outage_symbols: set[str] = field(default_factory=set)  # symbols that the outage exit is closing
    # Orders rejected because of other orders: order id to the broker ids named in the rejection.
    blocking_orders: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _in_flight: set[int] = field(default_factory=set)  # order ids with an open request
    _resolve_tasks: dict[int, asyncio.Task[Status]] = field(default_factory=dict)

    async def place(self, new: NewOrder, *, note: str) -> OrderRow:
        """Write a new order as submitted, send it, and return its row after the answer (or without one).

        When the response to the commit is lost, the row is looked up: a committed row is sent and never written a
        second time. Raises the database error when the row does not exist or cannot be looked up.
        """
        at = self.clock.now()
        try:
            async with self.store.order_statement("submit") as conn:
                row = await orders.insert_returning(
                    conn, new, status=Status.SUBMITTED, at=at, source="submit", note=note
                )
        except Exception as error:
            if not is_outage(error):
                raise
            committed = await self._find_committed(new, at)
            if committed is None:
                raise
            row = committed
        return await self._send_submitted(row, fresh_until=self._fresh_until(row, at))

    async def _find_committed(self, new: NewOrder, at: datetime) -> OrderRow | None:
        """Return the row when exactly this insert was committed and has not been sent; None otherwise."""
        async with self.store.read() as conn:
            row = await orders.by_client_id(conn, new.client_order_id)
        is_our_insert = (
            row is not None and row.epoch == self.epoch and row.created_at == at and row.attempts == 1
        )
        if (
            not is_our_insert
            or row is None
            or row.status is not Status.SUBMITTED
            or row.alpaca_order_id is not None
        ):
            return None
        log.warning("commit_recovered", order_id=row.order_id, symbol=row.symbol)
        return row

    async def replace(self, old: OrderRow, new: NewOrder, *, note: str) -> OrderRow:
        """Write `new` as submitted, ask the broker to replace `old` by it, and return its row after the answer.

        An accepted request does not mean replaced: later reports of both orders move their states.
        """
        assert old.alpaca_order_id is not None  # only an order with a broker id can be replaced
        assert new.limit_price is not None
        async with self.store.tx("submit") as conn:
            at = self.clock.now()
            order_id = await orders.insert(
                conn, new, status=Status.SUBMITTED, at=at, source="submit", note=note
            )
            row = await orders.get(conn, order_id)
        self._in_flight.add(order_id)
        self.unresolved[order_id] = row
        try:
            report = await self.broker.replace(
                old.alpaca_order_id, client_order_id=row.client_order_id, limit_price=new.limit_price
            )
        except (DuplicateOrder, OutcomeUnknown) as error:
            log.warning("outcome_unknown", order_id=order_id, symbol=row.symbol, error=str(error))
            self.start_resolution(row)
        except BrokerError as error:
            code = error.code if isinstance(error, OrderRejected) else "SUBMIT_FAILED"
            row = await self._mark_rejected(row, code, str(error))
        else:
            await self.ledger.apply_report(report, "submit")
        finally:
            self._in_flight.discard(order_id)
        async with self.store.read() as conn:
            row = await orders.get(conn, order_id)
        if row.status is not Status.SUBMITTED or row.alpaca_order_id is not None:
            self.unresolved.pop(order_id, None)
        return row

    async def release(self, conn: "orders.Conn", order_id: int, *, by: str) -> OrderRow:
        """Mark a `created` order as submitted, in the caller's transaction; the caller then calls `send`."""
        await orders.transition(
            conn,
            order_id,
            from_status=Status.CREATED,
            to_status=Status.SUBMITTED,
            at=self.clock.now(),
            source=by,
            epoch=self.epoch,
        )
        return await orders.get(conn, order_id)

    async def send(self, row: OrderRow) -> OrderRow:
        """Send a released order, and return its row after the answer (or without one)."""
        return await self._send_submitted(row, fresh_until=self._fresh_until(row, self.clock.now()))

    async def close(self) -> None:
        """Stop all resolution tasks; the next start resolves what is still open."""
        for task in self._resolve_tasks.values():
            task.cancel()
        await asyncio.gather(*self._resolve_tasks.values(), return_exceptions=True)

    async def cancel(self, row: OrderRow, reason: str) -> None:
        """Request a cancel at the broker; later reports move the state. A rejected cancel reads the order again.

        For an order without a broker id this only starts its resolution and does not wait; callers call again until
        the order is terminal.
        """
        if row.alpaca_order_id is None:
            if not self.is_in_flight(row.order_id):
                self.start_resolution(row)
            return
        async with self.store.tx("cancel") as conn:
            await orders.set_cancel_reason(conn, row.order_id, reason, self.clock.now(), epoch=self.epoch)
        try:
            await self.broker.cancel(row.alpaca_order_id)
        except (OrderRejected, NotFound) as error:
            log.info("cancel_rejected", order_id=row.order_id, symbol=row.symbol, reason=str(error))
            await self.refresh(row.alpaca_order_id, "poll")
        except BrokerError as error:  # unknown or not sent: the caller polls until the order is terminal
            log.warning("cancel_unconfirmed", order_id=row.order_id, symbol=row.symbol, error=str(error))
        else:
            log.info("cancel_requested", order_id=row.order_id, symbol=row.symbol, reason=reason)

    async def refresh(self, broker_id: str, source: str) -> bool:
        """Read one order and its legs from the broker and apply the report; return false when the read failed."""
        try:
            report = await self.broker.order(broker_id, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("order_read_failed", broker_id=broker_id, error=str(error))
            return False
        await self.ledger.apply_report(report, source)
        return True

    # -- send one row and apply the answer

    async def _send_submitted(self, row: OrderRow, *, fresh_until: datetime | None) -> OrderRow:
        """Send a `submitted` row; repeat with the same id only when the request was certainly not sent."""
        self._in_flight.add(row.order_id)
        self.unresolved[row.order_id] = row
        self.ledger.last_known.add_symbols([row.symbol])
        self.ledger.cache_row(row)
        try:
            sent = await self._send_with_retries(row, fresh_until=fresh_until)
        finally:
            self._in_flight.discard(row.order_id)
        if sent.status is not Status.SUBMITTED or sent.alpaca_order_id is not None:
            self.unresolved.pop(row.order_id, None)
        return sent

    async def _send_with_retries(self, row: OrderRow, *, fresh_until: datetime | None) -> OrderRow:
        """Send up to three times, with 1 s and 2 s between; return the row after the answer."""
        for attempt in range(MAX_ATTEMPTS):
            if (why := await self._backoff(row, attempt, fresh_until)) is not None:
                return await self._mark_rejected(row, "SUBMIT_FAILED", why)
            report: OrderReport | None = None
            try:
                report = await self.broker.submit(request_of(row), priority=priority_of(row))
            except BrokerUnavailable as error:
                log.warning("request_not_sent", order_id=row.order_id, attempt=attempt + 1, error=str(error))
                continue
            except OrderRejected as error:
                if error.related:
                    self.blocking_orders[row.order_id] = error.related
                return await self._mark_rejected(row, error.code, error.text)
            except AuthRefused as error:
                await self._alert(
                    "AUTH_REFUSED", row, f"the broker rejects the API keys, check them: {error}"
                )
                return await self._mark_rejected(row, "SUBMIT_FAILED", str(error))
            except DuplicateOrder:
                log.warning("order_already_exists", order_id=row.order_id, symbol=row.symbol)
            except OutcomeUnknown as error:
                log.warning("outcome_unknown", order_id=row.order_id, symbol=row.symbol, error=str(error))
            if report is not None:
                return await self._apply_acknowledgement(row, report)
            self.start_resolution(row)
            async with self.store.read() as conn:
                return await orders.get(conn, row.order_id)
        return await self._mark_rejected(
            row, "SUBMIT_FAILED", f"the broker could not be reached in {MAX_ATTEMPTS} attempts"
        )

    async def _apply_acknowledgement(self, row: OrderRow, report: OrderReport) -> OrderRow:
        """Apply the broker's answer; return the row from the cache, or from the database when it is terminal."""
        await self.ledger.apply_report(report, "submit")
        if (cached := self.ledger.cached_row(row.client_order_id)) is not None:
            return cached
        async with self.store.read() as conn:
            return await orders.get(conn, row.order_id)

    async def _backoff(self, row: OrderRow, attempt: int, fresh_until: datetime | None) -> str | None:
        """Wait before a repeated attempt and count it; return why the order must not be sent, None when it may."""
        if attempt:
            await self.clock.sleep(BACKOFF[attempt - 1])
        why = self._refusal_now(row, fresh_until)
        if attempt and why is None:
            at = self.clock.now()
            async with self.store.tx("resubmit") as conn:
                await orders.count_attempt(conn, row.order_id, at, epoch=self.epoch)
            self.ledger.cache_row(replace(row, attempts=row.attempts + attempt, last_attempt_at=at))
        return why

    def _refusal_now(self, row: OrderRow, fresh_until: datetime | None) -> str | None:
        """Return why the order must not be sent, checked directly before each attempt; None when it may.

        An exit may always be sent, unless the outage exit is closing the symbol.
        """
        if row.symbol in self.outage_symbols:
            return "the outage exit is closing this position"
        if row.order_purpose is not Purpose.ENTRY:
            return None
        if fresh_until is not None and self.clock.now() > fresh_until:
            return "the signal became too old before the order was sent"
        refusal = self.gate.refusal(row.symbol)
        return None if refusal is None else f"entry not allowed now: {refusal}"

    async def _mark_rejected(self, row: OrderRow, code: str, text: str) -> OrderRow:
        """Mark a `submitted` row as rejected and return the current row; any other status stays."""
        async with self.store.tx("rejected") as conn:
            current = await orders.lock(conn, row.order_id)
            if current.status is Status.SUBMITTED:
                await orders.transition(
                    conn,
                    row.order_id,
                    from_status=Status.SUBMITTED,
                    to_status=Status.REJECTED,
                    at=self.clock.now(),
                    source="submit",
                    note=text,
                    rejection_reason=f"{code}: {text}" if code != NEVER_ARRIVED else NEVER_ARRIVED,
                    epoch=self.epoch,
                )
            current = await orders.get(conn, row.order_id)
        log.warning("order_rejected", order_id=row.order_id, symbol=row.symbol, code=code, reason=text)
        self.ledger.changed.notify()
        return current

    def _fresh_until(self, row: OrderRow, at: datetime) -> datetime | None:
        """Return when an entry's signal becomes too old; None for an exit, which never does."""
        if row.order_purpose is not Purpose.ENTRY:
            return None
        return at + timedelta(seconds=self.config.execution.signal_max_age_seconds)

    # -- resolve a submitted row without a broker id

    async def wait_until_idle(self, within: timedelta, symbol: str | None = None) -> bool:
        """Wait until no request (for `symbol`) is open; return false when one is still open after `within`."""
        deadline = self.clock.now() + within
        while any(
            symbol in (None, self.unresolved[key].symbol) for key in self._in_flight if key in self.unresolved
        ):
            if self.clock.now() >= deadline:
                return False
            await self.clock.sleep(IDLE_POLL_INTERVAL)
        return True

    def is_in_flight(self, order_id: int) -> bool:
        """Return true while a request for this row is open or will be repeated."""
        return order_id in self._in_flight

    def start_resolution(self, row: OrderRow) -> asyncio.Task[Status]:
        """Return the running task that resolves the row; start one when there is none."""
        task = self._resolve_tasks.get(row.order_id)
        if task is None or task.done():
            task = asyncio.create_task(self._resolve_loop(row), name=f"resolve-{row.order_id}")
            task.add_done_callback(_log_resolution_failure)
            self._resolve_tasks[row.order_id] = task
        return task

    async def resolve(self, order_id: int) -> Status:
        """Return the row's status once it is certain whether the broker has the order."""
        async with self.store.read() as conn:
            row = await orders.get(conn, order_id)
        if row.status is not Status.SUBMITTED or row.alpaca_order_id is not None:
            return row.status
        return await self.start_resolution(row)

    async def _resolve_loop(self, row: OrderRow) -> Status:
        """Look the order up by client order id until its outcome is certain; return its status.

        "Not found" is final only when no request of ours is open, ten seconds have passed since the last send, and it
        came three times, two seconds apart, each time with a successful control read. Shares must not stay unprotected
        that long: an order that closes or protects is sent again at a "not found" and looked up more often.
        """
        self.gate.unresolved_symbols.add(row.symbol)
        self.unresolved.setdefault(row.order_id, row)
        pause = timedelta(seconds=0.5)
        not_found = 0
        started_at = self.clock.now()
        alerted = False
        is_exit = row.order_purpose is not Purpose.ENTRY
        # A replacement cannot be sent as a new order.
        resends_left = MAX_ATTEMPTS if is_exit and row.replaces is None else 0
        try:
            async with self.store.read() as conn:
                # The caller may have read the row before the last send.
                row = await orders.get(conn, row.order_id)
            last_sent = row.last_attempt_at or row.created_at
            while True:
                broker_has_order = await self._lookup(row)
                in_outage_exit = row.symbol in self.outage_symbols
                if (
                    broker_has_order is False
                    and resends_left
                    and row.order_id not in self._in_flight
                    and not in_outage_exit
                ):
                    resolved = await self._resubmit(row)
                    if resolved is None:
                        resends_left = 0
                    else:
                        resends_left, broker_has_order, last_sent = (
                            resends_left - 1,
                            resolved,
                            self.clock.now(),
                        )
                if broker_has_order is not None:
                    not_found = 0 if broker_has_order else not_found + 1
                    if broker_has_order:
                        self.unresolved.pop(row.order_id, None)
                        async with self.store.read() as conn:
                            return (await orders.get(conn, row.order_id)).status
                may_count_not_found = (
                    row.order_id not in self._in_flight and self.clock.now() - last_sent >= MAX_IN_FLIGHT_TIME
                )
                if not may_count_not_found:
                    not_found = 0
                elif not_found >= NOT_FOUND_LIMIT:
                    self.unresolved.pop(row.order_id, None)
                    return (
                        await self._mark_rejected(
                            row, NEVER_ARRIVED, "the broker has not received this order"
                        )
                    ).status
                if not alerted and self.clock.now() - started_at > timedelta(seconds=60):
                    alerted = True
                    await self._alert(
                        "ORDER_UNRESOLVED",
                        row,
                        "the outcome of the order is still unknown after one minute",
                    )
                await self.clock.sleep(NOT_FOUND_INTERVAL if may_count_not_found else pause)
                pause = min(pause * 2, NOT_FOUND_INTERVAL if is_exit else MAX_LOOKUP_INTERVAL)
        finally:
            self.gate.unresolved_symbols.discard(row.symbol)

    async def _resubmit(self, row: OrderRow) -> bool | None:
        """Send the same client order id again while its shares are still held.

        Return true when the outcome is known, false when it is not, None when nothing was sent. If the first request
        arrives after all, the broker rejects one of the two as a duplicate.
        """
        self._in_flight.add(row.order_id)  # the outage exit waits for open requests of the symbol
        try:
            async with self.store.tx("resubmit") as conn:
                position = None if row.position_id is None else await positions.get(conn, row.position_id)
                if position is None or position.quantity < row.quantity:
                    return None
                await orders.count_attempt(conn, row.order_id, self.clock.now(), epoch=self.epoch)
            if row.symbol in self.outage_symbols:
                return None  # the outage exit began while the database was slow
            log.warning(
                "order_resubmitted", order_id=row.order_id, symbol=row.symbol, purpose=row.order_purpose
            )
            report = await self.broker.submit(request_of(row), priority=priority_of(row))
        except BrokerError as error:  # even a rejection is no proof: the first request may have caused it
            log.warning("resubmit_failed", order_id=row.order_id, error=str(error))
            return False
        finally:
            self._in_flight.discard(row.order_id)
        await self.ledger.apply_report(report, "submit")
        return True

    async def _lookup(self, row: OrderRow) -> bool | None:
        """Return true when the broker has the order (report applied), false when it has not, None when unknown."""
        try:
            report = await self.broker.order_by_client_id(row.client_order_id, priority=Priority.EXIT)
        except NotFound:
            try:
                await self.broker.account()  # control read: without it, "not found" proves nothing
            except BrokerError:
                return None
            return False
        except BrokerError as error:
            log.warning("lookup_failed", order_id=row.order_id, error=str(error))
            return None
        log.info("order_found", order_id=row.order_id, symbol=row.symbol, broker_status=report.broker_status)
        await self.ledger.apply_report(report, "recovery")
        return True

    async def _alert(self, event: str, row: OrderRow, message: str) -> None:
        """Write a CRITICAL alert to the outbox."""
        async with self.store.tx("alert") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL",
                event=event,
                message=f"{row.symbol}: {message}",
                facts={"order_id": row.order_id, "symbol": row.symbol},
                dedupe_key=f"{event}:{row.order_id}" if event == "ORDER_UNRESOLVED" else event,
                at=self.clock.now(),
            )


def _log_resolution_failure(task: asyncio.Task[Status]) -> None:
    """Log a failed resolution task; the next reconciliation starts it again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("resolve_failed", task=task.get_name(), error=str(error), kind=type(error).__name__)


def priority_of(row: OrderRow) -> Priority:
    """Return EXIT, which may use the reserved request budget, for closing and protecting orders; else ROUTINE."""
    return Priority.ROUTINE if row.order_purpose is Purpose.ENTRY else Priority.EXIT


def request_of(row: OrderRow) -> OrderRequest:
    """Build the broker request from the row alone, so a restart builds the same request."""
    return OrderRequest(
        client_order_id=row.client_order_id,
        symbol=row.symbol,
        side=row.side,
        quantity=row.quantity,
        order_type=row.order_type,
        time_in_force=row.time_in_force,
        order_class=row.order_class,
        limit_price=row.limit_price,
        stop_price=row.stop_price,
        take_profit=row.bracket_target,
        stop_loss=row.bracket_stop,
    )
