"""Client that knows the exchange only by its wire protocol: it sends, queries and receives. The test controls
the market."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from catalyst.simulator.rules.orders import OrderType
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.served_exchange import ServedExchange, serve_exchange, subscribed_socket
from tests.waiting import wait_until

type_row = dict[str, Any]

LEGS = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
BRACKET = {"order_class": "bracket", **LEGS}
OCO = {"order_class": "oco", **LEGS}
OTO = {"order_class": "oto", "stop_loss": {"stop_price": "95"}}


class WireClient:
    """Sends orders and reads responses as JSON, records events from the socket, adds prints to the manual
    feed."""

    def __init__(self, served: ServedExchange) -> None:
        self.served = served
        self.received: list[type_row] = []

    # ------------------------------------------------------------------ requests

    async def request(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Send a request and return status and parsed body."""
        response = await self.served.request(method, path, **more)
        return response.status_code, orjson.loads(response.content) if response.content else None

    async def get(self, path: str) -> Any:
        status, body = await self.request("GET", path)
        assert status == 200, body
        return body

    async def post_order(
        self, side: str, qty: object, symbol: str, kind: str, **more: Any
    ) -> tuple[int, Any]:
        order = {"symbol": symbol, "side": side, "qty": qty, "type": kind, "time_in_force": "day", **more}
        return await self.request("POST", "/v2/orders", json=order)

    async def submit(
        self, side: str, qty: object, symbol: str = "AAPL", kind: str = "market", **more: Any
    ) -> type_row:
        """Submit an order that must be accepted and return the response."""
        status, row = await self.post_order(side, qty, symbol, kind, **more)
        assert status == 200, row
        order: type_row = row
        return order

    async def expect_rejection(
        self, side: str, qty: object, symbol: str = "AAPL", kind: str = "market", **more: Any
    ) -> tuple[int, type_row]:
        """Return status and body of a rejection; check that nothing is stored."""
        before = await self.get("/v2/orders?status=all&limit=500")
        status, body = await self.post_order(side, qty, symbol, kind, **more)
        assert status >= 400, body
        assert await self.get("/v2/orders?status=all&limit=500") == before
        return status, body

    async def submit_bracket(self, qty: object = 100, symbol: str = "AAPL", **more: Any) -> type_row:
        return await self.submit("buy", qty, symbol, **{**BRACKET, **more})

    async def submit_oco(self, qty: object, symbol: str = "AAPL", **more: Any) -> type_row:
        return await self.submit("sell", qty, symbol, "limit", **{**OCO, **more})

    async def get_order(self, row: type_row) -> type_row:
        """Read the order with its legs nested."""
        order: type_row = await self.get(f"/v2/orders/{row['id']}?nested=true")
        return order

    async def order_status(self, row: type_row) -> str:
        return str((await self.get_order(row))["status"])

    async def order_legs(self, row: type_row) -> tuple[type_row, type_row]:
        """Return the target and the stop of a bracket."""
        legs = (await self.get_order(row))["legs"]
        target = next(leg for leg in legs if leg["type"] == OrderType.LIMIT)
        return target, next(leg for leg in legs if leg is not target)

    async def leg_statuses(self, row: type_row) -> tuple[str, str]:
        target, stop = await self.order_legs(row)
        return target["status"], stop["status"]

    async def cancel(self, row: type_row) -> tuple[int, Any]:
        return await self.request("DELETE", f"/v2/orders/{row['id']}")

    async def replace(self, row: type_row, **changes: Any) -> tuple[int, Any]:
        return await self.request("PATCH", f"/v2/orders/{row['id']}", json=changes)

    async def position_qty(self, symbol: str = "AAPL") -> str:
        """Return the signed quantity of the position, "0" without one."""
        rows = await self.get("/v2/positions")
        return next((row["qty"] for row in rows if row["symbol"] == symbol), "0")

    async def buying_power(self) -> Decimal:
        return Decimal((await self.get("/v2/account"))["buying_power"])

    async def assert_audit_clean(self) -> None:
        """Check that the exchange's own audit finds no problem."""
        assert (await self.get("/admin/audit"))["problems"] == []

    # ------------------------------------------------------------------ time, the market, the admin API

    async def advance(self, seconds: float = 1.0) -> None:
        await self.served.advance(seconds)

    async def advance_to(self, at: datetime) -> None:
        self.served.server.publish_changes()
        await self.served.clock.advance_to(at)

    async def print_trade(self, price: str, symbol: str = "AAPL", size: int = 100_000) -> None:
        await self.served.print_trade(symbol, price, size)

    def set_quote(self, bid: str, ask: str, symbol: str = "AAPL") -> None:
        self.served.scenario.feed.quotes[symbol] = (bid, ask)

    async def change_settings(self, **settings: Any) -> None:
        await self.served.post_admin("settings", **settings)

    async def add_fault(self, kind: str, **rule: Any) -> type_row:
        fault: type_row = await self.served.post_admin("faults", kind=kind, **rule)
        return fault

    async def given_position(self, qty: int, symbol: str = "AAPL") -> type_row:
        """Open a position with a filled market order; a negative quantity sells short."""
        row = await self.submit("buy" if qty > 0 else "sell", abs(qty), symbol)
        await self.advance()
        assert await self.position_qty(symbol) == str(qty)
        return row

    # ------------------------------------------------------------------ trade updates

    async def events(self, row: type_row | None = None) -> list[str]:
        """Return the trade update events received so far, of one order or of all."""
        return [each["event"] for each in await self.updates(row)]

    async def updates(self, row: type_row | None = None) -> list[type_row]:
        """Return the messages of those events."""
        await wait_until(lambda: len(self.received) >= self.served.server.frames_sent)
        return [each for each in self.received if row is None or each["order"]["id"] == row["id"]]

    async def record_frames(self, frames: AsyncIterator[bytes]) -> None:
        async for frame in frames:
            self.received.append(orjson.loads(frame)["data"])


@asynccontextmanager
async def wire_client(start: datetime | None = None, **settings: Any) -> AsyncIterator[WireClient]:
    """Connect a client to an exchange at 11:00 (or `start`), subscribed to trade updates; `settings` are
    exchange settings."""
    async with (
        serve_exchange(scenario=ExchangeScenario(start)) as served,
        subscribed_socket(served.server) as socket,
    ):
        client = WireClient(served)
        reader = asyncio.ensure_future(client.record_frames(aiter(socket)))
        if settings:
            await client.change_settings(**settings)
        try:
            yield client
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
