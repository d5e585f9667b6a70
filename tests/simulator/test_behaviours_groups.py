"""Behaviours 21 to 30: bracket, OCO and OTO orders, the activation of their legs, and cancels within a group."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.simulator.manual_feed import at
from tests.simulator.wire_client import BRACKET, LEGS, OTO, WireClient, wire_client

SUB_PENNY = "sub-penny increment does not fulfill minimum pricing criteria"
MSFT_LEGS = {"take_profit": {"limit_price": "330"}, "stop_loss": {"stop_price": "290"}}


@pytest.mark.promise("B21")
@pytest.mark.parametrize(
    ("terms", "status", "code", "message"),
    [
        ({"take_profit": None}, 422, 40010001, "bracket orders require take_profit.limit_price"),
        ({"stop_loss": None}, 422, 40010001, "bracket orders require stop_loss.stop_price"),
        (
            {"time_in_force": "ioc"},
            422,
            40010001,
            'bracket orders support only "day" or "gtc" time_in_force',
        ),
        (
            {"kind": "limit", "limit_price": 100, "extended_hours": True},
            403,
            40310000,
            "bracket orders do not support extended hours trading",
        ),
        ({"qty": "1.5"}, 422, 42210000, "fractional orders must be simple orders"),
        ({"qty": "1.5", "time_in_force": "gtc"}, 422, 42210000, "fractional orders must be DAY orders"),
        ({"qty": None, "notional": "500"}, 422, 42210000, "fractional orders must be simple orders"),
        (
            {"take_profit": {"limit_price": "94"}},
            422,
            42210000,
            "take_profit.limit_price must be > stop_loss.stop_price",
        ),
        (
            {"take_profit": {"limit_price": "110.005"}},
            422,
            42210000,
            f"invalid take_profit.limit_price 110.005. {SUB_PENNY}",
        ),
        (
            {**OTO, "stop_loss": None, "take_profit": None},
            422,
            40010001,
            "oto orders require stop_loss.stop_price",
        ),
        (
            {**OTO, "take_profit": None, "time_in_force": "fok"},
            422,
            40010001,
            'oto orders support only "day" or "gtc" time_in_force',
        ),
        (
            {**OTO, "take_profit": None, "kind": "limit", "limit_price": 100, "extended_hours": True},
            403,
            40310000,
            "oto orders do not support extended hours trading",
        ),
    ],
)
async def test_malformed_bracket_is_rejected(
    terms: dict[str, Any], status: int, code: int, message: str
) -> None:
    """A bracket needs both legs, day or gtc, regular hours, whole shares, the target above the stop, and
    whole ticks."""
    async with wire_client() as c:
        response = await c.expect_rejection("buy", **{"qty": 10, **BRACKET, **terms})
        assert response == (status, {"code": code, "message": message})


STOP_TOO_HIGH = "stop_loss.stop_price must be <= base_price - 0.01"
TARGET_TOO_LOW = "take_profit.limit_price must be >= base_price + 0.01"
LIMIT_ENTRY = {"kind": "limit", "limit_price": "98"}
LOW_LIMIT_ENTRY = {"kind": "limit", "limit_price": "90", "stop_loss": {"stop_price": "80"}}


@pytest.mark.promise("B21")
@pytest.mark.parametrize(
    ("terms", "base", "message"),
    [
        ({"stop_loss": {"stop_price": "100.01"}}, "100.01", STOP_TOO_HIGH),
        ({"take_profit": {"limit_price": "100.01"}}, "100.01", TARGET_TOO_LOW),
        ({**LIMIT_ENTRY, "stop_loss": {"stop_price": "98"}}, "98", STOP_TOO_HIGH),
        ({**LIMIT_ENTRY, "take_profit": {"limit_price": "98"}}, "98", TARGET_TOO_LOW),
        ({**LOW_LIMIT_ENTRY, "take_profit": {"limit_price": "95"}}, "100.01", TARGET_TOO_LOW),
    ],
)
async def test_bracket_legs_must_be_a_cent_from_the_base_price(
    terms: dict[str, Any], base: str, message: str
) -> None:
    """The base price is the entry's limit, and for every entry also the live market price; the rejection
    shows the one used."""
    async with wire_client() as c:
        response = await c.expect_rejection("buy", 100, **{**BRACKET, **terms})
        assert response == (422, {"base_price": base, "code": 42210000, "message": message})


@pytest.mark.promise("B21")
async def test_base_price_ignores_the_market_when_disabled() -> None:
    """With the setting off, legs are compared only with the entry's own limit."""
    async with wire_client(base_price_includes_market=False) as c:
        terms = {**BRACKET, **LOW_LIMIT_ENTRY, "take_profit": {"limit_price": "95"}}
        assert (await c.submit("buy", 100, **terms))["status"] == "pending_new"


