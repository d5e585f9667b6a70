"""The daemon dies at each step of an entry, of its protection, of an exit and of a flatten; the next one goes on."""

from decimal import Decimal

import pytest

from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Purpose
from tests.stories.scenario import ENTRY, open_desk

BEFORE, AFTER = Moment.BEFORE, Moment.AFTER


@pytest.mark.parametrize(
    ("step", "moment", "arrives"),
    [
        ("submit", BEFORE, False),
        ("submit", AFTER, False),
        ("POST /orders", BEFORE, False),
        ("POST /orders", AFTER, True),
        ("hear", BEFORE, True),
        ("hear", AFTER, True),
    ],
)
async def test_death_while_entering(database: str, step: str, moment: Moment, arrives: bool) -> None:
    """Whatever reached the exchange is adopted with its legs and protected; what did not is never sent again."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.dies_at(step, moment, desk.enters("AAPL", 20, **ENTRY))
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == (20 if arrives else 0)

        await desk.opens()
        await desk.waits(seconds=40)
        orders = await desk.orders("AAPL")
        if arrives:
            position = await desk.position("AAPL")
            assert position is not None
            assert (position["quantity"], position["status"]) == (20, "open")
            assert position["protected_at"] is not None
            assert len(orders) == 3
        elif orders:
            assert [(o["status"], o["rejection_reason"]) for o in orders] == [("rejected", "NEVER_ARRIVED")]
        assert await desk.submits("AAPL") == int(arrives)
        await desk.agrees()


@pytest.mark.parametrize("filled", ["0", "8", "20"])
async def test_death_while_the_entry_works(database: str, filled: str) -> None:
    """Filled not at all, in part or wholly while nobody listened: what is held is booked and under a stop."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=2)
        await desk.dies()
        if filled != "0":
            await desk.faults("partial", symbol="AAPL", qty=filled, role="entry")
            desk.prints("AAPL", "190.00")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == int(filled)

        await desk.opens()
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        if filled == "0":
            assert position is None
            assert next(o["status"] for o in await desk.orders("AAPL")) == "submitted"
        else:
            assert position is not None
            assert position["quantity"] == int(filled)
            assert position["protected_at"] is not None
            if filled == "20":  # its bracket went live without us: nothing stood bare meanwhile
                assert position["naked_seconds"] == 0
        await desk.agrees()


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("cancel", BEFORE),
        ("cancel", AFTER),
        ("DELETE /orders/*", AFTER),
        ("submit", BEFORE),
        ("submit", AFTER),
        ("POST /orders", AFTER),
        ("protected", BEFORE),
    ],
)
async def test_death_while_protecting_a_partial_entry(database: str, step: str, moment: Moment) -> None:
    """Eight of twenty filled, and death on the way to their stop: one OCO for eight in the end, never two."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.dies_at(step, moment)
        await desk.waits(seconds=2)

        await desk.opens()
        await desk.waits(seconds=40)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["quantity"] == 8
        assert position["protected_at"] is not None
        live = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", Decimal(8))}
        assert len(live) == 2
        await desk.agrees()


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("exit_intent", BEFORE),
        ("exit_intent", AFTER),
        ("cancel", AFTER),
        ("DELETE /orders/*", BEFORE),
        ("DELETE /orders/*", AFTER),
        ("GET /positions/AAPL", AFTER),
        ("submit", BEFORE),
        ("submit", AFTER),
        ("POST /orders", BEFORE),
        ("POST /orders", AFTER),
        ("hear", AFTER),
    ],
)
async def test_death_while_leaving(database: str, step: str, moment: Moment) -> None:
    """Once the wish to leave is written the next daemon leaves, with one sale that counts; before, it protects."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        position = await desk.position("AAPL")
        assert position is not None
        assert desk.parts is not None
        asking = desk.parts.exits.ask(
            position["position_id"], reason="MANUAL: enough", purpose=Purpose.EXIT, by="trader"
        )
        await desk.dies_at(step, moment, asking)
        await desk.waits(seconds=3)

        await desk.opens()
        await desk.waits(seconds=60)
        position = await desk.position("AAPL")
        assert position is not None
        if (step, moment) == ("exit_intent", BEFORE):
            assert (position["status"], desk.held("AAPL")) == ("open", 20)
        else:
            assert (position["status"], desk.held("AAPL")) == ("closed", 0)
            assert position["close_reason"] == "MANUAL: enough"
        await desk.agrees()


@pytest.mark.parametrize(
    ("step", "moment", "nth"),
    [
        ("latch", AFTER, 1),
        ("halt", BEFORE, 1),
        ("exit_intent", BEFORE, 2),
        ("exit_intent", AFTER, 1),
        ("POST /orders", AFTER, 1),
        ("flat_proof", BEFORE, 1),
    ],
)
async def test_death_while_flattening(database: str, step: str, moment: Moment, nth: int) -> None:
    """From the latch on, every later daemon goes on until nothing is held; no entry until somebody resumes."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.holds("MSFT", 10)
        desk.stop.ask("SIGTERM", flatten=True)
        await desk.dies_at(step, moment, nth=nth)

        await desk.opens()
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == desk.held("MSFT") == 0
        assert desk.parts is not None
        assert "flatten" in desk.parts.gate.reasons
        desk.prints("TSLA", "190.00")
        row = await desk.enters("TSLA", 5, **ENTRY)
        assert row.status == "rejected"
        assert await desk.submits("TSLA") == 0
        await desk.agrees()


async def test_three_deaths_in_recovery(database: str) -> None:
    """Killed three times on its way up, the fourth start converges and nothing was sent twice."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.dies_at("POST /orders", AFTER, desk.enters("AAPL", 20, **ENTRY))
        for step in ("hear", "GET /account/activities/FILL", "GET /positions"):
            await desk.dies_opening(step, AFTER)
        await desk.opens()
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


async def test_two_restarts_in_a_silent_market_change_nothing(database: str) -> None:
    """Nothing is sent and no order, fill or quantity is rewritten when nothing has happened."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=90)  # until the ledger has told of the fill too
        before = [
            await desk.conn.fetch("SELECT * FROM orders ORDER BY 1"),
            await desk.conn.fetch("SELECT * FROM executions ORDER BY 1, 2"),
            await desk.conn.fetch("SELECT quantity, protected_at, naked_seconds FROM positions"),
        ]
        sent = len((await desk.admin("ledger?method=POST"))["requests"])
        for _ in range(2):
            await desk.dies()
            await desk.opens()
            await desk.waits(seconds=20)
        after = [
            await desk.conn.fetch("SELECT * FROM orders ORDER BY 1"),
            await desk.conn.fetch("SELECT * FROM executions ORDER BY 1, 2"),
            await desk.conn.fetch("SELECT quantity, protected_at, naked_seconds FROM positions"),
        ]
        assert before == after
        assert len((await desk.admin("ledger?method=POST"))["requests"]) == sent
        assert (await desk.admin("ledger?method=DELETE"))["requests"] == []


async def test_death_between_the_breach_and_its_latch(database: str) -> None:
    """The limit is passed and the daemon dies before the latch is written: the next one stops all the same."""
    async with open_desk(database, risk={"max_daily_loss": "20"}) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "188.50")
        await desk.dies_at("latch", BEFORE)
        await desk.opens()
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 0
        latches = await desk.conn.fetch("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert [r["name"] for r in latches] == ["emergency_stop"]
        assert "EMERGENCY_STOP" in await desk.alerts()
        await desk.agrees()
