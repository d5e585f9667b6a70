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
from catalyst.demo.exchange_admin import ask
from catalyst.demo.kill_scene import KillScene
from catalyst.demo.processes import ENDS_WITHIN, Part, PartDied, begin, obituary
from catalyst.domain.errors import UserError
from catalyst.domain.session import trading_date
from catalyst.report import exchange_audit
from catalyst.report.day import Day, day_of
from catalyst.report.exchange_audit import Agreement
from catalyst.store import cycles, orphans, reporting_queries
from catalyst.store.migrate import migrate
from catalyst.store.pool import Store, open_store

if TYPE_CHECKING:
    from catalyst.report.live_screen import Show

START: Final = "07:59"  # New York; the daemon prepares the day at 08:00
LOOK: Final = timedelta(milliseconds=150)  # real time between two looks at the tables
READY_WITHIN: Final = timedelta(seconds=120)  # for an exchange or a daemon to start on a slow machine
INTERRUPTED: Final = 130
NOT_FLAT: Final = 2  # a daemon that ended its day, and says that it did not end flat


@dataclass(frozen=True, slots=True)
class Play:
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


class Interrupted(UserError):
    """Somebody asked for the end before the day had begun."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the day ended."""

    day: Day | None
    books: Agreement | None
    speed: float  # market seconds a real second, over the whole day
    seconds: float
    interrupted: bool
    daemon_code: int
    scene: KillScene | None  # None: nobody was to be killed

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return INTERRUPTED
        whole = self.day is not None and self.day.cycle.status == "completed"
        whole = whole and (self.scene is None or self.scene.held)
        return 0 if whole and self.daemon_code == 0 and self.books is not None and self.books.holds else 1


