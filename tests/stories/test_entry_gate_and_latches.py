"""Entry gate and latches: when entries are blocked, when they are allowed again, and that a latch survives
restarts."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from catalyst.daemon.startup import acquire_host_lock
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import Moment
from catalyst.domain.invariants import Invariant
from catalyst.domain.report import AccountReport
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_orphan_positions import buy_by_hand


async def insert_command(scenario: Scenario, kind: str) -> int:
    """Insert a command without waiting for its answer; return its id."""
    command_id: int = await scenario.conn.fetchval(
        "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
        " VALUES ($1, '{}', $2, 'trader') RETURNING command_id",
        kind,
        scenario.clock.now(),
    )
    return command_id


async def active_latches(scenario: Scenario) -> set[str]:
    """Return the names of the latches that are set."""
    return {r["name"] for r in await scenario.conn.fetch("SELECT name FROM latches WHERE cleared_at IS NULL")}


async def test_share_mismatch_at_start_blocks_entries_until_confirmed(database: str) -> None:
    """Given fewer shares at the broker than in the database at the start, then all entries are blocked until
    the discrepancy is confirmed, and from then on only entries in this symbol; a later one blocks its symbol
    alone."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        held = scenario.server.exchange.state.account.positions["AAPL"]
        held.qty -= 8
        await scenario.start()
        assert scenario.components is not None
        gate = scenario.components.gate
        assert "20 shares in the database, 12 at the broker" in gate.reasons["discrepancies"]
        scenario.print_trade("MSFT", "191.00")
        await scenario.advance(seconds=1)
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("MSFT") == 0
        await scenario.advance(seconds=20)
        assert (gate.is_open, gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")) == (True, True)
        assert "QTY_MISMATCH" in await scenario.alert_events()
        held.qty += 4
        for _ in range(40):
            await scenario.advance(seconds=1)
            assert gate.is_open
        held.qty += 4
        await scenario.advance(seconds=70)
        assert gate.refusal("AAPL") is None


async def test_external_shares_do_not_keep_gate_closed(database: str) -> None:
    """External shares of a symbol we never traded are no discrepancy: the entry gate opens with the first
    reconciliation."""
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
    """An own entry whose row was lost is adopted, and a flatten cancels it."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "195.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(
            scenario,
            "MSFT",
            10,
            client_order_id=scenario.own_order_id("lost", "e"),
            type="limit",
            limit_price="190.00",
        )
        await scenario.advance(seconds=20)
        row = (await scenario.orders("MSFT"))[0]
        assert (row["order_purpose"], row["origin"], row["status"]) == ("entry", "catalyst", "submitted")
        assert (await scenario.send_command("flatten"))["flat"]
        assert [o["status"] for o in await scenario.orders("MSFT")] == ["cancelled"]
        assert not [
            order for order in scenario.server.exchange.state.order_store.live() if order.symbol == "MSFT"
        ]
        await scenario.assert_consistent()


async def test_own_exit_with_lost_row_opens_no_position(database: str) -> None:
    """An own exit whose row was lost, without a position, opens no short position: its id marks it as an
    exit."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(scenario, "MSFT", 10)
        await scenario.advance(seconds=5)
        await buy_by_hand(
            scenario, "MSFT", 10, side="sell", client_order_id=scenario.own_order_id("lost", "x")
        )
        await scenario.advance(seconds=20)
        assert scenario.held_qty("MSFT") == 0
        assert [o["order_purpose"] for o in await scenario.orders("MSFT")] == ["entry", "exit"]
        assert await scenario.position("MSFT") is None
        assert {"ORDER_ADOPTED", "EXIT_WITHOUT_POSITION"} <= set(await scenario.alert_events())


async def test_shares_arriving_after_flatten_are_exited(database: str) -> None:
    """Shares that an own order buys after a flatten are exited without a restart, because the latch is set."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert (await scenario.send_command("flatten"))["flat"]
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(scenario, "MSFT", 10, client_order_id=scenario.own_order_id("lost", "e"))
        await scenario.advance(seconds=45)
        assert scenario.held_qty("MSFT") == 0
        position = await scenario.position("MSFT")
        assert position is not None
        assert position["status"] == "closed"
        await scenario.assert_consistent()


async def test_emergency_stop_without_exits_keeps_shares_after_restart(database: str) -> None:
    """With `close_all_positions_on_limit` off, an emergency stop keeps the shares under their stop, also
    after a restart."""
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
    """A crash after taking a flatten command and before its first write: the next daemon executes and answers
    it."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        command_id = await insert_command(scenario, "flatten")
        await scenario.crash_at("take_command", Moment.AFTER)
        assert await active_latches(scenario) == set()
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (scenario.held_qty("AAPL"), await active_latches(scenario)) == (0, {"flatten"})
        assert await scenario.conn.fetchval("SELECT ok FROM commands WHERE command_id = $1", command_id)
        await scenario.assert_consistent()


async def test_new_violation_during_resume_keeps_safe_mode(database: str) -> None:
    """A resume from one invariant keeps SAFE mode when another one failed meanwhile, and latches that one."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        gate, safe_mode = scenario.components.gate, scenario.components.safe_mode
        gate.enter_safe_mode(Invariant.I2, "checked")
        await scenario.advance(seconds=1)
        gate.enter_safe_mode(Invariant.I6, "failed later")
        safe_mode.on_resumed({Invariant.I2})
        assert gate.failed_invariants == {Invariant.I6: "failed later"}
        await scenario.advance(seconds=1)
        reason = await scenario.conn.fetchval("SELECT reason FROM latches WHERE cleared_at IS NULL")
        assert reason == "I6: failed later"
        assert not gate.is_open


async def begin_start(scenario: Scenario, stack: AsyncExitStack) -> AccountReport:
    """Do the first step of a start: read the account and lock it."""
    return await acquire_host_lock(
        stack, scenario.settings, scenario.clock, dsn=scenario.dsn, stop=scenario.stop
    )


async def test_start_retries_broker_errors_for_half_a_minute(database: str) -> None:
    """A start retries two failed account reads; after half a minute of errors it gives up."""
    async with open_scenario(database, started=False) as scenario, AsyncExitStack() as stack:
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=2)
        start_task = asyncio.create_task(begin_start(scenario, stack))
        await scenario.advance(seconds=12)
        assert (await start_task).account_number
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=0)
        start_task = asyncio.create_task(begin_start(scenario, stack))
        await scenario.advance(seconds=40)
        with pytest.raises(UserError, match="does not answer"):
            await start_task


async def test_replaced_leg_triggers_reading_of_its_replacement(database: str) -> None:
    """A report whose stop leg was replaced, without the new order, requests a reconciliation at once."""
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
        incomplete_report = replace(report, legs=tuple(leg for leg in report.legs if leg.replaces is None))
        version_before = scenario.components.ledger.reconcile_requested.version
        await scenario.components.ledger.apply_report(incomplete_report, "poll")
        assert scenario.components.ledger.reconcile_requested.version > version_before
        await scenario.clear_faults()
        await scenario.advance(seconds=20)
        assert (await scenario.position("AAPL") or {})["status"] == "closed"
        await scenario.assert_consistent()


async def test_new_day_reopens_gate_closed_by_failed_day(database: str) -> None:
    """A new day reopens the entry gate that a failed earlier day closed; within the day it stays closed."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        for name in ("day_ending", "cycle_closed"):
            scenario.components.gate.close(name, "the day is ending")
        await scenario.components.trading_day.begin()
        await scenario.advance(seconds=10)
        assert scenario.components.gate.is_open
        await scenario.components.trading_day.go_flat()
        await scenario.components.trading_day.begin()
        assert "cycle_closed" in scenario.components.gate.reasons
