"""The doctor tells the truth: red within half a minute while something is broken, green while nothing is; every
finding comes with the command that mends it, and goes when it is mended."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.doctor.examination import examine
from catalyst.doctor.issues import FIXES, RECONCILE, Examination, Issue, IssueKind, Severity
from catalyst.store.pool import open_store
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_safe_mode import as_owner

UNKNOWN_ORDER_ID = "00000000-0000-4000-8000-000000000000"


async def run_doctor(scenario: Scenario, *, whole: bool = False, **changes: Any) -> Examination:
    """What the doctor says, on a connection and a broker client of its own; the story's time goes on meanwhile."""
    store = await open_store(scenario.dsn, scenario.clock, size=2, name="doctor")
    settings = replace(scenario.settings, **changes)
    broker = AlpacaBroker(scenario.clock, base_url=settings.trading_url, key="demo", secret="demo")
    looking = asyncio.ensure_future(
        examine(store, broker, settings, scenario.clock, pause_clock=scenario.clock, whole_journal=whole)
    )
    try:
        for _ in range(60):
            await scenario.advance(seconds=1)
            if looking.done():
                break
        found = await looking
    finally:
        await broker.close()
        await store.close()
    orjson.dumps(found.as_dict, default=str)
    for one in found.issues:
        assert one.fix.startswith("catalyst ")
    return found


def issue_kinds(found: Examination) -> set[str]:
    return {str(one.kind) for one in found.issues}


def issue_of_kind(found: Examination, kind: IssueKind) -> Issue:
    (one,) = [one for one in found.issues if one.kind is kind]
    return one


async def test_doctor_finds_no_issue_on_normal_day(database: str) -> None:
    """Held and protected, leaving, flat: at no moment is anything found, and nothing is sent."""
    async with open_scenario(database) as scenario:
        found = await run_doctor(scenario)
        assert (found.status, found.exit_code, found.issues) == ("OK", 0, ())
        await scenario.given_position("AAPL", 20)
        found = await run_doctor(scenario)
        assert found.issues == ()
        reported = found.as_dict
        assert reported["alpaca_connected"] is True
        assert reported["alpaca_mode"] == "sim"
        assert reported["summary"] == {
            "total_issues": 0,
            "critical": 0,
            "warnings": 0,
            "info": 0,
            "status": "OK",
        }
        assert found.pipeline["positions"] == {"total": 1, "open": 1}
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        assert (await run_doctor(scenario, whole=True)).issues == ()
        await scenario.assert_consistent()


async def test_doctor_reports_stopped_daemon_in_market_hours(database: str) -> None:
    """In market hours that is critical; when it is back it is not."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        found = await run_doctor(scenario)
        assert issue_kinds(found) == {"DAEMON_DOWN"}
        assert (found.exit_code, issue_of_kind(found, IssueKind.DAEMON_DOWN).fix) == (2, "catalyst run")
        await scenario.start()
        await scenario.advance(seconds=10)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_unreachable_broker_and_checks_database(database: str) -> None:
    """A warning, what was not compared is said, and the tables are looked at all the same."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status", method="GET", route="/v2/positions", status=500, count=0)
        found = await run_doctor(scenario)
        assert {"ALPACA_ERROR", "RECONCILIATION_SKIPPED"} <= issue_kinds(found)
        assert (found.exit_code, found.as_dict["alpaca_mode"]) == (1, None)
        await scenario.clear_faults()
        await scenario.advance(minutes=2)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_share_differences_without_fixing_them(database: str) -> None:
    """While no daemon runs, shares vanish from our tables, differ, and vanish at the broker: each by its name, none of
    it mended by the doctor itself."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        held = scenario.server.exchange.account.positions["AAPL"]
        for there, kind, severity in (
            (21, IssueKind.QTY_MISMATCH, Severity.WARNING),
            (30, IssueKind.QTY_MISMATCH, Severity.CRITICAL),
            (-5, IssueKind.OVERSOLD, Severity.CRITICAL),
            (0, IssueKind.PHANTOM_POSITION, Severity.CRITICAL),
        ):
            held.qty = type(held.qty)(there)
            one = issue_of_kind(await run_doctor(scenario), kind)
            assert one.severity is severity
            assert (one.facts["db_qty"], one.facts["alpaca_qty"]) == (20, there)
            assert one.fix == RECONCILE
        held.qty = type(held.qty)(20)
        assert issue_kinds(await run_doctor(scenario)) == {"DAEMON_DOWN"}


async def test_doctor_ranks_orphans_by_traded_symbol(database: str) -> None:
    """Shares of a symbol we traded are critical, a stranger's are only mentioned: nothing of ours is broken."""
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
        found = await run_doctor(scenario)
        severities = {
            one.facts["symbol"]: one.severity for one in found.issues if one.kind is IssueKind.ORPHAN_POSITION
        }
        assert severities == {"AAPL": Severity.CRITICAL, "MSFT": Severity.INFO}


