"""Daily loss limit and hold-time limit, checked every minute and after each fill.

The loss limit starts the emergency stop; the hold-time limit exits single positions.
"""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.risk.account_comparison import AccountComparison
from catalyst.daemon.risk.emergency_stop import EmergencyStop
from catalyst.daemon.runtime.database_health import DatabaseHealth
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.daemon.trading_state.account_status import AccountStatus
from catalyst.domain.errors import BrokerError, DatabaseUnavailable
from catalyst.domain.order import PositionSide, Purpose
from catalyst.domain.position import CloseReason
from catalyst.domain.rows import Orphan
from catalyst.store import alerts, cycles, orphans, positions, risk_events
from catalyst.store.cycles import CycleRow
from catalyst.store.pool import Store

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=60)
OUTAGE_CHECK_INTERVAL: Final = timedelta(seconds=10)  # no fill triggers a check during a database outage


@dataclass
class DailyLossLimit:
    """Checks the daily loss limit, against what our positions made, and the hold-time limit."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    exits: SafeExit
    account_status: AccountStatus
    comparison: AccountComparison
    health: DatabaseHealth
    clock: Clock
    config: CurrentConfig
    emergency_stop: EmergencyStop
    cycle_id: str | None = None  # set by `begin` together with the flags of this cycle
    _warned: bool = False
    _stopped: bool = False
    _unrecorded_reason: str | None = None  # reason of a stop that the database has not recorded yet
    _exits_remaining: bool = False  # after such a stop a position remains that could be exited

    @property
    def start_equity(self) -> Decimal | None:
        """Return the account's equity at the start of the day."""
        cycle = self.comparison.cycle
        return None if cycle is None else cycle.start_equity

    async def begin(self, cycle: CycleRow) -> None:
        """Check this cycle from now on. A warning or stop that a previous run recorded is not repeated."""
        async with self.store.read() as conn:
            warned = await risk_events.last_of(conn, "DAILY_LOSS_WARNING")
            stopped = await risk_events.last_of(conn, "EMERGENCY_STOP")
        self.cycle_id = cycle.cycle_id
        self.comparison.begin(cycle)
        self._warned = warned is not None and warned.cycle_id == cycle.cycle_id
        self._stopped = stopped is not None and stopped.cycle_id == cycle.cycle_id

    async def run(self) -> None:
        """Check at the interval and after each fill, until cancelled."""
        await run_on_signal(
            self.ledger.filled,
            self.clock,
            self.check,
            lambda in_outage: OUTAGE_CHECK_INTERVAL if in_outage else CHECK_INTERVAL,
        )

    async def check(self) -> bool:
        """Compute the day's result, warn at the threshold, stop at the limit; then exit positions held too long.

        During a database outage the broker's equity is used, and the stop is written to the spool; return true.
        """
        if self.cycle_id is None:
            return False
        try:
            day_pnl = await self._day_pnl()
        except DatabaseUnavailable as error:
            await self._check_in_outage(error)
            return True
        limit = self.config.risk.max_daily_loss
        loss = -day_pnl
        warn_at = limit * Decimal(str(self.config.risk.warning_threshold_pct)) / 100
        if self._unrecorded_reason is not None:
            await self._run_emergency_stop(self._unrecorded_reason)
        elif self._is_limit_reached(loss):
            await self._run_emergency_stop(f"daily loss {loss:.2f} reached the limit {limit:.2f}")
        elif loss >= warn_at > 0 and not self._warned and not self._stopped:
            self._warned = True
            await self._warn(loss, limit)
        elif loss < warn_at:
            self._warned = False  # warn once per crossing
        await self._exit_overdue()
        # After the limits: reads of the account must not delay a stop.
        await self.account_status.refresh()
        await self.comparison.compare(day_pnl)
        return False

    def _is_limit_reached(self, loss: Decimal) -> bool:
        """Return true when the emergency stop must start; false if it has run or is switched off."""
        limit = self.config.risk.max_daily_loss
        return loss >= limit > 0 and not self._stopped and self.config.daily_limits.emergency_stop_at_100

    async def _run_emergency_stop(self, reason: str) -> None:
        """Run the emergency stop; store its reason while the database has not recorded it."""
        recorded = await self.emergency_stop.run(reason)
        self._stopped = True
        self._unrecorded_reason, self._exits_remaining = None if recorded else reason, recorded is None

    async def _check_in_outage(self, outage: DatabaseUnavailable) -> None:
        """Check the loss by the broker's equity, because the database cannot be read."""
        self.health.suspect()
        log.warning("outage_daily_loss_check", error=str(outage))
        if self._unrecorded_reason is not None and self._exits_remaining:
            await self._run_emergency_stop(self._unrecorded_reason)
            return
        if self.start_equity is None or self._stopped:
            return
        try:
            day_result = await self.comparison.result_by_equity()
        except BrokerError as error:
            log.warning("account_read_failed", error=str(error))
            return
        if day_result is not None and self._is_limit_reached(loss := -day_result):
            limit = self.config.risk.max_daily_loss
            await self._run_emergency_stop(
                f"daily loss {loss:.2f} reached the limit {limit:.2f}, by the broker's equity"
            )

    async def _day_pnl(self) -> Decimal:
        """Return the day's result in dollars: what our positions and the shares that our exits oversold made."""
        assert self.cycle_id is not None  # check() returns early without a cycle
        async with self.store.tx("risk") as conn:
            realized, unrealized = await positions.day_pnl(conn, self.cycle_id)
            await cycles.mark(
                conn,
                self.cycle_id,
                realized=realized,
                unrealized=unrealized,
                at=self.clock.now(),
                max_positions=self.config.risk.max_positions,
                max_daily_loss=self.config.risk.max_daily_loss,
            )
            result = await positions.day_result(conn, self.cycle_id)
            oversold = [orphan for orphan in await orphans.open_orphans(conn) if orphan.cost is not None]
        for orphan in oversold:
            result += await self._unrealized_of(orphan)
        return result

    async def _unrealized_of(self, orphan: Orphan) -> Decimal:
        """Return what oversold shares have made at the broker's price; zero when it could not be read."""
        assert orphan.cost is not None  # the caller checks it
        try:
            held = await self.broker.position(orphan.symbol)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=orphan.symbol, error=str(error))
            return Decimal(0)
        if held is None or held.current_price is None:
            return Decimal(0)
        gain = orphan.quantity * (held.current_price - orphan.cost / orphan.found_qty)
        return gain if orphan.side is PositionSide.LONG else -gain

    async def _warn(self, loss: Decimal, limit: Decimal) -> None:
        """Log the warning and write it as a risk event and an alert."""
        message = f"daily loss {loss:.2f} reached {self.config.risk.warning_threshold_pct:g} % of the limit {limit:.2f}"
        log.warning("daily_loss_warning", loss=str(loss), limit=str(limit))
        async with self.store.tx("risk_warning") as conn:
            at = self.clock.now()
            facts = {"loss": str(loss), "limit": str(limit), "cycle_id": self.cycle_id}
            await risk_events.put(
                conn,
                event_type="DAILY_LOSS_WARNING",
                severity="WARNING",
                message=message,
                facts=facts,
                at=at,
                cycle_id=self.cycle_id,
            )
            await alerts.raise_alert(
                conn,
                "DAILY_LOSS_WARNING",
                message,
                severity=alerts.WARNING,
                subject=f"{self.cycle_id}:{at:%H%M}",
                facts=facts,
                at=at,
            )

    async def _exit_overdue(self) -> None:
        """Request the exit of each position that is held for `max_hold_time_minutes` or longer."""
        max_hold_time = timedelta(minutes=self.config.positions.max_hold_time_minutes)
        now = self.clock.now()
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
        for position in held:
            if now - position.entry_time >= max_hold_time:
                minutes = int((now - position.entry_time).total_seconds() // 60)
                reason = f"{CloseReason.TIME_LIMIT}: {position.symbol} held {minutes} minutes"
                await self.exits.request(
                    position.position_id, reason=reason, purpose=Purpose.EXIT, by="daily_loss_limit"
                )
