"""Alpaca's market half: snapshots, bars, latest quotes and prints, straight from JSON into columns.

alpaca-py's client is the transport; its models are left out, because a model for each of 7,500 snapshots costs
ten times what the answer does, and one unexpected null costs them all.

Source: Alpaca API documentation, market data.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar

import pandas as pd

from catalyst.broker.alpaca import log_garbled
from catalyst.broker.columns import (
    Columns,
    bar_columns,
    bar_frame,
    snapshot_columns,
    snapshot_frame,
)
from catalyst.broker.outcome import fields, is_object, settle
from catalyst.broker.parse import amount, instant
from catalyst.broker.port import MarketData, Priority
from catalyst.broker.rate_limit import RateBudget
from catalyst.broker.request import Answer, Bounds, Door, Spoil
from catalyst.broker.rest_client import Wire
from catalyst.broker.symbol_batches import chunked, query_of, rfc3339
from catalyst.clock import Clock
from catalyst.concurrency import together
from catalyst.domain.errors import BrokerUnavailable
from catalyst.domain.fault_points import Witness
from catalyst.domain.report import Quote, Trade

T = TypeVar("T")

FEEDS: Final = ("iex", "sip", "delayed_sip")
BARS_A_PAGE: Final = 10_000
MOST_PAGES: Final = 2_000
DELAY: Final = timedelta(minutes=15)  # of the delayed feed: what is older comes from the consolidated tape
LARGE: Final = Bounds(read=10.0, total=20.0)  # real seconds, for a chunk of snapshots or a page of bars

Snapshots = tuple[list[str], Columns]


class AlpacaMarketData(MarketData):
    """One market data host and feed (iex | sip | delayed_sip).

    Latest quotes and prints watch over open positions, so they may use the reserve of the request budget and
    keep a thread for themselves; snapshots and bars wait. Historical prices are adjusted for splits.
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
        on_garbled: Callable[[str, object], None] = log_garbled,
        witness: Witness | None = None,
    ) -> None:
        if feed not in FEEDS:
            raise ValueError(f"{feed!r} is none of the feeds {', '.join(FEEDS)}")
        self._clock = clock
        self._feed = feed
        budget = RateBudget(clock, limit=rate_limit, reserve=rate_reserve)
        door = Door(base_url.rstrip("/"), key, secret, epoch)
        self._wire = Wire(clock, door, budget, on_garbled=on_garbled, threads=threads, witness=witness)
        self._bulk = asyncio.Semaphore(max(threads - 1, 1))
        self._parsing = (
            threading.Lock()
        )  # two parsers at once would keep the event loop from its turn twice as long

    async def snapshots(self, symbols: Sequence[str]) -> pd.DataFrame:
        found = await together(self._snapshots(chunk) for chunk in chunked(symbols))
        with self._clock.hold():
            return await asyncio.to_thread(snapshot_frame, [part for parts in found for part in parts])

    async def bars(
        self, symbols: Sequence[str], timeframe: str, start: datetime, end: datetime
    ) -> pd.DataFrame:
        feed = self._feed
        if feed == "delayed_sip":
            feed, end = "sip", min(end, self._clock.now() - DELAY)
        asked: dict[str, str | int] = {
            "timeframe": timeframe,
            "start": rfc3339(start),
            "end": rfc3339(end),
            "limit": BARS_A_PAGE,
            "adjustment": "split",
            "feed": feed,
            "sort": "asc",
        }
        chunks = chunked(symbols) if start < end else []
        found = await together(self._bars({"symbols": ",".join(chunk), **asked}) for chunk in chunks)
        with self._clock.hold():
            return await asyncio.to_thread(bar_frame, [page for pages in found for page in pages])

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Quote]:
        return await self._latest("quotes", symbols, _quote)

    async def trades(self, symbols: Sequence[str]) -> dict[str, Trade]:
        return await self._latest("trades", symbols, _trade)

    async def close(self) -> None:
        """Let go of threads and sockets."""
        self._wire.close()

    async def _snapshots(self, symbols: Sequence[str]) -> list[Snapshots]:
        """One chunk; a server whose URLs are shorter than most gets it in halves."""
        query = query_of(symbols=",".join(symbols), feed=self._feed)
        async with self._bulk:
            found = await self._wire.read("/stocks/snapshots", query, self._digest_snapshots, bounds=LARGE)
        if found is not None:
            return [found]
        if len(symbols) == 1:
            raise BrokerUnavailable("the URL of a single symbol is too long for the market data host")
        half = len(symbols) // 2
        return await self._snapshots(symbols[:half]) + await self._snapshots(symbols[half:])

    def _digest_snapshots(self, answer: Answer, _spoil: Spoil) -> Snapshots | None:
        if answer.status == 414:
            return None
        with self._parsing:
            body = settle(answer, changes=False)
            if not is_object(body):
                raise BrokerUnavailable("snapshots were asked for and something else came")
            nested = body.get("snapshots")  # some hosts wrap them
            return snapshot_columns(nested if is_object(nested) else body)

    async def _bars(self, asked: Mapping[str, str | int]) -> list[Columns]:
        """Every page of one chunk. A page may be short, or empty, and still have a successor."""
        pages: list[Columns] = []
        token: str | None = None
        for _ in range(MOST_PAGES):
            query = query_of(**asked) if token is None else query_of(**asked, page_token=token)
            async with self._bulk:
                page, following = await self._wire.read(
                    "/stocks/bars", query, self._digest_bars, bounds=LARGE
                )
            pages.append(page)
            if following is None:
                return pages
            if following == token:
                break
            token = following
        raise BrokerUnavailable("the list of bars does not end")

    def _digest_bars(self, answer: Answer, _spoil: Spoil) -> tuple[Columns, str | None]:
        with self._parsing:
            body = fields(settle(answer, changes=False))
            bars = body.get("bars", ...)
            if bars is not None and not is_object(bars):
                raise BrokerUnavailable("bars were asked for and something else came")
            token = body.get("next_page_token")
            return bar_columns(bars or {}), token if isinstance(token, str) and token else None

    async def _latest(
        self, what: str, symbols: Sequence[str], read: Callable[[str, Mapping[str, object]], T]
    ) -> dict[str, T]:
        found: dict[str, T] = {}
        digest = partial(_digest_latest, what, read)
        for chunk in chunked(symbols):
            query = query_of(symbols=",".join(chunk), feed=self._feed)
            found |= await self._wire.read(f"/stocks/{what}/latest", query, digest, priority=Priority.EXIT)
        return found