@pytest.mark.promise("B21")
async def test_short_bracket_mirrors_the_long_rules() -> None:
    """The stop lies above, the target below, and both buy back."""
    async with wire_client() as c:
        legs = {"order_class": "bracket", "take_profit": {"limit_price": "95"}}
        _, body = await c.expect_rejection("sell", 10, **legs, stop_loss={"stop_price": "99"})
        assert body["message"] == "stop_loss.stop_price must be >= base_price + 0.01"
        _, body = await c.expect_rejection(
            "sell",
            10,
            order_class="bracket",
            take_profit={"limit_price": "106"},
            stop_loss={"stop_price": "105"},
        )
        assert body["message"] == "take_profit.limit_price must be < stop_loss.stop_price"
        order = await c.submit("sell", 10, **legs, stop_loss={"stop_price": "105"})
        await c.advance()
        assert await c.leg_statuses(order) == ("new", "held")
        await c.print_trade("106")
        await c.advance()
        assert await c.position_qty() == "0"
        assert await c.leg_statuses(order) == ("replaced", "filled")
        await c.assert_audit_clean()


@pytest.mark.promise("B22")
async def test_bracket_legs_start_held_with_their_own_ids() -> None:
    """The response already shows held legs with UUID client order ids; the parent's terms override those the
    legs ask for."""
    async with wire_client() as c:
        order = await c.submit_bracket(
            time_in_force="gtc",
            client_order_id="mine",
            take_profit={"limit_price": "110", "time_in_force": "day", "client_order_id": "target"},
            stop_loss={
                "stop_price": "95",
                "limit_price": "94",
                "time_in_force": "day",
                "trail_percent": "2",
                "client_order_id": "stop",
            },
        )
        assert [leg["type"] for leg in order["legs"]] == ["limit", "stop_limit"]
        for leg in order["legs"]:
            own = {name: leg[name] for name in ("status", "time_in_force", "qty", "side", "order_class")}
            assert own == {
                "status": "held",
                "time_in_force": "gtc",
                "qty": "100",
                "side": "sell",
                "order_class": "bracket",
            }
            assert UUID(leg["client_order_id"]).version == UUID(leg["id"]).version == 4
            assert (leg["legs"], leg["trail_percent"]) == (None, None)
        assert len({leg["id"] for leg in order["legs"]} | {order["id"]}) == 3
        assert (await c.submit("buy", 1, "MSFT", client_order_id="target"))["client_order_id"] == "target"


