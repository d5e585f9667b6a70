"""Outage exits in rare states: one symbol of several, a carried position, a short, two requests of unknown outcome."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from catalyst import flat_proof_files
from catalyst.daemon.shutdown import ExitCode
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from tests.dbfaults.proxied_scenario import assert_sent_once
from tests.dbfaults.test_database_outage import (
    open_scenario_with_spool,
    restore_database_and_start,
    spool_entries,
)
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Scenario
from tests.stories.test_refused_exits import working_stops

SHORT = {"limit": "189.90", "stop": "192.00", "target": "186.00", "side": "short"}


def proof_files(scenario: Scenario) -> list[bool]:
    """Return whether each proof file of the account says flat."""
    account_name = scenario.settings.account_name(scenario.server.exchange.state.account.id)
    files = flat_proof_files.read_flat_proofs(scenario.settings.proofs_dir, account_name)
    return [facts["flat"] is True for _, facts in files]


async def exit_orders(scenario: Scenario, symbol: str) -> list[tuple[str, str]]:
    """Return side and quantity of each market order of a symbol that the exchange received."""
    logs = await scenario.admin("logs")
    return [
        (order["side"], order["qty"])
        for order in logs["orders"]
        if order["symbol"] == symbol and order["type"] == "market"
    ]


async def test_outage_exit_of_one_symbol_proves_nothing_about_the_account(
    database: str, tmp_path: Path
) -> None:
    """Given AAPL is exited in an outage and MSFT stays held, then the spool holds the proof of AAPL, no proof of the
    account is written as a row or a file, and the import holds the writer lock; SIGTERM then proves the account."""
    async with open_scenario_with_spool(database, tmp_path, positions={"max_hold_time_minutes": 5}) as (
        scenario,
        proxy,
        faults,
    ):
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=4)
        await scenario.given_position("MSFT", 10)
        proxy.refuse_connections()
        await scenario.advance(seconds=90)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 10)
        proofs = [entry for entry in spool_entries(tmp_path) if entry["kind"] == "proof"]
        assert {(entry["symbol"], entry["flat"]) for entry in proofs} == {("AAPL", True)}

        lock, was_locked = scenario.components.ledger.write_lock(), []
        faults.run_before("spool", lambda: was_locked.append(lock.locked()))
        proxy.resume()
        await scenario.advance(seconds=30)
        assert was_locked == [True]
        assert await scenario.conn.fetchval("SELECT count(*) FROM flat_proofs") == 0
        assert proof_files(scenario) == []
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert await exit_orders(scenario, "AAPL") == [("sell", "20")]

        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert await scenario.conn.fetch("SELECT flat FROM flat_proofs") == [(True,)]
        assert proof_files(scenario) == [True]
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_outage_exit_sells_carried_positions_once_when_position_list_lags(
    database: str, tmp_path: Path
) -> None:
    """Given two positions whose entries are older than the orders that an outage exit reads, when the market opens
    in an outage, then each is sold once, although the broker's list shows the shares for 15 s after the sale."""
    wednesday = MONDAY + timedelta(days=2)
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        await scenario.crash()
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.10", after=60)
        await scenario.clock.advance_to(at("09:28", wednesday))
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (20, 10)

        await scenario.inject_fault("position_lag", seconds=15, count=0)
        proxy.refuse_connections()
        await scenario.clock.advance_to(at("09:30", wednesday))
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.20")
        await scenario.advance(seconds=60)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 0)
        sales = [entry["symbol"] for entry in spool_entries(tmp_path) if entry["kind"] == "exit_order"]
        assert sorted(sales) == ["AAPL", "MSFT"]
        assert await exit_orders(scenario, "AAPL") == [("sell", "20")]
        assert await exit_orders(scenario, "MSFT") == [("sell", "10")]
        proxy.resume()
        await scenario.advance(seconds=60)
        for symbol in ("AAPL", "MSFT"):
            position = await scenario.position(symbol)
            assert position is not None
            assert position["status"] == "closed"
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_outage_exit_buys_back_a_short_and_sells_a_long(database: str, tmp_path: Path) -> None:
    """SIGTERM in an outage with a short and a long held: the short is bought back, the long is sold, each once."""
    async with open_scenario_with_spool(database, tmp_path, trading={"allow_short": True}) as (
        scenario,
        proxy,
        _,
    ):
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **SHORT)
        await scenario.given_position("MSFT", 10)
        assert scenario.held_qty("AAPL") == -20
        proxy.refuse_connections()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 0)
        assert await exit_orders(scenario, "AAPL") == [("buy", "20")]
        assert await exit_orders(scenario, "MSFT") == [("sell", "10")]
        await restore_database_and_start(scenario, proxy)
        for symbol in ("AAPL", "MSFT"):
            position = await scenario.position(symbol)
            assert position is not None
            assert (position["status"], position["close_reason"][:9]) == ("closed", "SHUTDOWN:")
        await scenario.assert_consistent()


