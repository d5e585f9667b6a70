"""Startup order, crash loop detection, and the locks that allow one daemon for each account."""

import os
import subprocess
import sys
from collections.abc import MutableMapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.cli.app import exit_code
from catalyst.clock import StallTimer, SystemClock
from catalyst.daemon.trading_state import account_lease
from catalyst.daemon.trading_state.account_lease import AccountLease
from catalyst.daemon.trading_state.host_lock import HostLock
from catalyst.domain.errors import AnotherDaemonRunning, BrokerUnavailable, ConfigInvalid, DatabaseReplaced
from catalyst.domain.order import Purpose
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.waiting import wait_until


async def first_occurrences(scenario: Scenario, *names: str) -> list[str]:
    """Start the scenario; return the names in the order of their first log event or completed step."""
    events: list[str] = []

    def record_event(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
        events.append(str(event["event"]))
        return ""

    before = structlog.get_config()
    structlog.configure(processors=[record_event])
    try:
        start = scenario.start()
        scenario.crash_trigger.steps = events  # the fault point writes into the same list
        await start
    finally:
        structlog.configure(**before)
    places = {name: events.index(name) for name in names if name in events}
    assert places.keys() == set(names), f"never occurred: {set(names) - places.keys()} in {events}"
    return sorted(names, key=places.__getitem__)


async def test_startup_steps_run_in_fixed_order(database: str) -> None:
    """A start runs host lock, database, account lock, epoch, unfinished work, stream, concurrent broker
    reads, then buffered updates and READY; the entry gate opens only then."""
    before = [
        "after host_lock",
        "schema_verified",
        "after account_lease",
        "after epoch",
        "unfinished_work_found",
        "after LISTEN trade_updates",
    ]
    broker_reads = ["after GET /account/activities/FILL", "after GET /orders", "after GET /positions"]
    after = ["recovered", "daemon_ready"]
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        order = await first_occurrences(scenario, *before, *broker_reads, *after)
        assert [name for name in order if name not in broker_reads] == [*before, *after]
        assert sorted(order[len(before) : -len(after)]) == broker_reads
        assert scenario.components is not None
        assert scenario.components.gate.is_open


async def test_fill_received_during_recovery_is_applied_afterwards(database: str) -> None:
    """Given an entry fills while recovery waits for its second try, then the fill is booked from the broker's state,
    and the messages that the stream sent meanwhile are applied after it."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        await scenario.crash()
        scenario.print_trade("AAPL", "190.00", after=2)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=500, count=1)
        await scenario.start()
        assert scenario.components is not None
        updates = scenario.components.stream_consumer.applied
        assert updates >= 1, "the messages of the stream were lost"
        assert await scenario.conn.fetchval("SELECT source FROM executions") != "stream"
        await scenario.advance(seconds=5)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


@pytest.mark.promise("F015")
async def test_crash_loop_closes_entry_gate(database: str) -> None:
    """The sixth start within ten minutes protects, blocks entries and raises an alert; after ten minutes of
    running entries are allowed."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        for _ in range(5):
            assert scenario.components is not None
            assert "crash_loop" not in scenario.components.gate.reasons
            await scenario.crash()
            await scenario.start()
        assert scenario.components is not None
        assert "crash_loop" in scenario.components.gate.reasons
        assert "CRASH_LOOP" in await scenario.alert_events()
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("MSFT") == 0
        assert len(scenario.server.exchange.state.order_store.live()) == 2  # the stop and the target of AAPL
        await scenario.advance(minutes=10)
        assert scenario.components.gate.is_open
        await scenario.assert_consistent()


# -- one daemon for each account


@pytest.mark.promise("F092")
def test_host_lock_is_exclusive_and_freed_by_exit(tmp_path: Path) -> None:
    """A second process gets the name of the holder; a released lock, or that of a killed process, is free."""
    first = HostLock.acquire(tmp_path, "PA1", "process 12, since noon")
    with pytest.raises(AnotherDaemonRunning, match="process 12, since noon"):
        HostLock.acquire(tmp_path, "PA1", "process 13")
    HostLock.acquire(tmp_path, "PA2", "process 13").release()
    first.release()
    script = (
        "import sys, pathlib; from catalyst.daemon.trading_state.host_lock import HostLock;"
        "HostLock.acquire(pathlib.Path(sys.argv[1]), 'PA1', 'a child'); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(AnotherDaemonRunning, match="a child"):
            HostLock.acquire(tmp_path, "PA1", "process 13")
        child.kill()
    HostLock.acquire(tmp_path, "PA1", "process 13").release()


@pytest.mark.promise("F092")
def test_host_lock_requires_writable_folder(tmp_path: Path) -> None:
    """Without a folder for the lock and the spool the start is refused."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match=r"database\.spool"):
        HostLock.acquire(tmp_path / "file", "PA1", "process 13")


@pytest.mark.promise("F092")
async def test_second_daemon_names_holder_of_account_lock(database: str, tmp_path: Path) -> None:
    """A second daemon from another host is refused with epoch, process and host of the first one."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        second = Scenario(
            scenario.clock, scenario.market, scenario.server, scenario.dsn, scenario.settings, scenario.conn
        )
        spool = scenario.settings.config.model_copy(
            update={"database": scenario.settings.config.database.model_copy(update={"spool": tmp_path})}
        )
        object.__setattr__(second, "settings", _with_config(scenario, spool))
        with pytest.raises(
            AnotherDaemonRunning,
            match=rf"epoch {scenario.components.epoch}, process {os.getpid()} from this machine",
        ):
            await second.start()
        await second._stack.aclose()


def _with_config(scenario: Scenario, config: Any) -> Any:
    """Return the settings of the scenario with another configuration."""
    from dataclasses import replace

    return replace(scenario.settings, config=config)


async def _account_lease(scenario: Scenario) -> AccountLease:
    """Return the account lease of the running daemon."""
    assert scenario.components is not None
    permit = scenario.components.broker._permit
    assert isinstance(permit, AccountLease)
    return permit


@pytest.mark.promise("F092")
async def test_fencing_epoch_is_checked_before_requests_after_stall(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stall over five seconds the daemon checks its epoch before a request: it sends nothing when it
    was replaced, and exits with code 75."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        lease = await _account_lease(scenario)
        assert scenario.components is not None
        stall = {"seconds": 0.0}
        monkeypatch.setattr(StallTimer, "seconds", property(lambda _: stall["seconds"]))
        requests_before = len((await scenario.admin("logs"))["requests"])

        stall["seconds"] = 6.0
        assert not lease.is_valid()
        monkeypatch.setattr(lease.lock._since_confirmed, "mark", lambda: stall.update(seconds=0.0))
        await lease.check()  # the check confirms the epoch
        assert lease.is_valid()

        stall["seconds"] = 6.0
        await scenario.conn.execute("UPDATE daemon SET epoch = epoch + 1")
        with pytest.raises(BrokerUnavailable, match="does not hold the account"):
            await scenario.components.broker.cancel("any-order")
        target = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        with pytest.raises(BrokerUnavailable):
            await scenario.components.outage_exit.broker.cancel(target["alpaca_order_id"])
        assert len((await scenario.admin("logs"))["requests"]) == requests_before
        await wait_until(lambda: scenario._run_task is not None and scenario._run_task.done())
        with pytest.raises(ExceptionGroup) as raised:
            scenario._run_task.result()  # type: ignore[union-attr]
        assert raised.group_contains(AnotherDaemonRunning, match="taken over")
        assert exit_code(raised.value) == 75
        await scenario._stack.aclose()
        scenario.components = None


@pytest.mark.promise("F092")
async def test_lost_account_lock_blocks_requests_until_reacquired(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that lost the account lock and cannot acquire it sends nothing; the lock acquired again, it
    continues."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        lease = await _account_lease(scenario)
        assert scenario.components is not None

        async def lock_unavailable(*_: object) -> None:
            return None

        monkeypatch.setattr(account_lease, "acquire_account_lock", lock_unavailable)
        await scenario.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'catalyst lock' AND datname = current_database()"
        )
        await wait_until(lambda: "account_lease" in scenario.components.gate.reasons)  # type: ignore[union-attr]
        position = await scenario.position("AAPL")
        assert position is not None
        requests_before = len((await scenario.admin("logs?method=DELETE"))["requests"])
        await scenario.components.exits.request(
            position["position_id"], reason="MANUAL: enough", purpose=Purpose.EXIT, by="trader"
        )
        await scenario.advance(seconds=10)
        assert len((await scenario.admin("logs?method=DELETE"))["requests"]) == requests_before
        assert scenario.held_qty("AAPL") == 20
        assert not lease.superseded

        monkeypatch.undo()
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("F092")
async def test_daemon_ends_when_database_epoch_is_older(database: str) -> None:
    """An epoch in the database older than ours means a restored copy: the daemon ends."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.conn.execute("UPDATE daemon SET epoch = epoch - 1")
        await wait_until(lambda: scenario._run_task is not None and scenario._run_task.done())
        with pytest.raises(ExceptionGroup) as raised:
            scenario._run_task.result()  # type: ignore[union-attr]
        assert raised.group_contains(DatabaseReplaced)
        await scenario._stack.aclose()
        scenario.components = None


async def test_request_is_not_sent_when_lease_expires_in_sending_thread(database: str) -> None:
    """The sending thread checks the lease again, so a stall after the first check sends no order; reads need
    no lease."""

    class ExpiredPermit:
        async def check(self) -> None:
            return

        def is_valid(self) -> bool:
            return False

    async with open_scenario(database) as scenario:
        broker = AlpacaBroker(
            SystemClock(), base_url=scenario.server.url, key="demo", secret="demo", permit=ExpiredPermit()
        )
        requests_before = len((await scenario.admin("logs"))["requests"])
        with pytest.raises(BrokerUnavailable, match="account lease"):
            await broker.cancel("some-order")
        assert len((await scenario.admin("logs"))["requests"]) == requests_before
        assert (await broker.account()).equity > Decimal(0)  # reads need no lease
        await broker.close()


async def test_restart_logs_only_the_scans_that_no_daemon_ran(database: str) -> None:
    """A restart names in one line the scans whose time passed without a daemon, and nothing when all ran."""
    async with open_scenario(database, now=at("09:10")) as scenario:
        await scenario.clock.advance_to(at("10:40"))
        missed = []
        for restart in ("10:41", "12:05"):
            await scenario.crash()
            await scenario.clock.advance_to(at(restart))
            with capture_logs() as lines:
                await scenario.start()
                await scenario.advance(seconds=10)
            missed.append([line["times"] for line in lines if line["event"] == "job_missed"])
        assert missed == [[], [["11:00", "11:30", "12:00"]]]
