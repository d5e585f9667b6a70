"""Alpaca market data API: snapshots, bars, latest quotes and prints, from JSON into columns.

alpaca-py's client is the transport. Its models are not used: a model for each of 7,500 snapshots costs ten
times the response, and one unexpected null fails them all. Source: Alpaca API documentation, market data.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar

import pandas as pd

from catalyst.broker.alpaca import log_malformed_row
from catalyst.broker.columns import (
    Columns,
    bar_columns,
    bar_frame,
    snapshot_columns,
    snapshot_frame,
)
from catalyst.broker.name_changes import NameChange, parse_name_changes, present_symbols
from catalyst.broker.outcome import is_object, require_object, success_body
from catalyst.broker.parse import amount, instant
from catalyst.broker.port import MarketData, Priority, RateLimitStatus
from catalyst.broker.rate_limit import RateLimiter
from catalyst.broker.request import Endpoint, HttpResponse, OnMalformed, Timeouts
from catalyst.broker.rest_client import RestClient
from catalyst.broker.symbol_batches import batch_symbols, encode_query, rfc3339
from catalyst.clock import Clock
from catalyst.concurrency import gather_all
from catalyst.domain.errors import BrokerUnavailable
from catalyst.domain.fault_points import FaultPoint
from catalyst.domain.latency import Latency
from catalyst.domain.report import Quote, Trade
from catalyst.domain.session import trading_date

T = TypeVar("T")

FEEDS: Final = ("iex", "sip", "delayed_sip")
BARS_PER_PAGE: Final = 10_000
NAME_CHANGES_PER_PAGE: Final = 1_000
NAME_CHANGES_SINCE: Final = "2016-01-01"  # the broker's history begins there
MAX_PAGES: Final = 2_000
# Of the delayed feed: older data comes from the consolidated tape.
DELAYED_FEED_LAG: Final = timedelta(minutes=15)
# Real seconds, for a batch of snapshots or a page of bars.
BULK_TIMEOUTS: Final = Timeouts(read=10.0, total=20.0)

SnapshotBatch = tuple[list[str], Columns]


class AlpacaMarketData(MarketData):
    """One market data host and feed (iex | sip | delayed_sip).

    Latest quotes and prints protect open positions, so they may use the reserve of the rate limit and
    have their own thread; snapshots and bars wait. Historical prices are adjusted for splits.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        base_url: str = "https://data.alpaca.markets",
        key: str,
        secret: str,
        feed: str = "iex",
        epoch: int = 0,
        rate_limit: int = 200,
        rate_reserve: int = 60,
        threads: int = 4,
        on_malformed: Callable[[str, object], None] = log_malformed_row,
        fault_point: FaultPoint | None = None,
    ) -> None:
        if feed not in FEEDS:
            raise ValueError(f"feed {feed!r} is none of the feeds {', '.join(FEEDS)}")
        self._clock = clock
        self._feed = feed
        rate_limiter = RateLimiter(clock, limit=rate_limit, reserve=rate_reserve)
        endpoint = Endpoint(base_url.rstrip("/"), key, secret, epoch)
        self._rest_client = RestClient(
            clock, endpoint, rate_limiter, on_malformed=on_malformed, threads=threads, fault_point=fault_point
        )
        self._bulk_slots = asyncio.Semaphore(max(threads - 1, 1))
        self._parse_lock = threading.Lock()  # two parsers at once would delay the event loop twice as long

    @property
    def rate_limit_status(self) -> RateLimitStatus:
        """Return the state of the data plan's rate limit."""
        return self._rest_client.rate_limiter.status

    @property
    def latencies(self) -> Mapping[tuple[str, str], Latency]:
        """Return the real seconds of the requests, by verb and resource."""
        return self._rest_client.latencies

    async def snapshots(self, symbols: Sequence[str]) -> pd.DataFrame:
        found = await gather_all(self._fetch_snapshots(batch) for batch in batch_symbols(symbols))
        with self._clock.hold():
            return await asyncio.to_thread(snapshot_frame, [part for parts in found for part in parts])

    async def bars(
        self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime
    ) -> pd.DataFrame:
        feed = self._feed
        if feed == "delayed_sip":
            feed, end = "sip", min(end, self._clock.now() - DELAYED_FEED_LAG)
        params: dict[str, str | int] = {
            "timeframe": timeframe,
            "start": rfc3339(start),
            "end": rfc3339(end),
            "limit": BARS_PER_PAGE,
            "adjustment": "split",
            "feed": feed,
            "sort": "asc",
        }
        batches = batch_symbols(symbols) if start < end else []
        found = await gather_all(
            self._fetch_bars({"symbols": ",".join(batch), **params}) for batch in batches
        )
        with self._clock.hold():
            return await asyncio.to_thread(bar_frame, [page for pages in found for page in pages])

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        return await self._fetch_latest("quotes", symbols, _parse_quote)

    async def trades(self, symbols: Sequence[str]) -> dict[str, Trade]:
        return await self._fetch_latest("trades", symbols, _parse_trade)

    async def present_symbols(self, symbols: Sequence[str]) -> Mapping[str, str]:
        changes: set[NameChange] = set()
        asked: set[str] = set()
        while unknown := {*symbols, *(change.new_symbol for change in changes)} - asked:
            asked |= unknown
            for batch in batch_symbols(sorted(unknown)):
                changes |= await self._fetch_name_changes(batch)
        return present_symbols(symbols, changes)

    async def _fetch_name_changes(self, symbols: Sequence[str]) -> set[NameChange]:
        params: dict[str, str | int] = {
            "symbols": ",".join(symbols),
            "types": "name_change",
            "start": NAME_CHANGES_SINCE,
            "end": trading_date(self._clock.now()).isoformat(),
            "limit": NAME_CHANGES_PER_PAGE,
            "sort": "asc",
        }
        changes: set[NameChange] = set()
        for _ in range(MAX_PAGES):
            page, token = await self._rest_client.read(
                "/corporate-actions", encode_query(**params), parse_name_changes, version="v1"
            )
            changes.update(page)
            if token is None:
                return changes
            if token == params.get("page_token"):
                break
            params["page_token"] = token
        raise BrokerUnavailable("the list of name changes cannot be read completely: a page repeats")

    async def close(self) -> None:
        """Close threads and sockets."""
        self._rest_client.close()

    async def _fetch_snapshots(self, symbols: Sequence[str]) -> list[SnapshotBatch]:
        """Read one batch; a server with a shorter URL limit gets it in halves."""
        query = encode_query(symbols=",".join(symbols), feed=self._feed)
        async with self._bulk_slots:
            found = await self._rest_client.read(
                "/stocks/snapshots", query, self._parse_snapshots, timeouts=BULK_TIMEOUTS
            )
        if found is not None:
            return [found]
        if len(symbols) == 1:
            raise BrokerUnavailable("the URL of a single symbol is too long for the market data host")
        half = len(symbols) // 2
        return await self._fetch_snapshots(symbols[:half]) + await self._fetch_snapshots(symbols[half:])

    def _parse_snapshots(self, response: HttpResponse, _on_malformed: OnMalformed) -> SnapshotBatch | None:
        if response.status == 414:
            return None
        with self._parse_lock:
            body = success_body(response, mutating=False)
            if not is_object(body):
                raise BrokerUnavailable(f"the response has no snapshots object, but a {type(body).__name__}")
            nested = body.get("snapshots")  # some hosts wrap them
            return snapshot_columns(nested if is_object(nested) else body)

    async def _fetch_bars(self, params: Mapping[str, str | int]) -> list[Columns]:
        """Read every page of one batch. A page may be short or empty and still have a successor."""
        pages: list[Columns] = []
        token: str | None = None
        for _ in range(MAX_PAGES):
            query = encode_query(**params) if token is None else encode_query(**params, page_token=token)
            async with self._bulk_slots:
                page, next_token = await self._rest_client.read(
                    "/stocks/bars", query, self._parse_bars, timeouts=BULK_TIMEOUTS
                )
            pages.append(page)
            if next_token is None:
                return pages
            if next_token == token:
                break
            token = next_token
        raise BrokerUnavailable(
            f"the list of bars cannot be read completely: a page repeats, or it has more than {MAX_PAGES}"
        )

    def _parse_bars(self, response: HttpResponse, _on_malformed: OnMalformed) -> tuple[Columns, str | None]:
        with self._parse_lock:
            body = require_object(success_body(response, mutating=False))
            bars = body.get("bars", ...)
            if bars is not None and not is_object(bars):
                raise BrokerUnavailable(f"the response has no bars object, but a {type(bars).__name__}")
            token = body.get("next_page_token")
            return bar_columns(bars or {}), token if isinstance(token, str) and token else None

    async def _fetch_latest(
        self, kind: str, symbols: Sequence[str], parse_row: Callable[[str, Mapping[str, object]], T]
    ) -> dict[str, T]:
        found: dict[str, T] = {}
        parse_response = partial(_parse_latest, kind, parse_row)
        for batch in batch_symbols(symbols):
            query = encode_query(symbols=",".join(batch), feed=self._feed)
            found |= await self._rest_client.read(
                f"/stocks/{kind}/latest", query, parse_response, priority=Priority.EXIT
            )
        return found


