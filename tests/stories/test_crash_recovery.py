"""The daemon dies at each step of an entry, of its protection, of an exit and of a flatten; the next one goes on."""

from decimal import Decimal

import pytest

from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Purpose
from tests.stories.scenario import ENTRY, open_scenario

BEFORE, AFTER = Moment.BEFORE, Moment.AFTER


@pytest.mark.parametrize(
    ("step", "moment", "arrives"),
    [
        ("submit", BEFORE, False),
        ("submit", AFTER, False),
        ("POST /orders", BEFORE, False),
        ("POST /orders", AFTER, True),
        ("apply_report", BEFORE, True),
        ("apply_report", AFTER, True),
    ],
)
async def test_crash_during_entry_adopts_order_or_never_resends(
    database: str, step: str, moment: Moment, arrives: bool
) -> None:
    """Whatever reached the exchange is adopted with its legs and protected; what did not is never sent again."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.crash_at(step, moment, scenario.submit_entry("AAPL", 20, **ENTRY))
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == (20 if arrives else 0)

        await scenario.start()
        await scenario.advance(seconds=40)
        orders = await scenario.orders("AAPL")
        if arrives:
            position = await scenario.position("AAPL")
            assert position is not None
            assert (position["quantity"], position["status"]) == (20, "open")
            assert position["protected_at"] is not None
            assert len(orders) == 3
        elif orders:
            assert [(o["status"], o["rejection_reason"]) for o in orders] == [("rejected", "NEVER_ARRIVED")]
        assert await scenario.count_submitted("AAPL") == int(arrives)
        await scenario.assert_consistent()


@pytest.mark.parametrize("filled", ["0", "8", "20"])
async def test_crash_with_working_entry_books_and_protects_fills(database: str, filled: str) -> None:
    """Filled not at all, in part or wholly while nobody listened: what is held is booked and under a stop."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        await scenario.crash()
        if filled != "0":
            await scenario.inject_fault("partial", symbol="AAPL", qty=filled, role="entry")
            scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == int(filled)

        await scenario.start()
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        if filled == "0":
            assert position is None
            assert next(o["status"] for o in await scenario.orders("AAPL")) == "submitted"
        else:
            assert position is not None
            assert position["quantity"] == int(filled)
            assert position["protected_at"] is not None
            if filled == "20":  # its bracket went live without us: nothing stood bare meanwhile
                assert position["unprotected_seconds"] == 0
        await scenario.assert_consistent()


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
async def test_crash_while_protecting_partial_entry_leaves_one_oco(
    database: str, step: str, moment: Moment
) -> None:
    """Eight of twenty filled, and death on the way to their stop: one OCO for eight in the end, never two."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.crash_at(step, moment)
        await scenario.advance(seconds=2)

        await scenario.start()
        await scenario.advance(seconds=40)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 8
        assert position["protected_at"] is not None
        live = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", Decimal(8))}
        assert len(live) == 2
        await scenario.assert_consistent()


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
        ("apply_report", AFTER),
    ],
)
async def test_crash_during_exit_sells_once(database: str, step: str, moment: Moment) -> None:
    """Once the wish to leave is written the next daemon leaves, with one sale that counts; before, it protects."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert scenario.components is not None
        asking = scenario.components.exits.request(
            position["position_id"], reason="MANUAL: enough", purpose=Purpose.EXIT, by="trader"
        )
        await scenario.crash_at(step, moment, asking)
        await scenario.advance(seconds=3)

        await scenario.start()
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        assert position is not None
        if (step, moment) == ("exit_intent", BEFORE):
            assert (position["status"], scenario.held_qty("AAPL")) == ("open", 20)
        else:
            assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
            assert position["close_reason"] == "MANUAL: enough"
        await scenario.assert_consistent()


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
async def test_crash_during_flatten_is_continued_until_flat(
    database: str, step: str, moment: Moment, nth: int
) -> None:
    """From the latch on, every later daemon goes on until nothing is held; no entry until somebody resumes."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        scenario.stop.request("SIGTERM", flatten=True)
        await scenario.crash_at(step, moment, nth=nth)

        await scenario.start()
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == scenario.held_qty("MSFT") == 0
        assert scenario.components is not None
        assert "flatten" in scenario.components.gate.reasons
        scenario.print_trade("TSLA", "190.00")
        row = await scenario.submit_entry("TSLA", 5, **ENTRY)
        assert row.status == "rejected"
        assert await scenario.count_submitted("TSLA") == 0
        await scenario.assert_consistent()


async def test_recovery_converges_after_three_crashes(database: str) -> None:
    """Killed three times on its way up, the fourth start converges and nothing was sent twice."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.crash_at("POST /orders", AFTER, scenario.submit_entry("AAPL", 20, **ENTRY))
        for step in ("apply_report", "GET /account/activities/FILL", "GET /positions"):
            await scenario.crash_during_start(step, AFTER)
        await scenario.start()
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


async def test_restarts_in_silent_market_change_nothing(database: str) -> None:
    """Nothing is sent and no order, fill or quantity is rewritten when nothing has happened."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=90)  # until the ledger has told of the fill too
        before = [
            await scenario.conn.fetch("SELECT * FROM orders ORDER BY 1"),
            await scenario.conn.fetch("SELECT * FROM executions ORDER BY 1, 2"),
            await scenario.conn.fetch("SELECT quantity, protected_at, unprotected_seconds FROM positions"),
        ]
        sent = len((await scenario.admin("logs?method=POST"))["requests"])
        for _ in range(2):
            await scenario.crash()
            await scenario.start()
            await scenario.advance(seconds=20)
        after = [
            await scenario.conn.fetch("SELECT * FROM orders ORDER BY 1"),
            await scenario.conn.fetch("SELECT * FROM executions ORDER BY 1, 2"),
            await scenario.conn.fetch("SELECT quantity, protected_at, unprotected_seconds FROM positions"),
        ]
        assert before == after
        assert len((await scenario.admin("logs?method=POST"))["requests"]) == sent
        assert (await scenario.admin("logs?method=DELETE"))["requests"] == []


async def test_loss_limit_breach_is_latched_after_crash(database: str) -> None:
    """The limit is passed and the daemon dies before the latch is written: the next one stops all the same."""
    async with open_scenario(database, risk={"max_daily_loss": "20"}) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "188.50")
        await scenario.crash_at("latch", BEFORE)
        await scenario.start()
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 0
        latches = await scenario.conn.fetch("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert [r["name"] for r in latches] == ["emergency_stop"]
        assert "EMERGENCY_STOP" in await scenario.alert_events()
        await scenario.assert_consistent()
