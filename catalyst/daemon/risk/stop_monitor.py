"""Stop monitor: exits a position when the broker's stop demonstrably did not act.

Prices are refreshed at one interval and judged at another. A tick uses the last known holdings and prices and
makes no request until it must act. One observation is no evidence: an exit needs two and a grace period, and
of a stop resting at the broker two different ones. During a database outage it uses the last known state and
what the broker shows, and exits through the spool.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, MarketData
from catalyst.clock import Clock
from catalyst.config.schema import StopMonitorConfig
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.outage.exits import OutageExit
from catalyst.daemon.outage.protection import OutageProtection
from catalyst.daemon.protection.position_protector import CHECK_INTERVAL, PositionProtector
from catalyst.daemon.risk.price_cache import LastPrice, PriceCache
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.trading_state.entry_gate import DATABASE
from catalyst.domain.order import WORKING, PositionSide, Purpose
from catalyst.domain.position import CloseReason
from catalyst.store import orders, positions
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store, is_outage
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

EXIT_TIMEOUT: Final = timedelta(seconds=30)
MAX_STATE_AGE: Final = (
    2 * CHECK_INTERVAL
)  # of a read of the database: the protector, whose reads are cached, has missed one
OUTAGE_INTERVAL: Final = timedelta(seconds=5)  # during a database outage nothing signals a change
OUTAGE_URGENT_INTERVAL: Final = timedelta(seconds=2)  # of the broker's request budget
NO_LEVEL: Final = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Breach:
    """A price beyond a level: start, instant of the latest one, number of different ones."""

    since: datetime
    latest: datetime
    observations: int


# Symbol, lower bound, upper bound, position: a price at or beyond a bound needs a check.
WatchedPosition = tuple[str, Decimal, Decimal, PositionRow]


@dataclass
class StopMonitor:
    """Checks every held position against its prices."""

    store: Store
    market: MarketData
    broker: Broker
    exits: SafeExit
    protector: PositionProtector
    clock: Clock
    cfg: StopMonitorConfig
    outage_exit: OutageExit
    outage_protection: OutageProtection
    flat_before_close: timedelta
    prices: PriceCache = field(init=False)
    _held: Sequence[PositionRow] = ()
    _rows: Mapping[int, Sequence[OrderRow]] = field(default_factory=dict)
    _watched: Sequence[WatchedPosition] = ()
    _breaches: dict[int, Breach] = field(default_factory=dict)  # by position
    _database_down: bool = False
    _database_suspect: bool = False  # an action in the database failed: is it available?
    _refresh_requested: ChangeSignal = field(default_factory=ChangeSignal)  # requests prices at once
    _tick_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.prices = PriceCache(self.store, self.market, self.broker, self.clock, self.cfg)

    async def run(self) -> None:
        """Run two loops, each every 30 s, and every second while a position is unprotected or beyond its
        stop.

        One refreshes prices and judges them; the other checks what is held, however long a response takes.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_price_refresh(), name="prices")
            await self._run_ticks()

    async def _run_ticks(self) -> None:
        woken = True
        while True:
            version = self.protector.unprotected_changed.version
            await self.tick()
            if woken or any(position.symbol not in self.prices.last_prices for position in self._held):
                self._refresh_requested.notify()
            woken = await self.protector.unprotected_changed.wait(self.clock, self._interval(), since=version)

    async def _run_price_refresh(self) -> None:
        while True:
            wanted = self._refresh_requested.version
            await self.refresh_prices()
            await self.tick(read=False)
            await self._refresh_requested.wait(self.clock, self._interval(), since=wanted)

    def _interval(self) -> timedelta:
        urgent = bool(self._unprotected or self._breaches)
        if self._database_down:
            return OUTAGE_URGENT_INTERVAL if urgent else OUTAGE_INTERVAL
        return timedelta(seconds=self.cfg.unprotected_every_seconds if urgent else self.cfg.every_seconds)

    @property
    def _unprotected(self) -> set[int]:
        """Return positions without a stop at the broker, from the component that protects them now."""
        return self.outage_protection.unprotected if self._database_down else self.protector.unprotected

    async def refresh_prices(self) -> None:
        """Refresh the prices of what is held and write them as marks."""
        known = self._held if self._database_down else self.protector.ledger.last_known.positions
        held = [position for position in known if self._can_exit(position)]
        if not held:
            return
        await self.prices.refresh(held)
        watched = held if self.exits.market_open else []
        await self.prices.alert_stale_prices(watched, self._unprotected, database_up=not self._database_down)
        if not self._database_down:
            await self.prices.write_marks(held)

    async def tick(self, *, read: bool = True) -> None:
        """Judge every held position by the last prices.

        No request while the last known state is current and no level is crossed. During a database outage it
        reads the broker, unless `look` is false.
        """
        async with self._tick_lock:
            try:
                await self._load_positions(read=read)
                if not self.exits.market_open:
                    return  # no stop triggers before and after hours, and nothing could be sold
                if self._database_down and self._is_day_ending():
                    await self._exit_all(self._held)
                    return
                for position in self._near_level():
                    await self._check_position(position)
            except Exception as error:
                self._database_suspect = is_outage(error)
                raise

    # -- holdings

    async def _load_positions(self, *, read: bool) -> None:
        """Load every open position with its orders: from the last known state while it is current, else from
        the database, else from what the broker shows."""
        if self._database_down and not read:
            return
        books, now = self.protector.ledger, self.clock.now()
        changes = books.changed.version
        good = books.last_known.is_current(version=changes, since=now - MAX_STATE_AGE)
        if not good or self._database_down or self._database_suspect or self.protector.database_down:
            await self._read_positions(changes, now)
        if not self._database_down:
            self._set_watched(books.last_known.positions, books.last_known.orders)

    async def _read_positions(self, ledger_version: int, now: datetime) -> None:
        try:
            async with self.store.read() as conn:
                held = await positions.open_positions(conn)
                rows = await orders.of_positions(conn, [p.position_id for p in held])
        except Exception as error:
            if not is_outage(error):
                raise
            self.exits.submission.gate.close(DATABASE, "the database cannot be reached")
            self._database_down, self._database_suspect = True, False
            shown, known = await self.outage_protection.check()
            log.warning("outage_monitoring", positions=len(shown), error=type(error).__name__)
            self._set_watched(shown, known)
            if not self._is_day_ending():
                await self.outage_protection.exit_unprotectable(shown)
                if self.exits.market_open:
                    await self.outage_protection.exit_overdue(shown)
            return
        self.protector.ledger.last_known.update(held, rows, version=ledger_version, read_at=now)
        self._database_down = self._database_suspect = False

    def _set_watched(self, held: Sequence[PositionRow], rows: Mapping[int, Sequence[OrderRow]]) -> None:
        if held is self._held and rows is self._rows:
            return
        self._held, self._rows = held, rows
        self._watched = [_watch_bounds(p, rows.get(p.position_id, ())) for p in held]
        ids = {p.position_id for p in held}
        self._breaches = {key: at for key, at in self._breaches.items() if key in ids}

    def _can_exit(self, position: PositionRow) -> bool:
        """Return false for what an outage exit has sold and the database does not know yet."""
        return self._database_down or position.symbol not in self.protector.submission.outage_symbols

    def _is_day_ending(self) -> bool:
        """Return true from the moment when everything must be exited; the schedule's own job needs the
        database."""
        session = self.exits.session
        return (
            session is not None
            and self.outage_protection.limits.close_all_at_market_close
            and self.exits.market_open
            and self.clock.now() >= session.close - self.flat_before_close
        )

    async def _exit_all(self, held: Sequence[PositionRow]) -> None:
        for position in held:
            await self._exit_in_outage(position, f"{CloseReason.MARKET_CLOSE}: {position.symbol}")

    async def _exit_in_outage(self, position: PositionRow, reason: str) -> None:
        await self.outage_exit.exit_symbol(
            position.symbol, reason=reason, by="stop_monitor", within=EXIT_TIMEOUT
        )

    # -- prices

    def _near_level(self) -> list[PositionRow]:
        """Return the positions with any price beyond a level, and those whose breach had one."""
        spans = self.prices.price_ranges
        found = [
            position
            for symbol, floor, ceiling, position in self._watched
            if (span := spans.get(symbol)) is not None and (span[0] <= floor or span[1] >= ceiling)
        ]
        if self._breaches:
            ids = {position.position_id for position in found}
            found += [p for p in self._held if p.position_id in self._breaches and p.position_id not in ids]
        return [position for position in found if self._can_exit(position)]

    async def _check_position(self, position: PositionRow) -> None:
        last_price = self.prices.last_prices.get(position.symbol)
        evidence = None if last_price is None else self._evidence(position, last_price)
        if last_price is None or evidence is None:
            return
        at, price = evidence
        rows = self._rows.get(position.position_id, ())
        reason = self._confirmed_breach(position, rows, at, price, last_price)
        if reason is not None:
            await self._enforce(position, price, reason)

    def _evidence(self, position: PositionRow, last_price: LastPrice) -> tuple[datetime, Decimal] | None:
        """Return the price that may end the position, and its instant.

        Prints trigger a stop at the broker, so only a print since we hold the shares shows that it did not
        act. While nothing rests at the broker each new mark counts too.
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
        """Return the reason to exit now: two different observations crossed the level (a print and a later
        quote are two), and the grace period of the broker's own order is over. Else None."""
        targeted, now = _has_working_target(rows), self.clock.now()
        reason = _crossed_level(position, price, has_target=targeted)
        if reason is None:
            self._breaches.pop(position.position_id, None)
            return None
        known = self._breaches.get(position.position_id)
        if known is None:
            self._breaches[position.position_id] = Breach(now, at, 1)
            return None
        quoted = (
            last_price.opposite_quote(position.side, self.prices.oldest_valid)
            if last_price.at > known.since
            else None
        )
        agreed = quoted is not None and _crossed_level(position, quoted, has_target=targeted) is not None
        seen = known.observations + 1 if at > known.latest else max(known.observations, 2 if agreed else 1)
        self._breaches[position.position_id] = Breach(known.since, max(at, known.latest), seen)
        graced = now - known.since >= timedelta(seconds=self.cfg.grace_seconds)
        return reason if seen > 1 and graced else None

    async def _enforce(self, position: PositionRow, price: Decimal, reason: str) -> None:
        log.warning(
            "stop_enforced",
            symbol=position.symbol,
            qty=str(position.quantity),
            price=str(price),
            stop=str(position.stop_loss),
            reason=reason,
        )
        if not self._database_down:
            await self.exits.request(
                position.position_id, reason=reason, purpose=Purpose.EXIT, by="stop_monitor"
            )
            return
        self._breaches.pop(position.position_id, None)
        await self._exit_in_outage(position, reason)


def _watch_bounds(position: PositionRow, rows: Sequence[OrderRow]) -> WatchedPosition:
    """Return the bounds within which no price can end the position."""
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
    """Return true while a target that can fill rests at the broker; a leg of an unfinished entry cannot."""
    return any(
        row.order_purpose is Purpose.TAKE_PROFIT and row.status in WORKING and row.broker_status != "held"
        for row in rows
    )


def _crossed_level(position: PositionRow, price: Decimal, *, has_target: bool) -> str | None:
    """Return why the position should be exited at `price`; None to keep it.

    The target is enforced only when no order at the broker can act on it.
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