def _parse_latest(
    kind: str,
    parse_row: Callable[[str, Mapping[str, object]], T],
    response: HttpResponse,
    on_malformed: OnMalformed,
) -> dict[str, T]:
    rows = require_object(success_body(response, mutating=False)).get(kind)
    if not is_object(rows):
        raise BrokerUnavailable(f"the response has no {kind} object, but a {type(rows).__name__}")
    found = {}
    for symbol, row in rows.items():
        try:
            found[symbol] = parse_row(symbol, row if is_object(row) else {})
        except ValueError as error:
            on_malformed(str(error), row)
    return found


def _parse_quote(symbol: str, row: Mapping[str, object]) -> Quote:
    """Parse a quote. A side without a positive price is None; both sides of a crossed quote are."""
    at = instant(row.get("t"))
    if at is None:
        raise ValueError(f"the quote of {symbol} has no time")
    bid, ask = _positive_price(row, "bp"), _positive_price(row, "ap")
    if bid is not None and ask is not None and bid > ask:
        bid = ask = None
    return Quote(symbol, at, bid, ask)


def _parse_trade(symbol: str, row: Mapping[str, object]) -> Trade:
    at, price = instant(row.get("t")), _positive_price(row, "p")
    if at is None or price is None:
        raise ValueError(f"the print of {symbol} has no time or no price")
    return Trade(symbol, at, price)


def _positive_price(row: Mapping[str, object], name: str) -> Decimal | None:
    price = amount(row, name)
    return price if price is not None and price > 0 else None
