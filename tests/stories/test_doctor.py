"""Doctor: reports each problem with the command that fixes it, and no problem on a normal day."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from catalyst.backup_files import backup_name
from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import SystemClock
from catalyst.config.schema import Mode
from catalyst.doctor.backups import backup_issues
from catalyst.doctor.database_checks import old_key_issues
from catalyst.doctor.examination import Journal, examine
from catalyst.doctor.issues import FIXES, RECONCILE, Examination, Issue, IssueKind, Severity
from catalyst.store import api_keys, quarantine
from catalyst.store.migrate import migrated_since
from catalyst.store.pool import Store, open_store
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Scenario, open_scenario, settings_for
from tests.stories.test_safe_mode import as_owner

UNKNOWN_ORDER_ID = "00000000-0000-4000-8000-000000000000"


async def run_doctor(scenario: Scenario, *, whole_journal: bool = False, **changes: Any) -> Examination:
    """Run the doctor on its own connection and broker client while time advances; return its result."""
    store = await open_store(scenario.dsn, scenario.clock, size=2, name="doctor")
    settings = replace(scenario.settings, **changes)
    broker = AlpacaBroker(scenario.clock, base_url=settings.trading_url, key="demo", secret="demo")
    examination = asyncio.ensure_future(
        examine(
            store,
            broker,
            settings,
            scenario.clock,
            pause_clock=scenario.clock,
            journal=Journal.WHOLE if whole_journal else Journal.SINCE_LAST_PROOF,
        )
    )
    try:
        for _ in range(60):
            await scenario.advance(seconds=1)
            if examination.done():
                break
        result = await examination
    finally:
        await broker.close()
        await store.close()
    orjson.dumps(result.as_dict, default=str)
    for issue in result.issues:
        assert issue.fix.startswith("catalyst ")
    return result


def issue_kinds(result: Examination) -> set[str]:
    """Return the kinds of all issues."""
    return {str(issue.kind) for issue in result.issues}


def issue_of_kind(result: Examination, kind: IssueKind) -> Issue:
    """Return the only issue of this kind."""
    issues = [issue for issue in result.issues if issue.kind is kind]
    assert len(issues) == 1, issue_kinds(result)
    return issues[0]


async def test_doctor_finds_no_issue_on_normal_day(database: str) -> None:
    """No issue is reported before, during and after a trade."""
    async with open_scenario(database) as scenario:
        result = await run_doctor(scenario)
        assert (result.status, result.exit_code, result.issues) == ("OK", 0, ())
        await scenario.given_position("AAPL", 20)
        result = await run_doctor(scenario)
        assert result.issues == ()
        report = result.as_dict
        assert report["alpaca_connected"] is True
        assert report["alpaca_mode"] == "sim"
        assert report["summary"] == {
            "total_issues": 0,
            "critical": 0,
            "warnings": 0,
            "info": 0,
            "status": "OK",
        }
        assert result.pipeline["positions"] == {"total": 1, "open": 1}
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        assert (await run_doctor(scenario, whole_journal=True)).issues == ()
        await scenario.assert_consistent()


async def test_doctor_reports_stopped_daemon_in_market_hours(database: str) -> None:
    """A stopped daemon in market hours is critical, and no issue after its restart."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        result = await run_doctor(scenario)
        assert issue_kinds(result) == {"DAEMON_DOWN"}
        assert (result.exit_code, issue_of_kind(result, IssueKind.DAEMON_DOWN).fix) == (2, "catalyst run")
        await scenario.start()
        await scenario.advance(seconds=10)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_unreachable_broker_and_checks_database(database: str) -> None:
    """An unreachable broker is a warning; the skipped comparison is reported, and the database is checked all
    the same."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status", method="GET", route="/v2/positions", status=500, count=0)
        result = await run_doctor(scenario)
        assert {"ALPACA_ERROR", "RECONCILIATION_SKIPPED"} <= issue_kinds(result)
        assert (result.exit_code, result.as_dict["alpaca_mode"]) == (1, None)
        await scenario.clear_faults()
        await scenario.advance(minutes=2)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_share_differences_without_fixing_them(database: str) -> None:
    """Share differences between database and broker are reported by kind and severity, and not fixed by the
    doctor."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        held = scenario.server.exchange.state.account.positions["AAPL"]
        for broker_qty, kind, severity in (
            (21, IssueKind.QTY_MISMATCH, Severity.WARNING),
            (30, IssueKind.QTY_MISMATCH, Severity.CRITICAL),
            (-5, IssueKind.OVERSOLD, Severity.CRITICAL),
            (0, IssueKind.PHANTOM_POSITION, Severity.CRITICAL),
        ):
            held.qty = type(held.qty)(broker_qty)
            issue = issue_of_kind(await run_doctor(scenario), kind)
            assert issue.severity is severity
            assert (issue.facts["db_qty"], issue.facts["alpaca_qty"]) == (20, broker_qty)
            assert issue.fix == RECONCILE
        held.qty = type(held.qty)(20)
        assert issue_kinds(await run_doctor(scenario)) == {"DAEMON_DOWN"}


