"""Order submission: writes an order row, sends the request, writes the outcome.

The row is committed before the request, the outcome after it. A failure or crash in between leaves a `submitted` row
without a broker id; `OutcomeResolution` looks it up at the broker until the outcome is certain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock, real_seconds
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.open_requests import OpenRequests, priority_of, request_of
from catalyst.daemon.orders.outcome_resolution import OutcomeResolution
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import (
    AuthRefused,
    BrokerError,
    BrokerUnavailable,
    DatabaseUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRejected,
    OutcomeUnknown,
)
from catalyst.domain.latency import Latency
from catalyst.domain.order import NOT_SENT, Purpose, Status
from catalyst.domain.report import OrderReport
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.store import orders, positions
from catalyst.store.pool import Store

log = structlog.get_logger()

MAX_ATTEMPTS: Final = 3
BACKOFF: Final = (timedelta(seconds=1), timedelta(seconds=2))


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
    installation: str  # part of the client order id of every order
    # Orders rejected because of other orders: order id to the broker ids named in the rejection.
    blocking_orders: dict[int, tuple[str, ...]] = field(default_factory=dict)
    latency: Latency = field(default_factory=Latency)  # of `place`: both commits and the broker's answer
    requests: OpenRequests = field(init=False)
    resolution: OutcomeResolution = field(init=False)

    def __post_init__(self) -> None:
        self.requests = OpenRequests(self.clock, self.gate.symbols)
        self.resolution = OutcomeResolution(
            self.store, self.broker, self.ledger, self.requests, self.clock, self.config, self.epoch
        )

    def is_in_outage_exit(self, symbol: str) -> bool:
        """Return true while the outage exit is closing the symbol; nothing else sends orders in it."""
        return self.requests.is_in_outage_exit(symbol)

    async def place(self, new: NewOrder, *, note: str) -> OrderRow:
        """Write a new order as submitted, send it, and return its row after the answer (or without one).

        When the response to the commit is lost, the row is looked up: a committed row is sent and never written a
        second time. Raises the database error when the row does not exist or cannot be looked up.
        """
        at, started = self.clock.now(), real_seconds()
        try:
            async with self.store.order_statement("submit") as conn:
                row = await orders.insert_returning(
                    conn, new, status=Status.SUBMITTED, at=at, source="submit", note=note
                )
        except DatabaseUnavailable:
            committed = await self._find_committed(new, at)
            if committed is None:
                raise
            row = committed
        sent = await self._send_submitted(row, fresh_until=self._fresh_until(row, at))
        self.latency.record(real_seconds() - started)
        return sent

    async def _find_committed(self, new: NewOrder, at: datetime) -> OrderRow | None:
        """Return the row when exactly this insert was committed and has not been sent; None otherwise."""
        async with self.store.read() as conn:
            row = await orders.by_client_id(conn, new.client_order_id)
        is_our_insert = (
            row is not None and row.epoch == self.epoch and row.created_at == at and row.attempts == 1
        )
        if not is_our_insert or row is None or not row.is_outcome_unknown:
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
        with self.requests.in_flight(order_id):
            self.requests.add(row)
            try:
                report = await self.broker.replace(
                    old.alpaca_order_id, client_order_id=row.client_order_id, limit_price=new.limit_price
                )
            except (DuplicateOrder, OutcomeUnknown) as error:
                log.warning("outcome_unknown", order_id=order_id, symbol=row.symbol, error=str(error))
                self.resolution.start(row)
            except BrokerError as error:
                code = error.code if isinstance(error, OrderRejected) else "SUBMIT_FAILED"
                row = await self.resolution.mark_not_accepted(row, code, str(error))
            else:
                await self.ledger.apply_report(report, "submit")
        async with self.store.read() as conn:
            row = await orders.get(conn, order_id)
        self.requests.remove_if_certain(row)
        return row

    async def prepare_exit(self, new: NewOrder, *, note: str) -> OrderRow:
        """Write an exit that is sent later, as `created`; return its row.

        It proves that the sale can be written before a protective order is cancelled.
        """
        async with self.store.order_statement("prepare_exit") as conn:
            return await orders.insert_returning(
                conn, new, status=Status.CREATED, at=self.clock.now(), source="submit", note=note
            )

    async def send_prepared_exit(self, row: OrderRow) -> OrderRow:
        """Mark a prepared exit as submitted and send it; return its row after the answer (or without one)."""
        assert row.position_id is not None  # an exit is prepared for a position
        async with self.store.tx("release_exit") as conn:
            await positions.lock(conn, row.position_id)  # first, as every writer of a position
            released = await self.release(conn, row.order_id, by="submit")
        return await self.send(released)

    async def release(
        self, conn: "orders.Conn", order_id: int, *, by: str, note: str | None = None
    ) -> OrderRow:
        """Mark a `created` order as submitted, in the caller's transaction; the caller then calls `send`."""
        await orders.transition(
            conn,
            order_id,
            from_status=Status.CREATED,
            to_status=Status.SUBMITTED,
            at=self.clock.now(),
            source=by,
            note=note,
            epoch=self.epoch,
        )
        return await orders.get(conn, order_id)

    async def send(self, row: OrderRow) -> OrderRow:
        """Send a released order, and return its row after the answer (or without one)."""
        return await self._send_submitted(row, fresh_until=self._fresh_until(row, self.clock.now()))

    async def close(self) -> None:
        """Stop all resolution tasks; the next start resolves what is still open."""
        await self.resolution.close()

    async def resolve(self, order_id: int) -> Status:
        """Return the row's status once it is certain whether the broker has the order."""
        return await self.resolution.resolve(order_id)

    def start_resolution(self, row: OrderRow) -> None:
        """Start the resolution of a row without a broker id, unless a request for it is open."""
        if not self.requests.is_in_flight(row.order_id):
            self.resolution.start(row)

    async def cancel(self, row: OrderRow, reason: str) -> None:
        """Request a cancel at the broker; later reports move the state. A rejected cancel reads the order again.

        For an order without a broker id this only starts its resolution and does not wait; callers call again until
        the order is terminal. An order that was never sent ends at once.
        """
        if row.status is Status.CREATED:
            await self._end_unsent(row, reason)
            return
        if row.alpaca_order_id is None:
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

    async def _end_unsent(self, row: OrderRow, reason: str) -> None:
        async with self.store.tx("never_sent") as conn:
            await orders.transition(
                conn,
                row.order_id,
                from_status=Status.CREATED,
                to_status=Status.CANCELLED,
                at=self.clock.now(),
                source="operator",
                cancel_reason=reason,
                epoch=self.epoch,
            )

    async def cancel_orders(
        self, rows: Sequence[OrderRow], reason: str, throttle: CancelThrottle[int]
    ) -> list[OrderRow]:
        """Request the cancel of these orders as often as `throttle` allows; return those that have to wait for it."""
        waiting: list[OrderRow] = []
        for row in rows:
            if throttle.acquire(row.order_id, self.clock.now()):
                await self.cancel(row, reason)
            else:
                waiting.append(row)
        return waiting

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
        with self.requests.in_flight(row.order_id):
            self.requests.add(row)
            self.ledger.last_known.add_symbols([row.symbol])
            self.ledger.cache_row(row)
            sent = await self._send_with_retries(row, fresh_until=fresh_until)
        self.requests.remove_if_certain(sent)
        return sent

    async def _send_with_retries(self, row: OrderRow, *, fresh_until: datetime | None) -> OrderRow:
        """Send up to three times, with 1 s and 2 s between; return the row after the answer.

        A row that ended meanwhile is returned as it is.
        """
        for attempt in range(MAX_ATTEMPTS):
            row, why = await self._prepare_attempt(row, attempt, fresh_until)
            if why is not None:
                return await self.resolution.mark_not_accepted(row, NOT_SENT, why)
            report: OrderReport | None = None
            try:
                report = await self.broker.submit(request_of(row), priority=priority_of(row))
            except BrokerUnavailable as error:
                log.warning("request_not_sent", order_id=row.order_id, attempt=attempt + 1, error=str(error))
                continue
            except OrderRejected as error:
                if error.related:
                    self.blocking_orders[row.order_id] = error.related
                return await self.resolution.mark_not_accepted(row, error.code, error.text)
            except AuthRefused as error:
                await self.resolution.alert(
                    "AUTH_REFUSED", row, f"the broker rejects the API keys, check them: {error}"
                )
                return await self.resolution.mark_not_accepted(row, "SUBMIT_FAILED", str(error))
            except DuplicateOrder:
                log.warning("order_already_exists", order_id=row.order_id, symbol=row.symbol)
            except OutcomeUnknown as error:
                log.warning("outcome_unknown", order_id=row.order_id, symbol=row.symbol, error=str(error))
            if report is not None:
                return await self._apply_acknowledgement(row, report)
            self.resolution.start(row)
            async with self.store.read() as conn:
                return await orders.get(conn, row.order_id)
        return await self.resolution.mark_not_accepted(
            row, "SUBMIT_FAILED", f"the broker could not be reached in {MAX_ATTEMPTS} attempts"
        )

    async def _apply_acknowledgement(self, row: OrderRow, report: OrderReport) -> OrderRow:
        """Apply the broker's answer; return the row from the cache, or from the database when it is terminal."""
        await self.ledger.apply_report(report, "submit")
        if (cached := self.ledger.cached_row(row.client_order_id)) is not None:
            return cached
        async with self.store.read() as conn:
            return await orders.get(conn, row.order_id)

    async def _prepare_attempt(
        self, row: OrderRow, attempt: int, fresh_until: datetime | None
    ) -> tuple[OrderRow, str | None]:
        """Wait before a repeated attempt and count it; return the row to send, and why it must not be sent."""
        if attempt:
            await self.clock.sleep(BACKOFF[attempt - 1])
            if self._refusal_now(row, fresh_until) is None:
                counted = await self.resolution.count_attempt(row.order_id)
                if counted is None:
                    return row, "its shares are no longer held"
                row = counted
        return row, self._refusal_now(row, fresh_until)

    def _refusal_now(self, row: OrderRow, fresh_until: datetime | None) -> str | None:
        """Return why the order must not be sent, checked directly before each attempt; None when it may.

        An exit may always be sent, unless the outage exit is closing the symbol.
        """
        if self.is_in_outage_exit(row.symbol):
            return "the outage exit is closing this position"
        if row.order_purpose is not Purpose.ENTRY:
            return None
        if fresh_until is not None and self.clock.now() > fresh_until:
            return f"the signal is older than {self.config.execution.signal_max_age_seconds:g} s"
        refusal = self.gate.refusal(row.symbol)
        return None if refusal is None else f"entry not allowed now: {refusal}"

    def _fresh_until(self, row: OrderRow, at: datetime) -> datetime | None:
        """Return when an entry's signal becomes too old; None for an exit, which never does."""
        if row.order_purpose is not Purpose.ENTRY:
            return None
        return at + timedelta(seconds=self.config.execution.signal_max_age_seconds)


def without_legs(rows: Sequence[OrderRow]) -> list[OrderRow]:
    """Return the working orders to cancel: a leg ends with its parent when that is among them."""
    order_ids = {row.order_id for row in rows}
    return [row for row in rows if row.parent_order_id not in order_ids]
