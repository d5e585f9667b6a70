"""Position protector: keeps a working stop at the broker for every open share.

It is level-triggered: each check derives the missing orders from rows and the broker, so a restart needs no memory.
"""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Priority
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.protection.unprotected_time import UnprotectedTime
from catalyst.daemon.runtime.database_health import DatabaseHealth
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.domain.errors import BrokerError, DatabaseUnavailable
from catalyst.domain.ids import unused_client_order_id
from catalyst.domain.order import EXITS, WORKING, Purpose, Status, side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.protection import (
    UNACKNOWLEDGED_REASON,
    Protection,
    default_levels,
    exit_orders_of,
    protection_of,
)
from catalyst.domain.rows import NewOrder, OrderRow, PositionRow
from catalyst.store import exit_intents, orders, positions
from catalyst.store.constraint_errors import ExitExceedsPosition
from catalyst.store.pool import Store

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=15)
UNPROTECTED_CHECK_INTERVAL: Final = timedelta(seconds=1)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
MAX_OCO_ATTEMPTS: Final = 4  # rejections after which the position is exited
MAX_UNBOOKED_ATTEMPTS: Final = 15  # the same for UNBOOKED_CODES: the broker has not booked the new shares yet
UNBOOKED_CODES: Final = ("NOT_EXIT", "INSUFFICIENT_QTY", "NOT_SHORTABLE")
EXCESS_GRACE: Final = timedelta(seconds=3)
ACKNOWLEDGE_GRACE: Final = timedelta(seconds=5)

ProtectionFingerprint = tuple[object, ...]


