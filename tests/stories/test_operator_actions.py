"""Operator actions: orders placed by hand, a second daemon, signals, and commands."""

import asyncio

import pytest

from catalyst.domain.errors import AnotherDaemonRunning
from catalyst.domain.fault_points import Moment
from catalyst.simulator.trading_api.order_parsing import parse_replace_request
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Scenario, open_scenario


async def order_by_hand(scenario: Scenario, symbol: str, side: str, qty: int, **terms: str) -> str:
    """Place an order as an operator; return its broker id."""
    order = {"symbol": symbol, "side": side, "qty": str(qty), "type": "market", "time_in_force": "day"}
    return str((await scenario.admin("order", {**order, **terms}))["id"])


async def cancel_target_by_hand(scenario: Scenario, symbol: str) -> None:
    """Cancel the target of a position as an operator, so that its shares are free."""
    target = next(o for o in await scenario.orders(symbol) if o["order_purpose"] == "take_profit")
    await scenario.admin("cancel", {"id": target["alpaca_order_id"]})
    scenario.server.exchange.confirm_cancels()


async def sell_by_hand_unseen(scenario: Scenario, symbol: str, qty: int) -> None:
    """Sell shares of a position as an operator; no list, activity or message shows it until the faults are removed."""
    await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
    await scenario.inject_fault("empty", method="GET", route="/v2/account/activities/FILL", count=0)
    await scenario.inject_fault("stream_drop", symbol=symbol, side="sell", count=0)
    await cancel_target_by_hand(scenario, symbol)
    await order_by_hand(scenario, symbol, "sell", qty)
    await scenario.advance(seconds=1)


@pytest.mark.promise("C17")
async def test_position_sold_by_hand_closes_as_external(database: str) -> None:
    """A position sold by hand closes as EXTERNAL, and the daemon sells no more."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await cancel_target_by_hand(scenario, "AAPL")
        await order_by_hand(scenario, "AAPL", "sell", 20)
        await scenario.advance(seconds=40)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
        assert position["close_reason"].startswith("EXTERNAL")
        await scenario.assert_consistent()


async def test_exit_cancels_blocking_order_placed_by_hand(database: str) -> None:
    """An exit cancels an order placed by hand that holds half of the shares."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await cancel_target_by_hand(scenario, "AAPL")
        await order_by_hand(scenario, "AAPL", "sell", 10, type="limit", limit_price="250.00")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C17")
async def test_flatten_leaves_external_orders_and_shares(database: str) -> None:
    """External shares and orders are reported, and a flatten touches neither."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        scenario.print_trade("TSLA", "190.00")
        await scenario.advance(seconds=1)
        await order_by_hand(scenario, "MSFT", "buy", 7)
        resting = await order_by_hand(scenario, "TSLA", "buy", 3, type="limit", limit_price="100.00")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=90)
        assert "EXTERNAL_ORDER" in await scenario.alert_events()
        assert (await scenario.send_command("flatten"))["flat"] is True
        assert scenario.held_qty("AAPL") == 0
        assert scenario.held_qty("MSFT") == 7
        assert scenario.server.exchange.find_order(resting).status == "new"


async def test_entry_replaced_by_hand_stays_linked_and_protected(database: str) -> None:
    """An entry replaced by hand: the new order is the entry, its fill the position, and its legs protect it."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        row = await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        entry = (await scenario.orders("AAPL"))[0]
        scenario.server.exchange.replace(
            entry["alpaca_order_id"], parse_replace_request({"limit_price": "191.50"})
        )
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 20
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (20, "open")
        assert position["protected_at"] is not None
        replaced = next(o for o in await scenario.orders("AAPL") if o["order_id"] == row.order_id)
        assert replaced["status"] == "replaced"
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C45")
async def test_second_daemon_on_account_does_not_start(database: str) -> None:
    """A second daemon on the account does not start, and the first one trades on."""
    async with open_scenario(database) as scenario:
        second = Scenario(
            scenario.clock, scenario.market, scenario.server, scenario.dsn, scenario.settings, scenario.conn
        )
        with pytest.raises(AnotherDaemonRunning):
            await second.start()
        await second._stack.aclose()
        await scenario.given_position("AAPL", 20)
        await scenario.assert_consistent()