@pytest.mark.promise("B23")
async def test_bracket_legs_activate_only_when_the_entry_is_complete() -> None:
    """A partial fill activates no leg; the last share makes the target new and keeps the stop held."""
    async with wire_client() as c:
        c.served.scenario.feed.quote_size = 40
        order = await c.submit_bracket(100)
        await c.advance()
        entry = await c.get_order(order)
        assert (entry["filled_qty"], await c.leg_statuses(order)) == ("40", ("held", "held"))
        await c.print_trade("94")
        assert (await c.order_status(order), await c.position_qty()) == ("filled", "100")
        assert (await c.order_legs(order))[1]["status"] == "held"
        await c.advance()
        assert await c.leg_statuses(order) == ("new", "held")
        target, stop = await c.order_legs(order)
        assert (await c.events(target), await c.events(stop)) == (["new"], [])
        [streamed] = await c.updates(target)
        assert streamed["order"]["id"] == target["id"]
        assert order["id"] not in str(streamed)  # no field names the parent
        assert target["submitted_at"] > order["submitted_at"]


@pytest.mark.promise("B23")
async def test_oto_child_becomes_new_when_the_entry_is_complete() -> None:
    """The child has no sibling, so it is new instead of held and sends its own events."""
    async with wire_client() as c:
        order = await c.submit("buy", 10, **OTO)
        assert [leg["status"] for leg in order["legs"]] == ["held"]
        await c.advance()
        [child] = (await c.get_order(order))["legs"]
        assert child["status"] == "new"
        await c.print_trade("94")
        assert await c.events(child) == ["new", "fill"]
        await c.assert_audit_clean()


@pytest.mark.promise("B24")
@pytest.mark.parametrize("legs_status", ["canceled", "held"])
async def test_cancelled_partly_filled_entry_stays_unprotected(legs_status: str) -> None:
    """The legs are cancelled (the default) or stay held for ever; at no price do they sell."""
    async with wire_client() as c:
        assert (await c.get("/admin/settings"))["partial_entry"] == "canceled"
        await c.change_settings(partial_entry=legs_status)
        c.served.scenario.feed.quote_size = 40
        order = await c.submit_bracket(100, kind="limit", limit_price="100.01")
        await c.advance()
        await c.cancel(order)
        await c.advance(3)
        entry = await c.get_order(order)
        assert (entry["status"], entry["filled_qty"]) == ("canceled", "40")
        assert await c.leg_statuses(order) == (legs_status, legs_status)
        await c.print_trade("80")
        assert await c.position_qty() == "40"
        unprotected = (await c.get("/admin/unprotected"))["AAPL"]
        assert unprotected["unprotected_now"] == "40"
        assert Decimal(unprotected["share_seconds"]) > 100
        await c.assert_audit_clean()


@pytest.mark.promise("B24")
async def test_expired_partly_filled_entry_stays_unprotected() -> None:
    """At the close the entry and its held legs expire; the bought shares have no stop."""
    async with wire_client(start=at("15:58")) as c:
        c.served.scenario.feed.quote_size = 40
        order = await c.submit_bracket(100, kind="limit", limit_price="100.01")
        await c.advance_to(at("16:00"))
        entry = await c.get_order(order)
        assert (entry["status"], entry["filled_qty"]) == ("expired", "40")
        assert await c.leg_statuses(order) == ("expired", "expired")
        assert (await c.get("/admin/unprotected"))["AAPL"]["unprotected_now"] == "40"


@pytest.mark.promise("B25")
async def test_partly_filled_target_reduces_its_stop() -> None:
    """The stop protects the remaining shares, and shares are reserved once."""
    async with wire_client() as c:
        order = await c.submit_bracket(100)
        await c.advance()
        c.set_quote("109", "111")
        await c.print_trade("110", size=160)
        target, stop = await c.order_legs(order)
        assert (target["status"], target["filled_qty"], stop["qty"]) == ("partially_filled", "40", "60")
        [position] = await c.get("/v2/positions")
        assert (position["qty"], position["qty_available"]) == ("60", "0")
        c.served.scenario.feed.quotes.clear()
        await c.print_trade("94")
        _, stop = await c.order_legs(order)
        assert (stop["status"], stop["filled_qty"], await c.position_qty()) == ("filled", "60", "0")
        await c.assert_audit_clean()


