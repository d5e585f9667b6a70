"""Outcome resolution: finds out whether the broker has an order whose request got no certain response.

It looks the order up by client order id. An order that closes or protects shares is sent again under the same id as
long as its row allows it, because its shares must not stay unprotected until "not found" is final. The broker accepts
an id once, so at most one of the requests takes effect.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock, separate_turns
from catalyst.concurrency import drop_done
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.open_requests import OpenRequests, priority_of, request_of
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.errors import (
    BrokerError,
    DuplicateOrder,
    NotFound,
    OrderRejected,
    OutcomeUnknown,
)
from catalyst.domain.order import NEVER_ARRIVED, Purpose, Status
from catalyst.domain.outcome import NotFoundCount, may_still_arrive
from catalyst.domain.refusals import FOLLOW_FROM_OWN_ORDER, reason_of
from catalyst.domain.rows import OrderRow
from catalyst.store import alerts, orders
from catalyst.store.pool import Store

log = structlog.get_logger()

MAX_RESENDS: Final = 3  # whose outcome is unknown too
INITIAL_PAUSE: Final = timedelta(seconds=0.5)
NOT_FOUND_INTERVAL: Final = timedelta(seconds=2)
MAX_LOOKUP_INTERVAL: Final = timedelta(seconds=4)
ALERT_AFTER: Final = timedelta(seconds=60)


@dataclass
class ResendResult:
    """Result of all resends of one order. `last_sent`: time of the last request whose outcome is unknown."""

    last_sent: datetime
    left: int  # that may have an unknown outcome
    has_arrived: bool = False  # the broker refused a resend as a duplicate
    refusal: OrderRejected | None = None  # of a resend; it ends the order unless a lookup finds it


@dataclass
class OutcomeResolution:
    """Resolves `submitted` rows without a broker id, each in a task of its own."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    requests: OpenRequests
    clock: Clock
    config: CurrentConfig
    epoch: int
    _tasks: dict[int, asyncio.Task[Status]] = field(default_factory=dict)  # by order id

    def start(self, row: OrderRow) -> asyncio.Task[Status]:
        """Return the running task that resolves the row; start one when there is none."""
        drop_done(self._tasks)
        task = self._tasks.get(row.order_id)
        if task is None:
            task = asyncio.create_task(
                self._resolve(row), name=f"resolve-{row.order_id}", context=separate_turns()
            )
            task.add_done_callback(_log_failure)
            self._tasks[row.order_id] = task
        return task

    async def resolve(self, order_id: int) -> Status:
        """Return the row's status once it is certain whether the broker has the order."""
        row = await self._read_row(order_id)
        return await self.start(row) if row.is_outcome_unknown else row.status

    async def close(self) -> None:
        """Stop all tasks; the next start resolves what is still open."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def count_attempt(self, order_id: int) -> OrderRow | None:
        """Count another attempt, in the transaction that decides it; return the row to send.

        Return None when the row as it is now must not be sent again.
        """
        async with self.store.tx("resubmit") as conn:
            row = await orders.count_attempt(conn, order_id, self.clock.now(), epoch=self.epoch)
        if row is not None:
            self.requests.add(row)
            self.ledger.cache_row(row)
        return row

    async def mark_not_accepted(self, row: OrderRow, code: str, text: str) -> OrderRow:
        """Mark a row with an unknown outcome as rejected, by the broker or because it was not sent; return it."""
        async with self.store.tx("rejected") as conn:
            current = await orders.lock(conn, row.order_id)
            if not current.is_outcome_unknown:
                return current  # a report was faster, or another task has ended it
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
        log.warning("order_not_accepted", order_id=row.order_id, symbol=row.symbol, code=code, reason=text)
        self.ledger.changed.notify()
        return current

    async def alert(self, event: str, row: OrderRow, message: str) -> None:
        """Write a CRITICAL alert to the outbox."""
        async with self.store.tx("alert") as conn:
            await alerts.raise_alert(
                conn,
                event,
                f"{row.symbol}: {message}",
                subject=row.order_id if event == "ORDER_UNRESOLVED" else "",
                facts={"order_id": row.order_id, "symbol": row.symbol},
                at=self.clock.now(),
            )

    async def _resolve(self, row: OrderRow) -> Status:
        """Look the order up until its outcome is certain; return its status. Its symbol gets no entry meanwhile."""
        self.requests.symbols.add(SymbolReason.UNRESOLVED, row.symbol)
        self.requests.unresolved.setdefault(row.order_id, row)
        try:
            return await self._look_up_until_certain(row)
        finally:
            self.requests.symbols.remove(SymbolReason.UNRESOLVED, row.symbol)

    async def _look_up_until_certain(self, row: OrderRow) -> Status:
        """Look the order up, at growing intervals, until it is found or certainly never arrived."""
        started_at = self.clock.now()
        row = await self._read_row(row.order_id)  # the caller may have read it before the last send
        if not row.is_outcome_unknown:
            self.requests.unresolved.pop(row.order_id, None)
            return row.status
        is_exit = row.order_purpose is not Purpose.ENTRY
        # A replacement cannot be sent as a new order.
        can_be_resent = is_exit and row.replaces is None and row.position_id is not None
        resends = ResendResult(row.last_attempt_at or row.created_at, MAX_RESENDS if can_be_resent else 0)
        not_found, pause, alerted = NotFoundCount(), INITIAL_PAUSE, False
        while True:
            found = await self._look_up(row)
            if found is False and resends.refusal is not None:
                self.requests.unresolved.pop(row.order_id, None)
                return (await self.mark_not_accepted(row, resends.refusal.code, resends.refusal.text)).status
            if found is False and resends.left and self._may_resend(row):
                row = await self._resend(row, resends)
                found = not row.is_outcome_unknown
            if found:
                self.requests.unresolved.pop(row.order_id, None)
                return (await self._read_row(row.order_id)).status
            may_arrive = resends.has_arrived or may_still_arrive(
                self.clock.now() - resends.last_sent, in_flight=self.requests.is_in_flight(row.order_id)
            )
            not_found = not_found.after_lookup(found, may_arrive=may_arrive)
            if not_found.proves_absence:
                self.requests.unresolved.pop(row.order_id, None)
                text = "the broker has not received this order"
                return (await self.mark_not_accepted(row, NEVER_ARRIVED, text)).status
            if not alerted and self.clock.now() - started_at > ALERT_AFTER:
                alerted = True
                await self.alert(
                    "ORDER_UNRESOLVED", row, "the outcome of the order is still unknown after one minute"
                )
            await self.clock.sleep(pause if may_arrive else NOT_FOUND_INTERVAL)
            pause = min(pause * 2, NOT_FOUND_INTERVAL if is_exit else MAX_LOOKUP_INTERVAL)

    async def _read_row(self, order_id: int) -> OrderRow:
        async with self.store.read() as conn:
            return await orders.get(conn, order_id)

    async def _look_up(self, row: OrderRow) -> bool | None:
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

    def _may_resend(self, row: OrderRow) -> bool:
        """Return true unless a request for the row is open, or the outage exit is closing its symbol."""
        return not self.requests.is_in_flight(row.order_id) and not self.requests.is_in_outage_exit(
            row.symbol
        )

    async def _resend(self, row: OrderRow, resends: ResendResult) -> OrderRow:
        """Send the same client order id again if its row allows it; return the row as it is afterwards.

        If the first request arrives after all, the broker rejects one of the two as a duplicate. Only a resend with an
        unknown outcome may arrive later.
        """
        report = None
        with self.requests.in_flight(row.order_id):  # the outage exit waits for open requests of the symbol
            counted = await self.count_attempt(row.order_id)
            # The outage exit may have begun while the database was slow.
            if counted is None:
                resends.left = 0
            elif not self.requests.is_in_outage_exit(counted.symbol):
                log.warning(
                    "order_resubmitted", order_id=row.order_id, symbol=row.symbol, purpose=row.order_purpose
                )
                try:
                    report = await self.broker.submit(request_of(counted), priority=priority_of(counted))
                except BrokerError as error:
                    log.warning("resubmit_failed", order_id=row.order_id, error=str(error))
                    self._note_failed_resend(row, resends, error)
        if report is not None:
            await self.ledger.apply_report(report, "submit")
        return await self._read_row(row.order_id)

    def _note_failed_resend(self, row: OrderRow, resends: ResendResult, error: BrokerError) -> None:
        """Record what the failed resend shows about the order.

        Its refusal is no proof when the first request may be the cause. Otherwise it ends a market exit that no later
        lookup finds: until the first request cannot arrive any more its shares would have no stop. If that request
        arrives, it sells only shares that no other order reserves, unless the account may sell short.
        """
        match error:
            case OutcomeUnknown():
                resends.last_sent, resends.left = self.clock.now(), resends.left - 1
            case DuplicateOrder():
                resends.has_arrived, resends.left = True, 0
            case OrderRejected():
                trading = self.config.trading
                is_long_only = trading.manage_account_locks and not trading.allow_short
                if (
                    row.order_type == "market"
                    and is_long_only
                    and reason_of(error.code) not in FOLLOW_FROM_OWN_ORDER
                ):
                    resends.refusal = error


def _log_failure(task: asyncio.Task[Status]) -> None:
    """Log a failed resolution task; the next reconciliation starts it again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("resolve_failed", task=task.get_name(), error=str(error), kind=type(error).__name__)
