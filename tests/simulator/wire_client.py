"""A customer who knows the exchange by its wire alone: he sends, looks up and listens; the market is the test's."""

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

type_row = dict[str, Any]

LEGS = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
BRACKET = {"order_class": "bracket", **LEGS}
OCO = {"order_class": "oco", **LEGS}
OTO = {"order_class": "oto", "stop_loss": {"stop_price": "95"}}


class WireClient:
    """Orders as JSON, answers as JSON, events from the socket; prices are printed on the tape by hand."""

    def __init__(self, served: ServedExchange) -> None:
        self.served = served
        self.received: list[type_row] = []

    # ------------------------------------------------------------------ asking

    async def request(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Status and parsed body of one request."""
        answer = await self.served.request(method, path, **more)
        return answer.status_code, orjson.loads(answer.content) if answer.content else None

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
        """An order that is taken, as the answer shows it."""
        status, row = await self.post_order(side, qty, symbol, kind, **more)
        assert status == 200, row
        taken: type_row = row
        return taken

    async def expect_rejection(
        self, side: str, qty: object, symbol: str = "AAPL", kind: str = "market", **more: Any
    ) -> tuple[int, type_row]:
        """Status and body of a refusal; nothing may have been stored."""
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
        """The order as it is now, its legs inside it."""
        found: type_row = await self.get(f"/v2/orders/{row['id']}?nested=true")
        return found

    async def order_status(self, row: type_row) -> str:
        return str((await self.get_order(row))["status"])

    async def order_legs(self, row: type_row) -> tuple[type_row, type_row]:
        """The target and the stop of a bracket."""
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
        """The signed quantity of the position page; "0" when there is none."""
        rows = await self.get("/v2/positions")
        return next((row["qty"] for row in rows if row["symbol"] == symbol), "0")

    async def buying_power(self) -> Decimal:
        return Decimal((await self.get("/v2/account"))["buying_power"])

    async def assert_audit_clean(self) -> None:
        """The exchange's own audit has nothing to say."""
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
        """Buy and be done, or sell short for a negative quantity."""
        row = await self.submit("buy" if qty > 0 else "sell", abs(qty), symbol)
        await self.advance()
        assert await self.position_qty(symbol) == str(qty)
        return row

    # ------------------------------------------------------------------ listening

    async def events(self, row: type_row | None = None) -> list[str]:
        """The events told so far, of one order or of all."""
        return [each["event"] for each in await self.updates(row)]

    async def updates(self, row: type_row | None = None) -> list[type_row]:
        """The messages of those events."""
        async with asyncio.timeout(10):
            while len(self.received) < self.served.server.frames_sent:  # noqa: ASYNC110 - another task's list
                await asyncio.sleep(0.001)
        return [each for each in self.received if row is None or each["order"]["id"] == row["id"]]

    async def record_frames(self, frames: AsyncIterator[bytes]) -> None:
        async for frame in frames:
            self.received.append(orjson.loads(frame)["data"])


@asynccontextmanager
async def wire_client(start: datetime | None = None, **settings: Any) -> AsyncIterator[WireClient]:
    """A customer at a desk at eleven o'clock (or `start`), listening; `settings` are switches."""
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
