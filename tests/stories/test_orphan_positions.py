"""Shares that no order of ours bought: of symbols that are ours they come under a stop, and somebody is told."""

from datetime import timedelta
from decimal import Decimal

import pytest

from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import client_order_id
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Desk, Facts, open_desk

TUESDAY = MONDAY + timedelta(days=1)


async def buys(desk: Desk, symbol: str, qty: int, **terms: object) -> str:
    """A person buys at the market."""
    order = {"symbol": symbol, "side": "buy", "qty": str(qty), "type": "market", "time_in_force": "day"}
    return str((await desk.admin("order", {**order, **terms}))["id"])


async def trades(desk: Desk, symbol: str) -> None:
    """A round trip of ours, which makes the symbol one we answer for."""
    await desk.holds(symbol, 20)
    desk.prints(symbol, "194.05")
    await desk.waits(seconds=5)
    assert desk.held(symbol) == 0


async def orphan_of(desk: Desk) -> Facts:
    row = await desk.conn.fetchrow("SELECT * FROM orphans")
    assert row is not None
    return dict(row)


async def live_exits(desk: Desk, symbol: str) -> list[tuple[str, str, Decimal]]:
    """Working exits at the exchange itself: type, status, shares."""
    ledger = await desk.admin("ledger")
    alive = {"new", "held", "accepted", "pending_new", "partially_filled"}
    return sorted(
        (o["type"], o["status"], Decimal(o["qty"]))
        for o in ledger["orders"]
        if o["symbol"] == symbol and o["status"] in alive
    )


async def inherits(desk: Desk) -> None:
    """Seven shares were bought by hand yesterday, while no daemon ran, in a symbol that we traded before."""
    await trades(desk, "AAPL")
    await desk.dies()
    await buys(desk, "AAPL", 7)
    desk.prints("AAPL", "194.00", after=1)
    await desk.clock.advance_to(at("10:15", TUESDAY))
    assert desk.held("AAPL") == 7
    desk.prints("AAPL", "194.00")
    await desk.opens()
    await desk.waits(seconds=25)


