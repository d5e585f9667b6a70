"""Exit fills that arrive before their entry fills: the entry is read a few times, and both are booked in the
end."""

from tests.stories.scenario import ENTRY, open_scenario
from tests.stories.test_client_behaviours_exits import replace_by_hand


async def test_both_legs_of_replaced_entry_fill_and_surplus_is_bought_back(database: str) -> None:
    """The legs belong to the replaced entry; when both fill, the oversold shares are recorded and bought
    back."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.20")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        entry = (await scenario.orders("AAPL"))[0]
        await replace_by_hand(scenario, entry["alpaca_order_id"], "190.15")
        await scenario.advance(seconds=2)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=16)
        assert scenario.held_qty("AAPL") == 20
        await scenario.inject_fault("double_exit", symbol="AAPL")
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=16)
        legs = [o for o in await scenario.orders("AAPL") if o["parent_order_id"] == entry["order_id"]]
        assert [(leg["status"], leg["filled_qty"]) for leg in legs] == [("filled", 20), ("filled", 20)]
        assert "OVERSOLD" in await scenario.alert_events()
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent(crossed_zero=True)


async def test_stop_fill_listed_before_entry_fill_makes_one_position(database: str) -> None:
    """Given neither fill is in the stream and the activities show the stop's fill first, then the entry is
    read a few times, within the rate limit, and both fills are booked as one position."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        await scenario.inject_fault("stream_drop", event="fill", count=0)
        scenario.print_trade("AAPL", "190.20")
        await scenario.advance(seconds=1)
        row = await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=1)
        assert row.alpaca_order_id is not None
        assert await scenario.components.broker.fills(order_id=row.alpaca_order_id) == []
        await scenario.inject_fault(
            "stale", method="GET", route="/v2/account/activities*", count=0
        )  # of the entry: none
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=16)
        assert await scenario.position("AAPL") is None
        asked = await scenario.admin(f"logs?method=GET&path=/v2/orders/{row.alpaca_order_id}")
        assert len(asked["requests"]) < 8
        await scenario.clear_faults()
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["exited_qty"]) == ("closed", 20)
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert "OVERSOLD" not in await scenario.alert_events()
        await scenario.assert_consistent()


async def test_partial_target_fill_before_missing_entry_fills_keeps_position_open(database: str) -> None:
    """Given 8 of 20 entry shares are booked and the rest cannot be read, when the target sells 8, then the
    position stays open and ends as one position with one result."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.20")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=1)
        await scenario.inject_fault("stream_drop", event="fill")
        scenario.print_trade("AAPL", "190.00", size=32)
        await scenario.advance(seconds=0.5)
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders*", status=503, count=6)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=0.5)
        assert scenario.held_qty("AAPL") == 20
        scenario.print_trade("AAPL", "194.05", size=32)
        await scenario.advance(seconds=0.5)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (scenario.held_qty("AAPL"), position["quantity"], position["status"]) == (12, 8, "open")
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=70)
        rows = await scenario.conn.fetch("SELECT status, entered_qty, exited_qty FROM positions")
        assert [tuple(row) for row in rows] == [("closed", 20, 20)]
        assert await scenario.alert_events() == []
        await scenario.assert_consistent()
