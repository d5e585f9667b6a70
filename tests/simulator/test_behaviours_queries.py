"""Behaviours 37 to 40: what may be looked up, and what a list leaves out."""

from datetime import date, datetime

import pytest
from pydantic import ValidationError

from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import HALF_DAY, at
from tests.simulator.served_exchange import TradingClient, listed, wired
from tests.simulator.wire_client import customer


async def test_b37_open_orders_do_not_show_a_held_leg() -> None:
    """After the fill the flat open list has the target only; nested it is not under its closed parent."""
    async with wired() as wire:
        order = wire.desk.bracket(10)
        before = await listed(wire, status="open", nested=True)
        assert [(row["id"], len(row["legs"])) for row in before] == [(order.id, 2)]
        assert [row["id"] for row in await listed(wire, status="open")] == [order.id]
        await wire.passes()
        target = order.legs[0]
        assert [row["id"] for row in await listed(wire)] == [target]
        assert [row["id"] for row in await listed(wire, nested=True)] == [target]
        wire.desk.exchange.switches.hide_open_legs = True
        assert await listed(wire, nested=True) == []
        everything = await listed(wire, status="all", nested="True")
        assert [(row["id"], [leg["status"] for leg in row["legs"]]) for row in everything] == [
            (order.id, ["new", "held"])
        ]
        assert everything[0]["legs"][0]["legs"] is None
        assert len(await listed(wire, status="all")) == 3
        flat = await wire.asks(wire.client.get, f"/orders/{order.id}")
        nested = await wire.asks(wire.client.get, f"/orders/{order.id}", {"nested": True})
        assert (flat["legs"], len(nested["legs"])) == (None, 2)


async def test_b37_lists_are_limited_and_paged() -> None:
    """Fifty by default, 500 at most; bounds in time and by id are exclusive; both directions."""
    desk = Desk()
    orders = []
    for n in range(60):
        orders.append(desk.sends("buy", 1, "AAPL" if n % 2 else "MSFT", "limit", limit_price="1"))
        desk.passes(1)
    async with wired(desk=desk) as wire:
        assert [row["id"] for row in await listed(wire)] == [order.id for order in reversed(orders[10:])]
        first = await listed(wire, limit=500, direction="asc")
        assert [row["id"] for row in first] == [order.id for order in orders]
        after = await listed(wire, after=first[54]["submitted_at"], direction="asc")
        assert [row["id"] for row in after] == [order.id for order in orders[55:]]
        until = await listed(wire, until=orders[3].submitted_at.isoformat())
        assert [row["id"] for row in until] == [order.id for order in reversed(orders[:3])]
        page = await listed(wire, before_order_id=orders[5].id, limit=2)
        assert [row["id"] for row in page] == [orders[4].id, orders[3].id]
        page = await listed(wire, after_order_id=orders[57].id)
        assert [row["id"] for row in page] == [orders[59].id, orders[58].id]
        assert {row["symbol"] for row in await listed(wire, symbols="AAPL,TSLA")} == {"AAPL"}
        for query in (
            "limit=501",
            "limit=0",
            "status=odd",
            f"after_order_id={orders[0].id}&after=2026-01-01",
        ):
            assert (await wire.http_("GET", f"/v2/orders?{query}")).status_code == 422


async def test_b37_an_oco_is_listed_under_its_target() -> None:
    """Nested, the parent's row is the target and holds the stop; flat and open, the held stop is nowhere."""
    async with customer() as c:
        await c.holds(10)
        order = await c.oco(10)
        await c.passes()
        [nested] = await c.gets("/v2/orders?nested=true")
        assert (nested["id"], nested["type"]) == (order["id"], "limit")
        assert [(leg["type"], leg["status"]) for leg in nested["legs"]] == [("stop", "held")]
        assert [row["id"] for row in await c.gets("/v2/orders")] == [order["id"]]
        flat = await c.gets("/v2/orders?status=all")
        assert (len(flat), {row["legs"] is None for row in flat}) == (3, {True})


