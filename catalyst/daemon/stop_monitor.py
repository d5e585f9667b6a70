"""The fallback: marks every position to market, and leaves it when the broker's stop demonstrably did not.

A price is a print or the side of a valid quote we would trade at. Stale, one-sided and crossed quotes are not
prices. One observation is not evidence: two looks in a row and a grace are. While the database is away it watches
what it remembers, and leaves through the spool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import MarketData
from catalyst.clock import Clock
from catalyst.config import StopMonitorConfig
from catalyst.daemon.emergency import Emergency
from catalyst.daemon.exits import SafeExit
from catalyst.daemon.gate import DATABASE
from catalyst.daemon.guard import Guard
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import WORKING, PositionSide, Purpose
from catalyst.domain.position import CloseReason
from catalyst.domain.report import Quote, Trade
from catalyst.store import alerts, orders, positions
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store, is_outage, is_passing
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

LEAVE_WITHIN: Final = timedelta(seconds=30)
BLIND_FOR: Final = timedelta(seconds=60)  # without a price we may believe, before somebody is told


@dataclass
class StopMonitor:
    """Its fields are all it can touch. `prices` is the last valid price seen of each held symbol."""

    store: Store
    market: MarketData
    exits: SafeExit
    guard: Guard
    clock: Clock
    cfg: StopMonitorConfig
    emergency: Emergency
    flat_before_close: timedelta
    prices: dict[str, Decimal] = field(default_factory=dict)
    _through: dict[int, datetime] = field(default_factory=dict)  # since when a stop is through
    _blind: dict[str, datetime] = field(default_factory=dict)  # symbols without a price, and since when

    async def run(self) -> None:
        """Every 30 s; at once when a position becomes naked, and every second while one is, or is through its stop."""
        while True:
            bared = self.guard.bared.count
            await self.look()
            urgent = self.guard.naked or self._through
            seconds = self.cfg.naked_every_seconds if urgent else self.cfg.every_seconds
            await self.guard.bared.next(self.clock, timedelta(seconds=seconds), since=bared)

    async def look(self) -> None:
        """One look at every open position."""
        held, rows, away = await self._held()
        if away and self._day_ends():
            await self._leave_all(held)
            return
        self._through = {key: at for key, at in self._through.items() if key in {p.position_id for p in held}}
        if not held:
            return
        symbols = sorted({position.symbol for position in held})
        try:
            trades = await self.market.trades(symbols)
            quotes = await self.market.quotes(symbols)
        except BrokerError as error:
            log.warning("prices_unreadable", error=str(error))
            await self._tell_blind(held, [], away=away)
            return
        now = self.clock.now()
        priced = self._priced(held, trades, quotes, now)
        await self._tell_blind(held, [position.symbol for position, _ in priced], away=away)
        if priced and not away:
            await self._mark(priced, now)
        if not self.exits.market_open:
            return  # no stop is elected by what trades before and after hours, and nothing could be sold
        for position, price in priced:
            evidence = self._evidence(position, price, trades.get(position.symbol), now)
            if evidence is not None:
                await self._judge(position, rows[position.position_id], evidence, now, away=away)

    async def _held(self) -> tuple[Sequence[PositionRow], Mapping[int, Sequence[OrderRow]], bool]:
        """Every open position with its orders; from memory, and true, while the tables cannot be asked.

        What another hand has left, and the tables have not heard of yet, is left alone.
        """
        try:
            async with self.store.read() as conn:
                held: Sequence[PositionRow] = await positions.open_positions(conn)
                rows = {p.position_id: await orders.of_position(conn, p.position_id) for p in held}
        except Exception as error:
            if not is_outage(error):
                raise
            memory, elsewhere = self.guard.books.memory, self.guard.execution.elsewhere
            self.exits.execution.gate.shut(DATABASE, "the database cannot be reached")
            log.warning("watching_from_memory", positions=len(memory.held), error=type(error).__name__)
            return [p for p in memory.held if p.symbol not in elsewhere], memory.rows, True
        self.guard.books.memory.keep(held, rows)
        return [p for p in held if p.symbol not in self.guard.execution.elsewhere], rows, False

    def _day_ends(self) -> bool:
        """True from the moment on at which everything is to be left; the schedule's own job needs the tables."""
        session = self.exits.session
        return (
            session is not None
            and self.exits.market_open
            and self.clock.now() >= session.close - self.flat_before_close
        )

    async def _leave_all(self, held: Sequence[PositionRow]) -> None:
        for position in held:
            await self._leave_unrecorded(position, f"{CloseReason.MARKET_CLOSE}: {position.symbol}")

    async def _leave_unrecorded(self, position: PositionRow, reason: str) -> None:
        await self.emergency.leave(position.symbol, reason=reason, by="stop_monitor", within=LEAVE_WITHIN)

    async def _mark(self, priced: Sequence[tuple[PositionRow, Decimal]], now: datetime) -> None:
        """Keep the prices; that they cannot be kept keeps nobody from acting on them."""
        try:
            async with self.store.tx("mark") as conn:
                for position, price in priced:
                    unrealized = position.holding.unrealized_pnl(price)
                    await positions.mark(
                        conn, position.position_id, price=price, unrealized=unrealized, at=now
                    )
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("prices_unkept", error=f"{type(error).__name__}: {error}")

    def _priced(
        self,
        held: Sequence[PositionRow],
        trades: Mapping[str, Trade],
        quotes: Mapping[str, Quote],
        now: datetime,
    ) -> list[tuple[PositionRow, Decimal]]:
        """The positions that have a price now, with it."""
        found: list[tuple[PositionRow, Decimal]] = []
        for position in held:
            price = self._price(position, trades.get(position.symbol), quotes.get(position.symbol), now)
            if price is not None:
                self.prices[position.symbol] = price
                found.append((position, price))
        return found

    async def _tell_blind(self, held: Sequence[PositionRow], seen: Sequence[str], *, away: bool) -> None:
        """Tell of held symbols whose prices stay stale, absent or unreadable in the session: until they come back only
        the broker's own stop watches them."""
        now = self.clock.now()
        missing = {p.symbol for p in held} - set(seen) if self.exits.market_open else set()
        self._blind = {symbol: self._blind.get(symbol, now) for symbol in sorted(missing)}
        long = [symbol for symbol, since in self._blind.items() if now - since >= BLIND_FOR]
        if not long:
            return
        log.error("prices_stale", symbols=long)
        if away:
            return
        naked = {p.symbol for p in held if p.position_id in self.guard.naked}
        async with self.store.tx("page") as conn:
            for symbol in long:
                await alerts.put(
                    conn,
                    severity="CRITICAL" if symbol in naked else "WARNING",
                    event="PRICES_STALE",
                    message=f"{symbol}: no believable price since {self._blind[symbol]:%H:%M:%S} UTC",
                    facts={"symbol": symbol},
                    dedupe_key=f"PRICES_STALE:{symbol}",
                    at=now,
                )

    def _price(
        self, position: PositionRow, trade: Trade | None, quote: Quote | None, now: datetime
    ) -> Decimal | None:
        """What the position is marked at: the side of a fresh quote we would trade at, else a fresh print."""
        oldest = now - timedelta(seconds=self.cfg.stale_after_seconds)
        if quote is not None and quote.at >= oldest and quote.bid is not None and quote.ask is not None:
            return quote.bid if position.side is PositionSide.LONG else quote.ask
        if trade is not None and trade.at >= oldest and trade.price > 0:
            return trade.price
        return None

    def _evidence(
        self, position: PositionRow, mark: Decimal, trade: Trade | None, now: datetime
    ) -> Decimal | None:
        """The price that may end the position. A stop at the broker is elected by prints, so only a print shows
        that it did not act, and only one since we hold the shares; while nothing rests at the broker, the mark
        does too."""
        if position.position_id in self.guard.naked:
            return mark
        oldest = max(now - timedelta(seconds=self.cfg.stale_after_seconds), position.entry_time)
        return trade.price if trade is not None and trade.at >= oldest and trade.price > 0 else None

    async def _judge(
        self,
        position: PositionRow,
        rows: Sequence[OrderRow],
        price: Decimal,
        now: datetime,
        *,
        away: bool,
    ) -> None:
        reason = _breach(position, price, targeted=_targeted(rows))
        if reason is None:
            self._through.pop(position.position_id, None)
            return
        since = self._through.setdefault(position.position_id, now)
        if now - since < timedelta(seconds=self.cfg.grace_seconds):
            return
        log.warning(
            "stop_enforced",
            symbol=position.symbol,
            qty=str(position.quantity),
            price=str(price),
            stop=str(position.stop_loss),
            reason=reason,
        )
        if not away:
            await self.exits.ask(position.position_id, reason=reason, purpose=Purpose.EXIT, by="stop_monitor")
            return
        self._through.pop(position.position_id, None)
        await self._leave_unrecorded(position, reason)


def _targeted(rows: Sequence[OrderRow]) -> bool:
    """True while a target that can fill rests at the broker; one that sleeps under an unfinished entry cannot."""
    return any(
        row.order_purpose is Purpose.TAKE_PROFIT and row.status in WORKING and row.broker_status != "held"
        for row in rows
    )


def _breach(position: PositionRow, price: Decimal, *, targeted: bool) -> str | None:
    """Why the position should be left at `price`; None when it should be kept.

    The target is enforced only when nothing at the broker can act on it.
    """
    long = position.side is PositionSide.LONG
    stop, target = position.stop_loss, position.take_profit
    if stop is not None and (price <= stop if long else price >= stop):
        sign = "<=" if long else ">="
        return f"{CloseReason.STOP_LOSS_HIT}: {position.symbol} @ ${price} {sign} ${stop}"
    if not targeted and target is not None and (price >= target if long else price <= target):
        sign = ">=" if long else "<="
        return f"{CloseReason.TAKE_PROFIT_HIT}: {position.symbol} @ ${price} {sign} ${target}"
    return None
