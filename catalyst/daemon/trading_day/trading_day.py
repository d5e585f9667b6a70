"""Trading day: runs the scheduled jobs of one session, moves its cycle, and scans for entries."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config, SessionMode
from catalyst.daemon.exits.flatten import FLATTEN_LATCH, Flatten
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.risk.daily_loss import DailyLossLimit
from catalyst.daemon.risk.emergency_stop import LATCH, EmergencyStop
from catalyst.daemon.trading_day.day_report import raise_day_reports
from catalyst.daemon.trading_day.end_of_day import EndOfDay
from catalyst.daemon.trading_day.entry import EntryPlacement
from catalyst.daemon.trading_day.portfolio import read_portfolio
from catalyst.daemon.trading_day.retention import delete_old_frames
from catalyst.daemon.trading_day.scan_failures import ScanFailures
from catalyst.daemon.trading_day.scan_records import records_of
from catalyst.daemon.trading_day.scanner import Scanner, ScanResult
from catalyst.daemon.trading_day.schedule import Job, ScheduledJob, missed_scans
from catalyst.daemon.trading_state.account_status import follow_account_status
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain import cycle as machine
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import AuthRefused, BrokerError
from catalyst.domain.order import Purpose
from catalyst.domain.position import CloseReason
from catalyst.domain.session import NEW_YORK, Session, start_of_day, trading_date
from catalyst.pipeline.universe import unmatched_names
from catalyst.store import (
    alerts,
    candidates,
    cycles,
    latches,
    orders,
    positions,
    risk_events,
    securities,
    trading_days,
)
from catalyst.store.cycles import CycleRow
from catalyst.store.pool import Connection, Store

log = structlog.get_logger()

FLATTEN_TIMEOUT: Final = timedelta(minutes=8)
MIN_FLATTEN_TIMEOUT: Final = timedelta(seconds=30)
FLATTEN_ENDS_BEFORE_CLOSE: Final = timedelta(seconds=20)
PROTECT_REST_BEFORE_CLOSE: Final = timedelta(seconds=40)  # exits are tried until then; the rest keeps a stop
ENFORCE_FLAT_INTERVAL: Final = timedelta(seconds=15)  # between two checks for new exposure in `enforce_flat`
PREPARE_RETRY_PAUSES: Final = (timedelta(seconds=5), timedelta(seconds=20), timedelta(seconds=60))
# Real seconds before a job is cancelled: a scan that hangs must not delay the exits before the close.
DEFAULT_JOB_TIMEOUT_S: Final = 600.0
# The close has no limit here: it limits each of its attempts and retries.
JOB_TIMEOUTS_S: Final = {
    Job.FIRST_SCAN: 120.0,
    Job.SCAN: 120.0,
    Job.PRE_OPEN: 300.0,
    Job.PRICE_SAMPLE: 60.0,
    Job.CLOSE: None,
}
MODE_CHANGED_EVENT: Final = "SESSION_MODE_CHANGED"
ENTRY_JOBS: Final = frozenset({Job.PRE_OPEN, Job.FIRST_SCAN, Job.PRICE_SAMPLE, Job.SCAN})


@dataclass
class TradingDay:
    """Jobs of the current day. The schedule calls `run`, one job at a time."""

    store: Store
    broker: Broker
    exits: SafeExit
    flatten: Flatten
    gate: EntryGate
    daily_loss_limit: DailyLossLimit
    emergency_stop: EmergencyStop
    scanner: Scanner
    scan_failures: ScanFailures
    entries: EntryPlacement
    end_of_day: EndOfDay
    current_day: CurrentDay
    clock: Clock
    config: CurrentConfig
    mode: SessionMode

    @property
    def session(self) -> Session:
        assert self.current_day.session is not None  # a day begins only with a session
        return self.current_day.session

    @property
    def cycle_id(self) -> str:
        return self.current_day.begun_cycle_id

    async def run(self, job: Job) -> None:
        """Run one job. A failed job is logged and alerted and does not end the daemon.

        ENTRY_JOBS are skipped once the exits before the close are due, so that a late scan does not delay them.
        """
        flat_at = self.session.flatten_at(self.config.session.flat_before_close_minutes)
        if job in ENTRY_JOBS and self.clock.now() >= flat_at:
            log.warning("job_missed", job=job, reason="the day is ending")
            return
        if job is not Job.PRICE_SAMPLE:
            log.info("job_started", job=job)
        try:
            async with asyncio.timeout(JOB_TIMEOUTS_S.get(job, DEFAULT_JOB_TIMEOUT_S)):  # noqa: TID251 - real time, because a job may hang
                await self._run_job(job)
        except Exception as error:  # the next job must still run
            if job in (Job.FIRST_SCAN, Job.SCAN):
                await self.scan_failures.record(error)
            if isinstance(error, BrokerError):
                log.warning("job_failed", job=job, error=str(error))
            else:
                log.exception("job_failed", job=job)
            async with self.store.tx("job_failed") as conn:
                await alerts.raise_alert(
                    conn,
                    "JOB_FAILED",
                    f"the job {job} failed; the day continues; see the log for the error",
                    severity=alerts.WARNING,
                    subject=f"{self.cycle_id}:{job}",
                    facts={"job": job, "cycle_id": self.cycle_id},
                    at=self.clock.now(),
                )

    async def _run_job(self, job: Job) -> None:
        match job:
            case Job.PRE_OPEN:
                await self.prepare(retry_pauses=PREPARE_RETRY_PAUSES)
                await raise_day_reports(self.store, self.clock)  # of a day that no daemon reported
            case Job.PRICE_SAMPLE:
                await self.scanner.record_prices()
            case Job.FIRST_SCAN | Job.SCAN:
                await self.scan(trade=True)
            case Job.FLAT:
                await self.go_flat()
            case Job.VERIFY_FLAT:
                await self.verify_flat()
            case Job.CLOSE:
                await self.close()
                await raise_day_reports(self.store, self.clock)
            case _:
                assert_never(job)

    # -- the cycle

    async def begin(self) -> None:
        """Open or resume today's cycle, apply the latches, and pass session and cycle to the components.

        Also exits carried positions and completes missed days. Raises BrokerError when the account cannot be read.
        """
        self.current_day.mark_running()
        now = self.clock.now()
        account = await self.broker.account()
        start_transfers = await self.daily_loss_limit.comparison.transfers_of(self.session.day)
        config = self.config.in_force
        async with self.current_day.latch_lock, self.store.tx("cycle") as conn:
            await trading_days.put(conn, [self.session])
            row, is_new = await cycles.open_day(
                conn,
                cycle_id=machine.cycle_id(now.astimezone(NEW_YORK)),
                day=self.session.day,
                mode=self.mode,
                max_positions=config.risk.max_positions,
                max_daily_loss=config.risk.max_daily_loss,
                scan_frequency=config.workflow.scan_frequency_minutes * 60,
                start_equity=account.equity,
                start_transfers=start_transfers,
                config_hash=config.fingerprint,
                at=now,
            )
            if not is_new:
                row = await _put_settings(conn, row, config, self.mode, at=now)
            expired = await latches.clear_expired(conn, at=now)
            latched = await latches.active_latches(conn)
            began_at = start_of_day(self.session.day)
            carried = await positions.mark_carried(conn, day_began_at=began_at, is_new_day=is_new)
            await positions.set_missing_cycle(conn, row.cycle_id, day_began_at=began_at)
            for name, reason in latched.items():
                self.gate.close(name, reason)
        for name in expired:
            self.gate.reopen(name)
        self.current_day.set_cycle(row.cycle_id)
        await self.exits.ledger.refresh_unbooked()
        await self.daily_loss_limit.begin(row)
        await self.emergency_stop.load_unfinished()
        if LATCH in latched and row.status is not CycleStatus.COMPLETED:
            row = await self._close_stopped_day(row, latched[LATCH])
        self.gate.reopen("day_ending")  # it may be closed by an earlier day whose loop did not finish
        if row.status in (CycleStatus.CLOSED, CycleStatus.COMPLETED):
            self.gate.close("cycle_closed", "the day's cycle is closed")
        else:
            self.gate.reopen("cycle_closed")
            if row.status is not CycleStatus.IDLE:
                await self.set_idle_status()  # a previous run may have crashed during a scan
        follow_account_status(self.gate, account)
        await self._exit_carried(carried)
        to_be_flat = self.config.positions.close_all_at_market_close
        await self.end_of_day.close_missed_days(self.session.day, to_be_flat=to_be_flat)
        structlog.contextvars.bind_contextvars(cycle_id=self.cycle_id)
        log.info(
            "cycle_opened" if is_new else "cycle_resumed",
            status=row.status,
            mode=self.mode,
            equity=str(account.equity),
            session_open=self.session.open.astimezone(NEW_YORK).strftime("%H:%M"),
            session_close=self.session.close.astimezone(NEW_YORK).strftime("%H:%M"),
        )
        await (
            self.daily_loss_limit.check()
        )  # recovery may have booked a loss; check it before the first entry

    async def log_missed_scans(self, jobs: Sequence[ScheduledJob]) -> None:
        """Log in one line the scans of the session that no daemon ran, as the stored scans show."""
        async with self.store.read() as conn:
            scans = await candidates.scans_of(conn, self.cycle_id)
        missed = missed_scans(jobs, self.clock.now(), [scan.started_at for scan in scans])
        if missed:
            log.warning(
                "job_missed", job=Job.SCAN, times=[f"{each.at.astimezone(NEW_YORK):%H:%M}" for each in missed]
            )

    async def _close_stopped_day(self, row: CycleRow, reason: str) -> CycleRow:
        """Halt and close the cycle if the emergency stop latch is of its day: a crash came before the halt."""
        async with self.store.tx("halt") as conn:
            latched_at = await latches.latched_at(conn, LATCH)
            if latched_at is None or trading_date(latched_at) != row.cycle_date:
                return row
            until = latched_at + timedelta(minutes=self.config.emergency.cooldown_period_minutes)
            await cycles.halt(conn, row.cycle_id, reason=reason, until=until, at=self.clock.now())
        await self.current_day.advance(CycleStatus.CLOSED)
        async with self.store.read() as conn:
            closed = await cycles.get(conn, row.cycle_id)
        assert closed is not None  # `begin` has opened it
        return closed

    async def _exit_carried(self, newly_carried: list[str]) -> None:
        """Request the exit of positions of earlier days; it happens at the open, until then they stay protected."""
        if newly_carried:
            log.warning("positions_carried", symbols=newly_carried)
        if not self.config.positions.close_all_at_market_close:
            return
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
        for position in held:
            if position.carried:
                reason = f"{CloseReason.MARKET_CLOSE}: {position.symbol} was carried from an earlier day"
                await self.exits.request(
                    position.position_id, reason=reason, purpose=Purpose.EXIT, by="schedule"
                )

    async def enforce_flat(self) -> None:
        """During the session exit everything while a flatten latch is set or an emergency stop is unfinished.

        That includes positions that remained after a crash and positions of a later fill, such as of a revived order.
        """
        await self.clock.sleep_until(self.session.open)
        is_first_check = True
        while self.clock.now() < self.session.close:
            if not self.flatten.active_runs and (
                (is_first_check and not await self.flatten.is_flat()) or await self.flatten.has_new_exposure()
            ):
                await self._enforce_flat_once()
            await self.emergency_stop.finish()
            is_first_check = False
            await self.clock.sleep(ENFORCE_FLAT_INTERVAL)

    async def _enforce_flat_once(self) -> None:
        """Exit everything, or cancel the entries, as the latches and the unfinished stop require."""
        async with self.store.read() as conn:
            latched = await latches.active_latches(conn)
            facts = await latches.latch_facts(conn, FLATTEN_LATCH) or {}
        stop = self.emergency_stop.unfinished
        emergency = LATCH in latched or stop is not None
        exit_all = self.config.emergency.close_all_positions_on_limit if stop is None else stop.exit_all
        if emergency and not exit_all and FLATTEN_LATCH not in latched:
            await self.flatten.cancel_entries(within=timedelta(seconds=60))
            return
        if not emergency and FLATTEN_LATCH not in latched:
            return
        is_shutdown = facts.get("close_reason") == CloseReason.SHUTDOWN
        reason = CloseReason.SHUTDOWN if is_shutdown else CloseReason.MANUAL
        await self.flatten.run(
            CloseReason.EMERGENCY_STOP if emergency else reason,
            by="recovery",
            purpose=Purpose.EXIT if emergency else Purpose.FLATTEN,
            within=timedelta(seconds=60),
            cycle_id=self.cycle_id,
        )

    # -- jobs

    async def prepare(self, *, retry_pauses: Sequence[timedelta] = ()) -> None:
        """Read assets, listings and reference data; update the securities rows.

        Retries after each of `retry_pauses`; then raises the last BrokerError.
        """
        for pause in (*retry_pauses, None):
            try:
                await self.scanner.prepare(self.session)
                break
            except AuthRefused as error:
                await self.scan_failures.record(error)
                raise
            except BrokerError as error:
                if pause is None:
                    raise
                log.warning("preparation_retried", error=str(error), seconds=pause.total_seconds())
                await self.clock.sleep(pause)
        async with self.store.tx("securities") as conn:
            await securities.refresh(conn, self.scanner.assets, at=self.clock.now())
            await securities.put_sectors(conn, self.scanner.sectors)
            if self.scanner.history_shortage is not None:
                log.error("daily_bars_missing", reason=self.scanner.history_shortage)
                await alerts.raise_alert(
                    conn,
                    "DAILY_BARS_MISSING",
                    f"no candidate can be judged today: {self.scanner.history_shortage}; check broker.feed and the"
                    " data plan with `catalyst check`",
                    severity=alerts.WARNING,
                    subject=self.session.day,
                    facts={"day": self.session.day},
                    at=self.clock.now(),
                    window=timedelta(days=1),
                )
        await self._alert_unmatched_names()

    async def _alert_unmatched_names(self) -> None:
        """Raise an alert for symbols and sectors of the configuration that match no listing of this day."""
        listed = {asset.symbol for asset in self.scanner.assets}
        sentences = unmatched_names(
            listed,
            set(self.scanner.sectors.values()),
            self.config.in_force,
            self.scanner.present_symbols,
        )
        if not sentences:
            return
        async with self.store.tx("config_unmatched") as conn:
            await alerts.raise_alert(
                conn,
                "CONFIG_UNMATCHED",
                f"names in the configuration have no effect: {'; '.join(sentences)}",
                severity=alerts.WARNING,
                subject=self.session.day,
                window=timedelta(days=1),
                facts={"sentences": sentences},
                at=self.clock.now(),
            )

    async def scan(self, *, trade: bool) -> ScanResult | None:
        """Scan, and with `trade` place the planned entries.

        The result of every symbol is stored before the first order is sent. Return None when the cycle is closed or
        market data could not be read.
        """
        if self.scanner.prepared_day != self.session.day:
            await self.prepare()
        if not await self.current_day.advance(CycleStatus.SCANNING):
            log.info("scan_skipped", reason="the cycle is closed")
            return None
        try:
            return await self._scan_and_trade(trade=trade)
        finally:
            await self.set_idle_status()

    async def _scan_and_trade(self, *, trade: bool) -> ScanResult | None:
        """Scan, store the result, and with `trade` place its entries; None when the scan failed."""
        portfolio, account = await read_portfolio(
            self.store,
            self.broker,
            self.gate,
            cycle_id=self.cycle_id,
            start_equity=self.daily_loss_limit.start_equity,
            sectors=self.scanner.sectors,
            size_factor=await self.entries.first_sessions.size_factor(),
        )
        slots = max(0, self.config.risk.max_positions - portfolio.slots_used())
        try:
            scan_result = await self.scanner.scan(self.session, portfolio, account, slots=slots)
        except BrokerError as error:
            await self.scan_failures.record(error)
            return None
        self.scan_failures.clear()
        scan_id = await self._store_scan(scan_result)
        await self.current_day.advance(CycleStatus.EVALUATING)
        if trade and scan_result.plans and await self.current_day.advance(CycleStatus.TRADING):
            for plan in scan_result.plans:
                try:
                    await self.entries.place(plan, scan_id=scan_id, degraded=scan_result.degraded is not None)
                except Exception:  # one failed entry must not stop the others
                    log.exception("entry_failed", symbol=plan.symbol)
        return scan_result

    async def set_idle_status(self) -> None:
        """Set the status after a scan or a resume: `monitoring` with open positions or working orders, else `idle`."""
        async with self.store.read() as conn:
            has_open_work = await positions.open_positions(conn) or await orders.working(conn)
            row = await cycles.get(conn, self.cycle_id)
        is_idle = (
            not has_open_work
            and row is not None
            and row.status in (CycleStatus.SCANNING, CycleStatus.EVALUATING, CycleStatus.MONITORING)
        )
        await self.current_day.advance(CycleStatus.IDLE if is_idle else CycleStatus.MONITORING)

    async def go_flat(self) -> None:
        """Forbid entries and exit everything before the close."""
        self.gate.close("day_ending", "the day is ending")
        await self.current_day.advance(CycleStatus.CLOSED)
        if not self.config.positions.close_all_at_market_close:
            return
        time_to_close = self.session.close - self.clock.now()
        await self.flatten.run(
            CloseReason.MARKET_CLOSE,
            by="schedule",
            purpose=Purpose.EXIT,
            within=min(FLATTEN_TIMEOUT, max(time_to_close - FLATTEN_ENDS_BEFORE_CLOSE, MIN_FLATTEN_TIMEOUT)),
            cycle_id=self.cycle_id,
            protect_rest_at=self.session.close - PROTECT_REST_BEFORE_CLOSE,
        )

    async def verify_flat(self) -> None:
        """Check that no position is open shortly before the close; otherwise log an error and exit again."""
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
        if not held:
            log.info("flat_verified")
            return
        log.error("not_flat", symbols=[position.symbol for position in held])
        await self.go_flat()

    async def close(self) -> None:
        """Apply the broker's last reports, prove the account flat, store the day's result, complete the cycle.

        Then delete what is older than its retention.
        """
        await self.end_of_day.run(self.cycle_id, self.session)
        keep_days = self.config.in_force.database.keep_scan_frames_days
        await delete_old_frames(self.store, self.clock, keep_days=keep_days)

    async def _store_scan(self, scan_result: ScanResult) -> int:
        """Store the rows of a scan in one transaction; return the scan's id."""
        with self.clock.hold():
            records = await asyncio.to_thread(records_of, scan_result, self.cycle_id)
        async with self.store.tx("scan") as conn:
            scan_id = await candidates.record(
                conn,
                records.scan,
                records.candidates,
                news=records.news,
                patterns=records.patterns,
                indicators=records.indicators,
            )
        log.info(
            "scan_finished",
            counts=scan_result.counts,
            milliseconds={name: round(ms, 1) for name, ms in scan_result.milliseconds.items()},
            degraded=scan_result.degraded,
            plans=[plan.symbol for plan in scan_result.plans],
        )
        return scan_id


async def _put_settings(
    conn: Connection, row: CycleRow, config: Config, mode: SessionMode, *, at: datetime
) -> CycleRow:
    """Store this start's settings in the resumed cycle; another mode than before is an event of the day."""
    if row.mode != mode:
        log.warning("session_mode_changed", before=row.mode, now=mode)
        await risk_events.put(
            conn,
            event_type=MODE_CHANGED_EVENT,
            severity="WARNING",
            message=f"the session mode is {mode}; before this start it was {row.mode}",
            facts={"before": row.mode, "now": mode},
            at=at,
            cycle_id=row.cycle_id,
        )
    return await cycles.put_settings(
        conn,
        row.cycle_id,
        mode=mode,
        max_positions=config.risk.max_positions,
        max_daily_loss=config.risk.max_daily_loss,
        scan_frequency=config.workflow.scan_frequency_minutes * 60,
        at=at,
    )
