"""What the tape announces beside trades and quotes: halts, price bands, trades late, withdrawn or corrected.

A notice has the instant it was said at. Notices are kept in the order they were said, so that whoever listens
with a cursor hears each of them once, even several of one instant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from catalyst.simulator.market.interface import Print


class HaltReason(StrEnum):
    """Why trading in a symbol stands still; the tapes have codes for each."""

    NEWS = "news"
    PRICE_BANDS = "price_bands"
    REGULATORY = "regulatory"
    OPERATIONAL = "operational"
    MARKET_WIDE = "market_wide"


@dataclass(frozen=True, slots=True)
class TradingStatus:
    """Trading in a symbol stops, or goes on after having stopped for `reason`."""

    at: datetime
    symbol: str
    halted: bool
    reason: HaltReason


@dataclass(frozen=True, slots=True)
class LuldBands:
    """The limit up-limit down prices of a symbol from now on; `indicator` as the tape tells it."""

    at: datetime
    symbol: str
    up: Decimal
    down: Decimal
    indicator: str


@dataclass(frozen=True, slots=True)
class LateTrade:
    """A trade reported at `at` that happened before; no order met it."""

    at: datetime
    symbol: str
    trade: Print


@dataclass(frozen=True, slots=True)
class TradeCancel:
    """A trade that was told is taken back: it was cancelled, or with `error` never happened."""

    at: datetime
    symbol: str
    trade: Print
    is_error: bool


@dataclass(frozen=True, slots=True)
class TradeCorrection:
    """A trade that was told is replaced by another of the same instant."""

    at: datetime
    symbol: str
    trade: Print
    replacement: Print


Announcement = TradingStatus | LuldBands | LateTrade | TradeCancel | TradeCorrection


@dataclass(slots=True)
class Announcements:
    """Everything announced so far."""

    published: list[Announcement] = field(default_factory=list)
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def publish(self, announcement: Announcement) -> None:
        """Announce it; whoever listens is told that there is something."""
        self.published.append(announcement)
        self.notify_listeners()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever something was said, or was done to the tape by hand."""
        self._listeners.append(listener)

    def notify_listeners(self) -> None:
        """Have every listener look again."""
        for listener in self._listeners:
            listener()