async def test_doctor_ranks_orphans_by_traded_symbol(database: str) -> None:
    """Orphan shares are critical in a symbol we traded, and informational in another symbol."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        scenario.print_trade("MSFT", "300.00")
        await scenario.advance(seconds=1)
        await scenario.crash()
        for symbol in ("AAPL", "MSFT"):
            await scenario.admin("order", {"symbol": symbol, "side": "buy", "qty": "7", "type": "market",
                                       "time_in_force": "day"})  # fmt: skip
        await scenario.advance(seconds=2)
        result = await run_doctor(scenario)
        severities = {
            issue.facts["symbol"]: issue.severity
            for issue in result.issues
            if issue.kind is IssueKind.ORPHAN_POSITION
        }
        assert severities == {"AAPL": Severity.CRITICAL, "MSFT": Severity.INFO}


async def test_doctor_reports_stuck_entry_but_not_resting_legs(database: str) -> None:
    """An entry that is working for over five minutes is stuck; protective legs may work all day."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry(
            "MSFT", 10, **{**ENTRY, "limit": "180.00", "stop": "178.00", "target": "199.00"}
        )
        await scenario.advance(seconds=2)
        await scenario.crash()
        await scenario.advance(minutes=6)
        issue = issue_of_kind(await run_doctor(scenario), IssueKind.STUCK_ORDER)
        assert (issue.facts["symbol"], issue.severity) == ("MSFT", Severity.WARNING)
        assert float(str(issue.facts["minutes_pending"])) >= 6
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_order_differences(database: str) -> None:
    """Missed fills, orders unknown to the broker and orders without a row are reported."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=2)
        result = await run_doctor(scenario)
        assert {"ORDER_STATUS_MISMATCH", "PHANTOM_POSITION", "PNL_MISMATCH"} <= issue_kinds(result)
        await scenario.start()
        await scenario.advance(seconds=20)
        assert (await run_doctor(scenario)).issues == ()

        await scenario.given_position("MSFT", 10)
        await scenario.crash()
        async with as_owner(scenario, "orders") as conn:
            await conn.execute(
                "UPDATE orders SET alpaca_order_id = $1 WHERE order_purpose = 'stop_loss' AND status ="
                " ANY('{submitted,accepted}')",
                UNKNOWN_ORDER_ID,
            )
            await conn.execute("UPDATE orders SET alpaca_order_id = NULL WHERE order_purpose = 'entry'")
        result = await run_doctor(scenario)
        assert issue_of_kind(result, IssueKind.ORDER_NOT_FOUND).facts["alpaca_order_id"] == UNKNOWN_ORDER_ID
        assert "ORPHAN_ORDER" in issue_kinds(result)
        await scenario.inject_fault(
            "status", method="GET", route=f"/v2/orders/{UNKNOWN_ORDER_ID}", status=500, count=0
        )
        issue = issue_of_kind(await run_doctor(scenario), IssueKind.ORDER_CHECK_ERROR)
        assert (issue.severity, issue.facts["alpaca_order_id"]) == (Severity.INFO, UNKNOWN_ORDER_ID)


async def test_doctor_reports_unprotected_shares_without_fixing_them(database: str) -> None:
    """A cancelled stop is critical and not fixed by the doctor; the next start protects the shares."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        for order in list(scenario.server.exchange.state.order_store.live()):
            await scenario.admin("cancel", {"id": order.id})
        await scenario.advance(seconds=2)
        issue = issue_of_kind(await run_doctor(scenario), IssueKind.UNPROTECTED_POSITION)
        assert (issue.severity, issue.fix) == (Severity.CRITICAL, "catalyst close AAPL")
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_a_day_that_ended_with_positions(database: str) -> None:
    """After a daemon that was dead over the close the doctor names what is held, what is open, the day that was not
    completed and the reports in quarantine; each alone makes it non-zero. Deliberately held positions are no issue."""
    async with open_scenario(database, now=at("15:40"), once=False) as scenario:
        for symbol in ("AAPL", "MSFT"):
            await scenario.given_position(symbol, 20)
        assert issue_kinds(await run_doctor(scenario)) == set()
        await scenario.crash()
        await quarantine.put(
            scenario.conn,
            source="poll",
            reason="unknown broker status",
            payload="{}",
            at=scenario.clock.now(),
        )
        await scenario.clock.advance_to(at("16:03"))
        result = await run_doctor(scenario)
        held = issue_of_kind(result, IssueKind.POSITIONS_AFTER_CLOSE)
        assert (held.severity, held.facts["symbols"]) == (Severity.CRITICAL, ["AAPL", "MSFT"])
        await scenario.clock.advance_to(at("16:10"))
        result = await run_doctor(scenario)
        assert (
            "4 orders are open after the close of 2026-03-09"
            in issue_of_kind(result, IssueKind.OPEN_AFTER_CLOSE).message
        )
        assert "2026-03-09 is" in issue_of_kind(result, IssueKind.CYCLE_NOT_COMPLETED).message
        assert "1 reports of the broker" in issue_of_kind(result, IssueKind.QUARANTINE_OPEN).message
        for kind in ("POSITIONS_AFTER_CLOSE", "OPEN_AFTER_CLOSE", "CYCLE_NOT_COMPLETED", "QUARANTINE_OPEN"):
            alone = replace(result, issues=(issue_of_kind(result, IssueKind(kind)),))
            assert alone.exit_code > 0
        async with as_owner(scenario, "quarantine") as conn:
            assert (
                await quarantine.resolve_all(conn, by="trader", note="checked", at=scenario.clock.now()) == 1
            )
        config = scenario.settings.config
        holding = config.model_copy(
            update={"positions": config.positions.model_copy(update={"close_all_at_market_close": False})}
        )
        kept = await run_doctor(scenario, config=holding)
        assert not {"POSITIONS_AFTER_CLOSE", "OPEN_AFTER_CLOSE", "QUARANTINE_OPEN"} & issue_kinds(kept)


