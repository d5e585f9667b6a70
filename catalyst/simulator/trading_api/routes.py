"""The trading REST API: each route reads its request, asks the exchange, and writes the answer."""

from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

import orjson
from aiohttp import web

from catalyst.clock import NEW_YORK, Clock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.positions import Position
from catalyst.simulator.exchange.views import (
    account_view,
    asset_view,
    calendar_view,
    configuration_view,
    order_view,
    position_view,
)
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.interface import Asset
from catalyst.simulator.rules.orders import Order
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    BAD_REQUEST,
    INTERNAL,
    NOT_FOUND,
    Refusal,
    amount,
    encode,
    identity,
    stamp,
    truth,
    type_json,
)
from catalyst.simulator.trading_api.activities import list_activities
from catalyst.simulator.trading_api.order_listing import list_orders, read_query
from catalyst.simulator.trading_api.order_parsing import closing_qty, read_order, read_replace
from catalyst.simulator.trading_api.portfolio_history import history_view, read_history

FAR: Final = date(2029, 12, 31)
Answer = Callable[[web.Request], object]


class TradingApi:
    """The routes of one exchange. Every request finds the exchange advanced to the present."""

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock

    def mount(self, app: web.Application) -> None:
        """Add every route to the application."""
        routes: dict[tuple[str, str], Answer] = {
            ("GET", "/v2/account"): self.account,
            ("GET", "/v2/account/configurations"): self.configuration,
            ("GET", "/v2/account/activities"): self.activities,
            ("GET", "/v2/account/activities/{kind}"): self.activities,
            ("GET", "/v2/account/portfolio/history"): self.history,
            ("GET", "/v2/clock"): self.clock,
            ("GET", "/v2/calendar"): self.calendar,
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
            app.router.add_route(method, path, plain(answer))
        app.router.add_route("POST", "/v2/orders", self._reading(self.submit))
        app.router.add_route("PATCH", "/v2/orders/{order_id}", self._reading(self.replace))
        app.router.add_route("PATCH", "/v2/account/configurations", self._reading(self.configure))

    def _reading(
        self, answer: Callable[[web.Request, type_json], object]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            return reply(answer(request, await body_of(request)))

        return respond

    # ------------------------------------------------------------------ account

    def account(self, _: web.Request) -> object:
        exchange = self._exchange
        return account_view(exchange.account, exchange.mark, exchange.book.reserved(), exchange.switches)

    def configuration(self, _: web.Request) -> object:
        return configuration_view(self._exchange.account, self._exchange.switches)

    def configure(self, _: web.Request, body: type_json) -> object:
        configuration = self._exchange.account.configuration
        for name, value in body.items():
            if name == "max_margin_multiplier":
                if str(value) not in {"1", "2", "4"}:
                    raise Refusal(422, BAD_PARAMETER, f"invalid max_margin_multiplier: {value}")
                configuration.max_margin_multiplier = str(value)
            elif name == "trade_confirm_email":
                configuration.trade_confirm_email = str(value)
            elif isinstance(getattr(configuration, name, None), bool):
                setattr(configuration, name, truth(value))
        self._exchange.touched = True
        return configuration_view(self._exchange.account, self._exchange.switches)

    def activities(self, request: web.Request) -> object:
        return list_activities(self._exchange, request.match_info.get("kind"), request.query)

    def history(self, request: web.Request) -> object:
        return history_view(self._exchange, read_history(self._exchange, request.query))

    # ------------------------------------------------------------------ clock, calendar, assets

    def clock(self, _: web.Request) -> object:
        exchange = self._exchange
        skew = exchange.faults.take(FaultKind.CLOCK_SKEW)
        now = self._clock.now() + timedelta(seconds=skew.seconds if skew else 0.0)
        running = exchange.hours.session_at(now)
        following = exchange.hours.next_session(now)
        closes = running or following
        return {
            "timestamp": stamp(now, local=True),
            "is_open": running is not None,
            "next_open": local_text(following.open) if following else None,
            "next_close": local_text(closes.close) if closes else None,
        }

    def calendar(self, request: web.Request) -> object:
        start = day_of(request.query.get("start"), date(2016, 1, 1))
        end = day_of(request.query.get("end"), FAR)
        sessions = self._exchange.market.sessions(start, end)
        after = self._exchange.market.sessions(end + timedelta(days=1), end + timedelta(days=10))
        following = [*sessions[1:], *after[:1]]
        return [
            calendar_view(session, following[i] if i < len(following) else None, self._exchange.switches)
            for i, session in enumerate(sessions)
        ]

    def assets(self, request: web.Request) -> object:
        status, exchange = request.query.get("status"), request.query.get("exchange")
        switches = self._exchange.switches
        if request.query.get("asset_class", "us_equity") not in {"us_equity", ""}:
            return []
        if request.query.get("attributes"):
            return []  # no listing here has any
        return [
            asset_view(asset, switches)
            for asset in self._exchange.market.assets().values()
            if (not status or asset.status == status) and (not exchange or asset.exchange == exchange)
        ]

    def asset(self, request: web.Request) -> object:
        wanted = request.match_info["symbol"]
        found = self._asset(wanted)
        if found is None:
            raise Refusal(404, NOT_FOUND, f"asset not found for {wanted}")
        return asset_view(found, self._exchange.switches)

    def _asset(self, wanted: str) -> Asset | None:
        assets = self._exchange.market.assets()
        found = assets.get(wanted.upper())
        if found is None and len(wanted) == 36:
            found = next((asset for asset in assets.values() if asset.id == wanted.lower()), None)
        return found

    # ------------------------------------------------------------------ orders

    def submit(self, _: web.Request, body: type_json) -> object:
        return self._shown(self._exchange.submit(read_order(body)))

    def orders(self, request: web.Request) -> object:
        query = read_query(request.query)
        return [self._shown(o, nested=query.nested) for o in list_orders(self._exchange, query)]

    def order(self, request: web.Request) -> object:
        order = self._exchange.find(identity(request.match_info["order_id"]))
        return self._shown(order, nested=truth(request.query.get("nested")))

    def order_by_client_id(self, request: web.Request) -> object:
        client_order_id = request.query.get("client_order_id")
        if not client_order_id:
            raise Refusal(422, BAD_PARAMETER, "client_order_id is missing")
        return self._shown(self._exchange.find_by_client_id(client_order_id), nested=False)

    def replace(self, request: web.Request, body: type_json) -> object:
        order_id = identity(request.match_info["order_id"])
        return self._shown(self._exchange.replace(order_id, read_replace(body)))

    def cancel(self, request: web.Request) -> object:
        self._exchange.cancel(identity(request.match_info["order_id"]))
        return web.Response(status=204)

    def cancel_all(self, _: web.Request) -> object:
        answers = self._exchange.cancel_all()
        rows = [{"id": order_id, "status": 200, "body": self._shown(order)} for order_id, order in answers]
        return web.Response(status=207, body=encode(rows), content_type="application/json")

    def _shown(self, order: Order, *, nested: bool = True) -> type_json:
        exchange = self._exchange
        return order_view(order, exchange.book, exchange.switches, nested=nested, seen=exchange.seen)

    # ------------------------------------------------------------------ positions

    def positions(self, _: web.Request) -> object:
        return [self._position_view(position) for position in self._exchange.positions()]

    def position(self, request: web.Request) -> object:
        return self._position_view(self._exchange.position(self._symbol(request)))

    def close(self, request: web.Request) -> object:
        symbol = self._symbol(request)
        held = self._exchange.position(symbol).qty
        qty = closing_qty(held, request.query.get("qty"), request.query.get("percentage"))
        return self._shown(self._exchange.close(symbol, qty))

    def close_all(self, request: web.Request) -> object:
        """Cancels first if asked, and does not wait for the cancels: 207 with one item for each attempt."""
        exchange = self._exchange
        rows: list[type_json] = []
        if truth(request.query.get("cancel_orders")):
            for order_id, order in exchange.cancel_all():
                rows.append({"symbol": order_id, "status": 200, "body": self._shown(order)})
            if not exchange.switches.liquidation_races:
                exchange.confirm_cancels()
        for position in exchange.positions():
            failed = exchange.faults.take(FaultKind.LIQUIDATE_FAIL, symbol=position.symbol)
            if failed is not None:
                message = failed.message or "Failed to liquidate"
                body: object = {"code": INTERNAL, "message": message}
                rows.append({"symbol": position.symbol, "status": 500, "body": body})
                continue
            try:
                order = exchange.close(position.symbol, related=True)
            except Refusal as refusal:
                rows.append({"symbol": position.symbol, "status": refusal.status, "body": refusal.body})
            else:
                rows.append({"symbol": position.symbol, "status": 200, "body": self._shown(order)})
        return web.Response(status=207, body=encode(rows), content_type="application/json")

    def _symbol(self, request: web.Request) -> str:
        wanted = request.match_info["symbol"]
        asset = self._asset(wanted)
        return wanted.upper() if asset is None else asset.symbol

    def _position_view(self, position: Position) -> type_json:
        exchange = self._exchange
        asset = exchange.market.assets()[position.symbol]
        closed = exchange.hours.previous(exchange.now)
        last = exchange.market.last_print(position.symbol, closed.close) if closed else None
        yesterday: Decimal | None = None if last is None else last.price
        return position_view(position, asset, exchange.mark, yesterday, exchange.held_for_orders(position))


def plain(answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A route that needs no body."""

    async def respond(request: web.Request) -> web.Response:
        return reply(answer(request))

    return respond


def reply(answer: object) -> web.Response:
    """A 200 with this JSON, or the response itself."""
    if isinstance(answer, web.Response):
        return answer
    return web.Response(body=encode(answer), content_type="application/json")


async def body_of(request: web.Request) -> type_json:
    """The request's JSON object. Raises Refusal (400)."""
    raw = await request.read()
    try:
        body = orjson.loads(raw) if raw else {}
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, BAD_REQUEST, "request body format is invalid")
    return body


def local_text(at: datetime) -> str:
    """New York time with its offset."""
    return at.astimezone(NEW_YORK).isoformat()


def day_of(text: str | None, default: date) -> date:
    """A day from a query. Raises Refusal (422)."""
    if not text:
        return default
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise Refusal(422, BAD_PARAMETER, f"invalid date: {text}") from None


def number_of(value: object, name: str) -> Decimal:
    """A number that must be there. Raises Refusal (422)."""
    number = amount(value, name)
    if number is None:
        raise Refusal(422, BAD_PARAMETER, f"{name} is required")
    return number
