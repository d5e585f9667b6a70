"""Orphan positions: handles shares of our symbols that no position explains.

Shares that our exits oversold are bought back or sold; other orphans are protected by a stop, exited or only reported,
as `reconcile.orphans` says. The order ledger finds orphans (an exit sold too much), or reconciliation (confirmed
twice). No fill is invented: orders with origin `orphan` exit the shares, and the orphan's row counts their fills. A
symbol with an orphan gets no entry.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission, without_legs
from catalyst.daemon.protection.unprotected_time import UnprotectedTime
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.errors import BrokerError, DatabaseContention, DatabaseUnavailable
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import WORKING, PositionSide, Purpose, Status, side_for
from catalyst.domain.position import whole_shares
from catalyst.domain.protection import default_levels, protection_by_rows
from catalyst.domain.protection_step import (
    HeldShares,
    ProtectionAction,
    ProtectionRules,
    ProtectionStep,
    StateSince,
    all_refusals_of,
    is_in_pause,
    next_protection_step,
    refusals_of,
)
from catalyst.domain.report import PositionReport
from catalyst.domain.rows import NewOrder, OrderRow, Orphan
from catalyst.store import alerts, orders, orphans, positions
from catalyst.store.orphans import OVERSOLD, UNEXPLAINED
from catalyst.store.pool import Store

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=15)
BUSY_CHECK_INTERVAL: Final = timedelta(seconds=1)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
QUANTITY_CONFIRM_AFTER: Final = timedelta(seconds=12)  # the broker's positions may lag behind its own fills
RULES: Final = ProtectionRules(may_exit=False, time_in_force="gtc")
ALERT_AFTER_REJECTIONS: Final = 4
ALERT_WINDOW: Final = timedelta(days=1)
ZERO: Final = Decimal(0)


@dataclass
class OrphanPositions:
    """Protects or exits each open orphan."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    clock: Clock
    config: CurrentConfig
    unprotected_time: UnprotectedTime
    epoch: int
    _cancels: CancelThrottle[int] = field(default_factory=lambda: CancelThrottle(CANCEL_RETRY_AFTER))
    _states: StateSince[int] = field(default_factory=StateSince[int])  # by orphan id
    _polled_order_ids: set[int] = field(default_factory=set)
    # By orphan id: a quantity at the broker that differs from the row's, and since when.
    _suspected_quantity: dict[int, tuple[Decimal, datetime]] = field(default_factory=dict)

    async def run(self) -> None:
        """Check after each new orphan and every CHECK_INTERVAL; every second while one needs another step."""
        await run_on_signal(
            self.ledger.orphan_found,
            self.clock,
            self.check,
            lambda busy: BUSY_CHECK_INTERVAL if busy else CHECK_INTERVAL,
        )

    async def check(self) -> bool:
        """Do one step for every open orphan; return true while one needs another step soon."""
        async with self.store.read() as conn:
            open_orphans = await orphans.open_orphans(conn)
        busy = False
        for orphan in open_orphans:
            try:
                busy |= await self._check_orphan(orphan)
            except (DatabaseUnavailable, DatabaseContention):
                raise
            except Exception:  # one failure must not leave the others without a stop
                log.exception("orphan_failed", symbol=orphan.symbol, orphan_id=orphan.orphan_id)
                busy = True
        return busy

    async def _check_orphan(self, orphan: Orphan) -> bool:
        """Do one step for one orphan; return true while it needs another one soon."""
        if self.submission.is_in_outage_exit(orphan.symbol):
            return False  # the outage exit is closing it, and the database does not show that yet
        if self.ledger.symbols.has(
            SymbolReason.UNLINKED, orphan.symbol
        ) and await self._is_awaiting_entry_fill(orphan):
            return False  # no orphan: an unlinked order of these shares waits for the entry's fills
        rows = await self._order_rows(orphan)
        if not self._is_left_alone(orphan):
            await self.unprotected_time.measure_orphan(orphan, rows)
        working = [row for row in rows if row.status in WORKING]
        if orphan.quantity == 0:
            return await self._close_orphan(orphan, working, "exited")
        try:
            held = await self.broker.position(orphan.symbol, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=orphan.symbol, error=str(error))
            return True
        quantity = await self._unexplained_quantity(orphan, held)
        if quantity != orphan.quantity:
            needs_step = await self._apply_confirmed_quantity(orphan, quantity, working)
            if needs_step is not None:
                return needs_step
        else:
            self._suspected_quantity.pop(orphan.orphan_id, None)
        if self._is_left_alone(orphan):
            return False
        if orphan.cause == OVERSOLD or self.config.reconcile.orphans == "close":
            return await self._exit_orphan(orphan, rows, working, min(quantity, orphan.quantity))
        return await self._protect(orphan, rows, working, held)

    def _is_left_alone(self, orphan: Orphan) -> bool:
        """Return true for shares that a person manages, or that another Catalyst on the account may have bought."""
        if orphan.cause == OVERSOLD:
            return False
        is_anothers = orphan.cause == UNEXPLAINED and self.ledger.symbols.has(
            SymbolReason.ANOTHER_CATALYST, orphan.symbol
        )
        return is_anothers or self.config.reconcile.orphans == "alert"

    async def _is_awaiting_entry_fill(self, orphan: Orphan) -> bool:
        """Return true when a working unlinked order of an outage covers all of these shares."""
        if orphan.cause == OVERSOLD:
            return False
        async with self.store.read() as conn:
            since = orphan.found_at - timedelta(days=1)
            rows = await orders.unlinked(conn, orphan.symbol, orphan.side, since=since)
        return any(row.is_working and row.remaining >= orphan.quantity for row in rows)

    async def _order_rows(self, orphan: Orphan) -> list[OrderRow]:
        async with self.store.read() as conn:
            return await orders.of_orphan(conn, orphan.symbol, orphan.side, since=orphan.found_at)

    async def _unexplained_quantity(self, orphan: Orphan, held: PositionReport | None) -> Decimal:
        """Return the broker's shares on the orphan's side that no position of ours explains; never negative."""
        async with self.store.read() as conn:
            own_positions = [
                position
                for position in await positions.open_positions(conn)
                if position.symbol == orphan.symbol
            ]
        explained = sum(
            (
                position.quantity if position.side is PositionSide.LONG else -position.quantity
                for position in own_positions
            ),
            ZERO,
        )
        excess = (ZERO if held is None else whole_shares(held.quantity)) - explained
        return max(ZERO, excess if orphan.side is PositionSide.LONG else -excess)

    async def _apply_confirmed_quantity(
        self, orphan: Orphan, quantity: Decimal, working: list[OrderRow]
    ) -> bool | None:
        """Write another quantity to the row once it has lasted for QUANTITY_CONFIRM_AFTER.

        Return whether the orphan needs another step soon; None when the caller continues with the row's quantity.
        """
        now = self.clock.now()
        previous_quantity, since = self._suspected_quantity.get(orphan.orphan_id, (quantity, now))
        self._suspected_quantity[orphan.orphan_id] = (
            quantity,
            since if previous_quantity == quantity else now,
        )
        if previous_quantity != quantity or now - since < QUANTITY_CONFIRM_AFTER:
            return None if quantity else True
        if quantity == 0:
            return await self._close_orphan(orphan, working, "gone")
        if quantity > orphan.quantity and orphan.cause != UNEXPLAINED:
            return None
        async with self.store.tx("orphan_resized") as conn:
            await orphans.resize(conn, orphan.orphan_id, quantity, at=now)
        log.warning("orphan_resized", symbol=orphan.symbol, before=str(orphan.quantity), now=str(quantity))
        return True

    async def _close_orphan(self, orphan: Orphan, working: list[OrderRow], ending: str) -> bool:
        """Cancel the working orders of an orphan without shares, then close its row.

        Return true while orders are working.
        """
        if working:
            await self._cancel_orders(working, "ORPHAN_CLOSED")
            return True
        async with self.store.tx("orphan_closed") as conn:
            await orphans.close(conn, orphan.orphan_id, end_reason=ending, at=self.clock.now())
        self._suspected_quantity.pop(orphan.orphan_id, None)
        log.warning(
            "orphan_closed",
            symbol=orphan.symbol,
            ending=ending,
            cause=orphan.cause,
            qty=str(orphan.found_qty),
        )
        self.ledger.reconcile_requested.notify()
        return False

    async def _cancel_orders(self, working: list[OrderRow], reason: str) -> None:
        """Cancel these orders; poll those whose cancel was requested within CANCEL_RETRY_AFTER."""
        for row in await self.submission.cancel_orders(without_legs(working), reason, self._cancels):
            if row.alpaca_order_id is not None:
                await self.submission.refresh(row.alpaca_order_id, "poll")

    # -- exit orders

    async def _exit_orphan(
        self, orphan: Orphan, rows: list[OrderRow], working: list[OrderRow], quantity: Decimal
    ) -> bool:
        """Send the exit order while the market is open, after every other order of the orphan is cancelled.

        Return true while another step is needed soon.
        """
        working_exits = [row for row in working if row.order_purpose is Purpose.EXIT]
        for row in working_exits:
            if row.alpaca_order_id is None:
                self.submission.start_resolution(row)
            else:
                await self.submission.refresh(row.alpaca_order_id, "poll")
        if working_exits or not self.exits.market_open:
            return bool(working_exits)
        if working:
            await self._cancel_orders(working, "ORPHAN")
            return True
        previous_exits = [row for row in rows if row.order_purpose is Purpose.EXIT]
        if quantity == 0 or is_in_pause(refusals_of(previous_exits), self.clock.now()):
            return True
        sent = await self.submission.place(
            self._new_order(orphan, Purpose.EXIT, quantity, len(previous_exits), order_type="market"),
            note=f"{quantity} {orphan.symbol} orphan shares: {orphan.cause}",
        )
        log.warning(
            "orphan_exit_sent",
            symbol=orphan.symbol,
            side=sent.side,
            qty=str(quantity),
            cause=orphan.cause,
            status=sent.status,
        )
        await self._alert_rejections(orphan, [*previous_exits, sent])
        return True

    # -- protecting

    async def _protect(
        self, orphan: Orphan, rows: list[OrderRow], working: list[OrderRow], held: PositionReport | None
    ) -> bool:
        """Confirm the stop for exactly the orphan's shares, or send one: in an OCO where the broker accepts it.

        Return true while another step is needed soon.
        """
        previous_orders = [
            row for row in rows if row.parent_order_id is None and row.order_purpose is not Purpose.EXIT
        ]
        refusals = refusals_of(previous_orders)
        state, now = protection_by_rows(orphan.quantity, rows), self.clock.now()
        shares = HeldShares(
            state=state,
            since=self._states.update(orphan.orphan_id, state, now),
            exits_working=bool(working),
            refusals=refusals,
            earlier_refusals=all_refusals_of(previous_orders)[: -len(refusals) or None],
        )
        step = next_protection_step(shares, RULES, now)
        if step.action is ProtectionAction.CONFIRM:
            stops = [row for row in working if row.order_purpose is Purpose.STOP_LOSS]
            await self._mark_protected(orphan, stops[0].stop_price)
            return False
        await self._mark_unprotected(orphan)
        if working and await self._refresh_unread_orders(working):
            return True
        if step.action is ProtectionAction.CANCEL_EXITS:
            await self._cancel_orders(working, step.reason)
        elif step.action is ProtectionAction.PLACE and held is not None:
            reference = held.current_price or held.entry_price
            if reference is not None:  # otherwise the next read may have a price
                await self._place_protection(orphan, previous_orders, reference, step)
        return True

    async def _place_protection(
        self, orphan: Orphan, previous_orders: list[OrderRow], reference: Decimal, step: ProtectionStep
    ) -> None:
        """Send stop and target around the price `reference` as one OCO, or the simple stop that the step asks for."""
        sent = await self.submission.place(
            self._protective_order(orphan, len(previous_orders), reference, step),
            note=f"{orphan.quantity} {orphan.symbol} shares that no position explains",
        )
        log.warning(
            "orphan_stop_sent",
            symbol=orphan.symbol,
            qty=str(orphan.quantity),
            stop=str(sent.bracket_stop or sent.stop_price),
            order_class=sent.order_class,
            status=sent.status,
        )
        await self._alert_rejections(orphan, [*previous_orders, sent])

    async def _refresh_unread_orders(self, working: list[OrderRow]) -> bool:
        """Poll each working order once before it may be cancelled.

        Return true when one was polled now, or has no broker id yet.
        """
        if any(row.alpaca_order_id is None for row in working):
            return True
        unread = [row for row in working if row.order_id not in self._polled_order_ids]
        for row in unread:
            self._polled_order_ids.add(row.order_id)
            if row.alpaca_order_id is not None:
                await self.submission.refresh(row.alpaca_order_id, "poll")
        return bool(unread)

    async def _mark_protected(self, orphan: Orphan, stop_price: Decimal | None) -> None:
        """Write that the orphan is protected, once."""
        if orphan.protected_at is not None:
            return
        now = self.clock.now()
        async with self.store.tx("orphan_protected") as conn:
            await orphans.protect(conn, orphan.orphan_id, stop_price=stop_price, protected_at=now, at=now)
        log.warning("orphan_protected", symbol=orphan.symbol, qty=str(orphan.quantity), stop=str(stop_price))

    async def _mark_unprotected(self, orphan: Orphan) -> None:
        """Write that the orphan is no longer protected, once."""
        if orphan.protected_at is None:
            return
        now = self.clock.now()
        async with self.store.tx("orphan_unprotected") as conn:
            await orphans.protect(conn, orphan.orphan_id, stop_price=None, protected_at=None, at=now)

    def _protective_order(
        self, orphan: Orphan, attempt: int, reference: Decimal, step: ProtectionStep
    ) -> NewOrder:
        """Return the order of this step: stop and target, or only a stop, at the default distances."""
        stop, target = default_levels(
            orphan.side,
            reference,
            stop_pct=self.config.positions.default_stop_loss_pct,
            target_pct=self.config.positions.default_take_profit_pct,
        )
        if step.order_class == "simple":
            return self._new_order(
                orphan, Purpose.STOP_LOSS, orphan.quantity, attempt, order_type="stop",
                time_in_force=step.time_in_force, stop=stop,
            )  # fmt: skip
        return self._new_order(
            orphan, Purpose.TAKE_PROFIT, orphan.quantity, attempt, order_type="limit",
            time_in_force=step.time_in_force, stop=stop, target=target,
        )  # fmt: skip

    def _new_order(
        self,
        orphan: Orphan,
        purpose: Purpose,
        quantity: Decimal,
        attempt: int,
        *,
        order_type: str,
        time_in_force: str = "day",
        stop: Decimal | None = None,
        target: Decimal | None = None,
    ) -> NewOrder:
        role = "ox" if purpose is Purpose.EXIT else "op"
        return NewOrder(
            client_order_id=client_order_id(
                self.submission.installation,
                f"orphan|{orphan.orphan_id}|{orphan.found_at.isoformat()}",
                role,
                attempt,
            ),
            symbol=orphan.symbol,
            purpose=purpose,
            position_side=orphan.side,
            side=side_for(orphan.side, purpose),
            quantity=quantity,
            order_type=order_type,
            time_in_force=time_in_force,
            order_class="simple" if target is None else "oco",
            origin="orphan",
            cycle_id=orphan.cycle_id,
            limit_price=target,
            stop_price=stop if target is None else None,
            bracket_stop=stop if target is not None else None,
            bracket_target=target,
            epoch=self.epoch,
        )  # fmt: skip

    async def _alert_rejections(self, orphan: Orphan, sent_orders: list[OrderRow]) -> None:
        """Raise an alert, at most once a day, after ALERT_AFTER_REJECTIONS rejections."""
        rejected = [row for row in sent_orders if row.status is Status.REJECTED]
        if len(rejected) < ALERT_AFTER_REJECTIONS:
            return
        reason = rejected[-1].rejection_reason
        async with self.store.tx("alert") as conn:
            await alerts.raise_alert(
                conn,
                "ORPHAN_UNPROTECTED",
                f"{orphan.symbol}: the broker rejects the stop or exit of {orphan.quantity} {orphan.cause}"
                f" orphan shares ({reason}): set a stop or close them at the broker",
                subject=orphan.orphan_id,
                facts={"symbol": orphan.symbol, "orphan_id": orphan.orphan_id, "reason": reason},
                at=self.clock.now(),
                window=ALERT_WINDOW,
            )
