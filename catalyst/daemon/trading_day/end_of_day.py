"""End of day: applies the broker's last reports, proves the account flat, stores the day's result.

Then it completes the cycle. A failed read is repeated at growing intervals for half a day; later the next day's start
completes the cycle. A cycle remains `closed` only while one of its positions is open or reads fail.
"""

import asyncio
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.daemon.exits.flatten import Flatten
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.trading_state.current_day import CLOSE_RETRY_WINDOW, CurrentDay
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import BrokerError, DatabaseContention, DatabaseUnavailable
from catalyst.domain.session import Session, start_of_day
from catalyst.store import alerts, cycles, flat_proofs, orders, positions
from catalyst.store.cycles import CycleRow
from catalyst.store.pool import Store

log = structlog.get_logger()

PROOF_CAUSE: Final = "end of day"  # stored in the proof, and searched for
LAST_FILLS_WAIT: Final = timedelta(seconds=30)  # for working orders to become terminal
FIRST_RETRY_PAUSE: Final = timedelta(seconds=2)
MAX_RETRY_PAUSE: Final = timedelta(seconds=60)
ALERT_AFTER: Final = timedelta(seconds=60)  # of failed attempts
PROOF_TIMEOUT: Final = timedelta(seconds=30)
ATTEMPT_TIMEOUT_S: Final = 600.0  # real seconds, after which an attempt is cancelled


@dataclass
class EndOfDay:
    """Completes the cycle of a day, and the open cycles of earlier days."""

    store: Store
    broker: Broker
    reconciler: Reconciler
    flatten: Flatten
    current_day: CurrentDay
    clock: Clock
    proven: bool = False  # result of the proof of the last `run`

    async def run(self, cycle_id: str, session: Session) -> None:
        """Complete the cycle of the current day with its result and proof.

        It remains `closed` when a position is open or reads fail for CLOSE_RETRY_WINDOW.
        """
        self.proven = False
        started_at, pause, is_alerted = self.clock.now(), FIRST_RETRY_PAUSE, False
        while (reason := await self._try_close(cycle_id, session)) is not None:
            now = self.clock.now()
            log.warning("day_not_closed", reason=reason, again_in=pause.total_seconds())
            if now >= session.close + CLOSE_RETRY_WINDOW:
                return
            if not is_alerted and now - started_at >= ALERT_AFTER:
                is_alerted = await self._alert_not_closed(cycle_id, reason)
            await self.clock.sleep(pause)
            pause = min(pause * 2, MAX_RETRY_PAUSE)

    async def _try_close(self, cycle_id: str, session: Session) -> str | None:
        """Make one attempt; return why it failed, None when it succeeded."""
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):  # noqa: TID251 - real time, because an attempt may hang
                await self.current_day.advance(CycleStatus.CLOSED)
                return await self._close_cycle(cycle_id, session)
        except (BrokerError, DatabaseUnavailable, DatabaseContention, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"

    async def _close_cycle(self, cycle_id: str, session: Session) -> str | None:
        """Reconcile, prove and complete the cycle; return why the broker could not be read, None on success."""
        result = await self.reconciler.reconcile("reconcile")
        async with self.store.read() as conn:
            working = await orders.working(conn)
        if working and (result.complete or result.only_rows_unreadable):
            await self.clock.sleep(LAST_FILLS_WAIT)
            result = await self.reconciler.reconcile("reconcile")
        if not result.complete and not result.only_rows_unreadable:
            return "the reconciliation is not complete"
        account = await self.broker.account()
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
        proof = await self.flatten.prove_if_complete(
            PROOF_CAUSE, by="schedule", cycle_id=cycle_id, alert=not held, since=start_of_day(session.day),
            deadline=self.clock.now() + PROOF_TIMEOUT,
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
            clean=result.clean,
            open_positions=len(held),
        )
        return None

    async def _alert_not_closed(self, cycle_id: str, reason: str) -> bool:
        """Return true once the alert is in the outbox; false during a database outage."""
        try:
            async with self.store.tx("alert") as conn:
                await alerts.raise_alert(
                    conn,
                    "DAY_NOT_CLOSED",
                    f"the day's cycle is not completed and proven yet ({reason}); Catalyst retries",
                    subject=cycle_id,
                    facts={"cycle_id": cycle_id},
                    at=self.clock.now(),
                    window=CLOSE_RETRY_WINDOW,
                )
        except (DatabaseUnavailable, DatabaseContention):
            return False
        return True

    async def close_missed_days(self, today: date, *, to_be_flat: bool) -> None:
        """Complete and prove the open cycles of earlier days that have no open position.

        With `to_be_flat`, a day that still has one and whose close no daemon proved gets a proof that raises an alert.
        """
        async with self.store.read() as conn:
            unfinished = await cycles.unfinished_before(conn, today)
            held_cycles = {position.cycle_id for position in await positions.open_positions(conn)}
        for row in unfinished:
            if row.cycle_id not in held_cycles:
                await self._close_missed_day(row, anything_held=bool(held_cycles))
            elif to_be_flat and not await self._has_proof(row.cycle_id):
                await self.flatten.prove_if_complete(
                    PROOF_CAUSE, by="schedule", cycle_id=row.cycle_id, alert=True, since=start_of_day(row.cycle_date),
                    deadline=self.clock.now() + PROOF_TIMEOUT,
                )  # fmt: skip

    async def _has_proof(self, cycle_id: str) -> bool:
        """Return true when the close of that day has a proof, flat or not."""
        async with self.store.read() as conn:
            return await flat_proofs.has_flat_proof(conn, cycle_id, PROOF_CAUSE)

    async def _close_missed_day(self, row: CycleRow, *, anything_held: bool) -> None:
        """Prove and complete the cycle, without an end equity; does nothing when the broker cannot be read."""
        proof = await self.flatten.prove_if_complete(
            f"{PROOF_CAUSE}, completed late", by="schedule", cycle_id=row.cycle_id, alert=not anything_held,
            since=start_of_day(row.cycle_date), deadline=self.clock.now() + PROOF_TIMEOUT,
        )  # fmt: skip
        if proof is None:
            log.warning("missed_day_not_closed", unfinished=row.cycle_id, reason="the broker cannot be read")
            return
        at = self.clock.now()
        async with self.store.tx("close_missed_day") as conn:
            if row.status is not CycleStatus.CLOSED:
                await cycles.advance(
                    conn, row.cycle_id, from_status=row.status, to_status=CycleStatus.CLOSED, at=at
                )
            realized, unrealized = await positions.day_pnl(conn, row.cycle_id)
            await cycles.finish(
                conn, row.cycle_id, end_equity=None, realized=realized, unrealized=unrealized, at=at
            )
        log.warning("missed_day_closed", finished=row.cycle_id, day=row.cycle_date.isoformat())
