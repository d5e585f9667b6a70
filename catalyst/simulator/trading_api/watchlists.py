"""The watchlists over HTTP, each addressed by its id or by its name."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from catalyst.simulator.exchange import watchlists
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.views import asset_view
from catalyst.simulator.exchange.watchlists import Watchlist
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, Refusal, identity, stamp_of, type_json
from catalyst.simulator.trading_api.routes import body_of, plain, reply

BY_ID: Final = "/v2/watchlists/{watchlist_id}"
BY_NAME: Final = "/v2/watchlists:by_name"


class WatchlistApi:
    """The routes under /v2/watchlists."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def mount(self, app: web.Application) -> None:
        """Add every route to the application."""
        app.router.add_get("/v2/watchlists", plain(self.every))
        app.router.add_post("/v2/watchlists", self._reading(self.create))
        for path in (BY_ID, BY_NAME):
            app.router.add_get(path, plain(self.one))
            app.router.add_put(path, self._reading(self.change))
            app.router.add_post(path, self._reading(self.add))
            app.router.add_delete(path, plain(self.delete))
            app.router.add_delete(f"{path}/{{symbol}}", plain(self.remove))

    def _reading(
        self, answer: Callable[[web.Request, type_json], object]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            return reply(answer(request, await body_of(request)))

        return respond

    def every(self, _: web.Request) -> object:
        return [self._heading(each) for each in self._exchange.watchlists.values()]

    def create(self, _: web.Request, body: type_json) -> object:
        return self._shown(watchlists.create(self._exchange, body.get("name"), body.get("symbols")))

    def one(self, request: web.Request) -> object:
        return self._shown(self._found(request))

    def change(self, request: web.Request, body: type_json) -> object:
        found = self._found(request)
        return self._shown(watchlists.change(self._exchange, found, body.get("name"), body.get("symbols")))

    def add(self, request: web.Request, body: type_json) -> object:
        return self._shown(watchlists.add(self._exchange, self._found(request), body.get("symbol")))

    def remove(self, request: web.Request) -> object:
        symbol = request.match_info["symbol"]
        return self._shown(watchlists.remove(self._exchange, self._found(request), symbol))

    def delete(self, request: web.Request) -> object:
        watchlists.delete(self._exchange, self._found(request))
        return web.Response(status=204)

    def _found(self, request: web.Request) -> Watchlist:
        if "watchlist_id" in request.match_info:
            return watchlists.find(
                self._exchange, identity(request.match_info["watchlist_id"], "watchlist_id")
            )
        name = request.query.get("name")
        if not name:
            raise Refusal(422, BAD_PARAMETER, "name is missing")
        return watchlists.find_by_name(self._exchange, name)

    def _heading(self, watchlist: Watchlist) -> type_json:
        """What the list of lists shows of each."""
        return {
            "id": watchlist.id,
            "account_id": self._exchange.account.id,
            "created_at": stamp_of(watchlist.created_at),
            "updated_at": stamp_of(watchlist.updated_at),
            "name": watchlist.name,
        }

    def _shown(self, watchlist: Watchlist) -> type_json:
        assets, switches = self._exchange.market.assets(), self._exchange.switches
        rows = [asset_view(assets[symbol], switches) for symbol in watchlist.symbols if symbol in assets]
        return {**self._heading(watchlist), "assets": rows}
