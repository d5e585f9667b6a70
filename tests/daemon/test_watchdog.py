"""The service manager hears that the daemon is ready, lives and stops, by the datagrams it asked for."""

import asyncio
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from catalyst.clock import ManualClock
from catalyst.daemon.app import Exit
from catalyst.daemon.runtime.change_signal import Pulse
from catalyst.daemon.runtime.supervisor import Loops
from catalyst.daemon.runtime.watchdog import Watchdog
from catalyst.daemon.trading_state.entry_gate import Gate
from tests.stories.scenario import open_desk


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every datagram since the last time."""
        words = []
        while True:
            try:
                words.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return words


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


async def test_f094_the_service_manager_is_told(
    database: str, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready only once everything is recovered, alive twice as often as is asked for, stopping at the end."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    async with open_desk(database) as desk:
        first = manager.heard()
        assert first.count("READY=1") == 1
        await desk.waits(seconds=60)
        assert manager.heard() == ["WATCHDOG=1"] * 4
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() is Exit.FLAT
        assert manager.heard()[-1] == "STOPPING=1"


async def test_f094_a_loop_that_ended_starves_the_watchdog(manager: Manager, clock: ManualClock) -> None:
    """A loop that should never end has ended: nothing more is said, so that the daemon is started again; one that ends
    with the day is no reason."""
    loops = Loops(Gate(), clock, Pulse())
    watchdog = Watchdog(loops, clock, manager.socket.getsockname(), timedelta(seconds=30))
    ends = {name: asyncio.Event() for name in ("flat", "guard")}
    async with watchdog.watching(), loops.running({"flat": ends["flat"].wait, "guard": ends["guard"].wait}):
        await clock.advance(timedelta(seconds=31))
        ends["flat"].set()
        await clock.advance(timedelta(seconds=30))
        assert manager.heard() == ["WATCHDOG=1"] * 5
        ends["guard"].set()
        await clock.advance(timedelta(seconds=60))
        assert manager.heard() == []


def test_f094_without_a_service_manager_nothing_is_said(
    clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """No address, and one that is gone: neither is an error; an abstract address is one too."""
    loops = Loops(Gate(), clock, Pulse())
    Watchdog(loops, clock, None, None).say("READY=1")
    assert "service_manager_unreachable" not in capsys.readouterr().out
    Watchdog(loops, clock, "/nowhere/notify", None).say("READY=1")
    assert "service_manager_unreachable" in capsys.readouterr().out
    name = f"catalyst-test-{os.getpid()}"
    abstract = Manager(f"\0{name}")
    Watchdog(loops, clock, f"@{name}", None).say("READY=1")
    assert abstract.heard() == ["READY=1"]
    abstract.socket.close()


async def test_f094_a_cancelled_loop_starves_the_watchdog(clock: ManualClock) -> None:
    """A cancellation that nobody asked the loop for comes up in it: no entry any more, and the watchdog is not fed, so
    that a start recovers. Asked to end, it ends and nothing is amiss."""
    loops = Loops(Gate(), clock, Pulse())

    async def guard() -> None:
        raise asyncio.CancelledError

    async def asked() -> None:
        await asyncio.Event().wait()

    async with loops.running({"guard": guard, "exits": asked}):
        await clock.advance(timedelta(seconds=5))
    assert loops.ended == {"guard"}
    assert loops.gate.reasons["loops"] == "guard was cancelled"
