"""A whole trading day in about a minute: the exchange, the daemon and a screen, three processes on one fast clock.

Nothing of the operator's is touched: the children get an environment without keys, mode or database, everything
they write lies in one folder, and they end when this process ends, however it ends.
"""

import asyncio
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from catalyst import embedded
from catalyst.clock import ScaledClock, SystemClock
from catalyst.config import environment_without_ours
from catalyst.domain.errors import UserError
from catalyst.domain.session import trading_date
from catalyst.report import agreement
from catalyst.report.agreement import Agreement
from catalyst.report.day import Day, day_of
from catalyst.store import cycles, inquiry
from catalyst.store.migrate import migrate
from catalyst.store.pool import Store, open_store

if TYPE_CHECKING:
    from catalyst.report.screen import Show

PREFIX: Final = "catalyst-demo-"
START: Final = "07:59"  # New York; the daemon prepares the day at 08:00
LOOK: Final = timedelta(milliseconds=150)  # real time between two looks at the tables
READY_WITHIN: Final = timedelta(seconds=120)  # for an exchange or a daemon to start on a slow machine
ENDS_WITHIN: Final = 15.0  # real seconds for a child to end by itself
LAST_LINES: Final = 12
INTERRUPTED: Final = 130


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


class Interrupted(UserError):
    """Somebody asked for the end before the day had begun."""


class PartDied(UserError):
    """A child ended that should not have; the message has its last words."""


@dataclass
class Part:
    """A child process, its log, and the leash it ends with."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def tell(self, number: signal.Signals) -> None:
        if self.code is None:
            self.process.send_signal(number)

    async def ended(self, within: float) -> None:
        """The process is gone; killed when it did not end by itself."""
        try:
            await asyncio.to_thread(self.process.wait, within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LAST_LINES:])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the day ended."""

    day: Day | None
    books: Agreement | None
    speed: float  # market seconds a real second, over the whole day
    seconds: float
    interrupted: bool
    daemon_code: int

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return INTERRUPTED
        whole = self.day is not None and self.day.cycle.status == "completed"
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
            daemon = self._begin(
                "daemon", ["run", "--once", "--leash", "--config", str(self.folder / "config.yaml")]
            )
            store = await open_store(server.dsn, self.real, size=2, name="catalyst demo")
            try:
                return await self._live(store, clock, daemon, exchange, port)
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
        """Start a child in the demo's folder, out of reach of the terminal's Ctrl-C and of our settings."""
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join([root, *filter(None, [environment_without_ours().get("PYTHONPATH")])])
        changes = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        if name == "daemon":
            changes |= {
                "CATALYST_CLOCK": str(self.folder / "clock"),
                "CATALYST_CLOCK_SPEED": str(self.play.speed),
                "ENABLE_AUTONOMOUS_TRADING": "true",
            }
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "catalyst", *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment_without_ours(**changes),
                start_new_session=True,
            )
        part = Part(name, process, log)
        self.parts.append(part)
        return part

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
                raise PartDied(_obituary(part))
            await self.real.sleep(timedelta(milliseconds=50))

    async def _live(
        self, store: Store, clock: ScaledClock, daemon: Part, exchange: Part, port: int
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
                raise PartDied(_obituary(exchange))
            if self.asked.is_set() and not told:
                told = True
                self.show.say("stopping: the daemon cancels every order and leaves every position first")
                daemon.tell(signal.SIGTERM)
            async with store.read() as conn:
                await self.show.look(conn)
            await self.real.sleep(LOOK)
        async with store.read() as conn:
            await self.show.look(conn)
        real = (self.real.now() - began).total_seconds()
        market = (clock.now() - opened).total_seconds()
        if daemon.code != 0 and not told:
            raise PartDied(_obituary(daemon))
        day, books = await self._account(store, trading_date(opened), port)
        return Outcome(day, books, market / real, real, told, daemon.code or 0)

    async def _account(self, store: Store, played: date, port: int) -> tuple[Day | None, Agreement | None]:
        """The day's figures, and what the exchange's own audit says of them."""
        audit, ledger = await asyncio.gather(
            asyncio.to_thread(_fetch, port, "/admin/audit"), asyncio.to_thread(_fetch, port, "/admin/ledger")
        )
        async with store.read() as conn:
            fills = await inquiry.all_fills(conn)
            rows = await inquiry.every_position(conn, limit=10_000)
            cycle = await cycles.of_day(conn, played)
            day = await day_of(conn, cycle.cycle_date) if cycle else None
        return day, agreement.compare(fills, rows, audit, ledger["executions"])

    async def _end(self) -> None:
        """Every child is gone: asked, then made."""
        for part in reversed(self.parts):
            part.tell(signal.SIGUSR1 if part.name == "daemon" else signal.SIGTERM)
            await part.ended(ENDS_WITHIN)


def make_folder(keep: Path | None) -> Path:
    """Where this run writes. Folders of earlier runs that nobody asked to keep are removed.

    Raises UserError when the folder to keep is in use or cannot be made.
    """
    try:
        if keep is not None:
            folder = keep.expanduser().resolve()
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UserError(f"--keep {keep} is not empty: name a new folder")
        else:
            _forget_earlier()
            folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    except OSError as error:
        raise UserError(f"no folder for the demo ({error}): name one with --keep, or set TMPDIR") from None
    if os.geteuid() == 0:
        folder.chmod(0o711)  # PostgreSQL never runs as root: its own user must reach its data in here
    return folder


def _forget_earlier() -> None:
    """Remove what earlier demos of this user left, unless somebody is looking into it."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if old.is_symlink() or not old.is_dir() or old.stat().st_uid != os.geteuid():
            continue
        with suppress(embedded.EmbeddedUnavailable, OSError):
            embedded.remove(old / "pg")
            shutil.rmtree(old)


def _fetch(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def _market(log: Path) -> str:
    """What the exchange said it plays."""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("market")]
    return said[0].removeprefix("market").split(";")[0].strip() if said else ""


def _autonomy() -> tuple[str, str]:
    return (
        "trades by itself, at this exchange only",
        "session.mode autonomous, workflow.auto_execute and ENABLE_AUTONOMOUS_TRADING=true are set for this demo",
    )


def _obituary(part: Part) -> str:
    ended = "did not become ready" if part.code is None else f"ended with code {part.code}"
    return f"the {part.name} {ended}; the last lines of {part.log}:\n{part.last_words() or '(nothing)'}"
