"""Behaviours 31 to 36: cancels, replacements and liquidations are asked for now and decided later."""

import pytest

from tests.simulator.manual_feed import at
from tests.simulator.served_exchange import posts, wired
from tests.simulator.wire_client import Customer, customer, type_row


async def resting(c: Customer, price: str = "99", qty: int = 10, symbol: str = "AAPL") -> type_row:
    """A bid below the market, acknowledged."""
    order = await c.sends("buy", qty, symbol, "limit", limit_price=price)
    await c.passes()
    return order


@pytest.mark.parametrize("delay", [0.05, 0.2, 2.0])
async def test_b31_a_cancel_is_pending_until_the_venue_confirms(delay: float) -> None:
    """204 and pending_cancel at once, canceled after the delay that was set; asking again changes nothing."""
    async with customer(cancel=delay) as c:
        order = await resting(c)
        assert await c.cancels(order) == (204, None)
        seen = await c.sees(order)
        assert (seen["status"], seen["cancel_requested_at"] is not None) == ("pending_cancel", True)
        assert (await c.cancels(order))[0] == 204
        await c.passes(delay - 0.01)
        assert await c.status(order) == "pending_cancel"
        await c.passes(0.02)
        seen = await c.sees(order)
        assert (seen["status"], seen["canceled_at"] is not None) == ("canceled", True)
        assert await c.heard(order) == ["new", "canceled"]


async def test_b31_the_pending_cancel_may_be_told() -> None:
    """Most cancels go without that event; with the switch it is sent."""
    async with customer(emit_pending=True) as c:
        order = await resting(c)
        await c.cancels(order)
        await c.passes()
        assert await c.heard(order) == ["new", "pending_cancel", "canceled"]


async def test_b31_a_fill_may_win_against_a_cancel() -> None:
    """A trade before the confirmation fills the order, by chance or by script; a partial fill stays in it."""
    async with customer() as c:
        order = await resting(c)
        assert (await c.cancels(order))[0] == 204
        await c.prints("98")
        assert await c.status(order) == "filled"
        await c.passes()
        assert await c.heard(order) == ["new", "fill"]
        await c.breaks("cancel_loses", symbol="MSFT")
        other = await resting(c, "299", symbol="MSFT")
        await c.cancels(other)
        await c.passes()
        assert await c.status(other) == "filled"
        c.wire.desk.tape.sizes = 4
        partly = await resting(c, "200.01", symbol="TSLA")
        await c.cancels(partly)
        await c.passes()
        seen = await c.sees(partly)
        assert (seen["status"], seen["filled_qty"], seen["filled_avg_price"]) == ("canceled", "4", "200.01")
        await c.balanced()


@pytest.mark.parametrize(("strict", "again"), [(False, 204), (True, 422)])
async def test_b32_cancelling_what_is_over_or_being_replaced(strict: bool, again: int) -> None:
    """filled and pending_replace are 422 with the state in the text; canceled is 204, or 422 by the switch."""

    def already(state: str) -> tuple[int, type_row]:
        return 422, {"code": 42210000, "message": f'order is already in "{state}" state'}

    async with customer(recancel_refused=strict) as c:
        assert await c.cancels(await c.holds(1)) == already("filled")
        order = await resting(c, "90", symbol="MSFT")
        _, new = await c.replaces(order, limit_price="91")
        assert await c.cancels(order) == already("pending_replace")
        await c.passes()
        assert await c.cancels(order) == already("replaced")
        assert (await c.cancels(new))[0] == 204
        await c.passes()
        assert (await c.cancels(new))[0] == again
        assert await c.status(new) == "canceled"


async def test_b33_a_replacement_is_a_new_order_in_a_chain() -> None:
    """New id, own client id, the old one's birth; the old one ends as replaced and names the new one."""
    async with customer() as c:
        old = await resting(c)
        await c.passes(5)
        status, new = await c.replaces(old, limit_price="98", client_order_id="ours-2")
        assert (status, new["replaces"], new["client_order_id"]) == (200, old["id"], "ours-2")
        assert (new["created_at"], new["id"] != old["id"]) == (old["created_at"], True)
        assert new["submitted_at"] > old["submitted_at"]
        assert (new["status"], await c.status(old)) == ("pending_new", "pending_replace")
        await c.passes()
        seen = await c.sees(old)
        assert (seen["status"], seen["replaced_by"]) == ("replaced", new["id"])
        assert seen["replaced_at"] is not None
        assert (await c.heard(old), await c.heard(new)) == (["new", "replaced"], ["new"])
        await c.prints("97")
        assert await c.status(new) == "filled"
        await c.balanced()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit_price": "99"}, "order parameters are not changed"),
        ({}, "order parameters are not changed"),
        ({"stop_price": "90"}, "limit orders must not have stop_price"),
        (
            {"limit_price": "98.005"},
            "invalid limit_price 98.005. sub-penny increment does not fulfill minimum pricing criteria",
        ),
        ({"qty": 4}, "unable to replace order, qty must be > filled_qty"),
        ({"client_order_id": "taken", "qty": 11}, "client_order_id must be unique"),
    ],
)
async def test_b33_a_senseless_replacement_is_refused(changes: type_row, message: str) -> None:
    """Unchanged, of the wrong kind, off the tick, not over what the chain has filled, or under a used id."""
    async with customer() as c:
        await c.sends("buy", 1, "MSFT", "limit", limit_price="1", client_order_id="taken")
        c.wire.desk.tape.sizes = 4
        order = await resting(c, "100.01")
        _, new = await c.replaces(order, limit_price="99")
        await c.passes()
        status, body = await c.replaces(new, **changes)
        assert (status, body["message"]) == (422, message)


