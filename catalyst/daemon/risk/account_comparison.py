"""Account comparison: compares what the account made today with what our positions made.

The account's equity also changes by transfers, fees, dividends, interest and holdings that are not ours, so it is no
trading result. A difference that no trade and no other activity explains raises an alert; it stops nothing. During a
database outage the equity, less what the last comparison found, stands for our result.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.parse import amount
from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.trading_state.account_status import AccountStatus
from catalyst.domain.errors import BrokerError
from catalyst.domain.session import trading_date
from catalyst.store import alerts, orders, positions
from catalyst.store.cycles import CycleRow
from catalyst.store.pool import Store

log = structlog.get_logger()

# Marks, spreads and accrued fees differ by less than this share of the loss limit.
TOLERATED_SHARE: Final = Decimal("0.05")
CONFIRM_AFTER: Final = timedelta(seconds=90)  # the broker's equity may be older than its fills
MIN_INTERVAL: Final = timedelta(seconds=50)  # the loss limit is checked every minute and after each fill
ALERT_WINDOW: Final = timedelta(days=1)
ZERO: Final = Decimal(0)


@dataclass
class AccountComparison:
    """Compares the account of one cycle. `unexplained` are the dollars of its equity that are not our result."""

    store: Store
    broker: Broker
    account_status: AccountStatus
    clock: Clock
    config: CurrentConfig
    cycle: CycleRow | None = None
    unexplained: Decimal = ZERO
    _compared_at: datetime | None = None
    _different_since: datetime | None = None

    def begin(self, cycle: CycleRow) -> None:
        """Compare the account from the start of this cycle on."""
        self.cycle, self.unexplained = cycle, ZERO
        self._compared_at = self._different_since = None

    async def compare(self, ours: Decimal) -> None:
        """Compare the account with our result of the day, at most every MIN_INTERVAL; alert a difference that lasts and
        that nothing explains.

        A broker that cannot be read is no difference.
        """
        now = self.clock.now()
        if self._compared_at is not None and now - self._compared_at < MIN_INTERVAL:
            return
        self._compared_at = now
        try:
            made = await self._made_by_account(since=now)
            if made is None:
                return
            self.unexplained = made - ours
            if await self._is_explained(self.unexplained):
                self._different_since = None
                return
        except BrokerError as error:
            log.warning("account_read_failed", error=str(error))
            return
        self._different_since = self._different_since or now
        if now - self._different_since >= CONFIRM_AFTER:
            await self._alert(made, ours)

    async def result_by_equity(self) -> Decimal | None:
        """Return our result of the day by the broker's equity alone; None before a day. Raises BrokerError."""
        made = await self._made_by_account(since=self.clock.now())
        return None if made is None else made - self.unexplained

    async def _made_by_account(self, *, since: datetime) -> Decimal | None:
        """Return what the account made today without transfers, fees, dividends and interest.

        None when the day began without the equity or these amounts. Raises BrokerError.
        """
        cycle = self.cycle
        if cycle is None or cycle.start_equity is None or cycle.start_transfers is None:
            return None
        account = await self.account_status.account(since=since)
        transfers = await self.broker.cash_activities(trading_date(since))
        if transfers.unreadable_rows:
            return None
        moved = sum((activity.amount for activity in transfers), ZERO) - cycle.start_transfers
        return account.equity - cycle.start_equity - moved

    async def _is_explained(self, difference: Decimal) -> bool:
        """Return true when the difference is small, or holdings or orders that are not ours explain it."""
        tolerated = self.config.risk.max_daily_loss * TOLERATED_SHARE
        if abs(difference) <= tolerated:
            return True
        assert self.cycle is not None  # _made_by_account returns None without one
        async with self.store.read() as conn:
            if await orders.has_external_fill(conn, since=self.cycle.start_time):
                return True
            own_symbols = {position.symbol for position in await positions.open_positions(conn)}
        held = await self.broker.positions()
        by_others = sum(
            (
                amount(position.raw, "unrealized_intraday_pl") or ZERO
                for position in held
                if position.symbol not in own_symbols
            ),
            ZERO,
        )
        return bool(held.unreadable_rows) or abs(difference - by_others) <= tolerated

    async def _alert(self, made: Decimal, ours: Decimal) -> None:
        assert self.cycle is not None  # _made_by_account returns None without one
        facts = {"account": str(made), "positions": str(ours), "cycle_id": self.cycle.cycle_id}
        async with self.store.tx("alert") as conn:
            is_new = await alerts.raise_alert(
                conn,
                "ACCOUNT_DIFFERENCE",
                f"the account made {made:.2f} today without transfers and fees, our positions {ours:.2f}: no trade and"
                " no other activity explains the difference; compare with the broker's app, then run"
                " `catalyst doctor`",
                subject=self.cycle.cycle_id,
                facts=facts,
                at=self.clock.now(),
                window=ALERT_WINDOW,
            )
        if is_new:
            log.error("account_difference", **facts)
