"""Behaviours 37 to 40: queries of orders, positions, the account, the clock and the calendar; omissions from
lists."""

from datetime import date, datetime

import pytest
from pydantic import ValidationError

from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import HALF_DAY, at
from tests.simulator.served_exchange import TradingClient, list_orders, serve_exchange
from tests.simulator.wire_client import wire_client


@pytest.mark.promise("B37")
async def test_open_order_list_omits_held_legs() -> None:
    """After the fill the flat open list has only the target; nested, it does not appear under its closed
    parent."""
    async with serve_exchange() as served:
        order = served.scenario.submit_bracket(10)
        before = await list_orders(served, status="open", nested=True)
        assert [(row["id"], len(row["legs"])) for row in before] == [(order.id, 2)]
        assert [row["id"] for row in await list_orders(served, status="open")] == [order.id]
        await served.advance()
        target = order.legs[0]
        assert [row["id"] for row in await list_orders(served)] == [target]
        assert [row["id"] for row in await list_orders(served, nested=True)] == [target]
        served.scenario.exchange.state.settings.hide_open_legs = True
        assert await list_orders(served, nested=True) == []
        all_orders = await list_orders(served, status="all", nested="True")
        assert [(row["id"], [leg["status"] for leg in row["legs"]]) for row in all_orders] == [
            (order.id, ["new", "held"])
        ]
        assert all_orders[0]["legs"][0]["legs"] is None
        assert len(await list_orders(served, status="all")) == 3
        flat = await served.call(served.client.get, f"/orders/{order.id}")
        nested = await served.call(served.client.get, f"/orders/{order.id}", {"nested": True})
        assert (flat["legs"], len(nested["legs"])) == (None, 2)


@pytest.mark.promise("B37")
async def test_order_list_limits_bounds_and_paging() -> None:
    """The limit is 50 by default and 500 at most. Bounds by time and by id are exclusive, in both directions."""
    scenario = ExchangeScenario()
    orders = []
    for n in range(60):
        orders.append(scenario.submit("buy", 1, "AAPL" if n % 2 else "MSFT", "limit", limit_price="1"))
        scenario.advance(1)
    async with serve_exchange(scenario=scenario) as served:
        assert [row["id"] for row in await list_orders(served)] == [
            order.id for order in reversed(orders[10:])
        ]
        first = await list_orders(served, limit=500, direction="asc")
        assert [row["id"] for row in first] == [order.id for order in orders]
        after = await list_orders(served, after=first[54]["submitted_at"], direction="asc")
        assert [row["id"] for row in after] == [order.id for order in orders[55:]]
        until = await list_orders(served, until=orders[3].submitted_at.isoformat())
        assert [row["id"] for row in until] == [order.id for order in reversed(orders[:3])]
        page = await list_orders(served, before_order_id=orders[5].id, limit=2)
        assert [row["id"] for row in page] == [orders[4].id, orders[3].id]
        page = await list_orders(served, after_order_id=orders[57].id)
        assert [row["id"] for row in page] == [orders[59].id, orders[58].id]
        assert {row["symbol"] for row in await list_orders(served, symbols="AAPL,TSLA")} == {"AAPL"}
        for query in (
            "limit=501",
            "limit=0",
            "status=odd",
            f"after_order_id={orders[0].id}&after=2026-01-01",
        ):
            assert (await served.request("GET", f"/v2/orders?{query}")).status_code == 422


@pytest.mark.promise("B37")
async def test_order_list_nests_an_oco_stop_under_its_target() -> None:
    """The nested parent row is the target and contains the stop; the flat open list omits the held stop."""
    async with wire_client() as c:
        await c.given_position(10)
        order = await c.submit_oco(10)
        await c.advance()
        [nested] = await c.get("/v2/orders?nested=true")
        assert (nested["id"], nested["type"]) == (order["id"], "limit")
        assert [(leg["type"], leg["status"]) for leg in nested["legs"]] == [("stop", "held")]
        assert [row["id"] for row in await c.get("/v2/orders")] == [order["id"]]
        flat = await c.get("/v2/orders?status=all")
        assert (len(flat), {row["legs"] is None for row in flat}) == (3, {True})


