"""Behaviours 46 to 51: a failed response does not show whether the request was executed; a restart loses
nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from catalyst.simulator.rules.orders import OrderRole, OrderStatus
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.served_exchange import ORDER, HeldRequest, serve_exchange
from tests.simulator.wire_client import WireClient, wire_client
from tests.waiting import wait_until

READ_PATHS = (
    "/v2/orders?status=all&nested=true",
    "/v2/positions",
    "/v2/account/activities",
    "/v2/account",
    "/admin/audit",
)


type_request_spec = tuple[str, str, dict[str, Any] | None]


class FaultScenario:
    """A position, a resting order, and every request that changes them."""

    def __init__(self, client: WireClient, resting: str) -> None:
        self.client = client
        self.resting = resting

    def request_specs(self) -> dict[str, type_request_spec]:
        """Return method, path and body of each endpoint that changes state."""
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

    async def send_request(self, action: str) -> requests.Response:
        method, path, body = self.request_specs()[action]
        return await self.client.served.request(method, path, json=body)

    async def start_held_request(self, action: str) -> HeldRequest:
        """Send the request and return once a fault rule has applied to it."""
        method, path, body = self.request_specs()[action]
        return await self.client.served.start_held_request(method, path, json=body)

    async def add_fault(self, action: str, kind: str, **more: Any) -> None:
        """Inject a fault into the next request of this action only."""
        method, path, _ = self.request_specs()[action]
        await self.client.add_fault(kind, method=method, route=path, **more)

    async def was_executed(self, action: str) -> bool:
        """Return whether the exchange executed the action, regardless of its response."""
        c = self.client
        match action:
            case "submit":
                return (await c.request("GET", "/v2/orders:by_client_order_id?client_order_id=lost"))[
                    0
                ] == 200
            case "replace" | "cancel" | "cancel all":
                pending_status = "pending_replace" if action == "replace" else "pending_cancel"
                return await c.order_status({"id": self.resting}) == pending_status
            case "configure":
                return bool((await c.get("/v2/account/configurations"))["no_shorting"])
            case _:
                return (await c.get("/v2/positions"))[0]["qty_available"] == "0"


@asynccontextmanager
async def fault_scenario() -> AsyncIterator[FaultScenario]:
    """Start with ten AAPL and a resting MSFT buy limit below the market."""
    async with wire_client() as c:
        await c.given_position(10)
        resting = await c.submit("buy", 1, "MSFT", "limit", limit_price="280")
        await c.advance()
        yield FaultScenario(c, resting["id"])


ACTIONS = ("submit", "replace", "cancel", "cancel all", "close", "close all", "configure")


@pytest.mark.promise("B46")
@pytest.mark.parametrize("action", ACTIONS)
async def test_hanging_response_hides_an_executed_request(action: str) -> None:
    """On every endpoint that changes state, the client gets no response and the request was executed."""
    async with fault_scenario() as scenario:
        await scenario.add_fault(action, "hang")
        hanging = await scenario.start_held_request(action)
        assert await scenario.was_executed(action)
        assert await hanging.is_held()


@pytest.mark.promise("B46")
async def test_order_with_a_hanging_response_is_found_by_client_order_id() -> None:
    """A second POST is rejected because the first order exists."""
    async with fault_scenario() as scenario:
        await scenario.add_fault("submit", "hang")
        hanging = await scenario.start_held_request("submit")
        second = await scenario.send_request("submit")
        assert (second.status_code, second.json()["message"]) == (422, "client_order_id must be unique")
        [order] = await scenario.client.get("/v2/orders?symbols=TSLA&status=all")
        assert order["client_order_id"] == "lost"
        assert await hanging.is_held()


@pytest.mark.promise("B47")
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("kind", "executed"), [("drop", True), ("drop_before", False)])
async def test_dropped_connection_hides_whether_the_request_was_executed(
    action: str, kind: str, executed: bool
) -> None:
    """Both faults look alike to the client; only one of them executed the request."""
    async with fault_scenario() as scenario:
        await scenario.add_fault(action, kind)
        with pytest.raises(requests.exceptions.ConnectionError):
            await scenario.send_request(action)
        assert await scenario.was_executed(action) is executed


@pytest.mark.promise("B48")
@pytest.mark.parametrize("action", ACTIONS)
async def test_504_may_hide_an_executed_request(action: str) -> None:
    """The client gets the proxy's page although the request was executed."""
    async with fault_scenario() as scenario:
        await scenario.add_fault(action, "status", status=504)
        response = await scenario.send_request(action)
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (504, "text/html")
        assert await scenario.was_executed(action)


