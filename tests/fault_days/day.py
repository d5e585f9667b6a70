"""One fault day: daemon, exchange and PostgreSQL as processes, the network between them, and the day's incidents."""

import asyncio
import math
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import yaml

from catalyst.clock import NEW_YORK, ScaledClock
from catalyst.demo.processes import ChildProcess, start_child
from catalyst.domain.refusals import KnownRefusal
from tests.dbfaults.dedicated_server import DedicatedServer, open_dedicated_server
from tests.fault_days.network import Network, NetworkFault, open_network
from tests.fault_days.plan import DayPlan, Incident, IncidentKind

SPEED: Final = 240.0  # market seconds per real second
HELD_SPEED: Final = 8.0  # while the daemon has a request or a transaction in flight
SLOW_SPEED: Final = 2.0  # while one has had no response for SLOW_AFTER_S, whose time-outs are real seconds
SLOW_AFTER_S: Final = 0.15
INCIDENT_SPEED: Final = 2.0  # from the begin of an incident until the daemon has recovered
SETTLE: Final = timedelta(seconds=10)  # market time at INCIDENT_SPEED after an incident
MAX_ARMED: Final = timedelta(minutes=20)  # market time to wait for the request of an incident
RESTART_DELAY_S: Final = 2.0  # real seconds; systemd's RestartSec
READY_TIMEOUT_S: Final = 120.0  # real seconds
DAY_TIMEOUT_S: Final = 2_400.0  # real seconds
LOOP_PAUSE_S: Final = 0.02
END_CODES: Final = (0, 2)
DATABASE_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
}  # a killed process loses no written page

CONFIG: Final[dict[str, dict[str, object]]] = {
    "trading": {"mode": "sim"},
    "session": {"mode": "autonomous"},
    "workflow": {"auto_execute": True, "scan_frequency_minutes": 10, "execute_top_n": 5},
    "pipeline": {"require_pattern": False},
    "scoring": {"min_composite": 0.3},
    "risk": {
        "max_positions": 12,
        "max_daily_loss": 20_000,
        "max_sector_exposure_pct": 100,
        "max_candidates": 10,
        "min_reward_risk": 1.5,
    },
    "correlation": {"check_enabled": False},
    "positions": {"max_hold_time_minutes": 45},
    "log": {"format": "json"},
}


RULE: Final = "incident"
LATE_LISTS: Final = {
    "id": RULE, "kind": "slow", "method": "GET", "route": "/v2/orders", "seconds": 8, "count": 0,
}  # fmt: skip


