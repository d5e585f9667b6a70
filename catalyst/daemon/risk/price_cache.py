"""Price cache: last prices of the held symbols, in memory and written to the positions as marks.

A price is a print, or the side of a valid quote at which we would exit. Stale, one-sided and crossed quotes give no
price; without a price the broker's is used. Readers use the last refresh and make no request.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, MarketData, Priority
from catalyst.clock import Clock
from catalyst.concurrency import gather_both
from catalyst.config.current import CurrentConfig
from catalyst.daemon.runtime.database_health import DatabaseHealth
from catalyst.domain.errors import BrokerError, DatabaseContention, DatabaseUnavailable
from catalyst.domain.order import PositionSide
from catalyst.domain.report import Quote, Trade
from catalyst.domain.rows import PositionRow
from catalyst.store import alerts, positions
from catalyst.store.pool import Store

log = structlog.get_logger()

STALE_ALERT_AFTER: Final = timedelta(seconds=60)  # time without a valid price before an alert
# Unchanged marks are rewritten at this interval, so that they do not look stale.
REWRITE_MARKS_AFTER: Final = timedelta(minutes=5)

PriceRange = tuple[Decimal, Decimal]  # lowest, highest
Mark = tuple[Decimal, Decimal]  # price, unrealised P&L in dollars


@dataclass(frozen=True, slots=True)
class LastPrice:
    """Last prices of a symbol. `broker_price` is set only when the market has no valid price."""

    at: datetime  # time of the read
    trade: Trade | None = None
    quote: Quote | None = None
    broker_price: Decimal | None = None

    @property
    def price_range(self) -> PriceRange | None:
        """Return the lowest and highest price, stale or not; None without any price."""
        quote = self.quote
        prices = [
            price
            for price in (
                None if self.trade is None else self.trade.price,
                None if quote is None else quote.bid,
                None if quote is None else quote.ask,
                self.broker_price,
            )
            if price is not None
        ]
        return (min(prices), max(prices)) if prices else None

    def opposite_quote(self, side: PositionSide, oldest: datetime) -> Decimal | None:
        """Return the side of the quote at which a position exits: the bid for a long one, the ask for a short one.

        None when the quote is older than `oldest` or has only one side.
        """
        quote = self.quote
        if quote is None or quote.at < oldest or quote.bid is None or quote.ask is None:
            return None
        return quote.bid if side is PositionSide.LONG else quote.ask

    def print_since(self, oldest: datetime) -> Trade | None:
        """Return the print, or None if it is older than `oldest`."""
        trade = self.trade
        return trade if trade is not None and trade.at >= oldest and trade.price > 0 else None

    def market_price(self, side: PositionSide, oldest: datetime) -> Decimal | None:
        """Return the market price of a position: the opposite quote, else the print; None if older than `oldest`."""
        quote_price = self.opposite_quote(side, oldest)
        if quote_price is not None:
            return quote_price
        trade = self.print_since(oldest)
        return None if trade is None else trade.price

    def mark(self, side: PositionSide, oldest: datetime) -> Decimal | None:
        """Return the mark of a position: the market price, else the broker's; None if older than `oldest`."""
        price = self.market_price(side, oldest)
        return self.broker_price if price is None and self.at >= oldest else price


