"""Watchdog: the service manager receives ready, alive and stopping datagrams."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from catalyst.clock import ManualClock, TurnsLock, count_turns, separate_turns, waiting
from catalyst.config.settings import Environment
from catalyst.daemon.app import ExitCode
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import Supervisor
from catalyst.daemon.runtime.watchdog import Watchdog
from catalyst.daemon.startup import StoppedAtStart
from catalyst.daemon.trading_state.entry_gate import EntryGate
from tests.notify.mail_server import run_mail_server, set_mail_environment
from tests.stories.scenario import open_scenario
from tests.stories.test_entry_gate_and_latches import begin_start
from tests.waiting import run_loop_turns


class ServiceManager:
    """The service manager's end of the notify socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def read_datagrams(self) -> list[str]:
        """Return every datagram since the last call."""
        datagrams = []
        while True:
            try:
                datagrams.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return datagrams

    async def read_while_advancing(self, clock: ManualClock, duration: timedelta) -> list[str]:
        """Advance the clock in steps, because the kernel queues ten datagrams; return all of them."""
        datagrams = []
        for _ in range(int(duration / timedelta(seconds=10))):
            await clock.advance(timedelta(seconds=10))
            datagrams += self.read_datagrams()
        return datagrams


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """Listen on a notify socket."""
    manager = ServiceManager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