@pytest.mark.parametrize("policy", ["protect", "alert"])
async def test_a_person_buys_what_we_trade(database: str, policy: str) -> None:
    """Today's purchase by hand is a position with a stop and a target for exactly its shares, and is left as one;
    with `alert` it is only told of, and blocks the symbol."""
    async with open_desk(database, reconcile={"orphans": policy}) as desk:
        await trades(desk, "AAPL")
        await buys(desk, "AAPL", 7)
        await desk.waits(seconds=20)
        assert desk.parts is not None
        position = await desk.position("AAPL")
        assert position is not None
        if policy == "alert":
            assert (position["status"], await live_exits(desk, "AAPL")) == ("closed", [])
            assert "FOREIGN_FILL" in await desk.alerts()
            assert "AAPL" in desk.parts.gate.disputed
            return
        assert (position["status"], position["quantity"]) == ("open", 7)
        assert position["cycle_id"] == desk.parts.day.cycle_id  # type: ignore[union-attr]
        assert position["protected_at"] is not None
        assert await live_exits(desk, "AAPL") == [("limit", "new", 7), ("stop", "held", 7)]
        await desk.agrees()
        desk.prints("AAPL", "188.00")
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_a_person_adds_to_what_we_hold(database: str) -> None:
    """Seven more of what we hold, by hand: one position of twenty-seven, under one stop for all of it."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await buys(desk, "AAPL", 7)
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["stop_loss"]) == (27, Decimal("188.00"))
        assert await live_exits(desk, "AAPL") == [("limit", "new", 27), ("stop", "held", 27)]
        await desk.agrees()


async def test_shares_from_before_are_kept_under_a_stop(database: str) -> None:
    """Yesterday's shares that nothing of ours explains: no position is invented; a stop and a target that outlive
    the day, an alert, an adjustment, no entry in the symbol. A flatten leaves them, a restart changes nothing; the
    stop sells them, and the symbol is free again."""
    async with open_desk(database, now=at("15:30", MONDAY)) as desk:
        await inherits(desk)
        orphan = await orphan_of(desk)
        assert (orphan["cause"], orphan["side"], orphan["quantity"]) == ("unexplained", "long", 7)
        assert orphan["protected_at"] is not None
        assert orphan["stop_price"] == Decimal("190.12")  # two percent below the market, on tick
        assert await live_exits(desk, "AAPL") == [("limit", "new", 7), ("stop", "held", 7)]
        assert "ORPHAN_POSITION" in await desk.alerts()
        kinds = {r["kind"] for r in await desk.conn.fetch("SELECT kind FROM order_events")}
        assert "adjustment" in kinds
        assert (
            await desk.conn.fetchval("SELECT count(*) FROM quarantine WHERE reason LIKE 'ORPHAN_POSITION%'")
            == 1
        )
        assert await desk.conn.fetchval("SELECT count(*) FROM positions WHERE status = 'open'") == 0
        assert (await desk.enters("AAPL", 5, **ENTRY)).status == "rejected"

        await desk.dies()
        submitted = await desk.submits("AAPL")
        await desk.opens()
        await desk.waits(seconds=30)
        assert await desk.submits("AAPL") == submitted
        assert (
            await desk.conn.fetchval("SELECT count(*) FROM quarantine WHERE reason LIKE 'ORPHAN_POSITION%'")
            == 1
        )

        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 0
        orphan = await orphan_of(desk)
        assert (orphan["quantity"], orphan["ending"], orphan["exited_qty"]) == (0, "left", 7)
        assert orphan["realized_pnl"] is None  # nobody knows what they had cost
        assert desk.parts is not None
        assert "AAPL" not in desk.parts.gate.disputed


async def test_shares_from_before_are_sold(database: str) -> None:
    """With `close` they are sold as soon as they are believed, once, whatever the broker refuses meanwhile."""
    async with open_desk(database, now=at("15:30", MONDAY), reconcile={"orphans": "close"}) as desk:
        await desk.faults("status", method="GET", route="/v2/positions/AAPL", status=503, count=2)
        await inherits(desk)
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        assert (await orphan_of(desk))["ending"] == "left"
        exits = [o for o in await desk.orders("AAPL") if o["origin"] == "orphan"]
        assert [(o["order_purpose"], o["status"], o["quantity"]) for o in exits] == [("exit", "filled", 7)]


async def test_death_while_buying_back(database: str) -> None:
    """Killed right after the purchase that undoes the surplus: the next start finds it and buys nothing more."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("double_exit", symbol="AAPL")
        desk.prints("AAPL", "194.05")
        await desk.dies_at("POST /orders", Moment.AFTER)
        await desk.opens()
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 0
        assert (await orphan_of(desk))["ending"] == "left"
        assert await desk.submits("AAPL") == 2
        await desk.agrees(crossed=True)


async def test_the_broker_takes_only_a_plain_stop_for_the_day(database: str) -> None:
    """Hard to borrow, and no OCO: a stop for the day is better than none."""
    async with open_desk(database, now=at("15:30", MONDAY)) as desk:
        await desk.admin("switches", {"hard_to_borrow": ["AAPL"]})
        await inherits(desk)
        await desk.waits(seconds=10)
        assert (await orphan_of(desk))["protected_at"] is not None
        live = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["time_in_force"], o["quantity"]) for o in live} == {("day", Decimal(7))}


async def test_an_entry_of_ours_without_its_row(database: str) -> None:
    """The tables lost an entry that the broker has (a restored backup, say): its id says that it is ours. It is the
    position, with its own legs, and nothing is sent a second time."""
    async with open_desk(database) as desk:
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        await buys(
            desk,
            "MSFT",
            10,
            client_order_id=client_order_id("lost", "e", 0),
            order_class="bracket",
            take_profit={"limit_price": "194.00"},
            stop_loss={"stop_price": "188.00"},
        )
        await desk.waits(seconds=20)
        position = await desk.position("MSFT")
        assert position is not None
        assert (position["quantity"], position["stop_loss"], position["take_profit"]) == (10, 188, 194)
        assert position["protected_at"] is not None
        assert "ORDER_ADOPTED" in await desk.alerts()
        assert len(await desk.orders("MSFT")) == 3
        await desk.agrees()
