"""Routes of the broker's market data REST API over a market: snapshots, latest, history, news, screener.

The server checks the keys; these routes check what the account's subscription covers. Every feed has the same
data; `delayed_sip` is 15 minutes late.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson
from aiohttp import web

from catalyst.clock import Clock
from catalyst.simulator.data_api import history, news, params
from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_api.auctions import auctions_page
from catalyst.simulator.data_api.params import DataApiError, Entitlements
from catalyst.simulator.market import calendar
from catalyst.simulator.market.interface import Market, SnapshotColumns

NO_RECENT_SIP: Final = "subscription does not permit querying recent SIP data"
URI_TOO_LONG_PAGE: Final = (
    "<html><head><title>414 Request-URI Too Large</title></head><body>nginx</body></html>"
)
# Conditions of the trades and quotes here, and a few that clients look for; equal on every tape.
CONDITIONS: Final = {
    "trade": {
        "@": "Regular Sale",
        "6": "Market Center Reopening Trade / Closing Prints",
        "F": "Intermarket Sweep",
        "I": "Odd Lot Trade",
        "M": "Market Center Official Close",
        "O": "Opening Prints",
        "Q": "Market Center Official Open",
        "T": "Form T",
        "Z": "Sold (Out of Sequence)",
    },
    "quote": {"R": "Regular, Two Sided Open", "H": "Depth on Bid Side", "I": "Order Imbalance"},
}
_HISTORY_PARAMS: Final = ("start", "end", "limit", "page_token", "sort", "feed", "asof", "currency")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ENTITLEMENTS: Final = web.AppKey("data_entitlements", Entitlements)
NEWS_STREAM: Final[web.AppKey[Handler]] = web.AppKey("news_stream")


def add_data_routes(app: web.Application, market: Market, clock: Clock) -> None:
    """Serve the market data API of `market`, as of `clock`, from `app`.

    `app[ENTITLEMENTS]` may be changed while the app runs. The runner needs a `max_line_size` above `url_limit`;
    otherwise aiohttp answers 400 before this module can answer 414.
    """
    entitlements = app[ENTITLEMENTS] = Entitlements()
    api = _DataApi(market, clock, entitlements)
    single = {
        "/v2/stocks/{symbol}/snapshot": api.snapshot,
        "/v2/stocks/{symbol}/bars/latest": api.latest_bar,
        "/v2/stocks/{symbol}/trades/latest": api.latest_trade,
        "/v2/stocks/{symbol}/quotes/latest": api.latest_quote,
        "/v2/stocks/{symbol}/bars": api.bars_of_one,
        "/v2/stocks/{symbol}/trades": api.trades_of_one,
        "/v2/stocks/{symbol}/quotes": api.quotes_of_one,
        "/v2/stocks/{symbol}/auctions": api.auctions_of_one,
    }
    several = {
        "/v2/stocks/snapshots": api.snapshots,
        "/v2/stocks/bars/latest": api.latest_bars,
        "/v2/stocks/trades/latest": api.latest_trades,
        "/v2/stocks/quotes/latest": api.latest_quotes,
        "/v2/stocks/bars": api.bars,
        "/v2/stocks/trades": api.trades,
        "/v2/stocks/quotes": api.quotes,
        "/v2/stocks/auctions": api.auctions,
        "/v2/stocks/meta/exchanges": api.exchanges,
        "/v2/stocks/meta/conditions/{ticktype}": api.conditions,
        "/v1beta1/screener/stocks/most-actives": api.most_actives,
        "/v1beta1/screener/stocks/movers": api.movers,
        "/v1/corporate-actions": api.corporate_actions,
    }
    for path, handler in {**several, **single}.items():
        app.router.add_get(path, _with_api_errors(handler, entitlements))
    app.router.add_get("/v1beta1/news", _news_or_stream(_with_api_errors(api.news, entitlements)))


def _news_or_stream(page: Handler) -> Handler:
    """Return a handler that serves the news page or the news stream.

    The broker has both at one path on two hosts; here the Upgrade header decides.
    """

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket" and NEWS_STREAM in request.app:
            return await request.app[NEWS_STREAM](request)
        return await page(request)

    return respond


def _with_api_errors(handler: Callable[[web.Request], object], entitlements: Entitlements) -> Handler:
    """Return `handler` with the proxy's limit on the request target, and with errors in the broker's format."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if len(request.raw_path) > entitlements.url_limit:
            return web.Response(status=414, text=URI_TOO_LONG_PAGE, content_type="text/html")
        try:
            body = handler(request)
        except DataApiError as error:
            error_body: dict[str, object] = {"message": error.message}
            if error.code is not None:
                error_body["code"] = error.code
            return web.Response(
                status=error.status, body=orjson.dumps(error_body), content_type="application/json"
            )
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    return respond