async def test_lost_account_lock_is_reacquired(database: str) -> None:
    """After its connection is cut, the account lock is acquired again by the same process, and trading
    continues."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        await scenario.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'catalyst lock' AND datname = current_database()"
        )
        await scenario.advance(seconds=15)
        assert scenario.components.gate.is_open
        lock_count = await scenario.conn.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        assert lock_count == 1
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_daemon_recovers_when_all_sessions_are_cut(database: str) -> None:
    """When the server cuts all sessions at once, the daemon runs on, loses nothing and allows entries again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        for _ in range(3):
            await scenario.conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await scenario.advance(seconds=20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=70)
        assert scenario.held_qty("AAPL") == 0
        assert scenario.components.gate.is_open
        await scenario.assert_consistent()


@pytest.mark.parametrize(
    ("step", "moment"),
    [("submit", Moment.AFTER), ("POST /orders", Moment.BEFORE), ("POST /orders", Moment.AFTER)],
)
async def test_sigterm_during_entry_ends_flat(database: str, step: str, moment: Moment) -> None:
    """SIGTERM during an entry prevents or undoes it and ends flat."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("MSFT", 10)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        stop = scenario.stop

        def request_stop(current_step: str, current_moment: Moment) -> None:
            if (current_step, current_moment) == (step, moment):
                stop.request("SIGTERM", flatten=True)

        scenario.crash_trigger.on_step = request_stop
        entry_task = asyncio.ensure_future(scenario.submit_entry("AAPL", 20, **ENTRY))
        assert await scenario.wait_for_exit() == 0
        await asyncio.gather(entry_task, return_exceptions=True)
        assert scenario.held_qty("AAPL") == scenario.held_qty("MSFT") == 0
        await scenario.assert_consistent()


async def test_sigterm_during_recovery_is_completed_by_next_start(database: str) -> None:
    """SIGTERM while recovery cannot read the broker exits with code 2 and keeps the latch; the next start
    refuses entries and flattens."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=503, count=0)
        start_task = asyncio.ensure_future(scenario.start())
        await scenario.advance(seconds=10)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit(step=5) == 2
        start_task.cancel()
        await asyncio.gather(start_task, return_exceptions=True)
        await scenario.clear_faults()
        await scenario.start()
        await scenario.advance(seconds=30)
        assert await scenario.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL") == "flatten"
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C27")
async def test_sigterm_after_close_exits_not_flat_and_alerts(database: str) -> None:
    """SIGTERM after the close with shares held exits with code 2 and an alert; the shares stay held."""
    async with open_scenario(
        database, now=at("15:40", MONDAY), positions={"close_all_at_market_close": False}
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=21)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit(step=5) == 2
        assert "NOT_FLAT" in await scenario.alert_events()
        assert scenario.held_qty("AAPL") == 20


async def test_halt_command_blocks_entries_until_resume(database: str) -> None:
    """A halt blocks entries, also after a restart, until the resume; protection continues."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert (await scenario.send_command("halt", reason="lunch"))["ok"]
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status == "rejected"
        await scenario.crash()
        await scenario.start()
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status == "rejected"
        assert (await scenario.send_command("resume"))["still_closed"] == []
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status != "rejected"
        await scenario.advance(seconds=5)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_invalid_commands_are_answered(database: str) -> None:
    """Unknown commands, symbols without a position and missing arguments are answered with a failure, and the
    next command runs."""
    async with open_scenario(database) as scenario:
        assert not (await scenario.send_command("dance"))["ok"]
        assert not (await scenario.send_command("close", symbol="TSLA"))["ok"]
        assert not (await scenario.send_command("close"))["ok"]
        assert not (await scenario.send_command("approve", proposal_id=99))["ok"]
        assert not (await scenario.send_command("approve", proposal_id="x"))["ok"]
        assert (await scenario.send_command("halt"))["ok"]
        await scenario.assert_consistent()
