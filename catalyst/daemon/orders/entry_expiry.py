"""Entry expiry: ends unapproved proposals and never-sent rows, and cancels entries that do not fill in time."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.domain.order import NEVER_ARRIVED, Purpose, Status
from catalyst.domain.rows import OrderRow
from catalyst.store import orders, proposals
from catalyst.store.pool import Store

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=5)
IDLE_POLL_INTERVAL: Final = timedelta(seconds=30)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=10)


@dataclass
class EntryExpiry:
    """Ends entries that have waited too long."""

    store: Store
    ledger: OrderLedger
    submission: OrderSubmission
    clock: Clock
    config: CurrentConfig
    _cancels: CancelThrottle[int] = field(default_factory=lambda: CancelThrottle(CANCEL_RETRY_AFTER))

    async def run(self) -> None:
        """Check every 5 s while an entry waits, otherwise every 30 s; at once when the ledger changes."""
        await run_on_signal(
            self.ledger.changed,
            self.clock,
            self.expire_entries,
            lambda has_entries: POLL_INTERVAL if has_entries else IDLE_POLL_INTERVAL,
        )

    async def expire_entries(self) -> bool:
        """End expired proposals and never-sent rows; cancel entries not filled within `entry_timeout_seconds`.

        Return true while an entry is working.
        """
        async with self.store.read() as conn:
            rows = [row for row in await orders.working(conn) if row.order_purpose is Purpose.ENTRY]
            proposed_ids = {proposal.order_id for proposal in await proposals.waiting(conn)}
        if proposed_ids:
            async with self.store.tx("expire") as conn:
                proposed_ids -= {
                    expired.order_id for expired in await proposals.expire(conn, at=self.clock.now())
                }
        for row in rows:
            if row.status is Status.CREATED and row.order_id not in proposed_ids:
                await self._close_never_sent(row)
            elif row.status is Status.CREATED or row.origin != "catalyst" or row.filled_qty:
                continue
            elif row.rejection_reason == NEVER_ARRIVED:
                await self._cancel_entry(row, "ENTRY_TIMEOUT")  # revived long after its signal
            else:
                await self._cancel_if_timed_out(row)
        return bool(rows)

    async def _close_never_sent(self, row: OrderRow) -> None:
        """Cancel a `created` row that will never be sent; the broker has not received it."""
        now = self.clock.now()
        async with self.store.tx("never_sent") as conn:
            current = await orders.lock(conn, row.order_id)
            if current.status is not Status.CREATED:
                return
            proposal = await proposals.of_order(conn, row.order_id)
            await orders.transition(
                conn,
                row.order_id,
                from_status=Status.CREATED,
                to_status=Status.CANCELLED,
                at=now,
                source="recovery" if proposal is None else "operator",
                cancel_reason="NEVER_SENT" if proposal is None else "EXPIRED_PROPOSAL",
                epoch=self.submission.epoch,
            )
        log.info("entry_never_sent", symbol=row.symbol, order_id=row.order_id, proposed=proposal is not None)

    async def _cancel_if_timed_out(self, row: OrderRow) -> None:
        now = self.clock.now()
        sent_at = row.submitted_at or row.created_at
        if now - sent_at >= timedelta(seconds=self.config.execution.entry_timeout_seconds):
            await self._cancel_entry(row, "ENTRY_TIMEOUT")

    async def _cancel_entry(self, row: OrderRow, reason: str) -> None:
        """Request the cancel, at most once every 10 s per order."""
        if not self._cancels.acquire(row.order_id, self.clock.now()):
            return
        log.info("entry_cancel_requested", symbol=row.symbol, order_id=row.order_id, reason=reason)
        await self.submission.cancel(row, reason)
