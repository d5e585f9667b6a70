"""Behaviours 31 to 36: cancels, replacements and liquidations are asked for now and decided later."""

import pytest

from tests.simulator.manual_feed import at
from tests.simulator.served_exchange import post_order, serve_exchange
from tests.simulator.wire_client import WireClient, type_row, wire_client


async def place_resting_order(
    c: WireClient, price: str = "99", qty: int = 10, symbol: str = "AAPL"
) -> type_row:
    """A bid below the market, acknowledged."""
    order = await c.submit("buy", qty, symbol, "limit", limit_price=price)
    await c.advance()
    return order


@pytest.mark.promise("B31")
@pytest.mark.parametrize("delay", [0.05, 0.2, 2.0])
async def test_cancel_is_pending_until_the_venue_confirms(delay: float) -> None:
    """204 and pending_cancel at once, canceled after the delay that was set; asking again changes nothing."""
    async with wire_client(cancel=delay) as c:
        order = await place_resting_order(c)
        assert await c.cancel(order) == (204, None)
        seen = await c.get_order(order)
        assert (seen["status"], seen["cancel_requested_at"] is not None) == ("pending_cancel", True)
        assert (await c.cancel(order))[0] == 204
        await c.advance(delay - 0.01)
        assert await c.order_status(order) == "pending_cancel"
        await c.advance(0.02)
        seen = await c.get_order(order)
        assert (seen["status"], seen["canceled_at"] is not None) == ("canceled", True)
        assert await c.events(order) == ["new", "canceled"]


@pytest.mark.promise("B31")
async def test_pending_cancel_event_is_sent_when_enabled() -> None:
    """Most cancels go without that event; with the switch it is sent."""
    async with wire_client(emit_pending=True) as c:
        order = await place_resting_order(c)
        await c.cancel(order)
        await c.advance()
        assert await c.events(order) == ["new", "pending_cancel", "canceled"]


@pytest.mark.promise("B31")
async def test_fill_before_the_confirmation_beats_a_cancel() -> None:
    """A trade before the confirmation fills the order, by chance or by script; a partial fill stays in it."""
    async with wire_client() as c:
        order = await place_resting_order(c)
        assert (await c.cancel(order))[0] == 204
        await c.print_trade("98")
        assert await c.order_status(order) == "filled"
        await c.advance()
        assert await c.events(order) == ["new", "fill"]
        await c.add_fault("cancel_loses", symbol="MSFT")
        other = await place_resting_order(c, "299", symbol="MSFT")
        await c.cancel(other)
        await c.advance()
        assert await c.order_status(other) == "filled"
        c.served.scenario.feed.quote_size = 4
        partly = await place_resting_order(c, "200.01", symbol="TSLA")
        await c.cancel(partly)
        await c.advance()
        seen = await c.get_order(partly)
        assert (seen["status"], seen["filled_qty"], seen["filled_avg_price"]) == ("canceled", "4", "200.01")
        await c.assert_audit_clean()


@pytest.mark.promise("B32")
@pytest.mark.parametrize(("strict", "again"), [(False, 204), (True, 422)])
async def test_cancel_of_a_terminal_or_replaced_order_is_rejected(strict: bool, again: int) -> None:
    """filled and pending_replace are 422 with the state in the text; canceled is 204, or 422 by the switch."""

    def already(state: str) -> tuple[int, type_row]:
        return 422, {"code": 42210000, "message": f'order is already in "{state}" state'}

    async with wire_client(second_cancel_rejected=strict) as c:
        assert await c.cancel(await c.given_position(1)) == already("filled")
        order = await place_resting_order(c, "90", symbol="MSFT")
        _, new = await c.replace(order, limit_price="91")
        assert await c.cancel(order) == already("pending_replace")
        await c.advance()
        assert await c.cancel(order) == already("replaced")
        assert (await c.cancel(new))[0] == 204
        await c.advance()
        assert (await c.cancel(new))[0] == again
        assert await c.order_status(new) == "canceled"


@pytest.mark.promise("B33")
async def test_replacement_is_a_new_order_linked_to_the_old_one() -> None:
    """New id, own client id, the old one's birth; the old one ends as replaced and names the new one."""
    async with wire_client() as c:
        old = await place_resting_order(c)
        await c.advance(5)
        status, new = await c.replace(old, limit_price="98", client_order_id="ours-2")
        assert (status, new["replaces"], new["client_order_id"]) == (200, old["id"], "ours-2")
        assert (new["created_at"], new["id"] != old["id"]) == (old["created_at"], True)
        assert new["submitted_at"] > old["submitted_at"]
        assert (new["status"], await c.order_status(old)) == ("pending_new", "pending_replace")
        await c.advance()
        seen = await c.get_order(old)
        assert (seen["status"], seen["replaced_by"]) == ("replaced", new["id"])
        assert seen["replaced_at"] is not None
        assert (await c.events(old), await c.events(new)) == (["new", "replaced"], ["new"])
        await c.print_trade("97")
        assert await c.order_status(new) == "filled"
        await c.assert_audit_clean()