def _refused_sales(refusal: KnownRefusal) -> dict[str, object]:
    """Return the fault rule that refuses every plain sale of an exit."""
    return {
        "id": RULE, "kind": "status_before", "method": "POST", "route": "/v2/orders", "count": 0,
        "client_order_id": "cat-*-[xf]", "status": refusal.http_status, "code": refusal.code,
        "message": refusal.message,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Downtime:
    """The market time from the begin of an incident until the daemon had recovered."""

    kind: IncidentKind
    began: datetime
    ended: datetime


@dataclass
class DayRecord:
    """Everything that a day leaves for the judge, beside the database and the exchange's state."""

    exit_code: int | None = None
    problems: list[str] = field(default_factory=list)
    downtimes: list[Downtime] = field(default_factory=list)
    done: list[str] = field(default_factory=list)  # incidents, with their times
    incidents: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    starts: int = 0  # of the daemon
    logs: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    unprotected: dict[str, Any] = field(default_factory=dict)


class DayAborted(Exception):
    """The day did not come to its end."""


@dataclass
class FaultDay:
    """The processes of one day in one folder."""

    plan: DayPlan
    folder: Path
    database: DedicatedServer
    http: aiohttp.ClientSession
    record: DayRecord = field(default_factory=DayRecord)
    exchange: ChildProcess | None = None
    daemon: ChildProcess | None = None
    port: int = 0
    to_exchange: Network | None = None
    to_database: Network | None = None
    _exchange_starts: int = 0
    _fired_now: dict[str, int] = field(default_factory=dict)  # by the present process of the exchange
    _armed: Incident | None = None
    _log_offset: int = 0
    _begun: asyncio.Event = field(default_factory=asyncio.Event)
    _is_stopped: bool = False  # SIGTERM was sent

    # ------------------------------------------------------------------ processes

    @property
    def clock_file(self) -> Path:
        return self.folder / "clock"

    @cached_property
    def clock(self) -> ScaledClock:
        """Return the clock of the day, which only limits the speed: the daemon drives it."""
        return ScaledClock(self.clock_file, drive=True, speed=0.0)

    async def start_exchange(self) -> None:
        """Start the exchange, or start it again on its state; its fault rules are in force before a client asks."""
        self._exchange_starts += 1
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        arguments = [
            "sim", "--exit-with-parent", "--generated", str(self.plan.seed), "--symbols", str(self.plan.symbols),
            "--day", self.plan.day.isoformat(), "--port", str(self.port), "--port-file", str(port_file),
            "--state", str(self.folder / "state"), "--write-listings", str(self.folder / "listings.csv"),
        ]  # fmt: skip
        if self._exchange_starts == 1:
            arguments += ["--start", f"{self.plan.start:%H:%M}", "--new-clock", str(self.clock_file)]
        else:
            arguments += ["--clock-file", str(self.clock_file)]
        self.exchange = start_child("exchange", arguments, self.folder, {})
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not port_file.exists():
                if self.exchange.exit_code is not None:
                    raise DayAborted(f"the exchange ended: {self.exchange.last_log_lines()}")
                await asyncio.sleep(LOOP_PAUSE_S)
        self.port = int(port_file.read_text())
        rates = {kind.value: rate for kind, rate in self.plan.rates.items()}
        # Another seed for each process: with the same one each would fail at the same requests again.
        seed = self.plan.seed * 100 + self._exchange_starts
        await self.admin("faults", {"random": {"seed": seed, "rates": rates}})

    async def kill_exchange(self) -> None:
        assert self.exchange is not None
        await self.read_fired()
        self.record.fired.update(self._fired_now)
        self._fired_now = {}
        self.exchange.send_signal(signal.SIGKILL)
        await self.exchange.wait_or_kill(READY_TIMEOUT_S)

    def start_daemon(self) -> None:
        self.record.starts += 1
        log = self.folder / "daemon.log"
        self._log_offset = log.stat().st_size if log.exists() else 0
        settings = {
            "DATABASE_URL": self._dsn(),
            "XDG_DATA_HOME": str(self.folder / "share"),  # spool, host lock and proofs
            "ENABLE_AUTONOMOUS_TRADING": "true",
            "CATALYST_CLOCK": str(self.clock_file),
            "CATALYST_CLOCK_SPEED": str(SPEED),
            "CATALYST_CLOCK_HELD_SPEED": str(HELD_SPEED),
        }
        arguments = ["run", "--once", "--exit-with-parent", "--config", str(self.folder / "config.yaml")]
        self.daemon = start_child("daemon", arguments, self.folder, settings)

    def _dsn(self) -> str:
        assert self.to_database is not None
        parts = urlsplit(self.database.dsn)
        user = parts.netloc.rpartition("@")[0]
        return f"postgresql://{user}@127.0.0.1:{self.to_database.port}{parts.path}?sslmode=disable"

    def is_ready(self) -> bool:
        """Return true when the present daemon process has logged that it is ready."""
        with (self.folder / "daemon.log").open("rb") as log:
            log.seek(self._log_offset)
            return b'"daemon_ready"' in log.read()

    async def kill_database(self) -> None:
        """Kill the postmaster; its backends end by themselves."""
        pid = int((self.database.running.cluster / "postmaster.pid").read_text().split("\n")[0])
        os.kill(pid, signal.SIGKILL)

    async def start_database(self) -> None:
        """Start the server again, once the backends of the killed one have ended."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                with suppress(
                    subprocess.CalledProcessError
                ):  # its memory is in use until the last backend has ended
                    return await self.database.start()
                await asyncio.sleep(0.1)

    async def admin(self, path: str, body: object = None) -> Any:
        """Send GET (without a body) or POST to the admin API, past the network of the daemon."""
        url = f"http://127.0.0.1:{self.port}/admin/{path}"
        async with self.http.request("GET" if body is None else "POST", url, json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def read_fired(self) -> None:
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            self._fired_now = (await self.admin("state"))["faults_fired"]

    # ------------------------------------------------------------------ incidents

    async def on_request(self, chunk: bytes) -> bool:
        """Begin the armed incident at its request; return false when the request is lost with its sender."""
        incident = self._armed
        if incident is None or incident.request is None or not chunk.startswith(incident.request):
            return True
        self._armed = None
        self.clock.set_cap(INCIDENT_SPEED)
        if incident.before:
            await self._begin(incident)
            self._begun.set()
            return incident.kind is not IncidentKind.KILL_DAEMON
        asyncio.get_running_loop().call_soon(partial(asyncio.ensure_future, self._begin_later(incident)))
        return True

    async def _begin_later(self, incident: Incident) -> None:
        await self._begin(incident)
        self._begun.set()

    async def _begin(self, incident: Incident) -> None:
        """Begin an incident."""
        assert self.daemon is not None
        assert self.to_exchange is not None
        assert self.to_database is not None
        match incident.kind:
            case IncidentKind.KILL_DAEMON:
                self.daemon.send_signal(signal.SIGKILL)
            case IncidentKind.PAUSE_DAEMON:
                self.daemon.send_signal(signal.SIGSTOP)
            case IncidentKind.KILL_DATABASE:
                await self.kill_database()
            case IncidentKind.KILL_EXCHANGE:
                await self.kill_exchange()
            case IncidentKind.EXCHANGE_NETWORK:
                self.to_exchange.begin(incident.network or NetworkFault.CUT, incident.delay_s)
            case IncidentKind.DATABASE_NETWORK:
                self.to_database.begin(incident.network or NetworkFault.CUT, incident.delay_s)
            case IncidentKind.REFUSED_SALES:
                assert incident.refusal is not None
                await self.admin("faults", _refused_sales(incident.refusal))
            case IncidentKind.LATE_LISTS:
                await self.admin("faults", LATE_LISTS)

    async def _end(self, incident: Incident) -> None:
        """Undo an incident: every process runs again, the network is healthy."""
        assert self.daemon is not None
        assert self.to_exchange is not None
        assert self.to_database is not None
        match incident.kind:
            case IncidentKind.KILL_DAEMON:
                await self.daemon.wait_or_kill(READY_TIMEOUT_S)
                if not self._has_ended():  # it may have ended the day before the signal
                    self.start_daemon()
            case IncidentKind.PAUSE_DAEMON:
                self.daemon.send_signal(signal.SIGCONT)
            case IncidentKind.KILL_DATABASE:
                await self.start_database()
            case IncidentKind.KILL_EXCHANGE:
                await self.start_exchange()
            case IncidentKind.EXCHANGE_NETWORK:
                self.to_exchange.heal()
            case IncidentKind.DATABASE_NETWORK:
                self.to_database.heal()
            case IncidentKind.REFUSED_SALES | IncidentKind.LATE_LISTS:
                url = f"http://127.0.0.1:{self.port}/admin/faults?id={RULE}"
                async with self.http.delete(url) as response:
                    assert response.status in {200, 404}  # 404: the exchange was started again meanwhile

    # ------------------------------------------------------------------ the day

    async def run(self) -> DayRecord:
        """Run the day until the daemon has ended it; every process of the day has what the judge reads."""
        try:
            async with asyncio.timeout(DAY_TIMEOUT_S):
                await self._run()
        except TimeoutError:
            self.record.problems.append(f"the day did not end within {DAY_TIMEOUT_S:.0f} real seconds")
        except DayAborted as error:
            self.record.problems.append(str(error))
        self.clock.set_cap(0.0)
        await self.read_fired()
        self.record.fired.update(self._fired_now)
        self.record.logs = await self.admin("logs")
        self.record.audit = await self.admin("audit")
        self.record.unprotected = await self.admin("unprotected")
        return self.record

    async def _run(self) -> None:
        clock = self.clock
        start = self._start
        waiting = list(self.plan.incidents)
        incident: Incident | None = None
        armed_at = start
        self.start_daemon()
        turns = 0
        while True:
            await asyncio.sleep(LOOP_PAUSE_S)
            turns += 1
            if turns % 50 == 0:
                await self.read_fired()
            now = clock.now()
            if incident is not None and self._begun.is_set():
                await self._play_out(incident)
                incident = None
            self.clock.set_cap(SLOW_SPEED if self._has_slow_request() else math.inf)
            assert self.daemon is not None
            if self._has_ended():
                self.record.exit_code = self.daemon.exit_code
                return
            if self.daemon.exit_code is not None:
                await self._restart_daemon(now)
            stop_after = self.plan.sigterm_at
            if (
                stop_after is not None
                and not self._is_stopped
                and now >= start + timedelta(minutes=stop_after)
            ):
                self._is_stopped = True
                self.record.done.append(f"{now.astimezone(NEW_YORK):%H:%M:%S} SIGTERM")
                self.daemon.send_signal(signal.SIGTERM)
            if incident is None and waiting and now >= start + timedelta(minutes=waiting[0].at):
                incident, armed_at = waiting.pop(0), now
                self._begun.clear()
                self._armed = incident if incident.request is not None else None
            if incident is not None and not self._begun.is_set() and self._is_due(incident, now - armed_at):
                self._armed = None
                self.clock.set_cap(INCIDENT_SPEED)
                await self._begin(incident)
                self._begun.set()

    @property
    def _start(self) -> datetime:
        return datetime.combine(self.plan.day, self.plan.start, NEW_YORK)

    def _has_ended(self) -> bool:
        """Return whether the daemon has ended with a code after which nobody starts it again: after the close, or after
        a SIGTERM."""
        assert self.daemon is not None
        close = self._start + timedelta(minutes=self.plan.minutes)
        return self.daemon.exit_code in END_CODES and (self._is_stopped or self.clock.now() >= close)

    def _has_slow_request(self) -> bool:
        networks = (self.to_exchange, self.to_database)
        return any(network is not None and network.longest_wait_s() > SLOW_AFTER_S for network in networks)

    def _is_due(self, incident: Incident, armed_for: timedelta) -> bool:
        """Return whether an incident begins now: it waits for no request, or has waited for one in vain."""
        return incident.request is None or (self._armed is incident and armed_for > MAX_ARMED)

    async def _play_out(self, incident: Incident) -> None:
        """Let a begun incident last, end it and let the daemon recover; then the market runs fast again."""
        clock = self.clock
        clock.set_cap(INCIDENT_SPEED)
        began = clock.now()
        self.record.done.append(f"{began.astimezone(NEW_YORK):%H:%M:%S} {incident}")
        self.record.incidents[f"{incident.kind} {incident.network or ''}".strip()] += 1
        await self._sleep_until(began + timedelta(seconds=incident.seconds))
        await self._end(incident)
        async with asyncio.timeout(READY_TIMEOUT_S):
            while True:
                assert self.daemon is not None
                if self._has_ended():
                    break
                if self.daemon.exit_code is not None:
                    await self._restart_daemon(clock.now())
                elif self.is_ready():
                    break
                await asyncio.sleep(LOOP_PAUSE_S)
        await self._sleep_until(clock.now() + SETTLE)
        self.record.downtimes.append(Downtime(incident.kind, began, clock.now()))
        self.clock.set_cap(math.inf)

    async def _sleep_until(self, at: datetime) -> None:
        while self.clock.now() < at:  # noqa: ASYNC110 - the clock is a file of several processes
            await asyncio.sleep(LOOP_PAUSE_S)

    async def _restart_daemon(self, now: datetime) -> None:
        """Start the daemon again after it ended by itself, as systemd would."""
        assert self.daemon is not None
        if self.daemon.exit_code != -signal.SIGKILL:
            self.record.problems.append(
                f"the daemon ended at {now.astimezone(NEW_YORK):%H:%M:%S} with code {self.daemon.exit_code}: "
                f"{self.daemon.last_log_lines()[-600:]}"
            )
        if self.record.starts > 60:
            raise DayAborted("the daemon was started 60 times")
        await asyncio.sleep(RESTART_DELAY_S)
        self.start_daemon()

    async def stop(self) -> None:
        """Kill every process that is left."""
        for child in (self.daemon, self.exchange):
            if child is not None:
                child.send_signal(signal.SIGKILL)
                await child.wait_or_kill(READY_TIMEOUT_S)


@asynccontextmanager
async def open_fault_day(plan: DayPlan, folder: Path) -> AsyncIterator[FaultDay]:
    """Start database, exchange and network of a day in an empty folder; the daemon starts with the day."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)))
        database = await stack.enter_async_context(open_dedicated_server(folder / "pg", **DATABASE_SETTINGS))
        day = FaultDay(plan, folder, database, http)
        stack.push_async_callback(day.stop)
        await day.start_exchange()
        day.clock.set_cap(math.inf)
        day.to_exchange = await stack.enter_async_context(
            open_network(lambda: asyncio.open_connection("127.0.0.1", day.port), day.on_request)
        )
        socket = f"{database.running.socket_dir}/.s.PGSQL.5432"
        day.to_database = await stack.enter_async_context(
            open_network(partial(asyncio.open_unix_connection, socket))
        )
        config = {
            **CONFIG,
            "broker": {"simulator": f"http://127.0.0.1:{day.to_exchange.port}"},
            "universe": {"listings_file": str(folder / "listings.csv")},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        yield day