@dataclass
class PositionProtector:
    """Checks the exit orders of each open position and places missing protection."""

    store: Store
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    clock: Clock
    config: CurrentConfig
    unprotected_time: UnprotectedTime
    health: DatabaseHealth
    epoch: int
    _excess_since: dict[int, datetime] = field(default_factory=dict)  # stops exceed the position
    _pending_since: dict[int, datetime] = field(default_factory=dict)  # exits are unacknowledged
    _verified: dict[int, ProtectionFingerprint] = field(default_factory=dict)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _cancels: CancelThrottle[int] = field(default_factory=lambda: CancelThrottle(CANCEL_RETRY_AFTER))

    async def run(self) -> None:
        """Check after every change, and at least every second while a position is unconfirmed."""
        try:
            await run_on_signal(
                self.ledger.changed,
                self.clock,
                self._check_and_report_health,
                lambda has_unconfirmed: UNPROTECTED_CHECK_INTERVAL if has_unconfirmed else CHECK_INTERVAL,
            )
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _check_and_report_health(self) -> bool:
        """Check once, and report to `health` whether the database could be read."""
        try:
            has_unconfirmed = await self.check()
        except DatabaseUnavailable:
            self.health.suspect()
            raise
        self.health.clear_suspicion()
        return has_unconfirmed

    async def check(self) -> bool:
        """Start a task for each open position whose protection is not confirmed; return true when there is one.

        Positions with an exit intent while the market is open, or in the outage exit, are skipped.
        """
        version, read_at = self.ledger.changed.version, self.clock.now()
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
            with_intent = {intent.position_id for intent in await exit_intents.open_intents(conn)}
            if not self.exits.market_open:
                with_intent.clear()  # no exit can run before the open: protect until then
            rows = await orders.of_positions(conn, [position.position_id for position in held])
        self.ledger.last_known.update(held, rows, version=version, read_at=read_at)
        await self.unprotected_time.measure_closed(held)
        has_unconfirmed = False
        for position in held:
            fingerprint = _fingerprint(position, rows[position.position_id])
            if position.position_id in with_intent or self._verified.get(position.position_id) == fingerprint:
                continue
            if self.submission.is_in_outage_exit(position.symbol):
                continue  # the outage exit is closing it, and the database does not show that yet
            has_unconfirmed = True
            task = self._tasks.get(position.position_id)
            if task is None or task.done():
                self._tasks[position.position_id] = asyncio.create_task(
                    self._check_isolated(position.position_id), name=f"protect-{position.position_id}"
                )
        return has_unconfirmed

    async def _check_isolated(self, position_id: int) -> None:
        try:
            await self._check_position(position_id)
        except Exception:  # the next check retries; the other positions go on
            log.exception("protection_failed", position_id=position_id)

    async def _check_position(self, position_id: int) -> None:
        """Poll the position's orders; then confirm their protection, wait for the entry, or replace them."""
        position, rows = await self._read_position(position_id)
        await self._refresh_orders(rows)
        position, rows = await self._read_position(position_id)
        if position.quantity == 0:
            return
        state = protection_of(position.quantity, exit_orders_of(rows))
        if state is Protection.PROTECTED:
            self._excess_since.pop(position_id, None)
            self._pending_since.pop(position_id, None)
            self._verified[position_id] = _fingerprint(position, rows)
            await self.unprotected_time.mark_protected(position, rows)
            return
        self._verified.pop(position_id, None)  # rows that were confirmed before have to be confirmed again
        grace_over = self._is_excess_grace_over(position_id, state)
        if grace_over is not None:
            if grace_over:
                log.warning("stop_exceeds_position", symbol=position.symbol, qty=str(position.quantity))
                await self._protect(position, rows)
            return
        await self.unprotected_time.mark_unprotected(position, rows, state)
        if self._is_in_acknowledge_grace(position_id, state):
            return
        entries = [row for row in rows if row.order_purpose is Purpose.ENTRY and row.is_working]
        # External entries are not ours to cancel.
        own_entries = [row for row in entries if row.origin != "external"]
        if own_entries:
            await self._cancel_partial_entry(position, own_entries)
        else:
            await self._protect(
                position, rows, UNACKNOWLEDGED_REASON if state is Protection.PENDING else "OCO"
            )

    async def _read_position(self, position_id: int) -> tuple[PositionRow, list[OrderRow]]:
        async with self.store.read() as conn:
            return await positions.get(conn, position_id), await orders.of_position(conn, position_id)

    async def _refresh_orders(self, rows: list[OrderRow]) -> None:
        """Poll every group that may protect: the entry with its legs, an OCO with its stop."""
        for row in rows:
            if row.alpaca_order_id is None or row.parent_order_id is not None:
                continue
            if row.order_class in ("bracket", "oco") or row.status in WORKING:
                await self.submission.refresh(row.alpaca_order_id, "poll")

    async def _ensure_levels(self, position: PositionRow) -> PositionRow | None:
        """Return the position with a stop and a target; None when the broker cannot be read.

        Without a plan (an external entry) they are the configured percentages from the market price, and are stored.
        """
        if position.stop_loss is not None and position.take_profit is not None:
            return position
        try:
            held = await self.exits.broker.position(position.symbol, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=position.symbol, error=str(error))
            return None
        market_price = None if held is None else held.current_price
        stop, target = default_levels(
            position.side,
            market_price or position.entry_price,
            stop_pct=self.config.positions.default_stop_loss_pct,
            target_pct=self.config.positions.default_take_profit_pct,
        )
        stop, target = position.stop_loss or stop, position.take_profit or target
        async with self.store.tx("set_levels") as conn:
            await positions.set_levels(
                conn, position.position_id, stop_loss=stop, take_profit=target, at=self.clock.now()
            )
        self.ledger.changed.notify()
        log.info("levels_set", symbol=position.symbol, stop=str(stop), target=str(target))
        return replace(position, stop_loss=stop, take_profit=target)

    def _is_excess_grace_over(self, position_id: int, state: Protection) -> bool | None:
        """Return true when stops exceed the position for EXCESS_GRACE; None when they do not exceed it.

        After a partial fill of the target the broker reduces the stop itself, within moments.
        """
        if state is not Protection.EXCESS:
            self._excess_since.pop(position_id, None)
            return None
        since = self._excess_since.setdefault(position_id, self.clock.now())
        return self.clock.now() - since >= EXCESS_GRACE

    def _is_in_acknowledge_grace(self, position_id: int, state: Protection) -> bool:
        """Return true while exits are unacknowledged for less than ACKNOWLEDGE_GRACE.

        An order that stays unacknowledged protects nothing.
        """
        if state is not Protection.PENDING:
            self._pending_since.pop(position_id, None)
            return False
        since = self._pending_since.setdefault(position_id, self.clock.now())
        return self.clock.now() - since < ACKNOWLEDGE_GRACE

    async def _cancel_partial_entry(self, position: PositionRow, entries: list[OrderRow]) -> None:
        """Cancel the rest of a partly filled entry after the grace: its legs protect nothing until it is filled."""
        now = self.clock.now()
        if now - position.entry_time < timedelta(seconds=self.config.execution.partial_entry_grace_seconds):
            return
        for row in entries:
            if self._cancels.acquire(row.order_id, now):
                log.info(
                    "partial_entry_cancel_requested",
                    symbol=row.symbol,
                    filled=str(row.filled_qty),
                    of=str(row.quantity),
                )
                await self.submission.cancel(row, "PARTIAL_GRACE")

    async def _protect(self, position: PositionRow, rows: list[OrderRow], reason: str = "OCO") -> None:
        """Cancel remaining exits with the cancel reason `reason`, then place an OCO for exactly the shares held.

        Exit the position when the OCO is rejected too often, or because the price is beyond a level already.
        """
        leftovers = [row for row in rows if row.order_purpose in EXITS and row.status in WORKING]
        if leftovers:
            await self.submission.cancel_orders(leftovers, reason, self._cancels)
            return
        with_levels = await self._ensure_levels(position)
        if with_levels is None:
            return
        position = with_levels
        previous_ocos = [row for row in rows if row.order_class == "oco" and row.parent_order_id is None]
        rejections = [row for row in previous_ocos if row.status is Status.REJECTED]
        last_rejection = str(rejections[-1].rejection_reason) if rejections else ""
        if len(rejections) >= (
            MAX_UNBOOKED_ATTEMPTS if last_rejection.startswith(UNBOOKED_CODES) else MAX_OCO_ATTEMPTS
        ):
            await self._exit_unprotectable(position, last_rejection)
            return
        try:
            sent = await self._place_oco(position, rows, attempt=len(previous_ocos))
        except ExitExceedsPosition as error:
            # Another exit was written after the rows were read: the next check reads it.
            log.warning("protection_conflict", symbol=position.symbol, error=str(error))
            return
        if sent.status is not Status.REJECTED:
            return
        if (exit_reason := _level_already_crossed(position, str(sent.rejection_reason))) is not None:
            await self.exits.request(
                position.position_id, reason=exit_reason, purpose=Purpose.EXIT, by="position_protector"
            )
        else:
            await self.clock.sleep(UNPROTECTED_CHECK_INTERVAL)

    async def _place_oco(self, position: PositionRow, rows: list[OrderRow], *, attempt: int) -> OrderRow:
        base = next((row.client_order_id for row in rows if row.order_purpose is Purpose.ENTRY), None)
        base = base or f"{position.symbol}|{position.entry_time.isoformat()}"
        return await self.submission.place(
            NewOrder(
                client_order_id=unused_client_order_id(
                    base, "op", attempt, {row.client_order_id for row in rows}
                ),
                symbol=position.symbol,
                purpose=Purpose.TAKE_PROFIT,
                position_side=position.side,
                side=side_for(position.side, Purpose.TAKE_PROFIT),
                quantity=position.quantity,
                order_type="limit",
                time_in_force="day",
                order_class="oco",
                limit_price=position.take_profit,
                bracket_stop=position.stop_loss,
                bracket_target=position.take_profit,
                cycle_id=position.cycle_id,
                position_id=position.position_id,
                epoch=self.epoch,
            ),
            note=f"stop and target for the {position.quantity} shares held",
        )

    async def _exit_unprotectable(self, position: PositionRow, rejection: str) -> None:
        """Request the exit of a position that cannot be protected."""
        reason = f"{CloseReason.EMERGENCY_STOP}: {position.symbol} cannot be protected: {rejection}"
        await self.exits.request(
            position.position_id, reason=reason, purpose=Purpose.EXIT, by="position_protector"
        )


def _level_already_crossed(position: PositionRow, rejection: str) -> str | None:
    """Return the exit reason when the broker rejects an OCO because the price is beyond a level already; else None.

    The rejection text names the level: the take-profit only when it names no stop, otherwise the stop.
    """
    code, _, message = rejection.partition(":")
    if code != "PRICE_RULE":
        return None
    if "take_profit" in message and "stop" not in message:
        return f"{CloseReason.TAKE_PROFIT_HIT}: {position.symbol} is beyond its target ${position.take_profit} already"
    return f"{CloseReason.STOP_LOSS_HIT}: {position.symbol} is beyond its stop ${position.stop_loss} already"


def _fingerprint(position: PositionRow, rows: list[OrderRow]) -> ProtectionFingerprint:
    """Return the facts a confirmation depends on; it is valid until they change."""
    return (
        position.quantity,
        *((row.order_id, row.status, row.broker_status, row.quantity) for row in rows),
    )