@pytest.mark.promise("B33")
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
async def test_invalid_replacement_is_rejected(changes: type_row, message: str) -> None:
    """Unchanged, of the wrong kind, off the tick, not over what the chain has filled, or under a used id."""
    async with wire_client() as c:
        await c.submit("buy", 1, "MSFT", "limit", limit_price="1", client_order_id="taken")
        c.served.scenario.feed.quote_size = 4
        order = await place_resting_order(c, "100.01")
        _, new = await c.replace(order, limit_price="99")
        await c.advance()
        status, body = await c.replace(new, **changes)
        assert (status, body["message"]) == (422, message)


@pytest.mark.promise("B33")
async def test_replacement_of_an_order_not_at_the_venue_is_rejected() -> None:
    """accepted, pending_new, pending_cancel, pending_replace and anything that is over."""
    early = (
        422,
        {"code": 40010001, "message": "unable to replace order, order isn't sent to exchange yet"},
    )
    async with wire_client() as c:
        order = await c.submit("buy", 1, kind="limit", limit_price="50")
        assert await c.replace(order, qty=2) == early
        await c.advance()
        _, new = await c.replace(order, qty=2)
        assert await c.replace(order, qty=3) == early
        await c.advance()
        over = (422, {"code": 42210000, "message": "unable to replace order, order is not open"})
        assert await c.replace(order, qty=3) == over
        await c.cancel(new)
        assert await c.replace(new, qty=3) == early
        await c.advance()
        assert await c.replace(new, qty=3) == over
    async with wire_client(start=at("20:30")) as c:
        parked = await c.submit("buy", 1, kind="limit", limit_price="50")
        assert parked["status"] == "accepted"
        assert await c.replace(parked, qty=2) == early


@pytest.mark.promise("B33")
async def test_replacement_quantity_includes_earlier_fills_of_the_chain() -> None:
    """Four are filled, the new order says ten in all, and six more make it complete."""
    async with wire_client() as c:
        c.served.scenario.feed.quote_size = 4
        old = await place_resting_order(c, "100.01", 8)
        _, new = await c.replace(old, qty=10, limit_price="99")
        await c.advance()
        seen = await c.get_order(new)
        assert (seen["status"], seen["qty"], seen["filled_qty"]) == ("partially_filled", "10", "4")
        await c.print_trade("98.99", size=400)
        seen = await c.get_order(new)
        assert (seen["status"], seen["filled_qty"], await c.position_qty()) == ("filled", "10", "10")
        fills = await c.get("/v2/account/activities/FILL?direction=asc")
        assert [fill["cum_qty"] for fill in fills] == ["4", "10"]
        await c.assert_audit_clean()


@pytest.mark.promise("B33")
@pytest.mark.parametrize("scripted", [True, False])
async def test_accepted_replacement_may_still_end_rejected(scripted: bool) -> None:
    """The venue refuses it, or the fill was faster: the new order ends rejected, nothing is bought twice."""
    async with wire_client() as c:
        if scripted:
            await c.add_fault("replace_reject")
        old = await place_resting_order(c)
        status, new = await c.replace(old, limit_price="98.5")
        assert status == 200
        if not scripted:
            await c.print_trade("98")
            assert await c.order_status(old) == "filled"
        await c.advance()
        assert (await c.events(new), "order_replace_rejected" in await c.events(old)) == (["rejected"], True)
        seen = await c.get_order(old)
        assert (seen["status"], seen["replaced_by"]) == ("new" if scripted else "filled", None)
        assert await c.order_status(new) == "rejected"
        await c.print_trade("98")
        assert (await c.order_status(old), await c.position_qty()) == ("filled", "10")
        await c.assert_audit_clean()


@pytest.mark.promise("B33")
@pytest.mark.parametrize(("allowed", "status"), [(True, 200), (False, 422)])
async def test_held_stop_is_replaceable_only_when_enabled(allowed: bool, status: int) -> None:
    """The documents allow it, reports deny it; moved, it stays held under its new id and still protects."""
    async with wire_client(held_replaceable=allowed) as c:
        order = await c.submit_bracket(100)
        await c.advance()
        _, stop = await c.order_legs(order)
        answer = await c.replace(stop, stop_price="98")
        assert answer[0] == status
        await c.advance()
        _, now = await c.order_legs(order)
        assert (now["status"], now["stop_price"]) == ("held", "98" if allowed else "95")
        await c.print_trade("97.5")
        assert await c.position_qty() == ("0" if allowed else "100")


