"""Steps of a start: the entry gate, updates that arrive meanwhile, and commands of an earlier day."""

from datetime import timedelta

import orjson

from catalyst.domain.fault_points import Moment
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, open_scenario


async def test_entry_gate_stays_closed_while_recovery_is_retried(database: str) -> None:
    """Given the first three reads of the broker's orders fail, then the gate has the reason recovery before each read,
    and loses it with the read that succeeds."""
    async with open_scenario(database, started=False) as scenario:
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=500, count=3)
        was_closed: list[bool] = []

        def record_gate(step: str, moment: Moment) -> None:
            if (step, moment) == ("GET /orders", Moment.BEFORE) and scenario.components is not None:
                was_closed.append("recovery" in scenario.components.gate.reasons)

        scenario.crash_trigger.on_step = record_gate
        await scenario._start()
        assert scenario.components is not None
        assert len(was_closed) >= 4
        assert all(was_closed[:4])
        assert scenario.components.gate.is_open


async def test_fill_that_only_the_stream_shows_during_recovery_is_booked_before_ready(database: str) -> None:
    """Given an entry fills while recovery waits for its second try, and no list, order or activity shows the fill,
    then the stream's message is kept until the broker was read, and is booked when the daemon is ready."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        await scenario.crash()
        scenario.print_trade("AAPL", "190.00", after=2)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=500, count=1)
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders/*", status=500, count=0)
        for route in ("/v2/orders", "/v2/account/activities/FILL"):
            await scenario.inject_fault("empty", method="GET", route=route, count=0)
        await scenario.start()
        assert await scenario.conn.fetchval("SELECT source FROM executions") == "stream"
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        await scenario.clear_faults()
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


async def test_interrupted_command_of_an_earlier_day_is_answered_and_not_run(database: str) -> None:
    """A flatten that a daemon took yesterday and did not answer is answered as failed at the next start: today's
    shares stay. One of today runs again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        for day in (1, 0):
            await scenario.conn.execute(
                "INSERT INTO commands (kind, arguments, requested_at, requested_by, taken_at)"
                " VALUES ('flatten', '{}', $1, 'trader', $1)",
                scenario.clock.now() - timedelta(days=day),
            )
            await scenario.start()
            await scenario.advance(seconds=30)
            assert scenario.held_qty("AAPL") == (20 if day else 0)
            latches = await scenario.conn.fetch("SELECT name FROM latches WHERE cleared_at IS NULL")
            assert [row["name"] for row in latches] == ([] if day else ["flatten"])
            await scenario.crash()
        answers = await scenario.conn.fetch("SELECT ok FROM commands ORDER BY command_id")
        assert [row["ok"] for row in answers] == [False, True]
        await scenario.assert_consistent()


async def test_shares_that_a_person_bought_in_a_symbol_of_ours_do_not_fail_the_proof(database: str) -> None:
    """Given AAPL was traded a week ago and a person bought 7 shares of it since, then a flatten on the next Monday
    proves that nothing of ours is left, and lists the 7 shares."""
    async with open_scenario(database, now=at("15:30", MONDAY), reconcile={"orphans": "alert"}) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.crash()
        order = {"symbol": "AAPL", "side": "buy", "qty": "7", "type": "market", "time_in_force": "day"}
        await scenario.admin("order", order)
        scenario.print_trade("AAPL", "194.00", after=1)
        await scenario.clock.advance_to(at("10:15", MONDAY + timedelta(days=7)))
        assert scenario.held_qty("AAPL") == 7
        await scenario.start()
        await scenario.advance(seconds=20)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        proof = await scenario.conn.fetchrow("SELECT * FROM flat_proofs ORDER BY proof_id DESC LIMIT 1")
        assert proof is not None
        assert (proof["flat"], proof["broker_positions"]) == (True, 0)
        assert orjson.loads(proof["facts"])["external_shares"] == {"AAPL": "7"}


