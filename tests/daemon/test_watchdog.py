"""The service manager hears that the daemon is ready, lives and stops, by the datagrams it asked for."""

import asyncio
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from catalyst.clock import ManualClock
from catalyst.daemon.app import ExitCode
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import Supervisor
from catalyst.daemon.runtime.watchdog import Watchdog
from catalyst.daemon.trading_state.entry_gate import EntryGate
from tests.stories.scenario import open_scenario


class ServiceManager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def read_datagrams(self) -> list[str]:
        """Every datagram since the last time."""
        words = []
        while True:
            try:
                words.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return words


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


@pytest.mark.promise("F094")
async def test_watchdog_notifies_service_manager_of_ready_alive_and_stopping(
    database: str, manager: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready only once everything is recovered, alive twice as often as is asked for, stopping at the end."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    async with open_scenario(database) as scenario:
        first = manager.read_datagrams()
        assert first.count("READY=1") == 1
        await scenario.advance(seconds=60)
        assert manager.read_datagrams() == ["WATCHDOG=1"] * 4
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert manager.read_datagrams()[-1] == "STOPPING=1"


@pytest.mark.promise("F094")
async def test_watchdog_stops_notifying_when_a_loop_ended(
    manager: ServiceManager, clock: ManualClock
) -> None:
    """A loop that should never end has ended: nothing more is said, so that the daemon is started again; one that ends
    with the day is no reason."""
    loops = Supervisor(EntryGate(), clock, ChangeSignal())
    watchdog = Watchdog(loops, clock, manager.socket.getsockname(), timedelta(seconds=30))
    ends = {name: asyncio.Event() for name in ("flat", "position_protector")}
    async with (
        watchdog.watching(),
        loops.running({"flat": ends["flat"].wait, "position_protector": ends["position_protector"].wait}),
    ):
        await clock.advance(timedelta(seconds=31))
        ends["flat"].set()
        await clock.advance(timedelta(seconds=30))
        assert manager.read_datagrams() == ["WATCHDOG=1"] * 5
        ends["position_protector"].set()
        await clock.advance(timedelta(seconds=60))
        assert manager.read_datagrams() == []


@pytest.mark.promise("F094")
def test_watchdog_without_service_manager_is_silent(
    clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """No address, and one that is gone: neither is an error; an abstract address is one too."""
    loops = Supervisor(EntryGate(), clock, ChangeSignal())
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
async def test_watchdog_stops_notifying_when_a_loop_is_cancelled(clock: ManualClock) -> None:
    """A cancellation that nobody asked the loop for comes up in it: no entry any more, and the watchdog is not fed, so
    that a start recovers. Asked to end, it ends and nothing is amiss."""
    loops = Supervisor(EntryGate(), clock, ChangeSignal())

    async def guard() -> None:
        raise asyncio.CancelledError

    async def asked() -> None:
        await asyncio.Event().wait()

    async with loops.running({"position_protector": guard, "exits": asked}):
        await clock.advance(timedelta(seconds=5))
    assert loops.ended == {"position_protector"}
    assert loops.gate.reasons["loop_cancelled"] == "position_protector was cancelled"
