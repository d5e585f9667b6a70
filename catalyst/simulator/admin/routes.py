"""Admin API: audit, logs, faults, settings, halts, market overrides, trades and orders of the operator.

It serves only the loopback interface and needs no keys.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from decimal import Decimal
from functools import partial

from aiohttp import web

from catalyst.clock import Clock
from catalyst.simulator.admin.audit import audit
from catalyst.simulator.admin.clock import clock_view, set_clock
from catalyst.simulator.admin.market import (
    announce_luld_bands,
    apply_market_action,
    parse_halt_reason,
    parse_symbol,
)
from catalyst.simulator.data_api.params import Entitlements
from catalyst.simulator.data_stream.server import DataStreams
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.views import fill_activity_view, order_view
from catalyst.simulator.faults.rules import parse_fault
from catalyst.simulator.faults.schedule import parse_schedule
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    NOT_FOUND,
    UNPROCESSABLE,
    ApiError,
    JsonObject,
    check_names,
    format_decimal,
    parse_amount,
    parse_bool,
    require_number,
)
from catalyst.simulator.trading_api.middleware import RequestMiddleware
from catalyst.simulator.trading_api.order_parsing import parse_submit_request
from catalyst.simulator.trading_api.responses import read_json_body, to_response, without_body
from catalyst.simulator.trading_api.trade_updates import TradeUpdateStreams

PostHandler = Callable[[JsonObject], object]


class AdminApi:
    """The routes under /admin."""

    def __init__(
        self, exchange: Exchange, clock: Clock, middleware: RequestMiddleware, streams: TradeUpdateStreams
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._middleware = middleware
        self._streams = streams

    def mount(self, app: web.Application) -> None:
        """Add every route to the application."""
        get_routes = {
            "/admin/audit": lambda _: audit(self._exchange.state).view(),
            "/admin/logs": self.logs,
            "/admin/state": self.state,
            "/admin/clock": self.clock,
            "/admin/faults": self.faults,
            "/admin/settings": lambda _: settings_view(self._exchange),
            "/admin/unprotected": lambda _: self._exchange.state.unprotected_time.totals(
                self._exchange.state.now
            ),
        }
        for path, handler in get_routes.items():
            app.router.add_get(path, without_body(handler))
        for path in ("/", "/admin"):
            app.router.add_get(path, without_body(lambda _: route_index(app)))
        app.router.add_delete("/admin/faults", without_body(self.remove_faults))
        post_routes: dict[str, PostHandler] = {
            "/admin/faults": self.add_faults,
            "/admin/settings": self.update_settings,
            "/admin/halt": self.halt,
            "/admin/resume": self.resume,
            "/admin/luld": lambda body: announce_luld_bands(self._exchange, body),
            "/admin/order": self.submit_order,
            "/admin/cancel": self.cancel_order,
            "/admin/account": self.update_account,
            "/admin/deposit": self.deposit,
            "/admin/stream": self.control_stream,
            "/admin/clock": self.set_clock,
        }
        for path, act in post_routes.items():
            app.router.add_post(path, self._with_body(act))

    def mount_data(self, app: web.Application, entitlements: Entitlements, streams: DataStreams) -> None:
        """Add the control of the market data API: entitlements, limits, silent sockets."""

        def data(body: JsonObject) -> object:
            check_names(
                body,
                "recent_sip",
                "url_limit",
                "name_changes",
                "mute",
                "connection_limit",
                "symbol_limit",
                "queue_bytes",
            )
            entitlements.recent_sip = parse_bool(body.get("recent_sip"), default=entitlements.recent_sip)
            entitlements.url_limit = int(
                parse_amount(body.get("url_limit"), "url_limit") or entitlements.url_limit
            )
            changes = body.get("name_changes", entitlements.name_changes)
            if not isinstance(changes, dict):
                raise ApiError(422, BAD_PARAMETER, "name_changes must be an object: old symbol, new symbol")
            entitlements.name_changes = {str(old): str(new) for old, new in changes.items()}
            streams.sending_stopped = parse_bool(body.get("mute"), default=streams.sending_stopped)
            if body.get("connection_limit") is not None:
                streams.connection_limit = int(require_number(body["connection_limit"], "connection_limit"))
            streams.max_queued_bytes = int(
                parse_amount(body.get("queue_bytes"), "queue_bytes") or streams.max_queued_bytes
            )
            if "symbol_limit" in body:
                limit = parse_amount(body["symbol_limit"], "symbol_limit")
                streams.symbol_limit = None if limit is None else int(limit)
            return {
                "recent_sip": entitlements.recent_sip,
                "url_limit": entitlements.url_limit,
                "name_changes": entitlements.name_changes,
                "mute": streams.sending_stopped,
                "connection_limit": streams.connection_limit,
                "symbol_limit": streams.symbol_limit,
                "queue_bytes": streams.max_queued_bytes,
            }

        app.router.add_post("/admin/data", self._with_body(data))

    def mount_market(self, app: web.Application, market: OverriddenMarket) -> None:
        """Add the market overrides: gap, trade, quote, stop_feed, resume_feed, late_trade, cancel_trade,
        correct_trade."""
        act = partial(apply_market_action, market, self._exchange)
        app.router.add_post("/admin/market", self._with_body(act))

    def _with_body(self, act: PostHandler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            return to_response(act(await read_json_body(request)))

        return respond

    # ------------------------------------------------------------------ queries

    def logs(self, request: web.Request) -> object:
        """Return requests and executions; `method`, `path` (a prefix) and `symbol` filter the requests."""
        query = request.query
        check_names(query.keys(), "method", "path", "symbol")
        rows = [
            entry.view()
            for entry in self._middleware.request_log
            if entry.method == query.get("method", entry.method)
            and entry.path.startswith(query.get("path", ""))
            and (not query.get("symbol") or entry.symbol == query.get("symbol"))
        ]
        orders = [
            {
                **order_view(
                    order, self._exchange.state.order_store, self._exchange.state.settings, nested=False
                ),
                "parent_id": order.parent_id,
                "role": order.role.value,
                "placed_by": order.source,
            }
            for order in self._exchange.state.order_store.orders.values()
        ]
        executions = [
            {
                **fill_activity_view(execution),
                "execution_id": execution.id,
                "client_order_id": execution.client_order_id,
                "position_qty": format_decimal(execution.position_qty),
                "closing": execution.closing,
            }
            for execution in self._exchange.state.executions
        ]
        return {"requests": rows, "orders": orders, "executions": executions}

    def state(self, _: web.Request) -> object:
        """Return a summary of the exchange."""
        exchange = self._exchange
        return {
            "now": exchange.state.now.isoformat(),
            "open": exchange.state.hours.is_open(exchange.state.now),
            "cash": format_decimal(exchange.state.account.cash),
            "equity": format_decimal(exchange.state.account.equity(exchange.state.mark_price)),
            "positions": {
                s: format_decimal(p.qty) for s, p in sorted(exchange.state.account.positions.items())
            },
            "orders": len(exchange.state.order_store.orders),
            "open_orders": len(exchange.state.order_store.live()),
            "executions": len(exchange.state.executions),
            "requests": len(self._middleware.request_log),
            "halted": sorted(exchange.state.halted),
            "faults_fired": exchange.state.faults.fired,
            "connections": self._streams.connection_count,
            "frames_sent": self._streams.frames_sent,
        }

    def clock(self, _: web.Request) -> object:
        return clock_view(self._exchange, self._clock)

    def set_clock(self, body: JsonObject) -> object:
        """Set the pace, advance or jump; everything in between happens before the response."""
        set_clock(self._clock, body)
        self._exchange.venue.advance(self._clock.now())
        return clock_view(self._exchange, self._clock)

    def faults(self, _: web.Request) -> object:
        return [asdict(fault) for fault in self._exchange.state.faults.rules.values()]

    # ------------------------------------------------------------------ actions

    def add_faults(self, body: JsonObject) -> object:
        """Add one rule; or, under `random`, a rule per kind that fires by probability."""
        if "random" in body:
            return [
                asdict(rule)
                for rule in self._exchange.state.faults.add_schedule(parse_schedule(body["random"]))
            ]
        return asdict(self._exchange.state.faults.add(parse_fault(body)))

    def remove_faults(self, request: web.Request) -> object:
        check_names(request.query.keys(), "id")
        asked = request.query.get("id")
        if asked is not None and asked not in self._exchange.state.faults.rules:
            raise ApiError(404, NOT_FOUND, f"no fault rule {asked}")
        self._exchange.state.faults.remove(asked)
        return []

    def update_settings(self, body: JsonObject) -> object:
        listed = self._exchange.state.market.assets()
        borrowed = body.get("hard_to_borrow")
        for symbol in borrowed if isinstance(borrowed, list) else ():
            if symbol not in listed:
                raise ApiError(422, UNPROCESSABLE, f'asset "{symbol}" not found')
        self._exchange.state.settings.update(body)
        return settings_view(self._exchange)

    def halt(self, body: JsonObject) -> object:
        check_names(body, "symbol", "reason")
        self._exchange.state.halt(parse_symbol(body, self._exchange), parse_halt_reason(body))
        return sorted(self._exchange.state.halted)

    def resume(self, body: JsonObject) -> object:
        check_names(body, "symbol")
        self._exchange.venue.resume(parse_symbol(body, self._exchange))
        return sorted(self._exchange.state.halted)

    def submit_order(self, body: JsonObject) -> object:
        """Submit an order of a person or of the broker: the client did not request it."""
        order = self._exchange.submit(parse_submit_request(body), source="manual")
        return order_view(order, self._exchange.state.order_store, self._exchange.state.settings, nested=True)

    def cancel_order(self, body: JsonObject) -> object:
        """Cancel an order without a request of the client."""
        check_names(body, "id")
        order = self._exchange.cancel(str(body.get("id")))
        return order_view(order, self._exchange.state.order_store, self._exchange.state.settings, nested=True)

    def update_account(self, body: JsonObject) -> object:
        """Block or unblock the account, or change its multiplier."""
        check_names(body, "trading_blocked", "account_blocked", "status", "multiplier")
        account = self._exchange.state.account
        account.trading_blocked = parse_bool(body.get("trading_blocked"), default=account.trading_blocked)
        account.account_blocked = parse_bool(body.get("account_blocked"), default=account.account_blocked)
        account.status = str(body.get("status", account.status))
        account.multiplier = int(parse_amount(body.get("multiplier"), "multiplier") or account.multiplier)
        self._exchange.state.unsaved_changes = True
        return {"status": account.status, "multiplier": account.multiplier}

    def deposit(self, body: JsonObject) -> object:
        check_names(body, "amount")
        self._exchange.deposit(require_number(body.get("amount"), "amount"))
        return {"cash": format_decimal(self._exchange.state.account.cash)}

    def control_stream(self, body: JsonObject) -> object:
        """Apply disconnect, mute or half_open to every open trade_updates connection."""
        check_names(body, "act", *(("code",) if body.get("act") == "disconnect" else ()))
        match body.get("act"):
            case "disconnect":
                self._streams.disconnect(int(parse_amount(body.get("code"), "code") or Decimal(1011)))
            case "mute":
                self._streams.stop_sending()
            case "half_open":
                self._streams.stop_reading()
            case other:
                raise ApiError(
                    422, BAD_PARAMETER, f"unknown act: {other}; there are disconnect, half_open, mute"
                )
        return {"connections": self._streams.connection_count}


def route_index(app: web.Application) -> JsonObject:
    """Return the list of all routes, for a client that has only the address."""
    routes: dict[str, list[str]] = {}
    for route in app.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method not in {"HEAD", "*"} and route.method not in routes.setdefault(path, []):
            routes[path].append(route.method)
    return {
        "what": "an Alpaca-compatible exchange on this machine",
        "documents": ["docs/your-own-bot.md", "docs/simulator.md"],
        "keys": "headers APCA-API-KEY-ID and APCA-API-SECRET-KEY; none for /admin",
        "routes": dict(sorted(routes.items())),
    }


def settings_view(exchange: Exchange) -> JsonObject:
    """Return the settings as JSON."""
    shown: JsonObject = {}
    for name, value in asdict(exchange.state.settings).items():
        if isinstance(value, dict):
            shown[name] = [value["low"], value["high"]]
        elif isinstance(value, Decimal):
            shown[name] = format_decimal(value)
        else:
            shown[name] = sorted(value) if isinstance(value, set) else value
    return shown
