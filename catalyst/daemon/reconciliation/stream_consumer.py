"""Stream consumer: applies trade updates to the order ledger, and closes the entry gate across gaps of the stream."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import structlog

from catalyst.broker.port import MalformedMessage, StreamGap, StreamState, TradeUpdates
from catalyst.clock import Clock, real_seconds
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.reconciliation.another_catalyst import AnotherCatalyst
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.latency import Latency
from catalyst.domain.report import TradeUpdate
from catalyst.store import alerts, quarantine
from catalyst.store.pool import Store

log = structlog.get_logger()

# Messages per batch. A batch is one statement of some tens of milliseconds.
MAX_BATCH: Final = 64


@dataclass
class StreamConsumer:
    """Consumes the stream of trade updates. Entries are blocked until the stream is ready and reconciled.

    Messages are buffered until `drain_buffer`, because recovery reads the broker's orders and positions first.
    """

    stream: TradeUpdates
    ledger: OrderLedger
    gate: EntryGate
    reconciler: Reconciler
    another_catalyst: AnotherCatalyst
    store: Store
    clock: Clock
    applied: int = 0  # updates so far
    malformed: int = field(default=0)  # messages so far
    latency: Latency = field(default_factory=Latency)  # of a batch, from its receipt to its last commit
    connected: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # set once: no message is missed from then on
    _buffer: deque[TradeUpdate | MalformedMessage] = field(default_factory=deque)
    _buffering: bool = True

    async def run(self) -> None:
        """Consume the stream until cancelled."""
        async for item in self.stream.listen():
            if isinstance(item, StreamGap):
                await self._handle_gap(item)
            elif self._buffering:
                self._buffer.append(item)
            else:
                await self._apply_items([item, *self.stream.drain_buffered(MAX_BATCH)])

    async def drain_buffer(self) -> int:
        """Apply the buffered messages in order and stop buffering; return how many were buffered."""
        applied = 0
        while self._buffer:
            batch = [self._buffer.popleft() for _ in range(min(len(self._buffer), MAX_BATCH))]
            await self._apply_items(batch)
            applied += len(batch)
        self._buffering = False
        return applied

    async def _apply_items(self, items: Sequence[TradeUpdate | MalformedMessage]) -> None:
        """Apply the items in order; malformed messages go to quarantine."""
        for is_update, group in groupby(items, key=lambda item: isinstance(item, TradeUpdate)):
            if is_update:
                await self._apply_updates([item for item in group if isinstance(item, TradeUpdate)])
            else:
                for item in group:
                    if isinstance(item, MalformedMessage):
                        await self._quarantine_malformed(item)

    async def _apply_updates(self, updates: Sequence[TradeUpdate]) -> None:
        """Apply updates in order, in one batch where possible.

        A failed update is logged and does not stop the stream; a reconciliation is requested, which applies its effect.
        """
        applied, started = 0, real_seconds()
        while applied < len(updates):
            first, is_handled, count = updates[applied], True, 0
            try:
                count = await self.ledger.apply_batch(updates[applied:])
                if not count:
                    is_handled = await self.ledger.apply_trade_update(first)
            except Exception:  # any message may fail; the loop goes on
                log.exception("update_failed", trade_event=first.event, broker_id=first.order.broker_id)
                is_handled = False
            applied += count or 1
            self.applied += count or 1
            if not is_handled:
                self.reconciler.requested.notify()
        self.latency.record(real_seconds() - started)

    async def _handle_gap(self, gap: StreamGap) -> None:
        """Close the entry gate until a full pass after the gap has read the broker; alert a lost stream."""
        ready = gap.state is StreamState.READY
        self.reconciler.mark_gap(stream_ready=ready)
        occupied = gap.state is StreamState.OCCUPIED
        if ready or occupied:
            await self.another_catalyst.watch_stream(
                "another connection holds the stream of trade updates" if occupied else None
            )
        if ready:
            self.gate.close("stream", "trade updates may be missing until a reconciliation is complete")
            self.connected.set()
            if self._buffering:
                return  # recovery has not read the broker yet; its pass fills this gap
            result = await self.reconciler.reconcile("reconcile")
            log.info("stream_ready", clean=result.clean)
            return
        self.gate.close("stream", f"trade updates {gap.state}: {gap.reason}")
        self.reconciler.requested.notify()
        async with self.store.tx("gap") as conn:
            await alerts.raise_alert(
                conn,
                "STREAM_LOST",
                f"trade updates are {gap.state}: {gap.reason}; the broker is polled until the stream is ready",
                severity=alerts.CRITICAL if gap.state is StreamState.REFUSED else alerts.WARNING,
                subject=gap.state,
                facts={"state": gap.state},
                at=self.clock.now(),
            )

    async def _quarantine_malformed(self, item: MalformedMessage) -> None:
        """Store an unreadable message in quarantine and request a reconciliation."""
        self.malformed += 1
        log.warning("update_malformed", error=item.error, size=len(item.raw))
        async with self.store.tx("quarantine") as conn:
            await quarantine.put(
                conn, source="stream", reason=item.error, payload=item.raw, at=self.clock.now()
            )
        self.reconciler.requested.notify()
