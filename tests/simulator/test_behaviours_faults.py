"""Behaviours 46 to 51: an answer says nothing certain about the order, and a restart forgets nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from catalyst.simulator.rules.orders import Role, Status
from tests.simulator.exchange_scenario import Desk
from tests.simulator.served_exchange import ORDER, wired
from tests.simulator.wire_client import Customer, customer

PATHS = (
    "/v2/orders?status=all&nested=true",
    "/v2/positions",
    "/v2/account/activities",
    "/v2/account",
    "/admin/audit",
)


type_deed = tuple[str, str, dict[str, Any] | None]


class Scene:
    """A position, a resting order, and every request that changes something about them."""

    def __init__(self, customer: Customer, resting: str) -> None:
        self.customer = customer
        self.resting = resting

    def deeds(self) -> dict[str, type_deed]:
        """Method, path and body of each endpoint that acts."""
        order = f"/v2/orders/{self.resting}"
        return {
            "submit": ("POST", "/v2/orders", {**ORDER, "symbol": "TSLA", "client_order_id": "lost"}),
            "replace": ("PATCH", order, {"limit_price": "279"}),
            "cancel": ("DELETE", order, None),
            "cancel all": ("DELETE", "/v2/orders", None),
            "close": ("DELETE", "/v2/positions/AAPL", None),
            "close all": ("DELETE", "/v2/positions", None),
            "configure": ("PATCH", "/v2/account/configurations", {"no_shorting": True}),
        }

    async def does(self, deed: str, **more: Any) -> requests.Response:
        method, path, body = self.deeds()[deed]
        return await self.customer.wire.http_(method, path, json=body, **more)

    async def breaks(self, deed: str, kind: str, **more: Any) -> None:
        """Let the next request of this deed go wrong, and no other."""
        method, path, _ = self.deeds()[deed]
        await self.customer.breaks(kind, method=method, route=path, **more)

    async def happened(self, deed: str) -> bool:
        """What the exchange did, whatever it said."""
        c = self.customer
        match deed:
            case "submit":
                return (await c.asks("GET", "/v2/orders:by_client_order_id?client_order_id=lost"))[0] == 200
            case "replace" | "cancel" | "cancel all":
                word = "pending_replace" if deed == "replace" else "pending_cancel"
                return await c.status({"id": self.resting}) == word
            case "configure":
                return bool((await c.gets("/v2/account/configurations"))["no_shorting"])
            case _:
                return (await c.gets("/v2/positions"))[0]["qty_available"] == "0"


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """Ten AAPL, and a bid for MSFT that waits below the market."""
    async with customer() as c:
        await c.holds(10)
        resting = await c.sends("buy", 1, "MSFT", "limit", limit_price="280")
        await c.passes()
        yield Scene(c, resting["id"])


DEEDS = ("submit", "replace", "cancel", "cancel all", "close", "close all", "configure")


@pytest.mark.parametrize("deed", DEEDS)
async def test_b46_a_request_may_be_accepted_and_the_answer_hang(deed: str) -> None:
    """On every endpoint that acts: the client times out, and what it asked for has been done, once."""
    async with scene() as desk:
        await desk.breaks(deed, "hang")
        with pytest.raises(requests.exceptions.ReadTimeout):
            await desk.does(deed, timeout=0.2)
        assert await desk.happened(deed)


async def test_b46_the_order_that_hung_is_found_by_its_client_id() -> None:
    """And sending it again is refused: it landed."""
    async with scene() as desk:
        await desk.breaks("submit", "hang")
        with pytest.raises(requests.exceptions.ReadTimeout):
            await desk.does("submit", timeout=0.2)
        again = await desk.does("submit")
        assert (again.status_code, again.json()["message"]) == (422, "client_order_id must be unique")
        [order] = await desk.customer.gets("/v2/orders?symbols=TSLA&status=all")
        assert order["client_order_id"] == "lost"


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize(("kind", "done"), [("drop", True), ("drop_before", False)])
async def test_b47_the_connection_may_break_after_or_before_the_deed(
    deed: str, kind: str, done: bool
) -> None:
    """Both look alike to the client; only one of them did something."""
    async with scene() as desk:
        await desk.breaks(deed, kind)
        with pytest.raises(requests.exceptions.ConnectionError):
            await desk.does(deed)
        assert await desk.happened(deed) is done


@pytest.mark.parametrize("deed", DEEDS)
async def test_b48_a_504_may_hide_a_deed(deed: str) -> None:
    """The proxy's page, and behind it everything was done."""
    async with scene() as desk:
        await desk.breaks(deed, "status", status=504)
        response = await desk.does(deed)
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (504, "text/html")
        assert await desk.happened(deed)


