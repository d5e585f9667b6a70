"""Stream faults: wrong, duplicated, late and lost trade updates lead to the same order ledger."""

import pytest

from catalyst.broker.port import StreamState
from catalyst.simulator.exchange.settings import ExchangeSettings
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.waiting import wait_until


async def trade_to_target(scenario: Scenario) -> None:
    """Trade an entry and its target, whatever is wrong with the stream."""
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
        {"kind": "stream_replay", "count": 0},
        {"kind": "stream_replay", "event": "fill"},
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
    """With each stream fault a trade is booked as on the exchange, to the share and the cent."""
    async with open_scenario(database) as scenario:
        await scenario.admin("faults", rule)
        await trade_to_target(scenario)


@pytest.mark.promise("C11")
@pytest.mark.parametrize(
    "rule",
    [
        None,
        {"kind": "stream_duplicate", "event": "pending_new", "count": 0},
        {"kind": "stream_reorder", "event": "pending_new", "count": 0},
        {"kind": "stream_late", "event": "pending_new", "seconds": 30, "count": 0},
        {"kind": "drop", "method": "POST", "route": "/v2/orders"},
    ],
    ids=lambda rule: "none" if rule is None else "-".join(str(value) for value in rule.values()),
)
async def test_trade_is_booked_exactly_with_a_message_before_the_acknowledgement(
    database: str, rule: dict[str, object] | None
) -> None:
    """`pending_new`, which has no execution id and may come before the response, twice, late or after `new`, changes
    nothing of the trade; it tells of an order whose response was lost."""
    async with open_scenario(database, exchange_settings=ExchangeSettings()) as scenario:
        assert scenario.server.exchange.state.settings.emit_pending_new
        if rule is not None:
            await scenario.admin("faults", rule)
        await trade_to_target(scenario)


@pytest.mark.promise("C35")
async def test_entries_wait_while_stream_login_is_refused(database: str) -> None:
    """While the stream login is refused, entries are rejected, an alert is raised and fills are polled; later
    entries are allowed."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        await scenario.inject_fault("stream_refuse", count=2)
        stream = scenario.components.stream
        await scenario.admin("stream", {"act": "disconnect"})
        await wait_until(
            lambda: stream.state is not StreamState.READY
        )  # the server's end of the socket needs real time
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
    """After a reconnect entries stay blocked until a reconciliation succeeds."""
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
    """A fill missing from a working stream is booked by the poll within 16 seconds."""
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


async def test_exit_waits_for_the_replacement_of_a_stop(database: str) -> None:
    """Given the broker fills the stop through another order that no report shows for some seconds, and its positions
    lag, when a person closes the position, then no sale is sent: the shares are sold already."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin("settings", {"stop_by_replacement": True})
        for event in ("new", "fill"):
            await scenario.inject_fault("stream_drop", symbol="AAPL", event=event)
        await scenario.inject_fault("position_lag", symbol="AAPL", side="sell", seconds=10)
        reads = {"method": "GET", "route": "/v2/orders*"}
        await scenario.inject_fault("status_before", id="reads", **reads, status=503, count=0)
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=0.5)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=2)
        scenario.server.exchange.state.faults.remove("reads")
        await scenario.advance(seconds=30)
        assert await scenario.count_submitted("AAPL") == 1
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await scenario.assert_consistent()


@pytest.mark.promise("C15")
@pytest.mark.parametrize("is_dropped", [False, True])
async def test_stop_filled_by_replacement_order_is_booked_once(database: str, *, is_dropped: bool) -> None:
    """A stop that the broker fills through a replacement order is booked once, with the stop's reason; no other order
    is sent, also when only the replacement is reported and its fill is not."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        if is_dropped:
            await scenario.inject_fault("stream_drop", event="fill")
            await scenario.inject_fault("slow", method="GET", route="/v2/orders*", seconds=2)
        await scenario.admin("settings", {"stop_by_replacement": True})
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        replacement = next(o for o in await scenario.orders("AAPL") if o["replaces"] is not None)
        assert (replacement["order_purpose"], replacement["status"]) == ("stop_loss", "filled")
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


async def test_oco_stop_replaced_by_broker_is_booked(database: str) -> None:
    """A stop of an OCO that the broker fills through a replacement order is booked."""
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


@pytest.mark.parametrize("order_read", ["ok", "error", "stale"])
async def test_stop_fill_received_before_entry_fill_makes_one_position(
    database: str, order_read: str
) -> None:
    """Given the entry's fill is missing from the stream, when the stop's fill arrives, then both are booked
    as one position without an alert, whether the entry's read succeeds, fails or is stale."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("stream_drop", event="fill")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=1)
        assert await scenario.position("AAPL") is None
        if order_read == "error":
            await scenario.inject_fault(
                "status_before", method="GET", route="/v2/orders*", status=503, count=3
            )
        if order_read == "stale":
            await scenario.inject_fault("stale", method="GET", route="/v2/orders*", count=3)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=70)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert await scenario.alert_events() == []
        await scenario.assert_consistent()
