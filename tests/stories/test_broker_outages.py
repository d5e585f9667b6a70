"""A broker in bad health: storms, outages, reads that lag or lie. Nothing is traded on the word of a bad read."""

import pytest

from tests.stories.scenario import ENTRY, open_desk


async def test_an_outage_of_half_an_hour(database: str) -> None:
    """Everything is refused for thirty minutes with a position open: nothing breaks, and afterwards all agrees."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status_before", route="/v2/*", status=503, count=0)
        desk.prints("AAPL", "187.50", after=300)
        await desk.waits(minutes=30)
        await desk.heals()
        await desk.waits(seconds=60)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], desk.held("AAPL")) == ("closed", 0)
        await desk.agrees()


async def test_writes_fail_and_reads_work(database: str) -> None:
    """Orders, changes and cancels fail for two minutes: the exit is retried, somebody is told, and it gets through."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status_before", method="POST", route="/v2/orders", status=500, count=0)
        for verb in ("DELETE", "PATCH"):
            await desk.faults("status_before", method=verb, route="/v2/orders/*", status=500, count=0)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=120)
        assert desk.held("AAPL") == 20
        assert "EXIT_SLOW" in await desk.alerts()
        await desk.heals()
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_c29_a_storm_of_429(database: str) -> None:
    """Every other request is turned away for a while: the entry is shed or made, once, and books agree."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("rate_limit", route="/v2/*", count=25)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=180)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_c33_positions_that_lag_ten_seconds(database: str) -> None:
    """The list of positions runs ten seconds behind the fills: no alarm, no second order, and an exit still sells."""
    async with open_desk(database) as desk:
        await desk.admin("switches", {"position_lag": 10})
        await desk.holds("AAPL", 20)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 0
        assert await desk.alerts() == []
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        await desk.agrees()


async def test_c19_a_partial_entry_while_positions_lag(database: str) -> None:
    """The broker has not booked the eight shares yet and refuses their OCO: it is tried until it stands."""
    async with open_desk(database) as desk:
        await desk.admin("switches", {"position_lag": 10})
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=40)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (8, "open")
        assert position["protected_at"] is not None
        await desk.agrees()


@pytest.mark.parametrize("route", ["/v2/positions", "/v2/orders", "/v2/account/activities/FILL"])
async def test_c33_lists_that_come_back_empty(database: str, route: str) -> None:
    """An empty list for two minutes is not a flat account: nothing is closed, sold or placed because of it."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("empty", method="GET", route=route, count=0)
        await desk.waits(minutes=2)
        await desk.heals()
        await desk.waits(seconds=70)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], desk.held("AAPL")) == ("open", 20)
        assert await desk.submits("AAPL") == 1
        assert desk.parts is not None
        assert desk.parts.gate.open
        assert desk.parts.gate.refusal("AAPL") is None
        await desk.agrees()


async def test_keys_refused_for_a_while(database: str) -> None:
    """401 in the middle of the day: no tight loop, and without a restart all goes on when they work again."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        before = len((await desk.admin("ledger"))["requests"])
        await desk.faults("unauthorized", route="/v2/*", count=0)
        await desk.waits(minutes=2)
        row = await desk.enters("MSFT", 5, **ENTRY)
        assert row.status == "rejected"
        assert "KEYS_REFUSED" in await desk.alerts()
        assert len((await desk.admin("ledger"))["requests"]) - before < 120
        await desk.heals()
        await desk.waits(seconds=60)
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        assert (await desk.enters("MSFT", 5, **ENTRY)).status != "rejected"
        await desk.waits(seconds=10)
        await desk.agrees()


async def test_shares_that_vanish_without_a_fill(database: str) -> None:
    """The broker has no share and no fill tells why: after looks that last, the position is written off for all
    to see, with its result unknown, and the symbol is free again."""
    async with open_desk(database, risk={"max_daily_loss": 50_000}) as desk:
        await desk.holds("AAPL", 20)
        for leg in [o for o in await desk.orders("AAPL") if o["order_purpose"] == "take_profit"]:
            await desk.admin("cancel", {"id": leg["alpaca_order_id"]})
        desk.server.exchange.account.positions.pop("AAPL")
        await desk.waits(seconds=150)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("RECONCILED_PHANTOM")
        assert position["realized_pnl"] == 0
        assert "RECONCILED_PHANTOM" in await desk.alerts()
        assert await desk.conn.fetchval("SELECT count(*) FROM order_events WHERE kind = 'adjustment'") == 1
        await desk.waits(seconds=120)
        assert desk.parts is not None
        assert desk.parts.gate.refusal("AAPL") is None


async def test_an_order_no_table_can_hold(database: str) -> None:
    """Somebody buys for dollars, a quantity nobody knows yet: kept aside and told of, and the rest goes on."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.admin(
            "order",
            {"symbol": "MSFT", "notional": "100", "side": "buy", "type": "market", "time_in_force": "day"},
        )
        await desk.waits(seconds=70)
        assert "ORDER_UNACCEPTABLE" in await desk.alerts() or "FOREIGN_ORDER" in await desk.alerts()
        await desk.dies()
        await desk.opens()
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=10)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert "SAFE_MODE" not in await desk.alerts()
