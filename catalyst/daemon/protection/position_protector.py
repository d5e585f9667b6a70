"""Protection: every open share under a working stop at the broker, and the time it was not, measured.

Level-triggered: each look derives from rows and the broker what is missing, so a restart needs no memory.
"""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Priority
from catalyst.clock import Clock
from catalyst.config.schema import ExecutionConfig, PositionsConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.protection.unprotected_time import UnprotectedTime, unfilled_entries
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.domain.errors import BrokerError
from catalyst.domain.ids import unused_client_order_id
from catalyst.domain.order import EXITS, WORKING, Purpose, Status, side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.protection import (
    UNACKNOWLEDGED_REASON,
    ExitOrder,
    Protection,
    default_levels,
    protection_of,
)
from catalyst.store import exit_intents, orders, positions
from catalyst.store.constraint_errors import ExitExceedsPosition
from catalyst.store.orders import NewOrder, OrderRow
from catalyst.store.pool import Store, is_outage
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=15)
UNPROTECTED_CHECK_INTERVAL: Final = timedelta(seconds=1)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
MAX_OCO_ATTEMPTS: Final = 4  # of a refusal that may pass; after that, leave it
MAX_UNBOOKED_ATTEMPTS: Final = 15  # while the broker has not booked the shares it has just sold us
UNBOOKED_CODES: Final = ("NOT_EXIT", "INSUFFICIENT_QTY", "NOT_SHORTABLE")
EXCESS_GRACE: Final = timedelta(seconds=3)
ACKNOWLEDGE_GRACE: Final = timedelta(seconds=5)

ProtectionFingerprint = tuple[object, ...]


