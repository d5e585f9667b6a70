"""Who may enter again, and when: clean books first; a latch is kept whatever comes after it."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from catalyst.daemon.startup import acquire_host_lock
from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import client_order_id
from catalyst.domain.invariants import Invariant
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_orphan_positions import buy_by_hand


async def insert_command(scenario: Scenario, kind: str) -> int:
    """Leave a command and do not wait for its answer; its id."""
    number: int = await scenario.conn.fetchval(
        "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
        " VALUES ($1, '{}', $2, 'trader') RETURNING command_id",
        kind,
        scenario.clock.now(),
    )
    return number


async def active_latches(scenario: Scenario) -> set[str]:
    return {r["name"] for r in await scenario.conn.fetch("SELECT name FROM latches WHERE cleared_at IS NULL")}


async def test_share_mismatch_at_start_blocks_entries_until_confirmed(database: str) -> None:
    """A start finds fewer shares at the broker than in the tables: no symbol is entered until that is judged, and from
    then on only this one is shut. A doubt that comes later shuts its own symbol alone."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        held = scenario.server.exchange.account.positions["AAPL"]
        held.qty -= 8
        await scenario.start()
        assert scenario.components is not None
        gate = scenario.components.gate
        assert "ours 20 broker 12" in gate.reasons["discrepancies"]
        scenario.print_trade("MSFT", "191.00")
        await scenario.advance(seconds=1)
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("MSFT") == 0
        await scenario.advance(seconds=20)
        assert (gate.is_open, "AAPL" in gate.mismatched_symbols) == (True, True)
        assert "QTY_MISMATCH" in await scenario.alert_events()
        held.qty += 4
        for _ in range(40):
            await scenario.advance(seconds=1)
            assert gate.is_open
        held.qty += 4
        await scenario.advance(seconds=70)
        assert gate.refusal("AAPL") is None


