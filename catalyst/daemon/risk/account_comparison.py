"""Account comparison: compares what the account made today with what our positions made.

The account's equity also changes by transfers, fees, dividends, interest and holdings that are not ours, so it is no
trading result. A difference that no trade and no other activity explains raises an alert; it stops nothing. During a
database outage the equity, less the last confirmed difference, stands for our result; transfers that cannot be read
count as result then, because the loss limit must hold.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.trading_state.account_status import AccountStatus
from catalyst.domain.errors import BrokerError
from catalyst.store import alerts, cycles, orders, positions
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
    """Compares the account of one cycle. `unexplained` are the dollars of its equity that are not our result, as the
    last small or confirmed difference showed."""

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
            if abs(made - ours) <= self._tolerated:
                self.unexplained, self._different_since = made - ours, None
                return
            self._different_since = self._different_since or now
            if now - self._different_since < CONFIRM_AFTER:
                return
            self.unexplained = made - ours
            is_explained = await self._is_explained(self.unexplained)
        except BrokerError as error:
            log.warning("account_read_failed", error=str(error))
            return
        if not is_explained:
            await self._alert(made, ours)

    async def result_by_equity(self) -> Decimal | None:
        """Return our result of the day by the broker's equity alone; None before a day. Raises BrokerError.

        Transfers that cannot be read are taken for result.
        """
        cycle = self.cycle
        if cycle is None or cycle.start_equity is None:
            return None
        account = await self.account_status.account(since=self.clock.now())
        transfers = None if cycle.start_transfers is None else await self.transfers_of(cycle.cycle_date)
        moved = ZERO if transfers is None else transfers - (cycle.start_transfers or ZERO)
        return account.equity - cycle.start_equity - moved - self.unexplained

    async def transfers_of(self, day: date) -> Decimal | None:
        """Return the dollars of a day's activities that are no trade; None when they cannot be read."""
        try:
            activities = await self.broker.cash_activities(day)
        except BrokerError as error:
            log.warning("activities_read_failed", error=str(error))
            return None
        return None if activities.unreadable_rows else sum((each.amount for each in activities), ZERO)

    async def _made_by_account(self, *, since: datetime) -> Decimal | None:
        """Return what the account made in the cycle's day without transfers, fees, dividends and interest.

        None when the day began without the equity, or these amounts cannot be read. Those of the start that its read
        missed are stored now. Raises BrokerError.
        """
        cycle = self.cycle
        if cycle is None or cycle.start_equity is None:
            return None
        transfers = await self.transfers_of(cycle.cycle_date)
        if transfers is None:
            return None
        start_transfers = cycle.start_transfers
        if start_transfers is None:
            start_transfers = transfers
            async with self.store.tx("transfers") as conn:
                await cycles.set_start_transfers(conn, cycle.cycle_id, transfers)
            self.cycle = replace(cycle, start_transfers=transfers)
        account = await self.account_status.account(since=since)
        return account.equity - cycle.start_equity - (transfers - start_transfers)

    @property
    def _tolerated(self) -> Decimal:
        return self.config.risk.max_daily_loss * TOLERATED_SHARE

    async def _is_explained(self, difference: Decimal) -> bool:
        """Return true when holdings or orders that are not ours explain the difference."""
        assert self.cycle is not None  # _made_by_account returns None without one
        async with self.store.read() as conn:
            if await orders.has_external_fill(conn, since=self.cycle.start_time):
                return True
            own_symbols = {position.symbol for position in await positions.open_positions(conn)}
        held = await self.broker.positions()
        by_others = sum(
            (position.intraday_pl or ZERO for position in held if position.symbol not in own_symbols),
            ZERO,
        )
        return bool(held.unreadable_rows) or abs(difference - by_others) <= self._tolerated

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