@pytest.mark.promise("B25")
@pytest.mark.parametrize(("hidden", "stop_events"), [(False, ["canceled"]), (True, [])])
async def test_filled_target_cancels_its_stop(hidden: bool, stop_events: list[str]) -> None:
    """The stop ends as canceled a moment later and cannot sell before. The setting hides its event."""
    async with wire_client(hide_sibling_cancel=hidden) as c:
        order = await c.submit_bracket(100)
        await c.advance()
        await c.print_trade("111")
        await c.print_trade("90")
        assert await c.leg_statuses(order) == ("filled", "held")
        await c.advance()
        assert await c.leg_statuses(order) == ("filled", "canceled")
        target, stop = await c.order_legs(order)
        assert (await c.events(target), await c.events(stop)) == (["new", "fill"], stop_events)
        assert await c.position_qty() == "0"
        await c.assert_audit_clean()


@pytest.mark.promise("B25")
async def test_hide_sibling_cancel_still_streams_a_requested_cancel() -> None:
    """With the setting on, a requested cancel of the stop still sends events for the stop and the target."""
    async with wire_client(hide_sibling_cancel=True) as c:
        order = await c.submit_bracket(100)
        await c.advance()
        target, stop = await c.order_legs(order)
        await c.cancel(stop)
        await c.advance()
        assert (await c.events(target), await c.events(stop)) == (["new", "canceled"], ["canceled"])


@pytest.mark.promise("B26")
async def test_triggered_stop_fills_and_its_target_ends_replaced() -> None:
    """The target ends as replaced with the stop's id, not as canceled."""
    async with wire_client() as c:
        order = await c.submit_bracket(100)
        await c.advance()
        await c.print_trade("94")
        target, stop = await c.order_legs(order)
        assert (target["status"], target["replaced_by"]) == ("replaced", stop["id"])
        assert (stop["status"], stop["filled_qty"]) == ("filled", "100")
        assert (await c.events(target), await c.events(stop)) == (["new", "replaced"], ["fill"])
        await c.assert_audit_clean()


@pytest.mark.promise("B26")
@pytest.mark.parametrize("by_setting", [True, False])
async def test_triggered_stop_may_fill_as_a_replacement_order(by_setting: bool) -> None:
    """By setting or fault the stop also ends as replaced, and a market order that no client sent fills."""
    async with wire_client(stop_by_replacement=by_setting) as c:
        if not by_setting:
            await c.add_fault("stop_replaced", symbol="AAPL")
        order = await c.submit_bracket(100)
        await c.advance()
        target, stop = await c.order_legs(order)
        await c.print_trade("94")
        target, stop = await c.get_order(target), await c.get_order(stop)
        assert (target["status"], stop["status"], stop["filled_qty"]) == ("replaced", "replaced", "0")
        replacement = await c.get_order({"id": stop["replaced_by"]})
        assert (replacement["status"], replacement["type"], replacement["replaces"]) == (
            "filled",
            "market",
            stop["id"],
        )
        assert replacement["id"] in {leg["id"] for leg in (await c.get_order(order))["legs"]}
        assert await c.events(replacement) == ["new", "fill"]
        await c.assert_audit_clean()


@pytest.mark.promise("B27")
@pytest.mark.parametrize(
    ("price", "second_legs"), [("111", ("filled", "canceled")), ("94", ("replaced", "filled"))]
)
async def test_double_exit_fault_fills_both_exits(price: str, second_legs: tuple[str, str]) -> None:
    """The position flips and the audit reports an exit across zero. A bracket in another symbol, and one after
    the rule has fired its count, do not flip."""
    async with wire_client() as c:
        await c.add_fault("double_exit", symbol="AAPL")
        order = await c.submit_bracket(100)
        unaffected = await c.submit_bracket(100, "MSFT", **MSFT_LEGS)
        await c.advance()
        await c.print_trade(price)
        await c.print_trade("331", "MSFT")
        assert await c.leg_statuses(order) == ("filled", "filled")
        assert (await c.position_qty(), await c.position_qty("MSFT")) == ("-100", "0")
        await c.advance()
        assert await c.leg_statuses(unaffected) == ("filled", "canceled")
        (problem,) = (await c.get("/admin/audit"))["problems"]
        assert "across zero" in problem
        await c.print_trade("100")
        assert await c.submit("buy", 100)  # covers the short position
        await c.advance()
        second = await c.submit_bracket(100)
        await c.advance()
        await c.print_trade(price)
        await c.advance()
        assert await c.leg_statuses(second) == second_legs
        assert await c.position_qty() == "0"


