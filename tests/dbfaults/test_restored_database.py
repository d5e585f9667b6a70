"""Restored database: the rows are older than the broker's state, and lost orders are adopted by their own id."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import asyncpg

from catalyst.backup.restore import read_content, restore, unpack
from catalyst.backup.write import server_version, write_backup
from catalyst.doctor.issues import FOUND_AT_BROKER, IN_DATABASE
from catalyst.domain.fault_points import Moment
from tests.conftest import PostgresServer, database_name
from tests.dbfaults.proxied_scenario import assert_sent_once
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_doctor import run_doctor

CRASH_EVERY = 4  # steps of a recovery between two crashes

ScenarioStep = Callable[[Scenario], Awaitable[object]]


async def do_nothing(scenario: Scenario) -> None:
    """Do nothing: the copy is from before the first order."""


@asynccontextmanager
async def open_restored_scenario(
    postgres: PostgresServer, database: str, *, before_copy: ScenarioStep, after_copy: ScenarioStep
) -> AsyncIterator[Scenario]:
    """Open a scenario whose database has the rows of `before_copy` but not those of `after_copy`."""
    async with open_scenario(database) as scenario:
        await before_copy(scenario)
        await scenario.crash()
        await scenario.conn.close()
        old_dsn = postgres.create(database_name(database))
        try:
            scenario.conn = await asyncpg.connect(database)
            await scenario.start()
            await after_copy(scenario)
            await scenario.crash()
            await scenario.conn.close()
            scenario.dsn = old_dsn
            scenario.conn = await asyncpg.connect(old_dsn)
            await scenario.start()
            await scenario.advance(seconds=20)
            yield scenario
        finally:
            if scenario.components is not None:
                await scenario.crash()
            await scenario.conn.close()
            postgres.drop(old_dsn)
            scenario.conn = await asyncpg.connect(database)


async def fill_entry_partly(scenario: Scenario) -> None:
    """Fill 8 of 20 shares; the rest is cancelled, stop and target are for 8."""
    scenario.print_trade("AAPL", "190.00")
    await scenario.advance(seconds=1)
    await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
    await scenario.submit_entry("AAPL", 20, **ENTRY)
    await scenario.advance(seconds=15)
    assert scenario.held_qty("AAPL") == 8
    assert await scenario.count_submitted("AAPL") == 2


async def forget_the_day(scenario: Scenario) -> None:
    """Delete the cycle of the day and the installation id: the copy is of an evening before the id existed."""
    await scenario.conn.execute("DELETE FROM trading_cycles")
    await scenario.conn.execute("UPDATE daemon SET installation = NULL")


async def hold_shares(scenario: Scenario) -> None:
    """Buy 20 AAPL; the entry and its legs have no row in the copy."""
    await scenario.given_position("AAPL", 20)


async def test_shares_bought_today_are_not_sold_as_carried(postgres: PostgresServer, database: str) -> None:
    """Given a backup of the evening before, when the daemon starts after a purchase, then the adopted position is of
    today: it belongs to the day's cycle, is not carried, and keeps its stop."""
    async with open_restored_scenario(
        postgres, database, before_copy=forget_the_day, after_copy=hold_shares
    ) as scenario:
        await scenario.advance(minutes=5)
        assert scenario.held_qty("AAPL") == 20
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["carried"], position["protected_at"] is not None) == (False, True)
        assert position["cycle_id"] == await scenario.conn.fetchval("SELECT cycle_id FROM trading_cycles")
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


async def test_protection_with_lost_rows_is_adopted(postgres: PostgresServer, database: str) -> None:
    """Given an entry and an OCO without rows, when the daemon starts, then both are adopted, the shares stay
    protected by the same orders and no order is sent again."""
    async with open_restored_scenario(
        postgres, database, before_copy=do_nothing, after_copy=fill_entry_partly
    ) as scenario:
        top = next(o for o in await scenario.orders("AAPL") if o["order_class"] == "oco")
        position = await scenario.position("AAPL")
        assert position is not None
        assert (top["origin"], top["order_purpose"]) == ("catalyst", "take_profit")
        assert top["position_id"] == position["position_id"]
        assert position["protected_at"] is not None
        assert await scenario.count_submitted("AAPL") == 2
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        assert "ORDER_ADOPTED" in await scenario.alert_events()
        assert "EXTERNAL_ORDER" not in await scenario.alert_events()
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def hold_position(scenario: Scenario) -> None:
    """Hold 20 AAPL."""
    await scenario.given_position("AAPL", 20)


async def exit_during_halt(scenario: Scenario) -> None:
    """Request an exit that waits at the broker for the end of a halt."""
    await scenario.refuse_replacements()
    await scenario.admin("halt", {"symbol": "AAPL"})
    assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
    for _ in range(60):  # the stop comes back before the exit is tried again, then as a limit order
        await scenario.advance(seconds=1)
        live = scenario.server.exchange.state.order_store.live()
        if [order.client_order_id[-2:] for order in live] == ["-x"]:
            return
    raise AssertionError(live)


async def test_exit_with_lost_row_is_adopted_with_its_intent(postgres: PostgresServer, database: str) -> None:
    """A working exit without a row is adopted with its exit intent, neither cancelled nor doubled; the next
    exit gets another id."""
    async with open_restored_scenario(
        postgres, database, before_copy=hold_position, after_copy=exit_during_halt
    ) as scenario:
        (working,) = scenario.server.exchange.state.order_store.live()
        row = next(
            o for o in await scenario.orders("AAPL") if o["client_order_id"] == working.client_order_id
        )
        assert (row["origin"], row["order_purpose"]) == ("catalyst", "exit")
        assert row["status"] == "submitted"
        assert await scenario.conn.fetchval("SELECT count(*) FROM exit_intents WHERE state = 'open'") == 1
        await scenario.advance(seconds=70)  # the exit is replaced at another price
        exits = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert len({o["client_order_id"] for o in exits}) == len(exits) >= 2
        await scenario.admin("resume", {"symbol": "AAPL"})
        scenario.print_trade("AAPL", "189.00")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert "whose row was lost" in position["close_reason"]
        await scenario.assert_consistent()