async def test_external_shares_do_not_keep_gate_closed(database: str) -> None:
    """Shares of a symbol that we never traded are no difference of ours: the gate opens with the first look."""
    async with open_scenario(database, started=False) as scenario:
        scenario.print_trade("TSLA", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(scenario, "TSLA", 3)
        await scenario.advance(seconds=1)
        await scenario.start()
        await scenario.advance(seconds=1)
        assert scenario.components is not None
        assert scenario.components.gate.is_open


async def test_flatten_cancels_own_entry_with_lost_row(database: str) -> None:
    """The broker works an entry of ours that the tables lost: it is no stranger's, so a flatten cancels it."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "195.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(
            scenario,
            "MSFT",
            10,
            client_order_id=client_order_id("lost", "e", 0),
            type="limit",
            limit_price="190.00",
        )
        await scenario.advance(seconds=20)
        row = (await scenario.orders("MSFT"))[0]
        assert (row["order_purpose"], row["origin"], row["status"]) == ("entry", "catalyst", "submitted")
        assert (await scenario.send_command("flatten"))["flat"]
        assert [o["status"] for o in await scenario.orders("MSFT")] == ["cancelled"]
        assert not [one for one in scenario.server.exchange.order_store.live() if one.symbol == "MSFT"]
        await scenario.assert_consistent()


async def test_own_exit_with_lost_row_opens_no_position(database: str) -> None:
    """A sale of ours that the tables lost, of shares they never heard of, opens no short position: its id says that it
    was sent to leave."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(scenario, "MSFT", 10)
        await scenario.advance(seconds=5)
        await buy_by_hand(scenario, "MSFT", 10, side="sell", client_order_id=client_order_id("lost", "x", 0))
        await scenario.advance(seconds=20)
        assert scenario.held_qty("MSFT") == 0
        assert [o["order_purpose"] for o in await scenario.orders("MSFT")] == ["entry", "exit"]
        assert await scenario.position("MSFT") is None
        assert {"ORDER_ADOPTED", "EXIT_WITHOUT_POSITION"} <= set(await scenario.alert_events())


async def test_shares_arriving_after_flatten_are_exited(database: str) -> None:
    """Flat, and the latch set: shares that an order of ours brings later are left again, without a restart."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert (await scenario.send_command("flatten"))["flat"]
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(scenario, "MSFT", 10, client_order_id=client_order_id("lost", "e", 0))
        await scenario.advance(seconds=45)
        assert scenario.held_qty("MSFT") == 0
        position = await scenario.position("MSFT")
        assert position is not None
        assert position["status"] == "closed"
        await scenario.assert_consistent()


async def test_emergency_stop_without_exits_keeps_shares_after_restart(database: str) -> None:
    """`close_all_positions_on_limit` off: the day is stopped, what is held stays under its stop, and the next start
    does not sell it either."""
    async with open_scenario(
        database,
        risk={"max_daily_loss": "20", "warning_threshold_pct": 50},
        emergency={"close_all_positions_on_limit": False},
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "188.30")
        await scenario.advance(seconds=100)
        assert await active_latches(scenario) == {"emergency_stop"}
        await scenario.crash()
        await scenario.start()
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 20
        await scenario.assert_consistent()


async def test_flatten_command_is_completed_after_crash(database: str) -> None:
    """Killed between taking the command and its first row: the next daemon carries it out and answers."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        asked = await insert_command(scenario, "flatten")
        await scenario.crash_at("take_command", Moment.AFTER)
        assert await active_latches(scenario) == set()
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (scenario.held_qty("AAPL"), await active_latches(scenario)) == (0, {"flatten"})
        assert await scenario.conn.fetchval("SELECT ok FROM commands WHERE command_id = $1", asked)
        await scenario.assert_consistent()


async def test_new_violation_during_resume_keeps_safe_mode(database: str) -> None:
    """Resumed for one invariant, while another fell meanwhile: nobody has looked at that one, and its latch is owed."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        gate, safety = scenario.components.gate, scenario.components.safe_mode
        gate.enter_safe_mode(Invariant.I2, "looked at")
        await scenario.advance(seconds=1)
        gate.enter_safe_mode(Invariant.I6, "came later")
        safety.on_resumed({Invariant.I2})
        assert gate.failed_invariants == {Invariant.I6: "came later"}
        await scenario.advance(seconds=1)
        reason = await scenario.conn.fetchval("SELECT reason FROM latches WHERE cleared_at IS NULL")
        assert reason == "I6: came later"
        assert not gate.is_open


async def test_start_retries_broker_errors_for_half_a_minute(database: str) -> None:
    """Two answers of 503 to the first question are no reason to stay away from what is held; half a minute of them
    is."""
    async with open_scenario(database, started=False) as scenario, AsyncExitStack() as stack:
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=2)
        begun = asyncio.create_task(acquire_host_lock(stack, scenario.settings, scenario.clock))
        await scenario.advance(seconds=12)
        assert (await begun).account_number
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=0)
        begun = asyncio.create_task(acquire_host_lock(stack, scenario.settings, scenario.clock))
        await scenario.advance(seconds=40)
        with pytest.raises(UserError, match="does not answer"):
            await begun


async def test_replaced_leg_triggers_reading_of_its_replacement(database: str) -> None:
    """The parent's report alone tells that its stop gave way to another order, which it does not show: everything is
    asked for at once."""
    async with open_scenario(database) as scenario:
        entry = await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("stream_drop", symbol="AAPL", count=0)
        await scenario.admin("settings", {"stop_by_replacement": True})
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=0.2)
        assert scenario.components is not None
        assert entry.alpaca_order_id is not None
        report = await scenario.components.broker.order(entry.alpaca_order_id)
        assert any(leg.replaced_by for leg in report.legs)
        alone = replace(report, legs=tuple(leg for leg in report.legs if leg.replaces is None))
        before = scenario.components.ledger.reconcile_requested.version
        await scenario.components.ledger.apply_report(alone, "poll")
        assert scenario.components.ledger.reconcile_requested.version > before
        await scenario.clear_faults()
        await scenario.advance(seconds=20)
        assert (await scenario.position("AAPL") or {})["status"] == "closed"
        await scenario.assert_consistent()


async def test_new_day_reopens_gate_closed_by_failed_day(database: str) -> None:
    """The loop of an earlier day fell after its exits were due, and was begun again only with this day: what that day
    shut is open."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        assert scenario.components.trading_day is not None
        for left in ("day_ending", "cycle_closed"):
            scenario.components.gate.close(left, "the day is ending")
        await scenario.components.trading_day.begin()
        await scenario.advance(seconds=10)
        assert scenario.components.gate.is_open
        await scenario.components.trading_day.go_flat()
        await scenario.components.trading_day.begin()
        assert "cycle_closed" in scenario.components.gate.reasons