@pytest.mark.promise("B34")
async def test_cancel_all_responds_for_each_order() -> None:
    """207; an exit leg is answered with its parent's order, under the leg's own id."""
    async with serve_exchange() as served:
        served.scenario.submit_bracket(10)
        await served.advance()
        plain = (await post_order(served, symbol="MSFT", type="limit", limit_price=100)).json()
        response = await served.request("DELETE", "/v2/orders")
        assert response.status_code == 207
        rows = response.json()
        assert {row["status"] for row in rows} == {200}
        leg = next(row for row in rows if row["id"] != plain["id"])
        assert leg["body"]["id"] != leg["id"]
        assert leg["body"]["status"] == "filled"
        assert leg["id"] in {child["id"] for child in leg["body"]["legs"]}
        await served.advance()
        assert (await served.request("GET", "/v2/orders")).json() == []


@pytest.mark.promise("B35")
async def test_close_of_a_position_reserved_by_exits_is_rejected() -> None:
    """403 without related orders, and the exits live; flat it is 404."""
    async with wire_client() as c:
        order = await c.submit_bracket(10)
        await c.advance()
        assert await c.request("DELETE", "/v2/positions/AAPL") == (
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
        await c.advance()
        assert await c.leg_statuses(order) == ("new", "held")
        assert await c.request("DELETE", "/v2/positions/MSFT") == (
            404,
            {"code": 40410000, "message": "position does not exist"},
        )


@pytest.mark.promise("B35")
async def test_close_sells_an_unreserved_position_in_whole_or_part() -> None:
    """Shares, percent, or all; a short is bought back; both measures at once are refused."""
    async with wire_client() as c:
        await c.given_position(10)
        await c.given_position(-4, "MSFT")
        for query, sold in (("?qty=4", "4"), ("?percentage=50", "3"), ("", "3")):
            status, order = await c.request("DELETE", f"/v2/positions/AAPL{query}")
            assert (status, order["qty"], order["side"], order["type"]) == (200, sold, "sell", "market")
            await c.advance()
        assert (await c.request("DELETE", "/v2/positions/MSFT?percentage=50&qty=1"))[0] == 422
        assert (await c.request("DELETE", "/v2/positions/MSFT"))[1]["side"] == "buy"
        await c.advance()
        assert await c.get("/v2/positions") == []
        await c.assert_audit_clean()


@pytest.mark.promise("B36")
async def test_close_all_is_rejected_while_its_own_cancels_are_pending() -> None:
    """207 with order ids as symbols, then a 403 for the position whose exits are not cancelled yet."""
    async with serve_exchange() as served:
        served.scenario.submit_bracket(10)
        await served.advance()
        rows = (await served.request("DELETE", "/v2/positions?cancel_orders=True")).json()
        assert [row["status"] for row in rows] == [200, 403]
        assert len(rows[0]["symbol"]) == 36
        assert rows[1]["symbol"] == "AAPL"
        assert rows[1]["body"]["related_orders"] == [rows[0]["symbol"]]
        await served.advance()
        assert served.server.exchange.state.account.qty("AAPL") == 10
        await served.post_admin("faults", kind="liquidate_fail", symbol="AAPL")
        rows = (await served.request("DELETE", "/v2/positions")).json()
        assert [(row["status"], row["body"]["message"]) for row in rows] == [(500, "Failed to liquidate")]
        rows = (await served.request("DELETE", "/v2/positions")).json()
        assert [row["status"] for row in rows] == [200]
        await served.advance()
        assert served.server.exchange.state.account.qty("AAPL") == 0


@pytest.mark.promise("B36")
async def test_close_all_waits_for_its_cancels_when_the_race_is_disabled() -> None:
    """With the switch off the cancels are confirmed first, and the position is sold."""
    async with serve_exchange() as served:
        await served.post_admin("settings", liquidation_races=False)
        served.scenario.submit_bracket(10)
        await served.advance()
        rows = (await served.request("DELETE", "/v2/positions?cancel_orders=true")).json()
        assert [row["status"] for row in rows] == [200, 200]
        await served.advance()
        assert served.server.exchange.state.account.qty("AAPL") == 0
        served.scenario.assert_audit_clean()
