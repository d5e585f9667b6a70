"""Behaviours 31 to 36: the exchange accepts cancels, replacements and liquidations at once and decides later."""

import pytest

from tests.simulator.manual_feed import at
from tests.simulator.served_exchange import post_order, serve_exchange
from tests.simulator.wire_client import WireClient, type_row, wire_client


async def place_resting_order(
    c: WireClient, price: str = "99", qty: int = 10, symbol: str = "AAPL"
) -> type_row:
    """Submit a buy limit below the market and wait until it is acknowledged."""
    order = await c.submit("buy", qty, symbol, "limit", limit_price=price)
    await c.advance()
    return order


@pytest.mark.promise("B31")
@pytest.mark.parametrize("delay", [0.05, 0.2, 2.0])
async def test_cancel_is_pending_until_the_venue_confirms(delay: float) -> None:
    """A cancel returns 204 and pending_cancel, then canceled after the set delay. A second request changes
    nothing."""
    async with wire_client(cancel=delay) as c:
        order = await place_resting_order(c)
        assert await c.cancel(order) == (204, None)
        current = await c.get_order(order)
        assert (current["status"], current["cancel_requested_at"] is not None) == ("pending_cancel", True)
        assert (await c.cancel(order))[0] == 204
        await c.advance(delay - 0.01)
        assert await c.order_status(order) == "pending_cancel"
        await c.advance(0.02)
        current = await c.get_order(order)
        assert (current["status"], current["canceled_at"] is not None) == ("canceled", True)
        assert await c.events(order) == ["new", "canceled"]


@pytest.mark.promise("B31")
async def test_pending_cancel_event_is_sent_when_enabled() -> None:
    """Most cancels have no pending_cancel event; the setting sends it."""
    async with wire_client(emit_pending=True) as c:
        order = await place_resting_order(c)
        await c.cancel(order)
        await c.advance()
        assert await c.events(order) == ["new", "pending_cancel", "canceled"]


@pytest.mark.promise("B31")
async def test_fill_before_the_confirmation_beats_a_cancel() -> None:
    """A trade before the confirmation fills the order, by chance or by fault. The cancelled order keeps a
    partial fill."""
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
        partial = await place_resting_order(c, "200.01", symbol="TSLA")
        await c.cancel(partial)
        await c.advance()
        current = await c.get_order(partial)
        assert (current["status"], current["filled_qty"], current["filled_avg_price"]) == (
            "canceled",
            "4",
            "200.01",
        )
        await c.assert_audit_clean()


@pytest.mark.promise("B32")
@pytest.mark.parametrize(("strict", "second_status"), [(False, 204), (True, 422)])
async def test_cancel_of_a_terminal_or_replaced_order_is_rejected(strict: bool, second_status: int) -> None:
    """A filled or pending_replace order returns 422 with its state in the text; a canceled one 204, or 422 by
    the setting."""

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
        assert (await c.cancel(new))[0] == second_status
        assert await c.order_status(new) == "canceled"


@pytest.mark.promise("B33")
async def test_replacement_is_a_new_order_linked_to_the_old_one() -> None:
    """The new order has a new id, its own client order id and the old created_at. The old order ends as
    replaced and names the new one."""
    async with wire_client() as c:
        old = await place_resting_order(c)
        await c.advance(5)
        status, new = await c.replace(old, limit_price="98", client_order_id="ours-2")
        assert (status, new["replaces"], new["client_order_id"]) == (200, old["id"], "ours-2")
        assert (new["created_at"], new["id"] != old["id"]) == (old["created_at"], True)
        assert new["submitted_at"] > old["submitted_at"]
        assert (new["status"], await c.order_status(old)) == ("pending_new", "pending_replace")
        await c.advance()
        replaced = await c.get_order(old)
        assert (replaced["status"], replaced["replaced_by"]) == ("replaced", new["id"])
        assert replaced["replaced_at"] is not None
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
    """A change is rejected if it is empty, of the wrong kind, off the tick, at most the chain's filled
    quantity, or under a used id."""
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
    """Orders in accepted, pending_new, pending_cancel, pending_replace or a terminal status cannot be
    replaced."""
    not_sent = (
        422,
        {"code": 40010001, "message": "unable to replace order, order isn't sent to exchange yet"},
    )
    async with wire_client() as c:
        order = await c.submit("buy", 1, kind="limit", limit_price="50")
        assert await c.replace(order, qty=2) == not_sent
        await c.advance()
        _, new = await c.replace(order, qty=2)
        assert await c.replace(order, qty=3) == not_sent
        await c.advance()
        not_open = (422, {"code": 42210000, "message": "unable to replace order, order is not open"})
        assert await c.replace(order, qty=3) == not_open
        await c.cancel(new)
        assert await c.replace(new, qty=3) == not_sent
        await c.advance()
        assert await c.replace(new, qty=3) == not_open
    async with wire_client(start=at("20:30")) as c:
        overnight = await c.submit("buy", 1, kind="limit", limit_price="50")
        assert overnight["status"] == "accepted"
        assert await c.replace(overnight, qty=2) == not_sent


