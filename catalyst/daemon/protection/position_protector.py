"""Position protector: keeps a working stop at the broker for every open share.

It is level-triggered: each check derives the missing orders from rows and the broker, so a restart needs no memory.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Priority
from catalyst.clock import Clock, separate_turns
from catalyst.concurrency import drop_done
from catalyst.config.current import CurrentConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.protection.unprotected_time import UnprotectedTime
from catalyst.daemon.runtime.database_health import DatabaseHealth
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.domain.errors import BrokerError, DatabaseUnavailable
from catalyst.domain.exit_ids import exit_id_base
from catalyst.domain.ids import unused_client_order_id
from catalyst.domain.order import EXITS, WORKING, Purpose, Status, side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.protection import (
    Protection,
    default_levels,
    is_covered,
    protection_by_rows,
)
from catalyst.domain.protection_step import (
    OVERNIGHT_REASON,
    PRICE_RULE,
    HeldShares,
    ProtectionAction,
    ProtectionRules,
    ProtectionStep,
    StateSince,
    all_refusals_of,
    next_protection_step,
    placed_of,
    refusals_of,
)
from catalyst.domain.refusals import REFUSES_EVERY_SALE, reason_of
from catalyst.domain.rows import NewOrder, OrderRow, PositionRow
from catalyst.store import exit_intents, orders, positions
from catalyst.store.constraint_errors import ExitExceedsPosition
from catalyst.store.exit_intents import ExitIntent
from catalyst.store.pool import Store

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=15)
UNPROTECTED_CHECK_INTERVAL: Final = timedelta(seconds=1)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
RULES: Final = ProtectionRules(may_exit=True)
# The market is closed, or the exit waits: the stop may have to outlive the session.
OVERNIGHT_RULES: Final = ProtectionRules(may_exit=True, time_in_force="gtc")
POSTPONED_RULES: Final = ProtectionRules(may_exit=False, time_in_force="gtc")
ENDING_RULES: Final = ProtectionRules(
    may_exit=False, time_in_force="gtc", must_outlive_session=True, may_pause=False
)
# The broker refuses every sale: a working day stop is better than none.
KEEPING_RULES: Final = replace(ENDING_RULES, must_outlive_session=False)

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
    _states: StateSince[int] = field(default_factory=StateSince[int])  # by position id
    _verified: dict[int, ProtectionFingerprint] = field(default_factory=dict)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    # By position id: facts that need no further read until then.
    _limited: dict[int, tuple[ProtectionFingerprint, datetime]] = field(default_factory=dict)
    _intents: dict[int, ExitIntent] = field(default_factory=dict)  # the open ones, by position id
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
            intents = await exit_intents.open_intents(conn)
            rows = await orders.of_positions(conn, [position.position_id for position in held])
        self.ledger.last_known.update(held, rows, version=version, read_at=read_at)
        drop_done(self._tasks)
        await self.unprotected_time.measure_closed(held)
        self._intents = {intent.position_id: intent for intent in intents}
        waiting = {intent.position_id for intent in intents if intent.is_postponed(read_at)}
        exiting = self._intents.keys() - waiting - self.exits.overnight
        if not self.exits.market_open:
            exiting = set()  # no exit can run before the open: protect until then
        measured = [p for p in held if self._is_only_measured(p, rows[p.position_id], exiting)]
        has_unconfirmed = await self.unprotected_time.measure_open(measured, rows) and self.exits.market_open
        for position in held:
            fingerprint = self._fingerprint(position, rows[position.position_id])
            if position.position_id in exiting or self._verified.get(position.position_id) == fingerprint:
                continue
            if self.submission.is_in_outage_exit(position.symbol):
                continue  # the outage exit is closing it, and the database does not show that yet
            has_unconfirmed = True
            limited_to, until = self._limited.get(position.position_id, (None, read_at))
            if limited_to == fingerprint and read_at < until:
                continue
            task = self._tasks.get(position.position_id)
            if task is None or task.done():
                self._tasks[position.position_id] = asyncio.create_task(
                    self._check_isolated(position.position_id),
                    name=f"protect-{position.position_id}",
                    context=separate_turns(),
                )
        return has_unconfirmed

    def _is_only_measured(
        self, position: PositionRow, rows: Sequence[OrderRow], exiting: Collection[int]
    ) -> bool:
        """Return true for shares without a working stop that no check here protects: their exit runs, or the broker
        has accepted their stop and no venue has it."""
        if position.position_id in exiting:
            return not is_covered(position.quantity, rows)
        return position.position_id in self.unprotected_time.resting

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
        state = protection_by_rows(position.quantity, rows)
        now = self.clock.now()
        step = next_protection_step(
            self._held_shares(position, rows, state), self._rules_for(position_id), now
        )
        if step.action is ProtectionAction.CONFIRM:
            self._verified[position_id] = self._fingerprint(position, rows)
            self.exits.turn.release(position_id)
            await self.unprotected_time.mark_protected(position, rows)
            return
        if step.check_after:
            self._limited[position_id] = self._fingerprint(position, rows), now + step.check_after
        self._verified.pop(position_id, None)  # rows that were confirmed before have to be confirmed again
        if state not in (Protection.EXCESS, Protection.PROTECTED):
            await self.unprotected_time.mark_unprotected(position, rows, state)
        await self._do_step(step, position, rows)

    def _rules_for(self, position_id: int) -> ProtectionRules:
        intent = self._intents.get(position_id)
        if position_id in self.exits.overnight:
            is_refused = intent is not None and reason_of(intent.refusal or "") in REFUSES_EVERY_SALE
            rules = KEEPING_RULES if is_refused or self.exits.stops_refused else ENDING_RULES
            return replace(rules, may_pause=not self.exits.market_open)  # after the close a night follows
        if intent is not None:
            return POSTPONED_RULES
        return RULES if self.exits.market_open else OVERNIGHT_RULES

    def _fingerprint(self, position: PositionRow, rows: list[OrderRow]) -> ProtectionFingerprint:
        """Return the facts a confirmation depends on; it is valid until they change."""
        return (
            position.quantity,
            position.position_id in self.exits.overnight,
            *((row.order_id, row.status, row.broker_status, row.quantity) for row in rows),
        )

    def _held_shares(self, position: PositionRow, rows: list[OrderRow], state: Protection) -> HeldShares:
        """Return what the rows say about the shares of a position. External entries are not ours to cancel."""
        sent = _protections(rows)
        return HeldShares(
            state=state,
            since=self._states.update(position.position_id, state, self.clock.now()),
            exits_working=bool(_working_exits(rows)),
            refusals=refusals_of(sent),
            earlier_refusals=all_refusals_of(sent)[: -len(refusals_of(sent)) or None],
            placed=placed_of(sent),
            expires_today=any(row.time_in_force != "gtc" for row in _working_exits(rows)),
            entry_since=position.entry_time if _own_working_entries(rows) else None,
            entry_grace=timedelta(seconds=self.config.execution.partial_entry_grace_seconds),
        )

    async def _do_step(self, step: ProtectionStep, position: PositionRow, rows: list[OrderRow]) -> None:
        match step.action:
            case ProtectionAction.CANCEL_ENTRY:
                await self._cancel_partial_entry(_own_working_entries(rows))
            case ProtectionAction.CANCEL_EXITS:
                # One position after the other loses a stop that works: the broker may refuse the next.
                if step.reason == OVERNIGHT_REASON and not self.exits.turn.acquire(
                    position.position_id, self.clock.now()
                ):
                    return
                await self.submission.cancel_orders(_working_exits(rows), step.reason, self._cancels)
            case ProtectionAction.PLACE:
                await self._place_protection(position, rows, step)
            case ProtectionAction.EXIT:
                await self.exits.request(
                    position.position_id,
                    reason=_exit_reason(position, step.reason),
                    purpose=Purpose.EXIT,
                    by="position_protector",
                )
            case _:
                return  # nothing to do now

    async def _read_position(self, position_id: int) -> tuple[PositionRow, list[OrderRow]]:
        async with self.store.read() as conn:
            return await positions.get(conn, position_id), await orders.of_position(conn, position_id)

    async def _refresh_orders(self, rows: list[OrderRow]) -> None:
        """Poll every group that may protect: the entry with its legs, an OCO with its stop.

        A group that has ended is not read again, unless its legs are not known yet.
        """
        parents_with_legs = {row.parent_order_id for row in rows}
        working = {row.parent_order_id or row.order_id for row in rows if row.status in WORKING}
        for row in rows:
            if row.alpaca_order_id is None or row.parent_order_id is not None:
                continue
            has_unknown_legs = row.order_class in ("bracket", "oco") and row.order_id not in parents_with_legs
            if row.order_id in working or has_unknown_legs:
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

    async def _cancel_partial_entry(self, entries: list[OrderRow]) -> None:
        """Cancel the rest of a partly filled entry: its legs protect nothing until it is filled."""
        for row in entries:
            if self._cancels.acquire(row.order_id, self.clock.now()):
                log.info(
                    "partial_entry_cancel_requested",
                    symbol=row.symbol,
                    filled=str(row.filled_qty),
                    of=str(row.quantity),
                )
                await self.submission.cancel(row, "PARTIAL_GRACE")

    async def _place_protection(
        self, position: PositionRow, rows: list[OrderRow], step: ProtectionStep
    ) -> None:
        """Place the order of the step for exactly the shares held."""
        with_levels = await self._ensure_levels(position)
        if with_levels is None:
            return
        try:
            await self._place_order(with_levels, rows, step)
        except ExitExceedsPosition as error:
            # Another exit was written after the rows were read: the next check reads it.
            log.warning("protection_conflict", symbol=position.symbol, error=str(error))

    async def _place_order(self, position: PositionRow, rows: list[OrderRow], step: ProtectionStep) -> None:
        base = exit_id_base(position, rows)
        attempt = len(_protections(rows))
        is_stop = step.order_class == "simple"
        purpose = Purpose.STOP_LOSS if is_stop else Purpose.TAKE_PROFIT
        sent = await self.submission.place(
            NewOrder(
                client_order_id=unused_client_order_id(
                    self.submission.installation,
                    base,
                    "op",
                    attempt,
                    {row.client_order_id for row in rows},
                ),
                symbol=position.symbol,
                purpose=purpose,
                position_side=position.side,
                side=side_for(position.side, purpose),
                quantity=position.quantity,
                order_type="stop" if is_stop else "limit",
                time_in_force=step.time_in_force,
                order_class=step.order_class,
                limit_price=None if is_stop else position.take_profit,
                stop_price=position.stop_loss if is_stop else None,
                bracket_stop=None if is_stop else position.stop_loss,
                bracket_target=None if is_stop else position.take_profit,
                cycle_id=position.cycle_id,
                position_id=position.position_id,
                epoch=self.epoch,
            ),
            note=f"{'stop' if is_stop else 'stop and target'} for the {position.quantity} shares held",
        )
        if position.position_id in self.exits.overnight and sent.status is Status.REJECTED:
            self.exits.note_refused_stop(sent.rejection_reason or "")


def _own_working_entries(rows: list[OrderRow]) -> list[OrderRow]:
    return [
        row
        for row in rows
        if row.order_purpose is Purpose.ENTRY and row.is_working and row.origin != "external"
    ]


def _working_exits(rows: list[OrderRow]) -> list[OrderRow]:
    """Return the working exits that were sent."""
    return [
        row
        for row in rows
        if row.order_purpose in EXITS and row.status in WORKING and row.status is not Status.CREATED
    ]


def _protections(rows: list[OrderRow]) -> list[OrderRow]:
    """Return the OCOs and the simple stops that were sent for the shares held, oldest first."""
    return [
        row
        for row in rows
        if row.parent_order_id is None
        and (
            row.order_class == "oco"
            or (row.order_purpose is Purpose.STOP_LOSS and row.order_class == "simple")
        )
    ]


def _exit_reason(position: PositionRow, refusal: str) -> str:
    """Return the reason of the exit of a position whose OCO the broker refuses.

    When the price is beyond a level already, the refusal names it: the take-profit only when it names no stop.
    """
    code, _, message = refusal.partition(":")
    if code != PRICE_RULE:
        return f"{CloseReason.EMERGENCY_STOP}: {position.symbol} cannot be protected: {refusal}"
    if "take_profit" in message and "stop" not in message:
        return f"{CloseReason.TAKE_PROFIT_HIT}: {position.symbol} is beyond its target ${position.take_profit} already"
    return f"{CloseReason.STOP_LOSS_HIT}: {position.symbol} is beyond its stop ${position.stop_loss} already"
