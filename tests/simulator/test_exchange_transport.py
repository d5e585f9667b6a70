"""Request and response faults, fault rules, the request log and the admin API."""

import asyncio

import pytest

from catalyst.simulator.admin.audit import audit
from tests.simulator.served_exchange import KEYS, ORDER, post_order, serve_exchange
from tests.waiting import wait_until


async def test_request_faults_drop_or_delay_an_order() -> None:
    """A hanging request places no order; a delayed one places it after the delay."""
    async with serve_exchange() as served:
        await served.post_admin("faults", kind="hang_before", method="POST", route="/v2/orders")
        hanging = await served.start_held_request("POST", "/v2/orders", json=ORDER)
        assert await hanging.is_held()
        assert served.server.exchange.state.order_store.orders == {}
        rule = await served.post_admin(
            "faults", kind="slow_before", method="POST", route="/v2/orders", seconds=5
        )
        pending_request = asyncio.ensure_future(post_order(served))
        await wait_until(lambda: served.server.exchange.state.faults.rules[rule["id"]].fired)
        await served.advance(4)
        assert served.server.exchange.state.order_store.orders == {}
        await served.advance(1)
        assert (await pending_request).json()["submitted_at"] == "2026-03-09T15:00:05.000000000Z"


async def test_response_faults_change_fields_legs_or_age() -> None:
    """Faults remove fields, add unknown ones, omit legs, and return a stale or an empty list."""
    async with serve_exchange() as served:
        await served.post_admin(
            "faults", kind="remove_fields", route="/v2/account", fields=["equity", "status"]
        )
        assert not {"equity", "status"} & (await served.request("GET", "/v2/account")).json().keys()
        await served.post_admin("faults", kind="add_fields", route="/v2/account", text="x")
        assert (await served.request("GET", "/v2/account")).json()["unheard_of"] == "x"
        await served.post_admin("faults", kind="leg_omit", method="POST")
        body = {
            "order_class": "bracket",
            "take_profit": {"limit_price": 110},
            "stop_loss": {"stop_price": 95},
        }
        row = (await post_order(served, **body)).json()
        assert row["legs"] is None
        assert len((await served.request("GET", f"/v2/orders/{row['id']}?nested=true")).json()["legs"]) == 2
        assert (await served.request("GET", "/v2/positions")).json() == []
        await served.advance()
        await served.post_admin("faults", kind="stale", route="/v2/positions")
        assert (await served.request("GET", "/v2/positions")).json() == []
        assert len((await served.request("GET", "/v2/positions")).json()) == 1
        await served.post_admin("faults", kind="empty", route="/v2/positions")
        assert (await served.request("GET", "/v2/positions")).json() == []


async def test_exchange_remembers_a_bounded_number_of_bytes() -> None:
    """Of many different reads only the latest bodies are remembered, up to a limit; one that is too large is not. The
    request log cuts every text that a client chooses, and has one object for equal symbols and user agents."""
    async with serve_exchange() as served:
        bodies = served.server.middleware._last_bodies
        bodies._max_bytes = 2_000
        for number in range(60):
            await served.request("GET", f"/v2/account?number={number}")
        assert 0 < bodies.size <= 2_000
        assert "/v2/account?number=59" in bodies
        assert "/v2/account?number=0" not in bodies
        size = bodies.size
        await served.request("GET", f"/v2/account?symbols={'AAPL,' * 600}")
        assert bodies.size == size
        log = served.server.middleware.request_log
        await post_order(served, symbol="A" * 9_000, client_order_id="c" * 9_000)
        await served.request(
            "GET", f"/v2/account?symbols={'AAPL,' * 600}", headers={**KEYS, "User-Agent": "u" * 900}
        )
        for name in ("path", "query", "symbol", "client_order_id", "user_agent", "message"):
            assert max(len(getattr(entry, name) or "") for entry in log) <= 500, name
        assert log[-3].symbol is log[-1].symbol
        assert log[-3].user_agent is log[-2].user_agent


async def test_fault_rules_match_by_symbol_and_position_and_are_counted() -> None:
    """A rule matches a symbol, from the nth request, `count` times; each firing is counted, and DELETE
    removes the rules."""
    async with serve_exchange() as served:
        rule = await served.post_admin(
            "faults", kind="status_before", symbol="AAPL", method="POST", nth=2, count=2, status=500
        )
        codes = [(await post_order(served)).status_code for _ in range(4)]
        assert codes == [200, 500, 500, 200]
        assert (await post_order(served, symbol="MSFT")).status_code == 200
        active_rules = (await served.request("GET", "/admin/faults")).json()
        assert [(f["id"], f["fired"]) for f in active_rules] == [(rule["id"], 2)]
        assert (await served.request("DELETE", "/admin/faults")).json() == []
        assert (await served.request("POST", "/admin/faults", json={"kind": "nonsense"})).status_code == 422
        assert (
            await served.request("POST", "/admin/faults", json={"kind": "hang", "nonsense": 1})
        ).status_code == 422