async def test_b33_what_is_not_at_the_venue_cannot_be_replaced() -> None:
    """accepted, pending_new, pending_cancel, pending_replace and anything that is over."""
    early = (
        422,
        {"code": 40010001, "message": "unable to replace order, order isn't sent to exchange yet"},
    )
    async with customer() as c:
        order = await c.sends("buy", 1, kind="limit", limit_price="50")
        assert await c.replaces(order, qty=2) == early
        await c.passes()
        _, new = await c.replaces(order, qty=2)
        assert await c.replaces(order, qty=3) == early
        await c.passes()
        over = (422, {"code": 42210000, "message": "unable to replace order, order is not open"})
        assert await c.replaces(order, qty=3) == over
        await c.cancels(new)
        assert await c.replaces(new, qty=3) == early
        await c.passes()
        assert await c.replaces(new, qty=3) == over
    async with customer(start=at("20:30")) as c:
        parked = await c.sends("buy", 1, kind="limit", limit_price="50")
        assert parked["status"] == "accepted"
        assert await c.replaces(parked, qty=2) == early


async def test_b33_the_quantity_of_a_replacement_is_the_chains_total() -> None:
    """Four are filled, the new order says ten in all, and six more make it complete."""
    async with customer() as c:
        c.wire.desk.tape.sizes = 4
        old = await resting(c, "100.01", 8)
        _, new = await c.replaces(old, qty=10, limit_price="99")
        await c.passes()
        seen = await c.sees(new)
        assert (seen["status"], seen["qty"], seen["filled_qty"]) == ("partially_filled", "10", "4")
        await c.prints("98.99", size=400)
        seen = await c.sees(new)
        assert (seen["status"], seen["filled_qty"], await c.owns()) == ("filled", "10", "10")
        fills = await c.gets("/v2/account/activities/FILL?direction=asc")
        assert [fill["cum_qty"] for fill in fills] == ["4", "10"]
        await c.balanced()


@pytest.mark.parametrize("scripted", [True, False])
async def test_b33_a_replacement_may_be_refused_after_its_200(scripted: bool) -> None:
    """The venue refuses it, or the fill was faster: the new order ends rejected, nothing is bought twice."""
    async with customer() as c:
        if scripted:
            await c.breaks("replace_reject")
        old = await resting(c)
        status, new = await c.replaces(old, limit_price="98.5")
        assert status == 200
        if not scripted:
            await c.prints("98")
            assert await c.status(old) == "filled"
        await c.passes()
        assert (await c.heard(new), "order_replace_rejected" in await c.heard(old)) == (["rejected"], True)
        seen = await c.sees(old)
        assert (seen["status"], seen["replaced_by"]) == ("new" if scripted else "filled", None)
        assert await c.status(new) == "rejected"
        await c.prints("98")
        assert (await c.status(old), await c.owns()) == ("filled", "10")
        await c.balanced()


@pytest.mark.parametrize(("allowed", "status"), [(True, 200), (False, 422)])
async def test_b33_a_held_stop_may_be_moved_by_the_switch(allowed: bool, status: int) -> None:
    """The documents allow it, reports deny it; moved, it stays held under its new id and still protects."""
    async with customer(held_replaceable=allowed) as c:
        order = await c.bracket(100)
        await c.passes()
        _, stop = await c.legs(order)
        answer = await c.replaces(stop, stop_price="98")
        assert answer[0] == status
        await c.passes()
        _, now = await c.legs(order)
        assert (now["status"], now["stop_price"]) == ("held", "98" if allowed else "95")
        await c.prints("97.5")
        assert await c.owns() == ("0" if allowed else "100")


async def test_b34_cancelling_everything_answers_for_each_order() -> None:
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


async def test_b35_closing_a_position_whose_shares_are_held_cancels_nothing() -> None:
    """403 without related orders, and the exits live; flat it is 404."""
    async with customer() as c:
        order = await c.bracket(10)
        await c.passes()
        assert await c.asks("DELETE", "/v2/positions/AAPL") == (
            403,
            {
                "available": "0",
                "code": 40310000,
                "existing_qty": "10",
                "held_for_orders": "10",
                "message": "insufficient qty available for order (requested: 10, available: 0)",
                "symbol": "AAPL",
            },
        )
        await c.passes()
        assert await c.statuses(order) == ("new", "held")
        assert await c.asks("DELETE", "/v2/positions/MSFT") == (
            404,
            {"code": 40410000, "message": "position does not exist"},
        )


async def test_b35_a_free_position_is_closed_at_the_market_in_whole_or_in_part() -> None:
    """Shares, percent, or all; a short is bought back; both measures at once are refused."""
    async with customer() as c:
        await c.holds(10)
        await c.holds(-4, "MSFT")
        for query, sold in (("?qty=4", "4"), ("?percentage=50", "3"), ("", "3")):
            status, order = await c.asks("DELETE", f"/v2/positions/AAPL{query}")
            assert (status, order["qty"], order["side"], order["type"]) == (200, sold, "sell", "market")
            await c.passes()
        assert (await c.asks("DELETE", "/v2/positions/MSFT?percentage=50&qty=1"))[0] == 422
        assert (await c.asks("DELETE", "/v2/positions/MSFT"))[1]["side"] == "buy"
        await c.passes()
        assert await c.gets("/v2/positions") == []
        await c.balanced()


async def test_b36_closing_everything_races_with_its_own_cancels() -> None:
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


async def test_b36_closing_everything_without_the_race() -> None:
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
