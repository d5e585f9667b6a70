"""Keys, rates, shapes of requests, and every way an answer can fail to come."""

import asyncio

import pytest
import requests

from catalyst.simulator.admin.audit import audit
from tests.simulator.served_exchange import ORDER, posts, wired


async def test_a_request_may_never_be_heard_or_only_later() -> None:
    """Hanging without an order, and an order that is placed only when the delay is over."""
    async with wired() as wire:
        await wire.admin("faults", kind="hang_before", method="POST", route="/v2/orders")
        with pytest.raises(requests.exceptions.ReadTimeout):
            await wire.http_("POST", "/v2/orders", json=ORDER, timeout=0.2)
        assert wire.server.exchange.book.orders == {}
        rule = await wire.admin("faults", kind="slow_before", method="POST", route="/v2/orders", seconds=5)
        asked = asyncio.ensure_future(posts(wire))
        while not wire.server.exchange.faults.faults[rule["id"]].fired:  # noqa: ASYNC110 - a thread's request
            await asyncio.sleep(0.001)
        await wire.passes(4)
        assert wire.server.exchange.book.orders == {}
        await wire.passes(1)
        assert (await asked).json()["submitted_at"] == "2026-03-09T15:00:05.000000000Z"


async def test_answers_may_lack_fields_or_legs_have_strange_ones_or_be_old() -> None:
    """Removed and unknown fields, legs left out, a stale list, an empty list."""
    async with wired() as wire:
        await wire.admin("faults", kind="remove_fields", route="/v2/account", fields=["equity", "status"])
        assert not {"equity", "status"} & (await wire.http_("GET", "/v2/account")).json().keys()
        await wire.admin("faults", kind="add_fields", route="/v2/account", text="x")
        assert (await wire.http_("GET", "/v2/account")).json()["unheard_of"] == "x"
        await wire.admin("faults", kind="leg_omit", method="POST")
        body = {
            "order_class": "bracket",
            "take_profit": {"limit_price": 110},
            "stop_loss": {"stop_price": 95},
        }
        row = (await posts(wire, **body)).json()
        assert row["legs"] is None
        assert len((await wire.http_("GET", f"/v2/orders/{row['id']}?nested=true")).json()["legs"]) == 2
        assert (await wire.http_("GET", "/v2/positions")).json() == []
        await wire.passes()
        await wire.admin("faults", kind="stale", route="/v2/positions")
        assert (await wire.http_("GET", "/v2/positions")).json() == []
        assert len((await wire.http_("GET", "/v2/positions")).json()) == 1
        await wire.admin("faults", kind="empty", route="/v2/positions")
        assert (await wire.http_("GET", "/v2/positions")).json() == []


async def test_faults_are_matched_and_counted() -> None:
    """By symbol, from the nth match on, so many times; each firing is counted and healing lifts them."""
    async with wired() as wire:
        rule = await wire.admin(
            "faults", kind="status_before", symbol="AAPL", method="POST", nth=2, count=2, status=500
        )
        codes = [(await posts(wire)).status_code for _ in range(4)]
        assert codes == [200, 500, 500, 200]
        assert (await posts(wire, symbol="MSFT")).status_code == 200
        standing = (await wire.http_("GET", "/admin/faults")).json()
        assert [(f["id"], f["fired"]) for f in standing] == [(rule["id"], 2)]
        assert (await wire.http_("DELETE", "/admin/faults")).json() == []
        assert (await wire.http_("POST", "/admin/faults", json={"kind": "nonsense"})).status_code == 422
        assert (
            await wire.http_("POST", "/admin/faults", json={"kind": "hang", "nonsense": 1})
        ).status_code == 422


async def test_the_ledger_has_every_request_and_every_execution() -> None:
    """Refused and failed ones too, with who asked and what happened to them."""
    async with wired() as wire:
        await posts(wire, client_order_id="ours-1")
        await posts(wire, qty=0)
        await wire.passes()
        await wire.asks(wire.client.get_account)
        ledger = (await wire.http_("GET", "/admin/ledger?method=POST&path=/v2/orders")).json()
        assert [(r["client_order_id"], r["status"], r["message"]) for r in ledger["requests"]] == [
            ("ours-1", 200, None),
            (None, 422, "qty must be > 0"),
        ]
        assert ledger["requests"][0]["user_agent"].startswith("python-requests")
        assert [(e["client_order_id"], e["qty"]) for e in ledger["executions"]] == [("ours-1", "1")]
        everything = (await wire.http_("GET", "/admin/ledger")).json()["requests"]
        assert everything[-1]["user_agent"].startswith("APCA-PY/")


async def test_the_side_door() -> None:
    """A person's order and cancel, halts, switches, money, the state at a glance and a clean audit."""
    async with wired() as wire:
        row = await wire.admin("order", symbol="TSLA", qty=3, side="buy", type="market", time_in_force="day")
        await wire.passes()
        assert wire.server.exchange.book.orders[row["id"]].source == "manual"
        resting = await wire.admin("order", **{**ORDER, "type": "limit", "limit_price": 50})
        assert (await wire.admin("cancel", id=resting["id"]))["status"] == "pending_cancel"
        assert await wire.admin("halt", symbol="aapl") == ["AAPL"]
        assert (await posts(wire)).status_code == 422
        assert await wire.admin("resume", symbol="AAPL") == []
        assert (await wire.admin("switches", cancel=[1, 2], participation="0.5"))["participation"] == "0.5"
        assert (await wire.http_("POST", "/admin/switches", json={"nonsense": 1})).status_code == 422
        assert (await wire.admin("deposit", amount=-40000))["cash"] == "59399.97"
        await wire.admin("account", trading_blocked=True)
        assert (await posts(wire)).status_code == 403
        state = (await wire.http_("GET", "/admin/state")).json()
        assert (state["positions"], state["executions"], state["open"]) == ({"TSLA": "3"}, 1, True)
        assert (await wire.http_("GET", "/admin/clock")).json()["now"].startswith("2026-03-09T15:00:01")
        report = (await wire.http_("GET", "/admin/audit")).json()
        assert (report["clean"], report["problems"]) == (True, [])
        assert audit(wire.server.exchange).clean
