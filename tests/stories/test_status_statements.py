"""Statements of status, doctor and report about a running daemon: they come from what the daemon stored, each with its
time."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from catalyst.broker.port import StreamState
from catalyst.cli.preflight import CheckVerdict, DatabaseOwner, _check_broker, _check_daemon
from catalyst.clock import ManualClock
from catalyst.config.schema import Config, SessionMode
from catalyst.doctor.issues import IssueKind
from catalyst.report.day import DayReport, read_day_report
from catalyst.report.status import SystemStatus, Verdict, read_status
from catalyst.report.tables import render_status
from catalyst.store.pool import open_store
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_doctor import issue_kinds, issue_of_kind, run_doctor
from tests.waiting import wait_until

# Every write fails as on a full disk; reads and the account lease go on.
FULL_DISK = """
CREATE FUNCTION fail_as_full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON daemon FOR EACH STATEMENT EXECUTE FUNCTION fail_as_full_disk();
CREATE TRIGGER full_disk BEFORE INSERT ON order_events FOR EACH STATEMENT EXECUTE FUNCTION fail_as_full_disk();
"""


async def status_of(scenario: Scenario, *, clock: ManualClock | None = None) -> SystemStatus:
    """Return the status as the command reads it, on its own connection; `clock` is the command's."""
    store = await open_store(scenario.dsn, scenario.clock, size=2, name="status")
    try:
        async with store.read() as conn:
            return await read_status(conn, (clock or scenario.clock).now())
    finally:
        await store.close()


async def report_of(scenario: Scenario) -> DayReport:
    """Return the report of the day so far."""
    store = await open_store(scenario.dsn, scenario.clock, size=2, name="report")
    try:
        async with store.read() as conn:
            result = await read_day_report(conn, at=scenario.clock.now())
    finally:
        await store.close()
    assert result is not None
    return result


def text_of(status: SystemStatus) -> str:
    """Return the lines of the status screen."""
    return "\n".join(str(part) for part in render_status(status))


async def test_status_doctor_and_report_name_why_entries_are_closed(database: str) -> None:
    """While the stream is refused the gate is closed in the daemon's memory: status and doctor say so, with reason and
    time, and are not healthy; afterwards they are, and the day's report has the period."""
    async with open_scenario(database) as scenario:
        await scenario.advance(seconds=5)
        healthy = await status_of(scenario)
        assert (healthy.verdict, healthy.entries.open, healthy.problems) == (Verdict.HEALTHY, True, ())
        assert scenario.components is not None
        stream = scenario.components.stream
        await scenario.inject_fault("stream_refuse", count=0)
        began_at = scenario.clock.now()
        await scenario.admin("stream", {"act": "disconnect"})
        await wait_until(lambda: stream.state is not StreamState.READY)
        await scenario.advance(seconds=20)
        status = await status_of(scenario)
        (reason,) = status.entries.reasons
        assert (status.verdict, status.entries.open, reason.name) == (Verdict.UNHEALTHY, False, "stream")
        assert timedelta(0) <= reason.since - began_at < timedelta(seconds=5)
        assert any(problem.startswith("no entries, stream since 10:15:") for problem in status.problems)
        assert "NOT healthy" in text_of(status)
        result = await run_doctor(scenario)
        assert (issue_kinds(result), result.exit_code) == ({"GATE_CLOSED"}, 1)
        assert issue_of_kind(result, IssueKind.GATE_CLOSED).facts["since"] == reason.since
        await scenario.clear_faults()
        await scenario.advance(minutes=2)
        assert (await status_of(scenario)).healthy
        assert (await run_doctor(scenario)).issues == ()
        closed = [period for period in (await report_of(scenario)).closed if period.name == "stream"][-1]
        assert closed.since == reason.since
        assert closed.ended_at is not None
        assert closed.ended_at > closed.since


async def test_status_says_halted_when_a_person_halted(database: str) -> None:
    """A halt by a person is the word `halted` with its time and text, and no problem; the doctor tells of it. On the
    next day it has its date. A latch without a daemon is not healthy."""
    async with open_scenario(database) as scenario:
        await scenario.send_command("halt", reason="lunch")
        await scenario.advance(seconds=2)
        status = await status_of(scenario)
        assert (status.verdict, status.problems) == (Verdict.HALTED, ())
        assert "halt since 10:15:0" in status.halts[0]
        assert "lunch" in text_of(status).splitlines()[1]
        assert (await run_doctor(scenario)).exit_code == 0
        next_day = await status_of(scenario, clock=ManualClock(scenario.clock.now() + timedelta(days=1)))
        assert "halt since 2026-03-09 10:15:0" in next_day.halts[0]
        await scenario.crash()
        stopped = await status_of(scenario)
        assert (stopped.verdict, stopped.entries.open) == (Verdict.UNHEALTHY, False)
        assert [reason.name for reason in stopped.entries.reasons] == ["halt"]


