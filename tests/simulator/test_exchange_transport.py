"""Keys, rates, shapes of requests, and every way an answer can fail to come."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import requests

from catalyst.simulator.audit import audit
from tests.simulator.wire import KEYS, Wire, wired

ORDER = {"symbol": "AAPL", "qty": 1, "side": "buy", "type": "market", "time_in_force": "day"}


async def posts(wire: Wire, **more: Any) -> requests.Response:
    return await wire.http_("POST", "/v2/orders", json={**ORDER, **more})


async def test_bad_keys_are_unauthorized_and_missing_ones_meet_the_proxy() -> None:
    """JSON without a code for bad keys, HTML for none; the data API says forbidden."""
    async with wired() as wire:
        bad = {**KEYS, "APCA-API-SECRET-KEY": "wrong"}
        response = await wire.http_("GET", "/v2/account", headers=bad)
        assert (response.status_code, response.json()) == (401, {"message": "unauthorized."})
        response = await wire.http_("GET", "/v2/account", headers={})
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (401, "text/html")
        response = await wire.http_("GET", "/v2/stocks/snapshots", headers=bad)
        assert (response.status_code, response.json()) == (403, {"message": "forbidden."})
        await wire.admin("switches", html_when_headless=False)
        assert (await wire.http_("GET", "/v2/account", headers={})).json() == {"message": "unauthorized."}


async def test_two_hundred_requests_a_minute_of_market_time() -> None:
    """Headers on every answer; the 201st gets 429; a minute later the bucket is full again."""
    async with wired() as wire:
        response = await wire.http_("GET", "/v2/clock")
        assert response.headers["X-Ratelimit-Limit"] == "200"
        assert response.headers["X-Ratelimit-Remaining"] == "199"
        await wire.admin("switches", rate_limit=3)
        codes = [(await wire.http_("GET", "/v2/clock")).status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        refused = await wire.http_("GET", "/v2/orders")
        assert refused.json() == {"code": 42910000, "message": "rate limit exceeded"}
        assert refused.headers["X-Ratelimit-Remaining"] == "0"
        reset = int(refused.headers["X-Ratelimit-Reset"])
        assert 0 < reset - wire.clock.now().timestamp() <= 61
        await wire.admin("switches", rate_headers_on_429=False)
        assert "X-Ratelimit-Reset" not in (await wire.http_("GET", "/v2/orders")).headers
        await wire.passes(60)
        assert (await wire.http_("GET", "/v2/orders")).status_code == 200


async def test_requests_are_read_generously() -> None:
    """Numbers or numeric strings, floats with a zero, booleans in any case, times in any usual form."""
    async with wired() as wire:
        for qty in (2, 2.0, "2", "2.0"):
            row = (await posts(wire, qty=qty)).json()
            assert row["qty"] == "2"
        row = (await posts(wire, type="limit", limit_price=99.1)).json()
        assert row["limit_price"] == "99.1"
        for nested in ("True", "true", "1"):
            assert (await wire.http_("GET", f"/v2/orders?nested={nested}&status=all")).status_code == 200
        for after in (
            "2026-03-09T14:00:00Z",
            "2026-03-09T10:00:00-04:00",
            "2026-03-09",
            "2026-03-09T14:00:00.123456789Z",
            "2026-03-09T14:00:00%2B00:00",
        ):
            response = await wire.http_("GET", f"/v2/orders?after={after}&status=all")
            assert len(response.json()) == 5, after
        assert (await wire.http_("GET", "/v2/orders?after=yesterday")).status_code == 422


async def test_trading_numbers_are_text_and_times_have_nanoseconds() -> None:
    """Quantities and prices are strings, ids version 4 UUIDs, instants RFC 3339 with nine places and Z."""
    async with wired() as wire:
        await wire.passes(0.123457)
        row = (await posts(wire)).json()
        assert (row["qty"], row["filled_qty"], row["extended_hours"], row["notional"]) == (
            "1",
            "0",
            False,
            None,
        )
        assert row["order_type"] == row["type"] == "market"
        assert row["id"][14] == "4"
        assert row["submitted_at"] == "2026-03-09T15:00:00.123457199Z"


async def test_unknown_paths_orders_and_ids() -> None:
    """404 for a path nobody has and for an order nobody placed, 422 for what is no id, 400 for no JSON."""
    async with wired() as wire:
        response = await wire.http_("GET", "/v2/nonsense")
        assert (response.status_code, response.json()) == (
            404,
            {"code": 40410000, "message": "endpoint not found"},
        )
        unknown = "7b08df51-c1ac-453c-99f9-323a5f075f0d"
        response = await wire.http_("GET", f"/v2/orders/{unknown}")
        assert (response.status_code, response.json()) == (
            404,
            {"code": 40410000, "message": f"order not found for {unknown}"},
        )
        response = await wire.http_("DELETE", "/v2/orders/not-an-id")
        assert (response.status_code, response.json()) == (
            422,
            {"code": 40010001, "message": "order_id is missing"},
        )
        response = await wire.http_("POST", "/v2/orders", data="{")
        assert response.status_code == 400
        assert (await wire.http_("PUT", "/v2/orders")).status_code == 405


async def test_an_order_may_be_accepted_and_the_answer_hang() -> None:
    """The client times out; the order exists, once, and is found by its client id."""
    async with wired() as wire:
        await wire.admin("faults", kind="hang", method="POST", route="/v2/orders")
        with pytest.raises(requests.exceptions.ReadTimeout):
            await wire.http_("POST", "/v2/orders", json={**ORDER, "client_order_id": "lost"}, timeout=0.3)
        path = "/v2/orders:by_client_order_id?client_order_id=lost"
        assert (await wire.http_("GET", path)).json()["symbol"] == "AAPL"
        again = await posts(wire, client_order_id="lost")
        assert (again.status_code, again.json()["message"]) == (422, "client_order_id must be unique")


@pytest.mark.parametrize(("kind", "landed"), [("drop", 1), ("drop_before", 0)])
async def test_the_connection_may_break_with_or_without_the_order(kind: str, landed: int) -> None:
    """Both look alike to the client; only one of them placed an order."""
    async with wired() as wire:
        await wire.admin("faults", kind=kind, method="POST", route="/v2/orders")
        with pytest.raises(requests.exceptions.ConnectionError):
            await posts(wire)
        assert len(wire.server.exchange.book.orders) == landed


@pytest.mark.parametrize(("kind", "landed"), [("status", 1), ("status_before", 0)])
async def test_a_504_says_nothing_about_the_order(kind: str, landed: int) -> None:
    """The proxy's page, with and without an order behind it."""
    async with wired() as wire:
        await wire.admin("faults", kind=kind, method="POST", route="/v2/orders", status=504)
        response = await posts(wire)
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (504, "text/html")
        assert len(wire.server.exchange.book.orders) == landed


