"""What the trade_updates stream says, carried to the books; its gaps, carried to the gate and the reconciler."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import structlog

from catalyst.broker.port import Gap, Garbled, StreamState, TradeUpdates
from catalyst.clock import Clock
from catalyst.daemon.orders.ledger import Books
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.domain.report import TradeUpdate
from catalyst.store import alerts, quarantine
from catalyst.store.pool import Store

log = structlog.get_logger()

# Messages that wait and are heard together: a statement of a few tens of milliseconds.
MOST_AT_ONCE: Final = 64


@dataclass
class Listening:
    """One consumer of the stream. Entries are shut while it is not ready and reconciled.

    Until `go_on` what it says is kept: recovery looks at everything the broker shows first, and hears these then.
    """

    stream: TradeUpdates
    books: Books
    gate: Gate
    reconciler: Reconciler
    store: Store
    clock: Clock
    heard: int = 0
    unknown: int = field(default=0)
    opened: asyncio.Event = field(default_factory=asyncio.Event)  # nothing from now on is missed
    _kept: deque[TradeUpdate | Garbled] = field(default_factory=deque)
    _keeping: bool = True

    async def run(self) -> None:
        async for item in self.stream.listen():
            if isinstance(item, Gap):
                await self._gap(item)
            elif self._keeping:
                self._kept.append(item)
            else:
                await self._hear([item, *self.stream.waiting(MOST_AT_ONCE)])

    async def go_on(self) -> int:
        """Hear what was kept, in its order, and from now on everything at once; how many there were."""
        heard = 0
        while self._kept:
            kept = [self._kept.popleft() for _ in range(min(len(self._kept), MOST_AT_ONCE))]
            await self._hear(kept)
            heard += len(kept)
        self._keeping = False
        return heard

    async def _hear(self, items: Sequence[TradeUpdate | Garbled]) -> None:
        """Hear each in its turn; updates that follow one another together, where they can be."""
        for is_update, run in groupby(items, key=lambda item: isinstance(item, TradeUpdate)):
            if is_update:
                await self._updates([item for item in run if isinstance(item, TradeUpdate)])
            else:
                for item in run:
                    if isinstance(item, Garbled):
                        await self._garbled(item)

    async def _updates(self, updates: Sequence[TradeUpdate]) -> None:
        """A message that fails must not end the stream: the reconciler will find what it said."""
        heard = 0
        while heard < len(updates):
            first, known, count = updates[heard], True, 0
            try:
                count = await self.books.hear_run(updates[heard:])
                if not count:
                    known = await self.books.hear_update(first)
            except Exception:  # the edge of a task that must live on
                log.exception("update_failed", trade_event=first.event, broker_id=first.order.broker_id)
                known = False
            heard += count or 1
            self.heard += count or 1
            if not known:
                self.reconciler.soon.beat()

    async def _gap(self, gap: Gap) -> None:
        """Nothing is believed complete across a gap: entries stop until somebody has looked at everything."""
        ready = gap.state is StreamState.READY
        self.reconciler.mark_gap(stream_ready=ready)
        if ready:
            self.gate.shut("stream", "the gap is not filled yet")
            self.opened.set()
            if self._keeping:
                return  # recovery has not looked yet; its look fills this gap
            findings = await self.reconciler.look("reconcile")
            log.info("stream_ready", clean=findings.clean)
            return
        self.gate.shut("stream", f"trade updates {gap.state}: {gap.reason}")
        self.reconciler.soon.beat()
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

    async def _garbled(self, item: Garbled) -> None:
        self.unknown += 1
        log.warning("update_garbled", error=item.error, size=len(item.raw))
        async with self.store.tx("quarantine") as conn:
            await quarantine.put(
                conn, source="stream", reason=item.error, payload=item.raw, at=self.clock.now()
            )
        self.reconciler.soon.beat()
