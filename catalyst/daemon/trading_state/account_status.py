"""What the broker itself says about entering: the locks on the account, and how far our clocks are apart.

Asked once a minute, by whoever needs it first: the watch over the day's loss while there is a day, a reconciliation
else. What one has just heard no other asks for. The gate follows both ways: what is mended opens it again without a
restart.
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

MIN_READ_INTERVAL: Final = timedelta(
    seconds=10
)  # the watch that asks looks every minute, and after each fill
FULL_PASS_INTERVAL: Final = timedelta(seconds=30)  # whole looks may follow each other faster than that
MAX_READ_INTERVAL: Final = timedelta(seconds=65)  # a hair more: then that watch does not look
SKEW_ALERT: Final = timedelta(seconds=2)  # apart by this much, somebody is told
SKEW_LIMIT: Final = timedelta(seconds=30)  # apart by this much, hours and ages of prices mean nothing
NO_SKEW: Final = timedelta(0)


def follow_account_status(gate: EntryGate, account: AccountReport) -> str | None:
    """Let entries follow what the broker says of the account; why they must not leave, None when they may."""
    if account.can_open_positions:
        gate.reopen("account")
        return None
    locks = [
        name
        for name in ("trading_blocked", "account_blocked", "suspended_by_user")
        if getattr(account, name) is True
    ]
    why = f"the account is {', '.join([account.status, *locks])}"
    gate.close("account", why)
    return why


@dataclass
class AccountStatus:
    """Reads account and clock, and lets the gate follow."""

    store: Store
    broker: Broker
    gate: EntryGate
    clock: Clock
    _refreshed_at: datetime | None = None
    _last_report: tuple[datetime, AccountReport] | None = None

    async def refresh(self, *, every: timedelta = MIN_READ_INTERVAL) -> bool:
        """Ask, unless that was done less than `every` ago; false when the broker could not be read."""
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
            await self._alert("ACCOUNT_BLOCKED", f"{why}: no entries; exits go on", why)
        await self._follow_clock_skew(skew)
        return True

    async def account(self, *, since: datetime) -> AccountReport:
        """The account as it was at `since` or later; asked for when nobody has heard it. Raises BrokerError."""
        if self._last_report is not None and self._last_report[0] >= since:
            return self._last_report[1]
        now = self.clock.now()
        account = await self.broker.account()
        self._last_report = now, account
        follow_account_status(self.gate, account)
        return account

    async def _read_account_and_skew(self, now: datetime) -> tuple[AccountReport, timedelta]:
        """The account, and how far our clocks are apart; both at once."""
        account, skew = await gather_both(self.account(since=now), self._read_skew())
        if abs(skew) >= SKEW_ALERT:  # one odd answer is no evidence: the lesser of two is believed
            skew = min(skew, await self._read_skew(), key=abs)
        return account, skew

    async def _read_skew(self) -> timedelta:
        """How far the broker's clock lies outside the time in which it was asked and answered; ahead is positive."""
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
        said = f"the broker's clock is {seconds} s from ours"
        if abs(skew) >= SKEW_LIMIT:
            self.gate.close("clock", "the broker's clock and ours are too far apart")
            said += ": no entries until they agree"
        await self._alert("CLOCK_SKEW", said, "gate_closed" if abs(skew) >= SKEW_LIMIT else "alert")

    async def _alert(self, event: str, message: str, key: str) -> None:
        async with self.store.tx("alert") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL",
                event=event,
                message=message,
                facts={},
                dedupe_key=f"{event}:{key}",
                at=self.clock.now(),
            )
