"""Crash recovery: the daemon crashes at each step of entry, protection, exit and flatten, and the next one
continues."""

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
    """An entry that reached the exchange is adopted with its legs and protected; one that did not is never
    sent again."""
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
    """Shares that fill while no daemon runs are booked and protected at the next start."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        await scenario.crash()
        if filled == "8":
            await scenario.inject_fault("partial", symbol="AAPL", qty=filled, role="entry")
        if filled != "0":
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
            if filled == "20":  # its legs became working without us: no unprotected time
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
    """After a crash during the protection of 8 of 20 shares, exactly one OCO for 8 is working."""
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
        working = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in working} == {("oco", Decimal(8))}
        assert len(working) == 2
        await scenario.assert_consistent()


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("exit_intent", BEFORE),
        ("exit_intent", AFTER),
        ("submit", BEFORE),
        ("submit", AFTER),
        ("PATCH /orders/*", BEFORE),
        ("PATCH /orders/*", AFTER),
        ("prepare_exit", BEFORE),
        ("prepare_exit", AFTER),
        ("cancel", AFTER),
        ("DELETE /orders/*", BEFORE),
        ("DELETE /orders/*", AFTER),
        ("GET /positions/AAPL", AFTER),
        ("release_exit", BEFORE),
        ("release_exit", AFTER),
        ("POST /orders", BEFORE),
        ("POST /orders", AFTER),
        ("apply_report", AFTER),
    ],
)
async def test_crash_during_exit_sells_once(database: str, step: str, moment: Moment) -> None:
    """After a crash the next daemon completes a stored exit intent with one sale; without the intent it
    protects."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        if step not in ("submit", "PATCH /orders/*"):
            await scenario.refuse_replacements()
            scenario.reasons_of_silence |= dict.fromkeys(
                scenario.server.exchange.state.faults.rules, "a crash first"
            )
        position = await scenario.position("AAPL")
        assert position is not None
        assert scenario.components is not None
        exit_request = scenario.components.exits.request(
            position["position_id"], reason="MANUAL: enough", purpose=Purpose.EXIT, by="trader"
        )
        await scenario.crash_at(step, moment, exit_request)
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
        ("PATCH /orders/*", AFTER, 1),
        ("POST /orders", AFTER, 1),
        ("flat_proof", BEFORE, 1),
    ],
)
async def test_crash_during_flatten_is_continued_until_flat(
    database: str, step: str, moment: Moment, nth: int
) -> None:
    """Once the latch is stored, the next daemon continues the flatten and refuses entries until a resume."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        if step.startswith("POST"):
            await scenario.refuse_replacements()
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
    """After three crashes during recovery the fourth start recovers, and nothing is sent twice."""
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
    """Two restarts without market activity send nothing and change no order, fill or quantity."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=90)  # until the account activities show the fill too
        rows_before = [
            await scenario.conn.fetch("SELECT * FROM orders ORDER BY 1"),
            await scenario.conn.fetch("SELECT * FROM executions ORDER BY 1, 2"),
            await scenario.conn.fetch("SELECT quantity, protected_at, unprotected_seconds FROM positions"),
        ]
        request_count = len((await scenario.admin("logs?method=POST"))["requests"])
        for _ in range(2):
            await scenario.crash()
            await scenario.start()
            await scenario.advance(seconds=20)
        rows_after = [
            await scenario.conn.fetch("SELECT * FROM orders ORDER BY 1"),
            await scenario.conn.fetch("SELECT * FROM executions ORDER BY 1, 2"),
            await scenario.conn.fetch("SELECT quantity, protected_at, unprotected_seconds FROM positions"),
        ]
        assert rows_before == rows_after
        assert len((await scenario.admin("logs?method=POST"))["requests"]) == request_count
        assert (await scenario.admin("logs?method=DELETE"))["requests"] == []


async def test_loss_limit_breach_is_latched_after_crash(database: str) -> None:
    """A crash before the latch of a breached loss limit: the next daemon detects the breach, latches and
    exits."""
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
