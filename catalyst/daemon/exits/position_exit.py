"""Position exit: the steps of one exit of one position.

The target is moved to the market first: its group stays, so no share loses its stop. Where that is impossible, refused
or not filled soon: write the sale, cancel the orders that reserve the shares, wait until they are terminal, read the
broker's quantity, send the sale, wait for the fill. A refused sale is retried for seconds; then, or at once when the
reason lasts, the exit is postponed and the position protector puts the stop back.
"""

import logging
from collections.abc import Container
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Priority
from catalyst.clock import Clock
from catalyst.daemon.exits.blocking_orders import BlockingOrders
from catalyst.daemon.exits.cancel_turn import CancelTurn
from catalyst.daemon.exits.exit_alert import raise_exit_alert
from catalyst.daemon.exits.exit_backoff import Condition, ExitBackoff
from catalyst.daemon.exits.exit_orders import (
    Repricing,
    exit_order,
    group_broker_ids,
    prepared_exit,
    repricing_of,
)
from catalyst.daemon.exits.report_wait import REPORT_TIMEOUT, ReportWait
from catalyst.daemon.orders.submission import without_legs
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import PositionSide, Purpose, Status
from catalyst.domain.position import PositionStatus, is_planned_exit, whole_shares
from catalyst.domain.protection import (
    UNACKNOWLEDGED_REASON,
    UNACKNOWLEDGED_STATUS,
    stops_without_successor,
)
from catalyst.domain.refusals import (
    EXIT_ANSWERS,
    MAX_UNPROTECTED_RETRIES,
    REPLACE_ANSWERS,
    ExitAnswer,
    RefusalClass,
    RejectionReason,
    ReplaceAnswer,
    class_of_exit,
    pause_after,
    reason_of,
)
from catalyst.domain.rows import NewOrder, OrderRow, PositionRow
from catalyst.store import exit_intents, orders, positions
from catalyst.store.constraint_errors import ExitExceedsPosition
from catalyst.store.exit_intents import ExitIntent

log = structlog.get_logger()

TURN_POLL_INTERVAL: Final = timedelta(seconds=0.5)
REPRICED_TIMEOUT: Final = timedelta(seconds=5)  # a repriced take-profit has this long to fill
RESERVED_SHARES_TIMEOUT: Final = timedelta(seconds=10)  # the broker's available quantity may lag its fills
# Shares without a stop for that long get it back when their quantity has been unknown for UNREADABLE_FOR.
UNREADABLE_TIMEOUT: Final = timedelta(seconds=11)
UNREADABLE_FOR: Final = timedelta(seconds=6)
UNACKNOWLEDGED_TIMEOUT: Final = timedelta(seconds=10)  # an acknowledgement takes milliseconds
NO_SHARES_TIMEOUT: Final = timedelta(seconds=15)  # the broker's positions may lag behind its own fills
ALERT_WINDOW: Final = timedelta(days=1)
# Rejections because another order, usually external, reserves the shares.
BLOCKED_CODES: Final = ("INSUFFICIENT_QTY", "WASH_TRADE", "OPPOSITE_ORDER")


