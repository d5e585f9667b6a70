"""Behaviours 21 to 30: bracket, OCO and OTO, when their legs live, and who goes with whom."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.simulator.manual_feed import at
from tests.simulator.wire_client import BRACKET, LEGS, OTO, Customer, customer

SUB_PENNY = "sub-penny increment does not fulfill minimum pricing criteria"
MSFT_LEGS = {"take_profit": {"limit_price": "330"}, "stop_loss": {"stop_price": "290"}}


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
async def test_b21_a_malformed_bracket_is_refused(
    terms: dict[str, Any], status: int, code: int, message: str
) -> None:
    """Both legs, day or gtc, regular hours, whole shares, target over stop, whole ticks."""
    async with customer() as c:
        answer = await c.refused("buy", **{"qty": 10, **BRACKET, **terms})
        assert answer == (status, {"code": code, "message": message})


STOP_TOO_HIGH = "stop_loss.stop_price must be <= base_price - 0.01"
TARGET_TOO_LOW = "take_profit.limit_price must be >= base_price + 0.01"
BID = {"kind": "limit", "limit_price": "98"}
LOW_BID = {"kind": "limit", "limit_price": "90", "stop_loss": {"stop_price": "80"}}


@pytest.mark.parametrize(
    ("terms", "base", "message"),
    [
        ({"stop_loss": {"stop_price": "100.01"}}, "100.01", STOP_TOO_HIGH),
        ({"take_profit": {"limit_price": "100.01"}}, "100.01", TARGET_TOO_LOW),
        ({**BID, "stop_loss": {"stop_price": "98"}}, "98", STOP_TOO_HIGH),
        ({**BID, "take_profit": {"limit_price": "98"}}, "98", TARGET_TOO_LOW),
        ({**LOW_BID, "take_profit": {"limit_price": "95"}}, "100.01", TARGET_TOO_LOW),
    ],
)
async def test_b21_legs_keep_a_cent_from_the_base_price(
    terms: dict[str, Any], base: str, message: str
) -> None:
    """The base is the entry's limit, and the market's live price for all; the refusal shows which."""
    async with customer() as c:
        answer = await c.refused("buy", 100, **{**BRACKET, **terms})
        assert answer == (422, {"base_price": base, "code": 42210000, "message": message})


async def test_b21_whether_the_live_price_counts_is_a_switch() -> None:
    """Off, only the entry's own limit is compared with the legs."""
    async with customer(base_price_includes_market=False) as c:
        terms = {**BRACKET, **LOW_BID, "take_profit": {"limit_price": "95"}}
        assert (await c.sends("buy", 100, **terms))["status"] == "pending_new"


async def test_b21_a_short_bracket_mirrors_the_rules() -> None:
    """The stop lies above and the target below, and both buy back."""
    async with customer() as c:
        legs = {"order_class": "bracket", "take_profit": {"limit_price": "95"}}
        _, body = await c.refused("sell", 10, **legs, stop_loss={"stop_price": "99"})
        assert body["message"] == "stop_loss.stop_price must be >= base_price + 0.01"
        _, body = await c.refused(
            "sell",
            10,
            order_class="bracket",
            take_profit={"limit_price": "106"},
            stop_loss={"stop_price": "105"},
        )
        assert body["message"] == "take_profit.limit_price must be < stop_loss.stop_price"
        order = await c.sends("sell", 10, **legs, stop_loss={"stop_price": "105"})
        await c.passes()
        assert await c.statuses(order) == ("new", "held")
        await c.prints("106")
        await c.passes()
        assert await c.owns() == "0"
        assert await c.statuses(order) == ("replaced", "filled")
        await c.balanced()


