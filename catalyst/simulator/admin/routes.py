"""The operator's side door: audit, ledger, faults, switches, halts, trades and orders by hand.

Only the loopback interface is served, and no keys are asked.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from decimal import Decimal
from functools import partial

from aiohttp import web

from catalyst.clock import Clock
from catalyst.simulator.admin.audit import audit
from catalyst.simulator.admin.clock import clock_view, set_clock
from catalyst.simulator.admin.market import act_on_market, announce_bands, reason_of, symbol_of
from catalyst.simulator.data_api.params import Entitlements
from catalyst.simulator.data_stream.server import DataStreams
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.views import fill_view, order_view
from catalyst.simulator.faults.rules import fault_from
from catalyst.simulator.faults.schedule import schedule_from
from catalyst.simulator.market.overrides import HandledMarket
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, Refusal, amount, text_of, truth, type_json
from catalyst.simulator.trading_api.middleware import Transport
from catalyst.simulator.trading_api.order_parsing import read_order
from catalyst.simulator.trading_api.routes import body_of, number_of, plain, reply
from catalyst.simulator.trading_api.trade_updates import Streams

Act = Callable[[type_json], object]


class AdminApi:
    """The routes under /admin."""

    def __init__(self, exchange: Exchange, clock: Clock, transport: Transport, streams: Streams) -> None:
        self._exchange = exchange
        self._clock = clock
        self._transport = transport
        self._streams = streams

    def mount(self, app: web.Application) -> None:
        """Add every route to the application."""
        asks = {
            "/admin/audit": lambda _: audit(self._exchange).view(),
            "/admin/ledger": self.ledger,
            "/admin/state": self.state,
            "/admin/clock": self.clock,
            "/admin/faults": self.faults,
            "/admin/switches": lambda _: plain_switches(self._exchange),
            "/admin/exposure": lambda _: self._exchange.exposure.now(self._exchange.now),
        }
        for path, ask in asks.items():
            app.router.add_get(path, plain(ask))
        for path in ("/", "/admin"):
            app.router.add_get(path, plain(lambda _: index(app)))
        app.router.add_delete("/admin/faults", plain(self.heal))
        acts: dict[str, Act] = {
            "/admin/faults": self.break_,
            "/admin/switches": self.switch,
            "/admin/halt": self.halt,
            "/admin/resume": self.resume,
            "/admin/luld": lambda body: announce_bands(self._exchange, body),
            "/admin/order": self.order,
            "/admin/cancel": self.cancel,
            "/admin/account": self.account,
            "/admin/deposit": self.deposit,
            "/admin/stream": self.stream,
            "/admin/clock": self.set_clock,
        }
        for path, act in acts.items():
            app.router.add_post(path, self._reading(act))

    def mount_data(self, app: web.Application, entitlements: Entitlements, streams: DataStreams) -> None:
        """Add the switch of the market data half: what the subscription covers, limits, mute sockets."""

        def data(body: type_json) -> object:
            entitlements.recent_sip = truth(body.get("recent_sip"), default=entitlements.recent_sip)
            entitlements.url_limit = int(amount(body.get("url_limit"), "url_limit") or entitlements.url_limit)
            streams.mute = truth(body.get("mute"), default=streams.mute)
            if body.get("connection_limit") is not None:
                streams.connection_limit = int(number_of(body["connection_limit"], "connection_limit"))
            streams.queue_bytes = int(amount(body.get("queue_bytes"), "queue_bytes") or streams.queue_bytes)
            if "symbol_limit" in body:
                limit = amount(body["symbol_limit"], "symbol_limit")
                streams.symbol_limit = None if limit is None else int(limit)
            return {
                "recent_sip": entitlements.recent_sip,
                "url_limit": entitlements.url_limit,
                "mute": streams.mute,
                "connection_limit": streams.connection_limit,
                "symbol_limit": streams.symbol_limit,
                "queue_bytes": streams.queue_bytes,
            }

        app.router.add_post("/admin/data", self._reading(data))

    def mount_market(self, app: web.Application, market: HandledMarket) -> None:
        """Add the hand on the market: gap, trade, quote, stop, go_on, late_trade, cancel_trade, correct_trade."""
        act = partial(act_on_market, market, self._exchange)
        app.router.add_post("/admin/market", self._reading(act))

    def _reading(self, act: Act) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            return reply(act(await body_of(request)))

        return respond

    # ------------------------------------------------------------------ questions

    def ledger(self, request: web.Request) -> object:
        """Requests and executions; `method`, `path` (a prefix) and `symbol` narrow the requests."""
        query = request.query
        rows = [
            entry.view()
            for entry in self._transport.ledger
            if entry.method == query.get("method", entry.method)
            and entry.path.startswith(query.get("path", ""))
            and (not query.get("symbol") or entry.symbol == query.get("symbol"))
        ]
        orders = [
            {
                **order_view(order, self._exchange.book, self._exchange.switches, nested=False),
                "parent_id": order.parent_id,
                "role": order.role.value,
                "placed_by": order.source,
            }
            for order in self._exchange.book.orders.values()
        ]
        executions = [
            {
                **fill_view(execution),
                "execution_id": execution.id,
                "client_order_id": execution.client_order_id,
                "position_qty": text_of(execution.position_qty),
                "closing": execution.closing,
            }
            for execution in self._exchange.executions
        ]
        return {"requests": rows, "orders": orders, "executions": executions}

    def state(self, _: web.Request) -> object:
        """The exchange at a glance."""
        exchange = self._exchange
        return {
            "now": exchange.now.isoformat(),
            "open": exchange.hours.is_open(exchange.now),
            "cash": text_of(exchange.account.cash),
            "equity": text_of(exchange.account.equity(exchange.mark)),
            "positions": {s: text_of(p.qty) for s, p in sorted(exchange.account.positions.items())},
            "orders": len(exchange.book.orders),
            "open_orders": len(exchange.book.live()),
            "executions": len(exchange.executions),
            "requests": len(self._transport.ledger),
            "halted": sorted(exchange.halted),
            "faults_fired": exchange.faults.fired,
            "connections": self._streams.connections,
            "frames_sent": self._streams.frames_sent,
        }

    def clock(self, _: web.Request) -> object:
        return clock_view(self._exchange, self._clock)

    def set_clock(self, body: type_json) -> object:
        """Set the pace, go ahead or leap; what lies between happens before the answer."""
        set_clock(self._clock, body)
        self._exchange.advance(self._clock.now())
        return clock_view(self._exchange, self._clock)

    def faults(self, _: web.Request) -> object:
        return [asdict(fault) for fault in self._exchange.faults.faults.values()]

    # ------------------------------------------------------------------ acts

    def break_(self, body: type_json) -> object:
        """Put one rule in force; or, under `random`, a rule for each kind that fires by chance."""
        if "random" in body:
            return [asdict(rule) for rule in self._exchange.faults.follow(schedule_from(body["random"]))]
        return asdict(self._exchange.faults.add(fault_from(body)))

    def heal(self, request: web.Request) -> object:
        self._exchange.faults.remove(request.query.get("id"))
        return []

    def switch(self, body: type_json) -> object:
        self._exchange.switches.change(body)
        return plain_switches(self._exchange)

    def halt(self, body: type_json) -> object:
        self._exchange.halt(symbol_of(body), reason_of(body))
        return sorted(self._exchange.halted)

    def resume(self, body: type_json) -> object:
        self._exchange.resume(symbol_of(body))
        return sorted(self._exchange.halted)

    def order(self, body: type_json) -> object:
        """An order placed by a person, or by the broker's risk desk: the client never asked for it."""
        order = self._exchange.submit(read_order(body), source="manual")
        return order_view(order, self._exchange.book, self._exchange.switches, nested=True)

    def cancel(self, body: type_json) -> object:
        """A cancel by somebody else."""
        order = self._exchange.cancel(str(body.get("id")))
        return order_view(order, self._exchange.book, self._exchange.switches, nested=True)

    def account(self, body: type_json) -> object:
        """Block or unblock the account, or change its multiplier."""
        account = self._exchange.account
        account.trading_blocked = truth(body.get("trading_blocked"), default=account.trading_blocked)
        account.account_blocked = truth(body.get("account_blocked"), default=account.account_blocked)
        account.status = str(body.get("status", account.status))
        account.multiplier = int(amount(body.get("multiplier"), "multiplier") or account.multiplier)
        self._exchange.touched = True
        return {"status": account.status, "multiplier": account.multiplier}

    def deposit(self, body: type_json) -> object:
        self._exchange.deposit(number_of(body.get("amount"), "amount"))
        return {"cash": text_of(self._exchange.account.cash)}

    def stream(self, body: type_json) -> object:
        """Do something to every open trade_updates connection: disconnect, mute or half_open."""
        match body.get("act"):
            case "disconnect":
                self._streams.disconnect(int(amount(body.get("code"), "code") or Decimal(1011)))
            case "mute":
                self._streams.mute()
            case "half_open":
                self._streams.go_deaf()
            case other:
                raise Refusal(422, BAD_PARAMETER, f"unknown act: {other}")
        return {"connections": self._streams.connections}


def index(app: web.Application) -> type_json:
    """What answers here, for somebody who only has the address."""
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


def plain_switches(exchange: Exchange) -> type_json:
    """The switches as JSON."""
    shown: type_json = {}
    for name, value in asdict(exchange.switches).items():
        if isinstance(value, dict):
            shown[name] = [value["low"], value["high"]]
        elif isinstance(value, Decimal):
            shown[name] = text_of(value)
        else:
            shown[name] = sorted(value) if isinstance(value, set) else value
    return shown