@pytest.mark.parametrize("unreadable", ["AAPL", "MSFT"])
async def test_outage_flatten_is_not_proven_while_one_of_two_requests_may_have_arrived(
    database: str, tmp_path: Path, unreadable: str
) -> None:
    """Given two entries without a response in an outage, when one of them can be looked up and is not found, then
    the other one keeps the account from being proven flat, whichever was sent first."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=2)
        rows = {symbol: await scenario.submit_entry(symbol, 10, **ENTRY) for symbol in ("AAPL", "MSFT")}
        await scenario.inject_fault(
            "status_before",
            method="GET",
            route="/v2/orders:by_client_order_id",
            client_order_id=rows[unreadable].client_order_id,
            status=500,
            count=0,
        )
        proxy.refuse_connections()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 2
        proof = spool_entries(tmp_path)[-1]
        assert (proof["kind"], proof["flat"]) == ("proof", False)
        assert (proof["broker_orders"], proof["broker_positions"]) == (0, 0)
        assert proof_files(scenario) == [False]
        await scenario.clear_faults()
        await restore_database_and_start(scenario, proxy)
        assert {(await scenario.orders(symbol))[0]["status"] for symbol in rows} <= {"rejected", "submitted"}
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 0)


async def test_position_opened_in_an_outage_gets_the_levels_of_its_own_entry(
    database: str, tmp_path: Path
) -> None:
    """Given the symbol was bought and sold earlier today, when a second entry fills in part in an outage, then its OCO
    has the stop and the target of the second entry."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, limit="190.10", stop="186.00", target="197.00")
        await scenario.advance(seconds=3)
        proxy.refuse_connections()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=45)
        assert scenario.held_qty("AAPL") == 8
        live = scenario.server.exchange.state.order_store.live()
        assert {(o.type, o.qty, o.stop_price or o.limit_price) for o in live} == {
            ("limit", 8, Decimal("197.00")),
            ("stop", 8, Decimal("186.00")),
        }
        proxy.resume()
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["stop_loss"]) == (8, Decimal("186.00"))
        await assert_sent_once(scenario)