async def test_b22_legs_are_born_held_with_ids_of_their_own() -> None:
    """Held in the answer already, a UUID each as client id, the parent's terms whatever the legs asked for."""
    async with customer() as c:
        order = await c.bracket(
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
        assert (await c.sends("buy", 1, "MSFT", client_order_id="target"))["client_order_id"] == "target"


async def test_b23_legs_live_only_when_the_entry_is_complete() -> None:
    """A partial fill activates nothing; the last share makes the target new and keeps the stop held."""
    async with customer() as c:
        c.wire.desk.tape.sizes = 40
        order = await c.bracket(100)
        await c.passes()
        seen = await c.sees(order)
        assert (seen["filled_qty"], await c.statuses(order)) == ("40", ("held", "held"))
        await c.prints("94")
        assert (await c.status(order), await c.owns()) == ("filled", "100")
        assert (await c.legs(order))[1]["status"] == "held"
        await c.passes()
        assert await c.statuses(order) == ("new", "held")
        target, stop = await c.legs(order)
        assert (await c.heard(target), await c.heard(stop)) == (["new"], [])
        [told] = await c.updates(target)
        assert told["order"]["id"] == target["id"]
        assert order["id"] not in str(told)  # no field names the parent
        assert target["submitted_at"] > order["submitted_at"]


async def test_b23_an_oto_child_is_new_once_the_entry_is_complete() -> None:
    """It has no sibling to hide behind, and events of its own."""
    async with customer() as c:
        order = await c.sends("buy", 10, **OTO)
        assert [leg["status"] for leg in order["legs"]] == ["held"]
        await c.passes()
        [child] = (await c.sees(order))["legs"]
        assert child["status"] == "new"
        await c.prints("94")
        assert await c.heard(child) == ["new", "fill"]
        await c.balanced()


@pytest.mark.parametrize("choice", ["canceled", "held"])
async def test_b24_a_partly_filled_entry_that_is_cancelled_stays_naked(choice: str) -> None:
    """Whether its legs are cancelled (the default) or stay held for ever, no price makes them sell."""
    async with customer() as c:
        assert (await c.gets("/admin/switches"))["partial_entry"] == "canceled"
        await c.switches(partial_entry=choice)
        c.wire.desk.tape.sizes = 40
        order = await c.bracket(100, kind="limit", limit_price="100.01")
        await c.passes()
        await c.cancels(order)
        await c.passes(3)
        seen = await c.sees(order)
        assert (seen["status"], seen["filled_qty"]) == ("canceled", "40")
        assert await c.statuses(order) == (choice, choice)
        await c.prints("80")
        assert await c.owns() == "40"
        exposed = (await c.gets("/admin/exposure"))["AAPL"]
        assert exposed["naked_now"] == "40"
        assert Decimal(exposed["share_seconds"]) > 100
        await c.balanced()


async def test_b24_a_partly_filled_entry_that_expires_stays_naked() -> None:
    """The day ends for the entry and for its sleeping legs; the shares it bought have no stop."""
    async with customer(start=at("15:58")) as c:
        c.wire.desk.tape.sizes = 40
        order = await c.bracket(100, kind="limit", limit_price="100.01")
        await c.until(at("16:00"))
        seen = await c.sees(order)
        assert (seen["status"], seen["filled_qty"]) == ("expired", "40")
        assert await c.statuses(order) == ("expired", "expired")
        assert (await c.gets("/admin/exposure"))["AAPL"]["naked_now"] == "40"


async def test_b25_a_target_filled_in_part_shrinks_the_stop() -> None:
    """The stop protects what is left, and shares are held once."""
    async with customer() as c:
        order = await c.bracket(100)
        await c.passes()
        c.quotes("109", "111")
        await c.prints("110", size=160)
        target, stop = await c.legs(order)
        assert (target["status"], target["filled_qty"], stop["qty"]) == ("partially_filled", "40", "60")
        [position] = await c.gets("/v2/positions")
        assert (position["qty"], position["qty_available"]) == ("60", "0")
        c.wire.desk.tape.quotes.clear()
        await c.prints("94")
        _, stop = await c.legs(order)
        assert (stop["status"], stop["filled_qty"], await c.owns()) == ("filled", "60", "0")
        await c.balanced()


@pytest.mark.parametrize(("silent", "told"), [(False, ["canceled"]), (True, [])])
async def test_b25_a_filled_target_cancels_the_stop(silent: bool, told: list[str]) -> None:
    """The stop ends as canceled a moment later, cannot sell in between, and by the switch goes untold."""
    async with customer(hide_sibling_cancel=silent) as c:
        order = await c.bracket(100)
        await c.passes()
        await c.prints("111")
        await c.prints("90")
        assert await c.statuses(order) == ("filled", "held")
        await c.passes()
        assert await c.statuses(order) == ("filled", "canceled")
        target, stop = await c.legs(order)
        assert (await c.heard(target), await c.heard(stop)) == (["new", "fill"], told)
        assert await c.owns() == "0"
        await c.balanced()


async def test_b25_the_silent_cancel_is_only_the_siblings() -> None:
    """With the switch on, a stop that somebody cancels is still told, and so is its target."""
    async with customer(hide_sibling_cancel=True) as c:
        order = await c.bracket(100)
        await c.passes()
        target, stop = await c.legs(order)
        await c.cancels(stop)
        await c.passes()
        assert (await c.heard(target), await c.heard(stop)) == (["new", "canceled"], ["canceled"])


async def test_b26_a_triggered_stop_fills_and_leaves_the_target_replaced() -> None:
    """The target does not end as canceled but as replaced, naming the stop."""
    async with customer() as c:
        order = await c.bracket(100)
        await c.passes()
        await c.prints("94")
        target, stop = await c.legs(order)
        assert (target["status"], target["replaced_by"]) == ("replaced", stop["id"])
        assert (stop["status"], stop["filled_qty"]) == ("filled", "100")
        assert (await c.heard(target), await c.heard(stop)) == (["new", "replaced"], ["fill"])
        await c.balanced()


@pytest.mark.parametrize("switched", [True, False])
async def test_b26_a_triggered_stop_may_fill_through_a_replacement_id(switched: bool) -> None:
    """By switch or by fault the stop ends as replaced too; an order nobody sent fills, at the market."""
    async with customer(stop_by_replacement=switched) as c:
        if not switched:
            await c.breaks("stop_replaced", symbol="AAPL")
        order = await c.bracket(100)
        await c.passes()
        target, stop = await c.legs(order)
        await c.prints("94")
        target, stop = await c.sees(target), await c.sees(stop)
        assert (target["status"], stop["status"], stop["filled_qty"]) == ("replaced", "replaced", "0")
        worker = await c.sees({"id": stop["replaced_by"]})
        assert (worker["status"], worker["type"], worker["replaces"]) == ("filled", "market", stop["id"])
        assert worker["id"] in {leg["id"] for leg in (await c.sees(order))["legs"]}
        assert await c.heard(worker) == ["new", "fill"]
        await c.balanced()


@pytest.mark.parametrize("price", ["111", "94"])
async def test_b27_both_exits_may_fill_in_a_fast_market(price: str) -> None:
    """The position flips, and the audit says that an exit crossed zero; without the mode it does not."""
    async with customer() as c:
        await c.breaks("double_exit", symbol="AAPL")
        order = await c.bracket(100)
        calm = await c.bracket(100, "MSFT", **MSFT_LEGS)
        await c.passes()
        await c.prints(price)
        await c.prints("331", "MSFT")
        assert await c.statuses(order) == ("filled", "filled")
        assert (await c.owns(), await c.owns("MSFT")) == ("-100", "0")
        assert (await c.statuses(calm))[1] != "filled"
        problems = (await c.gets("/admin/audit"))["problems"]
        assert any("across zero" in problem for problem in problems)


@pytest.mark.parametrize("which", [0, 1])
async def test_b28_cancelling_one_leg_cancels_the_group_and_leaves_the_position(which: int) -> None:
    """Either leg will do; nothing is sold."""
    async with customer() as c:
        order = await c.bracket(100)
        await c.passes()
        assert (await c.cancels((await c.legs(order))[which]))[0] == 204
        await c.passes(2)
        assert await c.statuses(order) == ("canceled", "canceled")
        assert (await c.status(order), await c.owns()) == ("filled", "100")


async def test_b28_cancelling_a_sleeping_leg_cancels_the_entry_too() -> None:
    """Before the entry fills, the group is the entry and both legs."""
    async with customer() as c:
        order = await c.bracket(100, kind="limit", limit_price="98")
        await c.passes()
        await c.cancels((await c.legs(order))[1])
        await c.passes()
        assert (await c.status(order), *await c.statuses(order)) == ("canceled",) * 3


@pytest.mark.parametrize("delay", [0.8, 1.2])
async def test_b28_cancelling_the_parent_cancels_the_legs_about_a_second_later(delay: float) -> None:
    """The entry is gone at once, the legs follow, a little before or after a second."""
    async with customer() as c:
        await c.switches(orphan_cancel=delay)
        order = await c.bracket(100, kind="limit", limit_price="98")
        await c.passes()
        await c.cancels(order)
        await c.passes(0.5)
        assert (await c.status(order), *await c.statuses(order)) == ("canceled", "held", "held")
        await c.passes(0.2 + delay - 0.5 - 0.01)
        assert await c.statuses(order) == ("held", "held")
        await c.passes(0.02)
        assert await c.statuses(order) == ("canceled", "canceled")
        assert await c.owns() == "0"


async def protected(c: Customer) -> tuple[str, str]:
    """Ten shares, an OCO over them; the ids of the target that is its parent and of the stop inside it."""
    await c.holds(10)
    order = await c.oco(10)
    await c.passes()
    seen = await c.sees(order)
    [stop] = seen["legs"]
    assert (seen["type"], seen["limit_price"], seen["order_class"]) == ("limit", "110", "oco")
    assert (seen["status"], stop["status"], stop["type"]) == ("new", "held", "stop")
    return seen["id"], stop["id"]


async def test_b29_an_oco_is_its_own_target_and_its_stop_is_nested() -> None:
    """The stop triggers: the parent ends replaced, the shares are sold once."""
    async with customer() as c:
        target, stop = await protected(c)
        assert (await c.refused("sell", 1, kind="limit", limit_price="120"))[1]["related_orders"] == [target]
        await c.prints("94")
        assert (await c.status({"id": target}), await c.status({"id": stop})) == ("replaced", "filled")
        assert await c.owns() == "0"
        await c.balanced()


async def test_b29_an_oco_must_be_an_exit() -> None:
    """Flat, or on the side that would enlarge the position, it is refused; a market OCO too."""
    async with customer() as c:
        oco = {"kind": "limit", "order_class": "oco", **LEGS}
        must = (422, {"code": 42210000, "message": "oco orders must be exit orders"})
        assert await c.refused("sell", 10, **oco) == must
        await c.holds(10)
        mirrored = {"take_profit": {"limit_price": "95"}, "stop_loss": {"stop_price": "110"}}
        assert await c.refused("buy", 10, **{**oco, **mirrored}) == must
        status, body = await c.refused("sell", 10, **{**oco, "kind": "market"})
        assert (status, body["message"]) == (422, "oco orders must be limit orders")


async def test_b29_an_oco_target_that_fills_or_a_leg_that_is_cancelled_ends_the_other() -> None:
    """A filled parent cancels its stop; a cancelled stop cancels the parent."""
    async with customer() as c:
        target, stop = await protected(c)
        await c.prints("112")
        await c.passes()
        assert (await c.status({"id": target}), await c.status({"id": stop})) == ("filled", "canceled")
        await c.holds(10, "MSFT")
        other = await c.oco(10, "MSFT", **MSFT_LEGS)
        await c.passes()
        await c.cancels(other["legs"][0])
        await c.passes()
        assert await c.status(other) == "canceled"
        assert await c.owns("MSFT") == "10"
        await c.balanced()


async def test_b29_an_oco_is_refused_while_the_position_is_not_booked() -> None:
    """With the position book two seconds behind, the fill does not count yet; without the switch it does."""
    async with customer(position_lag=2.0) as c:
        order = await c.sends("buy", 10)
        await c.passes(1)
        assert (await c.status(order), await c.owns()) == ("filled", "0")
        oco = {"kind": "limit", "order_class": "oco", **LEGS}
        assert (await c.refused("sell", 10, **oco))[1]["message"] == "oco orders must be exit orders"
        await c.passes(2)
        assert (await c.oco(10))["status"] == "pending_new"
    async with customer() as c:
        await c.sends("buy", 10)
        await c.passes(0.2)
        assert (await c.oco(10))["status"] == "pending_new"


async def test_b30_a_bracket_must_be_an_entry() -> None:
    """A position on either side of the bracket, or a working order on the other side, refuses it."""
    async with customer() as c:
        refused = (422, {"code": 42210000, "message": "bracket orders must be entry orders"})
        await c.holds(10)
        assert await c.refused("buy", 100, **BRACKET) == refused
        await c.sends("sell", 5, "MSFT", "limit", limit_price="350")
        assert await c.refused("buy", 5, "MSFT", **{**BRACKET, **MSFT_LEGS}) == refused
        await c.holds(-10, "TSLA")
        legs = {"take_profit": {"limit_price": "240"}, "stop_loss": {"stop_price": "180"}}
        assert await c.refused("buy", 5, "TSLA", **{**BRACKET, **legs}) == refused


@pytest.mark.parametrize(("alone", "status"), [(False, 200), (True, 422)])
async def test_b30_an_order_on_the_same_side_refuses_it_by_the_switch(alone: bool, status: int) -> None:
    """The exact rule is not documented: both readings can be played."""
    async with customer(bracket_alone=alone) as c:
        await c.sends("buy", 1, kind="limit", limit_price="50")
        assert (await c.posts("buy", 100, "AAPL", "market", **BRACKET))[0] == status