@dataclass(frozen=True, slots=True)
class _DataApi:
    market: Market
    clock: Clock
    entitlements: Entitlements

    def snapshots(self, request: web.Request) -> object:
        columns, tapes = self._latest(request.query, params.symbols_of(request.query))
        return wire.snapshots(columns, tapes)

    def latest_bars(self, request: web.Request) -> object:
        columns, _ = self._latest(request.query, params.symbols_of(request.query))
        return {"bars": _rows_by_symbol(columns.symbols, wire.bars(columns.minute))}

    def latest_trades(self, request: web.Request) -> object:
        columns, tapes = self._latest(request.query, params.symbols_of(request.query))
        return {"trades": _rows_by_symbol(columns.symbols, wire.trades(columns, tapes))}

    def latest_quotes(self, request: web.Request) -> object:
        columns, tapes = self._latest(request.query, params.symbols_of(request.query))
        return {"quotes": _rows_by_symbol(columns.symbols, wire.quotes(columns, tapes))}

    def snapshot(self, request: web.Request) -> object:
        symbol, columns, tapes = self._latest_of_one(request)
        return {"symbol": symbol, **wire.snapshots(columns, tapes).get(symbol, {})}

    def latest_bar(self, request: web.Request) -> object:
        symbol, columns, _ = self._latest_of_one(request)
        return {"symbol": symbol, "bar": wire.bars(columns.minute)[0]}

    def latest_trade(self, request: web.Request) -> object:
        symbol, columns, tapes = self._latest_of_one(request)
        return {"symbol": symbol, "trade": wire.trades(columns, tapes)[0]}

    def latest_quote(self, request: web.Request) -> object:
        symbol, columns, tapes = self._latest_of_one(request)
        return {"symbol": symbol, "quote": wire.quotes(columns, tapes)[0]}

    def bars(self, request: web.Request) -> object:
        return _paged("bars", self._bars(request, params.symbols_of(request.query)))

    def trades(self, request: web.Request) -> object:
        return _paged(
            "trades", self._trades_or_quotes(request, params.symbols_of(request.query), history.trades_page)
        )

    def quotes(self, request: web.Request) -> object:
        return _paged(
            "quotes", self._trades_or_quotes(request, params.symbols_of(request.query), history.quotes_page)
        )

    def bars_of_one(self, request: web.Request) -> object:
        symbol = _symbol(request)
        return _paged_one("bars", symbol, self._bars(request, [symbol]))

    def trades_of_one(self, request: web.Request) -> object:
        symbol = _symbol(request)
        return _paged_one("trades", symbol, self._trades_or_quotes(request, [symbol], history.trades_page))

    def quotes_of_one(self, request: web.Request) -> object:
        symbol = _symbol(request)
        return _paged_one("quotes", symbol, self._trades_or_quotes(request, [symbol], history.quotes_page))

    def auctions(self, request: web.Request) -> object:
        return _paged("auctions", self._auctions(request, params.symbols_of(request.query)))

    def auctions_of_one(self, request: web.Request) -> object:
        symbol = _symbol(request)
        return _paged_one("auctions", symbol, self._auctions(request, [symbol]))

    def exchanges(self, request: web.Request) -> object:
        params.check_param_names(request.query)
        return {"A": "NYSE American", "N": "NYSE", "P": "NYSE Arca", "Q": "NASDAQ", "V": "IEX"}

    def conditions(self, request: web.Request) -> object:
        params.check_param_names(request.query, "tape")
        kind, tape = request.match_info["ticktype"], request.query.get("tape", "")
        if kind not in CONDITIONS or tape not in ("A", "B", "C"):
            raise DataApiError(400, f"invalid {'tape' if kind in CONDITIONS else 'ticktype'}")
        return CONDITIONS[kind]

    def news(self, request: web.Request) -> object:
        return news.news_page(self.market, request.query, self.clock.now())

    def most_actives(self, request: web.Request) -> object:
        return news.most_actives(self.market, request.query, self.clock.now())

    def movers(self, request: web.Request) -> object:
        return news.movers(self.market, request.query, self.clock.now())

    def corporate_actions(self, request: web.Request) -> object:
        """Return the name changes that /admin/data has set; neither recorded nor synthetic bars have other actions."""
        query = request.query
        params.check_corporate_action_params(query)
        symbols = {each for each in query.get("symbols", "").split(",") if each}
        wants_changes = "name_change" in (query.get("types") or "name_change").split(",")
        changes = [
            wire.name_change(old, new, calendar.trading_day(self.clock.now()))
            for old, new in self.entitlements.name_changes.items()
            if wants_changes and (not symbols or symbols & {old, new})
        ]
        return {"corporate_actions": {"name_changes": changes} if changes else {}, "next_page_token": None}

    def _latest(self, query: Mapping[str, str], symbols: Sequence[str]) -> tuple[SnapshotColumns, list[str]]:
        """Return the newest snapshots of `symbols` that the subscription permits, and their tapes."""
        params.check_param_names(query, "symbols", "feed", "currency")
        params.check_common_params(query)
        feed = params.feed_of(query, params.LATEST_FEEDS)
        if feed == "sip" and not self.entitlements.recent_sip:
            raise DataApiError(403, NO_RECENT_SIP, 42210000)
        at = self.clock.now() - params.DELAY if feed == "delayed_sip" else self.clock.now()
        columns = self.market.snapshots(symbols, at)
        return columns, wire.tapes_of(columns.symbols, self.market.assets())

    def _latest_of_one(self, request: web.Request) -> tuple[str, SnapshotColumns, list[str]]:
        symbol = _symbol(request)
        columns, tapes = self._latest(request.query, [symbol])
        if not columns.symbols:
            raise DataApiError(404, f"symbol not found: {symbol}", 40410000)
        return symbol, columns, tapes

    def _bars(self, request: web.Request, symbols: Sequence[str]) -> history.Page:
        params.check_param_names(request.query, "symbols", "timeframe", "adjustment", *_HISTORY_PARAMS)
        length = params.bar_length_of(request.query)
        history_range, at = self._history_range(request.query)
        return history.bars_page(self.market, symbols, length, history_range, at)

    def _auctions(self, request: web.Request, symbols: Sequence[str]) -> history.Page:
        params.check_param_names(request.query, "symbols", *_HISTORY_PARAMS)
        if request.query.get("feed", "sip") != "sip":
            raise DataApiError(400, f"invalid feed: {request.query['feed']}")
        history_range, at = self._history_range(request.query)
        return auctions_page(self.market, symbols, history_range, at)

    def _trades_or_quotes(
        self,
        request: web.Request,
        symbols: Sequence[str],
        page: Callable[[Market, Sequence[str], params.HistoryRange, datetime], history.Page],
    ) -> history.Page:
        params.check_param_names(request.query, "symbols", *_HISTORY_PARAMS)
        history_range, at = self._history_range(request.query)
        return page(self.market, symbols, history_range, at)

    def _history_range(self, query: Mapping[str, str]) -> tuple[params.HistoryRange, datetime]:
        """Return the requested range, and the instant up to which the subscription permits data."""
        now = self.clock.now()
        params.check_common_params(query)
        history_range = params.history_range_of(query, now)
        feed = params.feed_of(query) or "sip"
        if feed == "sip" and not self.entitlements.recent_sip:
            if "end" in query and history_range.end > now - params.DELAY:
                raise DataApiError(403, NO_RECENT_SIP, 42210000)
            return history_range, now - params.DELAY
        return history_range, now


def _symbol(request: web.Request) -> str:
    return params.symbols_of({"symbols": request.match_info["symbol"]})[0]


def _rows_by_symbol(symbols: Sequence[str], rows: Sequence[wire.Json | None]) -> dict[str, wire.Json]:
    return {symbol: row for symbol, row in zip(symbols, rows, strict=True) if row is not None}


def _paged(name: str, page: history.Page) -> wire.Json:
    rows, token = page
    return {name: rows, "next_page_token": token}


def _paged_one(name: str, symbol: str, page: history.Page) -> wire.Json:
    rows, token = page
    return {name: rows.get(symbol, []), "symbol": symbol, "next_page_token": token}