async def test_status_and_report_show_the_settings_of_the_running_daemon(database: str) -> None:
    """A day that began supervised continues autonomous after a restart: status, cycle and report say so, and the change
    is an event of the day. A limit changed by a reload is the limit in force everywhere within a minute."""
    async with open_scenario(database, started=False) as scenario:
        autonomous = scenario.settings
        scenario.settings = replace(autonomous, session_mode=SessionMode.SUPERVISED)
        await scenario.start()
        await scenario.advance(seconds=5)
        first = await status_of(scenario)
        assert first.daemon.session_mode == "supervised"
        assert first.daemon.next_scan_at == at("10:30")
        scenario.stop.request("SIGUSR1", flatten=False)
        await scenario.wait_for_exit()
        scenario.settings = autonomous
        await scenario.start()
        await scenario.advance(seconds=5)
        assert scenario.components is not None
        config = scenario.components.config
        config.put_in_force(
            Config.model_validate(
                {**config.in_force.model_dump(), "risk": {**config.risk.model_dump(), "max_daily_loss": 40}}
            )
        )
        await scenario.advance(seconds=65)
        status, report = await status_of(scenario), await report_of(scenario)
        assert status.cycle is not None
        checked = replace(autonomous, session_mode=SessionMode.SUPERVISED)
        running = await _check_daemon(scenario.conn, DatabaseOwner(), checked)
        assert (running.verdict, running.detail) == (
            CheckVerdict.WARN, "running: sim, autonomous; this check is for sim, supervised",
        )  # fmt: skip
        assert (status.daemon.session_mode, status.cycle.mode, report.cycle.mode) == ("autonomous",) * 3
        assert [(change.before, change.now) for change in report.mode_changes] == [
            ("supervised", "autonomous")
        ]
        assert (status.loss_limit, report.cycle.max_daily_loss) == (Decimal(40), Decimal(40))


async def test_refused_feed_is_an_alert_and_the_reason_why_nobody_scans(database: str) -> None:
    """A feed that the data plan lacks fails the check, raises one alert at the first scan, closes entries and is named
    by status and doctor; a scan that succeeds ends it."""
    async with open_scenario(database, now=at("09:14"), broker={"feed": "sip"}) as scenario:
        await scenario.admin("data", {"recent_sip": False})
        checks = [
            result async for result in _check_broker(scenario.settings, scenario.clock, DatabaseOwner())
        ]
        (data,) = [result for result in checks if result.name == "feed"]
        assert (data.verdict, "does not include sip" in data.detail) == (CheckVerdict.FAIL, True)
        await scenario.clock.advance_to(at("09:36"))
        assert await scenario.alert_events() == ["MARKET_DATA_REFUSED"]
        status = await status_of(scenario)
        assert [reason.name for reason in status.entries.reasons] == ["market_data"]
        assert any("the broker refuses market data of the feed sip" in problem for problem in status.problems)
        assert {"GATE_CLOSED", "SCAN_FAILED"} <= issue_kinds(await run_doctor(scenario))
        await scenario.admin("data", {"recent_sip": True})
        await scenario.send_command("scan")
        await scenario.advance(seconds=2)
        assert (await status_of(scenario)).healthy


async def test_status_is_unhealthy_when_the_database_takes_no_writes(database: str) -> None:
    """A database whose disk is full is named by status, from the daemon's last write, and by the doctor, which tries
    one. What the daemon wrote is never in the future of the command."""
    async with open_scenario(database) as scenario:
        await scenario.advance(seconds=5)
        late = ManualClock(scenario.clock.now() - timedelta(seconds=280))
        assert (await status_of(scenario, clock=late)).daemon.heartbeat_age_seconds == 0
        await scenario.conn.execute(FULL_DISK)
        await scenario.advance(seconds=90)
        status = await status_of(scenario)
        assert status.verdict is Verdict.UNHEALTHY
        assert any("the daemon has written nothing since 10:15:" in problem for problem in status.problems)
        assert {"DATABASE_READ_ONLY", "DAEMON_SILENT"} <= issue_kinds(await run_doctor(scenario))