@dataclass
class PositionExit:
    """Exits the position of one open intent. `overnight`: ids of positions whose exit must end now, unsold."""

    blocking_orders: BlockingOrders
    current_day: CurrentDay
    clock: Clock
    epoch: int
    turn: CancelTurn
    overnight: Container[int]
    intent: ExitIntent
    backoff: ExitBackoff = field(default_factory=ExitBackoff)

    def __post_init__(self) -> None:
        self.store, self.broker = self.blocking_orders.store, self.blocking_orders.broker
        self.ledger, self.submission = self.blocking_orders.ledger, self.blocking_orders.submission
        self.began_at = self.clock.now()
        self.is_slow_alerted = False
        self._has_begun_cancel = False
        self._reports = ReportWait(self.clock, self.ledger.changed)

    def note_slow_alert(self) -> None:
        """Record that an alert says how long this exit takes."""
        self.is_slow_alerted = True

    async def run(self) -> None:
        """Exit the position; return when it is closed or postponed, when no step is left, or when the market is
        closed.

        It may run again after a failure: the time since its begin goes on.
        """
        self.backoff = ExitBackoff()
        try:
            while await self._step():
                pass
        finally:
            self.turn.release(self.intent.position_id)

    async def postpone_after(self, error: Exception, pause: timedelta, failures: int) -> None:
        """Postpone the exit that failed several times, so that its stop is checked meanwhile."""
        position, _ = await self._read_position()
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        refusal = f"{RejectionReason.SUBMIT_FAILED}: the exit failed: {failure}"
        await self._postpone(position, refusal, refusals=failures, pause=pause)

    async def _step(self) -> bool:
        """Do the next step; return false when the exit ends or waits for another run."""
        seen_version = self.ledger.changed.version
        position, rows = await self._read_position()
        if position.status == PositionStatus.CLOSED:
            await self._end_intent("done")
            return False
        if self.submission.is_in_outage_exit(position.symbol):
            return False  # the outage exit is closing it, and the database does not show that yet
        self._reports.note_rows(rows)
        sent = [row for row in rows if row.is_working and row.status is not Status.CREATED]
        if position.position_id in self.overnight:
            return await self._end_exits(position, sent, seen_version)
        own_exits = [row for row in sent if self._is_awaited(row)]
        if own_exits:
            self.turn.release(position.position_id)
            await self._await_fill(own_exits, seen_version)
        elif not self.current_day.market_open:
            log.warning("exit_waits_for_open", symbol=position.symbol, reason=self.intent.reason)
            await self._drop_prepared()
            return False
        elif (repricing := repricing_of(position, sent, rows, self.intent)) is not None:
            return await self._reprice_target(position, repricing)
        elif sent:
            self.backoff.end(Condition.UNPROTECTED)
            await self._cancel_blocking_orders(position, sent, rows, seen_version)
        elif any(
            row.closed_at is not None and self.clock.now() - row.closed_at < NO_SHARES_TIMEOUT
            for row in stops_without_successor(rows)
        ):  # the successor may be selling the shares, and the broker's positions may not show it yet
            if not await self._reports.await_report(seen_version):
                self.ledger.reconcile_requested.notify()  # a pass adopts it
        else:
            return await self._try_exit_order(position, rows)
        return True

    def _is_awaited(self, row: OrderRow) -> bool:
        """Return true for a working exit that is awaited, false for an order to cancel.

        External exits are cancelled because they reserve the shares. A repriced take-profit is awaited for
        REPRICED_TIMEOUT, during a halt until it fills: its stop works beside it.
        """
        if row.origin == "catalyst" and row.replaces is not None:
            is_halted = reason_of(self.intent.refusal or "") is RejectionReason.HALTED
            return is_halted or self.clock.now() - row.created_at < REPRICED_TIMEOUT
        return row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) and row.origin != "external"

    async def _read_position(self) -> tuple[PositionRow, list[OrderRow]]:
        position_id = self.intent.position_id
        async with self.store.read() as conn:
            return await positions.get(conn, position_id), await orders.of_position(conn, position_id)

    # -- waiting

    async def _await_fill(self, working: list[OrderRow], seen_version: int) -> None:
        """Wait for a report of the exits already sent; poll them when none came for REPORT_TIMEOUT.

        Exits that nobody fills and exits that the venue does not acknowledge are cancelled; a new order follows.
        """
        for row in working:
            if self.backoff.is_unfilled_too_long(row, self.clock.now()):
                if self.backoff.cancels.acquire(row.order_id, self.clock.now()):
                    log.warning("exit_not_filled", order_id=row.order_id, symbol=row.symbol)
                    await self.submission.cancel(row, self.intent.purpose.upper())
            elif await self._is_stuck(row):
                log.warning("exit_unacknowledged", order_id=row.order_id, symbol=row.symbol)
                await self.submission.cancel(row, UNACKNOWLEDGED_REASON)
        if await self._reports.await_report(seen_version):
            return
        for row in working:
            if row.alpaca_order_id is None:
                await self.submission.resolve(row.order_id)
            else:
                await self.submission.refresh(row.alpaca_order_id, "poll")

    async def _is_stuck(self, row: OrderRow) -> bool:
        """Return true when an exit is unacknowledged for UNACKNOWLEDGED_TIMEOUT and a new read confirms it.

        It is true once every CANCEL_RETRY_AFTER, so that the cancel is repeated.
        """
        now = self.clock.now()
        if row.broker_status != UNACKNOWLEDGED_STATUS or row.filled_qty or row.alpaca_order_id is None:
            self.backoff.unacknowledged_since.pop(row.order_id, None)
            return False
        if now - self.backoff.unacknowledged_since.setdefault(row.order_id, now) < UNACKNOWLEDGED_TIMEOUT:
            return False
        if not self.backoff.cancels.acquire(row.order_id, now):
            return False
        if not await self.submission.refresh(row.alpaca_order_id, "poll"):
            return False
        async with self.store.read() as conn:
            current = await orders.get(conn, row.order_id)
        return current.broker_status == UNACKNOWLEDGED_STATUS and not current.filled_qty

    # -- repricing and cancelling

    async def _reprice_target(self, position: PositionRow, repricing: Repricing) -> bool:
        """Move the take-profit to the market, once; return false, with the exit postponed, when every sale is
        refused.

        The target is read first: its fills may be on their way, and a replacement takes only the rest.
        """
        assert (
            repricing.target.alpaca_order_id is not None
        )  # only an order that the broker has shown is moved
        await self.submission.refresh(repricing.target.alpaca_order_id, "poll")
        position, rows = await self._read_position()
        sent = [row for row in rows if row.is_working and row.status is not Status.CREATED]
        fresh = repricing_of(position, sent, rows, self.intent)
        if fresh is None:
            return True  # it has changed: decide again
        repriced = fresh.order(installation=self.submission.installation, epoch=self.epoch)
        log.log(
            logging.INFO if is_planned_exit(self.intent.reason) else logging.WARNING,
            "take_profit_repriced",
            symbol=position.symbol,
            limit=str(repriced.limit_price),
            reason=self.intent.reason,
        )
        answered = await self.submission.replace(fresh.target, repriced, note=self.intent.reason)
        refusal = answered.rejection_reason or ""
        if (
            answered.status is Status.REJECTED
            and REPLACE_ANSWERS[reason_of(refusal)] is ReplaceAnswer.POSTPONE
        ):
            await self._postpone(position, refusal)
            return False
        return True

    async def _cancel_blocking_orders(
        self, position: PositionRow, working: list[OrderRow], rows: list[OrderRow], seen_version: int
    ) -> None:
        """Write the sale, cancel the orders that reserve the shares, then wait for a report or poll them.

        One position after the other begins this; a cancel that hangs needs no further turn.
        """
        if not self._has_begun_cancel and not self.turn.acquire(position.position_id, self.clock.now()):
            await self.ledger.changed.wait(self.clock, TURN_POLL_INTERVAL, since=seen_version)
            return
        await self._prepare_exit(position, rows)
        self._has_begun_cancel = True
        await self.submission.cancel_orders(
            without_legs(working), self.intent.purpose.upper(), self.backoff.cancels
        )
        if await self._reports.await_report(seen_version):
            return  # a report changed the rows: read them again
        for broker_id in group_broker_ids(working, rows):
            await self.submission.refresh(broker_id, "poll")

    async def _prepare_exit(self, position: PositionRow, rows: list[OrderRow]) -> None:
        """Write the sale that is sent after the cancel, unless there is one.

        Orders for more shares than are held refuse it. That proves as well that the database can be written, and only
        their cancel ends it: a target that fills during the exit, or an external order.
        """
        if prepared_exit(rows) is not None:
            return
        try:
            await self.submission.prepare_exit(
                self._exit_order(position, rows, position.quantity),
                note=self.intent.reason,
            )
        except ExitExceedsPosition as error:
            log.info("exit_not_prepared", symbol=position.symbol, error=str(error))

    # -- selling

    async def _try_exit_order(self, position: PositionRow, rows: list[OrderRow]) -> bool:
        """Send an exit order for the quantity just read.

        Return false when the exit is postponed, or abandoned because the broker has shown no shares for
        NO_SHARES_TIMEOUT.
        """
        self.backoff.duration_of(Condition.UNPROTECTED, self.clock.now())
        quantity = await self._exit_quantity(position, rows)
        unprotected_for = self.backoff.duration_of(Condition.UNPROTECTED, self.clock.now())
        if quantity == 0:
            if self.backoff.duration_of(Condition.NO_SHARES, self.clock.now()) >= NO_SHARES_TIMEOUT:
                await self._end_intent("abandoned")
                log.error(
                    "exit_no_shares_at_broker", symbol=position.symbol, position_id=position.position_id
                )
                return False
        else:
            self.backoff.end(Condition.NO_SHARES)
        if quantity is not None:
            self.backoff.end(Condition.UNREADABLE)
        elif (
            self.backoff.duration_of(Condition.UNREADABLE, self.clock.now()) >= UNREADABLE_FOR
            and unprotected_for >= UNREADABLE_TIMEOUT
        ):
            await self._postpone(position, f"{RejectionReason.SUBMIT_FAILED}: the shares could not be read")
            return False
        if not quantity:
            # Short pauses: a read costs less than a rejected order.
            await self.clock.sleep(min(self.backoff.next_pause(), REPORT_TIMEOUT))
            return True
        sent = await self._send_exit_order(position, rows, quantity)
        if sent.status is not Status.REJECTED:
            return True
        refusal = sent.rejection_reason or ""
        must_postpone = EXIT_ANSWERS[reason_of(refusal)] is ExitAnswer.POSTPONE
        unprotected_for = self.backoff.duration_of(Condition.UNPROTECTED, self.clock.now())
        if must_postpone or unprotected_for >= MAX_UNPROTECTED_RETRIES:
            await self._postpone(position, refusal)
            return False
        await self.clock.sleep(self.backoff.next_pause())
        return True

    async def _exit_quantity(self, position: PositionRow, rows: list[OrderRow]) -> Decimal | None:
        """Return the shares to sell (or buy back) now: the smaller of our and the broker's quantity.

        None when this is not known yet. Zero when the broker shows no shares, after missing fills are booked, or the
        opposite side.
        """
        try:
            held = await self.broker.position(position.symbol, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=position.symbol, error=str(error))
            return None
        held_qty = Decimal(0) if held is None else whole_shares(held.quantity)
        if held is None or held_qty == 0:
            for row in rows:
                if row.alpaca_order_id is not None:
                    await self.ledger.fetch_missing_fills(row.alpaca_order_id, "poll")
            return Decimal(0)
        if (held_qty > 0) is not (position.side is PositionSide.LONG):
            log.error("position_side_mismatch", symbol=position.symbol, broker_qty=str(held_qty))
            return Decimal(0)
        quantity = min(position.quantity, abs(held_qty))
        free_qty = abs(whole_shares(held.available))
        if free_qty >= quantity:
            self.backoff.end(Condition.RESERVED)
            return quantity
        log.info("shares_reserved", symbol=position.symbol, available=str(held.available))
        found = await self.blocking_orders.cancel_external(position.symbol)
        if found.any_to_wait_for:
            return None
        if self.backoff.duration_of(Condition.RESERVED, self.clock.now()) < RESERVED_SHARES_TIMEOUT:
            return None
        if found.of_another_catalyst:
            await self.blocking_orders.alert(position.symbol, found.of_another_catalyst)
            return free_qty or quantity
        return quantity  # no list shows the order that reserves them; the rejection of an exit names it

    def _exit_order(self, position: PositionRow, rows: list[OrderRow], quantity: Decimal) -> NewOrder:
        return exit_order(
            position,
            rows,
            self.intent,
            quantity,
            installation=self.submission.installation,
            epoch=self.epoch,
        )

    async def _send_exit_order(
        self, position: PositionRow, rows: list[OrderRow], quantity: Decimal
    ) -> OrderRow:
        """Send the prepared sale, or write and send another; cancel the orders that its rejection names."""
        prepared = prepared_exit(rows)
        if prepared is not None and prepared.quantity == quantity:
            sent = await self.submission.send_prepared_exit(prepared)
        else:
            await self._drop_prepared()
            sent = await self.submission.place(
                self._exit_order(position, rows, quantity), note=self.intent.reason
            )
        log.info(
            "exit_sent",
            symbol=position.symbol,
            qty=str(quantity),
            reason=self.intent.reason,
            status=sent.status,
        )
        blocking_ids = self.submission.blocking_orders.pop(sent.order_id, ())
        if sent.rejection_reason and sent.rejection_reason.startswith(BLOCKED_CODES):
            for broker_id in blocking_ids:
                await self.blocking_orders.cancel_named(broker_id, self.intent.purpose.upper())
            await self.blocking_orders.cancel_external(position.symbol)
        return sent

    # -- ending

    async def _end_exits(self, position: PositionRow, sent: list[OrderRow], seen_version: int) -> bool:
        """Cancel the exits that still work, then postpone the exit; its protective orders stay."""
        sales = [row for row in sent if row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)]
        if not sales:
            await self._postpone(position, None)
            return False
        await self.submission.cancel_orders(sales, self.intent.purpose.upper(), self.backoff.cancels)
        if not await self._reports.await_report(seen_version):
            for broker_id in group_broker_ids(sales, sales):
                await self.submission.refresh(broker_id, "poll")
        return True

    async def _postpone(
        self,
        position: PositionRow,
        refusal: str | None,
        *,
        refusals: int | None = None,
        pause: timedelta | None = None,
    ) -> None:
        """Postpone the exit; its protective orders work again until then. `refusal` None: the session ends."""
        now = self.clock.now()
        refusals = self.intent.refusals + (refusal is not None) if refusals is None else refusals
        pause = pause or pause_after(refusal or self.intent.refusal or "", max(refusals, 1))
        async with self.store.tx("exit_postponed") as conn:
            await exit_intents.postpone(
                conn, self.intent.intent_id, retry_at=now + pause, refusal=refusal, refusals=refusals
            )
            await exit_intents.drop_unsent_exits(conn, position.position_id, at=now, epoch=self.epoch)
        log.error(
            "exit_postponed",
            symbol=position.symbol,
            refusal=refusal,
            refusals=refusals,
            again_in=pause.total_seconds(),
        )
        self.ledger.changed.notify()  # the position protector checks now
        if refusal is not None and (class_of_exit(refusal) is not RefusalClass.PASSING or refusals > 1):
            await raise_exit_alert(
                self.store,
                "EXIT_REFUSED",
                f"{position.symbol}: the broker refuses to exit {position.quantity} shares ({refusal}); the stop "
                "protects them, Catalyst tries again; sell them in the broker's app if they must go now",
                subject=position.position_id,
                facts={
                    "position_id": position.position_id,
                    "symbol": position.symbol,
                    "refusal": refusal,
                },
                at=now,
                window=ALERT_WINDOW,
            )

    async def _drop_prepared(self) -> None:
        """End the sale that was written and not sent."""
        async with self.store.tx("exit_dropped") as conn:
            await exit_intents.drop_unsent_exits(
                conn, self.intent.position_id, at=self.clock.now(), epoch=self.epoch
            )

    async def _end_intent(self, state: str) -> None:
        async with self.store.tx("exit_end") as conn:
            await exit_intents.end_intent(
                conn, self.intent.position_id, state=state, at=self.clock.now(), epoch=self.epoch
            )
