"""The demo: runs a trading day in about a minute with an exchange, a daemon and a display on one fast shared clock.

The operator's setup is not touched: the children get an environment without keys, mode or database, write all files
into one folder, and end when this process ends, even by a crash.
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
REFRESH_INTERVAL: Final = timedelta(milliseconds=150)  # real time between two reads of the database
READY_TIMEOUT: Final = timedelta(seconds=120)  # for an exchange or a daemon to start on a slow machine
EXIT_INTERRUPTED: Final = 130
EXIT_NOT_FLAT: Final = 2  # the daemon's exit code after a day that did not end flat


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of a demo run: market, day, speed, folder and kill."""

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
    kill: bool = True  # kill the daemon during its first entry


class DemoInterrupted(UserError):
    """The demo was stopped before its day began."""


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """The result of a demo run. `seconds` is real time."""

    day: DayReport | None
    agreement: Agreement | None
    speed: float  # market seconds per real second, over the whole day
    seconds: float
    interrupted: bool
    daemon_exit_code: int
    scene: KillScene | None  # None: run without a kill

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return EXIT_INTERRUPTED
        passed = self.day is not None and self.day.cycle.status == "completed"
        passed = passed and (self.scene is None or self.scene.passed)
        return (
            0
            if passed and self.daemon_exit_code == 0 and self.agreement is not None and self.agreement.matches
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
        """Start the processes, run the day and compare database and exchange; every child has ended afterwards.

        Raises ChildProcessFailed, DemoInterrupted.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._request_stop)
        server: embedded.EmbeddedPostgres | None = None
        try:
            exchange = self._start_child("exchange", self._exchange_arguments())
            server = await asyncio.to_thread(embedded.start, self.folder / "pg")
            await migrate(server.dsn)
            self.display.show_setup_step("database", "own PostgreSQL, migrated", self.folder / "pg")
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
            for child in self.children:
                child.send_signal(signal.SIGKILL)
        self.stop_requested.set()

    def _start_child(self, name: str, arguments: Sequence[str]) -> ChildProcess:
        """Start a child in the demo's folder; the daemon uses the exchange's clock."""
        settings = {}
        if name == "daemon":
            settings = {
                "CATALYST_CLOCK": str(self.folder / "clock"),
                "CATALYST_CLOCK_SPEED": str(self.options.speed),
                "ENABLE_AUTONOMOUS_TRADING": "true",
            }
        child = start_child(name, arguments, self.folder, settings)
        self.children.append(child)
        return child

    def _start_daemon(self) -> ChildProcess:
        return self._start_child(
            "daemon", ["run", "--once", "--exit-with-parent", "--config", str(self.folder / "config.yaml")]
        )

    async def _arm_kill_scene(self, port: int) -> KillScene:
        scene = KillScene(port, ScaledClock(self.folder / "clock", drive=True, speed=0.0), self.real_clock)
        await scene.arm()
        return scene

    def _exchange_arguments(self) -> list[str]:
        options, folder = self.options, self.folder
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
        if options.day is not None:
            arguments += ["--day", options.day.isoformat()]
        if not options.recorded:
            return [*arguments, "--generated", str(options.seed), "--symbols", str(options.symbols)]
        for file in options.recorded:
            arguments += ["--recorded", str(file.resolve())]
        for option, option_file in (
            ("--daily", options.daily),
            ("--headlines", options.headlines),
            ("--listings", options.listings),
        ):
            if option_file is not None:
                arguments += [option, str(option_file.resolve())]
        return arguments

    def _write_config(self, port: int) -> None:
        """Write the daemon's configuration: the defaults, but autonomous, with this exchange and this folder."""
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
        text = "# Written by `catalyst demo`: with its own exchange and its own database.\n"
        (self.folder / "config.yaml").write_text(
            text + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8"
        )

    async def _read_port(self, exchange: ChildProcess) -> int:
        file = self.folder / "port"
        await self._wait_until(file.exists, exchange)
        return int(file.read_text())

    async def _wait_until(self, done: Callable[[], bool], child: ChildProcess) -> None:
        """Wait until `done` is true. Raises ChildProcessFailed when the child ends or is late, DemoInterrupted."""
        deadline = self.real_clock.now() + READY_TIMEOUT
        while not done():
            if self.stop_requested.is_set():
                raise DemoInterrupted("stopped before the day began; no process is left running")
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
        """Show the day until the daemon ends, then compare the database with the exchange."""
        opened = clock.now()
        await self._wait_until(lambda: clock.speed > 0, daemon)
        self.display.show_setup_step("daemon", *_autonomy_note())
        started = self.real_clock.now()
        self.display.begin_day(clock, self.folder / "daemon.log")
        stop_sent = False
        while daemon.exit_code is None:
            if exchange.exit_code is not None:
                raise ChildProcessFailed(crash_report(exchange))
            if self.stop_requested.is_set() and not stop_sent:
                stop_sent = True
                self.display.show_message(
                    "stopping: the daemon first cancels every order and exits every position"
                )
                daemon.send_signal(signal.SIGTERM)
            async with store.read() as conn:
                await self.display.refresh(conn)
            if scene is not None and not stop_sent:
                with suppress(OSError):  # the exchange does not answer; the loop checks whether it ended
                    daemon = await self._advance_kill_scene(scene, store, daemon)
            await self.real_clock.sleep(REFRESH_INTERVAL)
        async with store.read() as conn:
            await self.display.refresh(conn)
        real_seconds = (self.real_clock.now() - started).total_seconds()
        market_seconds = (clock.now() - opened).total_seconds()
        if daemon.exit_code not in (0, EXIT_NOT_FLAT) and not stop_sent:
            raise ChildProcessFailed(crash_report(daemon if exchange.exit_code is None else exchange))
        day, agreement = await self._audit_day(store, trading_date(opened), port)
        return DemoOutcome(
            day,
            agreement,
            market_seconds / real_seconds,
            real_seconds,
            stop_sent,
            daemon.exit_code or 0,
            scene,
        )

    async def _advance_kill_scene(self, scene: KillScene, store: Store, daemon: ChildProcess) -> ChildProcess:
        """Do the scene's next step; return the daemon process that runs now."""
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
        """Return the day's report and its comparison with the exchange; no report without a cycle."""
        audit, logs = await asyncio.gather(request_admin(port, "audit"), request_admin(port, "logs"))
        async with store.read() as conn:
            fills = await reporting_queries.all_fills(conn)
            rows = await reporting_queries.recent_positions(conn, limit=10_000)
            orphan_rows = await orphans.recent(conn, limit=10_000)
            cycle = await cycles.of_day(conn, session_date)
            day = await read_day_report(conn, cycle.cycle_date) if cycle else None
        return day, exchange_audit.compare_with_exchange(fills, rows, audit, logs["executions"], orphan_rows)

    async def _stop_children(self) -> None:
        """Stop every child with a signal, and kill it when it does not end."""
        for child in reversed(self.children):
            child.send_signal(signal.SIGUSR1 if child.name == "daemon" else signal.SIGTERM)
            await child.wait_or_kill(EXIT_TIMEOUT_S)


def _market_description(log: Path) -> str:
    """Return the exchange's description of its market, from its log."""
    market_lines = [
        line for line in log.read_text(errors="replace").splitlines() if line.startswith("market")
    ]
    return market_lines[0].removeprefix("market").split(";")[0].strip() if market_lines else ""


def _autonomy_note() -> tuple[str, str]:
    return (
        "trades automatically, at this exchange only",
        "session.mode autonomous, workflow.auto_execute and ENABLE_AUTONOMOUS_TRADING=true are set for this demo",
    )
