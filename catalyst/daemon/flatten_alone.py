"""Flatten without a daemon: a person's `catalyst flatten` while no daemon runs, or while the database is unusable.

With the database it starts as the daemon does, under the same locks, exits everything and ends. Without the database it
takes the lock of this machine and uses the outage exit; the next start imports its spool. A daemon that holds the lock
is told by a signal.
"""

import asyncio
import os
import re
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import Clock, SystemClock
from catalyst.config.current import CurrentConfig
from catalyst.config.settings import Settings
from catalyst.daemon import app
from catalyst.daemon.exits.flatten import FLATTEN_LATCH
from catalyst.daemon.orders.last_known_state import LastKnownState
from catalyst.daemon.orders.open_requests import OpenRequests
from catalyst.daemon.outage.exits import OutageExit
from catalyst.daemon.outage.protection import OutageProtection
from catalyst.daemon.outage.spool import Spool
from catalyst.daemon.shutdown import PROTECT_REST_TIMEOUT, ExitCode
from catalyst.daemon.trading_day.sessions import session_of_today
from catalyst.daemon.trading_state.host_lock import HostLock
from catalyst.daemon.trading_state.installation_file import InstallationFile
from catalyst.daemon.trading_state.symbol_states import SymbolStates
from catalyst.domain.errors import (
    AnotherDaemonRunning,
    BrokerError,
    BrokerUnavailable,
    OutcomeUnknown,
    UserError,
)
from catalyst.domain.position import CloseReason
from catalyst.domain.report import AccountReport
from catalyst.domain.session import Phase
from catalyst.flat_proof_files import FlatProofFiles, read_flat_proofs

log = structlog.get_logger()

BY: Final = "catalyst flatten"
BROKER_TIMEOUT: Final = timedelta(seconds=30)  # for the first answer of the broker
RETRY_PAUSE: Final = timedelta(seconds=2)
FLATTEN_TIMEOUT: Final = timedelta(seconds=60)
# Shares are ours by our orders at the broker; nothing else is known without the database.
ORDER_LOOKBACK: Final = timedelta(days=14)
DAEMON_TIMEOUT: Final = timedelta(seconds=120)  # real: for a daemon to flatten and end after the signal
POLL_INTERVAL: Final = timedelta(seconds=0.5)
_HOLDER: Final = re.compile(r"process (\d+),")


@dataclass(frozen=True, slots=True)
class FlattenResult:
    """Result of a flatten. `flat`: nothing of ours is left, proven; else `remains` says what is known."""

    flat: bool
    remains: str = ""
    daemon_ended: bool = False  # a daemon flattened and ended


async def flatten_with_database(settings: Settings, dsn: str, clock: Clock) -> FlattenResult:
    """Recover as a start does, exit everything, leave the latch and end.

    Raises AnotherDaemonRunning when a daemon has started meanwhile, UserError when broker or database refuse.
    """
    code = await app.run(settings, dsn, clock, flatten_by=BY)
    remains = "" if code is ExitCode.FLAT else "`catalyst status` and `catalyst alerts` name what remains"
    return FlattenResult(code is ExitCode.FLAT, remains)


async def flatten_without_database(settings: Settings, clock: Clock) -> FlattenResult:
    """Exit our orders and shares as the broker shows them; the spool is the record.

    Raises UserError when the broker does not answer or nobody can tell which orders are ours.
    """
    key, secret = settings.keys
    broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(broker.close)
        account = await _read_account(broker, settings, clock)
        name = settings.account_name(account.account_id)
        try:
            lock = HostLock.acquire(
                settings.spool_dir, name, f"process {os.getpid()}, {BY}, since {clock.now():%H:%M:%S} UTC"
            )
        except AnotherDaemonRunning as error:
            return await _flatten_by_daemon(settings, name, str(error))
        stack.callback(lock.release)
        installation = InstallationFile.of_account(settings.spool_dir, name).read()
        if installation is None:
            raise UserError(
                f"without the database nobody can tell which shares of {account.account_number} are Catalyst's: "
                f"no daemon of this machine has traded it (there is no {name}.installation in {settings.spool_dir}). "
                "Nothing was sold: sell in the broker's own app, or correct DATABASE_URL"
            )
        return await _flatten_by_broker(settings, clock, broker, name, installation)