@pytest.mark.promise("B28")
@pytest.mark.parametrize("leg_index", [0, 1])
async def test_cancel_of_one_leg_cancels_the_group_and_keeps_the_position(leg_index: int) -> None:
    """Cancelling either leg cancels both and sells nothing."""
    async with wire_client() as c:
        order = await c.submit_bracket(100)
        await c.advance()
        assert (await c.cancel((await c.order_legs(order))[leg_index]))[0] == 204
        await c.advance(2)
        assert await c.leg_statuses(order) == ("canceled", "canceled")
        assert (await c.order_status(order), await c.position_qty()) == ("filled", "100")


@pytest.mark.promise("B28")
async def test_cancel_of_an_inactive_leg_cancels_its_entry() -> None:
    """Before the entry fills, the group is the entry and both legs."""
    async with wire_client() as c:
        order = await c.submit_bracket(100, kind="limit", limit_price="98")
        await c.advance()
        await c.cancel((await c.order_legs(order))[1])
        await c.advance()
        assert (await c.order_status(order), *await c.leg_statuses(order)) == ("canceled",) * 3


@pytest.mark.promise("B28")
@pytest.mark.parametrize("delay", [0.8, 1.2])
async def test_cancel_of_the_parent_cancels_its_legs_after_the_set_delay(delay: float) -> None:
    """The entry is cancelled first; the legs follow after the set delay, 0.8 or 1.2 seconds."""
    async with wire_client() as c:
        await c.change_settings(entry_legs_cancel=delay)
        order = await c.submit_bracket(100, kind="limit", limit_price="98")
        await c.advance()
        await c.cancel(order)
        await c.advance(0.5)
        assert (await c.order_status(order), *await c.leg_statuses(order)) == ("canceled", "held", "held")
        await c.advance(0.2 + delay - 0.5 - 0.01)
        assert await c.leg_statuses(order) == ("held", "held")
        await c.advance(0.02)
        assert await c.leg_statuses(order) == ("canceled", "canceled")
        assert await c.position_qty() == "0"


async def open_oco_position(c: WireClient) -> tuple[str, str]:
    """Open ten shares with an OCO; return the ids of the target (the parent order) and of the stop nested in
    it."""
    await c.given_position(10)
    order = await c.submit_oco(10)
    await c.advance()
    parent = await c.get_order(order)
    [stop] = parent["legs"]
    assert (parent["type"], parent["limit_price"], parent["order_class"]) == ("limit", "110", "oco")
    assert (parent["status"], stop["status"], stop["type"]) == ("new", "held", "stop")
    return parent["id"], stop["id"]


@pytest.mark.promise("B29")
async def test_oco_parent_is_the_target_and_nests_its_stop() -> None:
    """When the stop triggers, the parent ends as replaced and the shares are sold once."""
    async with wire_client() as c:
        target, stop = await open_oco_position(c)
        assert (await c.expect_rejection("sell", 1, kind="limit", limit_price="120"))[1][
            "related_orders"
        ] == [target]
        await c.print_trade("94")
        assert (await c.order_status({"id": target}), await c.order_status({"id": stop})) == (
            "replaced",
            "filled",
        )
        assert await c.position_qty() == "0"
        await c.assert_audit_clean()


