"""Sending an order: write, act, write.

The row is committed before the request, the outcome after it. Whatever happens in between leaves a `submitted`
row, and `resolve` is the question it asks: the broker, by our own id, for as long as it takes.
"""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.config.schema import ExecutionConfig
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
MAX_IN_FLIGHT_TIME: Final = timedelta(seconds=10)  # a request may still be on its way that long
NOT_FOUND_LIMIT: Final = 3
IDLE_POLL_INTERVAL: Final = timedelta(seconds=0.2)
MAX_LOOKUP_INTERVAL: Final = timedelta(seconds=4)
NOT_FOUND_INTERVAL: Final = timedelta(seconds=2)


@dataclass
class OrderSubmission:
    """The only sender of orders."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    gate: EntryGate
    clock: Clock
    cfg: ExecutionConfig
    epoch: int
    unresolved: dict[int, OrderRow] = field(
        default_factory=dict
    )  # sent, and not known to have arrived or not
    outage_symbols: set[str] = field(default_factory=set)  # symbols that are being left without the tables
    blocking_orders: dict[int, tuple[str, ...]] = field(
        default_factory=dict
    )  # rows refused for other orders: the broker ids it named
    _in_flight: set[int] = field(default_factory=set)  # rows with a request of ours open
    _resolve_tasks: dict[int, asyncio.Task[Status]] = field(default_factory=dict)

    async def place(self, new: NewOrder, *, note: str) -> OrderRow:
        """Write a new order as submitted, send it, and return its row after the answer (or without one).

        When nobody hears whether the row was committed, it is looked for: what is there is sent, never written
        a second time. Raises the outage when it is not there, or cannot be looked for.
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
            written = await self._find_committed(new, at)
            if written is None:
                raise
            row = written
        return await self._send_submitted(row, fresh_until=self._fresh_until(row, at))

    async def _find_committed(self, new: NewOrder, at: datetime) -> OrderRow | None:
        """The row of a commit whose answer was lost, when this very write is in the tables and nobody sent it."""
        async with self.store.read() as conn:
            row = await orders.by_client_id(conn, new.client_order_id)
        mine = row is not None and row.epoch == self.epoch and row.created_at == at and row.attempts == 1
        if not mine or row is None or row.status is not Status.SUBMITTED or row.alpaca_order_id is not None:
            return None
        log.warning("commit_recovered", order_id=row.order_id, symbol=row.symbol)
        return row

    async def replace(self, old: OrderRow, new: NewOrder, *, note: str) -> OrderRow:
        """Write `new` as submitted and ask the broker to put it in the place of `old`; its row after the answer.

        A yes is a request that was heard, no more: what the broker then shows of both moves their states.
        """
        assert old.alpaca_order_id is not None  # only an order the broker has named can be replaced
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
        """Mark an order that waited as submitted, in the transaction of what released it; `send` it then."""
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
        """Ask about nothing any more; what is unresolved stays so for the next start."""
        for task in self._resolve_tasks.values():
            task.cancel()
        await asyncio.gather(*self._resolve_tasks.values(), return_exceptions=True)

    async def cancel(self, row: OrderRow, reason: str) -> None:
        """Ask the broker to cancel; the answer moves the state. A refusal means: read the order again.

        An order the broker has not named yet is asked about instead, and nobody waits here for the answer:
        callers ask again until the order is at its end.
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
        except BrokerError as error:  # unknown or unheard: the caller polls until the order is at its end
            log.warning("cancel_unconfirmed", order_id=row.order_id, symbol=row.symbol, error=str(error))
        else:
            log.info("cancel_requested", order_id=row.order_id, symbol=row.symbol, reason=reason)

    async def refresh(self, broker_id: str, source: str) -> bool:
        """Read one order and its legs from the broker and hear it; false when the read failed."""
        try:
            report = await self.broker.order(broker_id, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("order_read_failed", broker_id=broker_id, error=str(error))
            return False
        await self.ledger.apply_report(report, source)
        return True

    # -- one send, and what its answer means

    async def _send_submitted(self, row: OrderRow, *, fresh_until: datetime | None) -> OrderRow:
        """Send a `submitted` row; the same id goes again only when the broker surely never heard."""
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
                await self._alert("AUTH_REFUSED", row, f"the broker refuses our keys: {error}")
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
            row, "SUBMIT_FAILED", f"the broker did not hear {MAX_ATTEMPTS} sends"
        )

    async def _apply_acknowledgement(self, row: OrderRow, report: OrderReport) -> OrderRow:
        """Hear the broker's answer; the row as it was written by it, read again only when it has ended by then."""
        await self.ledger.apply_report(report, "submit")
        if (cached := self.ledger.cached_row(row.client_order_id)) is not None:
            return cached
        async with self.store.read() as conn:
            return await orders.get(conn, row.order_id)

    async def _backoff(self, row: OrderRow, attempt: int, fresh_until: datetime | None) -> str | None:
        """Pause before another send, and count it; why there must be none when it is too late for it."""
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
        """Why an order must not leave any more, asked in the last moment before it does; an exit always may, unless
        another hand is leaving the symbol while the tables are away."""
        if row.symbol in self.outage_symbols:
            return "the position is being left without the tables"
        if row.order_purpose is not Purpose.ENTRY:
            return None
        if fresh_until is not None and self.clock.now() > fresh_until:
            return "the signal went stale before it was heard"
        refusal = self.gate.refusal(row.symbol)
        return None if refusal is None else f"no entry any more: {refusal}"

    async def _mark_rejected(self, row: OrderRow, code: str, text: str) -> OrderRow:
        async with self.store.tx("rejected") as conn:
            seen = await orders.lock(conn, row.order_id)
            if seen.status is Status.SUBMITTED:
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
            seen = await orders.get(conn, row.order_id)
        log.warning("order_rejected", order_id=row.order_id, symbol=row.symbol, code=code, reason=text)
        self.ledger.changed.notify()
        return seen

    def _fresh_until(self, row: OrderRow, at: datetime) -> datetime | None:
        """Entries go stale; exits never do."""
        if row.order_purpose is not Purpose.ENTRY:
            return None
        return at + timedelta(seconds=self.cfg.signal_max_age_seconds)

    # -- a submitted row without a broker id

    async def wait_until_idle(self, within: timedelta, symbol: str | None = None) -> bool:
        """Wait until no request of ours (for `symbol`) is open; false when one still is after `within`."""
        deadline = self.clock.now() + within
        while any(
            symbol in (None, self.unresolved[key].symbol) for key in self._in_flight if key in self.unresolved
        ):
            if self.clock.now() >= deadline:
                return False
            await self.clock.sleep(IDLE_POLL_INTERVAL)
        return True

    def is_in_flight(self, order_id: int) -> bool:
        """True while a request of ours for this row is open, or will be opened once more."""
        return order_id in self._in_flight

    def start_resolution(self, row: OrderRow) -> asyncio.Task[Status]:
        """Start, or find, the task that asks until the row is resolved."""
        task = self._resolve_tasks.get(row.order_id)
        if task is None or task.done():
            task = asyncio.create_task(self._resolve_loop(row), name=f"resolve-{row.order_id}")
            task.add_done_callback(_log_resolution_failure)
            self._resolve_tasks[row.order_id] = task
        return task

    async def resolve(self, order_id: int) -> Status:
        """Return the row's status once it is known whether the broker has the order."""
        async with self.store.read() as conn:
            row = await orders.get(conn, order_id)
        if row.status is not Status.SUBMITTED or row.alpaca_order_id is not None:
            return row.status
        return await self.start_resolution(row)

    async def _resolve_loop(self, row: OrderRow) -> Status:
        """Ask by client order id until the answer is clear.

        "Not found" counts only when no request of ours is open, ten seconds have passed since the last send,
        and it came three times, two seconds apart, each beside a read that worked. Shares do not stand without
        cover that long: what closes or protects is sent once more at a "not found", and is asked about more often.
        """
        self.gate.unresolved_symbols.add(row.symbol)
        self.unresolved.setdefault(row.order_id, row)
        pause = timedelta(seconds=0.5)
        not_found = 0
        began = self.clock.now()
        alerted = False
        covers = row.order_purpose is not Purpose.ENTRY
        again = MAX_ATTEMPTS if covers and row.replaces is None else 0  # a replacement is no order to send
        try:
            async with self.store.read() as conn:
                row = await orders.get(
                    conn, row.order_id
                )  # whoever asked may have read it before the last send
            last_sent = row.last_attempt_at or row.created_at
            while True:
                found = await self._lookup(row)
                in_outage_exit = row.symbol in self.outage_symbols
                if found is False and again and row.order_id not in self._in_flight and not in_outage_exit:
                    sent = await self._resubmit(row)
                    if sent is None:
                        again = 0
                    else:
                        again, found, last_sent = again - 1, sent, self.clock.now()
                if found is not None:
                    not_found = 0 if found else not_found + 1
                    if found:
                        self.unresolved.pop(row.order_id, None)
                        async with self.store.read() as conn:
                            return (await orders.get(conn, row.order_id)).status
                quiet = (
                    row.order_id not in self._in_flight and self.clock.now() - last_sent >= MAX_IN_FLIGHT_TIME
                )
                if not quiet:
                    not_found = 0
                elif not_found >= NOT_FOUND_LIMIT:
                    self.unresolved.pop(row.order_id, None)
                    return (
                        await self._mark_rejected(row, NEVER_ARRIVED, "the broker never had this order")
                    ).status
                if not alerted and self.clock.now() - began > timedelta(seconds=60):
                    alerted = True
                    await self._alert(
                        "ORDER_UNRESOLVED",
                        row,
                        "the broker has not said for a minute whether it has the order",
                    )
                await self.clock.sleep(NOT_FOUND_INTERVAL if quiet else pause)
                pause = min(pause * 2, NOT_FOUND_INTERVAL if covers else MAX_LOOKUP_INTERVAL)
        finally:
            self.gate.unresolved_symbols.discard(row.symbol)

    async def _resubmit(self, row: OrderRow) -> bool | None:
        """Send the same id once more while its shares are still held; true when its outcome is known by now, None when
        nothing was sent.

        Should the first request arrive after all, the broker refuses one of the two for its id.
        """
        self._in_flight.add(row.order_id)  # whoever leaves the symbol without the tables waits for this
        try:
            async with self.store.tx("resubmit") as conn:
                held = None if row.position_id is None else await positions.get(conn, row.position_id)
                if held is None or held.quantity < row.quantity:
                    return None
                await orders.count_attempt(conn, row.order_id, self.clock.now(), epoch=self.epoch)
            if row.symbol in self.outage_symbols:
                return None  # it began while the tables were slow
            log.warning(
                "order_resubmitted", order_id=row.order_id, symbol=row.symbol, purpose=row.order_purpose
            )
            report = await self.broker.submit(request_of(row), priority=priority_of(row))
        except BrokerError as error:  # not even a refusal is a verdict: it may be the first one's doing
            log.warning("resubmit_failed", order_id=row.order_id, error=str(error))
            return False
        finally:
            self._in_flight.discard(row.order_id)
        await self.ledger.apply_report(report, "submit")
        return True

    async def _lookup(self, row: OrderRow) -> bool | None:
        """True when the broker has the order (it is heard), False when it surely answered no, None: no answer."""
        try:
            report = await self.broker.order_by_client_id(row.client_order_id, priority=Priority.EXIT)
        except NotFound:
            try:
                await self.broker.account()  # the control: a broker that cannot answer this proves nothing
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
    """A question that broke off is asked again by the next reconciliation."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("resolve_failed", task=task.get_name(), error=str(error), kind=type(error).__name__)


def priority_of(row: OrderRow) -> Priority:
    """What closes or protects may use the reserved share of the request budget; an entry waits."""
    return Priority.ROUTINE if row.order_purpose is Purpose.ENTRY else Priority.EXIT


def request_of(row: OrderRow) -> OrderRequest:
    """The request a row stands for; built from the row alone, so a restart would build the same."""
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
