"""Behaviours 21 to 30: bracket, OCO and OTO, when their legs live, and who goes with whom."""

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
    """Both legs, day or gtc, regular hours, whole shares, target over stop, whole ticks."""
    async with wire_client() as c:
        answer = await c.expect_rejection("buy", **{"qty": 10, **BRACKET, **terms})
        assert answer == (status, {"code": code, "message": message})


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
    """The base is the entry's limit, and the market's live price for all; the refusal shows which."""
    async with wire_client() as c:
        answer = await c.expect_rejection("buy", 100, **{**BRACKET, **terms})
        assert answer == (422, {"base_price": base, "code": 42210000, "message": message})


@pytest.mark.promise("B21")
async def test_base_price_ignores_the_market_when_disabled() -> None:
    """Off, only the entry's own limit is compared with the legs."""
    async with wire_client(base_price_includes_market=False) as c:
        terms = {**BRACKET, **LOW_LIMIT_ENTRY, "take_profit": {"limit_price": "95"}}
        assert (await c.submit("buy", 100, **terms))["status"] == "pending_new"


@pytest.mark.promise("B21")
async def test_short_bracket_mirrors_the_long_rules() -> None:
    """The stop lies above and the target below, and both buy back."""
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
    """Held in the answer already, a UUID each as client id, the parent's terms whatever the legs asked for."""
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
    """A partial fill activates nothing; the last share makes the target new and keeps the stop held."""
    async with wire_client() as c:
        c.served.scenario.feed.quote_size = 40
        order = await c.submit_bracket(100)
        await c.advance()
        seen = await c.get_order(order)
        assert (seen["filled_qty"], await c.leg_statuses(order)) == ("40", ("held", "held"))
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
    """It has no sibling to hide behind, and events of its own."""
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
@pytest.mark.parametrize("choice", ["canceled", "held"])
async def test_cancelled_partly_filled_entry_stays_unprotected(choice: str) -> None:
    """Whether its legs are cancelled (the default) or stay held for ever, no price makes them sell."""
    async with wire_client() as c:
        assert (await c.get("/admin/settings"))["partial_entry"] == "canceled"
        await c.change_settings(partial_entry=choice)
        c.served.scenario.feed.quote_size = 40
        order = await c.submit_bracket(100, kind="limit", limit_price="100.01")
        await c.advance()
        await c.cancel(order)
        await c.advance(3)
        seen = await c.get_order(order)
        assert (seen["status"], seen["filled_qty"]) == ("canceled", "40")
        assert await c.leg_statuses(order) == (choice, choice)
        await c.print_trade("80")
        assert await c.position_qty() == "40"
        exposed = (await c.get("/admin/unprotected"))["AAPL"]
        assert exposed["unprotected_now"] == "40"
        assert Decimal(exposed["share_seconds"]) > 100
        await c.assert_audit_clean()


@pytest.mark.promise("B24")
async def test_expired_partly_filled_entry_stays_unprotected() -> None:
    """The day ends for the entry and for its sleeping legs; the shares it bought have no stop."""
    async with wire_client(start=at("15:58")) as c:
        c.served.scenario.feed.quote_size = 40
        order = await c.submit_bracket(100, kind="limit", limit_price="100.01")
        await c.advance_to(at("16:00"))
        seen = await c.get_order(order)
        assert (seen["status"], seen["filled_qty"]) == ("expired", "40")
        assert await c.leg_statuses(order) == ("expired", "expired")
        assert (await c.get("/admin/unprotected"))["AAPL"]["unprotected_now"] == "40"


@pytest.mark.promise("B25")
async def test_partly_filled_target_reduces_its_stop() -> None:
    """The stop protects what is left, and shares are held once."""
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
@pytest.mark.parametrize(("silent", "streamed"), [(False, ["canceled"]), (True, [])])
async def test_filled_target_cancels_its_stop(silent: bool, streamed: list[str]) -> None:
    """The stop ends as canceled a moment later, cannot sell in between, and by the switch goes untold."""
    async with wire_client(hide_sibling_cancel=silent) as c:
        order = await c.submit_bracket(100)
        await c.advance()
        await c.print_trade("111")
        await c.print_trade("90")
        assert await c.leg_statuses(order) == ("filled", "held")
        await c.advance()
        assert await c.leg_statuses(order) == ("filled", "canceled")
        target, stop = await c.order_legs(order)
        assert (await c.events(target), await c.events(stop)) == (["new", "fill"], streamed)
        assert await c.position_qty() == "0"
        await c.assert_audit_clean()


@pytest.mark.promise("B25")
async def test_hide_sibling_cancel_still_streams_a_requested_cancel() -> None:
    """With the switch on, a stop that somebody cancels is still told, and so is its target."""
    async with wire_client(hide_sibling_cancel=True) as c:
        order = await c.submit_bracket(100)
        await c.advance()
        target, stop = await c.order_legs(order)
        await c.cancel(stop)
        await c.advance()
        assert (await c.events(target), await c.events(stop)) == (["new", "canceled"], ["canceled"])