def _digest_latest(
    what: str, read: Callable[[str, Mapping[str, object]], T], answer: Answer, spoil: Spoil
) -> dict[str, T]:
    rows = fields(settle(answer, changes=False)).get(what)
    if not is_object(rows):
        raise BrokerUnavailable(f"{what} were asked for and something else came")
    found = {}
    for symbol, row in rows.items():
        try:
            found[symbol] = read(symbol, row if is_object(row) else {})
        except ValueError as error:
            spoil(str(error), row)
    return found


def _quote(symbol: str, row: Mapping[str, object]) -> Quote:
    """A side without a positive price is None; of a crossed quote both are."""
    at = instant(row.get("t"))
    if at is None:
        raise ValueError(f"a quote of {symbol} without a time")
    bid, ask = _price(row, "bp"), _price(row, "ap")
    if bid is not None and ask is not None and bid > ask:
        bid = ask = None
    return Quote(symbol, at, bid, ask)


def _trade(symbol: str, row: Mapping[str, object]) -> Trade:
    at, price = instant(row.get("t")), _price(row, "p")
    if at is None or price is None:
        raise ValueError(f"a print of {symbol} without a time or a price")
    return Trade(symbol, at, price)


def _price(row: Mapping[str, object], name: str) -> Decimal | None:
    price = amount(row, name)
    return price if price is not None and price > 0 else None