async def test_errors_of_the_server_and_of_the_proxy() -> None:
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


async def test_a_slow_answer_takes_market_time() -> None:
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


async def test_cancelling_everything_answers_for_each_order() -> None:
    """207; an exit leg is answered with its parent's order, under the leg's own id."""
    async with wired() as wire:
        wire.desk.bracket(10)
        await wire.passes()
        plain = (await posts(wire, symbol="MSFT", type="limit", limit_price=100)).json()
        response = await wire.http_("DELETE", "/v2/orders")
        assert response.status_code == 207
        rows = response.json()
        assert {row["status"] for row in rows} == {200}
        leg = next(row for row in rows if row["id"] != plain["id"])
        assert leg["body"]["id"] != leg["id"]
        assert leg["body"]["status"] == "filled"
        assert leg["id"] in {child["id"] for child in leg["body"]["legs"]}
        await wire.passes()
        assert (await wire.http_("GET", "/v2/orders")).json() == []


async def test_closing_everything_races_with_its_own_cancels() -> None:
    """207 with order ids as symbols, then a 403 for the position whose exits are not cancelled yet."""
    async with wired() as wire:
        wire.desk.bracket(10)
        await wire.passes()
        rows = (await wire.http_("DELETE", "/v2/positions?cancel_orders=True")).json()
        assert [row["status"] for row in rows] == [200, 403]
        assert len(rows[0]["symbol"]) == 36
        assert rows[1]["symbol"] == "AAPL"
        assert rows[1]["body"]["related_orders"] == [rows[0]["symbol"]]
        await wire.passes()
        assert wire.server.exchange.account.qty("AAPL") == 10
        await wire.admin("faults", kind="liquidate_fail", symbol="AAPL")
        rows = (await wire.http_("DELETE", "/v2/positions")).json()
        assert [(row["status"], row["body"]["message"]) for row in rows] == [(500, "Failed to liquidate")]
        rows = (await wire.http_("DELETE", "/v2/positions")).json()
        assert [row["status"] for row in rows] == [200]
        await wire.passes()
        assert wire.server.exchange.account.qty("AAPL") == 0


async def test_closing_everything_without_the_race() -> None:
    """With the switch off the cancels are confirmed first, and the position is sold."""
    async with wired() as wire:
        await wire.admin("switches", liquidation_races=False)
        wire.desk.bracket(10)
        await wire.passes()
        rows = (await wire.http_("DELETE", "/v2/positions?cancel_orders=true")).json()
        assert [row["status"] for row in rows] == [200, 200]
        await wire.passes()
        assert wire.server.exchange.account.qty("AAPL") == 0
        wire.desk.balanced()


async def test_closing_one_position_over_the_wire() -> None:
    """A part in shares or percent; both at once, and shares that exits hold, are refused."""
    async with wired() as wire:
        wire.desk.holds("AAPL", 10)
        await wire.clock.advance_to(wire.desk.now)
        assert (await wire.http_("DELETE", "/v2/positions/AAPL?qty=4")).json()["qty"] == "4"
        await wire.passes()
        assert (await wire.http_("DELETE", "/v2/positions/AAPL?percentage=50")).json()["qty"] == "3"
        await wire.passes()
        assert (await wire.http_("DELETE", "/v2/positions/AAPL?percentage=50&qty=1")).status_code == 422
        wire.desk.sends("sell", 3, "AAPL", "stop", stop_price="90")
        response = await wire.http_("DELETE", "/v2/positions/AAPL")
        assert (response.status_code, response.json()["held_for_orders"]) == (403, "3")
        assert (await wire.http_("DELETE", "/v2/positions/TSLA")).status_code == 404


async def test_a_replace_and_a_cancel_over_the_wire() -> None:
    """PATCH answers with the new order, DELETE with 204, and DELETE of a filled order with 422."""
    async with wired() as wire:
        row = (await posts(wire, type="limit", limit_price=99)).json()
        await wire.passes()
        new = await wire.http_("PATCH", f"/v2/orders/{row['id']}", json={"limit_price": "98", "qty": 2})
        assert (new.status_code, new.json()["replaces"], new.json()["qty"]) == (200, row["id"], "2")
        await wire.passes()
        assert (await wire.http_("DELETE", f"/v2/orders/{new.json()['id']}")).status_code == 204
        filled = (await posts(wire, symbol="MSFT")).json()
        await wire.passes()
        response = await wire.http_("DELETE", f"/v2/orders/{filled['id']}")
        assert (response.status_code, response.json()) == (
            422,
            {"code": 42210000, "message": 'order is already in "filled" state'},
        )