@pytest.mark.promise("B26")
async def test_triggered_stop_fills_and_its_target_ends_replaced() -> None:
    """The target does not end as canceled but as replaced, naming the stop."""
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
@pytest.mark.parametrize("switched", [True, False])
async def test_triggered_stop_may_fill_as_a_replacement_order(switched: bool) -> None:
    """By switch or by fault the stop ends as replaced too; an order nobody sent fills, at the market."""
    async with wire_client(stop_by_replacement=switched) as c:
        if not switched:
            await c.add_fault("stop_replaced", symbol="AAPL")
        order = await c.submit_bracket(100)
        await c.advance()
        target, stop = await c.order_legs(order)
        await c.print_trade("94")
        target, stop = await c.get_order(target), await c.get_order(stop)
        assert (target["status"], stop["status"], stop["filled_qty"]) == ("replaced", "replaced", "0")
        worker = await c.get_order({"id": stop["replaced_by"]})
        assert (worker["status"], worker["type"], worker["replaces"]) == ("filled", "market", stop["id"])
        assert worker["id"] in {leg["id"] for leg in (await c.get_order(order))["legs"]}
        assert await c.events(worker) == ["new", "fill"]
        await c.assert_audit_clean()


@pytest.mark.promise("B27")
@pytest.mark.parametrize("price", ["111", "94"])
async def test_double_exit_fault_fills_both_exits(price: str) -> None:
    """The position flips, and the audit says that an exit crossed zero; without the mode it does not."""
    async with wire_client() as c:
        await c.add_fault("double_exit", symbol="AAPL")
        order = await c.submit_bracket(100)
        calm = await c.submit_bracket(100, "MSFT", **MSFT_LEGS)
        await c.advance()
        await c.print_trade(price)
        await c.print_trade("331", "MSFT")
        assert await c.leg_statuses(order) == ("filled", "filled")
        assert (await c.position_qty(), await c.position_qty("MSFT")) == ("-100", "0")
        assert (await c.leg_statuses(calm))[1] != "filled"
        problems = (await c.get("/admin/audit"))["problems"]
        assert any("across zero" in problem for problem in problems)


@pytest.mark.promise("B28")
@pytest.mark.parametrize("which", [0, 1])
async def test_cancel_of_one_leg_cancels_the_group_and_keeps_the_position(which: int) -> None:
    """Either leg will do; nothing is sold."""
    async with wire_client() as c:
        order = await c.submit_bracket(100)
        await c.advance()
        assert (await c.cancel((await c.order_legs(order))[which]))[0] == 204
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
    """The entry is gone at once, the legs follow, a little before or after a second."""
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
    """Ten shares, an OCO over them; the ids of the target that is its parent and of the stop inside it."""
    await c.given_position(10)
    order = await c.submit_oco(10)
    await c.advance()
    seen = await c.get_order(order)
    [stop] = seen["legs"]
    assert (seen["type"], seen["limit_price"], seen["order_class"]) == ("limit", "110", "oco")
    assert (seen["status"], stop["status"], stop["type"]) == ("new", "held", "stop")
    return seen["id"], stop["id"]


@pytest.mark.promise("B29")
async def test_oco_parent_is_the_target_and_nests_its_stop() -> None:
    """The stop triggers: the parent ends replaced, the shares are sold once."""
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
    """Flat, or on the side that would enlarge the position, it is refused; a market OCO too."""
    async with wire_client() as c:
        oco = {"kind": "limit", "order_class": "oco", **LEGS}
        must = (422, {"code": 42210000, "message": "oco orders must be exit orders"})
        assert await c.expect_rejection("sell", 10, **oco) == must
        await c.given_position(10)
        mirrored = {"take_profit": {"limit_price": "95"}, "stop_loss": {"stop_price": "110"}}
        assert await c.expect_rejection("buy", 10, **{**oco, **mirrored}) == must
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
    """With the position book two seconds behind, the fill does not count yet; without the switch it does."""
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
    """A position on either side of the bracket, or a working order on the other side, refuses it."""
    async with wire_client() as c:
        refused = (422, {"code": 42210000, "message": "bracket orders must be entry orders"})
        await c.given_position(10)
        assert await c.expect_rejection("buy", 100, **BRACKET) == refused
        await c.submit("sell", 5, "MSFT", "limit", limit_price="350")
        assert await c.expect_rejection("buy", 5, "MSFT", **{**BRACKET, **MSFT_LEGS}) == refused
        await c.given_position(-10, "TSLA")
        legs = {"take_profit": {"limit_price": "240"}, "stop_loss": {"stop_price": "180"}}
        assert await c.expect_rejection("buy", 5, "TSLA", **{**BRACKET, **legs}) == refused


@pytest.mark.promise("B30")
@pytest.mark.parametrize(("alone", "status"), [(False, 200), (True, 422)])
async def test_bracket_beside_a_same_side_order_follows_bracket_alone(alone: bool, status: int) -> None:
    """The exact rule is not documented: both readings can be played."""
    async with wire_client(bracket_blocked_by_any_order=alone) as c:
        await c.submit("buy", 1, kind="limit", limit_price="50")
        assert (await c.post_order("buy", 100, "AAPL", "market", **BRACKET))[0] == status