@pytest.mark.parametrize("deed", DEEDS)
async def test_b49_a_504_may_hide_nothing(deed: str) -> None:
    """The same page, and nobody ever heard the request."""
    async with scene() as desk:
        await desk.breaks(deed, "status_before", status=504)
        response = await desk.does(deed)
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (504, "text/html")
        assert not await desk.happened(deed)


async def test_b49_a_504_may_hide_a_refusal() -> None:
    """The exchange refused the order, and the client never reads why: nothing exists, and its id is still free."""
    async with scene() as desk:
        await desk.breaks("submit", "status", status=504)
        wrong = {**ORDER, "symbol": "TSLA", "qty": 0, "client_order_id": "lost"}
        response = await desk.customer.wire.http_("POST", "/v2/orders", json=wrong)
        assert response.status_code == 504
        assert not await desk.happened("submit")
        assert (await desk.does("submit")).status_code == 200


async def test_b50_errors_of_the_server_and_of_the_proxy() -> None:
    """500 in the API's words, 502 and 503 as HTML, a 200 with HTML, half a JSON document, a 401, a 429."""
    async with wired() as wire:
        for kind, status in (
            ("status_before", 500),
            ("status_before", 502),
            ("status_before", 503),
            ("html", 200),
            ("html_before", 502),
            ("garble", 200),
            ("unauthorized", 401),
            ("rate_limit", 429),
        ):
            await wire.admin("faults", kind=kind, route="/v2/account", status=status)
            response = await wire.http_("GET", "/v2/account")
            assert response.status_code == status, kind
            if status == 500:
                assert response.json() == {"code": 50010000, "message": "internal server error occurred"}
            elif kind in {"status_before", "html", "html_before"}:
                assert response.text.startswith("<html>")
            elif kind == "garble":
                assert response.text.startswith("{")
                with pytest.raises(requests.exceptions.JSONDecodeError):
                    response.json()
        assert (await wire.http_("GET", "/v2/account")).status_code == 200


async def test_b50_a_slow_answer_takes_market_time() -> None:
    """Thirty market seconds pass before it comes, and no real ones."""
    async with wired() as wire:
        await wire.admin("faults", kind="slow", route="/v2/account", seconds=30)
        asked = asyncio.ensure_future(wire.http_("GET", "/v2/account"))
        while not any(fault.fired for fault in wire.server.exchange.faults.faults.values()):  # noqa: ASYNC110 - a thread's request
            await asyncio.sleep(0.001)
        began = wire.clock.now()
        await wire.passes(29)
        assert not asked.done()
        await wire.passes(1)
        assert (await asked).status_code == 200
        assert wire.clock.now() - began == timedelta(seconds=30)


async def test_b51_a_restart_keeps_orders_ids_positions_and_executions(tmp_path: Path) -> None:
    """After it every answer is the same, client ids stay used, and the bracket still protects."""
    async with wired(state=tmp_path) as wire:
        order = wire.desk.bracket(10, client_order_id="ours-1")
        wire.desk.sends("buy", 5, "MSFT", "limit", limit_price="280")
        await wire.passes()
        before = {path: (await wire.http_("GET", path)).json() for path in PATHS}
        desk = wire.desk
    again = Desk()
    again.tape.tape = desk.tape.tape
    async with wired(state=tmp_path, desk=again) as wire:
        after = {path: (await wire.http_("GET", path)).json() for path in PATHS}
        assert after == before
        refused = await wire.http_("POST", "/v2/orders", json={**ORDER, "client_order_id": "ours-1"})
        assert refused.json()["message"] == "client_order_id must be unique"
        await wire.prints("AAPL", "94")
        stop = again.leg(again.exchange.find(order.id), Role.STOP)
        assert stop.status is Status.FILLED
        ids = [execution.id for execution in again.exchange.executions]
        assert len(ids) == len(set(ids)) == 2
        again.balanced()
