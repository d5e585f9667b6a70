"""How a daemon begins: in one order, alone, and not for ever again when it keeps dying."""

import asyncio
import os
import subprocess
import sys
from collections.abc import MutableMapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.cli.app import exit_code
from catalyst.clock import StallTimer, SystemClock
from catalyst.daemon.trading_state import account_lease
from catalyst.daemon.trading_state.account_lease import AccountLease
from catalyst.daemon.trading_state.host_lock import HostLock
from catalyst.domain.errors import AnotherDaemonRunning, BrokerUnavailable, ConfigInvalid, DatabaseReplaced
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Purpose
from tests.stories.scenario import ENTRY, Scenario, open_scenario, wait_until


async def first_occurrences(scenario: Scenario, *names: str) -> list[str]:
    """Open the desk; the names, in the order in which each first stood in the log or was a step that was done."""
    seen: list[str] = []

    def note(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
        seen.append(str(event["event"]))
        return ""

    structlog.configure(processors=[note])
    try:
        opening = scenario.start()
        scenario.crash_trigger.steps = seen  # the witness writes into the same list
        await opening
    finally:
        structlog.reset_defaults()
    places = {name: seen.index(name) for name in names if name in seen}
    assert places.keys() == set(names), f"never came: {set(names) - places.keys()} in {seen}"
    return sorted(names, key=places.__getitem__)


async def test_startup_steps_run_in_fixed_order(database: str) -> None:
    """Seat, database, lock, epoch, what was left, stream, the broker's orders, fills and positions (asked for at once),
    what the stream said meanwhile, READY; and no entry can leave before that."""
    before = [
        "after host_lock",
        "schema_verified",
        "after account_lease",
        "after epoch",
        "unfinished_work_found",
        "after LISTEN trade_updates",
    ]
    shown = ["after GET /account/activities/FILL", "after GET /orders", "after GET /positions"]
    after = ["recovered", "daemon_ready"]
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        order = await first_occurrences(scenario, *before, *shown, *after)
        assert [each for each in order if each not in shown] == [*before, *after]
        assert sorted(order[len(before) : -len(after)]) == shown
        assert scenario.components is not None
        assert scenario.components.gate.is_open


async def test_fill_received_during_recovery_is_applied_afterwards(database: str) -> None:
    """The stream tells of a fill while recovery reads: it is heard once the broker's whole state is in the tables."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        await scenario.crash()
        seen = scenario.crash_trigger.steps

        def fill(step: str, moment: Moment) -> None:
            if (step, moment) == ("GET /account/activities/FILL", Moment.BEFORE):
                scenario.crash_trigger.on_step = None
                scenario.print_trade("AAPL", "190.00")

        opening = scenario.start()
        task = asyncio.ensure_future(opening)
        await asyncio.sleep(0)
        scenario.crash_trigger.on_step = fill
        await task
        assert seen.count("after GET /orders") >= 1
        await scenario.advance(seconds=5)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


@pytest.mark.promise("F015")
async def test_crash_loop_closes_entry_gate(database: str) -> None:
    """The sixth start within ten minutes: what is held is protected, nothing is entered, somebody is paged; a daemon
    that lives for ten minutes enters again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        for _ in range(5):
            await scenario.crash()
            await scenario.start()
        assert scenario.components is not None
        assert "boots" in scenario.components.gate.reasons
        assert "CRASH_LOOP" in await scenario.alert_events()
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("MSFT") == 0
        assert (
            len(scenario.server.exchange.order_store.live()) == 2
        )  # the stop and the target of what is held
        await scenario.advance(minutes=10)
        assert scenario.components.gate.is_open
        await scenario.assert_consistent()


# -- one writer


@pytest.mark.promise("F092")
def test_host_lock_is_exclusive_and_freed_by_exit(tmp_path: Path) -> None:
    """The second process is told who sits there; a seat that was left, or whose process died, is free."""
    first = HostLock.acquire(tmp_path, "PA1", "process 12, since noon")
    with pytest.raises(AnotherDaemonRunning, match="process 12, since noon"):
        HostLock.acquire(tmp_path, "PA1", "process 13")
    HostLock.acquire(tmp_path, "PA2", "process 13").release()
    first.release()
    script = (
        "import sys, pathlib, time; from catalyst.daemon.trading_state.host_lock import HostLock;"
        "HostLock.acquire(pathlib.Path(sys.argv[1]), 'PA1', 'a child'); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(AnotherDaemonRunning, match="a child"):
            HostLock.acquire(tmp_path, "PA1", "process 13")
        child.kill()
    HostLock.acquire(tmp_path, "PA1", "process 13").release()


@pytest.mark.promise("F092")
def test_host_lock_requires_writable_folder(tmp_path: Path) -> None:
    """Without a place for the lock and the spool there is no start."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match=r"database\.spool"):
        HostLock.acquire(tmp_path / "file", "PA1", "process 13")


@pytest.mark.promise("F092")
async def test_second_daemon_names_holder_of_account_lock(database: str, tmp_path: Path) -> None:
    """Two daemons of two machines at one database: the second leaves with the first one's epoch, process and host."""
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
    from dataclasses import replace

    return replace(scenario.settings, config=config)


async def _account_lease(scenario: Scenario) -> AccountLease:
    assert scenario.components is not None
    permit = scenario.components.broker._permit
    assert isinstance(permit, AccountLease)
    return permit


@pytest.mark.promise("F092")
async def test_fencing_epoch_is_checked_before_requests_after_stall(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still for longer than five seconds and was succeeded meanwhile sends nothing, not even
    before it has noticed; one that was not succeeded looks, and sends."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        held = await _account_lease(scenario)
        assert scenario.components is not None
        stalled = {"by": 0.0}
        monkeypatch.setattr(StallTimer, "seconds", property(lambda _: stalled["by"]))
        before = len((await scenario.admin("logs"))["requests"])

        stalled["by"] = 6.0
        assert not held.is_valid()
        monkeypatch.setattr(held.lock._since_confirmed, "mark", lambda: stalled.update(by=0.0))
        await held.check()  # it looked, and is allowed
        assert held.is_valid()

        stalled["by"] = 6.0
        await scenario.conn.execute("UPDATE daemon SET epoch = epoch + 1")
        with pytest.raises(BrokerUnavailable, match="does not hold the account"):
            await scenario.components.broker.cancel("whatever")
        sale = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        with pytest.raises(BrokerUnavailable):
            await scenario.components.outage_exit.broker.cancel(sale["alpaca_order_id"])
        assert len((await scenario.admin("logs"))["requests"]) == before
        await wait_until(lambda: scenario._run_task is not None and scenario._run_task.done())
        with pytest.raises(ExceptionGroup) as ended:
            scenario._run_task.result()  # type: ignore[union-attr]
        assert ended.group_contains(AnotherDaemonRunning, match="taken over")
        assert exit_code(ended.value) == 75
        await scenario._stack.aclose()
        scenario.components = None


@pytest.mark.promise("F092")
async def test_lost_account_lock_blocks_requests_until_reacquired(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backend is ended and it cannot be taken again: nothing leaves, though the process lives and the tables
    answer; what leaves without tables looks at the epoch there instead."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        held = await _account_lease(scenario)
        assert scenario.components is not None

        async def refused(*_: object) -> None:
            return None

        monkeypatch.setattr(account_lease, "acquire_account_lock", refused)
        await scenario.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'catalyst lock' AND datname = current_database()"
        )
        await wait_until(lambda: "account_lease" in scenario.components.gate.reasons)  # type: ignore[union-attr]
        position = await scenario.position("AAPL")
        assert position is not None
        before = len((await scenario.admin("logs?method=DELETE"))["requests"])
        await scenario.components.exits.request(
            position["position_id"], reason="MANUAL: enough", purpose=Purpose.EXIT, by="trader"
        )
        await scenario.advance(seconds=10)
        assert len((await scenario.admin("logs?method=DELETE"))["requests"]) == before
        assert scenario.held_qty("AAPL") == 20
        assert not held.superseded

        monkeypatch.undo()
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("F092")
async def test_daemon_ends_when_database_epoch_is_older(database: str) -> None:
    """The epoch in the tables is older than ours: they are a copy of the past, and only a new start may go on."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.conn.execute("UPDATE daemon SET epoch = epoch - 1")
        await wait_until(lambda: scenario._run_task is not None and scenario._run_task.done())
        with pytest.raises(ExceptionGroup) as ended:
            scenario._run_task.result()  # type: ignore[union-attr]
        assert ended.group_contains(DatabaseReplaced)
        await scenario._stack.aclose()
        scenario.components = None


async def test_request_is_not_sent_when_lease_expires_in_sending_thread(database: str) -> None:
    """The permit is looked at again in the sending thread: what stalled between the question and the first byte
    stays here."""

    class ExpiredPermit:
        async def check(self) -> None:
            return

        def is_valid(self) -> bool:
            return False

    async with open_scenario(database) as scenario:
        broker = AlpacaBroker(
            SystemClock(), base_url=scenario.server.url, key="demo", secret="demo", permit=ExpiredPermit()
        )
        before = len((await scenario.admin("logs"))["requests"])
        with pytest.raises(BrokerUnavailable, match="permission to send"):
            await broker.cancel("some-order")
        assert len((await scenario.admin("logs"))["requests"]) == before
        assert (await broker.account()).equity > Decimal(0)  # reading is free
        await broker.close()