async def test_doctor_reports_illegal_history_by_invariant(database: str) -> None:
    """A forbidden status, fills that do not add up and a changed journal row are reported by their invariant."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        for tables, damage, repair, invariant in (
            (("orders",), "UPDATE orders SET filled_qty = 19 WHERE order_purpose = 'entry'",
             "UPDATE orders SET filled_qty = 20 WHERE order_purpose = 'entry'", "I7"),
            (("orders",), "UPDATE orders SET status = 'expired' WHERE order_purpose = 'entry'",
             "UPDATE orders SET status = 'filled' WHERE order_purpose = 'entry'", "I26"),
            (("positions",), "UPDATE positions SET quantity = 15", "UPDATE positions SET quantity = 20", "I3"),
            (("order_events",), "UPDATE order_events SET source = 'poll' WHERE seq = 1",
             "UPDATE order_events SET source = 'submit' WHERE seq = 1", "I26"),
        ):  # fmt: skip
            async with as_owner(scenario, *tables) as conn:
                await conn.execute(damage)
            result = await run_doctor(scenario)
            reported = [
                issue.facts["invariant"] for issue in result.issues if issue.kind is IssueKind.ILLEGAL_HISTORY
            ]
            assert invariant in reported, (damage, issue_kinds(result))
            async with as_owner(scenario, *tables) as conn:
                await conn.execute(repair)
            assert issue_kinds(await run_doctor(scenario)) == {"DAEMON_DOWN"}, repair


async def test_doctor_reports_two_filled_entries_of_one_signal(database: str) -> None:
    """A second entry of a signal that also filled is a duplicate order."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 20)
        async with as_owner(scenario, "orders") as conn:
            await conn.execute("DROP INDEX IF EXISTS orders_one_entry_per_signal")
            await conn.execute("UPDATE orders SET signal_id = 'one' WHERE order_purpose = 'entry'")
        issue = issue_of_kind(await run_doctor(scenario), IssueKind.DUPLICATE_ORDER)
        assert (issue.severity, issue.facts["invariant"]) == (Severity.CRITICAL, "I11")


async def test_doctor_reports_a_key_that_is_in_use_for_long(store: Store) -> None:
    """A key is old 90 days after its first use; another key is not."""
    first_use = at("09:00")
    async with store.tx("keys") as conn:
        for days in (0, 80):
            await api_keys.record_first_use(conn, "PK-OLD", at=first_use + timedelta(days=days))
        await api_keys.record_first_use(conn, "PK-NEW", at=first_use + timedelta(days=80))
        now = first_use + timedelta(days=91)
        assert await old_key_issues(conn, "PK-OLD", first_use + timedelta(days=90)) == []
        assert await old_key_issues(conn, "PK-NEW", now) == []
        [issue] = await old_key_issues(conn, "PK-OLD", now)
        assert (issue.kind, issue.severity, issue.facts) == (IssueKind.KEY_OLD, Severity.INFO, {"days": 91})
        stored = await conn.fetchval("SELECT string_agg(k::text, '') FROM api_keys k")
        assert "PK-" not in stored


