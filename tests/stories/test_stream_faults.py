"""The trade_updates stream lies, stammers and goes away; the books end up as if it had not."""

import pytest

from catalyst.broker.port import StreamState
from tests.stories.scenario import ENTRY, Desk, open_desk, until


async def buys_through(desk: Desk) -> None:
    """An entry and its target, with whatever is wrong with the stream."""
    desk.prints("AAPL", "190.00")
    await desk.waits(seconds=1)
    await desk.enters("AAPL", 20, **ENTRY)
    await desk.waits(seconds=40)
    position = await desk.position("AAPL")
    assert position is not None
    assert (position["quantity"], position["status"]) == (20, "open")
    assert position["protected_at"] is not None
    desk.prints("AAPL", "194.05")
    await desk.waits(seconds=40)
    position = await desk.position("AAPL")
    assert position is not None
    assert position["status"] == "closed"
    assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
    await desk.agrees()


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
async def test_c11_a_trade_over_a_bad_stream(database: str, rule: dict[str, object]) -> None:
    """Bought, protected, sold at the target: to the share and the cent what the exchange says."""
    async with open_desk(database) as desk:
        await desk.admin("faults", rule)
        await buys_through(desk)


async def test_c35_entries_wait_for_a_stream_that_is_refused(database: str) -> None:
    """The login is refused: no entry leaves, somebody is told, fills are found by asking; later all is as before."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        await desk.faults("stream_refuse", count=2)
        stream = desk.parts.stream
        await desk.admin("stream", {"act": "disconnect"})
        await until(
            lambda: stream.state is not StreamState.READY
        )  # the other end of a socket takes real time
        await desk.waits(seconds=10)
        assert "stream" in desk.parts.gate.reasons
        assert "STREAM_LOST" in await desk.alerts()
        row = await desk.enters("MSFT", 5, **ENTRY)
        assert (row.status, await desk.submits("MSFT")) == ("rejected", 0)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=10)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await desk.waits(seconds=120)
        assert desk.parts.gate.open
        await desk.agrees()


async def test_c30_a_gap_that_could_not_be_filled_is_filled_later(database: str) -> None:
    """The stream is back while the list of orders fails: entries stay stopped, and start once a look succeeded."""
    async with open_desk(database) as desk:
        assert desk.parts is not None
        await desk.waits(seconds=5)
        await desk.faults("status_before", method="GET", route="/v2/orders", status=500, count=3)
        await desk.admin("stream", {"act": "disconnect"})
        await desk.waits(seconds=4)
        assert "stream" in desk.parts.gate.reasons
        await desk.waits(seconds=120)
        assert desk.parts.gate.open


async def test_c12_a_lost_fill_is_found_within_a_poll(database: str) -> None:
    """One message never comes and the stream is otherwise well: fifteen seconds later the fill is booked."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("stream_drop", event="fill", symbol="AAPL")
        await desk.faults("stream_drop", event="new", symbol="AAPL", count=0)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=16)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        await desk.agrees()


async def test_c15_a_stop_that_fills_through_another_order(database: str) -> None:
    """The broker works a triggered stop under a new id: one loss, booked once, with the stop's own reason."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.admin("switches", {"stop_by_replacement": True})
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        worker = next(o for o in await desk.orders("AAPL") if o["replaces"] is not None)
        assert (worker["order_purpose"], worker["status"]) == ("stop_loss", "filled")
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


async def test_a_stop_replaced_by_the_broker_after_a_partial_entry(database: str) -> None:
    """The same under an OCO, whose parent is the target."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=15)
        await desk.admin("switches", {"stop_by_replacement": True})
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], desk.held("AAPL")) == ("closed", 0)
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await desk.agrees()


@pytest.mark.parametrize("read", ["well", "badly", "yesterday's"])
async def test_a_stop_fills_before_its_entrys_fill_was_heard(database: str, read: str) -> None:
    """The stream loses the entry's fill and tells the stop's, two seconds later: what was sold is booked once it is
    booked as bought, whatever the broker answers when it is asked for that; one position, one loss, nobody paged."""
    async with open_desk(database) as desk:
        await desk.faults("stream_drop", event="fill")
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=1)
        assert await desk.position("AAPL") is None
        if read == "badly":
            await desk.faults("status_before", method="GET", route="/v2/orders*", status=503, count=3)
        if read == "yesterday's":
            await desk.faults("stale", method="GET", route="/v2/orders*", count=3)
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=70)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert await desk.alerts() == []
        await desk.agrees()