@dataclass
class PriceCache:
    """Refreshes the last prices of the held symbols, writes marks, and alerts stale prices."""

    store: Store
    market: MarketData
    broker: Broker
    clock: Clock
    config: CurrentConfig
    health: DatabaseHealth
    last_prices: dict[str, LastPrice] = field(default_factory=dict)
    price_ranges: dict[str, PriceRange] = field(default_factory=dict)
    _written_marks: dict[int, Mark] = field(default_factory=dict)  # by position id
    _marks_written_at: datetime | None = None
    # Start of the price outage of each symbol without a price.
    _stale_since: dict[str, datetime] = field(default_factory=dict)
    _refreshed_at: datetime | None = None

    @property
    def oldest_valid(self) -> datetime:
        """Return the instant before which a price is stale."""
        return self.clock.now() - timedelta(seconds=self.config.stop_monitor.stale_after_seconds)

    async def refresh(self, held: Sequence[PositionRow]) -> None:
        """Read the last print and quote of every held symbol, and the broker's price where they give no price."""
        symbols = sorted({position.symbol for position in held})
        trades, quotes = await self._read_market(symbols)
        now = self.clock.now()
        fresh = {symbol: LastPrice(now, trades.get(symbol), quotes.get(symbol)) for symbol in symbols}
        oldest = self.oldest_valid
        unpriced = {p.symbol for p in held if fresh[p.symbol].market_price(p.side, oldest) is None}
        if unpriced:
            broker_prices = await self._read_broker_prices()
            for symbol in unpriced:
                price, previous = broker_prices.get(symbol), self.last_prices.get(symbol)
                if price is not None:
                    market_data = fresh[symbol]
                    fresh[symbol] = LastPrice(now, market_data.trade, market_data.quote, price)
                elif previous is not None and symbol not in trades and symbol not in quotes:
                    fresh[symbol] = previous  # no new price; the previous one keeps its time
        self._refreshed_at = now
        self.last_prices = fresh
        self.price_ranges = {
            symbol: price_range
            for symbol, last_price in fresh.items()
            if (price_range := last_price.price_range) is not None
        }

    @property
    def refreshed_at(self) -> datetime | None:
        """Return when the prices were read last; None before the first read."""
        return self._refreshed_at

    async def _read_market(self, symbols: Sequence[str]) -> tuple[Mapping[str, Trade], Mapping[str, Quote]]:
        """Return the last print and quote of each symbol; both empty when a read failed."""
        try:
            return await gather_both(self.market.trades(symbols), self.market.quotes(symbols))
        except BrokerError as error:
            log.warning("prices_read_failed", error=str(error))
            return {}, {}

    async def _read_broker_prices(self) -> dict[str, Decimal]:
        """Return the broker's price of each held symbol; empty when the read failed."""
        try:
            reports = await self.broker.positions(priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("positions_read_failed", error=str(error))
            return {}
        prices = {report.symbol: report.current_price for report in reports}
        return {symbol: price for symbol, price in prices.items() if price is not None and price > 0}

    async def write_marks(self, held: Sequence[PositionRow]) -> None:
        """Write changed marks in one statement, and all marks every REWRITE_MARKS_AFTER.

        A transient database error is logged; the next call writes them.
        """
        now, oldest = self.clock.now(), self.oldest_valid
        marks: dict[int, Mark] = {}
        for position in held:
            last_price = self.last_prices.get(position.symbol)
            price = None if last_price is None else last_price.mark(position.side, oldest)
            if price is not None:
                marks[position.position_id] = (price, position.state.unrealized_pnl(price))
        due = self._marks_written_at is None or now - self._marks_written_at >= REWRITE_MARKS_AFTER
        to_write = {key: mark for key, mark in marks.items() if due or self._written_marks.get(key) != mark}
        if not to_write:
            return
        try:
            async with self.store.statement("mark") as conn:
                await positions.mark(conn, [(key, *mark) for key, mark in to_write.items()], at=now)
        except (DatabaseUnavailable, DatabaseContention) as error:
            log.warning("marks_not_written", error=str(error))
            return
        self._written_marks = marks
        self._marks_written_at = now if due else self._marks_written_at

    async def alert_stale_prices(self, held: Sequence[PositionRow], unprotected: Collection[int]) -> None:
        """Alert when held symbols have no valid price for STALE_ALERT_AFTER: only the broker's stop protects them.

        CRITICAL for a symbol in `unprotected` (position ids). While the database is down it only logs.
        """
        now, oldest = self.clock.now(), self.oldest_valid
        missing = {
            p.symbol
            for p in held
            if (last_price := self.last_prices.get(p.symbol)) is None
            or last_price.at != self._refreshed_at
            or last_price.market_price(p.side, oldest) is None
        }
        self._stale_since = {symbol: self._stale_since.get(symbol, now) for symbol in sorted(missing)}
        overdue = [symbol for symbol, since in self._stale_since.items() if now - since >= STALE_ALERT_AFTER]
        if not overdue:
            return
        log.error("prices_stale", symbols=overdue)
        if self.health.is_down:
            return
        unprotected_symbols = {p.symbol for p in held if p.position_id in unprotected}
        async with self.store.tx("alert") as conn:
            for severity, symbols in (
                (alerts.CRITICAL, [symbol for symbol in overdue if symbol in unprotected_symbols]),
                (alerts.WARNING, [symbol for symbol in overdue if symbol not in unprotected_symbols]),
            ):
                if symbols:
                    since = min(self._stale_since[symbol] for symbol in symbols)
                    message = f"no valid price since {since:%H:%M:%S} UTC or later"
                    await alerts.raise_for_symbols(
                        conn, "PRICES_STALE", message, symbols, severity=severity, at=now
                    )
