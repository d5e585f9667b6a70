"""Heartbeat: stores every ten seconds the time, the reasons why entries are closed, and the settings in force.

Screens and the doctor read what is stored here, so it is the only statement about a running daemon.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock, wait
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config
from catalyst.config.settings import Settings
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import DatabaseUnavailable
from catalyst.store import alerts, daemon_epoch, gate_reasons
from catalyst.store.daemon_epoch import DaemonStatement
from catalyst.store.pool import Store, connected

log = structlog.get_logger()

HEARTBEAT_INTERVAL: Final = timedelta(seconds=10)
CONNECT_TIMEOUT_S: Final = 2.0  # real seconds, for an alert written on a connection outside the pool


@dataclass
class Heartbeat:
    """Writes the heartbeat of one epoch; at once when a reason of the entry gate changes.

    A failed heartbeat raises an alert: at once when the server still answers, else when the database is back.
    """

    store: Store
    clock: Clock
    epoch: int
    gate: EntryGate
    current_day: CurrentDay
    config: CurrentConfig
    settings: Settings
    _outage_since: datetime | None = None
    _stored_reasons: dict[str, tuple[str, datetime]] | None = None  # None: nothing is stored yet
    _stored_statement: DaemonStatement | None = None

    async def run(self) -> None:
        """Write the heartbeat until it fails; raises the error, after which the supervisor restarts the loop."""
        while True:
            try:
                await self._write_heartbeat()
            except DatabaseUnavailable as error:
                await self._record_missed(error)
                raise
            self._outage_since = None
            await wait(self.clock, self.gate.statement_changed, HEARTBEAT_INTERVAL)

    async def _write_heartbeat(self) -> None:
        self.gate.statement_changed.clear()
        reasons, statement = (
            self.gate.stated_reasons,
            daemon_statement(self.settings, self.config.in_force, self.current_day),
        )
        now = self.clock.now()
        async with self.store.tx("heartbeat") as conn:
            if not await daemon_epoch.heartbeat(conn, self.epoch, at=now):
                return  # another daemon writes its own statements
            if reasons != self._stored_reasons:
                await gate_reasons.put_in_force(conn, self.epoch, reasons, at=now)
            if statement != self._stored_statement:
                await daemon_epoch.put_statement(conn, self.epoch, statement)
            if self._outage_since is not None:
                await alerts.raise_alert(
                    conn,
                    "DATABASE_OUTAGE",
                    f"the database was down for {(now - self._outage_since).total_seconds():.0f} s: entries were"
                    " blocked; exits and stops sent meanwhile are in the SPOOL_IMPORTED alert",
                    facts={"since": self._outage_since.isoformat()},
                    at=now,
                )
        self._stored_reasons, self._stored_statement = reasons, statement

    async def _record_missed(self, error: DatabaseUnavailable) -> None:
        """Store the start of the outage; raise an alert at once when only the pool has no free connection (a leak)."""
        self._outage_since = self._outage_since or self.clock.now()
        if not isinstance(error.__cause__, TimeoutError):
            return
        try:
            with self.clock.hold():
                async with (
                    connected(self.store.dsn, "catalyst alert", timeout_s=CONNECT_TIMEOUT_S) as conn,
                    conn.transaction(),
                ):
                    await alerts.raise_alert(
                        conn,
                        "POOL_EXHAUSTED",
                        "the database answers, but all pool connections are in use: restart the daemon",
                        facts={},
                        at=self.clock.now(),
                    )
        except DatabaseUnavailable as alert_error:
            log.warning("alert_not_written", error=str(alert_error))


def daemon_statement(
    settings: Settings, config: Config, current_day: CurrentDay | None = None
) -> DaemonStatement:
    """Return what a daemon with these settings and this configuration in force says about itself."""
    return DaemonStatement(
        mode=settings.mode,
        session_mode=settings.session_mode,
        broker_url=settings.trading_url,
        config_hash=config.fingerprint,
        max_positions=config.risk.max_positions,
        max_daily_loss=config.risk.max_daily_loss,
        next_scan_at=None if current_day is None else current_day.next_scan_at,
        scan_failure=None if current_day is None else current_day.scan_failure,
    )
