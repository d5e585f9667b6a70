"""Watchlist routes: each list is addressed by its id or by its name."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.views import asset_view
from catalyst.simulator.exchange.watchlists import Watchlist
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    ApiError,
    JsonObject,
    format_instant,
    parse_uuid,
)
from catalyst.simulator.trading_api.responses import read_json_body, to_response, without_body

BY_ID: Final = "/v2/watchlists/{watchlist_id}"
BY_NAME: Final = "/v2/watchlists:by_name"


class WatchlistApi:
    """The routes under /v2/watchlists."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def mount(self, app: web.Application) -> None:
        """Add every route to the application."""
        app.router.add_get("/v2/watchlists", without_body(self.list_all))
        app.router.add_post("/v2/watchlists", self._with_body(self.create))
        for path in (BY_ID, BY_NAME):
            app.router.add_get(path, without_body(self.get))
            app.router.add_put(path, self._with_body(self.update))
            app.router.add_post(path, self._with_body(self.add_symbol))
            app.router.add_delete(path, without_body(self.delete))
            app.router.add_delete(f"{path}/{{symbol}}", without_body(self.remove_symbol))

    def _with_body(
        self, answer: Callable[[web.Request, JsonObject], object]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            return to_response(answer(request, await read_json_body(request)))

        return respond

    def list_all(self, _: web.Request) -> object:
        return [self._summary(each) for each in self._exchange.watchlists.by_id.values()]

    def create(self, _: web.Request, body: JsonObject) -> object:
        exchange = self._exchange
        return self._watchlist_view(
            exchange.watchlists.create(body.get("name"), body.get("symbols"), exchange.state.now)
        )

    def get(self, request: web.Request) -> object:
        return self._watchlist_view(self._find_watchlist(request))

    def update(self, request: web.Request, body: JsonObject) -> object:
        found, exchange = self._find_watchlist(request), self._exchange
        return self._watchlist_view(
            exchange.watchlists.update(found, body.get("name"), body.get("symbols"), exchange.state.now)
        )

    def add_symbol(self, request: web.Request, body: JsonObject) -> object:
        return self._watchlist_view(
            self._exchange.watchlists.add_symbol(
                self._find_watchlist(request), body.get("symbol"), self._exchange.state.now
            )
        )

    def remove_symbol(self, request: web.Request) -> object:
        symbol = request.match_info["symbol"]
        return self._watchlist_view(
            self._exchange.watchlists.remove_symbol(
                self._find_watchlist(request), symbol, self._exchange.state.now
            )
        )

    def delete(self, request: web.Request) -> object:
        self._exchange.watchlists.delete(self._find_watchlist(request))
        return web.Response(status=204)

    def _find_watchlist(self, request: web.Request) -> Watchlist:
        if "watchlist_id" in request.match_info:
            return self._exchange.watchlists.find(
                parse_uuid(request.match_info["watchlist_id"], "watchlist_id")
            )
        name = request.query.get("name")
        if not name:
            raise ApiError(422, BAD_PARAMETER, "name is missing")
        return self._exchange.watchlists.find_by_name(name)

    def _summary(self, watchlist: Watchlist) -> JsonObject:
        """Return what the list of lists shows of each."""
        return {
            "id": watchlist.id,
            "account_id": self._exchange.state.account.id,
            "created_at": format_instant(watchlist.created_at),
            "updated_at": format_instant(watchlist.updated_at),
            "name": watchlist.name,
        }

    def _watchlist_view(self, watchlist: Watchlist) -> JsonObject:
        assets, settings = self._exchange.state.market.assets(), self._exchange.state.settings
        rows = [asset_view(assets[symbol], settings) for symbol in watchlist.symbols if symbol in assets]
        return {**self._summary(watchlist), "assets": rows}
