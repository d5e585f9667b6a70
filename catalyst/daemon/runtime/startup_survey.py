"""What a start finds: what was left unfinished, how often we began of late, and which latches are set.

It reads and says; the reconciler, the guard and the day act on the same rows.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.order import Status
from catalyst.store import alerts, commands, daemon_epoch, exit_intents, latches, orders
from catalyst.store.pool import Store

log = structlog.get_logger()

CRASH_LOOP: Final = "boots"
MAX_STARTS: Final = 5
CRASH_LOOP_WINDOW: Final = timedelta(minutes=10)


@dataclass
class StartupSurvey:
    """One start of the daemon."""

    store: Store
    gate: EntryGate
    clock: Clock
    completed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read_unfinished(self) -> None:
        """Say what an earlier daemon left behind; a latch it set keeps entries shut from this moment on."""
        async with self.store.read() as conn:
            working = await orders.working(conn)
            intents = await exit_intents.open_intents(conn)
            latched = await latches.active_latches(conn)
            asked = await commands.unfinished(conn)
        for name, why in latched.items():
            self.gate.close(name, why)
        log.info(
            "unfinished_work_found",
            never_sent=sum(row.status is Status.CREATED for row in working),
            unacknowledged=sum(
                row.status is Status.SUBMITTED and row.alpaca_order_id is None for row in working
            ),
            working=len(working),
            exit_intents=len(intents),
            commands=len(asked),
            latches=sorted(latched),
        )

    async def detect_crash_loop(self) -> None:
        """More than five starts in ten minutes are a loop: no entry, and somebody is paged. It ends by itself once a
        daemon has lived that long."""
        now = self.clock.now()
        async with self.store.read() as conn:
            boots = await daemon_epoch.runs_since(conn, now - CRASH_LOOP_WINDOW)
        if boots <= MAX_STARTS:
            return
        why = f"{boots} starts within {CRASH_LOOP_WINDOW.seconds // 60} minutes"
        self.gate.close(CRASH_LOOP, why)
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

    async def clear_crash_loop(self) -> None:
        """Open the gate again once this daemon has lived long enough."""
        if CRASH_LOOP in self.gate.reasons:
            await self.clock.sleep(CRASH_LOOP_WINDOW)
            self.gate.reopen(CRASH_LOOP)
        await asyncio.Event().wait()
