"""Stop monitor: exits a position when the price has crossed its stop and the broker's stop did not act.

One loop refreshes prices, another checks the positions. A check uses the last known positions and prices and makes no
request until it must act. An exit needs two different observations beyond the level and a grace period. During a
database outage the monitor uses the last known state and the broker's positions, and exits through the spool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.clock import Clock, TurnsLock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.outage.protection import OutageProtection
from catalyst.daemon.protection.position_protector import CHECK_INTERVAL
from catalyst.daemon.protection.unprotected_time import UnprotectedTime
from catalyst.daemon.risk.price_cache import LastPrice, PriceCache
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.database_health import DatabaseHealth
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.domain.errors import DatabaseUnavailable
from catalyst.domain.order import WORKING, PositionSide, Purpose
from catalyst.domain.position import CloseReason
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.store import orders, positions
from catalyst.store.pool import Store

log = structlog.get_logger()

# The protector refreshes the last known state every CHECK_INTERVAL; an older state means that it missed a check.
MAX_STATE_AGE: Final = 2 * CHECK_INTERVAL
OUTAGE_INTERVAL: Final = timedelta(seconds=5)  # no change is signalled during a database outage
OUTAGE_URGENT_INTERVAL: Final = timedelta(seconds=2)  # the broker's rate limit allows no shorter one
NO_LEVEL: Final = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Breach:
    """Prices beyond a level of one position."""

    since: datetime  # time of the first observation
    latest: datetime  # time of the newest price
    observations: int  # number of different ones


# Symbol, lower bound, upper bound, position. A price at or beyond a bound needs a check.
WatchedPosition = tuple[str, Decimal, Decimal, PositionRow]


@dataclass(frozen=True, slots=True)
class WatchList:
    """The checked positions, their orders by position id, and their bounds."""

    held: Sequence[PositionRow] = ()
    rows: Mapping[int, Sequence[OrderRow]] = field(default_factory=dict)
    bounds: Sequence[WatchedPosition] = ()


@dataclass
class StopMonitor:
    """Checks the prices of every held position against its stop and target."""

    store: Store
    prices: PriceCache
    exits: SafeExit
    submission: OrderSubmission
    ledger: OrderLedger
    unprotected_time: UnprotectedTime
    outage_protection: OutageProtection
    health: DatabaseHealth
    clock: Clock
    config: CurrentConfig
    _watched: WatchList = field(default_factory=WatchList)
    _breaches: dict[int, Breach] = field(default_factory=dict)  # by position id
    _refresh_requested: ChangeSignal = field(default_factory=ChangeSignal)  # requests a price refresh at once
    _checked_version: int | None = None  # version of `unprotected_changed` at the last completed tick
    _tick_lock: TurnsLock = field(default_factory=TurnsLock)

    async def run(self) -> None:
        """Read the positions and check them until cancelled: every 30 s, and every second while a position is
        unprotected or beyond its stop."""
        await run_on_signal(
            self.unprotected_time.unprotected_changed,
            self.clock,
            self._check_and_request_refresh,
            self._interval,
        )

    async def run_price_refresh(self) -> None:
        """Refresh prices and check with them, as often as `run` does, until cancelled.

        It is a loop of its own, so that a slow response with prices does not delay the checks, and so that the
        watchdog finds the one that hangs although the other runs.
        """
        await run_on_signal(self._refresh_requested, self.clock, self._refresh_and_check, self._interval)

    async def _check_and_request_refresh(self) -> None:
        """Check the positions; request prices when the signal changed, or when a position has none."""
        version = self.unprotected_time.unprotected_changed.version
        await self.check_positions()
        if version != self._checked_version or any(
            position.symbol not in self.prices.last_prices for position in self._watched.held
        ):
            self._refresh_requested.notify()
        self._checked_version = version

    async def _refresh_and_check(self) -> None:
        await self.refresh_prices()
        await self.check_positions(read_broker=False)

    def _interval(self, _: None) -> timedelta:
        """Return the pause until the next round of each loop."""
        urgent = bool(self._unprotected or self._breaches)
        if self.health.is_down:
            return OUTAGE_URGENT_INTERVAL if urgent else OUTAGE_INTERVAL
        config = self.config.stop_monitor
        return timedelta(seconds=config.unprotected_every_seconds if urgent else config.every_seconds)

    @property
    def _unprotected(self) -> set[int]:
        """Return the ids of positions without a stop at the broker, from the component that protects them now."""
        return (
            self.outage_protection.shown.unprotected
            if self.health.is_down
            else self.unprotected_time.unprotected
        )

    async def refresh_prices(self) -> None:
        """Refresh the prices of the held positions and write them as marks."""
        open_positions = self._watched.held if self.health.is_down else self.ledger.last_known.positions
        held = [position for position in open_positions if self._can_exit(position)]
        if not held:
            return
        await self.prices.refresh(held)
        held_in_session = held if self.exits.market_open else []
        await self.prices.alert_stale_prices(held_in_session, self._unprotected)
        if not self.health.is_down:
            await self.prices.write_marks(held)

    async def check_positions(self, *, read_broker: bool = True) -> None:
        """Check every held position by the last prices.

        Makes no request while the last known state is current and no level is crossed. During a database outage it
        reads the broker, unless `read_broker` is false.
        """
        async with self._tick_lock:
            try:
                await self._load_positions(read_broker=read_broker)
                if not self.exits.market_open:
                    return  # no stop triggers outside the session, and no exit is possible
                if self.health.is_down and self._is_day_ending():
                    await self._exit_all(self._watched.held)
                    return
                for position in self._near_level():
                    await self._check_position(position)
            except DatabaseUnavailable:
                self.health.suspect()
                raise

    # -- holdings

    async def _load_positions(self, *, read_broker: bool) -> None:
        """Load every open position with its orders.

        Sources in this order: the last known state while it is current, the database, the broker.
        """
        if self.health.is_down and not read_broker:
            return
        last_known, now = self.ledger.last_known, self.clock.now()
        version = self.ledger.changed.version
        if not self.health.is_up or not last_known.is_current(version=version, since=now - MAX_STATE_AGE):
            await self._read_positions(version, now)
        if not self.health.is_down:
            self._set_watched(last_known.positions, last_known.orders)

    async def _read_positions(self, ledger_version: int, now: datetime) -> None:
        """Read positions and orders from the database; during an outage from the broker, and protect them."""
        try:
            async with self.store.read() as conn:
                held = await positions.open_positions(conn)
                rows = await orders.of_positions(conn, [position.position_id for position in held])
        except DatabaseUnavailable as error:
            self.health.mark_down()
            broker_positions, known_orders = await self.outage_protection.check(self.health.since)
            log.warning("outage_monitoring", positions=len(broker_positions), error=str(error))
            self._set_watched(broker_positions, known_orders)
            if not self._is_day_ending():
                await self.outage_protection.exit_unprotectable(broker_positions)
                if self.exits.market_open:
                    await self.outage_protection.exit_overdue(broker_positions)
            return
        self.ledger.last_known.update(held, rows, version=ledger_version, read_at=now)
        self.health.mark_up()

    def _set_watched(self, held: Sequence[PositionRow], rows: Mapping[int, Sequence[OrderRow]]) -> None:
        """Replace the checked positions; `rows` are their orders by position id."""
        if held is self._watched.held and rows is self._watched.rows:
            return
        bounds = [_watch_bounds(position, rows.get(position.position_id, ())) for position in held]
        self._watched = WatchList(held, rows, bounds)
        ids = {position.position_id for position in held}
        self._breaches = {
            position_id: breach for position_id, breach in self._breaches.items() if position_id in ids
        }

    def _can_exit(self, position: PositionRow) -> bool:
        """Return false for a position that an outage exit has sold and the database does not show yet."""
        return self.health.is_down or not self.submission.is_in_outage_exit(position.symbol)

    def _is_day_ending(self) -> bool:
        """Return true from the time when everything must be exited before the close.

        Used during a database outage, when the schedule's own job cannot run.
        """
        session = self.exits.current_day.session
        return (
            session is not None
            and self.exits.market_open
            and self.outage_protection.must_exit_all(session.close)
        )

    async def _exit_all(self, held: Sequence[PositionRow]) -> None:
        for position in held:
            await self.outage_protection.exit_position(
                position, f"{CloseReason.MARKET_CLOSE}: {position.symbol}"
            )

    # -- prices

    def _near_level(self) -> list[PositionRow]:
        """Return the positions with any price beyond a level, and those with a breach."""
        price_ranges = self.prices.price_ranges
        near = [
            position
            for symbol, floor, ceiling, position in self._watched.bounds
            if (prices := price_ranges.get(symbol)) is not None
            and (prices[0] <= floor or prices[1] >= ceiling)
        ]
        if self._breaches:
            ids = {position.position_id for position in near}
            near += [
                position
                for position in self._watched.held
                if position.position_id in self._breaches and position.position_id not in ids
            ]
        return [position for position in near if self._can_exit(position)]

    async def _check_position(self, position: PositionRow) -> None:
        """Exit the position if its breach is confirmed."""
        last_price = self.prices.last_prices.get(position.symbol)
        evidence = None if last_price is None else self._evidence(position, last_price)
        if last_price is None or evidence is None:
            return
        at, price = evidence
        rows = self._watched.rows.get(position.position_id, ())
        reason = self._confirmed_breach(position, rows, at, price, last_price)
        if reason is not None:
            await self._enforce(position, price, reason)

    def _evidence(self, position: PositionRow, last_price: LastPrice) -> tuple[datetime, Decimal] | None:
        """Return time and price of the evidence that may end the position; None without any.

        Prints trigger the broker's stop, so only a print since the entry shows that the stop did not act. For an
        unprotected position each new mark is evidence too.
        """
        oldest = self.prices.oldest_valid
        if position.position_id in self._unprotected:
            mark = last_price.mark(position.side, oldest)
            return None if mark is None else (last_price.at, mark)
        trade = last_price.print_since(max(oldest, position.entry_time))
        return None if trade is None else (trade.at, trade.price)

    def _confirmed_breach(
        self,
        position: PositionRow,
        rows: Sequence[OrderRow],
        at: datetime,
        price: Decimal,
        last_price: LastPrice,
    ) -> str | None:
        """Record the observation; return the reason to exit when the breach is confirmed, else None.

        Confirmed: two different observations crossed the level (a print and a later quote are two), and the grace
        period, in which the broker's own order may act, is over.
        """
        has_target, now = _has_working_target(rows), self.clock.now()
        reason = _crossed_level(position, price, has_target=has_target)
        if reason is None:
            self._breaches.pop(position.position_id, None)
            return None
        breach = self._breaches.get(position.position_id)
        if breach is None:
            self._breaches[position.position_id] = Breach(now, at, 1)
            return None
        quote_price = (
            last_price.opposite_quote(position.side, self.prices.oldest_valid)
            if last_price.at > breach.since
            else None
        )
        quote_crossed = (
            quote_price is not None
            and _crossed_level(position, quote_price, has_target=has_target) is not None
        )
        observations = (
            breach.observations + 1
            if at > breach.latest
            else max(breach.observations, 2 if quote_crossed else 1)
        )
        self._breaches[position.position_id] = Breach(breach.since, max(at, breach.latest), observations)
        grace_is_over = now - breach.since >= timedelta(seconds=self.config.stop_monitor.grace_seconds)
        return reason if observations > 1 and grace_is_over else None

    async def _enforce(self, position: PositionRow, price: Decimal, reason: str) -> None:
        """Request the exit of the position; during a database outage exit it directly."""
        log.warning(
            "stop_enforced",
            symbol=position.symbol,
            qty=str(position.quantity),
            price=str(price),
            stop=str(position.stop_loss),
            reason=reason,
        )
        if not self.health.is_down:
            await self.exits.request(
                position.position_id,
                reason=reason,
                purpose=Purpose.EXIT,
                by="stop_monitor",
                retry_now=position.position_id in self.exits.overnight,
            )
            return
        self._breaches.pop(position.position_id, None)
        await self.outage_protection.exit_position(position, reason)


def _watch_bounds(position: PositionRow, rows: Sequence[OrderRow]) -> WatchedPosition:
    """Return the bounds of the position: no price between them can end it."""
    stop = position.stop_loss
    target = None if _has_working_target(rows) else position.take_profit
    below, above = (stop, target) if position.side is PositionSide.LONG else (target, stop)
    return (
        position.symbol,
        -NO_LEVEL if below is None else below,
        NO_LEVEL if above is None else above,
        position,
    )


def _has_working_target(rows: Sequence[OrderRow]) -> bool:
    """Return true if a working target can fill at the broker; a held leg of an unfinished entry cannot."""
    return any(
        row.order_purpose is Purpose.TAKE_PROFIT and row.status in WORKING and row.broker_status != "held"
        for row in rows
    )


def _crossed_level(position: PositionRow, price: Decimal, *, has_target: bool) -> str | None:
    """Return the reason to exit the position at `price`; None if no level is crossed.

    The target counts only when no order at the broker can act on it.
    """
    long = position.side is PositionSide.LONG
    stop, target = position.stop_loss, position.take_profit
    if stop is not None and (price <= stop if long else price >= stop):
        sign = "<=" if long else ">="
        return f"{CloseReason.STOP_LOSS_HIT}: {position.symbol} @ ${price} {sign} ${stop}"
    if not has_target and target is not None and (price >= target if long else price <= target):
        sign = ">=" if long else "<="
        return f"{CloseReason.TAKE_PROFIT_HIT}: {position.symbol} @ ${price} {sign} ${target}"
    return None