async def test_outage_exit_whose_last_response_was_a_rejection_is_imported_as_rejected(
    database: str, tmp_path: Path
) -> None:
    """Given an outage exit got no response at first and only rejections after that, then the import marks it as
    rejected with the broker's text, and the next exit sells under another id."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=1)
        await scenario.inject_fault(
            "status_before", method="POST", route="/v2/orders", status=403, code=40310000,
            message="insufficient qty available for order", count=0,
        )  # fmt: skip
        proxy.refuse_connections()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 2
        outcomes = [entry["outcome"] for entry in spool_entries(tmp_path) if entry["kind"] == "response"]
        assert (outcomes[0], outcomes[-1]) == ("unknown", "rejected")
        await scenario.clear_faults()
        scenario.print_trade("AAPL", "190.00")
        await restore_database_and_start(scenario, proxy)
        outage = [order for order in await scenario.orders("AAPL") if order["origin"] == "outage"]
        sales = [order for order in outage if order["order_purpose"] == "flatten"]
        assert [order["status"] for order in sales] == ["rejected"]
        assert "insufficient qty" in sales[0]["rejection_reason"]
        # The stops that the ending process tried to leave were refused too.
        assert {order["status"] for order in outage} == {"rejected"}
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 0
        await assert_sent_once(scenario)


async def test_outage_flatten_that_is_not_proven_frees_no_symbol_of_an_earlier_exit(
    database: str, tmp_path: Path
) -> None:
    """Given AAPL was exited in an outage, when a flatten cannot read the broker, then AAPL stays with the outage exit,
    because the database does not show its exit yet, and MSFT may be exited again."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        assert scenario.components is not None
        outage_exit, states = scenario.components.outage_exit, scenario.components.gate.symbols
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        proxy.refuse_connections()
        exiting = asyncio.ensure_future(
            outage_exit.exit_symbol("AAPL", reason="MANUAL", by="trader", within=timedelta(seconds=30))
        )
        await scenario.advance(seconds=20)
        assert (await exiting).flat
        assert states.symbols(SymbolReason.OUTAGE_EXIT) == {"AAPL"}
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=500, count=0)
        result = await outage_exit.flatten(
            latch=None, reason="MANUAL", by="trader", within=timedelta(0), market_open=True, keep_running=True
        )
        assert not result.flat
        assert states.symbols(SymbolReason.OUTAGE_EXIT) == {"AAPL"}


async def test_sigterm_in_outage_leaves_unsold_shares_under_a_lasting_stop(
    database: str, tmp_path: Path
) -> None:
    """Given the database is away and the broker refuses every sale, when the daemon is stopped, then the shares keep a
    good-till-cancelled stop; the next start imports its row and sells them."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.refuse_connections()
        await scenario.inject_fault(
            "status_before", method="POST", route="/v2/orders", client_order_id="cat-*-z", status=403, code=40310000,
            message="insufficient day trading buying power", count=0,
        )  # fmt: skip
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        await scenario.clear_faults()
        await restore_database_and_start(scenario, proxy)
        imported = [o for o in await scenario.orders("AAPL") if o["order_class"] == "oco"]
        assert {order["time_in_force"] for order in imported} == {"gtc"}
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_shares_without_levels_get_a_stop_in_an_outage(database: str, tmp_path: Path) -> None:
    """Given a position has no stored stop and target, and its orders end during a database outage, then an OCO at the
    configured distance from the price protects it."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        await scenario.conn.execute("UPDATE positions SET stop_loss = NULL, take_profit = NULL")
        assert scenario.components is not None
        scenario.components.ledger.changed.notify()
        await scenario.advance(seconds=16)
        proxy.refuse_connections()
        await scenario.advance(seconds=5)
        for order in scenario.server.exchange.state.order_store.working("AAPL"):
            await scenario.admin("cancel", {"id": order.id})
        scenario.server.exchange.confirm_cancels()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=15)
        assert working_stops(scenario, "AAPL") == [("day", 20)]
        proxy.resume()
        await scenario.advance(seconds=60)
        assert working_stops(scenario, "AAPL") == [("day", 20)]
        await scenario.assert_consistent()


async def test_last_protection_in_an_outage_waits_for_a_broker_that_cannot_be_read(
    database: str, tmp_path: Path
) -> None:
    """Given shares without a stop, when the daemon ends in an outage and the broker's lists fail at first, then the
    daemon ends only after their stop works."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.refuse_connections()
        await scenario.advance(seconds=5)
        for order in scenario.server.exchange.state.order_store.working("AAPL"):
            await scenario.admin("cancel", {"id": order.id})
        scenario.server.exchange.confirm_cancels()
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=500, count=3)
        assert scenario.components is not None
        protection = scenario.components.outage_protection
        ending = asyncio.create_task(protection.protect_overnight(timedelta(seconds=60)))
        while not ending.done():
            await scenario.advance(seconds=1)
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        proxy.resume()
        await scenario.advance(seconds=60)
        await scenario.assert_consistent()
