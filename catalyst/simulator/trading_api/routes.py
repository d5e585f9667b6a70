"""Trading API routes: each parses its request, calls the exchange, and writes the response."""

from collections.abc import Awaitable, Callable
from decimal import Decimal

from aiohttp import web

from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.positions import Position
from catalyst.simulator.exchange.views import (
    account_view,
    asset_view,
    configuration_view,
    order_view,
    position_view,
)
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.interface import Asset
from catalyst.simulator.rules.orders import Order
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    INTERNAL,
    NOT_FOUND,
    ApiError,
    JsonObject,
    encode_json,
    parse_bool,
    parse_uuid,
)
from catalyst.simulator.trading_api.activities import list_activities
from catalyst.simulator.trading_api.order_listing import list_orders, parse_order_query
from catalyst.simulator.trading_api.order_parsing import (
    closing_qty,
    parse_replace_request,
    parse_submit_request,
)
from catalyst.simulator.trading_api.portfolio_history import history_view, parse_history_query
from catalyst.simulator.trading_api.responses import RouteHandler, read_json_body, to_response, without_body


class TradingApi:
    """The routes of one exchange. Every request finds the exchange advanced to the present."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def mount(self, app: web.Application) -> None:
        """Add every route to the application."""
        routes: dict[tuple[str, str], RouteHandler] = {
            ("GET", "/v2/account"): self.account,
            ("GET", "/v2/account/configurations"): self.configuration,
            ("GET", "/v2/account/activities"): self.activities,
            ("GET", "/v2/account/activities/{kind}"): self.activities,
            ("GET", "/v2/account/portfolio/history"): self.history,
            ("GET", "/v2/assets"): self.assets,
            ("GET", "/v2/assets/{symbol}"): self.asset,
            ("GET", "/v2/orders"): self.orders,
            ("DELETE", "/v2/orders"): self.cancel_all,
            ("GET", "/v2/orders:by_client_order_id"): self.order_by_client_id,
            ("GET", "/v2/orders/{order_id}"): self.order,
            ("DELETE", "/v2/orders/{order_id}"): self.cancel,
            ("GET", "/v2/positions"): self.positions,
            ("DELETE", "/v2/positions"): self.close_all,
            ("GET", "/v2/positions/{symbol}"): self.position,
            ("DELETE", "/v2/positions/{symbol}"): self.close,
        }
        for (method, path), answer in routes.items():
            app.router.add_route(method, path, without_body(answer))
        app.router.add_route("POST", "/v2/orders", self._with_body(self.submit))
        app.router.add_route("PATCH", "/v2/orders/{order_id}", self._with_body(self.replace))
        app.router.add_route("PATCH", "/v2/account/configurations", self._with_body(self.configure))

    def _with_body(
        self, answer: Callable[[web.Request, JsonObject], object]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            return to_response(answer(request, await read_json_body(request)))

        return respond

    # ------------------------------------------------------------------ account

    def account(self, _: web.Request) -> object:
        exchange = self._exchange
        return account_view(
            exchange.state.account,
            exchange.state.mark_price,
            exchange.state.order_store.reserved_buying_power(),
            exchange.state.settings,
        )

    def configuration(self, _: web.Request) -> object:
        return configuration_view(self._exchange.state.account, self._exchange.state.settings)

    def configure(self, _: web.Request, body: JsonObject) -> object:
        configuration = self._exchange.state.account.configuration
        for name, value in body.items():
            if name == "max_margin_multiplier":
                if str(value) not in {"1", "2", "4"}:
                    raise ApiError(422, BAD_PARAMETER, f"invalid max_margin_multiplier: {value}")
                configuration.max_margin_multiplier = str(value)
            elif name == "trade_confirm_email":
                configuration.trade_confirm_email = str(value)
            elif isinstance(getattr(configuration, name, None), bool):
                setattr(configuration, name, parse_bool(value))
        self._exchange.state.unsaved_changes = True
        return configuration_view(self._exchange.state.account, self._exchange.state.settings)

    def activities(self, request: web.Request) -> object:
        return list_activities(self._exchange.state, request.match_info.get("kind"), request.query)

    def history(self, request: web.Request) -> object:
        return history_view(self._exchange.state, parse_history_query(self._exchange.state, request.query))

    # ------------------------------------------------------------------ assets

    def assets(self, request: web.Request) -> object:
        status, exchange = request.query.get("status"), request.query.get("exchange")
        settings = self._exchange.state.settings
        if request.query.get("asset_class", "us_equity") not in {"us_equity", ""}:
            return []
        if request.query.get("attributes"):
            return []  # no listing here has any
        return [
            asset_view(asset, settings)
            for asset in self._exchange.state.market.assets().values()
            if (not status or asset.status == status) and (not exchange or asset.exchange == exchange)
        ]

    def asset(self, request: web.Request) -> object:
        wanted = request.match_info["symbol"]
        found = self._find_asset(wanted)
        if found is None:
            raise ApiError(404, NOT_FOUND, f"asset not found for {wanted}")
        return asset_view(found, self._exchange.state.settings)

    def _find_asset(self, wanted: str) -> Asset | None:
        assets = self._exchange.state.market.assets()
        found = assets.get(wanted.upper())
        if found is None and len(wanted) == 36:
            found = next((asset for asset in assets.values() if asset.id == wanted.lower()), None)
        return found

    # ------------------------------------------------------------------ orders

    def submit(self, _: web.Request, body: JsonObject) -> object:
        return self._order_view(self._exchange.submit(parse_submit_request(body)))

    def orders(self, request: web.Request) -> object:
        query = parse_order_query(request.query)
        return [self._order_view(o, nested=query.nested) for o in list_orders(self._exchange, query)]

    def order(self, request: web.Request) -> object:
        order = self._exchange.find_order(parse_uuid(request.match_info["order_id"]))
        return self._order_view(order, nested=parse_bool(request.query.get("nested")))

    def order_by_client_id(self, request: web.Request) -> object:
        client_order_id = request.query.get("client_order_id")
        if not client_order_id:
            raise ApiError(422, BAD_PARAMETER, "client_order_id is missing")
        return self._order_view(self._exchange.find_order_by_client_id(client_order_id), nested=False)

    def replace(self, request: web.Request, body: JsonObject) -> object:
        order_id = parse_uuid(request.match_info["order_id"])
        return self._order_view(self._exchange.replace(order_id, parse_replace_request(body)))

    def cancel(self, request: web.Request) -> object:
        self._exchange.cancel(parse_uuid(request.match_info["order_id"]))
        return web.Response(status=204)

    def cancel_all(self, _: web.Request) -> object:
        answers = self._exchange.cancel_all()
        rows = [
            {"id": order_id, "status": 200, "body": self._order_view(order)} for order_id, order in answers
        ]
        return web.Response(status=207, body=encode_json(rows), content_type="application/json")

    def _order_view(self, order: Order, *, nested: bool = True) -> JsonObject:
        exchange = self._exchange
        return order_view(
            order,
            exchange.state.order_store,
            exchange.state.settings,
            nested=nested,
            visible_state=exchange.visible_state,
        )

    # ------------------------------------------------------------------ positions

    def positions(self, _: web.Request) -> object:
        return [self._position_view(position) for position in self._exchange.positions()]

    def position(self, request: web.Request) -> object:
        return self._position_view(self._exchange.position(self._symbol(request)))

    def close(self, request: web.Request) -> object:
        symbol = self._symbol(request)
        held = self._exchange.position(symbol).qty
        qty = closing_qty(held, request.query.get("qty"), request.query.get("percentage"))
        return self._order_view(self._exchange.close_position(symbol, qty))

    def close_all(self, request: web.Request) -> object:
        """Close all positions: cancel first if requested, without waiting; 207 with one item per attempt."""
        exchange = self._exchange
        rows: list[JsonObject] = []
        if parse_bool(request.query.get("cancel_orders")):
            for order_id, order in exchange.cancel_all():
                rows.append({"symbol": order_id, "status": 200, "body": self._order_view(order)})
            if not exchange.state.settings.liquidation_races:
                exchange.confirm_cancels()
        for position in exchange.positions():
            failed = exchange.state.faults.fire_matching(FaultKind.LIQUIDATE_FAIL, symbol=position.symbol)
            if failed is not None:
                message = failed.message or "Failed to liquidate"
                body: object = {"code": INTERNAL, "message": message}
                rows.append({"symbol": position.symbol, "status": 500, "body": body})
                continue
            try:
                order = exchange.close_position(position.symbol, related=True)
            except ApiError as refusal:
                rows.append({"symbol": position.symbol, "status": refusal.status, "body": refusal.body})
            else:
                rows.append({"symbol": position.symbol, "status": 200, "body": self._order_view(order)})
        return web.Response(status=207, body=encode_json(rows), content_type="application/json")

    def _symbol(self, request: web.Request) -> str:
        wanted = request.match_info["symbol"]
        asset = self._find_asset(wanted)
        return wanted.upper() if asset is None else asset.symbol

    def _position_view(self, position: Position) -> JsonObject:
        exchange = self._exchange
        asset = exchange.state.market.assets()[position.symbol]
        closed = exchange.state.hours.previous_session(exchange.state.now)
        last = exchange.state.market.last_print(position.symbol, closed.close) if closed else None
        yesterday: Decimal | None = None if last is None else last.price
        return position_view(
            position, asset, exchange.state.mark_price, yesterday, exchange.held_for_orders(position)
        )