async def test_doctor_reports_stuck_entry_but_not_resting_legs(database: str) -> None:
    """An entry that nobody ends for five minutes is stuck; the legs that protect may rest all day."""
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
        one = issue_of_kind(await run_doctor(scenario), IssueKind.STUCK_ORDER)
        assert (one.facts["symbol"], one.severity) == ("MSFT", Severity.WARNING)
        assert float(str(one.facts["minutes_pending"])) >= 6
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_order_differences(database: str) -> None:
    """Filled at the broker while nobody listened; cancelled in our tables by somebody; unknown to the broker; unknown
    to us."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=2)
        found = await run_doctor(scenario)
        assert {"ORDER_STATUS_MISMATCH", "PHANTOM_POSITION", "PNL_MISMATCH"} <= issue_kinds(found)
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
        found = await run_doctor(scenario)
        assert issue_of_kind(found, IssueKind.ORDER_NOT_FOUND).facts["alpaca_order_id"] == UNKNOWN_ORDER_ID
        assert "ORPHAN_ORDER" in issue_kinds(found)


async def test_doctor_reports_unprotected_shares_without_fixing_them(database: str) -> None:
    """The stop is gone at the broker while nobody runs: critical, and not mended unasked; the next start mends it."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        for order in list(scenario.server.exchange.order_store.live()):
            await scenario.admin("cancel", {"id": order.id})
        await scenario.advance(seconds=2)
        one = issue_of_kind(await run_doctor(scenario), IssueKind.UNPROTECTED_POSITION)
        assert (one.severity, one.fix) == (Severity.CRITICAL, "catalyst close AAPL")
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_illegal_history_by_invariant(database: str) -> None:
    """A state along no edge, fills that do not sum, a line rewritten: illegal history, by its invariant."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        for tables, do, undo, invariant in (
            (("orders",), "UPDATE orders SET filled_qty = 19 WHERE order_purpose = 'entry'",
             "UPDATE orders SET filled_qty = 20 WHERE order_purpose = 'entry'", "I7"),
            (("orders",), "UPDATE orders SET status = 'expired' WHERE order_purpose = 'entry'",
             "UPDATE orders SET status = 'filled' WHERE order_purpose = 'entry'", "I26"),
            (("positions",), "UPDATE positions SET quantity = 15", "UPDATE positions SET quantity = 20", "I3"),
            (("order_events",), "UPDATE order_events SET source = 'poll' WHERE seq = 1",
             "UPDATE order_events SET source = 'submit' WHERE seq = 1", "I26"),
        ):  # fmt: skip
            async with as_owner(scenario, *tables) as conn:
                await conn.execute(do)
            found = await run_doctor(scenario)
            reported = [
                one.facts["invariant"] for one in found.issues if one.kind is IssueKind.ILLEGAL_HISTORY
            ]
            assert invariant in reported, (do, issue_kinds(found))
            async with as_owner(scenario, *tables) as conn:
                await conn.execute(undo)
            assert issue_kinds(await run_doctor(scenario)) == {"DAEMON_DOWN"}, undo


async def test_doctor_names_invariant_of_safe_mode(database: str) -> None:
    """While it is set the doctor names what it was set for; after a resume it does not."""
    async with open_scenario(database) as scenario:
        from catalyst.domain.invariants import Invariant

        assert scenario.components is not None
        scenario.components.gate.enter_safe_mode(Invariant.I5, "set by the test")
        await scenario.advance(seconds=1)
        one = issue_of_kind(await run_doctor(scenario), IssueKind.SAFE_MODE)
        assert one.facts["invariants"] == ["I5"]
        assert one.fix == "catalyst resume"
        assert (await scenario.send_command("resume"))["ok"]
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_stale_cycle_and_marks(database: str) -> None:
    """Nobody has written the cycle for half an hour, nor marked what is held for ten minutes."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.advance(minutes=11)
        found = await run_doctor(scenario)
        assert issue_of_kind(found, IssueKind.STALE_POSITION_DATA).severity is Severity.INFO
        assert "CYCLE_STALE" not in issue_kinds(found)
        await scenario.advance(minutes=20)
        assert issue_of_kind(await run_doctor(scenario), IssueKind.CYCLE_STALE).severity is Severity.WARNING
        await scenario.start()
        scenario.print_trade("AAPL", "190.10")
        await scenario.advance(minutes=2)
        assert (await run_doctor(scenario)).issues == ()


async def test_doctor_reports_config_notices_and_full_disk(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notices of the configuration are mentioned and change no exit code; a full disk is a warning."""
    async with open_scenario(database) as scenario:
        found = await run_doctor(scenario, notices=("CONFIG_WARNING something",))
        assert (issue_kinds(found), found.exit_code, found.status) == ({"CONFIG_WARNING"}, 0, "OK")
        with monkeypatch.context() as patch:
            patch.setattr("catalyst.doctor.examination.LOW_DISK_BYTES", 1 << 62)
            found = await run_doctor(scenario)
        assert (issue_kinds(found), found.exit_code) == ({"DISK_LOW"}, 1)


async def test_doctor_warns_of_clock_skew(database: str) -> None:
    """Three seconds beside the broker's: a warning."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("clock_skew", seconds=3, count=0)
        assert issue_of_kind(await run_doctor(scenario), IssueKind.CLOCK_SKEW).severity is Severity.WARNING
        await scenario.clear_faults()
        assert (await run_doctor(scenario)).issues == ()


async def test_reconcile_command_applies_missed_reports(database: str) -> None:
    """The command behind the safe fixes: it hears what was missed, orders nothing, and answers with what it found."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        before = await scenario.count_submitted("AAPL")
        answer = await scenario.send_command("reconcile")
        assert answer["ok"]
        assert answer["discrepancies"] == []
        assert await scenario.count_submitted("AAPL") == before


def test_every_doctor_issue_kind_has_a_fix_command() -> None:
    """No type without a command, and none that is SQL."""
    assert set(FIXES) == set(IssueKind)
    assert all(fix.startswith("catalyst ") for fix in FIXES.values())