@dataclass
class Demo:
    """One run of the demo in one folder."""

    play: Play
    show: "Show"
    folder: Path
    real: SystemClock = field(default_factory=SystemClock)
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # Ctrl-C
    parts: list[Part] = field(default_factory=list)

    async def run(self) -> Outcome:
        """Set up, live through the day, compare the books; every child is gone afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask)
        server: embedded.EmbeddedPostgres | None = None
        try:
            exchange = self._begin("exchange", self._exchange_arguments())
            server = await asyncio.to_thread(embedded.start, self.folder / "pg")
            await migrate(server.dsn)
            self.show.step("database", "PostgreSQL of its own, migrated", self.folder / "pg")
            port = await self._port(exchange)
            self.show.step("exchange", f"speaks Alpaca's protocol on 127.0.0.1:{port}", _market(exchange.log))
            clock = ScaledClock(self.folder / "clock")
            self._write_config(port)
            scene = await self._trap(port) if self.play.kill else None
            daemon = self._daemon()
            store = await open_store(server.dsn, self.real, size=2, name="catalyst demo")
            try:
                return await self._live(store, clock, daemon, exchange, port, scene)
            finally:
                await store.close()
        finally:
            self.show.stop()
            await self._end()
            if server is not None:
                await asyncio.to_thread(server.stop)

    def _ask(self) -> None:
        if self.asked.is_set():
            for part in self.parts:
                part.tell(signal.SIGKILL)
        self.asked.set()

    def _begin(self, name: str, arguments: Sequence[str]) -> Part:
        """Start a child in the demo's folder; the daemon lives on the exchange's clock."""
        settings = {}
        if name == "daemon":
            settings = {
                "CATALYST_CLOCK": str(self.folder / "clock"),
                "CATALYST_CLOCK_SPEED": str(self.play.speed),
                "ENABLE_AUTONOMOUS_TRADING": "true",
            }
        part = begin(name, arguments, self.folder, settings)
        self.parts.append(part)
        return part

    def _daemon(self) -> Part:
        return self._begin(
            "daemon", ["run", "--once", "--leash", "--config", str(self.folder / "config.yaml")]
        )

    async def _trap(self, port: int) -> KillScene:
        scene = KillScene(port, ScaledClock(self.folder / "clock", drive=True, speed=0.0), self.real)
        await scene.arm()
        return scene

    def _exchange_arguments(self) -> list[str]:
        play, folder = self.play, self.folder
        arguments = ["sim", "--leash", "--port", "0", "--port-file", str(folder / "port"), "--start", START]
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
            "pipeline": {"bar_minutes": self.play.bar_minutes},
            "log": {"format": "json"},
        }
        text = "# Written by `catalyst demo`: its own exchange, its own database, nothing of yours.\n"
        (self.folder / "config.yaml").write_text(
            text + yaml.safe_dump(tree, sort_keys=False), encoding="utf-8"
        )

    async def _port(self, exchange: Part) -> int:
        file = self.folder / "port"
        await self._until(file.exists, exchange)
        return int(file.read_text())

    async def _until(self, done: Callable[[], bool], part: Part) -> None:
        """Wait for something a child does. Raises PartDied, or Interrupted."""
        deadline = self.real.now() + READY_WITHIN
        while not done():
            if self.asked.is_set():
                raise Interrupted("stopped before the day began; nothing is left running")
            if part.code is not None or self.real.now() > deadline:
                raise PartDied(obituary(part))
            await self.real.sleep(timedelta(milliseconds=50))

    async def _live(
        self,
        store: Store,
        clock: ScaledClock,
        daemon: Part,
        exchange: Part,
        port: int,
        scene: KillScene | None,
    ) -> Outcome:
        """From the daemon's first cycle to its end, shown as it happens; then the books."""
        opened = clock.now()
        await self._until(lambda: clock.speed > 0, daemon)
        self.show.step("daemon", *_autonomy())
        began = self.real.now()
        self.show.begin(clock, self.folder / "daemon.log")
        told = False
        while daemon.code is None:
            if exchange.code is not None:
                raise PartDied(obituary(exchange))
            if self.asked.is_set() and not told:
                told = True
                self.show.say("stopping: the daemon cancels every order and leaves every position first")
                daemon.tell(signal.SIGTERM)
            async with store.read() as conn:
                await self.show.look(conn)
            if scene is not None and not told:
                with suppress(OSError):  # the exchange does not answer: whether it is gone is asked above
                    daemon = await self._act(scene, store, daemon)
            await self.real.sleep(LOOK)
        async with store.read() as conn:
            await self.show.look(conn)
        real = (self.real.now() - began).total_seconds()
        market = (clock.now() - opened).total_seconds()
        if daemon.code not in (0, NOT_FLAT) and not told:
            raise PartDied(obituary(daemon if exchange.code is None else exchange))
        day, books = await self._account(store, trading_date(opened), port)
        return Outcome(day, books, market / real, real, told, daemon.code or 0, scene)

    async def _act(self, scene: KillScene, store: Store, daemon: Part) -> Part:
        """Move the scene on; the daemon that runs now."""
        if scene.over:
            return daemon
        if scene.victim is None:
            if await scene.ripe():
                daemon.tell(signal.SIGKILL)
                await daemon.ended(ENDS_WITHIN)
                self.show.say(await scene.died())
                return self._daemon()
            return daemon
        async with store.read() as conn:
            if await scene.look(conn):
                self.show.say(scene.sentence)
        return daemon

    async def _account(self, store: Store, played: date, port: int) -> tuple[Day | None, Agreement | None]:
        """The day's figures, and what the exchange's own audit says of them."""
        audit, ledger = await asyncio.gather(ask(port, "audit"), ask(port, "ledger"))
        async with store.read() as conn:
            fills = await reporting_queries.all_fills(conn)
            rows = await reporting_queries.every_position(conn, limit=10_000)
            loose = await orphans.recent(conn, limit=10_000)
            cycle = await cycles.of_day(conn, played)
            day = await day_of(conn, cycle.cycle_date) if cycle else None
        return day, exchange_audit.compare(fills, rows, audit, ledger["executions"], loose)

    async def _end(self) -> None:
        """Every child is gone: asked, then made."""
        for part in reversed(self.parts):
            part.tell(signal.SIGUSR1 if part.name == "daemon" else signal.SIGTERM)
            await part.ended(ENDS_WITHIN)


def _market(log: Path) -> str:
    """What the exchange said it plays."""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("market")]
    return said[0].removeprefix("market").split(";")[0].strip() if said else ""


def _autonomy() -> tuple[str, str]:
    return (
        "trades by itself, at this exchange only",
        "session.mode autonomous, workflow.auto_execute and ENABLE_AUTONOMOUS_TRADING=true are set for this demo",
    )
