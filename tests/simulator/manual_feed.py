"""A market under the test's control: the test sets the trades and the quotes."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import NAMESPACE_DNS, uuid5

from catalyst.clock import NEW_YORK
from catalyst.simulator.market.interface import Asset, BestQuote, MarketSession, Print

MONDAY = date(2026, 3, 9)  # the first session after the change to daylight saving time
HALF_DAY = date(2026, 11, 27)
HOLIDAYS = {date(2026, 11, 26)}


def at(clock_time: str, day: date = MONDAY) -> datetime:
    """Convert a New York wall time to UTC."""
    return datetime.combine(day, time.fromisoformat(clock_time), NEW_YORK).astimezone(UTC)


def asset(symbol: str, **facts: object) -> Asset:
    terms: dict[str, object] = {
        "id": str(uuid5(NAMESPACE_DNS, symbol)),
        "symbol": symbol,
        "name": f"{symbol} Inc.",
        "exchange": "NASDAQ",
        "tradable": True,
        "shortable": True,
        "easy_to_borrow": True,
        "fractionable": True,
        "marginable": True,
        "status": "active",
    }
    return Asset(**{**terms, **facts})  # type: ignore[arg-type]


class ManualFeed:
    """Implements the trading feed the exchange reads; a quote is one cent around the last trade unless set."""

    def __init__(self) -> None:
        self.listings = {symbol: asset(symbol) for symbol in ("AAPL", "MSFT", "TSLA")}
        self.listings["HARD"] = asset("HARD", easy_to_borrow=False)
        self.listings["NOSH"] = asset("NOSH", shortable=False, easy_to_borrow=False)
        self.listings["WHOL"] = asset("WHOL", fractionable=False)
        self.listings["DEAD"] = asset("DEAD", status="inactive", tradable=False)
        self.prints_by_symbol: dict[str, list[Print]] = defaultdict(list)
        self.quote_size = 10_000
        self.quotes: dict[str, tuple[str, str] | None] = {}

    def add_trade(self, symbol: str, when: datetime, price: str, size: int = 100_000) -> None:
        """Add a trade to the feed."""
        self.prints_by_symbol[symbol].append(Print(when, Decimal(price), size))
        self.prints_by_symbol[symbol].sort(key=lambda trade: trade.at)

    def assets(self) -> Mapping[str, Asset]:
        return self.listings

    def session(self, day: date) -> MarketSession | None:
        if day.weekday() >= 5 or day in HOLIDAYS:
            return None
        close = "13:00" if day == HALF_DAY else "16:00"
        return MarketSession(day, at("09:30", day), at(close, day))

    def sessions(self, start: date, end: date) -> Sequence[MarketSession]:
        days = [start + timedelta(days=n) for n in range((end - start).days + 1)]
        return [session for session in map(self.session, days) if session is not None]

    def prints(self, symbol: str, after: datetime, until: datetime) -> Sequence[Print]:
        return [trade for trade in self.prints_by_symbol.get(symbol, ()) if after < trade.at <= until]

    def last_print(self, symbol: str, at: datetime) -> Print | None:
        trades = self.prints_by_symbol.get(symbol, [])
        index = bisect_right(trades, at, key=lambda trade: trade.at)
        return trades[index - 1] if index else None

    def quote(self, symbol: str, at: datetime) -> BestQuote | None:
        last = self.last_print(symbol, at)
        if symbol in self.quotes:
            pair = self.quotes[symbol]
            if pair is None:
                return None
            return BestQuote(at, Decimal(pair[0]), Decimal(pair[1]), self.quote_size, self.quote_size)
        if last is None:
            return None
        cent = Decimal("0.01")
        return BestQuote(last.at, last.price - cent, last.price + cent, self.quote_size, self.quote_size)

    def next_print_time(self, symbol: str, after: datetime) -> datetime | None:
        return next((trade.at for trade in self.prints_by_symbol.get(symbol, ()) if trade.at > after), None)