@pytest.mark.promise("B37")
async def test_order_list_filters_by_side_and_asset_class() -> None:
    """Lists filter by side and asset class; the account has no crypto."""
    async with wire_client() as c:
        await c.submit("buy", 1, kind="limit", limit_price="50")
        await c.submit("sell", 1, "MSFT", "limit", limit_price="350")
        assert [row["symbol"] for row in await c.get("/v2/orders?side=sell")] == ["MSFT"]
        assert len(await c.get("/v2/orders?asset_class=us_equity")) == 2
        assert await c.get("/v2/orders?asset_class=crypto") == []


@pytest.mark.promise("B38")
async def test_client_order_id_lookup_is_404_for_the_visibility_delay() -> None:
    """The lookup is 404 for the delay after the POST, then returns the order without its legs."""
    async with serve_exchange() as served:
        served.scenario.exchange.state.settings.visibility_delay = 3.0
        order = served.scenario.submit_bracket(10, client_order_id="ours-7")
        path = "/v2/orders:by_client_order_id?client_order_id=ours-7"
        response = await served.request("GET", path)
        assert (response.status_code, response.json()["code"]) == (404, 40410000)
        await served.advance(3)
        row = (await served.request("GET", path)).json()
        assert (row["id"], row["legs"]) == (order.id, None)
        assert (
            await served.request("GET", "/v2/orders:by_client_order_id?client_order_id=x")
        ).status_code == 404


@pytest.mark.promise("B38")
async def test_visibility_fault_hides_one_order_from_the_lookup() -> None:
    """The fault matches by client order id; other orders stay visible."""
    async with serve_exchange() as served:
        await served.post_admin("faults", kind="visibility", client_order_id="ours-*", seconds=10)
        served.scenario.submit("buy", 1, client_order_id="ours-1")
        served.scenario.submit("buy", 1, client_order_id="theirs")
        path = "/v2/orders:by_client_order_id?client_order_id="
        assert (await served.request("GET", f"{path}ours-1")).status_code == 404
        assert (await served.request("GET", f"{path}theirs")).status_code == 200
        await served.advance(10)
        assert (await served.request("GET", f"{path}ours-1")).status_code == 200


@pytest.mark.promise("B39")
async def test_position_quantities_are_signed_text() -> None:
    """Quantities are strings, negative for shorts; shares reserved by exits are not available."""
    async with serve_exchange() as served:
        served.scenario.given_position("AAPL", 10)
        served.scenario.given_position("MSFT", -4)
        served.scenario.submit("sell", 3, "AAPL", "limit", limit_price="120")
        served.clock._now = served.scenario.now
        rows = {row["symbol"]: row for row in await served.call(served.client.get_all_positions)}
        assert (rows["AAPL"]["qty"], rows["AAPL"]["qty_available"], rows["AAPL"]["side"]) == (
            "10",
            "7",
            "long",
        )
        assert (rows["MSFT"]["qty"], rows["MSFT"]["side"], rows["MSFT"]["market_value"]) == (
            "-4",
            "short",
            "-1200",
        )
        assert rows["AAPL"]["avg_entry_price"] == "100.01"
        assert rows["AAPL"]["unrealized_pl"] == "-0.1"
        position = await served.call(served.client.get_open_position, rows["AAPL"]["asset_id"])
        assert position["symbol"] == "AAPL"
        response = await served.request("GET", "/v2/positions/TSLA")
        assert (response.status_code, response.json()["message"]) == (404, "position does not exist")


@pytest.mark.promise("B39")
async def test_account_has_removed_fields_only_when_enabled() -> None:
    """Day-trade fields and easy_to_borrow are absent, borrow_status is present; the setting restores the old
    fields."""
    async with serve_exchange() as served:
        account = await served.call(served.client.get_account)
        for name in ("cash", "equity", "buying_power", "multiplier", "last_equity", "long_market_value"):
            assert isinstance(account[name], str)
        assert (account["buying_power"], account["equity"], account["multiplier"]) == (
            "400000",
            "100000",
            "4",
        )
        assert not {"pattern_day_trader", "daytrade_count", "daytrading_buying_power"} & account.keys()
        asset = await served.call(served.client.get_asset, "HARD")
        assert (asset["borrow_status"], "easy_to_borrow" in asset, asset["class"]) == (
            "hard_to_borrow",
            False,
            "us_equity",
        )
        assert (await served.request("GET", "/v2/assets/NOPE")).json()[
            "message"
        ] == "asset not found for NOPE"
        active = await served.call(served.client.get, "/assets", {"status": "active"})
        assert "DEAD" not in {row["symbol"] for row in active}
        await served.post_admin("settings", legacy_fields=True)
        assert (await served.call(served.client.get_account))["pattern_day_trader"] is False
        assert (await served.call(served.client.get_asset, "HARD"))["easy_to_borrow"] is False


