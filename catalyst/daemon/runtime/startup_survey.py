"""What a start finds: what was left unfinished, how often we began of late, and which latches are set.

It reads and says; the reconciler, the guard and the day act on the same rows.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.domain.order import Status
from catalyst.store import alerts, commands, daemon_epoch, exit_intents, latches, orders
from catalyst.store.pool import Store

log = structlog.get_logger()

LOOP: Final = "boots"
MOST: Final = 5
WITHIN: Final = timedelta(minutes=10)


@dataclass
class Boot:
    """One start of the daemon."""

    store: Store
    gate: Gate
    clock: Clock
    surveyed: asyncio.Event = field(default_factory=asyncio.Event)

    async def survey(self) -> None:
        """Say what an earlier daemon left behind; a latch it set keeps entries shut from this moment on."""
        async with self.store.read() as conn:
            working = await orders.working(conn)
            intents = await exit_intents.open_intents(conn)
            latched = await latches.active_latches(conn)
            asked = await commands.unfinished(conn)
        for name, why in latched.items():
            self.gate.shut(name, why)
        log.info(
            "unfinished_found",
            never_sent=sum(row.status is Status.CREATED for row in working),
            unanswered=sum(row.status is Status.SUBMITTED and row.alpaca_order_id is None for row in working),
            working=len(working),
            exit_intents=len(intents),
            commands=len(asked),
            latches=sorted(latched),
        )

    async def count(self) -> None:
        """More than five starts in ten minutes are a loop: no entry, and somebody is paged. It ends by itself once a
        daemon has lived that long."""
        now = self.clock.now()
        async with self.store.read() as conn:
            boots = await daemon_epoch.boots_since(conn, now - WITHIN)
        if boots <= MOST:
            return
        why = f"{boots} starts within {WITHIN.seconds // 60} minutes"
        self.gate.shut(LOOP, why)
        log.critical("crash_loop", boots=boots)
        async with self.store.tx("crash_loop") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL",
                event="CRASH_LOOP",
                message=f"{why}: no entries until one daemon has lived for that long; what is held stays protected",
                facts={"boots": boots},
                dedupe_key="CRASH_LOOP",
                at=now,
            )

    async def outlive(self) -> None:
        """Open the gate again once this daemon has lived long enough."""
        if LOOP in self.gate.reasons:
            await self.clock.sleep(WITHIN)
            self.gate.clear(LOOP)
        await asyncio.Event().wait()
