"""The fallback: marks every position to market, and leaves it when the broker's stop demonstrably did not.

A price is a print or the side of a valid quote we would trade at. Stale, one-sided and crossed quotes are not
prices; without any, the broker's own figure is one. One observation is not evidence: two and a grace are, and of a
stop that rests at the broker two different ones. While the database is away it watches what was remembered and what
the broker shows, and leaves through the spool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, MarketData, Priority
from catalyst.clock import Clock
from catalyst.config import StopMonitorConfig
from catalyst.daemon.blind import Blind
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
AWAY_LOOK: Final = timedelta(seconds=5)  # without the tables nobody says what has changed
AWAY_URGENT: Final = timedelta(seconds=2)  # of the broker's budget of requests


@dataclass(frozen=True, slots=True)
class Through:
    """A price beyond a level: since when, of which instant the latest was, how many different ones."""

    since: datetime
    latest: datetime
    seen: int


@dataclass
class StopMonitor:
    """Its fields are all it can touch. `prices` is the last valid price seen of each held symbol."""

    store: Store
    market: MarketData
    broker: Broker
    exits: SafeExit
    guard: Guard
    clock: Clock
    cfg: StopMonitorConfig
    emergency: Emergency
    blind: Blind
    flat_before_close: timedelta
    prices: dict[str, Decimal] = field(default_factory=dict)
    _through: dict[int, Through] = field(default_factory=dict)  # by position
    _blind: dict[str, datetime] = field(default_factory=dict)  # symbols without a price, and since when
    _away: bool = False

    async def run(self) -> None:
        """Every 30 s; every second while anything is naked or through its stop, from the moment it is."""
        while True:
            bared = self.guard.bared.count
            await self.look()
            await self.guard.bared.next(self.clock, self._pause(), since=bared)

    def _pause(self) -> timedelta:
        urgent = bool(self._naked or self._through)
        if self._away:
            return AWAY_URGENT if urgent else AWAY_LOOK
        return timedelta(seconds=self.cfg.naked_every_seconds if urgent else self.cfg.every_seconds)

    @property
    def _naked(self) -> set[int]:
        """Positions without a stop at the broker, by who looks at them now."""
        return self.blind.bare if self._away else self.guard.naked

    async def look(self) -> None:
        """One look at every open position."""
        held, rows, away = await self._held()
        self._away = away
        if away and self._day_ends():
            await self._leave_all(held)
            return
        if away:
            await self.blind.leave_what_cannot_be_protected(held)
            if self.exits.market_open:
                await self.blind.leave_what_is_held_too_long(held)
        self._through = {key: at for key, at in self._through.items() if key in {p.position_id for p in held}}
        if not held:
            return
        trades, quotes = await self._read_market(sorted({position.symbol for position in held}))
        now = self.clock.now()
        priced = await self._priced(held, trades, quotes, now)
        seen = [p.symbol for p in held if self._price(p, trades.get(p.symbol), quotes.get(p.symbol), now)]
        await self._tell_blind(held, seen, away=away)
        if priced and not away:
            await self._mark(priced, now)
        if not self.exits.market_open:
            return  # no stop is elected by what trades before and after hours, and nothing could be sold
        for position, price in priced:
            evidence = self._evidence(position, price, trades.get(position.symbol), now)
            if evidence is not None:
                at, shown = evidence
                reason = self._breach(
                    position, rows.get(position.position_id, ()), at, shown, self._side(position, quotes, now)
                )
                if reason is not None:
                    await self._enforce(position, shown, reason, away=away)

    async def _read_market(self, symbols: Sequence[str]) -> tuple[Mapping[str, Trade], Mapping[str, Quote]]:
        try:
            return await self.market.trades(symbols), await self.market.quotes(symbols)
        except BrokerError as error:
            log.warning("prices_unreadable", error=str(error))
            return {}, {}

    async def _held(self) -> tuple[Sequence[PositionRow], Mapping[int, Sequence[OrderRow]], bool]:
        """Every open position with its orders; from memory, and true, while the tables cannot be asked.

        What another hand has left, and the tables have not heard of yet, is left alone.
        """
        held: Sequence[PositionRow]
        rows: Mapping[int, Sequence[OrderRow]]
        try:
            async with self.store.read() as conn:
                held = await positions.open_positions(conn)
                rows = await orders.of_positions(conn, [p.position_id for p in held])
        except Exception as error:
            if not is_outage(error):
                raise
            self.exits.execution.gate.shut(DATABASE, "the database cannot be reached")
            held, rows = await self.blind.look()
            log.warning("watching_without_tables", positions=len(held), error=type(error).__name__)
            return held, rows, True
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
            async with self.store.statement("mark") as conn:
                marks = [(p.position_id, price, p.holding.unrealized_pnl(price)) for p, price in priced]
                await positions.mark(conn, marks, at=now)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("prices_unkept", error=f"{type(error).__name__}: {error}")

    async def _priced(
        self,
        held: Sequence[PositionRow],
        trades: Mapping[str, Trade],
        quotes: Mapping[str, Quote],
        now: datetime,
    ) -> list[tuple[PositionRow, Decimal]]:
        """The positions that have a price now, with it; the broker is asked for those the market says nothing of."""
        found: list[tuple[PositionRow, Decimal]] = []
        unpriced: dict[str, Decimal] | None = None
        for position in held:
            price = self._price(position, trades.get(position.symbol), quotes.get(position.symbol), now)
            if price is None:
                unpriced = await self._broker_prices() if unpriced is None else unpriced
                price = unpriced.get(position.symbol)
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

    async def _broker_prices(self) -> dict[str, Decimal]:
        """The broker's own price of each symbol it holds for us; nothing when it cannot be read."""
        try:
            shown = await self.broker.positions(priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("positions_unreadable", error=str(error))
            return {}
        prices = {one.symbol: one.current_price for one in shown}
        return {symbol: price for symbol, price in prices.items() if price is not None and price > 0}

    def _price(
        self, position: PositionRow, trade: Trade | None, quote: Quote | None, now: datetime
    ) -> Decimal | None:
        """What the position is marked at: the side of a fresh quote we would trade at, else a fresh print."""
        oldest = now - timedelta(seconds=self.cfg.stale_after_seconds)
        side = self._side(position, {} if quote is None else {position.symbol: quote}, now)
        if side is not None:
            return side
        if trade is not None and trade.at >= oldest and trade.price > 0:
            return trade.price
        return None

    def _side(self, position: PositionRow, quotes: Mapping[str, Quote], now: datetime) -> Decimal | None:
        """The side of a fresh, whole quote that we would trade at."""
        quote = quotes.get(position.symbol)
        oldest = now - timedelta(seconds=self.cfg.stale_after_seconds)
        if quote is None or quote.at < oldest or quote.bid is None or quote.ask is None:
            return None
        return quote.bid if position.side is PositionSide.LONG else quote.ask

    def _evidence(
        self, position: PositionRow, mark: Decimal, trade: Trade | None, now: datetime
    ) -> tuple[datetime, Decimal] | None:
        """The price that may end the position, and its instant. A stop at the broker is elected by prints, so only a
        print shows that it did not act, and only one since we hold the shares; while nothing rests at the broker, the
        mark does too."""
        if position.position_id in self._naked:
            return now, mark
        oldest = max(now - timedelta(seconds=self.cfg.stale_after_seconds), position.entry_time)
        if trade is not None and trade.at >= oldest and trade.price > 0:
            return trade.at, trade.price
        return None

    def _breach(
        self,
        position: PositionRow,
        rows: Sequence[OrderRow],
        at: datetime,
        price: Decimal,
        quoted: Decimal | None,
    ) -> str | None:
        """Why the position is to be left now: its level was crossed by two different observations (a print and the
        quote beside it are two), and the grace for the broker's own order is over. None: not, or not yet."""
        targeted, now = _targeted(rows), self.clock.now()
        reason = _crossed(position, price, targeted=targeted)
        if reason is None:
            self._through.pop(position.position_id, None)
            return None
        known = self._through.get(position.position_id)
        if known is None:
            self._through[position.position_id] = Through(now, at, 1)
            return None
        agreed = quoted is not None and _crossed(position, quoted, targeted=targeted) is not None
        seen = known.seen + 1 if at > known.latest else max(known.seen, 2 if agreed else 1)
        self._through[position.position_id] = Through(known.since, max(at, known.latest), seen)
        graced = now - known.since >= timedelta(seconds=self.cfg.grace_seconds)
        return reason if seen > 1 and graced else None

    async def _enforce(self, position: PositionRow, price: Decimal, reason: str, *, away: bool) -> None:
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


def _crossed(position: PositionRow, price: Decimal, *, targeted: bool) -> str | None:
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