async def test_doctor_names_invariant_of_safe_mode(database: str) -> None:
    """The doctor names the failed invariant in SAFE mode, and reports no issue after a resume."""
    async with open_scenario(database) as scenario:
        from catalyst.domain.invariants import Invariant

        assert scenario.components is not None
        scenario.components.gate.enter_safe_mode(Invariant.I5, "set by the test")
        await scenario.advance(seconds=1)
        issue = issue_of_kind(await run_doctor(scenario), IssueKind.SAFE_MODE)
        assert issue.facts["invariants"] == ["I5"]
        assert issue.fix == "catalyst resume"
        assert (await scenario.send_command("resume"))["ok"]
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_stale_cycle_and_marks(database: str) -> None:
    """A cycle that no daemon keeps for 30 minutes and marks older than 10 minutes are reported. Half an hour between
    two scans is no issue."""
    async with open_scenario(database, now=at("10:35"), workflow={"scan_frequency_minutes": 0}) as scenario:
        await scenario.advance(minutes=32)
        assert (await run_doctor(scenario)).issues == ()
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.advance(minutes=11)
        result = await run_doctor(scenario)
        assert issue_of_kind(result, IssueKind.STALE_POSITION_DATA).severity is Severity.INFO
        assert "CYCLE_STALE" not in issue_kinds(result)
        await scenario.advance(minutes=20)
        assert issue_of_kind(await run_doctor(scenario), IssueKind.CYCLE_STALE).severity is Severity.WARNING
        await scenario.start()
        scenario.print_trade("AAPL", "190.10")
        await scenario.advance(minutes=2)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_config_notices_and_full_disk(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configuration notices do not change the exit code; a full disk is a warning."""
    async with open_scenario(database) as scenario:
        result = await run_doctor(scenario, notices=("CONFIG_WARNING something",))
        assert (issue_kinds(result), result.exit_code, result.status) == ({"CONFIG_WARNING"}, 0, "OK")
        with monkeypatch.context() as patch:
            patch.setattr("catalyst.doctor.examination.LOW_DISK_BYTES", 1 << 62)
            result = await run_doctor(scenario)
        assert (issue_kinds(result), result.exit_code) == ({"DISK_LOW"}, 1)


async def test_doctor_names_a_backup_that_is_too_old(store: Store, tmp_path: Path) -> None:
    """A database without a backup, and one with an old one, are named 26 hours after it; a newer file, a simulated
    account and the limit 0 are no issue."""
    migrated = SystemClock().now()
    folder = tmp_path / "backups"
    settings = settings_for("http://127.0.0.1:1", database={"backups": folder})
    paper = replace(settings, mode=Mode.PAPER)
    off = replace(settings_for("http://127.0.0.1:1", database={"warn_backup_age_hours": 0}), mode=Mode.PAPER)
    async with store.read() as conn:
        since = await migrated_since(conn)
    assert since is not None
    assert backup_issues(paper, database_since=since, at=since + timedelta(hours=26)) == []
    late = since + timedelta(hours=27)
    [issue] = backup_issues(paper, database_since=since, at=late)
    assert (issue.kind, issue.severity, issue.fix) == (
        IssueKind.BACKUP_STALE,
        Severity.WARNING,
        "catalyst backup",
    )
    assert issue.message.startswith("there is no backup in ")
    for other in (settings, off):
        assert backup_issues(other, database_since=since, at=late) == []
    folder.mkdir()
    (folder / backup_name("catalyst", migrated)).touch()
    assert (
        backup_issues(paper, database_since=since - timedelta(days=9), at=migrated + timedelta(hours=25))
        == []
    )
    [issue] = backup_issues(paper, database_since=since, at=migrated + timedelta(hours=30))
    assert "is 30 hours old" in issue.message


async def test_doctor_warns_of_clock_skew(database: str) -> None:
    """A skew of three seconds to the broker's clock is a warning."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("clock_skew", seconds=3, count=0)
        assert issue_of_kind(await run_doctor(scenario), IssueKind.CLOCK_SKEW).severity is Severity.WARNING
        await scenario.clear_faults()
        assert (await run_doctor(scenario)).issues == ()


async def test_reconcile_command_reports_no_discrepancy_and_sends_nothing(database: str) -> None:
    """The command `reconcile` answers with its discrepancies, here none, and sends no order."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        submitted_before = await scenario.count_submitted("AAPL")
        answer = await scenario.send_command("reconcile")
        assert answer["ok"]
        assert answer["discrepancies"] == []
        assert await scenario.count_submitted("AAPL") == submitted_before


def test_every_doctor_issue_kind_has_a_fix_command() -> None:
    """Each kind has a fix that is a catalyst command."""
    assert set(FIXES) == set(IssueKind)
    assert all(fix.startswith("catalyst ") for fix in FIXES.values())