async def _flatten_by_broker(
    settings: Settings, clock: Clock, broker: AlpacaBroker, name: str, installation: str
) -> FlattenResult:
    outage_exit = OutageExit(
        broker,
        OpenRequests(clock, SymbolStates()),
        LastKnownState(),
        Spool(settings.spool_dir, name),
        FlatProofFiles(settings.proofs_dir, name),
        clock,
        installation,
        order_lookback=ORDER_LOOKBACK,
    )
    _ignore_interrupts()
    session = await session_of_today(broker, clock)
    market_open = session is not None and session.phase(clock.now()) is Phase.OPEN
    left = await outage_exit.flatten(
        latch=FLATTEN_LATCH,
        reason=f"{CloseReason.MANUAL}: {BY} without the database",
        by=BY,
        within=FLATTEN_TIMEOUT if market_open else RETRY_PAUSE,
        market_open=market_open,
    )
    if left.flat:
        return FlattenResult(flat=True)
    if market_open:
        protection = OutageProtection(outage_exit, clock, CurrentConfig(settings.config))
        await protection.protect_overnight(PROTECT_REST_TIMEOUT)
    counts = f"{left.positions} positions and {left.orders} orders remain at the broker"
    waits = (
        ""
        if market_open
        else "; the market is closed: they keep their stops, and the next start sells them at the open"
    )
    return FlattenResult(
        flat=False, remains=("the broker could not be read" if left.orders is None else counts) + waits
    )


def _ignore_interrupts() -> None:
    """Go on until the time limit on every signal: an end between a cancel and a sale leaves shares without a stop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        loop.add_signal_handler(
            number, lambda: log.warning("flatten_goes_on", limit_s=FLATTEN_TIMEOUT.seconds)
        )


async def _read_account(broker: AlpacaBroker, settings: Settings, clock: Clock) -> AccountReport:
    deadline = clock.now() + BROKER_TIMEOUT
    while True:
        try:
            return await broker.account()
        except (BrokerUnavailable, OutcomeUnknown) as error:
            if clock.now() >= deadline:
                raise UserError(_no_broker(settings, error)) from None
        except BrokerError as error:
            raise UserError(_no_broker(settings, error)) from None
        await clock.sleep(RETRY_PAUSE)


def _no_broker(settings: Settings, error: BrokerError) -> str:
    return (
        f"neither the database nor the broker at {settings.trading_url} can be used ({error}): nothing was sold; use "
        "the broker's own app"
    )


# -- a daemon that has lost its database


async def _flatten_by_daemon(settings: Settings, name: str, refused: str) -> FlattenResult:
    """Signal the daemon that holds the lock of this machine, wait for its end and return its proof."""
    path = settings.spool_dir / f"{name}.lock"
    pid = holder_of(path)
    if pid is None:
        raise UserError(
            f"{refused}; without the database only its end can flatten: send SIGTERM to that process"
        )
    known_proofs = {proof for proof, _ in read_flat_proofs(settings.proofs_dir, name)}
    log.warning("daemon_signalled", pid=pid, signal="SIGUSR2")
    os.kill(pid, signal.SIGUSR2)
    clock = SystemClock()  # another process ends in real time
    deadline = clock.now() + DAEMON_TIMEOUT
    while holder_of(path) == pid:
        if clock.now() >= deadline:
            raise UserError(
                f"the daemon (process {pid}) was told to flatten and has not ended after {DAEMON_TIMEOUT.seconds} s: "
                "see its log and the broker's own app"
            )
        await clock.sleep(POLL_INTERVAL)
    new = [facts for proof, facts in read_flat_proofs(settings.proofs_dir, name) if proof not in known_proofs]
    flat = bool(new) and new[-1].get("flat") is True
    remains = (
        "" if flat else f"the last proof in {settings.proofs_dir} and the log of the daemon say what remains"
    )
    return FlattenResult(flat, remains, daemon_ended=True)


def holder_of(path: Path) -> int | None:
    """Return the process that its lock file names and that has the file open; None when nobody can tell."""
    try:
        named = _HOLDER.match(path.read_text(errors="replace"))
        if named is None:
            return None
        pid = int(named.group(1))
        inode = path.stat().st_ino
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if link.stat().st_ino == inode and link.readlink() == path.resolve():
                    return pid
            except OSError:  # closed meanwhile
                continue
    except OSError:
        return None
    return None