@pytest.mark.promise("B49")
@pytest.mark.parametrize("action", ACTIONS)
async def test_504_may_hide_an_unexecuted_request(action: str) -> None:
    """The client gets the proxy's page and the request was not executed."""
    async with fault_scenario() as scenario:
        await scenario.add_fault(action, "status_before", status=504)
        response = await scenario.send_request(action)
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (504, "text/html")
        assert not await scenario.was_executed(action)


@pytest.mark.promise("B49")
async def test_504_may_hide_a_rejection() -> None:
    """The exchange rejects the order but the client does not receive the reason. No order exists and its id
    is still free."""
    async with fault_scenario() as scenario:
        await scenario.add_fault("submit", "status", status=504)
        invalid_order = {**ORDER, "symbol": "TSLA", "qty": 0, "client_order_id": "lost"}
        response = await scenario.client.served.request("POST", "/v2/orders", json=invalid_order)
        assert response.status_code == 504
        assert not await scenario.was_executed("submit")
        assert (await scenario.send_request("submit")).status_code == 200


@pytest.mark.promise("B50")
async def test_server_and_proxy_errors_have_their_status_and_body() -> None:
    """A 500 has the API's message, 502 and 503 are HTML; also a 200 with HTML, truncated JSON, a 401 and a
    429."""
    async with serve_exchange() as served:
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
            await served.post_admin("faults", kind=kind, route="/v2/account", status=status)
            response = await served.request("GET", "/v2/account")
            assert response.status_code == status, kind
            if status == 500:
                assert response.json() == {"code": 50010000, "message": "internal server error occurred"}
            elif kind in {"status_before", "html", "html_before"}:
                assert response.text.startswith("<html>")
            elif kind == "garble":
                assert response.text.startswith("{")
                with pytest.raises(requests.exceptions.JSONDecodeError):
                    response.json()
        assert (await served.request("GET", "/v2/account")).status_code == 200


@pytest.mark.promise("B50")
async def test_slow_response_takes_market_time() -> None:
    """The response takes 30 seconds of market time and no real time."""
    async with serve_exchange() as served:
        await served.post_admin("faults", kind="slow", route="/v2/account", seconds=30)
        pending_response = asyncio.ensure_future(served.request("GET", "/v2/account"))
        rules = served.server.exchange.state.faults.rules
        await wait_until(lambda: any(fault.fired for fault in rules.values()))
        started_at = served.clock.now()
        await served.advance(29)
        assert not pending_response.done()
        await served.advance(1)
        assert (await pending_response).status_code == 200
        assert served.clock.now() - started_at == timedelta(seconds=30)


@pytest.mark.promise("B51")
async def test_exchange_restart_keeps_orders_ids_positions_and_executions(tmp_path: Path) -> None:
    """After a restart every response is equal, used client order ids stay used, and the bracket still
    protects."""
    async with serve_exchange(state=tmp_path) as served:
        order = served.scenario.submit_bracket(10, client_order_id="ours-1")
        served.scenario.submit("buy", 5, "MSFT", "limit", limit_price="280")
        await served.advance()
        before = {path: (await served.request("GET", path)).json() for path in READ_PATHS}
        scenario = served.scenario
    restarted = ExchangeScenario()
    restarted.feed.prints_by_symbol = scenario.feed.prints_by_symbol
    async with serve_exchange(state=tmp_path, scenario=restarted) as served:
        after = {path: (await served.request("GET", path)).json() for path in READ_PATHS}
        assert after == before
        response = await served.request("POST", "/v2/orders", json={**ORDER, "client_order_id": "ours-1"})
        assert response.json()["message"] == "client_order_id must be unique"
        await served.print_trade("AAPL", "94")
        stop = restarted.leg(restarted.exchange.find_order(order.id), OrderRole.STOP)
        assert stop.status is OrderStatus.FILLED
        ids = [execution.id for execution in restarted.exchange.state.executions]
        assert len(ids) == len(set(ids)) == 2
        restarted.assert_audit_clean()