@dataclass
class PositionProtector:
    """Watches each open position's exits and mends what is missing."""

    store: Store
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    clock: Clock
    cfg: ExecutionConfig
    positions_cfg: PositionsConfig
    unprotected_time: UnprotectedTime
    epoch: int
    _database_down: bool = False  # the last look found no tables
    _excess_since: dict[int, datetime] = field(default_factory=dict)  # stops for too much, since when
    _pending_since: dict[int, datetime] = field(default_factory=dict)  # unacknowledged exits, since when
    _verified: dict[int, ProtectionFingerprint] = field(default_factory=dict)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _cancel_requested_at: dict[int, datetime] = field(default_factory=dict)

    @property
    def unprotected(self) -> set[int]:
        """Positions not under a working stop right now."""
        return self.unprotected_time.unprotected

    @property
    def database_down(self) -> bool:
        """True while the last look found no tables."""
        return self._database_down

    @property
    def unprotected_changed(self) -> ChangeSignal:
        """Beats when there is one more of them."""
        return self.unprotected_time.unprotected_changed

    async def run(self) -> None:
        """Look again after every change, at least every second while anything is naked."""
        try:
            while True:
                seen_version = self.ledger.changed.version
                unsure = await self._check_or_signal_outage()
                await self.ledger.changed.wait(
                    self.clock, UNPROTECTED_CHECK_INTERVAL if unsure else CHECK_INTERVAL, since=seen_version
                )
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _check_or_signal_outage(self) -> bool:
        """A look. That the tables are gone is told at once to who watches without them: nobody knows what is bare."""
        try:
            unsure = await self.check()
        except Exception as error:
            if is_outage(error) and not self._database_down:
                self._database_down = True
                self.unprotected_changed.notify()
            raise
        self._database_down = False
        return unsure

    async def check(self) -> bool:
        """Start tending each open position whose protection is not known to be in order; true when one is."""
        changes, at = self.ledger.changed.version, self.clock.now()
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
            leaving = {intent.position_id for intent in await exit_intents.open_intents(conn)}
            if not self.exits.market_open:
                leaving.clear()  # nothing can be left before the open: until then it is protected
            rows = await orders.of_positions(conn, [p.position_id for p in held])
        self.ledger.last_known.update(held, rows, version=changes, read_at=at)
        await self.unprotected_time.measure_closed(held)
        unsure = False
        for position in held:
            seen = _fingerprint(position, rows[position.position_id])
            if position.position_id in leaving or self._verified.get(position.position_id) == seen:
                continue
            if position.symbol in self.submission.outage_symbols:
                continue  # left without the tables, which have not heard of it yet
            unsure = True
            task = self._tasks.get(position.position_id)
            if task is None or task.done():
                self._tasks[position.position_id] = asyncio.create_task(
                    self._check_isolated(position.position_id), name=f"guard-{position.position_id}"
                )
        return unsure

    async def _check_isolated(self, position_id: int) -> None:
        try:
            await self._check_position(position_id)
        except Exception:  # the next look tries again; the other positions are not held up
            log.exception("protection_failed", position_id=position_id)

    async def _check_position(self, position_id: int) -> None:
        """Re-read the group at the broker; then confirm it, wait for its entry, or replace it."""
        position, rows = await self._read_position(position_id)
        await self._refresh_orders(rows)
        position, rows = await self._read_position(position_id)
        if position.quantity == 0:
            return
        state = protection_of(position.quantity, _exit_orders(rows))
        if state is Protection.PROTECTED:
            self._excess_since.pop(position_id, None)
            self._pending_since.pop(position_id, None)
            self._verified[position_id] = _fingerprint(position, rows)
            await self.unprotected_time.mark_protected(position, rows)
            return
        too_much = self._is_excess_grace_over(position_id, state)
        if too_much is not None:
            if too_much:
                log.warning("stop_exceeds_position", symbol=position.symbol, qty=str(position.quantity))
                await self._protect(position, rows)
            return
        await self.unprotected_time.mark_unprotected(position, rows, state)
        if self._is_in_acknowledge_grace(position_id, state):
            return
        entries = [row for row in rows if row.order_purpose is Purpose.ENTRY and row.is_working]
        ours = [row for row in entries if row.origin != "external"]  # a person's is theirs to cancel
        if ours:
            await self._cancel_partial_entry(position, ours)
        else:
            await self._protect(
                position, rows, UNACKNOWLEDGED_REASON if state is Protection.PENDING else "OCO"
            )

    async def _read_position(self, position_id: int) -> tuple[PositionRow, list[OrderRow]]:
        async with self.store.read() as conn:
            return await positions.get(conn, position_id), await orders.of_position(conn, position_id)

    async def _refresh_orders(self, rows: list[OrderRow]) -> None:
        """Ask the broker for every group that could protect: the entry with its legs, an OCO with its stop."""
        for row in rows:
            if row.alpaca_order_id is None or row.parent_order_id is not None:
                continue
            if row.order_class in ("bracket", "oco") or row.status in WORKING:
                await self.submission.refresh(row.alpaca_order_id, "poll")

    async def _ensure_levels(self, position: PositionRow) -> PositionRow | None:
        """The position with a stop and a target; where no plan gave them (a person bought it), so many percent from
        where the market is. None: the broker cannot be read."""
        if position.stop_loss is not None and position.take_profit is not None:
            return position
        try:
            held = await self.exits.broker.position(position.symbol, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=position.symbol, error=str(error))
            return None
        shown = None if held is None else held.current_price
        stop, target = default_levels(
            position.side,
            shown or position.entry_price,
            stop_pct=self.positions_cfg.default_stop_loss_pct,
            target_pct=self.positions_cfg.default_take_profit_pct,
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
        """A broker shrinks a stop itself when its target fills in part: it is given a moment for that. None: the stop
        is for no more than is held."""
        if state is not Protection.EXCESS:
            self._excess_since.pop(position_id, None)
            return None
        since = self._excess_since.setdefault(position_id, self.clock.now())
        return self.clock.now() - since >= EXCESS_GRACE

    def _is_in_acknowledge_grace(self, position_id: int, state: Protection) -> bool:
        """Exits that the venue has not acknowledged are given a moment; an order that stays so protects nothing."""
        if state is not Protection.PENDING:
            self._pending_since.pop(position_id, None)
            return False
        since = self._pending_since.setdefault(position_id, self.clock.now())
        return self.clock.now() - since < ACKNOWLEDGE_GRACE

    async def _cancel_partial_entry(self, position: PositionRow, entries: list[OrderRow]) -> None:
        """A partly filled entry protects nothing: after the grace, cancel the rest and protect what filled."""
        now = self.clock.now()
        if now - position.entry_time < timedelta(seconds=self.cfg.partial_entry_grace_seconds):
            return
        for row in entries:
            if (
                row.order_id not in self._cancel_requested_at
                or now - self._cancel_requested_at[row.order_id] >= CANCEL_RETRY_AFTER
            ):
                self._cancel_requested_at[row.order_id] = now
                log.info(
                    "partial_entry_cancelled",
                    symbol=row.symbol,
                    filled=str(row.filled_qty),
                    of=str(row.quantity),
                )
                await self.submission.cancel(row, "PARTIAL_GRACE")

    async def _protect(self, position: PositionRow, rows: list[OrderRow], reason: str = "OCO") -> None:
        """Clear what is left of a broken group, for that `reason`, then put stop and target on exactly what is held."""
        leftovers = [row for row in rows if row.order_purpose in EXITS and row.status in WORKING]
        if leftovers:
            now = self.clock.now()
            for row in leftovers:
                if (
                    row.order_id not in self._cancel_requested_at
                    or now - self._cancel_requested_at[row.order_id] >= CANCEL_RETRY_AFTER
                ):
                    self._cancel_requested_at[row.order_id] = now
                    await self.submission.cancel(row, reason)
            return
        planned = await self._ensure_levels(position)
        if planned is None:
            return
        position = planned
        tries = [row for row in rows if row.order_class == "oco" and row.parent_order_id is None]
        refused = [row for row in tries if row.status is Status.REJECTED]
        why = str(refused[-1].rejection_reason) if refused else ""
        if len(refused) >= (MAX_UNBOOKED_ATTEMPTS if why.startswith(UNBOOKED_CODES) else MAX_OCO_ATTEMPTS):
            await self._exit_unprotectable(position, why)
            return
        try:
            sent = await self._place_oco(position, rows, attempt=len(tries))
        except (
            ExitExceedsPosition
        ) as error:  # an exit was written since the rows were read: the next look sees it
            log.warning("protection_conflict", symbol=position.symbol, error=str(error))
            return
        if sent.status is not Status.REJECTED:
            return
        if (level := _level_already_crossed(position, str(sent.rejection_reason))) is not None:
            await self.exits.request(
                position.position_id, reason=level, purpose=Purpose.EXIT, by="position_protector"
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
        """Shares that cannot be protected are not held."""
        reason = f"{CloseReason.EMERGENCY_STOP}: {position.symbol} cannot be protected: {rejection}"
        await self.exits.request(
            position.position_id, reason=reason, purpose=Purpose.EXIT, by="position_protector"
        )


def _level_already_crossed(position: PositionRow, rejection: str) -> str | None:
    """Why to leave at once when the broker refuses the exits because the price lies beyond one of them already.

    Which one its words name; the stop, when they name both or neither.
    """
    code, _, message = rejection.partition(":")
    if code != "PRICE_RULE":
        return None
    if "take_profit" in message and "stop" not in message:
        return f"{CloseReason.TAKE_PROFIT_HIT}: {position.symbol} is beyond ${position.take_profit} already"
    return f"{CloseReason.STOP_LOSS_HIT}: {position.symbol} is beyond ${position.stop_loss} already"


def _exit_orders(rows: list[OrderRow]) -> list[ExitOrder]:
    """The exits of a position; a leg is dormant while its entry may still fill."""
    asleep = unfilled_entries(rows)
    return [
        ExitOrder(
            row.order_purpose,
            row.status,
            row.broker_status,
            row.remaining,
            row.parent_order_id in asleep,
            row.parent_order_id or row.order_id,
        )
        for row in rows
        if row.order_purpose in EXITS
    ]


def _fingerprint(position: PositionRow, rows: list[OrderRow]) -> ProtectionFingerprint:
    """What a confirmation rested on: it holds for as long as this stays the same."""
    return (
        position.quantity,
        *((row.order_id, row.status, row.broker_status, row.quantity) for row in rows),
    )