@pytest.mark.parametrize(
    ("kind", "condition", "value"),
    [
        ("drop", "role", "entry"),
        ("drop", "event", "fill"),
        ("clock_skew", "route", "/v2/clock"),
        ("liquidate_fail", "side", "sell"),
        ("reject", "method", "POST"),
        ("partial", "event", "fill"),
        ("stream_drop", "route", "/stream"),
        ("stream_busy", "symbol", "AAPL"),
    ],
)
async def test_fault_rule_with_a_condition_it_never_meets_is_refused(
    kind: str, condition: str, value: str
) -> None:
    """A rule that could never fire is refused, with the name of its condition."""
    async with serve_exchange() as served:
        response = await served.request("POST", "/admin/faults", json={"kind": kind, condition: value})
        assert response.status_code == 422
        assert response.json()["message"] == f"unknown fault: a {kind} rule has no condition {condition}"
        assert served.server.exchange.state.faults.rules == {}


async def serve_silent_rules() -> None:
    """Serve an exchange with three rules: one never fires, one may stay silent, one fires."""
    async with serve_exchange() as served:
        await served.post_admin("faults", kind="drop", route="/v2/nowhere")
        await served.request("DELETE", "/admin/faults")
        await served.post_admin("faults", kind="drop", route="/v2/x", may_stay_silent="nobody reads /v2/x")
        await served.post_admin("faults", kind="rate_limit", route="/v2/account")
        assert (await served.request("GET", "/v2/account")).status_code == 429


async def test_silent_fault_rule_fails_its_test() -> None:
    """When a served exchange ends it fails if a rule never fired, also a removed one, unless the test says why it
    may stay silent."""
    with pytest.raises(AssertionError, match=r"never fired: drop route=/v2/nowhere nth=1 matched=0$"):
        await serve_silent_rules()


async def test_request_log_has_every_request_and_execution() -> None:
    """The log has rejected and failed requests too, with user agent and outcome."""
    async with serve_exchange() as served:
        await post_order(served, client_order_id="ours-1")
        await post_order(served, qty=0)
        await served.advance()
        await served.call(served.client.get_account)
        order_log = (await served.request("GET", "/admin/logs?method=POST&path=/v2/orders")).json()
        assert [(r["client_order_id"], r["status"], r["message"]) for r in order_log["requests"]] == [
            ("ours-1", 200, None),
            (None, 422, "qty must be > 0"),
        ]
        assert order_log["requests"][0]["user_agent"].startswith("python-requests")
        assert [(e["client_order_id"], e["qty"]) for e in order_log["executions"]] == [("ours-1", "1")]
        all_requests = (await served.request("GET", "/admin/logs")).json()["requests"]
        assert all_requests[-1]["user_agent"].startswith("APCA-PY/")


async def test_admin_api_controls_orders_halts_settings_and_money() -> None:
    """Manual orders and cancels, halts, settings, deposits and blocks work; state and audit agree."""
    async with serve_exchange() as served:
        row = await served.post_admin(
            "order", symbol="TSLA", qty=3, side="buy", type="market", time_in_force="day"
        )
        await served.advance()
        assert served.server.exchange.state.order_store.orders[row["id"]].source == "manual"
        resting = await served.post_admin("order", **{**ORDER, "type": "limit", "limit_price": 50})
        assert (await served.post_admin("cancel", id=resting["id"]))["status"] == "pending_cancel"
        assert await served.post_admin("halt", symbol="aapl") == ["AAPL"]
        assert (await post_order(served)).status_code == 422
        assert await served.post_admin("resume", symbol="AAPL") == []
        assert (await served.post_admin("settings", cancel=[1, 2], participation="0.5"))[
            "participation"
        ] == "0.5"
        assert (await served.request("POST", "/admin/settings", json={"nonsense": 1})).status_code == 422
        assert (await served.post_admin("deposit", amount=-40000))["cash"] == "59399.97"
        await served.post_admin("account", trading_blocked=True)
        assert (await post_order(served)).status_code == 403
        state = (await served.request("GET", "/admin/state")).json()
        assert (state["positions"], state["executions"], state["open"]) == ({"TSLA": "3"}, 1, True)
        assert (await served.request("GET", "/admin/clock")).json()["now"].startswith("2026-03-09T15:00:01")
        report = (await served.request("GET", "/admin/audit")).json()
        assert (report["clean"], report["problems"]) == (True, [])
        assert audit(served.server.exchange.state).clean
