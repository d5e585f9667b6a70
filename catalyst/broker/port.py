"""Protocols of a broker, a market data source and a news source, in Catalyst's own types.

Every request of `Broker` ends in a value or in one of the broker errors of `domain.errors`, each of which
says whether it happened. No implementation retries a request that changes anything. A `Listing` counts its
unreadable rows; its caller decides what may be concluded from the others.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

import pandas as pd

from catalyst.domain.report import (
    AccountReport,
    AssetReport,
    CashActivity,
    ClockReport,
    Fill,
    Listing,
    OrderReport,
    OrderRequest,
    PositionReport,
    Quote,
    Trade,
    TradeUpdate,
)
from catalyst.domain.session import Session


class Priority(StrEnum):
    """Share of the rate limit that a call may use."""

    ROUTINE = "routine"  # entries, scans, polling: waits or fails while only the reserve is left
    EXIT = "exit"  # exits, protection, and the reads they depend on: sent at once


class Broker(Protocol):
    """The trading API. Raises OrderRejected, DuplicateOrder, OutcomeUnknown, BrokerUnavailable, NotFound,
    AuthRefused as `domain.errors` defines them; reads never raise OutcomeUnknown."""

    async def submit(self, request: OrderRequest, *, priority: Priority = Priority.ROUTINE) -> OrderReport:
        """Send one order. The report has the legs of a bracket or OCO where the broker showed them."""
        ...

    async def cancel(self, broker_id: str) -> None:
        """Request a cancel; the return says only that it was requested. Raises OrderRejected when no longer
        cancelable. Always priority EXIT."""
        ...

    async def replace(self, broker_id: str, *, client_order_id: str, limit_price: Decimal) -> OrderReport:
        """Request another limit; the return says only that it was requested.

        The report is of the replacement, under our id; the original's status `replaced` confirms it, and
        until then both may fill. Always priority EXIT.
        """
        ...

    async def order(self, broker_id: str, *, priority: Priority = Priority.ROUTINE) -> OrderReport:
        """Return one order with its legs. Raises NotFound."""
        ...

    async def order_by_client_id(
        self, client_order_id: str, *, priority: Priority = Priority.ROUTINE
    ) -> OrderReport:
        """Return one order with its legs, by our own id. Raises NotFound, which may be provisional."""
        ...

    async def orders(
        self,
        *,
        status: str,
        after: datetime | None = None,
        symbols: Sequence[str] = (),
        priority: Priority = Priority.ROUTINE,
    ) -> Listing[OrderReport]:
        """Return all orders (`status` open | closed | all) submitted after `after`, oldest first, legs
        nested, every page.

        May include a few from just before `after`: pages overlap so that none is lost between them.
        """
        ...

    async def positions(self, *, priority: Priority = Priority.ROUTINE) -> Listing[PositionReport]:
        """Return all positions."""
        ...

    async def position(self, symbol: str, *, priority: Priority = Priority.ROUTINE) -> PositionReport | None:
        """Return one position; None when the broker reports that it does not exist."""
        ...

    async def fills(
        self,
        *,
        after: datetime | None = None,
        order_id: str | None = None,
        priority: Priority = Priority.ROUTINE,
    ) -> Listing[Fill]:
        """Return the fills of the account activities, oldest first, every page."""
        ...

    async def cash_activities(self, day: date) -> Listing[CashActivity]:
        """Return the transfers, fees, dividends, interest of a New York day: all activities that are no trade."""
        ...

    async def account(self) -> AccountReport: ...

    async def forbid_shorting(self, forbidden: bool) -> bool:
        """Set the account's `no_shorting` to `forbidden`; true when it was changed."""
        ...

    async def clock(self) -> ClockReport: ...

    async def calendar(self, start: date, end: date) -> list[Session]:
        """Return the sessions; an unreadable row is a failed read, because a missing day would be a holiday."""
        ...

    async def assets(self) -> list[AssetReport]:
        """Return every active US equity."""
        ...

    async def close(self) -> None:
        """Close threads and sockets."""
        ...


class StreamState(StrEnum):
    CONNECTING = "connecting"
    READY = "ready"  # authorised and listening
    LOST = "lost"
    REFUSED = "refused"  # authentication refused
    OCCUPIED = "occupied"  # refused for OCCUPIED_AFTER, because another connection is open


@dataclass(frozen=True, slots=True)
class StreamGap:
    """The stream was not received from `since` on; everything in between must be read.

    Sent when the stream is lost (state LOST, REFUSED or OCCUPIED) and again when it is READY, before the first message
    after it.
    """

    state: StreamState
    since: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class MalformedMessage:
    """A message that could not be parsed, kept raw and never dropped silently."""

    raw: bytes
    error: str


class TradeUpdates(Protocol):
    """The trade_updates stream as an async source that announces its gaps."""

    @property
    def state(self) -> StreamState: ...

    def listen(self) -> AsyncIterator[TradeUpdate | StreamGap | MalformedMessage]:
        """Yield messages in order of arrival while the caller iterates; reconnect automatically."""
        ...

    def drain_buffered(self, max_frames: int) -> list[TradeUpdate | MalformedMessage]:
        """Return buffered messages behind the last one, in order, of at most `max_frames` frames and up to a gap.

        They count as processed when the caller requests the next message.
        """
        ...


class MarketData(Protocol):
    """The market data API. Frames carry float64 and tz-aware UTC times; missing is NaN or NaT, never zero."""

    async def snapshots(self, symbols: Sequence[str]) -> pd.DataFrame:
        """Index symbol; trade_price, trade_at, bid, ask, bid_size, ask_size, quote_at, minute_close,
        minute_volume, minute_at, day_open, day_high, day_low, day_close, day_volume, day_vwap, day_at,
        prev_open, prev_high, prev_low, prev_close, prev_volume, prev_at. Symbols the market omits have no
        row."""
        ...

    async def bars(
        self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime
    ) -> pd.DataFrame:
        """Columns symbol, timestamp (start of the bar), open, high, low, close, volume; sorted by both.
        `timeframe` is 1Min | 5Min | 15Min | 1Hour | 1Day."""
        ...

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        """Return the latest quotes; one-sided, crossed or zero sides are None."""
        ...

    async def trades(self, symbols: Sequence[str]) -> dict[str, Trade]:
        """Return the latest prints."""
        ...

    async def present_symbols(self, symbols: Sequence[str]) -> Mapping[str, str]:
        """Return the present symbol of each one that a name change has replaced."""
        ...


class NewsSource(Protocol):
    """A source of headlines."""

    async def headlines(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        """Columns id, symbol, headline, summary, source, published_at, received_at, url; one row per headline
        and requested symbol; oldest first. Raises BrokerUnavailable when the source failed: a failed
        source is not an empty one."""
        ...


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """The rate limit as of the last response."""

    limit: int
    remaining: int
    reset_at: datetime | None
