"""The trade_updates stream lies, stammers and goes away; the books end up as if it had not."""

import pytest

from catalyst.broker.port import StreamState
from tests.stories.scenario import ENTRY, Scenario, open_scenario, wait_until


async def trade_to_target(scenario: Scenario) -> None:
    """An entry and its target, with whatever is wrong with the stream."""
    scenario.print_trade("AAPL", "190.00")
    await scenario.advance(seconds=1)
    await scenario.submit_entry("AAPL", 20, **ENTRY)
    await scenario.advance(seconds=40)
    position = await scenario.position("AAPL")
    assert position is not None
    assert (position["quantity"], position["status"]) == (20, "open")
    assert position["protected_at"] is not None
    scenario.print_trade("AAPL", "194.05")
    await scenario.advance(seconds=40)
    position = await scenario.position("AAPL")
    assert position is not None
    assert position["status"] == "closed"
    assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
    await scenario.assert_consistent()


@pytest.mark.promise("C11")
@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "stream_duplicate", "qty": "5", "count": 0},
        {"kind": "stream_reorder", "count": 0, "event": "new"},
        {"kind": "stream_reorder", "count": 0, "event": "fill"},
        {"kind": "stream_drop", "event": "fill", "count": 0},
        {"kind": "stream_drop", "count": 0},
        {"kind": "stream_late", "seconds": 30, "event": "fill", "count": 0},
        {"kind": "stream_status", "count": 0},
        {"kind": "stream_status", "event": "fill", "count": 0},
        {"kind": "stream_event", "count": 0},
        {"kind": "stream_fields", "fields": ["price", "qty"], "count": 0},
        {"kind": "stream_fields", "fields": ["status", "symbol"], "count": 0},
        {"kind": "stream_null", "count": 0},
        {"kind": "stream_raw", "text": "\u0000{", "count": 0},
        {"kind": "stream_error", "count": 0},
        {"kind": "stream_disconnect", "event": "fill"},
        {"kind": "stream_disconnect", "event": "new", "count": 2},
    ],
    ids=lambda rule: "-".join(str(value) for value in rule.values()),
)
async def test_trade_is_booked_exactly_despite_stream_faults(database: str, rule: dict[str, object]) -> None:
    """Bought, protected, sold at the target: to the share and the cent what the exchange says."""
    async with open_scenario(database) as scenario:
        await scenario.admin("faults", rule)
        await trade_to_target(scenario)


@pytest.mark.promise("C35")
async def test_entries_wait_while_stream_login_is_refused(database: str) -> None:
    """The login is refused: no entry leaves, somebody is told, fills are found by asking; later all is as before."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        await scenario.inject_fault("stream_refuse", count=2)
        stream = scenario.components.stream
        await scenario.admin("stream", {"act": "disconnect"})
        await wait_until(
            lambda: stream.state is not StreamState.READY
        )  # the other end of a socket takes real time
        await scenario.advance(seconds=10)
        assert "stream" in scenario.components.gate.reasons
        assert "STREAM_LOST" in await scenario.alert_events()
        row = await scenario.submit_entry("MSFT", 5, **ENTRY)
        assert (row.status, await scenario.count_submitted("MSFT")) == ("rejected", 0)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await scenario.advance(seconds=120)
        assert scenario.components.gate.is_open
        await scenario.assert_consistent()


@pytest.mark.promise("C30")
async def test_entries_wait_until_gap_is_reconciled(database: str) -> None:
    """The stream is back while the list of orders fails: entries stay stopped, and start once a look succeeded."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        await scenario.advance(seconds=5)
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=500, count=3)
        await scenario.admin("stream", {"act": "disconnect"})
        await scenario.advance(seconds=4)
        assert "stream" in scenario.components.gate.reasons
        await scenario.advance(seconds=120)
        assert scenario.components.gate.is_open


@pytest.mark.promise("C12")
async def test_fill_missing_from_stream_is_booked_by_poll(database: str) -> None:
    """One message never comes and the stream is otherwise well: fifteen seconds later the fill is booked."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("stream_drop", event="fill", symbol="AAPL")
        await scenario.inject_fault("stream_drop", event="new", symbol="AAPL", count=0)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=16)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        await scenario.assert_consistent()


@pytest.mark.promise("C15")
async def test_stop_filled_by_replacement_order_is_booked_once(database: str) -> None:
    """The broker works a triggered stop under a new id: one loss, booked once, with the stop's own reason."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin("settings", {"stop_by_replacement": True})
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        worker = next(o for o in await scenario.orders("AAPL") if o["replaces"] is not None)
        assert (worker["order_purpose"], worker["status"]) == ("stop_loss", "filled")
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


async def test_oco_stop_replaced_by_broker_is_booked(database: str) -> None:
    """The same under an OCO, whose parent is the target."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=15)
        await scenario.admin("settings", {"stop_by_replacement": True})
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await scenario.assert_consistent()


@pytest.mark.parametrize("read", ["well", "badly", "yesterday's"])
async def test_stop_fill_received_before_entry_fill_makes_one_position(database: str, read: str) -> None:
    """The stream loses the entry's fill and tells the stop's, two seconds later: what was sold is booked once it is
    booked as bought, whatever the broker answers when it is asked for that; one position, one loss, nobody paged."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("stream_drop", event="fill")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=1)
        assert await scenario.position("AAPL") is None
        if read == "badly":
            await scenario.inject_fault(
                "status_before", method="GET", route="/v2/orders*", status=503, count=3
            )
        if read == "yesterday's":
            await scenario.inject_fault("stale", method="GET", route="/v2/orders*", count=3)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=70)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert await scenario.alert_events() == []
        await scenario.assert_consistent()