@pytest.mark.promise("F094")
async def test_watchdog_notifies_service_manager_of_ready_alive_and_stopping(
    database: str, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY is sent once after recovery, WATCHDOG six times per requested interval, STOPPING at the end; STATUS says
    what the daemon does."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    async with open_scenario(database) as scenario:
        datagrams = manager.read_datagrams()
        assert datagrams.count("READY=1") == 1
        statuses = [text for text in datagrams if text.startswith("STATUS=")]
        assert statuses[0].startswith("STATUS=recovering")
        assert statuses[-1].startswith(
            "STATUS=running: market open until 16:00 New York; 0 positions; entries "
        )
        datagrams = await manager.read_while_advancing(scenario.clock, timedelta(seconds=60))
        assert datagrams.count("WATCHDOG=1") == 12
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert manager.read_datagrams()[-1] == "STOPPING=1"


@pytest.mark.promise("F094")
async def test_watchdog_stops_notifying_when_a_loop_ended(
    manager: ServiceManager, clock: ManualClock
) -> None:
    """The watchdog stops notifying when a loop that must never end has ended, so that systemd restarts the
    daemon; the day's own jobs may end."""
    loops = Supervisor(EntryGate(clock), clock, ChangeSignal())
    watchdog = Watchdog(loops, clock, manager.socket.getsockname(), timedelta(seconds=30))
    ends = {name: asyncio.Event() for name in ("flat", "exits")}
    async with (
        watchdog.watching(),
        loops.running({"flat": ends["flat"].wait, "exits": ends["exits"].wait}),
    ):
        recovering, *rest = await manager.read_while_advancing(clock, timedelta(seconds=30))
        assert recovering.startswith("STATUS=recovering")
        ends["flat"].set()
        rest += await manager.read_while_advancing(clock, timedelta(seconds=30))
        assert rest == ["WATCHDOG=1"] * 13
        ends["exits"].set()
        await clock.advance(timedelta(seconds=60))
        assert manager.read_datagrams() == []


async def test_watchdog_asks_for_more_time_while_the_daemon_stops(
    manager: ServiceManager, clock: ManualClock
) -> None:
    """Each feed of a stopping daemon also extends the time for the stop; before the stop none does."""
    loops = Supervisor(EntryGate(clock), clock, ChangeSignal())
    watchdog = Watchdog(loops, clock, manager.socket.getsockname(), timedelta(seconds=30))
    async with watchdog.watching():
        running = await manager.read_while_advancing(clock, timedelta(seconds=20))
        loops.gate.close("stopping", "SIGTERM")
        stopping = await manager.read_while_advancing(clock, timedelta(seconds=20))
    assert not [text for text in running if text.startswith("EXTEND")]
    assert stopping == ["WATCHDOG=1", "EXTEND_TIMEOUT_USEC=30000000"] * 4


@pytest.mark.promise("F094")
@pytest.mark.parametrize("loop", ["stream", "position_protector", "stop_monitor", "stop_prices"])
async def test_watchdog_stops_notifying_while_a_watched_loop_hangs(
    manager: ServiceManager, clock: ManualClock, loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A watched loop that waits for time, or for a broker or a database that gives no answer, is not late, however
    long that lasts. One that waits for something inside the process is late after ten seconds, until it goes on."""
    loops = Supervisor(EntryGate(clock), clock, ChangeSignal())
    watchdog = Watchdog(loops, clock, manager.socket.getsockname(), timedelta(seconds=30))
    answered, released = asyncio.Event(), asyncio.Event()

    async def wait_then_hang() -> None:
        await clock.sleep(timedelta(minutes=30))
        with waiting():
            await answered.wait()
        await released.wait()
        await clock.sleep(timedelta(days=1))

    async def wait_in_another_loop() -> None:
        await clock.sleep(timedelta(days=1))

    async with (
        watchdog.watching(),
        loops.running({loop: wait_then_hang, "heartbeat": wait_in_another_loop}),
    ):
        _, *waited = await manager.read_while_advancing(clock, timedelta(minutes=60))
        assert waited == ["WATCHDOG=1"] * (60 * 12 + 1)
        answered.set()
        hung = await manager.read_while_advancing(clock, timedelta(seconds=60))
        assert hung == ["WATCHDOG=1"] * 2  # the two within ten seconds of the last turn
        assert capsys.readouterr().out.count("watchdog_starved") == 1
        released.set()
        assert await manager.read_while_advancing(clock, timedelta(seconds=60)) == ["WATCHDOG=1"] * 12


@pytest.mark.promise("F094")
async def test_watchdog_stops_notifying_while_the_stream_consumer_waits_for_a_lock(
    database: str,
    manager: ServiceManager,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A quiet stream keeps the watchdog fed. A consumer that cannot apply a message, because a lock of the process
    is never released, starves it, though the connection of the stream lives and other loops run."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 10)
        manager.read_datagrams()
        quiet = await manager.read_while_advancing(scenario.clock, timedelta(minutes=2))
        assert quiet.count("WATCHDOG=1") == 24
        capsys.readouterr()
        async with scenario.components.ledger.write_lock():
            scenario.clock._advance_conditions.clear()  # time goes on although a frame is not applied
            scenario.print_trade("AAPL", "150.00")  # the stop fills: a trade update arrives
            stuck = await manager.read_while_advancing(scenario.clock, timedelta(minutes=1))
        assert stuck.count("WATCHDOG=1") <= 3
        assert "late=['stream']" in capsys.readouterr().out


@pytest.mark.promise("F094")
@pytest.mark.parametrize("hung", ["stop_monitor", "stop_prices"])
async def test_watchdog_stops_notifying_while_one_loop_of_the_stop_monitor_hangs(
    database: str,
    manager: ServiceManager,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hung: str,
) -> None:
    """The one of the two loops that goes on does not feed the watchdog for the other."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    async with open_scenario(database) as scenario:
        monitor = scenario.components.stop_monitor
        check, refresh = monitor.check_positions, monitor.refresh_prices

        async def hang_in_check(*, read_broker: bool = True) -> None:
            await (asyncio.Event().wait() if read_broker else check(read_broker=False))

        async def hang_in_refresh() -> None:
            await asyncio.Event().wait()
            await refresh()

        if hung == "stop_monitor":
            monkeypatch.setattr(monitor, "check_positions", hang_in_check)
        else:
            monkeypatch.setattr(monitor, "refresh_prices", hang_in_refresh)
        await manager.read_while_advancing(scenario.clock, timedelta(minutes=1))
        capsys.readouterr()
        stuck = await manager.read_while_advancing(scenario.clock, timedelta(minutes=1))
        assert "WATCHDOG=1" not in stuck
        assert hung in scenario.components.supervisor.turns


async def test_search_for_the_outcome_of_an_order_counts_apart(database: str) -> None:
    """A task that looks for an order at the broker takes no turn of the loop that started it."""
    async with open_scenario(database) as scenario:
        row = await scenario.given_position("AAPL", 10)
        turns = count_turns()
        await scenario.components.submission.resolution.start(row)
        assert turns.count() == (0, False)


async def test_task_that_waits_for_a_lock_waits_while_its_holder_does(clock: ManualClock) -> None:
    """Who waits for a lock waits and takes turns with the holder: not while the holder does nothing, and not with
    what the holder's other tasks do. Two that wait for each other wait for nothing."""
    lock, other_lock, idle, answered = TurnsLock(), TurnsLock(), asyncio.Event(), asyncio.Event()

    async def hold_lock() -> None:
        async with lock:
            await idle.wait()
            with waiting():
                await answered.wait()
            async with other_lock:
                pass

    async def wait_for_lock() -> None:
        async with other_lock, lock:
            pass

    apart = asyncio.create_task(clock.sleep(timedelta(hours=1)))  # counts for both, outside the lock
    holder = asyncio.create_task(hold_lock())
    await clock.wait_until_quiet()
    context = separate_turns()
    turns = context.run(count_turns)
    waiter = asyncio.create_task(wait_for_lock(), context=context)
    await clock.wait_until_quiet()
    assert turns.count() == (0, False)
    idle.set()
    await clock.wait_until_quiet()
    assert turns.count() == (1, True)
    answered.set()
    await clock.wait_until_quiet()
    assert turns.count() == (2, False)
    holder.cancel()
    await waiter
    assert turns.count() == (0, False)
    apart.cancel()


@pytest.mark.promise("F094")
async def test_watchdog_stays_fed_while_a_loop_waits_for_a_lock_whose_holder_waits(
    database: str, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream consumer waits for the ledger's lock while its holder waits for a slow database: a restart would
    not help."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 10)
        manager.read_datagrams()
        async with scenario.components.ledger.write_lock():
            with waiting():
                scenario.clock._advance_conditions.clear()  # time goes on although a frame is not applied
                scenario.print_trade("AAPL", "150.00")  # the stop fills: a trade update arrives
                slow = await manager.read_while_advancing(scenario.clock, timedelta(minutes=1))
        assert slow.count("WATCHDOG=1") == 12


async def test_turns_of_a_task_with_a_context_of_its_own_count_apart(clock: ManualClock) -> None:
    """A sleeping task counts as a wait of the loop that started it, unless it was started with separate turns."""
    turns = count_turns()
    apart = asyncio.create_task(clock.sleep(timedelta(hours=1)), context=separate_turns())
    await clock.wait_until_quiet()
    assert (turns.taken, turns.waits) == (0, 0)
    shared = asyncio.create_task(clock.sleep(timedelta(hours=1)))
    await clock.wait_until_quiet()
    assert (turns.taken, turns.waits) == (1, 1)
    await clock.advance(timedelta(hours=1))
    await asyncio.gather(apart, shared)
    assert (turns.taken, turns.waits) == (2, 0)


@pytest.mark.promise("F094")
def test_watchdog_notifies_abstract_address_and_tolerates_missing_one(
    clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an address nothing is logged, an unreachable address is logged, and an abstract address works."""
    loops = Supervisor(EntryGate(clock), clock, ChangeSignal())
    Watchdog(loops, clock, None, None).notify("READY=1")
    assert "service_manager_unreachable" not in capsys.readouterr().out
    Watchdog(loops, clock, "/nowhere/notify", None).notify("READY=1")
    assert "service_manager_unreachable" in capsys.readouterr().out
    name = f"catalyst-test-{os.getpid()}"
    abstract = ServiceManager(f"\0{name}")
    Watchdog(loops, clock, f"@{name}", None).notify("READY=1")
    assert abstract.read_datagrams() == ["READY=1"]
    abstract.socket.close()


@pytest.mark.promise("F094")
async def test_cancelled_loop_counts_as_ended_and_closes_entry_gate(clock: ManualClock) -> None:
    """A loop that raises CancelledError by itself counts as ended, which stops the watchdog, and closes the
    entry gate; one cancelled on request does not."""
    loops = Supervisor(EntryGate(clock), clock, ChangeSignal())

    async def raise_cancelled() -> None:
        raise asyncio.CancelledError

    async def wait_for_cancel() -> None:
        await asyncio.Event().wait()

    async with loops.running({"position_protector": raise_cancelled, "exits": wait_for_cancel}):
        await clock.advance(timedelta(seconds=5))
    assert loops.ended == {"position_protector"}
    assert loops.gate.reasons["loop_cancelled"] == "position_protector was cancelled"


async def test_start_with_open_positions_waits_for_the_broker(
    database: str, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a position in the database a start waits for the broker as long as it takes: it raises one alert and mails
    it at once, logs once a minute and tells the service manager. A signal ends it."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.socket.getsockname())
    async with open_scenario(database) as scenario, AsyncExitStack() as stack:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        manager.read_datagrams()
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=0)
        with capture_logs() as lines:
            with run_mail_server(tmp_path) as server:
                set_mail_environment(monkeypatch, server.port)
                features = scenario.settings.config.features.model_copy(update={"email_alerts": True})
                config = scenario.settings.config.model_copy(update={"features": features})
                scenario.settings = replace(scenario.settings, config=config, env=Environment())
                start_task = asyncio.create_task(begin_start(scenario, stack))
                while [line["event"] for line in lines].count("broker_unreachable") < 3:
                    await scenario.advance(seconds=1)
                    await run_loop_turns()
                assert not start_task.done()
                subjects = {(mail["X-Recipients"], mail["Subject"][:41]) for mail in server.mails()}
            start = "[Catalyst CRITICAL] BROKER_UNREACHABLE: t"
            assert subjects == {("ann@example.com", start), ("bob@example.com", start)}
        (alert,) = await scenario.conn.fetch("SELECT event, message FROM alerts")
        assert alert["event"] == "BROKER_UNREACHABLE"
        assert "1 positions, 0 orphans and 2 orders are open (AAPL)" in alert["message"]
        assert any(
            text.startswith("STATUS=waiting for the broker") and "\nEXTEND_TIMEOUT_USEC=" in text
            for text in manager.read_datagrams()
        )
        await scenario.clear_faults()
        await scenario.advance(seconds=10)
        assert (await start_task).account_number
        assert manager.read_datagrams() == ["STATUS=the broker answers"]
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=0)
        start_task = asyncio.create_task(begin_start(scenario, stack))
        await scenario.advance(seconds=60)
        scenario.stop.request("SIGTERM", flatten=True)
        await scenario.advance(seconds=6)
        with pytest.raises(StoppedAtStart):
            await start_task