async def test_own_exit_without_position_is_treated_as_external(database: str) -> None:
    """An order with the id of our exit but without a position is reported in an alert and treated as an
    external order."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        exit_id = scenario.own_order_id("an unknown position", "x")
        bid = {
            "symbol": "MSFT",
            "side": "buy",
            "qty": "5",
            "type": "limit",
            "limit_price": "150",
            "time_in_force": "day",
        }
        await scenario.admin("order", {**bid, "client_order_id": exit_id})
        await scenario.advance(seconds=10)
        (row,) = await scenario.orders("MSFT")
        assert (row["origin"], row["order_purpose"], row["position_id"]) == ("external", "exit", None)
        message = await scenario.conn.fetchval("SELECT message FROM alerts WHERE event = 'ORDER_ADOPTED'")
        assert "no row in the database; no held shares match it" in message
        assert await scenario.conn.fetchval("SELECT count(*) FROM exit_intents") == 0
        await scenario.assert_consistent()


async def restore_morning_over_afternoon(scenario: Scenario, target: str, folder: Path) -> None:
    """Back up two positions; then one reaches its target, the other is flattened with a proof, entries are allowed
    again and a third is bought; crash, restore the backup into `target`, and leave the daemon stopped there."""
    await scenario.given_position("AAPL", 20)
    await scenario.given_position("MSFT", 10)
    written = await asyncio.to_thread(
        write_backup,
        scenario.dsn,
        folder / "backups",
        at=scenario.clock.now(),
        server=await server_version(scenario.dsn),
        keep_days=7,
    )
    scenario.print_trade("AAPL", "194.05")
    await scenario.advance(minutes=1)
    assert scenario.held_qty("AAPL") == 0
    assert (await scenario.send_command("flatten"))["ok"]
    assert (await scenario.send_command("resume"))["ok"]
    assert list(scenario.settings.proofs_dir.glob("*.json"))
    await scenario.given_position("TSLA", 5)
    await scenario.crash()
    await scenario.conn.close()
    sql = await asyncio.to_thread(unpack, written.path, folder)
    at = scenario.clock.now()
    restored = await restore(
        sql, read_content(sql), target, folder, backup=written.path.name, by="test", at=at
    )
    assert (restored.is_catalyst, restored.migrated) == (True, ())
    scenario.dsn = target
    scenario.conn = await asyncpg.connect(target)


async def test_backup_of_the_morning_over_the_state_of_the_afternoon(
    database: str, empty_database: str, tmp_path: Path
) -> None:
    """Given a backup of the morning, and after it a target that filled, a flatten with its proof, a resume and another
    purchase, when the backup is restored, then it is consistent, the doctor names what the broker has beyond it, the
    next start ends protected and equal, enters nothing before `resume`, and the later proof is no fault."""
    async with open_scenario(database) as scenario:
        await restore_morning_over_afternoon(scenario, empty_database, tmp_path)
        issues = (await run_doctor(scenario, whole_journal=True)).issues
        assert [issue.message for issue in issues if issue.kind in IN_DATABASE] == []
        beyond = {
            (issue.kind.value, issue.facts.get("symbol")) for issue in issues if issue.kind in FOUND_AT_BROKER
        }
        assert {
            ("PHANTOM_POSITION", "AAPL"),
            ("PHANTOM_POSITION", "MSFT"),
            ("ORPHAN_POSITION", "TSLA"),
        } <= beyond

        await scenario.start()
        await scenario.advance(minutes=3)
        assert {symbol: scenario.held_qty(symbol) for symbol in ("AAPL", "MSFT", "TSLA")} == {
            "AAPL": 0,
            "MSFT": 0,
            "TSLA": 5,
        }
        position = await scenario.position("TSLA")
        assert position is not None
        assert (position["status"], position["protected_at"] is not None) == ("open", True)
        assert scenario.components is not None
        assert set(scenario.components.gate.reasons) == {"halt"}
        await scenario.assert_consistent()
        assert (await scenario.send_command("resume"))["ok"]
        assert not scenario.components.gate.reasons
        await assert_sent_once(scenario)


async def test_crashes_during_the_first_start_on_a_restored_database(
    database: str, empty_database: str, tmp_path: Path
) -> None:
    """Given the restored morning, when each start crashes at a later step of its recovery than the one before, until
    one is complete, then it ends protected and equal, and no order is sent twice."""
    async with open_scenario(database) as scenario:
        await restore_morning_over_afternoon(scenario, empty_database, tmp_path)
        crashes = 0
        for step in count(1, CRASH_EVERY):
            scenario.crash_trigger.reset()
            scenario.crash_trigger.arm("*", Moment.AFTER if crashes % 2 else Moment.BEFORE, nth=step)
            with suppress(asyncio.CancelledError):
                await scenario._start()
            if not scenario.crash_trigger.crashed:
                break
            await scenario.crash()
            crashes += 1
        print(f"{crashes} crashes during the first start after the restore")
        assert crashes >= 5
        await scenario.crash()
        await scenario.start()
        await scenario.advance(minutes=3)
        held = {symbol: scenario.held_qty(symbol) for symbol in ("AAPL", "MSFT", "TSLA")}
        assert held == {"AAPL": 0, "MSFT": 0, "TSLA": 5}
        position = await scenario.position("TSLA")
        assert position is not None
        assert (position["status"], position["protected_at"] is not None) == ("open", True)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()
