"""Market announcements beside trades and quotes: halts, price bands, and late, cancelled or corrected trades.

An announcement carries the instant of its publication. Announcements are stored in the order of publication, so
a listener with a cursor receives each of them once, even when several share one instant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from catalyst.simulator.market.interface import Print


class HaltReason(StrEnum):
    """Reason for a trading halt; CTA and UTP have a code for each."""

    NEWS = "news"
    PRICE_BANDS = "price_bands"
    REGULATORY = "regulatory"
    OPERATIONAL = "operational"
    MARKET_WIDE = "market_wide"


@dataclass(frozen=True, slots=True)
class TradingStatus:
    """A halt of trading in a symbol, or its resumption after a halt for `reason`."""

    at: datetime
    symbol: str
    halted: bool
    reason: HaltReason


@dataclass(frozen=True, slots=True)
class LuldBands:
    """Limit up-limit down prices of a symbol, valid from `at` on; `indicator` is the feed's own value."""

    at: datetime
    symbol: str
    up: Decimal
    down: Decimal
    indicator: str


@dataclass(frozen=True, slots=True)
class LateTrade:
    """A trade reported at `at` that happened earlier; no order was matched against it."""

    at: datetime
    symbol: str
    trade: Print


@dataclass(frozen=True, slots=True)
class TradeCancel:
    """Withdrawal of a published trade: the trade was cancelled, or with `is_error` never happened."""

    at: datetime
    symbol: str
    trade: Print
    is_error: bool


@dataclass(frozen=True, slots=True)
class TradeCorrection:
    """Replacement of a published trade by another one of the same instant."""

    at: datetime
    symbol: str
    trade: Print
    replacement: Print


Announcement = TradingStatus | LuldBands | LateTrade | TradeCancel | TradeCorrection


@dataclass(slots=True)
class Announcements:
    """All announcements published so far."""

    published: list[Announcement] = field(default_factory=list)
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def publish(self, announcement: Announcement) -> None:
        """Append an announcement and notify all listeners."""
        self.published.append(announcement)
        self.notify_listeners()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every announcement and after every override of the market."""
        self._listeners.append(listener)

    def notify_listeners(self) -> None:
        """Call every listener, so that it checks for changes."""
        for listener in self._listeners:
            listener()
