"""The fallback: leaves a position when the broker's stop demonstrably did not.

Prices are asked for at one pace and judged at another: a tick works from memory, from what was held at the last look
at the tables and from the prices heard last, and asks nobody anything until something is to be done. One observation
is not evidence: two and a grace are, and of a stop that rests at the broker two different ones. While the database is
away it watches what was remembered and what the broker shows, and leaves through the spool.
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
from catalyst.daemon.outage.exits import Emergency
from catalyst.daemon.outage.protection import Blind
from catalyst.daemon.protection.position_protector import LOOK, Guard
from catalyst.daemon.risk.price_cache import Heard, Prices
from catalyst.daemon.runtime.change_signal import Pulse
from catalyst.daemon.trading_state.entry_gate import DATABASE
from catalyst.domain.order import WORKING, PositionSide, Purpose
from catalyst.domain.position import CloseReason
from catalyst.store import orders, positions
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store, is_outage
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

LEAVE_WITHIN: Final = timedelta(seconds=30)
OLDEST: Final = 2 * LOOK  # of a look at the tables: the guard, whose looks are remembered, has missed one
AWAY_LOOK: Final = timedelta(seconds=5)  # without the tables nobody says what has changed
AWAY_URGENT: Final = timedelta(seconds=2)  # of the broker's budget of requests
NEVER: Final = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Through:
    """A price beyond a level: since when, of which instant the latest was, how many different ones."""

    since: datetime
    latest: datetime
    seen: int


# A symbol, the prices at and below which, and at and above which, a position is to be looked at, and the position.
Watched = tuple[str, Decimal, Decimal, PositionRow]


@dataclass
class StopMonitor:
    """Its fields are all it can touch."""

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
    prices: Prices = field(init=False)
    _held: Sequence[PositionRow] = ()
    _rows: Mapping[int, Sequence[OrderRow]] = field(default_factory=dict)
    _watched: Sequence[Watched] = ()
    _through: dict[int, Through] = field(default_factory=dict)  # by position
    _away: bool = False
    _unsure: bool = False  # what was to be done by the tables failed: are they there?
    _wanted: Pulse = field(default_factory=Pulse)  # prices are, at once
    _ticking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.prices = Prices(self.store, self.market, self.broker, self.clock, self.cfg)

    async def run(self) -> None:
        """Two paces, each every 30 s, and every second while anything is naked or through its stop, from the moment it
        is: prices are asked for and judged; and what is held is looked at, however long an answer takes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_prices(), name="prices")
            await self._watch()

    async def _watch(self) -> None:
        woken = True
        while True:
            bared = self.guard.bared.count
            await self.tick()
            if woken or any(position.symbol not in self.prices.heard for position in self._held):
                self._wanted.beat()
            woken = await self.guard.bared.next(self.clock, self._pause(), since=bared)

    async def _follow_prices(self) -> None:
        while True:
            wanted = self._wanted.count
            await self.ask()
            await self.tick(look=False)
            await self._wanted.next(self.clock, self._pause(), since=wanted)

    def _pause(self) -> timedelta:
        urgent = bool(self._naked or self._through)
        if self._away:
            return AWAY_URGENT if urgent else AWAY_LOOK
        return timedelta(seconds=self.cfg.naked_every_seconds if urgent else self.cfg.every_seconds)

    @property
    def _naked(self) -> set[int]:
        """Positions without a stop at the broker, by who looks at them now."""
        return self.blind.bare if self._away else self.guard.naked

    async def ask(self) -> None:
        """The prices of what is held are heard anew, and written as marks."""
        known = self._held if self._away else self.guard.books.memory.held
        held = [position for position in known if self._is_ours_to_leave(position)]
        if not held:
            return
        await self.prices.ask(held)
        watched = held if self.exits.market_open else []
        await self.prices.tell_blind(watched, self._naked, tables=not self._away)
        if not self._away:
            await self.prices.keep(held)

    async def tick(self, *, look: bool = True) -> None:
        """Judge everything that is held by the prices heard last. Nobody is asked anything while what is remembered
        holds good and nothing is through a level; without the tables, the broker is, but for `look`."""
        async with self._ticking:
            try:
                await self._learn(look=look)
                if not self.exits.market_open:
                    return  # no stop is elected by what trades before and after hours, and nothing could be sold
                if self._away and self._day_ends():
                    await self._leave_all(self._held)
                    return
                for position in self._suspects():
                    await self._judge(position)
            except Exception as error:
                self._unsure = is_outage(error)
                raise

    # -- what is held

    async def _learn(self, *, look: bool) -> None:
        """Know every open position with its orders: as remembered while that holds good, else from the tables, else as
        the broker shows it."""
        if self._away and not look:
            return
        books, now = self.guard.books, self.clock.now()
        changes = books.changed.count
        good = books.memory.holds_good(changes=changes, since=now - OLDEST)
        if not good or self._away or self._unsure or self.guard.dark:
            await self._look(changes, now)
        if not self._away:
            self._watch_for(books.memory.held, books.memory.rows)

    async def _look(self, changes: int, now: datetime) -> None:
        try:
            async with self.store.read() as conn:
                held = await positions.open_positions(conn)
                rows = await orders.of_positions(conn, [p.position_id for p in held])
        except Exception as error:
            if not is_outage(error):
                raise
            self.exits.execution.gate.shut(DATABASE, "the database cannot be reached")
            self._away, self._unsure = True, False
            shown, known = await self.blind.look()
            log.warning("watching_without_tables", positions=len(shown), error=type(error).__name__)
            self._watch_for(shown, known)
            if not self._day_ends():
                await self.blind.leave_what_cannot_be_protected(shown)
                if self.exits.market_open:
                    await self.blind.leave_what_is_held_too_long(shown)
            return
        self.guard.books.memory.keep(held, rows, changes=changes, at=now)
        self._away = self._unsure = False

    def _watch_for(self, held: Sequence[PositionRow], rows: Mapping[int, Sequence[OrderRow]]) -> None:
        if held is self._held and rows is self._rows:
            return
        self._held, self._rows = held, rows
        self._watched = [_watched(p, rows.get(p.position_id, ())) for p in held]
        ids = {p.position_id for p in held}
        self._through = {key: at for key, at in self._through.items() if key in ids}

    def _is_ours_to_leave(self, position: PositionRow) -> bool:
        """False for what another hand has left, and the tables have not heard of yet."""
        return self._away or position.symbol not in self.guard.execution.elsewhere

    def _day_ends(self) -> bool:
        """True from the moment on at which everything is to be left; the schedule's own job needs the tables."""
        session = self.exits.session
        return (
            session is not None
            and self.blind.limits.close_all_at_market_close
            and self.exits.market_open
            and self.clock.now() >= session.close - self.flat_before_close
        )

    async def _leave_all(self, held: Sequence[PositionRow]) -> None:
        for position in held:
            await self._leave_unrecorded(position, f"{CloseReason.MARKET_CLOSE}: {position.symbol}")

    async def _leave_unrecorded(self, position: PositionRow, reason: str) -> None:
        await self.emergency.leave(position.symbol, reason=reason, by="stop_monitor", within=LEAVE_WITHIN)

    # -- what its prices say

    def _suspects(self) -> list[PositionRow]:
        """The positions of which any price that was heard lies beyond a level, and those of which one did."""
        spans = self.prices.spans
        found = [
            position
            for symbol, floor, ceiling, position in self._watched
            if (span := spans.get(symbol)) is not None and (span[0] <= floor or span[1] >= ceiling)
        ]
        if self._through:
            ids = {position.position_id for position in found}
            found += [p for p in self._held if p.position_id in self._through and p.position_id not in ids]
        return [position for position in found if self._is_ours_to_leave(position)]

    async def _judge(self, position: PositionRow) -> None:
        heard = self.prices.heard.get(position.symbol)
        evidence = None if heard is None else self._evidence(position, heard)
        if heard is None or evidence is None:
            return
        at, price = evidence
        rows = self._rows.get(position.position_id, ())
        reason = self._breach(position, rows, at, price, heard)
        if reason is not None:
            await self._enforce(position, price, reason)

    def _evidence(self, position: PositionRow, heard: Heard) -> tuple[datetime, Decimal] | None:
        """The price that may end the position, and its instant. A stop at the broker is elected by prints, so only a
        print shows that it did not act, and only one since we hold the shares; while nothing rests at the broker, the
        mark does too, each time it is heard."""
        oldest = self.prices.oldest
        if position.position_id in self._naked:
            mark = heard.mark(position.side, oldest)
            return None if mark is None else (heard.at, mark)
        trade = heard.print_since(max(oldest, position.entry_time))
        return None if trade is None else (trade.at, trade.price)

    def _breach(
        self,
        position: PositionRow,
        rows: Sequence[OrderRow],
        at: datetime,
        price: Decimal,
        heard: Heard,
    ) -> str | None:
        """Why the position is to be left now: its level was crossed by two different observations (a print and the
        quote heard after it are two), and the grace for the broker's own order is over. None: not, or not yet."""
        targeted, now = _targeted(rows), self.clock.now()
        reason = _crossed(position, price, targeted=targeted)
        if reason is None:
            self._through.pop(position.position_id, None)
            return None
        known = self._through.get(position.position_id)
        if known is None:
            self._through[position.position_id] = Through(now, at, 1)
            return None
        quoted = heard.side(position.side, self.prices.oldest) if heard.at > known.since else None
        agreed = quoted is not None and _crossed(position, quoted, targeted=targeted) is not None
        seen = known.seen + 1 if at > known.latest else max(known.seen, 2 if agreed else 1)
        self._through[position.position_id] = Through(known.since, max(at, known.latest), seen)
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
        if not self._away:
            await self.exits.ask(position.position_id, reason=reason, purpose=Purpose.EXIT, by="stop_monitor")
            return
        self._through.pop(position.position_id, None)
        await self._leave_unrecorded(position, reason)


def _watched(position: PositionRow, rows: Sequence[OrderRow]) -> Watched:
    """The bounds within which no price can end the position, whichever of its prices is believed."""
    stop = position.stop_loss
    target = None if _targeted(rows) else position.take_profit
    below, above = (stop, target) if position.side is PositionSide.LONG else (target, stop)
    return (
        position.symbol,
        -NEVER if below is None else below,
        NEVER if above is None else above,
        position,
    )


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
