"""Startup survey: reads unfinished work, active latches and the number of recent starts.

It reads, logs and closes the entry gate. The reconciler, the position protector and the trading day act on the rows.
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

CRASH_LOOP: Final = "crash_loop"
MAX_STARTS: Final = 5
CRASH_LOOP_WINDOW: Final = timedelta(minutes=10)


@dataclass
class StartupSurvey:
    """Survey of one daemon start. `completed` is set when it is done."""

    store: Store
    gate: EntryGate
    clock: Clock
    completed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read_unfinished(self) -> None:
        """Log the work that previous runs left unfinished; close the entry gate for every active latch."""
        async with self.store.read() as conn:
            working = await orders.working(conn)
            intents = await exit_intents.open_intents(conn)
            latched = await latches.active_latches(conn)
            unfinished_commands = await commands.unfinished(conn)
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
            commands=len(unfinished_commands),
            latches=sorted(latched),
        )

    async def detect_crash_loop(self) -> None:
        """Close the entry gate and alert after more than five starts within ten minutes.

        `clear_crash_loop` opens the gate again once one process has run for ten minutes.
        """
        now = self.clock.now()
        async with self.store.read() as conn:
            starts = await daemon_epoch.runs_since(conn, now - CRASH_LOOP_WINDOW)
        if starts <= MAX_STARTS:
            return
        why = f"{starts} starts within {CRASH_LOOP_WINDOW.seconds // 60} minutes"
        self.gate.close(CRASH_LOOP, why)
        log.critical("crash_loop", starts=starts)
        async with self.store.tx("crash_loop") as conn:
            await alerts.raise_alert(
                conn,
                "CRASH_LOOP",
                f"{why}: entries are blocked until one daemon has run for {CRASH_LOOP_WINDOW.seconds // 60}"
                " minutes; open positions stay protected. See the log for the crash",
                facts={"starts": starts},
                at=now,
            )

    async def clear_crash_loop(self) -> None:
        """Reopen the gate once this process has run for ten minutes; never returns."""
        if CRASH_LOOP in self.gate.reasons:
            await self.clock.sleep(CRASH_LOOP_WINDOW)
            self.gate.reopen(CRASH_LOOP)
        await asyncio.Event().wait()
