"""A whole trading day in about a minute: the exchange, the daemon and a screen, three processes on one fast clock.

Nothing of the operator's is touched: the children get an environment without keys, mode or database, everything
they write lies in one folder, and they end when this process ends, however it ends.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from catalyst import embedded
from catalyst.clock import ScaledClock, SystemClock
from catalyst.demo.exchange_admin import request_admin
from catalyst.demo.kill_scene import KillScene
from catalyst.demo.processes import (
    EXIT_TIMEOUT_S,
    ChildProcess,
    ChildProcessFailed,
    crash_report,
    start_child,
)
from catalyst.domain.errors import UserError
from catalyst.domain.session import trading_date
from catalyst.report import exchange_audit
from catalyst.report.day import DayReport, read_day_report
from catalyst.report.exchange_audit import Agreement
from catalyst.store import cycles, orphans, reporting_queries
from catalyst.store.migrate import migrate
from catalyst.store.pool import Store, open_store

if TYPE_CHECKING:
    from catalyst.report.live_screen import ProgressDisplay

START_TIME: Final = "07:59"  # New York; the daemon prepares the day at 08:00
REFRESH_INTERVAL: Final = timedelta(milliseconds=150)  # real time between two looks at the tables
READY_TIMEOUT: Final = timedelta(seconds=120)  # for an exchange or a daemon to start on a slow machine
EXIT_INTERRUPTED: Final = 130
EXIT_NOT_FLAT: Final = 2  # a daemon that ended its day, and says that it did not end flat


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Which day is played, and how."""

    seed: int = 7
    symbols: int = 4_200
    day: date | None = None
    recorded: tuple[Path, ...] = ()
    daily: Path | None = None
    headlines: Path | None = None
    listings: Path | None = None
    bar_minutes: int = 1
    speed: float = 800.0
    keep: Path | None = None
    kill: bool = True  # the daemon is killed over its first entry


class DemoInterrupted(UserError):
    """Somebody asked for the end before the day had begun."""


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """How the day ended."""

    day: DayReport | None
    agreement: Agreement | None
    speed: float  # market seconds a real second, over the whole day
    seconds: float
    interrupted: bool
    daemon_exit_code: int
    scene: KillScene | None  # None: nobody was to be killed

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return EXIT_INTERRUPTED
        whole = self.day is not None and self.day.cycle.status == "completed"
        whole = whole and (self.scene is None or self.scene.passed)
        return (
            0
            if whole and self.daemon_exit_code == 0 and self.agreement is not None and self.agreement.matches
            else 1
        )