@pytest.mark.promise("B33")
async def test_replacement_quantity_includes_earlier_fills_of_the_chain() -> None:
    """Four shares are filled, the new order has a quantity of ten in all, and six more complete it."""
    async with wire_client() as c:
        c.served.scenario.feed.quote_size = 4
        old = await place_resting_order(c, "100.01", 8)
        _, new = await c.replace(old, qty=10, limit_price="99")
        await c.advance()
        current = await c.get_order(new)
        assert (current["status"], current["qty"], current["filled_qty"]) == ("partially_filled", "10", "4")
        await c.print_trade("98.99", size=400)
        current = await c.get_order(new)
        assert (current["status"], current["filled_qty"], await c.position_qty()) == ("filled", "10", "10")
        fills = await c.get("/v2/account/activities/FILL?direction=asc")
        assert [fill["cum_qty"] for fill in fills] == ["4", "10"]
        await c.assert_audit_clean()


@pytest.mark.promise("B33")
@pytest.mark.parametrize("scripted", [True, False])
async def test_accepted_replacement_may_still_end_rejected(scripted: bool) -> None:
    """The venue rejects it, or the fill came first: the new order ends rejected and nothing is bought twice."""
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
        current = await c.get_order(old)
        assert (current["status"], current["replaced_by"]) == ("new" if scripted else "filled", None)
        assert await c.order_status(new) == "rejected"
        await c.print_trade("98")
        assert (await c.order_status(old), await c.position_qty()) == ("filled", "10")
        await c.assert_audit_clean()


@pytest.mark.promise("B33")
@pytest.mark.parametrize(("allowed", "status"), [(True, 200), (False, 422)])
async def test_held_stop_is_replaceable_only_when_enabled(allowed: bool, status: int) -> None:
    """Alpaca's documents allow it, user reports deny it. A replaced stop stays held under its new id and
    still protects."""
    async with wire_client(held_replaceable=allowed) as c:
        order = await c.submit_bracket(100)
        await c.advance()
        _, stop = await c.order_legs(order)
        response = await c.replace(stop, stop_price="98")
        assert response[0] == status
        await c.advance()
        _, current_stop = await c.order_legs(order)
        assert (current_stop["status"], current_stop["stop_price"]) == ("held", "98" if allowed else "95")
        await c.print_trade("97.5")
        assert await c.position_qty() == ("0" if allowed else "100")


@pytest.mark.promise("B34")
async def test_cancel_all_responds_for_each_order() -> None:
    """The response is 207. The row of an exit leg has the leg's id and its parent order as body."""
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
    """The response is 403 without related orders and the exits stay working; without a position it is 404."""
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
    """Close by shares, by percent, or all. A short is bought back. A request with both measures is rejected."""
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
    """The response is 207 with order ids as symbols, and 403 for the position whose exits are not cancelled
    yet."""
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
    """With the setting off the cancels are confirmed first and the position is sold."""
    async with serve_exchange() as served:
        await served.post_admin("settings", liquidation_races=False)
        served.scenario.submit_bracket(10)
        await served.advance()
        rows = (await served.request("DELETE", "/v2/positions?cancel_orders=true")).json()
        assert [row["status"] for row in rows] == [200, 200]
        await served.advance()
        assert served.server.exchange.state.account.qty("AAPL") == 0
        served.scenario.assert_audit_clean()
