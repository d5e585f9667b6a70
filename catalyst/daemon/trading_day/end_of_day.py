"""The end of a cycle: the broker's last word, the day's figures, the proof, and only then `completed`.

What cannot be asked at that moment is asked again, ever more rarely, until the next day's start, which completes what
is still open. So a cycle stays `closed` only while something of it is held, or nobody could be asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.daemon.exits.flatten import Flatten
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import BrokerError
from catalyst.domain.session import NEW_YORK, Session
from catalyst.store import alerts, cycles, flat_proofs, orders, positions
from catalyst.store.cycles import CycleRow
from catalyst.store.pool import Store, is_passing

log = structlog.get_logger()

CAUSE: Final = "the close of the day"
LAST_FILLS: Final = timedelta(seconds=30)  # an order that still works then has that long to come to its end
PAUSE: Final = timedelta(seconds=2)
LONGEST_PAUSE: Final = timedelta(seconds=60)
PATIENCE: Final = timedelta(seconds=60)  # before somebody is told
# After the close; then the next day's start is near, and makes up for it.
CLOSE_WITHIN: Final = timedelta(hours=12)
READ_WITHIN: Final = timedelta(seconds=30)
ATTEMPT: Final = 600.0  # real seconds: an attempt that hangs is cut


@dataclass
class Closing:
    """Completes cycles. Its fields are all it can touch."""

    store: Store
    broker: Broker
    reconciler: Reconciler
    flatten: Flatten
    clock: Clock
    proven: bool = False  # by the proof of `run`

    async def run(self, cycle_id: str, session: Session, shut: Callable[[], Awaitable[object]]) -> None:
        """The cycle is completed with its figures and its proof, or left `closed`: because something is held, or
        because half a day was not enough to ask. `shut` closes it to entries."""
        began, pause, told = self.clock.now(), PAUSE, False
        while (why := await self._attempt(cycle_id, session, shut)) is not None:
            now = self.clock.now()
            log.warning("day_unclosed", reason=why, again_in=pause.total_seconds())
            if now >= session.close + CLOSE_WITHIN:
                return
            if not told and now - began >= PATIENCE:
                told = await self._tell(cycle_id, why)
            await self.clock.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _attempt(
        self, cycle_id: str, session: Session, shut: Callable[[], Awaitable[object]]
    ) -> str | None:
        """What could not be asked; None when nothing is left to do."""
        try:
            async with asyncio.timeout(ATTEMPT):  # noqa: TID251 - a hung attempt is cut in real time
                await shut()
                return await self._close(cycle_id, session)
        except Exception as error:
            if not isinstance(error, BrokerError) and not is_passing(error):
                raise
            return f"{type(error).__name__}: {error}"

    async def _close(self, cycle_id: str, session: Session) -> str | None:
        findings = await self.reconciler.look("reconcile")
        async with self.store.read() as conn:
            working = await orders.working(conn)
        if working and findings.read:
            await self.clock.sleep(LAST_FILLS)
            findings = await self.reconciler.look("reconcile")
        if not findings.read:
            return "the broker could not be read whole"
        account = await self.broker.account()
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
        proof = await self.flatten.prove_if_read(
            CAUSE, by="schedule", cycle_id=cycle_id, page=not held, since=_morning(session.day),
            deadline=self.clock.now() + READ_WITHIN,
        )  # fmt: skip
        if proof is None:
            return "the broker could not be read for the proof"
        self.proven = proof.proven
        async with self.store.tx("cycle_close") as conn:
            realized, unrealized = await positions.day_pnl(conn, cycle_id)
            row = await cycles.get(conn, cycle_id)
            if row is not None and row.status is CycleStatus.CLOSED and not held:
                await cycles.finish(
                    conn,
                    cycle_id,
                    end_equity=account.equity,
                    realized=realized,
                    unrealized=unrealized,
                    at=self.clock.now(),
                )
        log.info(
            "day_finished",
            realized_pnl=str(realized),
            equity=str(account.equity),
            clean=findings.clean,
            open_positions=len(held),
        )
        return None

    async def _tell(self, cycle_id: str, why: str) -> bool:
        """True once the page is in the outbox; while the database is away it is not."""
        try:
            async with self.store.tx("page") as conn:
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="DAY_UNCLOSED",
                    message=f"the day's cycle could not be completed and proven yet ({why}); it is tried again",
                    facts={"cycle_id": cycle_id},
                    dedupe_key=f"DAY_UNCLOSED:{cycle_id}",
                    at=self.clock.now(),
                    window=CLOSE_WITHIN,
                )
        except Exception as error:
            if not is_passing(error):
                raise
            return False
        return True

    async def make_up(self, today: date, *, to_be_flat: bool) -> None:
        """Cycles of days before `today` that nobody completed, and of which nothing is held, are completed and proven.

        Where a day was `to_be_flat` and nobody was there at its close, somebody is told of what it holds.
        """
        async with self.store.read() as conn:
            unfinished = await cycles.unfinished_before(conn, today)
            held = {position.cycle_id for position in await positions.open_positions(conn)}
        for row in unfinished:
            if row.cycle_id not in held:
                await self._make_up(row, anything_held=bool(held))
            elif to_be_flat and not await self._is_told(row.cycle_id):
                await self.flatten.prove_if_read(
                    CAUSE, by="schedule", cycle_id=row.cycle_id, page=True, since=_morning(row.cycle_date),
                    deadline=self.clock.now() + READ_WITHIN,
                )  # fmt: skip

    async def _is_told(self, cycle_id: str) -> bool:
        """True when the end of that day was looked at: its proof is there, whatever it proved."""
        async with self.store.read() as conn:
            return await flat_proofs.has_flat_proof(conn, cycle_id, CAUSE)

    async def _make_up(self, row: CycleRow, *, anything_held: bool) -> None:
        proof = await self.flatten.prove_if_read(
            f"{CAUSE}, made up for", by="schedule", cycle_id=row.cycle_id, page=not anything_held,
            since=_morning(row.cycle_date), deadline=self.clock.now() + READ_WITHIN,
        )  # fmt: skip
        if proof is None:
            log.warning("cycle_left_unfinished", unfinished=row.cycle_id, reason="the broker cannot be read")
            return
        at = self.clock.now()
        async with self.store.tx("cycle_make_up") as conn:
            if row.status is not CycleStatus.CLOSED:
                await cycles.advance(conn, row.cycle_id, seen=row.status, then=CycleStatus.CLOSED, at=at)
            realized, unrealized = await positions.day_pnl(conn, row.cycle_id)
            await cycles.finish(
                conn, row.cycle_id, end_equity=None, realized=realized, unrealized=unrealized, at=at
            )
        log.warning("cycle_made_up_for", finished=row.cycle_id, day=row.cycle_date.isoformat())


def _morning(day: date) -> datetime:
    """The first instant of a New York date."""
    return datetime.combine(day, time(), NEW_YORK).astimezone(UTC)