@pytest.mark.promise("B39")
async def test_alpaca_py_models_need_the_legacy_fields() -> None:
    """Without the removed fields alpaca-py's models reject an asset; with the setting they parse everything."""
    async with serve_exchange() as served:
        typed = TradingClient("demo", "demo", url_override=served.server.url)
        typed._session.trust_env = False
        with pytest.raises(ValidationError):
            await served.call(typed.get_asset, "AAPL")
        await served.post_admin("settings", legacy_fields=True)
        assert (await served.call(typed.get_asset, "AAPL")).easy_to_borrow is True
        assert (await served.call(typed.get_account)).pattern_day_trader is False
        typed._session.close()


@pytest.mark.promise("B40")
async def test_exchange_clock_is_in_new_york_time() -> None:
    """Open and next times carry New York's offset; after the close is_open is false; skew is a fault."""
    async with serve_exchange() as served:
        clock = await served.call(served.client.get_clock)
        assert clock["is_open"] is True
        assert clock["timestamp"].startswith("2026-03-09T11:00:00")
        assert clock["timestamp"].endswith("-04:00")
        assert (clock["next_open"], clock["next_close"]) == (
            "2026-03-10T09:30:00-04:00",
            "2026-03-09T16:00:00-04:00",
        )
        await served.clock.advance_to(at("16:00"))
        clock = await served.call(served.client.get_clock)
        assert (clock["is_open"], clock["next_close"]) == (False, "2026-03-10T16:00:00-04:00")
        await served.post_admin("faults", kind="clock_skew", seconds=90)
        skewed = await served.call(served.client.get_clock)
        assert datetime.fromisoformat(skewed["timestamp"][:26] + "-04:00") >= at("16:01")


@pytest.mark.promise("B40")
async def test_exchange_calendar_lists_half_days_without_a_zone() -> None:
    """Times are New York wall times; the day after Thanksgiving closes at 13:00; holidays are absent."""
    async with serve_exchange() as served:
        rows = await served.call(served.client.get, "/calendar", {"start": "2026-11-25", "end": "2026-11-30"})
        assert [(row["date"], row["open"], row["close"]) for row in rows] == [
            ("2026-11-25", "09:30", "16:00"),
            (HALF_DAY.isoformat(), "09:30", "13:00"),
            ("2026-11-30", "09:30", "16:00"),
        ]
        assert rows[0]["settlement_date"] == "2026-11-27"


@pytest.mark.promise("B40")
@pytest.mark.parametrize(("setting", "session_close"), [(None, "2000"), ("1700", "1700")])
async def test_half_day_post_close_follows_its_setting(setting: str | None, session_close: str) -> None:
    """No recording shows the value: 20:00 as on every day, or the setting."""
    async with wire_client() as c:
        if setting:
            await c.change_settings(half_day_post_close=setting)
        rows = await c.get("/v2/calendar?start=2026-11-25&end=2026-11-27")
        assert [(row["session_open"], row["session_close"]) for row in rows] == [
            ("0400", "2000"),
            ("0400", session_close),
        ]


@pytest.mark.promise("B40")
async def test_exchange_clock_offset_follows_daylight_saving() -> None:
    """On the Friday before the change the offset is -05:00, and -04:00 for the next open."""
    friday = date(2026, 3, 6)
    async with wire_client(start=at("17:00", friday)) as c:
        clock = await c.get("/v2/clock")
        assert clock["timestamp"].startswith("2026-03-06T17:00:00")
        assert clock["timestamp"].endswith("-05:00")
        assert (clock["next_open"], clock["next_close"]) == (
            "2026-03-09T09:30:00-04:00",
            "2026-03-09T16:00:00-04:00",
        )
