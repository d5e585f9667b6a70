"""People at the same account: sales, purchases and cancels by hand, two daemons, signals, and orders to the daemon."""

import asyncio

import pytest

from catalyst.domain.errors import AnotherDaemonRunning
from catalyst.domain.fault_points import Moment
from catalyst.simulator.trading_api.order_parsing import parse_replace_request
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Scenario, open_scenario


async def order_by_hand(scenario: Scenario, symbol: str, side: str, qty: int, **terms: str) -> str:
    order = {"symbol": symbol, "side": side, "qty": str(qty), "type": "market", "time_in_force": "day"}
    return str((await scenario.admin("order", {**order, **terms}))["id"])


@pytest.mark.promise("C17")
async def test_position_sold_by_hand_closes_as_external(database: str) -> None:
    """A person sells all of it: the position closes as external, and nothing of ours sells more."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        target = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        await scenario.admin("cancel", {"id": target["alpaca_order_id"]})
        scenario.server.exchange.confirm_cancels()
        await order_by_hand(scenario, "AAPL", "sell", 20)
        await scenario.advance(seconds=40)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
        assert position["close_reason"].startswith("EXTERNAL")
        await scenario.assert_consistent()


async def test_exit_cancels_blocking_order_placed_by_hand(database: str) -> None:
    """Half of our shares are offered by hand far above the market; when we leave, that offer is cleared away."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        target = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        await scenario.admin("cancel", {"id": target["alpaca_order_id"]})
        scenario.server.exchange.confirm_cancels()
        await order_by_hand(scenario, "AAPL", "sell", 10, type="limit", limit_price="250.00")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C17")
async def test_flatten_leaves_external_orders_and_shares(database: str) -> None:
    """A person holds one stock and bids for another: both are told of, and a flatten touches neither."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        scenario.print_trade("TSLA", "190.00")
        await scenario.advance(seconds=1)
        await order_by_hand(scenario, "MSFT", "buy", 7)
        resting = await order_by_hand(scenario, "TSLA", "buy", 3, type="limit", limit_price="100.00")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=90)
        assert "FOREIGN_ORDER" in await scenario.alert_events()
        assert (await scenario.send_command("flatten"))["flat"] is True
        assert scenario.held_qty("AAPL") == 0
        assert scenario.held_qty("MSFT") == 7
        assert scenario.server.exchange.find_order(resting).status == "new"


async def test_entry_replaced_by_hand_stays_linked_and_protected(database: str) -> None:
    """A person changes the price of our bid: the new order is the entry, its fill the position, its legs the stop."""
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
        first = next(o for o in await scenario.orders("AAPL") if o["order_id"] == row.order_id)
        assert first["status"] == "replaced"
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C45")
async def test_second_daemon_on_account_does_not_start(database: str) -> None:
    """While one trades the account, another does not start, and the first goes on."""
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
    """The connection that holds the lock is cut: no entry while it is gone, then all goes on in the same process."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        await scenario.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'catalyst lock' AND datname = current_database()"
        )
        await scenario.advance(seconds=15)
        assert scenario.components.gate.is_open
        held = await scenario.conn.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        assert held == 1
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_daemon_recovers_when_all_sessions_are_cut(database: str) -> None:
    """The server drops all our sessions at once: the daemon lives on, nothing is lost, entries resume."""
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
    """Asked to stop while an entry is on its way: it does not leave any more, or it is undone; flat in the end."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("MSFT", 10)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        asked = scenario.stop

        def ask(step_now: str, moment_now: Moment) -> None:
            if (step_now, moment_now) == (step, moment):
                asked.request("SIGTERM", flatten=True)

        scenario.crash_trigger.on_step = ask
        entering = asyncio.ensure_future(scenario.submit_entry("AAPL", 20, **ENTRY))
        assert await scenario.wait_for_exit() == 0
        await asyncio.gather(entering, return_exceptions=True)
        assert scenario.held_qty("AAPL") == scenario.held_qty("MSFT") == 0
        await scenario.assert_consistent()


async def test_sigterm_during_recovery_is_remembered_by_next_start(database: str) -> None:
    """The broker cannot be read at the start and somebody asks to stop: it ends within its bound, not flat. The wish
    is kept: the next start enters nothing, and leaves what is held."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=503, count=0)
        opening = asyncio.ensure_future(scenario.start())
        await scenario.advance(seconds=10)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit(step=5) == 2
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await scenario.clear_faults()
        await scenario.start()
        await scenario.advance(seconds=30)
        assert await scenario.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL") == "flatten"
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C27")
async def test_sigterm_after_close_exits_not_flat_and_alerts(database: str) -> None:
    """Shares are held when the market is shut: the code says not flat, somebody is paged, the wish is kept."""
    async with open_scenario(
        database, now=at("15:40", MONDAY), positions={"close_all_at_market_close": False}
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=21)
        if (
            scenario.components is not None
            and scenario._run_task is not None
            and not scenario._run_task.done()
        ):
            scenario.stop.request("SIGTERM", flatten=True)
            assert await scenario.wait_for_exit(step=5) == 2
            assert "NOT_FLAT" in await scenario.alert_events()
        assert scenario.held_qty("AAPL") == 20


async def test_halt_command_blocks_entries_until_resume(database: str) -> None:
    """Halted, no entry leaves and protection runs on; resumed, entries leave again."""
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


async def test_resume_after_flatten_keeps_cycle_closed(database: str) -> None:
    """The operator flattens and resumes: the day's cycle stays closed all the same."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert (await scenario.send_command("flatten"))["flat"] is True
        assert "cycle_closed" in (await scenario.send_command("resume"))["still_closed"]
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("MSFT") == 0
        await scenario.assert_consistent()


async def test_invalid_commands_are_answered(database: str) -> None:
    """Unknown verbs, symbols nobody holds and missing arguments are answered, and the next command is taken."""
    async with open_scenario(database) as scenario:
        assert not (await scenario.send_command("dance"))["ok"]
        assert not (await scenario.send_command("close", symbol="TSLA"))["ok"]
        assert not (await scenario.send_command("close"))["ok"]
        assert not (await scenario.send_command("approve", proposal_id=99))["ok"]
        assert not (await scenario.send_command("approve", proposal_id="x"))["ok"]
        assert (await scenario.send_command("halt"))["ok"]
        await scenario.assert_consistent()
