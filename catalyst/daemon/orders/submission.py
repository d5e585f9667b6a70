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
from catalyst.config.schema import Execution as ExecutionConfig
from catalyst.daemon.orders.ledger import Books
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.domain.errors import (
    AuthRefused,
    BrokerError,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRefused,
    OutcomeUnknown,
)
from catalyst.domain.order import NEVER_ARRIVED, Purpose, Status
from catalyst.domain.report import OrderReport, OrderRequest
from catalyst.store import alerts, orders, positions
from catalyst.store.orders import NewOrder, OrderRow
from catalyst.store.pool import Store, is_outage

log = structlog.get_logger()

SENDS: Final = 3
PAUSES: Final = (timedelta(seconds=1), timedelta(seconds=2))
QUIET_BEFORE_VERDICT: Final = timedelta(seconds=10)  # a request may still be on its way that long
NOT_FOUNDS: Final = 3
DRAIN_LOOK: Final = timedelta(seconds=0.2)
LONGEST_BETWEEN_LOOKS: Final = timedelta(seconds=4)
BETWEEN_NOT_FOUNDS: Final = timedelta(seconds=2)


@dataclass
class Execution:
    """The only sender of orders."""

    store: Store
    broker: Broker
    books: Books
    gate: Gate
    clock: Clock
    cfg: ExecutionConfig
    epoch: int
    unresolved: dict[int, OrderRow] = field(
        default_factory=dict
    )  # sent, and not known to have arrived or not
    elsewhere: set[str] = field(default_factory=set)  # symbols that are being left without the tables
    in_the_way: dict[int, tuple[str, ...]] = field(
        default_factory=dict
    )  # rows refused for other orders: the broker ids it named
    _calls: set[int] = field(default_factory=set)  # rows with a request of ours open
    _resolving: dict[int, asyncio.Task[Status]] = field(default_factory=dict)

    async def place(self, new: NewOrder, *, note: str) -> OrderRow:
        """Write a new order as submitted, send it, and return its row after the answer (or without one).

        When nobody hears whether the row was committed, it is looked for: what is there is sent, never written
        a second time. Raises the outage when it is not there, or cannot be looked for.
        """
        at = self.clock.now()
        try:
            async with self.store.stroke("submit") as conn:
                row = await orders.write(
                    conn, new, status=Status.SUBMITTED, at=at, source="submit", note=note
                )
        except Exception as error:
            if not is_outage(error):
                raise
            written = await self._written(new, at)
            if written is None:
                raise
            row = written
        return await self._send(row, fresh_until=self._fresh_until(row, at))

    async def _written(self, new: NewOrder, at: datetime) -> OrderRow | None:
        """The row of a commit whose answer was lost, when this very write is in the tables and nobody sent it."""
        async with self.store.read() as conn:
            row = await orders.by_client_id(conn, new.client_order_id)
        mine = row is not None and row.epoch == self.epoch and row.created_at == at and row.attempts == 1
        if not mine or row is None or row.status is not Status.SUBMITTED or row.alpaca_order_id is not None:
            return None
        log.warning("commit_found", order_id=row.order_id, symbol=row.symbol)
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
        self._calls.add(order_id)
        self.unresolved[order_id] = row
        try:
            report = await self.broker.replace(
                old.alpaca_order_id, client_order_id=row.client_order_id, limit_price=new.limit_price
            )
        except (DuplicateOrder, OutcomeUnknown) as error:
            log.warning("outcome_unknown", order_id=order_id, symbol=row.symbol, error=str(error))
            self.resolving(row)
        except BrokerError as error:
            code = error.code if isinstance(error, OrderRefused) else "SUBMIT_FAILED"
            row = await self._reject(row, code, str(error))
        else:
            await self.books.hear(report, "submit")
        finally:
            self._calls.discard(order_id)
        async with self.store.read() as conn:
            row = await orders.get(conn, order_id)
        if row.status is not Status.SUBMITTED or row.alpaca_order_id is not None:
            self.unresolved.pop(order_id, None)
        return row

    async def release(self, conn: "orders.Conn", order_id: int, *, by: str) -> OrderRow:
        """Mark an order that waited as submitted, in the transaction of what released it; `send` it then."""
        await orders.move(
            conn,
            order_id,
            seen=Status.CREATED,
            then=Status.SUBMITTED,
            at=self.clock.now(),
            source=by,
            epoch=self.epoch,
        )
        return await orders.get(conn, order_id)

    async def send(self, row: OrderRow) -> OrderRow:
        """Send a released order, and return its row after the answer (or without one)."""
        return await self._send(row, fresh_until=self._fresh_until(row, self.clock.now()))

    async def close(self) -> None:
        """Ask about nothing any more; what is unresolved stays so for the next start."""
        for task in self._resolving.values():
            task.cancel()
        await asyncio.gather(*self._resolving.values(), return_exceptions=True)

    async def cancel(self, row: OrderRow, reason: str) -> None:
        """Ask the broker to cancel; the answer moves the state. A refusal means: read the order again.

        An order the broker has not named yet is asked about instead, and nobody waits here for the answer:
        callers ask again until the order is at its end.
        """
        if row.alpaca_order_id is None:
            if not self.sending(row.order_id):
                self.resolving(row)
            return
        async with self.store.tx("cancel") as conn:
            await orders.cancel_because(conn, row.order_id, reason, self.clock.now(), epoch=self.epoch)
        try:
            await self.broker.cancel(row.alpaca_order_id)
        except (OrderRefused, NotFound) as error:
            log.info("cancel_refused", order_id=row.order_id, symbol=row.symbol, said=str(error))
            await self.refresh(row.alpaca_order_id, "poll")
        except BrokerError as error:  # unknown or unheard: the caller polls until the order is at its end
            log.warning("cancel_unanswered", order_id=row.order_id, symbol=row.symbol, error=str(error))
        else:
            log.info("cancel_requested", order_id=row.order_id, symbol=row.symbol, reason=reason)

    async def refresh(self, broker_id: str, source: str) -> bool:
        """Read one order and its legs from the broker and hear it; false when the read failed."""
        try:
            report = await self.broker.order(broker_id, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("order_unreadable", broker_id=broker_id, error=str(error))
            return False
        await self.books.hear(report, source)
        return True

    # -- one send, and what its answer means

    async def _send(self, row: OrderRow, *, fresh_until: datetime | None) -> OrderRow:
        """Send a `submitted` row; the same id goes again only when the broker surely never heard."""
        self._calls.add(row.order_id)
        self.unresolved[row.order_id] = row
        self.books.memory.know([row.symbol])
        self.books.remember(row)
        try:
            sent = await self._send_until_heard(row, fresh_until=fresh_until)
        finally:
            self._calls.discard(row.order_id)
        if sent.status is not Status.SUBMITTED or sent.alpaca_order_id is not None:
            self.unresolved.pop(row.order_id, None)
        return sent

    async def _send_until_heard(self, row: OrderRow, *, fresh_until: datetime | None) -> OrderRow:
        for attempt in range(SENDS):
            if (why := await self._ready(row, attempt, fresh_until)) is not None:
                return await self._reject(row, "SUBMIT_FAILED", why)
            report: OrderReport | None = None
            try:
                report = await self.broker.submit(request_of(row), priority=priority_of(row))
            except BrokerUnavailable as error:
                log.warning(
                    "broker_did_not_hear", order_id=row.order_id, attempt=attempt + 1, error=str(error)
                )
                continue
            except OrderRefused as error:
                if error.related:
                    self.in_the_way[row.order_id] = error.related
                return await self._reject(row, error.code, error.text)
            except AuthRefused as error:
                await self._page("KEYS_REFUSED", row, f"the broker refuses our keys: {error}")
                return await self._reject(row, "SUBMIT_FAILED", str(error))
            except DuplicateOrder:
                log.warning("order_was_there", order_id=row.order_id, symbol=row.symbol)
            except OutcomeUnknown as error:
                log.warning("outcome_unknown", order_id=row.order_id, symbol=row.symbol, error=str(error))
            if report is not None:
                return await self._acknowledged(row, report)
            self.resolving(row)
            async with self.store.read() as conn:
                return await orders.get(conn, row.order_id)
        return await self._reject(row, "SUBMIT_FAILED", f"the broker did not hear {SENDS} sends")

    async def _acknowledged(self, row: OrderRow, report: OrderReport) -> OrderRow:
        """Hear the broker's answer; the row as it was written by it, read again only when it has ended by then."""
        await self.books.hear(report, "submit")
        if (heard := self.books.remembered(row.client_order_id)) is not None:
            return heard
        async with self.store.read() as conn:
            return await orders.get(conn, row.order_id)

    async def _ready(self, row: OrderRow, attempt: int, fresh_until: datetime | None) -> str | None:
        """Pause before another send, and count it; why there must be none when it is too late for it."""
        if attempt:
            await self.clock.sleep(PAUSES[attempt - 1])
        why = self._too_late(row, fresh_until)
        if attempt and why is None:
            at = self.clock.now()
            async with self.store.tx("resubmit") as conn:
                await orders.attempt(conn, row.order_id, at, epoch=self.epoch)
            self.books.remember(replace(row, attempts=row.attempts + attempt, last_attempt_at=at))
        return why

    def _too_late(self, row: OrderRow, fresh_until: datetime | None) -> str | None:
        """Why an order must not leave any more, asked in the last moment before it does; an exit always may, unless
        another hand is leaving the symbol while the tables are away."""
        if row.symbol in self.elsewhere:
            return "the position is being left without the tables"
        if row.order_purpose is not Purpose.ENTRY:
            return None
        if fresh_until is not None and self.clock.now() > fresh_until:
            return "the signal went stale before it was heard"
        shut = self.gate.refusal(row.symbol)
        return None if shut is None else f"no entry any more: {shut}"

    async def _reject(self, row: OrderRow, code: str, text: str) -> OrderRow:
        async with self.store.tx("rejected") as conn:
            seen = await orders.lock(conn, row.order_id)
            if seen.status is Status.SUBMITTED:
                await orders.move(
                    conn,
                    row.order_id,
                    seen=Status.SUBMITTED,
                    then=Status.REJECTED,
                    at=self.clock.now(),
                    source="submit",
                    note=text,
                    rejection_reason=f"{code}: {text}" if code != NEVER_ARRIVED else NEVER_ARRIVED,
                    epoch=self.epoch,
                )
            seen = await orders.get(conn, row.order_id)
        log.warning("order_rejected", order_id=row.order_id, symbol=row.symbol, code=code, said=text)
        self.books.changed.beat()
        return seen

    def _fresh_until(self, row: OrderRow, at: datetime) -> datetime | None:
        """Entries go stale; exits never do."""
        if row.order_purpose is not Purpose.ENTRY:
            return None
        return at + timedelta(seconds=self.cfg.signal_max_age_seconds)

    # -- a submitted row without a broker id

    async def drained(self, within: timedelta, symbol: str | None = None) -> bool:
        """Wait until no request of ours (for `symbol`) is open; false when one still is after `within`."""
        deadline = self.clock.now() + within
        while any(
            symbol in (None, self.unresolved[key].symbol) for key in self._calls if key in self.unresolved
        ):
            if self.clock.now() >= deadline:
                return False
            await self.clock.sleep(DRAIN_LOOK)
        return True

    def sending(self, order_id: int) -> bool:
        """True while a request of ours for this row is open, or will be opened once more."""
        return order_id in self._calls

    def resolving(self, row: OrderRow) -> asyncio.Task[Status]:
        """Start, or find, the task that asks until the row is resolved."""
        task = self._resolving.get(row.order_id)
        if task is None or task.done():
            task = asyncio.create_task(self._ask(row), name=f"resolve-{row.order_id}")
            task.add_done_callback(_say_failure)
            self._resolving[row.order_id] = task
        return task

    async def resolve(self, order_id: int) -> Status:
        """Return the row's status once it is known whether the broker has the order."""
        async with self.store.read() as conn:
            row = await orders.get(conn, order_id)
        if row.status is not Status.SUBMITTED or row.alpaca_order_id is not None:
            return row.status
        return await self.resolving(row)

    async def _ask(self, row: OrderRow) -> Status:
        """Ask by client order id until the answer is clear.

        "Not found" counts only when no request of ours is open, ten seconds have passed since the last send,
        and it came three times, two seconds apart, each beside a read that worked. Shares do not stand without
        cover that long: what closes or protects is sent once more at a "not found", and is asked about more often.
        """
        self.gate.locked.add(row.symbol)
        self.unresolved.setdefault(row.order_id, row)
        pause = timedelta(seconds=0.5)
        not_found = 0
        began = self.clock.now()
        paged = False
        covers = row.order_purpose is not Purpose.ENTRY
        again = SENDS if covers and row.replaces is None else 0  # a replacement is no order to send
        try:
            async with self.store.read() as conn:
                row = await orders.get(
                    conn, row.order_id
                )  # whoever asked may have read it before the last send
            last_sent = row.last_attempt_at or row.created_at
            while True:
                found = await self._look(row)
                away = row.symbol in self.elsewhere
                if found is False and again and row.order_id not in self._calls and not away:
                    sent = await self._send_again(row)
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
                    row.order_id not in self._calls and self.clock.now() - last_sent >= QUIET_BEFORE_VERDICT
                )
                if not quiet:
                    not_found = 0
                elif not_found >= NOT_FOUNDS:
                    self.unresolved.pop(row.order_id, None)
                    return (await self._reject(row, NEVER_ARRIVED, "the broker never had this order")).status
                if not paged and self.clock.now() - began > timedelta(seconds=60):
                    paged = True
                    await self._page(
                        "ORDER_UNRESOLVED",
                        row,
                        "the broker has not said for a minute whether it has the order",
                    )
                await self.clock.sleep(BETWEEN_NOT_FOUNDS if quiet else pause)
                pause = min(pause * 2, BETWEEN_NOT_FOUNDS if covers else LONGEST_BETWEEN_LOOKS)
        finally:
            self.gate.locked.discard(row.symbol)

    async def _send_again(self, row: OrderRow) -> bool | None:
        """Send the same id once more while its shares are still held; true when its outcome is known by now, None when
        nothing was sent.

        Should the first request arrive after all, the broker refuses one of the two for its id.
        """
        self._calls.add(row.order_id)  # whoever leaves the symbol without the tables waits for this
        try:
            async with self.store.tx("resubmit") as conn:
                held = None if row.position_id is None else await positions.get(conn, row.position_id)
                if held is None or held.quantity < row.quantity:
                    return None
                await orders.attempt(conn, row.order_id, self.clock.now(), epoch=self.epoch)
            if row.symbol in self.elsewhere:
                return None  # it began while the tables were slow
            log.warning(
                "order_sent_again", order_id=row.order_id, symbol=row.symbol, purpose=row.order_purpose
            )
            report = await self.broker.submit(request_of(row), priority=priority_of(row))
        except BrokerError as error:  # not even a refusal is a verdict: it may be the first one's doing
            log.warning("order_not_sent_again", order_id=row.order_id, error=str(error))
            return False
        finally:
            self._calls.discard(row.order_id)
        await self.books.hear(report, "submit")
        return True

    async def _look(self, row: OrderRow) -> bool | None:
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
        await self.books.hear(report, "recovery")
        return True

    async def _page(self, event: str, row: OrderRow, message: str) -> None:
        async with self.store.tx("page") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL",
                event=event,
                message=f"{row.symbol}: {message}",
                facts={"order_id": row.order_id, "symbol": row.symbol},
                dedupe_key=f"{event}:{row.order_id}" if event == "ORDER_UNRESOLVED" else event,
                at=self.clock.now(),
            )


def _say_failure(task: asyncio.Task[Status]) -> None:
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
