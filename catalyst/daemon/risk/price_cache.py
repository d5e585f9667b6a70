"""Price cache: prices of what is held, refreshed at their own interval, kept in memory and written as marks.

A price is a print, or the side of a valid quote at which we would trade. Stale, one-sided and crossed quotes
are not prices; without a price the broker's figure is used. Readers use the last refresh and make no request.
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
from catalyst.config.schema import StopMonitorConfig
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import PositionSide
from catalyst.domain.report import Quote, Trade
from catalyst.store import alerts, positions
from catalyst.store.pool import Store, is_transient
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

STALE_ALERT_AFTER: Final = timedelta(seconds=60)  # without a valid price, before an alert
REWRITE_MARKS_AFTER: Final = timedelta(
    minutes=5
)  # an unchanged mark is rewritten this often, so that it does not look stale

PriceRange = tuple[Decimal, Decimal]
Mark = tuple[Decimal, Decimal]  # price, unrealised dollars


@dataclass(frozen=True, slots=True)
class LastPrice:
    """Last known prices of a symbol. `shown` is the broker's price, for when the market has none."""

    at: datetime
    trade: Trade | None = None
    quote: Quote | None = None
    broker_price: Decimal | None = None

    @property
    def price_range(self) -> PriceRange | None:
        """Return the lowest and highest price, valid or not; None without any."""
        quote = self.quote
        found = [
            price
            for price in (
                None if self.trade is None else self.trade.price,
                None if quote is None else quote.bid,
                None if quote is None else quote.ask,
                self.broker_price,
            )
            if price is not None
        ]
        return (min(found), max(found)) if found else None

    def opposite_quote(self, side: PositionSide, oldest: datetime) -> Decimal | None:
        """Return the side of a fresh, complete quote at which we would trade."""
        quote = self.quote
        if quote is None or quote.at < oldest or quote.bid is None or quote.ask is None:
            return None
        return quote.bid if side is PositionSide.LONG else quote.ask

    def print_since(self, oldest: datetime) -> Trade | None:
        """Return the print if it is not older than that."""
        trade = self.trade
        return trade if trade is not None and trade.at >= oldest and trade.price > 0 else None

    def market_price(self, side: PositionSide, oldest: datetime) -> Decimal | None:
        """Return the market price of a position: the side of a fresh quote, else a fresh print."""
        quoted = self.opposite_quote(side, oldest)
        if quoted is not None:
            return quoted
        trade = self.print_since(oldest)
        return None if trade is None else trade.price

    def mark(self, side: PositionSide, oldest: datetime) -> Decimal | None:
        """Return the mark of a position: the market price, else the broker's."""
        found = self.market_price(side, oldest)
        return self.broker_price if found is None and self.at >= oldest else found


