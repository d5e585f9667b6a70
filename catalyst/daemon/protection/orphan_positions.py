"""Shares of our symbols that no position explains: bought back when our own exits sold them, else kept under a stop
or sold, as `reconcile.orphans` says.

Found by the books (an exit sold too much) or by reconciliation (confirmed twice). Nothing here invents a fill: what
leaves does so by orders of an origin of their own, and the orphan's row counts their fills. A symbol with an orphan
takes no entry.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.config.schema import PositionsConfig, ReconcileConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.domain.errors import BrokerError
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import EXITS, WORKING, PositionSide, Purpose, Status, side_for
from catalyst.domain.protection import ExitOrder, Protection, default_levels, protection_of
from catalyst.domain.report import PositionReport
from catalyst.store import alerts, orders, orphans, positions
from catalyst.store.orders import NewOrder, OrderRow
from catalyst.store.orphans import OVERSOLD, UNEXPLAINED, Orphan
from catalyst.store.pool import Store, is_transient

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=15)
BUSY_CHECK_INTERVAL: Final = timedelta(seconds=1)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
QUANTITY_CONFIRM_AFTER: Final = timedelta(seconds=12)  # the broker's positions may lag behind its own fills
MAX_PAUSE: Final = timedelta(seconds=60)
MAX_OCO_ATTEMPTS: Final = 2  # then a plain stop
ALERT_AFTER_REJECTIONS: Final = 4  # refusals
ALERT_WINDOW: Final = timedelta(days=1)
ZERO: Final = Decimal(0)


@dataclass
class OrphanPositions:
    """Tends each open orphan. Its fields are all it can touch."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    clock: Clock
    cfg: ReconcileConfig
    positions_cfg: PositionsConfig
    epoch: int
    _cancel_requested_at: dict[int, datetime] = field(default_factory=dict)
    _suspected_quantity: dict[int, tuple[Decimal, datetime]] = field(
        default_factory=dict
    )  # what is there instead, since when

    async def run(self) -> None:
        """Look after each finding; every second while something is to be done."""
        while True:
            seen_version = self.ledger.orphan_found.version
            busy = await self.check()
            await self.ledger.orphan_found.wait(
                self.clock, BUSY_CHECK_INTERVAL if busy else CHECK_INTERVAL, since=seen_version
            )

    async def check(self) -> bool:
        """Tend every open orphan; true while one of them is not as it should be."""
        async with self.store.read() as conn:
            found = await orphans.open_orphans(conn)
        busy = False
        for orphan in found:
            try:
                busy |= await self._check_orphan(orphan)
            except Exception as error:  # one that fails must not keep the others from their stop
                if is_transient(error):
                    raise
                log.exception("orphan_failed", symbol=orphan.symbol, orphan_id=orphan.orphan_id)
                busy = True
        return busy

    async def _check_orphan(self, orphan: Orphan) -> bool:
        """One step for one orphan; true while it needs another one soon."""
        if orphan.symbol in self.submission.outage_symbols:
            return False  # another hand leaves the symbol, and the tables have not heard of it yet
        if orphan.symbol in self.ledger.unlinked_symbols and await self._is_awaiting_entry_fill(orphan):
            return False  # no orphan: what left or protects these shares waits for the entry that bought them
        rows = await self._order_rows(orphan)
        working = [row for row in rows if row.status in WORKING]
        if orphan.quantity == 0:
            return await self._close_orphan(orphan, working, "exited")
        try:
            held = await self.broker.position(orphan.symbol, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=orphan.symbol, error=str(error))
            return True
        there = await self._unexplained_quantity(orphan, held)
        if there != orphan.quantity:
            settled = await self._apply_confirmed_quantity(orphan, there, working)
            if settled is not None:
                return settled
        else:
            self._suspected_quantity.pop(orphan.orphan_id, None)
        if orphan.cause == OVERSOLD or self.cfg.orphans == "close":
            return await self._exit_orphan(orphan, rows, working, min(there, orphan.quantity))
        if self.cfg.orphans == "alert":
            return False
        return await self._protect(orphan, rows, working, held)

    async def _is_awaiting_entry_fill(self, orphan: Orphan) -> bool:
        """True when an order that left without the tables, and has no position yet, is about all of these shares."""
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
        """The broker's shares on the orphan's side that no position of ours explains."""
        async with self.store.read() as conn:
            mine = [p for p in await positions.open_positions(conn) if p.symbol == orphan.symbol]
        explained = sum((p.quantity if p.side is PositionSide.LONG else -p.quantity for p in mine), ZERO)
        surplus = (ZERO if held is None else held.quantity) - explained
        return max(ZERO, surplus if orphan.side is PositionSide.LONG else -surplus)

    async def _apply_confirmed_quantity(
        self, orphan: Orphan, quantity: Decimal, working: list[OrderRow]
    ) -> bool | None:
        """Believe another quantity once it has lasted; None: go on with what is known."""
        now = self.clock.now()
        before, since = self._suspected_quantity.get(orphan.orphan_id, (quantity, now))
        self._suspected_quantity[orphan.orphan_id] = (quantity, since if before == quantity else now)
        if before != quantity or now - since < QUANTITY_CONFIRM_AFTER:
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
        """Nothing is there any more: what still works for it is cancelled, then its row ends."""
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
        now = self.clock.now()
        for row in working:
            if row.parent_order_id is not None and any(o.order_id == row.parent_order_id for o in working):
                continue  # a leg ends with its working parent
            if (
                row.order_id not in self._cancel_requested_at
                or now - self._cancel_requested_at[row.order_id] >= CANCEL_RETRY_AFTER
            ):
                self._cancel_requested_at[row.order_id] = now
                await self.submission.cancel(row, reason)
            elif row.alpaca_order_id is not None:
                await self.submission.refresh(row.alpaca_order_id, "poll")

    # -- bought back, or sold

    async def _exit_orphan(
        self, orphan: Orphan, rows: list[OrderRow], working: list[OrderRow], quantity: Decimal
    ) -> bool:
        """Send what ends it, once nothing else holds its shares; until the open it waits."""
        leaving = [row for row in working if row.order_purpose is Purpose.EXIT]
        for row in leaving:
            if row.alpaca_order_id is None:
                self.submission.start_resolution(row)
            else:
                await self.submission.refresh(row.alpaca_order_id, "poll")
        if leaving or not self.exits.market_open:
            return bool(leaving)
        if working:
            await self._cancel_orders(working, "ORPHAN")
            return True
        tries = [row for row in rows if row.order_purpose is Purpose.EXIT]
        if quantity == 0 or self._is_in_backoff(tries):
            return True
        sent = await self.submission.place(
            self._new_order(orphan, Purpose.EXIT, quantity, len(tries), order_type="market"),
            note=f"{quantity} {orphan.symbol} that are {orphan.cause}",
        )
        log.warning(
            "orphan_exit_sent",
            symbol=orphan.symbol,
            side=sent.side,
            qty=str(quantity),
            cause=orphan.cause,
            status=sent.status,
        )
        await self._alert_rejections(orphan, [*tries, sent])
        return True

    # -- kept under a stop

    async def _protect(
        self, orphan: Orphan, rows: list[OrderRow], working: list[OrderRow], held: PositionReport | None
    ) -> bool:
        """Confirm the stop that covers it, or put one there: with a target where the broker takes both."""
        exits = [
            ExitOrder(
                row.order_purpose,
                row.status,
                row.broker_status,
                row.remaining,
                inactive=False,
                group=row.parent_order_id or row.order_id,
            )
            for row in rows
            if row.order_purpose in EXITS
        ]
        stops = [row for row in working if row.order_purpose is Purpose.STOP_LOSS]
        if protection_of(orphan.quantity, exits) is Protection.PROTECTED:
            await self._mark_protected(orphan, stops[0].stop_price)
            return False
        if orphan.protected_at is not None:
            async with self.store.tx("orphan_unprotected") as conn:
                await orphans.protect(
                    conn, orphan.orphan_id, stop_price=None, protected_at=None, at=self.clock.now()
                )
        if working:
            unnamed = [row for row in working if row.alpaca_order_id is None]
            if unnamed or await self._refresh_unread_orders(working):
                return True
            await self._cancel_orders(working, "OCO")
            return True
        tries = [row for row in rows if row.parent_order_id is None and row.order_purpose is not Purpose.EXIT]
        if held is None or self._is_in_backoff(tries):
            return True
        sent = await self.submission.place(
            self._protective_order(orphan, tries, held.current_price or held.entry_price),
            note=f"{orphan.quantity} {orphan.symbol} that no order of ours explains",
        )
        log.warning(
            "orphan_stop_sent",
            symbol=orphan.symbol,
            qty=str(orphan.quantity),
            stop=str(sent.bracket_stop or sent.stop_price),
            order_class=sent.order_class,
            status=sent.status,
        )
        await self._alert_rejections(orphan, [*tries, sent])
        return True

    async def _refresh_unread_orders(self, working: list[OrderRow]) -> bool:
        """Ask once about what works and does not cover yet; true when that was just done."""
        now = self.clock.now()
        fresh = [row for row in working if row.order_id not in self._cancel_requested_at]
        for row in fresh:
            self._cancel_requested_at[row.order_id] = now - CANCEL_RETRY_AFTER  # the next look may cancel it
            if row.alpaca_order_id is not None:
                await self.submission.refresh(row.alpaca_order_id, "poll")
        return bool(fresh)

    async def _mark_protected(self, orphan: Orphan, stop_price: Decimal | None) -> None:
        if orphan.protected_at is not None:
            return
        now = self.clock.now()
        async with self.store.tx("orphan_protected") as conn:
            await orphans.protect(conn, orphan.orphan_id, stop_price=stop_price, protected_at=now, at=now)
        log.warning("orphan_protected", symbol=orphan.symbol, qty=str(orphan.quantity), stop=str(stop_price))

    def _protective_order(self, orphan: Orphan, tries: list[OrderRow], reference: Decimal) -> NewOrder:
        """Stop and target as one OCO that outlives the day; where that was refused, for the day, or a plain stop."""
        stop, target = default_levels(
            orphan.side,
            reference,
            stop_pct=self.positions_cfg.default_stop_loss_pct,
            target_pct=self.positions_cfg.default_take_profit_pct,
        )
        refused = [str(row.rejection_reason) for row in tries if row.status is Status.REJECTED]
        lasting = "day" if any(why.startswith("HARD_TO_BORROW") for why in refused) else "gtc"
        if sum(not why.startswith("HARD_TO_BORROW") for why in refused) >= MAX_OCO_ATTEMPTS:
            return self._new_order(
                orphan, Purpose.STOP_LOSS, orphan.quantity, len(tries), order_type="stop", time_in_force=lasting, stop=stop
            )  # fmt: skip
        return self._new_order(
            orphan, Purpose.TAKE_PROFIT, orphan.quantity, len(tries), order_type="limit", time_in_force=lasting,
            stop=stop, target=target,
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
            client_order_id=client_order_id(f"orphan|{orphan.orphan_id}|{orphan.found_at.isoformat()}", role, attempt),
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

    def _is_in_backoff(self, tries: list[OrderRow]) -> bool:
        """True while the pause after the last refusals runs; it doubles, and is read from rows: a restart keeps it."""
        refused = [row for row in tries if row.status is Status.REJECTED]
        if not refused or tries[-1].status is not Status.REJECTED:
            return False
        pause: timedelta = min(BUSY_CHECK_INTERVAL * 2 ** min(len(refused) - 1, 10), MAX_PAUSE)
        return self.clock.now() - tries[-1].created_at < pause

    async def _alert_rejections(self, orphan: Orphan, tries: list[OrderRow]) -> None:
        refused = [row for row in tries if row.status is Status.REJECTED]
        if len(refused) < ALERT_AFTER_REJECTIONS:
            return
        reason = refused[-1].rejection_reason
        async with self.store.tx("alert") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL",
                event="ORPHAN_UNPROTECTED",
                message=f"{orphan.symbol}: {orphan.quantity} {orphan.cause} shares cannot be dealt with: {reason}",
                facts={"symbol": orphan.symbol, "orphan_id": orphan.orphan_id, "reason": reason},
                dedupe_key=f"ORPHAN_UNPROTECTED:{orphan.orphan_id}",
                at=self.clock.now(),
                window=ALERT_WINDOW,
            )
