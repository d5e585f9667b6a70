"""A customer who knows the exchange by its wire alone: he sends, looks up and listens; the market is the test's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from catalyst.simulator.rules.orders import OrderType
from tests.simulator.exchange_scenario import Desk
from tests.simulator.served_exchange import Wire, listening, wired

type_row = dict[str, Any]

LEGS = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
BRACKET = {"order_class": "bracket", **LEGS}
OCO = {"order_class": "oco", **LEGS}
OTO = {"order_class": "oto", "stop_loss": {"stop_price": "95"}}


class Customer:
    """Orders as JSON, answers as JSON, events from the socket; prices are printed on the tape by hand."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.told: list[type_row] = []

    # ------------------------------------------------------------------ asking

    async def asks(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Status and parsed body of one request."""
        answer = await self.wire.http_(method, path, **more)
        return answer.status_code, orjson.loads(answer.content) if answer.content else None

    async def gets(self, path: str) -> Any:
        status, body = await self.asks("GET", path)
        assert status == 200, body
        return body

    async def posts(self, side: str, qty: object, symbol: str, kind: str, **more: Any) -> tuple[int, Any]:
        order = {"symbol": symbol, "side": side, "qty": qty, "type": kind, "time_in_force": "day", **more}
        return await self.asks("POST", "/v2/orders", json=order)

    async def sends(
        self, side: str, qty: object, symbol: str = "AAPL", kind: str = "market", **more: Any
    ) -> type_row:
        """An order that is taken, as the answer shows it."""
        status, row = await self.posts(side, qty, symbol, kind, **more)
        assert status == 200, row
        taken: type_row = row
        return taken

    async def refused(
        self, side: str, qty: object, symbol: str = "AAPL", kind: str = "market", **more: Any
    ) -> tuple[int, type_row]:
        """Status and body of a refusal; nothing may have been stored."""
        before = await self.gets("/v2/orders?status=all&limit=500")
        status, body = await self.posts(side, qty, symbol, kind, **more)
        assert status >= 400, body
        assert await self.gets("/v2/orders?status=all&limit=500") == before
        return status, body

    async def bracket(self, qty: object = 100, symbol: str = "AAPL", **more: Any) -> type_row:
        return await self.sends("buy", qty, symbol, **{**BRACKET, **more})

    async def oco(self, qty: object, symbol: str = "AAPL", **more: Any) -> type_row:
        return await self.sends("sell", qty, symbol, "limit", **{**OCO, **more})

    async def sees(self, row: type_row) -> type_row:
        """The order as it is now, its legs inside it."""
        found: type_row = await self.gets(f"/v2/orders/{row['id']}?nested=true")
        return found

    async def status(self, row: type_row) -> str:
        return str((await self.sees(row))["status"])

    async def legs(self, row: type_row) -> tuple[type_row, type_row]:
        """The target and the stop of a bracket."""
        legs = (await self.sees(row))["legs"]
        target = next(leg for leg in legs if leg["type"] == OrderType.LIMIT)
        return target, next(leg for leg in legs if leg is not target)

    async def statuses(self, row: type_row) -> tuple[str, str]:
        target, stop = await self.legs(row)
        return target["status"], stop["status"]

    async def cancels(self, row: type_row) -> tuple[int, Any]:
        return await self.asks("DELETE", f"/v2/orders/{row['id']}")

    async def replaces(self, row: type_row, **changes: Any) -> tuple[int, Any]:
        return await self.asks("PATCH", f"/v2/orders/{row['id']}", json=changes)

    async def owns(self, symbol: str = "AAPL") -> str:
        """The signed quantity of the position page; "0" when there is none."""
        rows = await self.gets("/v2/positions")
        return next((row["qty"] for row in rows if row["symbol"] == symbol), "0")

    async def power(self) -> Decimal:
        return Decimal((await self.gets("/v2/account"))["buying_power"])

    async def balanced(self) -> None:
        """The exchange's own audit has nothing to say."""
        assert (await self.gets("/admin/audit"))["problems"] == []

    # ------------------------------------------------------------------ time, the market, the side door

    async def passes(self, seconds: float = 1.0) -> None:
        await self.wire.passes(seconds)

    async def until(self, at: datetime) -> None:
        self.wire.server.settle()
        await self.wire.clock.advance_to(at)

    async def prints(self, price: str, symbol: str = "AAPL", size: int = 100_000) -> None:
        await self.wire.prints(symbol, price, size)

    def quotes(self, bid: str, ask: str, symbol: str = "AAPL") -> None:
        self.wire.desk.tape.quotes[symbol] = (bid, ask)

    async def switches(self, **settings: Any) -> None:
        await self.wire.admin("switches", **settings)

    async def breaks(self, kind: str, **rule: Any) -> type_row:
        fault: type_row = await self.wire.admin("faults", kind=kind, **rule)
        return fault

    async def holds(self, qty: int, symbol: str = "AAPL") -> type_row:
        """Buy and be done, or sell short for a negative quantity."""
        row = await self.sends("buy" if qty > 0 else "sell", abs(qty), symbol)
        await self.passes()
        assert await self.owns(symbol) == str(qty)
        return row

    # ------------------------------------------------------------------ listening

    async def heard(self, row: type_row | None = None) -> list[str]:
        """The events told so far, of one order or of all."""
        return [each["event"] for each in await self.updates(row)]

    async def updates(self, row: type_row | None = None) -> list[type_row]:
        """The messages of those events."""
        async with asyncio.timeout(10):
            while len(self.told) < self.wire.server.frames_sent:  # noqa: ASYNC110 - another task's list
                await asyncio.sleep(0.001)
        return [each for each in self.told if row is None or each["order"]["id"] == row["id"]]

    async def listen(self, frames: AsyncIterator[bytes]) -> None:
        async for frame in frames:
            self.told.append(orjson.loads(frame)["data"])


@asynccontextmanager
async def customer(start: datetime | None = None, **settings: Any) -> AsyncIterator[Customer]:
    """A customer at a desk at eleven o'clock (or `start`), listening; `settings` are switches."""
    async with wired(desk=Desk(start)) as wire, listening(wire.server) as socket:
        someone = Customer(wire)
        ear = asyncio.ensure_future(someone.listen(aiter(socket)))
        if settings:
            await someone.switches(**settings)
        try:
            yield someone
        finally:
            ear.cancel()
            await asyncio.gather(ear, return_exceptions=True)