@dataclass
class PriceCache:
    """Last prices of each symbol, and the range of its prices."""

    store: Store
    market: MarketData
    broker: Broker
    clock: Clock
    cfg: StopMonitorConfig
    last_prices: dict[str, LastPrice] = field(default_factory=dict)
    price_ranges: dict[str, PriceRange] = field(default_factory=dict)
    _written_marks: dict[int, Mark] = field(default_factory=dict)  # last written mark, by position
    _marks_written_at: datetime | None = None
    _stale_since: dict[str, datetime] = field(
        default_factory=dict
    )  # symbols without a price, with the start of the price outage
    _refreshed_at: datetime | None = None

    @property
    def oldest_valid(self) -> datetime:
        """Return the instant before which a price is stale."""
        return self.clock.now() - timedelta(seconds=self.cfg.stale_after_seconds)

    async def refresh(self, held: Sequence[PositionRow]) -> None:
        """Read the market price of every symbol, and the broker's price where the market has none."""
        symbols = sorted({position.symbol for position in held})
        trades, quotes = await self._read_market(symbols)
        now = self.clock.now()
        fresh = {symbol: LastPrice(now, trades.get(symbol), quotes.get(symbol)) for symbol in symbols}
        oldest = self.oldest_valid
        unpriced = {p.symbol for p in held if fresh[p.symbol].market_price(p.side, oldest) is None}
        if unpriced:
            shown = await self._read_broker_prices()
            for symbol in unpriced:
                price, old = shown.get(symbol), self.last_prices.get(symbol)
                if price is not None:
                    one = fresh[symbol]
                    fresh[symbol] = LastPrice(now, one.trade, one.quote, price)
                elif old is not None and symbol not in trades and symbol not in quotes:
                    fresh[symbol] = old  # no new price; the old one keeps its age
        self._refreshed_at = now
        self.last_prices = fresh
        self.price_ranges = {
            symbol: span for symbol, one in fresh.items() if (span := one.price_range) is not None
        }

    async def _read_market(self, symbols: Sequence[str]) -> tuple[Mapping[str, Trade], Mapping[str, Quote]]:
        try:
            return await gather_both(self.market.trades(symbols), self.market.quotes(symbols))
        except BrokerError as error:
            log.warning("prices_read_failed", error=str(error))
            return {}, {}

    async def _read_broker_prices(self) -> dict[str, Decimal]:
        """Return the broker's price of each symbol it holds for us; empty when the read failed."""
        try:
            shown = await self.broker.positions(priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("positions_read_failed", error=str(error))
            return {}
        prices = {one.symbol: one.current_price for one in shown}
        return {symbol: price for symbol, price in prices.items() if price is not None and price > 0}

    async def write_marks(self, held: Sequence[PositionRow]) -> None:
        """Write changed marks in one statement, unchanged ones every few minutes. A failed write stops no
        reader."""
        now, oldest = self.clock.now(), self.oldest_valid
        marks: dict[int, Mark] = {}
        for position in held:
            last_price = self.last_prices.get(position.symbol)
            price = None if last_price is None else last_price.mark(position.side, oldest)
            if price is not None:
                marks[position.position_id] = (price, position.state.unrealized_pnl(price))
        due = self._marks_written_at is None or now - self._marks_written_at >= REWRITE_MARKS_AFTER
        fresh = {key: mark for key, mark in marks.items() if due or self._written_marks.get(key) != mark}
        if not fresh:
            return
        try:
            async with self.store.statement("mark") as conn:
                await positions.mark(conn, [(key, *mark) for key, mark in fresh.items()], at=now)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("marks_not_written", error=f"{type(error).__name__}: {error}")
            return
        self._written_marks = marks
        self._marks_written_at = now if due else self._marks_written_at

    async def alert_stale_prices(
        self, held: Sequence[PositionRow], unprotected: Collection[int], *, database_up: bool
    ) -> None:
        """Alert when prices of held symbols stay stale, absent or unreadable in the session: until they
        return only the broker's stop protects them."""
        now, oldest = self.clock.now(), self.oldest_valid
        missing = {
            p.symbol
            for p in held
            if (last_price := self.last_prices.get(p.symbol)) is None
            or last_price.at != self._refreshed_at
            or last_price.market_price(p.side, oldest) is None
        }
        self._stale_since = {symbol: self._stale_since.get(symbol, now) for symbol in sorted(missing)}
        long = [symbol for symbol, since in self._stale_since.items() if now - since >= STALE_ALERT_AFTER]
        if not long:
            return
        log.error("prices_stale", symbols=long)
        if not database_up:
            return
        unprotected_symbols = {p.symbol for p in held if p.position_id in unprotected}
        async with self.store.tx("alert") as conn:
            for symbol in long:
                await alerts.put(
                    conn,
                    severity="CRITICAL" if symbol in unprotected_symbols else "WARNING",
                    event="PRICES_STALE",
                    message=f"{symbol}: no believable price since {self._stale_since[symbol]:%H:%M:%S} UTC",
                    facts={"symbol": symbol},
                    dedupe_key=f"PRICES_STALE:{symbol}",
                    at=now,
                )
