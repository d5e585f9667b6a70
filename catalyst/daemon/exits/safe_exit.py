"""Safe exit: the only exit path for monitor, time limit, close of day, operator and emergency stop.

The exit intent is committed before the first cancel. Then: cancel the orders that reserve the shares → wait until
they are terminal → read the broker's quantity → write the exit order → send it → wait for the fill. After a restart the
open intent continues from the rows and the broker's state; each step uses a quantity that was just read.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock, separate_turns
from catalyst.concurrency import drop_done
from catalyst.daemon.exits.exit_orders import exit_order, repriced_target, target_to_reprice
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission, without_legs
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.domain.errors import (
    BrokerError,
    DatabaseContention,
    DatabaseUnavailable,
    NotFound,
    OrderRejected,
)
from catalyst.domain.order import WORKING, PositionSide, Purpose, Status
from catalyst.domain.position import PositionStatus
from catalyst.domain.protection import UNACKNOWLEDGED_REASON, UNACKNOWLEDGED_STATUS
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.store import alerts, exit_intents, orders, positions
from catalyst.store.exit_intents import ExitIntent
from catalyst.store.pool import Store

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=15)
RETRY_AFTER: Final = timedelta(seconds=1)  # after a failed exit; doubles up to POLL_INTERVAL
INITIAL_PAUSE: Final = timedelta(seconds=0.5)
REPORT_TIMEOUT: Final = timedelta(seconds=2)  # without a trade update for this long, poll
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)  # before a cancel is requested again
SLOW_EXIT_AFTER: Final = timedelta(seconds=30)  # an exit not filled by then raises an alert
MAX_PAUSE: Final = timedelta(seconds=8)
# When cancels are rejected or unanswered for this long, the take-profit is repriced instead.
CANCEL_FAILED_AFTER: Final = timedelta(seconds=10)
REPRICED_TIMEOUT: Final = timedelta(seconds=10)  # a repriced take-profit has this long to fill
RESERVED_SHARES_TIMEOUT: Final = timedelta(seconds=10)  # the broker's available quantity may lag its fills
# A limit exit queued during a halt is cancelled after this time, and the next one gets a new price.
QUEUED_EXIT_TIMEOUT: Final = timedelta(seconds=60)
UNACKNOWLEDGED_TIMEOUT: Final = timedelta(seconds=10)  # an acknowledgement takes milliseconds
NO_SHARES_TIMEOUT: Final = timedelta(seconds=15)  # the broker's positions may lag behind its own fills
# Rejections because another order, usually external, reserves the shares.
BLOCKED_CODES: Final = ("INSUFFICIENT_QTY", "WASH_TRADE", "OPPOSITE_ORDER")


@dataclass
class ExitBackoff:
    """Doubling pauses of one exit, and the start times of conditions that only count after a timeout.

    `no_shares_since`: the broker shows no shares. `reserved_since`: an order that no list shows reserves the shares.
    """

    pause: timedelta = INITIAL_PAUSE
    no_shares_since: datetime | None = None
    reserved_since: datetime | None = None
    unacknowledged_since: dict[int, datetime] = field(default_factory=dict)  # by order id
    cancels: CancelThrottle[int] = field(default_factory=lambda: CancelThrottle(CANCEL_RETRY_AFTER))

    def next_pause(self) -> timedelta:
        """Return the next pause, and double the one after it up to MAX_PAUSE."""
        pause, self.pause = self.pause, min(self.pause * 2, MAX_PAUSE)
        return pause


@dataclass
class SafeExit:
    """Exits positions. While the market is closed, exits wait for the open."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    current_day: CurrentDay
    clock: Clock
    epoch: int
    requested: ChangeSignal = field(default_factory=ChangeSignal)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    async def request(self, position_id: int, *, reason: str, purpose: Purpose, by: str) -> bool:
        """Store an exit intent for a position; return false when it has an open one already."""
        async with self.store.tx("exit_intent") as conn:
            created = await exit_intents.create_intent(
                conn, position_id, reason=reason, purpose=purpose, requested_by=by, at=self.clock.now()
            )
        if created:
            log.warning("exit_requested", position_id=position_id, reason=reason, by=by)
            self.requested.notify()
        return created

    @property
    def market_open(self) -> bool:
        return self.current_day.market_open

    async def run(self) -> None:
        """Run every open intent until the task is cancelled."""
        try:
            await run_on_signal(self.requested, self.clock, self.start_open_intents, lambda _: POLL_INTERVAL)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def start_open_intents(self) -> None:
        """Start a task for each open intent without one.

        While the market is closed, intents wait and the protective orders keep working.
        """
        if not self.market_open:
            return
        drop_done(self._tasks)
        async with self.store.read() as conn:
            intents = await exit_intents.open_intents(conn)
        for intent in intents:
            task = self._tasks.get(intent.position_id)
            if task is None or task.done():
                self._tasks[intent.position_id] = asyncio.create_task(
                    self._run_intent(intent), name=f"exit-{intent.position_id}", context=separate_turns()
                )

    async def _run_intent(self, intent: ExitIntent) -> None:
        """Exit the position; retry after failures, with doubling pauses, while the intent is open."""
        pause = RETRY_AFTER
        while True:
            try:
                await self._exit_position(intent)
            except Exception:  # a failed exit must not stop the others
                log.exception("exit_failed", position_id=intent.position_id, again_in=pause.total_seconds())
            else:
                return
            await self.clock.sleep(pause)
            pause = min(pause * 2, POLL_INTERVAL)
            if not await self._is_intent_open(intent):
                return

    async def _is_intent_open(self, intent: ExitIntent) -> bool:
        try:
            async with self.store.read() as conn:
                open_intent = await exit_intents.open_intent_of(conn, intent.position_id)
        except (DatabaseUnavailable, DatabaseContention):
            return True  # unknown during a database outage; the next attempt reads it again
        return open_intent is not None and open_intent.intent_id == intent.intent_id

    async def _exit_position(self, intent: ExitIntent) -> None:
        """Exit the position; return when it is closed, when no step is left, or when the market is closed."""
        began = self.clock.now()
        alerted = False
        backoff = ExitBackoff()
        while True:
            seen_version = self.ledger.changed.version
            position, rows = await self._read_position(intent.position_id)
            if position.status == PositionStatus.CLOSED:
                await self._end_intent(intent, "done")
                return
            if self.submission.is_in_outage_exit(position.symbol):
                return  # the outage exit is closing it, and the database does not show that yet
            if not alerted and self.clock.now() - began > SLOW_EXIT_AFTER:
                alerted = True
                await self._alert_slow(position, intent)
            working = [row for row in rows if row.status in WORKING]
            own_exits = [row for row in working if _is_own_exit(row, self.clock.now())]
            if own_exits:
                await self._await_fill(own_exits, backoff, seen_version, intent)
            elif not self.market_open:
                log.warning("exit_waits_for_open", symbol=position.symbol, reason=intent.reason)
                return
            elif working:
                await self._cancel_blocking_orders(working, rows, backoff, intent, seen_version, began)
            elif not await self._try_exit_order(position, rows, intent, backoff):
                return

    async def _try_exit_order(
        self, position: PositionRow, rows: list[OrderRow], intent: ExitIntent, backoff: "ExitBackoff"
    ) -> bool:
        """Send an exit order for the quantity just read.

        Return false, with the intent abandoned, when the broker has shown no shares for NO_SHARES_TIMEOUT.
        """
        quantity = await self._exit_quantity(position, rows, backoff)
        if quantity == 0:
            backoff.no_shares_since = backoff.no_shares_since or self.clock.now()
            if self.clock.now() - backoff.no_shares_since >= NO_SHARES_TIMEOUT:
                await self._end_intent(intent, "abandoned")
                log.error(
                    "exit_no_shares_at_broker", symbol=position.symbol, position_id=position.position_id
                )
                return False
        else:
            backoff.no_shares_since = None
        if not quantity:
            # Short pauses: a read costs less than a rejected order.
            await self.clock.sleep(min(backoff.next_pause(), REPORT_TIMEOUT))
            return True
        sent = await self._place_exit_order(position, rows, intent, quantity)
        if sent.status is Status.REJECTED:
            await self.clock.sleep(backoff.next_pause())
        return True

    async def _read_position(self, position_id: int) -> tuple[PositionRow, list[OrderRow]]:
        async with self.store.read() as conn:
            return await positions.get(conn, position_id), await orders.of_position(conn, position_id)

    async def _await_fill(
        self, working: list[OrderRow], backoff: ExitBackoff, seen_version: int, intent: ExitIntent
    ) -> None:
        """Wait up to REPORT_TIMEOUT for a report of the exits already sent, then poll them.

        Limit exits older than QUEUED_EXIT_TIMEOUT and exits that the venue does not acknowledge are cancelled; a new
        order follows.
        """
        for row in working:
            if row.order_type == "limit" and self.clock.now() - row.created_at >= QUEUED_EXIT_TIMEOUT:
                await self.submission.cancel(row, intent.purpose.upper())
            elif await self._is_stuck(row, backoff):
                log.warning("exit_unacknowledged", order_id=row.order_id, symbol=row.symbol)
                await self.submission.cancel(row, UNACKNOWLEDGED_REASON)
        if await self.ledger.changed.wait(self.clock, REPORT_TIMEOUT, since=seen_version):
            return
        for row in working:
            if row.alpaca_order_id is None:
                await self.submission.resolve(row.order_id)
            else:
                await self.submission.refresh(row.alpaca_order_id, "poll")

    async def _is_stuck(self, row: OrderRow, backoff: ExitBackoff) -> bool:
        """Return true when an exit is unacknowledged for UNACKNOWLEDGED_TIMEOUT and a new read confirms it.

        It is true once every CANCEL_RETRY_AFTER, so that the cancel is repeated.
        """
        now = self.clock.now()
        if row.broker_status != UNACKNOWLEDGED_STATUS or row.filled_qty or row.alpaca_order_id is None:
            backoff.unacknowledged_since.pop(row.order_id, None)
            return False
        if now - backoff.unacknowledged_since.setdefault(row.order_id, now) < UNACKNOWLEDGED_TIMEOUT:
            return False
        if not backoff.cancels.acquire(row.order_id, now):
            return False
        if not await self.submission.refresh(row.alpaca_order_id, "poll"):
            return False
        async with self.store.read() as conn:
            current = await orders.get(conn, row.order_id)
        return current.broker_status == UNACKNOWLEDGED_STATUS and not current.filled_qty

    async def _cancel_blocking_orders(
        self,
        working: list[OrderRow],
        rows: list[OrderRow],
        backoff: ExitBackoff,
        intent: ExitIntent,
        seen_version: int,
        began: datetime,
    ) -> None:
        """Cancel the orders that reserve the shares, then wait for a report or poll them.

        When that does not work for CANCEL_FAILED_AFTER, reprice the take-profit instead.
        """
        now = self.clock.now()
        if now - began >= CANCEL_FAILED_AFTER and await self._reprice_target(working, rows, intent):
            return
        await self.submission.cancel_orders(without_legs(working), intent.purpose.upper(), backoff.cancels)
        if await self.ledger.changed.wait(self.clock, REPORT_TIMEOUT, since=seen_version):
            return  # a report changed the rows: read them again
        for broker_id in _group_broker_ids(working, rows):
            await self.submission.refresh(broker_id, "poll")

    async def _reprice_target(
        self, working: list[OrderRow], rows: list[OrderRow], intent: ExitIntent
    ) -> bool:
        """Move the take-profit to the market, once, when cancels fail; return true when the replace was sent.

        An order whose cancel is pending cannot be replaced.
        """
        target = target_to_reprice(working, rows)
        stop = next((row.stop_price for row in working if row.order_purpose is Purpose.STOP_LOSS), None)
        if target is None or stop is None:
            return False
        repriced = repriced_target(target, stop, epoch=self.epoch)
        log.warning(
            "take_profit_repriced",
            symbol=target.symbol,
            limit=str(repriced.limit_price),
            reason=intent.reason,
        )
        await self.submission.replace(target, repriced, note=intent.reason)
        return True

    async def _exit_quantity(
        self, position: PositionRow, rows: list[OrderRow], backoff: ExitBackoff
    ) -> Decimal | None:
        """Return the shares to sell (or buy back) now: the smaller of our and the broker's quantity.

        None when this is not known yet. Zero when the broker shows no shares, after missing fills are booked, or the
        opposite side.
        """
        try:
            held = await self.broker.position(position.symbol, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=position.symbol, error=str(error))
            return None
        if held is None or held.quantity == 0:
            for row in rows:
                if row.alpaca_order_id is not None:
                    await self.ledger.fetch_missing_fills(row.alpaca_order_id, "poll")
            return Decimal(0)
        if (held.quantity > 0) is not (position.side is PositionSide.LONG):
            log.error("position_side_mismatch", symbol=position.symbol, broker_qty=str(held.quantity))
            return Decimal(0)
        quantity = min(position.quantity, abs(held.quantity))
        if abs(held.available) >= quantity:
            backoff.reserved_since = None
            return quantity
        log.info("shares_reserved", symbol=position.symbol, available=str(held.available))
        if await self._cancel_external_orders(position.symbol):
            return None
        backoff.reserved_since = backoff.reserved_since or self.clock.now()
        if self.clock.now() - backoff.reserved_since < RESERVED_SHARES_TIMEOUT:
            return None
        return quantity  # no list shows the order that reserves them; the rejection of an exit names it

    async def _place_exit_order(
        self, position: PositionRow, rows: list[OrderRow], intent: ExitIntent, quantity: Decimal
    ) -> OrderRow:
        """Write and send the exit order, and cancel the orders that its rejection names."""
        sent = await self.submission.place(
            exit_order(position, rows, intent, quantity, epoch=self.epoch), note=intent.reason
        )
        log.info(
            "exit_sent", symbol=position.symbol, qty=str(quantity), reason=intent.reason, status=sent.status
        )
        blocking_ids = self.submission.blocking_orders.pop(sent.order_id, ())
        if sent.rejection_reason and sent.rejection_reason.startswith(BLOCKED_CODES):
            for broker_id in blocking_ids:
                await self._cancel_named_order(broker_id, intent)
            await self._cancel_external_orders(position.symbol)
        return sent

    async def _cancel_named_order(self, broker_id: str, intent: ExitIntent) -> None:
        """Cancel an order that a rejection named; the broker's lists may not show it (a held leg)."""
        async with self.store.read() as conn:
            rows = await orders.by_broker_ids(conn, [broker_id])
        if rows and rows[0].origin != "external":
            await self.submission.cancel(rows[0], intent.purpose.upper())
            return
        log.warning("external_order_cancel_requested", broker_id=broker_id, position_id=intent.position_id)
        try:
            await self.broker.cancel(broker_id)
        except (OrderRejected, NotFound) as error:
            log.info("cancel_rejected", broker_id=broker_id, reason=str(error))
        except BrokerError as error:
            log.warning("cancel_unconfirmed", broker_id=broker_id, error=str(error))

    async def _cancel_external_orders(self, symbol: str) -> bool:
        """Cancel the external orders that the broker shows in the symbol; apply its reports of ours.

        Return true when it showed any open order or could not be read.
        """
        has_open_orders = False
        try:
            for report in await self.broker.orders(status="open", symbols=[symbol], priority=Priority.EXIT):
                has_open_orders = True
                if not await self.ledger.apply_report(report, "poll") or await self._is_external(
                    report.broker_id
                ):
                    log.warning("external_order_cancel_requested", symbol=symbol, broker_id=report.broker_id)
                    await self.broker.cancel(report.broker_id)
        except OrderRejected as error:
            log.info("cancel_rejected", symbol=symbol, reason=str(error))
        except BrokerError as error:
            log.warning("external_cancel_failed", symbol=symbol, error=str(error))
            return True
        return has_open_orders

    async def _is_external(self, broker_id: str) -> bool:
        async with self.store.read() as conn:
            rows = await orders.by_broker_ids(conn, [broker_id])
        return any(row.origin == "external" for row in rows)

    async def _end_intent(self, intent: ExitIntent, state: str) -> None:
        async with self.store.tx("exit_end") as conn:
            await exit_intents.end_intent(conn, intent.position_id, state=state, at=self.clock.now())

    async def _alert_slow(self, position: PositionRow, intent: ExitIntent) -> None:
        log.error("exit_slow", symbol=position.symbol, reason=intent.reason)
        async with self.store.tx("alert") as conn:
            await alerts.raise_alert(
                conn,
                "EXIT_SLOW",
                f"{position.symbol}: the exit ({intent.reason}) is not complete after {SLOW_EXIT_AFTER.seconds} s;"
                " Catalyst keeps trying, check the order at the broker",
                subject=position.position_id,
                facts={"position_id": position.position_id, "symbol": position.symbol},
                at=self.clock.now(),
            )


def _is_own_exit(row: OrderRow, now: datetime) -> bool:
    """Return true for a working exit that is awaited, false for an order to cancel.

    External exits are cancelled because they reserve the shares. A repriced take-profit is awaited for
    REPRICED_TIMEOUT.
    """
    if row.origin == "catalyst" and row.replaces is not None:
        return now - row.created_at < REPRICED_TIMEOUT
    return row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) and row.origin != "external"


def _group_broker_ids(working: list[OrderRow], rows: list[OrderRow]) -> set[str]:
    """Return the broker ids whose reports contain every working order: a leg is reported with its parent."""
    by_id = {row.order_id: row for row in rows}
    parents = [by_id.get(row.parent_order_id or row.order_id, row) for row in working]
    return {row.alpaca_order_id for row in parents if row.alpaca_order_id is not None}
