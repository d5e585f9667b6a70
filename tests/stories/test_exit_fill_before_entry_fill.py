"""An exit's fill of more than is booked as bought: its entry is asked for, a few times, and it is booked in the end."""

from tests.stories.scenario import ENTRY, open_desk
from tests.stories.test_client_behaviours_exits import replaces_by_hand


async def test_both_legs_fill_under_an_entry_that_was_replaced(database: str) -> None:
    """The legs stand under the order that was replaced and never fills; what the second of them sold too much is on
    record all the same, and bought back."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.20")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=2)
        entry = (await desk.orders("AAPL"))[0]
        await replaces_by_hand(desk, entry["alpaca_order_id"], "190.15")
        await desk.waits(seconds=2)
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=16)
        assert desk.held("AAPL") == 20
        await desk.faults("double_exit", symbol="AAPL")
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=16)
        legs = [o for o in await desk.orders("AAPL") if o["parent_order_id"] == entry["order_id"]]
        assert [(leg["status"], leg["filled_qty"]) for leg in legs] == [("filled", 20), ("filled", 20)]
        assert "OVERSOLD" in await desk.alerts()
        assert desk.held("AAPL") == 0
        await desk.agrees(crossed=True)


async def test_the_ledger_has_the_stops_fill_before_its_entrys(database: str) -> None:
    """Neither fill comes by the stream, and of the two the ledger shows the later one first: the broker is asked a few
    times, not as often as the budget of requests allows, and then both are booked as one position."""
    async with open_desk(database) as desk:
        assert desk.parts is not None
        await desk.faults("stream_drop", event="fill", count=0)
        desk.prints("AAPL", "190.20")
        await desk.waits(seconds=1)
        row = await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=1)
        assert row.alpaca_order_id is not None
        assert await desk.parts.broker.fills(order_id=row.alpaca_order_id) == []
        await desk.faults(
            "stale", method="GET", route="/v2/account/activities*", count=0
        )  # of the entry: none
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=16)
        assert await desk.position("AAPL") is None
        asked = await desk.admin(f"ledger?method=GET&path=/v2/orders/{row.alpaca_order_id}")
        assert len(asked["requests"]) < 8
        await desk.heals()
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], position["exited_qty"]) == ("closed", 20)
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert "OVERSOLD" not in await desk.alerts()
        await desk.agrees()


async def test_a_target_fills_in_slices_before_the_rest_of_its_entry_was_heard(database: str) -> None:
    """Eight of twenty are booked and the other twelve are not heard of, nor can they be asked for: eight sold by the
    target are not the end of the position; it is one, and has one result."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.20")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=1)
        await desk.faults("stream_drop", event="fill")
        desk.prints("AAPL", "190.00", size=32)
        await desk.waits(seconds=0.5)
        await desk.faults("status_before", method="GET", route="/v2/orders*", status=503, count=6)
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=0.5)
        assert desk.held("AAPL") == 20
        desk.prints("AAPL", "194.05", size=32)
        await desk.waits(seconds=0.5)
        position = await desk.position("AAPL")
        assert position is not None
        assert (desk.held("AAPL"), position["quantity"], position["status"]) == (12, 8, "open")
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=70)
        found = await desk.conn.fetch("SELECT status, entered_qty, exited_qty FROM positions")
        assert [tuple(row) for row in found] == [("closed", 20, 20)]
        assert await desk.alerts() == []
        await desk.agrees()