@dataclass
class Demo:
    """One run of the demo in one folder."""

    options: DemoOptions
    display: "ProgressDisplay"
    folder: Path
    real_clock: SystemClock = field(default_factory=SystemClock)
    stop_requested: asyncio.Event = field(default_factory=asyncio.Event)  # Ctrl-C
    children: list[ChildProcess] = field(default_factory=list)

    async def run(self) -> DemoOutcome:
        """Set up, live through the day, compare the books; every child is gone afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._request_stop)
        server: embedded.EmbeddedPostgres | None = None
        try:
            exchange = self._start_child("exchange", self._exchange_arguments())
            server = await asyncio.to_thread(embedded.start, self.folder / "pg")
            await migrate(server.dsn)
            self.display.show_setup_step("database", "PostgreSQL of its own, migrated", self.folder / "pg")
            port = await self._read_port(exchange)
            self.display.show_setup_step(
                "exchange", f"speaks Alpaca's protocol on 127.0.0.1:{port}", _market_description(exchange.log)
            )
            clock = ScaledClock(self.folder / "clock")
            self._write_config(port)
            scene = await self._arm_kill_scene(port) if self.options.kill else None
            daemon = self._start_daemon()
            store = await open_store(server.dsn, self.real_clock, size=2, name="catalyst demo")
            try:
                return await self._run_day(store, clock, daemon, exchange, port, scene)
            finally:
                await store.close()
        finally:
            self.display.stop()
            await self._stop_children()
            if server is not None:
                await asyncio.to_thread(server.stop)

    def _request_stop(self) -> None:
        if self.stop_requested.is_set():
            for part in self.children:
                part.send_signal(signal.SIGKILL)
        self.stop_requested.set()

    def _start_child(self, name: str, arguments: Sequence[str]) -> ChildProcess:
        """Start a child in the demo's folder; the daemon lives on the exchange's clock."""
        settings = {}
        if name == "daemon":
            settings = {
                "CATALYST_CLOCK": str(self.folder / "clock"),
                "CATALYST_CLOCK_SPEED": str(self.options.speed),
                "ENABLE_AUTONOMOUS_TRADING": "true",
            }
        part = start_child(name, arguments, self.folder, settings)
        self.children.append(part)
        return part

    def _start_daemon(self) -> ChildProcess:
        return self._start_child(
            "daemon", ["run", "--once", "--exit-with-parent", "--config", str(self.folder / "config.yaml")]
        )

    async def _arm_kill_scene(self, port: int) -> KillScene:
        scene = KillScene(port, ScaledClock(self.folder / "clock", drive=True, speed=0.0), self.real_clock)
        await scene.arm()
        return scene

    def _exchange_arguments(self) -> list[str]:
        play, folder = self.options, self.folder
        arguments = [
            "sim",
            "--exit-with-parent",
            "--port",
            "0",
            "--port-file",
            str(folder / "port"),
            "--start",
            START_TIME,
        ]
        arguments += ["--new-clock", str(folder / "clock"), "--write-listings", str(folder / "listings.csv")]
        if play.day is not None:
            arguments += ["--day", play.day.isoformat()]
        if not play.recorded:
            return [*arguments, "--generated", str(play.seed), "--symbols", str(play.symbols)]
        for file in play.recorded:
            arguments += ["--recorded", str(file.resolve())]
        for option, named in (
            ("--daily", play.daily),
            ("--headlines", play.headlines),
            ("--listings", play.listings),
        ):
            if named is not None:
                arguments += [option, str(named.resolve())]
        return arguments

    def _write_config(self, port: int) -> None:
        """The daemon's configuration: the defaults, but autonomous, at this exchange, in this folder."""
        tree = {
            "trading": {"mode": "sim"},
            "broker": {"simulator": f"http://127.0.0.1:{port}"},
            "database": {"data_dir": str(self.folder / "pg")},
            "session": {"mode": "autonomous"},
            "workflow": {"auto_execute": True},
            "universe": {"listings_file": str(self.folder / "listings.csv")},
            "pipeline": {"bar_minutes": self.options.bar_minutes},
            "log": {"format": "json"},
        }
        text = "# Written by `catalyst demo`: its own exchange, its own database, nothing of yours.\n"
        (self.folder / "config.yaml").write_text(
            text + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8"
        )

    async def _read_port(self, exchange: ChildProcess) -> int:
        file = self.folder / "port"
        await self._wait_until(file.exists, exchange)
        return int(file.read_text())

    async def _wait_until(self, done: Callable[[], bool], child: ChildProcess) -> None:
        """Wait for something a child does. Raises PartDied, or Interrupted."""
        deadline = self.real_clock.now() + READY_TIMEOUT
        while not done():
            if self.stop_requested.is_set():
                raise DemoInterrupted("stopped before the day began; nothing is left running")
            if child.exit_code is not None or self.real_clock.now() > deadline:
                raise ChildProcessFailed(crash_report(child))
            await self.real_clock.sleep(timedelta(milliseconds=50))

    async def _run_day(
        self,
        store: Store,
        clock: ScaledClock,
        daemon: ChildProcess,
        exchange: ChildProcess,
        port: int,
        scene: KillScene | None,
    ) -> DemoOutcome:
        """From the daemon's first cycle to its end, shown as it happens; then the books."""
        opened = clock.now()
        await self._wait_until(lambda: clock.speed > 0, daemon)
        self.display.show_setup_step("daemon", *_autonomy_note())
        began = self.real_clock.now()
        self.display.begin_day(clock, self.folder / "daemon.log")
        stop_sent = False
        while daemon.exit_code is None:
            if exchange.exit_code is not None:
                raise ChildProcessFailed(crash_report(exchange))
            if self.stop_requested.is_set() and not stop_sent:
                stop_sent = True
                self.display.show_message(
                    "stopping: the daemon cancels every order and leaves every position first"
                )
                daemon.send_signal(signal.SIGTERM)
            async with store.read() as conn:
                await self.display.refresh(conn)
            if scene is not None and not stop_sent:
                with suppress(OSError):  # the exchange does not answer: whether it is gone is asked above
                    daemon = await self._advance_kill_scene(scene, store, daemon)
            await self.real_clock.sleep(REFRESH_INTERVAL)
        async with store.read() as conn:
            await self.display.refresh(conn)
        real = (self.real_clock.now() - began).total_seconds()
        market = (clock.now() - opened).total_seconds()
        if daemon.exit_code not in (0, EXIT_NOT_FLAT) and not stop_sent:
            raise ChildProcessFailed(crash_report(daemon if exchange.exit_code is None else exchange))
        day, books = await self._audit_day(store, trading_date(opened), port)
        return DemoOutcome(day, books, market / real, real, stop_sent, daemon.exit_code or 0, scene)

    async def _advance_kill_scene(self, scene: KillScene, store: Store, daemon: ChildProcess) -> ChildProcess:
        """Move the scene on; the daemon that runs now."""
        if scene.is_over:
            return daemon
        if scene.interrupted_order is None:
            if await scene.is_ready_to_kill():
                daemon.send_signal(signal.SIGKILL)
                await daemon.wait_or_kill(EXIT_TIMEOUT_S)
                self.display.show_message(await scene.on_killed())
                return self._start_daemon()
            return daemon
        async with store.read() as conn:
            if await scene.check(conn):
                self.display.show_message(scene.result)
        return daemon

    async def _audit_day(
        self, store: Store, session_date: date, port: int
    ) -> tuple[DayReport | None, Agreement | None]:
        """The day's figures, and what the exchange's own audit says of them."""
        audit, ledger = await asyncio.gather(request_admin(port, "audit"), request_admin(port, "logs"))
        async with store.read() as conn:
            fills = await reporting_queries.all_fills(conn)
            rows = await reporting_queries.recent_positions(conn, limit=10_000)
            loose = await orphans.recent(conn, limit=10_000)
            cycle = await cycles.of_day(conn, session_date)
            day = await read_day_report(conn, cycle.cycle_date) if cycle else None
        return day, exchange_audit.compare_with_exchange(fills, rows, audit, ledger["executions"], loose)

    async def _stop_children(self) -> None:
        """Every child is gone: asked, then made."""
        for part in reversed(self.children):
            part.send_signal(signal.SIGUSR1 if part.name == "daemon" else signal.SIGTERM)
            await part.wait_or_kill(EXIT_TIMEOUT_S)


def _market_description(log: Path) -> str:
    """What the exchange said it plays."""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("market")]
    return said[0].removeprefix("market").split(";")[0].strip() if said else ""


def _autonomy_note() -> tuple[str, str]:
    return (
        "trades by itself, at this exchange only",
        "session.mode autonomous, workflow.auto_execute and ENABLE_AUTONOMOUS_TRADING=true are set for this demo",
    )
