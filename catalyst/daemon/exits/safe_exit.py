"""Safe exit: the only exit path for monitor, time limit, close of day, operator and emergency stop.

The exit intent is committed before the first request. After a restart the open intent continues from the rows and the
broker's state. `position_exit.py` has the steps.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock, separate_turns
from catalyst.daemon.exits.blocking_orders import BlockingOrders
from catalyst.daemon.exits.cancel_turn import CancelTurn
from catalyst.daemon.exits.exit_alert import SLOW_EXIT_AFTER, SLOW_EXITS_WAIT, alert_slow_exits
from catalyst.daemon.exits.position_exit import PositionExit
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.domain.order import Purpose
from catalyst.domain.position import is_planned_exit
from catalyst.domain.refusals import REFUSES_EVERY_SALE, reason_of
from catalyst.domain.session import Session
from catalyst.store import exit_intents, positions
from catalyst.store.exit_intents import ExitIntent
from catalyst.store.pool import Store

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=15)
RETRY_AFTER: Final = timedelta(seconds=1)  # after a failed exit; doubles up to POLL_INTERVAL
MAX_FAILURES: Final = 3  # of our own, not of the database; then the exit is postponed
MAX_CONTENTIONS: Final = 3  # in a row; then the exit goes on without the database

CONTENDED_EXIT_TIMEOUT: Final = timedelta(seconds=30)

ExitInOutage = Callable[
    [str, str, str, timedelta], Awaitable[bool]
]  # symbol, reason, by, within → true when flat


@dataclass(frozen=True, slots=True)
class ExitRun:
    """A running exit and its task."""

    position_exit: PositionExit
    task: asyncio.Task[None]


@dataclass
class SafeExit:
    """Exits positions. While the market is closed, exits wait for the open.

    `exit_in_outage` exits a symbol without the database. `overnight`: ids of positions whose exits end now, because
    the process or the session ends; they keep a stop that outlives the session.
    """

    store: Store
    broker: Broker
    ledger: OrderLedger
    current_day: CurrentDay
    clock: Clock
    epoch: int
    blocking_orders: BlockingOrders
    exit_in_outage: ExitInOutage
    requested: ChangeSignal = field(default_factory=ChangeSignal)
    overnight: set[int] = field(default_factory=set)
    stops_refused: bool = False  # while the session ends; the broker refuses every sale
    turn: CancelTurn = field(default_factory=CancelTurn)
    _ending_session: Session | None = None  # of `overnight`
    _runs: dict[int, ExitRun] = field(default_factory=dict)  # by position id
    _contended: dict[int, asyncio.Task[bool]] = field(default_factory=dict)  # exits without an intent

    async def request(
        self, position_id: int, *, reason: str, purpose: Purpose, by: str, retry_now: bool = False
    ) -> bool:
        """Store an exit intent for a position; return false when it has an open one already.

        `retry_now`: end the postponement of that one, also when its exit has ended for this session. While the market
        is open, contention that outlives MAX_CONTENTIONS tries counts as an outage: the position is exited without the
        database. Raises DatabaseContention otherwise: the stop stays.
        """
        if (contended := self._contended.get(position_id)) is not None and not contended.done():
            return False
        if retry_now:
            self.overnight.discard(position_id)
        for attempt in range(MAX_CONTENTIONS):
            try:
                created = await self._store_intent(position_id, reason, purpose, by, retry_now=retry_now)
                break
            except DatabaseContention as error:
                log.warning("exit_request_repeated", position_id=position_id, error=str(error))
                if attempt < MAX_CONTENTIONS - 1:
                    continue
                if not self._may_exit_without_database(position_id):
                    raise
                async with self.store.read() as conn:
                    position = await positions.get(conn, position_id)
                self._contended[position_id] = asyncio.create_task(
                    self._exit_without_database(position.symbol, reason, by),
                    name=f"contended-exit-{position_id}",
                    context=separate_turns(),
                )
                return True
        if created:
            level = logging.INFO if is_planned_exit(reason) else logging.WARNING
            log.log(level, "exit_requested", position_id=position_id, reason=reason, by=by)
        if created or retry_now:
            self.requested.notify()
        return created

    async def _store_intent(
        self, position_id: int, reason: str, purpose: Purpose, by: str, *, retry_now: bool
    ) -> bool:
        async with self.store.tx("exit_intent") as conn:
            created = await exit_intents.create_intent(
                conn, position_id, reason=reason, purpose=purpose, requested_by=by, at=self.clock.now()
            )
            if retry_now and not created:
                await exit_intents.retry_now(conn, position_id)
        return created

    @property
    def market_open(self) -> bool:
        return self.current_day.market_open

    async def run(self) -> None:
        """Run every open intent until the task is cancelled."""
        try:
            await run_on_signal(self.requested, self.clock, self.start_open_intents, lambda pause: pause)
        finally:
            tasks = [*(run.task for run in self._runs.values()), *self._contended.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def start_open_intents(self) -> timedelta:
        """Start a task for each open intent without one that is not postponed; return the pause until the next call.

        While the market is closed, intents wait and the protective orders keep working.
        """
        if self.current_day.session != self._ending_session:
            self.overnight.clear()  # the next session begins with every exit
            self.stops_refused = False
        if not self.market_open:
            return POLL_INTERVAL
        self._runs = {key: run for key, run in self._runs.items() if not run.task.done()}
        async with self.store.read() as conn:
            intents = await exit_intents.open_intents(conn)
        now = self.clock.now()
        for intent in intents:
            if intent.is_postponed(now) or intent.position_id in self.overnight:
                continue
            run = self._runs.get(intent.position_id)
            if run is None or run.task.done():
                self._runs[intent.position_id] = self._start_exit(intent)
        waits = [intent.retry_at - now for intent in intents if intent.retry_at and intent.is_postponed(now)]
        return min([POLL_INTERVAL, *waits, *await self._alert_slow_exits()])

    def note_refused_stop(self, refusal: str) -> None:
        """Keep the stops that work from now on when the broker refuses every sale, also a stop."""
        self.stops_refused |= reason_of(refusal) in REFUSES_EVERY_SALE

    def _start_exit(self, intent: ExitIntent) -> ExitRun:
        position_exit = PositionExit(
            self.blocking_orders,
            self.current_day,
            self.clock,
            self.epoch,
            self.turn,
            self.overnight,
            intent,
        )
        task = asyncio.create_task(
            self._run_intent(position_exit), name=f"exit-{intent.position_id}", context=separate_turns()
        )
        return ExitRun(position_exit, task)

    async def _alert_slow_exits(self) -> list[timedelta]:
        """Alert exits that take too long, those of one moment in one alert; return the pause until others may."""
        now = self.clock.now()
        running = [
            run.position_exit
            for run in self._runs.values()
            if not run.task.done() and not run.position_exit.is_slow_alerted
        ]
        wait = SLOW_EXIT_AFTER + SLOW_EXITS_WAIT
        if all(now - position_exit.began_at < wait for position_exit in running):
            return [position_exit.began_at + wait - now for position_exit in running]
        slow = {
            position_exit.intent.position_id: position_exit
            for position_exit in running
            if now - position_exit.began_at >= SLOW_EXIT_AFTER
        }
        async with self.store.read() as conn:
            held = [row for row in await positions.open_positions(conn) if row.position_id in slow]
        for row in held:
            log.error("exit_slow", symbol=row.symbol, reason=slow[row.position_id].intent.reason)
        if held and await alert_slow_exits(self.store, [row.symbol for row in held], at=now):
            for row in held:
                slow[row.position_id].note_slow_alert()
        return []

    def end_exits(self, position_ids: Iterable[int]) -> None:
        """End the exits of these positions unsold, because the process or the session ends."""
        self._ending_session = self.current_day.session
        new = set(position_ids) - self.overnight
        if new:  # a repeated call wakes nobody
            self.overnight |= new
            self.ledger.changed.notify()

    async def _run_intent(self, position_exit: PositionExit) -> None:
        """Exit the position; retry after failures, with doubling pauses, while the intent is open.

        From MAX_FAILURES of another kind than the database's on, the exit is postponed for the pause: its stop is
        checked meanwhile.
        """
        intent = position_exit.intent
        pause, contentions, failures = RETRY_AFTER, 0, 0
        to_postpone: Exception | None = None
        while True:
            try:
                if to_postpone is None:
                    await position_exit.run()
                    return
                await position_exit.postpone_after(to_postpone, pause, failures - MAX_FAILURES + 1)
            except Exception as error:  # a failed exit must not stop the others
                log.exception("exit_failed", position_id=intent.position_id, again_in=pause.total_seconds())
                contentions = contentions + 1 if isinstance(error, DatabaseContention) else 0
                failures += not isinstance(error, DatabaseContention | DatabaseUnavailable)
                if to_postpone is None and failures >= MAX_FAILURES:
                    to_postpone = error
                    continue
            to_postpone = None
            if contentions >= MAX_CONTENTIONS and self._may_exit_without_database(intent.position_id):
                contentions = 0
                if await self._exit_contended(intent):
                    return
            await self.clock.sleep(pause)
            pause = min(pause * 2, POLL_INTERVAL)
            if not await self._may_run_again(intent):
                return

    def _may_exit_without_database(self, position_id: int) -> bool:
        """Return true while the shares can be sold: otherwise nothing may cancel their stop."""
        return self.market_open and position_id not in self.overnight

    async def _exit_contended(self, intent: ExitIntent) -> bool:
        """Exit without the database a position whose rows another session keeps locked; return true when flat."""
        try:
            async with self.store.read() as conn:
                position = await positions.get(conn, intent.position_id)
        except (DatabaseUnavailable, DatabaseContention):
            return False  # an outage: the stop monitor protects and exits
        return await self._exit_without_database(position.symbol, intent.reason, intent.requested_by)

    async def _exit_without_database(self, symbol: str, reason: str, by: str) -> bool:
        log.critical("exit_without_database", symbol=symbol, reason=reason, tries=MAX_CONTENTIONS)
        session, within = self.current_day.session, CONTENDED_EXIT_TIMEOUT
        if session is not None:
            within = min(within, session.close - self.clock.now())
        return await self.exit_in_outage(symbol, reason, by, within)

    async def _may_run_again(self, intent: ExitIntent) -> bool:
        """Return false when the intent has ended or is postponed."""
        try:
            async with self.store.read() as conn:
                open_intent = await exit_intents.open_intent_of(conn, intent.position_id)
        except (DatabaseUnavailable, DatabaseContention):
            return True  # unknown during a database outage; the next attempt reads it again
        is_open = open_intent is not None and open_intent.intent_id == intent.intent_id
        return is_open and open_intent is not None and not open_intent.is_postponed(self.clock.now())