async def test_account_is_not_proven_flat_while_shares_of_last_week_are_held(database: str) -> None:
    """Given 20 AAPL that our order bought a week ago, whose position was written off although the shares are there,
    then a flatten on the next Monday proves nothing: by the broker's own fills the shares are ours."""
    async with open_scenario(database, now=at("15:30", MONDAY), reconcile={"orphans": "alert"}) as scenario:
        await scenario.given_position("AAPL", 20)
        row = await scenario.position("AAPL")
        assert row is not None
        assert scenario.components is not None
        await scenario.components.ledger.write_off(row["position_id"], "RECONCILED_PHANTOM", "reconcile")
        await scenario.crash()
        await scenario.clock.advance_to(at("10:15", MONDAY + timedelta(days=7)))
        assert scenario.held_qty("AAPL") == 20
        await scenario.start()
        await scenario.advance(seconds=20)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 2
        proof = await scenario.conn.fetchrow("SELECT * FROM flat_proofs ORDER BY proof_id DESC LIMIT 1")
        assert proof is not None
        assert (proof["flat"], proof["broker_positions"]) == (False, 1)


async def test_each_missed_day_is_completed_at_the_next_start(database: str) -> None:
    """Given daemons crashed on Monday and on Tuesday before the close, then one start on Wednesday completes and
    proves both days, each by its own fills."""
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        for number in (1, 2):
            await scenario.advance(seconds=10)
            await scenario.crash()
            await scenario.clock.advance_to(at("10:00", MONDAY + timedelta(days=number)))
            if number == 1:
                # The start of Tuesday crashes before it completes Monday.
                await scenario.crash_during_start("cycle", Moment.AFTER)
        await scenario.start()
        await scenario.advance(seconds=20)
        days = await scenario.conn.fetch("SELECT cycle_date, status FROM trading_cycles ORDER BY cycle_date")
        assert [row["status"] for row in days] == ["completed", "completed", "idle"]
        proofs = await scenario.conn.fetch(
            "SELECT flat, (facts ->> 'realized_database')::numeric AS ours, (facts ->> 'realized_broker')::numeric AS"
            " brokers FROM flat_proofs WHERE cause LIKE 'end of day%' ORDER BY proof_id"
        )
        result = await scenario.conn.fetchval("SELECT realized_pnl FROM positions")
        assert result > 0
        assert [tuple(row) for row in proofs] == [(True, result, result), (True, 0, 0)]


async def test_carried_position_is_exited_when_the_start_that_marked_it_crashed(database: str) -> None:
    """Given a start marked yesterday's position as carried and crashed before it requested the exit, then the next
    start requests it, and the position is sold."""
    tuesday = MONDAY + timedelta(days=1)
    async with open_scenario(
        database, now=at("15:30", MONDAY), positions={"max_hold_time_minutes": 390}
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        scenario.print_trade("AAPL", "190.10", after=60)
        await scenario.clock.advance_to(at("09:31", tuesday))
        scenario.print_trade("AAPL", "190.10")
        await scenario.crash_during_start("cycle", Moment.AFTER)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["carried"]
        assert await scenario.conn.fetchval("SELECT count(*) FROM exit_intents") == 0
        await scenario.start()
        scenario.print_trade("AAPL", "190.20")
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["close_reason"][:12]) == ("closed", "MARKET_CLOSE")
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_emergency_stop_of_an_earlier_day_is_continued(database: str) -> None:
    """Given a daemon crashed when its emergency stop was recorded and nothing was exited, then the start on the next
    day blocks entries until everything is exited, and records the end of the stop, although no latch is set."""
    async with open_scenario(
        database,
        now=at("15:30", MONDAY),
        risk={"max_daily_loss": 30, "warning_threshold_pct": 75},
        emergency={"halt_new_trades": False},
        positions={"close_all_at_market_close": False, "max_hold_time_minutes": 390},
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "188.30")
        await scenario.crash_at("emergency_stop", Moment.AFTER)
        assert scenario.held_qty("AAPL") == 20
        scenario.print_trade("AAPL", "188.30", after=1)
        await scenario.clock.advance_to(at("09:25", MONDAY + timedelta(days=1)))
        await scenario.start()
        assert scenario.components is not None
        await scenario.advance(seconds=60)
        assert "emergency_stop_unfinished" in scenario.components.gate.reasons
        scenario.print_trade("AAPL", "188.30", after=300)
        await scenario.advance(minutes=6)
        assert scenario.held_qty("AAPL") == 0
        stops = await scenario.conn.fetch(
            "SELECT event_type FROM risk_events WHERE event_type LIKE 'EMERGENCY_STOP%' ORDER BY risk_event_id"
        )
        assert [row["event_type"] for row in stops] == ["EMERGENCY_STOP", "EMERGENCY_STOP_DONE"]
        assert "emergency_stop_unfinished" not in scenario.components.gate.reasons