async def test_b37_lists_may_be_narrowed() -> None:
    """By side and by asset class; the account has no crypto."""
    async with customer() as c:
        await c.sends("buy", 1, kind="limit", limit_price="50")
        await c.sends("sell", 1, "MSFT", "limit", limit_price="350")
        assert [row["symbol"] for row in await c.gets("/v2/orders?side=sell")] == ["MSFT"]
        assert len(await c.gets("/v2/orders?asset_class=us_equity")) == 2
        assert await c.gets("/v2/orders?asset_class=crypto") == []


async def test_b38_an_order_is_found_by_its_client_id_once_it_can_be_seen() -> None:
    """404 for the delay after the POST, then the order without its legs."""
    async with wired() as wire:
        wire.desk.exchange.switches.visibility_delay = 3.0
        order = wire.desk.bracket(10, client_order_id="ours-7")
        path = "/v2/orders:by_client_order_id?client_order_id=ours-7"
        response = await wire.http_("GET", path)
        assert (response.status_code, response.json()["code"]) == (404, 40410000)
        await wire.passes(3)
        row = (await wire.http_("GET", path)).json()
        assert (row["id"], row["legs"]) == (order.id, None)
        assert (await wire.http_("GET", "/v2/orders:by_client_order_id?client_order_id=x")).status_code == 404


async def test_b38_one_order_may_be_hidden_from_the_client_id_lookup() -> None:
    """The fault matches by client id; the order itself and its neighbours are there."""
    async with wired() as wire:
        await wire.admin("faults", kind="visibility", client_order_id="ours-*", seconds=10)
        wire.desk.sends("buy", 1, client_order_id="ours-1")
        wire.desk.sends("buy", 1, client_order_id="theirs")
        path = "/v2/orders:by_client_order_id?client_order_id="
        assert (await wire.http_("GET", f"{path}ours-1")).status_code == 404
        assert (await wire.http_("GET", f"{path}theirs")).status_code == 200
        await wire.passes(10)
        assert (await wire.http_("GET", f"{path}ours-1")).status_code == 200


async def test_b39_positions_are_signed_text() -> None:
    """Quantities are strings, negative for shorts; what exits hold is not available."""
    async with wired() as wire:
        wire.desk.holds("AAPL", 10)
        wire.desk.holds("MSFT", -4)
        wire.desk.sends("sell", 3, "AAPL", "limit", limit_price="120")
        wire.clock._now = wire.desk.now
        rows = {row["symbol"]: row for row in await wire.asks(wire.client.get_all_positions)}
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
        one = await wire.asks(wire.client.get_open_position, rows["AAPL"]["asset_id"])
        assert one["symbol"] == "AAPL"
        response = await wire.http_("GET", "/v2/positions/TSLA")
        assert (response.status_code, response.json()["message"]) == (404, "position does not exist")


async def test_b39_the_account_has_no_removed_fields_unless_switched_on() -> None:
    """Day-trade fields and easy_to_borrow are gone; borrow_status is there; the switch brings them back."""
    async with wired() as wire:
        account = await wire.asks(wire.client.get_account)
        for name in ("cash", "equity", "buying_power", "multiplier", "last_equity", "long_market_value"):
            assert isinstance(account[name], str)
        assert (account["buying_power"], account["equity"], account["multiplier"]) == (
            "400000",
            "100000",
            "4",
        )
        assert not {"pattern_day_trader", "daytrade_count", "daytrading_buying_power"} & account.keys()
        asset = await wire.asks(wire.client.get_asset, "HARD")
        assert (asset["borrow_status"], "easy_to_borrow" in asset, asset["class"]) == (
            "hard_to_borrow",
            False,
            "us_equity",
        )
        assert (await wire.http_("GET", "/v2/assets/NOPE")).json()["message"] == "asset not found for NOPE"
        active = await wire.asks(wire.client.get, "/assets", {"status": "active"})
        assert "DEAD" not in {row["symbol"] for row in active}
        await wire.admin("switches", legacy_fields=True)
        assert (await wire.asks(wire.client.get_account))["pattern_day_trader"] is False
        assert (await wire.asks(wire.client.get_asset, "HARD"))["easy_to_borrow"] is False