@pytest.mark.promise("B29")
async def test_oco_that_is_not_an_exit_is_rejected() -> None:
    """An OCO without a position or on the side that enlarges it is rejected, and so is a market OCO."""
    async with wire_client() as c:
        oco = {"kind": "limit", "order_class": "oco", **LEGS}
        rejection = (422, {"code": 42210000, "message": "oco orders must be exit orders"})
        assert await c.expect_rejection("sell", 10, **oco) == rejection
        await c.given_position(10)
        mirrored = {"take_profit": {"limit_price": "95"}, "stop_loss": {"stop_price": "110"}}
        assert await c.expect_rejection("buy", 10, **{**oco, **mirrored}) == rejection
        status, body = await c.expect_rejection("sell", 10, **{**oco, "kind": "market"})
        assert (status, body["message"]) == (422, "oco orders must be limit orders")


@pytest.mark.promise("B29")
async def test_oco_leg_that_fills_or_is_cancelled_cancels_the_other() -> None:
    """A filled parent cancels its stop; a cancelled stop cancels the parent."""
    async with wire_client() as c:
        target, stop = await open_oco_position(c)
        await c.print_trade("112")
        await c.advance()
        assert (await c.order_status({"id": target}), await c.order_status({"id": stop})) == (
            "filled",
            "canceled",
        )
        await c.given_position(10, "MSFT")
        other = await c.submit_oco(10, "MSFT", **MSFT_LEGS)
        await c.advance()
        await c.cancel(other["legs"][0])
        await c.advance()
        assert await c.order_status(other) == "canceled"
        assert await c.position_qty("MSFT") == "10"
        await c.assert_audit_clean()


@pytest.mark.promise("B29")
async def test_oco_is_rejected_while_the_position_lags() -> None:
    """With a position lag of two seconds the fill does not count yet; without the setting it does."""
    async with wire_client(position_lag=2.0) as c:
        order = await c.submit("buy", 10)
        await c.advance(1)
        assert (await c.order_status(order), await c.position_qty()) == ("filled", "0")
        oco = {"kind": "limit", "order_class": "oco", **LEGS}
        assert (await c.expect_rejection("sell", 10, **oco))[1]["message"] == "oco orders must be exit orders"
        await c.advance(2)
        assert (await c.submit_oco(10))["status"] == "pending_new"
    async with wire_client() as c:
        await c.submit("buy", 10)
        await c.advance(0.2)
        assert (await c.submit_oco(10))["status"] == "pending_new"


@pytest.mark.promise("B30")
async def test_bracket_that_is_not_an_entry_is_rejected() -> None:
    """A position on either side, or a working order on the other side, rejects the bracket."""
    async with wire_client() as c:
        rejection = (422, {"code": 42210000, "message": "bracket orders must be entry orders"})
        await c.given_position(10)
        assert await c.expect_rejection("buy", 100, **BRACKET) == rejection
        await c.submit("sell", 5, "MSFT", "limit", limit_price="350")
        assert await c.expect_rejection("buy", 5, "MSFT", **{**BRACKET, **MSFT_LEGS}) == rejection
        await c.given_position(-10, "TSLA")
        legs = {"take_profit": {"limit_price": "240"}, "stop_loss": {"stop_price": "180"}}
        assert await c.expect_rejection("buy", 5, "TSLA", **{**BRACKET, **legs}) == rejection


@pytest.mark.promise("B30")
@pytest.mark.parametrize(("blocked", "status"), [(False, 200), (True, 422)])
async def test_bracket_beside_a_same_side_order_follows_bracket_alone(blocked: bool, status: int) -> None:
    """Alpaca does not document the exact rule; the setting selects either reading."""
    async with wire_client(bracket_blocked_by_any_order=blocked) as c:
        await c.submit("buy", 1, kind="limit", limit_price="50")
        assert (await c.post_order("buy", 100, "AAPL", "market", **BRACKET))[0] == status
