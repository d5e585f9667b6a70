"""The fallback: marks every position to market, and leaves it when the broker's stop demonstrably did not.

A price is a print or the side of a valid quote we would trade at. Stale, one-sided and crossed quotes are not
prices. One observation is not evidence: two looks in a row and a grace are.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import structlog

from catalyst.broker.port import MarketData
from catalyst.clock import Clock
from catalyst.config import StopMonitorConfig
from catalyst.daemon.exits import SafeExit
from catalyst.daemon.guard import Guard
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import WORKING, PositionSide, Purpose
from catalyst.domain.position import CloseReason
from catalyst.domain.report import Quote, Trade
from catalyst.store import orders, positions
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store
from catalyst.store.positions import PositionRow

log = structlog.get_logger()


@dataclass
class StopMonitor:
    """Its fields are all it can touch. `prices` is the last valid price seen of each held symbol."""

    store: Store
    market: MarketData
    exits: SafeExit
    guard: Guard
    clock: Clock
    cfg: StopMonitorConfig
    prices: dict[str, Decimal] = field(default_factory=dict)
    _through: dict[int, datetime] = field(default_factory=dict)  # since when a stop is through

    async def run(self) -> None:
        """Every 30 s; every second while anything is naked or through its stop."""
        while True:
            await self.look()
            urgent = self.guard.naked or self._through
            seconds = self.cfg.naked_every_seconds if urgent else self.cfg.every_seconds
            await self.clock.sleep(timedelta(seconds=seconds))

    async def look(self) -> None:
        """One look at every open position."""
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
            rows = {p.position_id: await orders.of_position(conn, p.position_id) for p in held}
        self._through = {key: at for key, at in self._through.items() if key in {p.position_id for p in held}}
        if not held:
            return
        symbols = sorted({position.symbol for position in held})
        try:
            trades = await self.market.trades(symbols)
            quotes = await self.market.quotes(symbols)
        except BrokerError as error:
            log.warning("prices_unreadable", error=str(error))
            return
        now = self.clock.now()
        priced: list[tuple[PositionRow, Decimal]] = []
        for position in held:
            price = self._price(position, trades.get(position.symbol), quotes.get(position.symbol), now)
            if price is not None:
                self.prices[position.symbol] = price
                priced.append((position, price))
        if priced:
            async with self.store.tx("mark") as conn:
                for position, price in priced:
                    unrealized = position.holding.unrealized_pnl(price)
                    await positions.mark(
                        conn, position.position_id, price=price, unrealized=unrealized, at=now
                    )
        if not self.exits.market_open:
            return  # no stop is elected by what trades before and after hours, and nothing could be sold
        for position, price in priced:
            evidence = self._evidence(position, price, trades.get(position.symbol), now)
            if evidence is not None:
                await self._judge(position, rows[position.position_id], evidence, now)

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
        self, position: PositionRow, rows: list[OrderRow], price: Decimal, now: datetime
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
        await self.exits.ask(position.position_id, reason=reason, purpose=Purpose.EXIT, by="stop_monitor")


def _targeted(rows: list[OrderRow]) -> bool:
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