async def test_b39_alpaca_pys_typed_models_need_the_switch() -> None:
    """Without the removed fields its own models refuse an asset; with the switch they read everything."""
    async with wired() as wire:
        typed = TradingClient("demo", "demo", url_override=wire.server.url)
        typed._session.trust_env = False
        with pytest.raises(ValidationError):
            await wire.asks(typed.get_asset, "AAPL")
        await wire.admin("switches", legacy_fields=True)
        assert (await wire.asks(typed.get_asset, "AAPL")).easy_to_borrow is True
        assert (await wire.asks(typed.get_account)).pattern_day_trader is False
        typed._session.close()


async def test_b40_the_clock_is_new_yorks() -> None:
    """Open and next times carry New York's offset; after the close it is closed; skew is a fault."""
    async with wired() as wire:
        clock = await wire.asks(wire.client.get_clock)
        assert clock["is_open"] is True
        assert clock["timestamp"].startswith("2026-03-09T11:00:00")
        assert clock["timestamp"].endswith("-04:00")
        assert (clock["next_open"], clock["next_close"]) == (
            "2026-03-10T09:30:00-04:00",
            "2026-03-09T16:00:00-04:00",
        )
        await wire.clock.advance_to(at("16:00"))
        clock = await wire.asks(wire.client.get_clock)
        assert (clock["is_open"], clock["next_close"]) == (False, "2026-03-10T16:00:00-04:00")
        await wire.admin("faults", kind="clock_skew", seconds=90)
        skewed = await wire.asks(wire.client.get_clock)
        assert datetime.fromisoformat(skewed["timestamp"][:26] + "-04:00") >= at("16:01")


async def test_b40_the_calendar_has_half_days_and_no_zone() -> None:
    """New York wall times; the day after Thanksgiving ends at one; holidays are absent."""
    async with wired() as wire:
        rows = await wire.asks(wire.client.get, "/calendar", {"start": "2026-11-25", "end": "2026-11-30"})
        assert [(row["date"], row["open"], row["close"]) for row in rows] == [
            ("2026-11-25", "09:30", "16:00"),
            (HALF_DAY.isoformat(), "09:30", "13:00"),
            ("2026-11-30", "09:30", "16:00"),
        ]
        assert rows[0]["settlement_date"] == "2026-11-27"


@pytest.mark.parametrize(("switched", "told"), [(None, "2000"), ("1700", "1700")])
async def test_b40_when_a_half_day_ends_for_good_is_a_switch(switched: str | None, told: str) -> None:
    """No recording shows it: eight in the evening as on every day, or whatever is set."""
    async with customer() as c:
        if switched:
            await c.switches(half_day_post_close=switched)
        rows = await c.gets("/v2/calendar?start=2026-11-25&end=2026-11-27")
        assert [(row["session_open"], row["session_close"]) for row in rows] == [
            ("0400", "2000"),
            ("0400", told),
        ]


async def test_b40_the_offset_follows_daylight_saving() -> None:
    """On the Friday before the change it is five hours, for the next open already four."""
    friday = date(2026, 3, 6)
    async with customer(start=at("17:00", friday)) as c:
        clock = await c.gets("/v2/clock")
        assert clock["timestamp"].startswith("2026-03-06T17:00:00")
        assert clock["timestamp"].endswith("-05:00")
        assert (clock["next_open"], clock["next_close"]) == (
            "2026-03-09T09:30:00-04:00",
            "2026-03-09T16:00:00-04:00",
        )
