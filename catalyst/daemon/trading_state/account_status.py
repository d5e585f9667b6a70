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
from catalyst.concurrency import both
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.domain.errors import BrokerError
from catalyst.domain.report import AccountReport
from catalyst.store import alerts
from catalyst.store.pool import Store

log = structlog.get_logger()

EVERY: Final = timedelta(seconds=10)  # the watch that asks looks every minute, and after each fill
SOON: Final = timedelta(seconds=30)  # whole looks may follow each other faster than that
LATEST: Final = timedelta(seconds=65)  # a hair more: then that watch does not look
SKEW_TOLD: Final = timedelta(seconds=2)  # apart by this much, somebody is told
SKEW_SHUT: Final = timedelta(seconds=30)  # apart by this much, hours and ages of prices mean nothing
NONE: Final = timedelta(0)


def heed(gate: Gate, account: AccountReport) -> str | None:
    """Let entries follow what the broker says of the account; why they must not leave, None when they may."""
    if account.may_enter:
        gate.clear("account")
        return None
    locks = [
        name
        for name in ("trading_blocked", "account_blocked", "suspended_by_user")
        if getattr(account, name) is True
    ]
    why = f"the account is {', '.join([account.status, *locks])}"
    gate.shut("account", why)
    return why


@dataclass
class Standing:
    """Reads account and clock, and lets the gate follow."""

    store: Store
    broker: Broker
    gate: Gate
    clock: Clock
    _looked_at: datetime | None = None
    _heard: tuple[datetime, AccountReport] | None = None

    async def look(self, *, every: timedelta = EVERY) -> bool:
        """Ask, unless that was done less than `every` ago; false when the broker could not be read."""
        now = self.clock.now()
        if self._looked_at is not None and now - self._looked_at < every:
            return True
        try:
            account, skew = await self._ask(now)
        except BrokerError as error:
            log.warning("standing_unreadable", error=str(error))
            return False
        self._looked_at = now
        if (why := heed(self.gate, account)) is not None:
            await self._tell("ACCOUNT_BLOCKED", f"{why}: no entries; exits go on", why)
        await self._heed_clock(skew)
        return True

    async def account(self, *, since: datetime) -> AccountReport:
        """The account as it was at `since` or later; asked for when nobody has heard it. Raises BrokerError."""
        if self._heard is not None and self._heard[0] >= since:
            return self._heard[1]
        now = self.clock.now()
        account = await self.broker.account()
        self._heard = now, account
        heed(self.gate, account)
        return account

    async def _ask(self, now: datetime) -> tuple[AccountReport, timedelta]:
        """The account, and how far our clocks are apart; both at once."""
        account, skew = await both(self.account(since=now), self._skew())
        if abs(skew) >= SKEW_TOLD:  # one odd answer is no evidence: the lesser of two is believed
            skew = min(skew, await self._skew(), key=abs)
        return account, skew

    async def _skew(self) -> timedelta:
        """How far the broker's clock lies outside the time in which it was asked and answered; ahead is positive."""
        before = self.clock.now()
        told = (await self.broker.clock()).at
        after = self.clock.now()
        return told - before if told < before else max(told - after, NONE)

    async def _heed_clock(self, skew: timedelta) -> None:
        if abs(skew) < SKEW_SHUT:
            self.gate.clear("clock")
        if abs(skew) < SKEW_TOLD:
            return
        seconds = f"{skew.total_seconds():+.1f}"
        log.error("clock_skewed", seconds=seconds)
        said = f"the broker's clock is {seconds} s from ours"
        if abs(skew) >= SKEW_SHUT:
            self.gate.shut("clock", "the broker's clock and ours are too far apart")
            said += ": no entries until they agree"
        await self._tell("CLOCK_SKEW", said, "shut" if abs(skew) >= SKEW_SHUT else "told")

    async def _tell(self, event: str, message: str, key: str) -> None:
        async with self.store.tx("page") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL",
                event=event,
                message=message,
                facts={},
                dedupe_key=f"{event}:{key}",
                at=self.clock.now(),
            )
