"""Stream consumer: applies trade updates to the order ledger, and reports gaps to the entry gate and the
reconciler."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import structlog

from catalyst.broker.port import MalformedMessage, StreamGap, StreamState, TradeUpdates
from catalyst.clock import Clock
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.report import TradeUpdate
from catalyst.store import alerts, quarantine
from catalyst.store.pool import Store

log = structlog.get_logger()

# Buffered messages applied together: one statement of some tens of milliseconds.
MAX_BATCH: Final = 64


@dataclass
class StreamConsumer:
    """One consumer of the stream. Entries are blocked until the stream is ready and reconciled.

    Until `drain_buffer` the messages are buffered: recovery first reads everything the broker shows, then
    applies these.
    """

    stream: TradeUpdates
    ledger: OrderLedger
    gate: EntryGate
    reconciler: Reconciler
    store: Store
    clock: Clock
    applied: int = 0
    malformed: int = field(default=0)
    connected: asyncio.Event = field(default_factory=asyncio.Event)  # from now on no message is missed
    _buffer: deque[TradeUpdate | MalformedMessage] = field(default_factory=deque)
    _buffering: bool = True

    async def run(self) -> None:
        async for item in self.stream.listen():
            if isinstance(item, StreamGap):
                await self._handle_gap(item)
            elif self._buffering:
                self._buffer.append(item)
            else:
                await self._apply_items([item, *self.stream.drain_buffered(MAX_BATCH)])

    async def drain_buffer(self) -> int:
        """Apply the buffered messages in order, and each later one at once. Return how many were buffered."""
        applied = 0
        while self._buffer:
            kept = [self._buffer.popleft() for _ in range(min(len(self._buffer), MAX_BATCH))]
            await self._apply_items(kept)
            applied += len(kept)
        self._buffering = False
        return applied

    async def _apply_items(self, items: Sequence[TradeUpdate | MalformedMessage]) -> None:
        """Apply each item in turn; consecutive updates in one batch where possible."""
        for is_update, run in groupby(items, key=lambda item: isinstance(item, TradeUpdate)):
            if is_update:
                await self._apply_updates([item for item in run if isinstance(item, TradeUpdate)])
            else:
                for item in run:
                    if isinstance(item, MalformedMessage):
                        await self._quarantine_malformed(item)

    async def _apply_updates(self, updates: Sequence[TradeUpdate]) -> None:
        """Apply updates. A message that fails does not end the stream; the reconciler finds its effect."""
        applied = 0
        while applied < len(updates):
            first, known, count = updates[applied], True, 0
            try:
                count = await self.ledger.apply_batch(updates[applied:])
                if not count:
                    known = await self.ledger.apply_trade_update(first)
            except Exception:  # the loop must survive any message
                log.exception("update_failed", trade_event=first.event, broker_id=first.order.broker_id)
                known = False
            applied += count or 1
            self.applied += count or 1
            if not known:
                self.reconciler.requested.notify()

    async def _handle_gap(self, gap: StreamGap) -> None:
        """Close the entry gate across a gap until a full pass has read the broker."""
        ready = gap.state is StreamState.READY
        self.reconciler.mark_gap(stream_ready=ready)
        if ready:
            self.gate.close("stream", "the gap is not filled yet")
            self.connected.set()
            if self._buffering:
                return  # recovery has not read yet; its read fills this gap
            findings = await self.reconciler.reconcile("reconcile")
            log.info("stream_ready", clean=findings.clean)
            return
        self.gate.close("stream", f"trade updates {gap.state}: {gap.reason}")
        self.reconciler.requested.notify()
        async with self.store.tx("gap") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL" if gap.state is StreamState.REFUSED else "WARNING",
                event="STREAM_LOST",
                message=f"trade updates are {gap.state}: {gap.reason}; the broker is polled meanwhile",
                facts={"state": gap.state},
                dedupe_key=f"STREAM_LOST:{gap.state}",
                at=self.clock.now(),
            )

    async def _quarantine_malformed(self, item: MalformedMessage) -> None:
        self.malformed += 1
        log.warning("update_malformed", error=item.error, size=len(item.raw))
        async with self.store.tx("quarantine") as conn:
            await quarantine.put(
                conn, source="stream", reason=item.error, payload=item.raw, at=self.clock.now()
            )
        self.reconciler.requested.notify()
