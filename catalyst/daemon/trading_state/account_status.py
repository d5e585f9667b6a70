"""Account status: reads the account's restrictions and the clock skew, and closes or reopens the entry gate.

It is read once a minute by the daily-loss limit during a trading day, otherwise by the reconciler; both share a
recent result. The gate reopens without a restart when the cause is gone.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.concurrency import gather_both
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import BrokerError
from catalyst.domain.report import AccountReport
from catalyst.store import alerts
from catalyst.store.pool import Store

log = structlog.get_logger()

# The daily-loss limit checks every minute and after each fill; it reads at most this often.
MIN_READ_INTERVAL: Final = timedelta(seconds=10)
# Full reconciliations, which may run more often than that, read at most this often.
FULL_PASS_INTERVAL: Final = timedelta(seconds=30)
# Other reconciliations: just over a minute, so they read only while the daily-loss limit does not.
MAX_READ_INTERVAL: Final = timedelta(seconds=65)
SKEW_ALERT: Final = timedelta(seconds=2)  # skew that raises an alert
# Skew that closes the gate: trading hours and price ages are unreliable.
SKEW_LIMIT: Final = timedelta(seconds=30)
NO_SKEW: Final = timedelta(0)


def follow_account_status(gate: EntryGate, account: AccountReport) -> str | None:
    """Close or reopen the entry gate by the account's state; return why entries are blocked, None when allowed."""
    if account.can_open_positions:
        gate.reopen("account")
        return None
    restrictions = [
        name
        for name in ("trading_blocked", "account_blocked", "suspended_by_user")
        if getattr(account, name) is True
    ]
    why = f"the account is {', '.join([account.status, *restrictions])}"
    gate.close("account", why)
    return why


@dataclass
class AccountStatus:
    """Reads the account and the broker's clock, and closes or reopens the gate."""

    store: Store
    broker: Broker
    gate: EntryGate
    clock: Clock
    _refreshed_at: datetime | None = None
    _last_report: tuple[datetime, AccountReport] | None = None

    async def refresh(self, *, every: timedelta = MIN_READ_INTERVAL) -> bool:
        """Read both unless that was done less than `every` ago; return false when the broker could not be read."""
        now = self.clock.now()
        if self._refreshed_at is not None and now - self._refreshed_at < every:
            return True
        try:
            account, skew = await self._read_account_and_skew(now)
        except BrokerError as error:
            log.warning("account_status_read_failed", error=str(error))
            return False
        self._refreshed_at = now
        if (why := follow_account_status(self.gate, account)) is not None:
            await self._alert("ACCOUNT_BLOCKED", f"{why}: no entries; exits continue", why)
        await self._follow_clock_skew(skew)
        return True

    async def account(self, *, since: datetime) -> AccountReport:
        """Return the account as of `since` or later; read it when the last report is older. Raises BrokerError."""
        if self._last_report is not None and self._last_report[0] >= since:
            return self._last_report[1]
        now = self.clock.now()
        account = await self.broker.account()
        self._last_report = now, account
        follow_account_status(self.gate, account)
        return account

    async def _read_account_and_skew(self, now: datetime) -> tuple[AccountReport, timedelta]:
        """Return the account and the clock skew, read concurrently."""
        account, skew = await gather_both(self.account(since=now), self._read_skew())
        if abs(skew) >= SKEW_ALERT:  # one reading may be an outlier: use the smaller of two
            skew = min(skew, await self._read_skew(), key=abs)
        return account, skew

    async def _read_skew(self) -> timedelta:
        """Return how far the broker's time lies outside the interval from request to response; ahead is positive."""
        before = self.clock.now()
        broker_time = (await self.broker.clock()).at
        after = self.clock.now()
        return broker_time - before if broker_time < before else max(broker_time - after, NO_SKEW)

    async def _follow_clock_skew(self, skew: timedelta) -> None:
        if abs(skew) < SKEW_LIMIT:
            self.gate.reopen("clock")
        if abs(skew) < SKEW_ALERT:
            return
        seconds = f"{skew.total_seconds():+.1f}"
        log.error("clock_skewed", seconds=seconds)
        message = f"the broker's clock differs from ours by {seconds} s"
        if abs(skew) >= SKEW_LIMIT:
            self.gate.close("clock", "the broker's clock and ours differ too much")
            message += ": no entries until they agree; check this machine's time synchronization"
        await self._alert("CLOCK_SKEW", message, "gate_closed" if abs(skew) >= SKEW_LIMIT else "alert")

    async def _alert(self, event: str, message: str, key: str) -> None:
        async with self.store.tx("alert") as conn:
            await alerts.raise_alert(conn, event, message, subject=key, facts={}, at=self.clock.now())
