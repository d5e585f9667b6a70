"""Flatten without a daemon: a person's `catalyst flatten` while no daemon runs, or while the database is unusable.

With the database it starts as the daemon does, under the same locks, exits everything and ends. Without the database it
takes the lock of this machine and uses the outage exit; the next start imports its spool. A daemon that holds the lock
is told by a signal.
"""

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import Clock, SystemClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Mode
from catalyst.config.settings import Settings
from catalyst.daemon import app
from catalyst.daemon.exits.flatten import FLATTEN_LATCH
from catalyst.daemon.orders.last_known_state import LastKnownState
from catalyst.daemon.orders.open_requests import OpenRequests
from catalyst.daemon.outage.exits import OutageExit, OutageFlatResult
from catalyst.daemon.outage.protection import OutageProtection, OvernightStops
from catalyst.daemon.outage.spool import Spool
from catalyst.daemon.shutdown import PROTECT_REST_TIMEOUT, ExitCode
from catalyst.daemon.startup import check_account
from catalyst.daemon.trading_day.sessions import session_of_today
from catalyst.daemon.trading_state.host_lock import HostLock
from catalyst.daemon.trading_state.installation_file import InstallationFile
from catalyst.daemon.trading_state.symbol_states import SymbolStates
from catalyst.domain.errors import (
    AnotherDaemonRunning,
    BrokerError,
    BrokerSilent,
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
CLOSED_TIMEOUT: Final = timedelta(seconds=15)  # while nothing can be sold
FLATTEN_TIMEOUT: Final = timedelta(seconds=60)
# Shares are ours by our orders at the broker; nothing else is known without the database.
ORDER_LOOKBACK: Final = timedelta(days=14)
DAEMON_TIMEOUT: Final = timedelta(seconds=120)  # real: for a daemon to flatten and end after the signal
POLL_INTERVAL: Final = timedelta(seconds=0.5)
MAX_HOLDERS: Final = 3  # daemons one after the other that are told to flatten and end
# The lock text of a daemon. That of this command begins with its name: a second one must not end the first.
_HOLDER: Final = re.compile(r"process (\d+),")


@dataclass(frozen=True, slots=True)
class FlattenResult:
    """Result of a flatten. `flat`: nothing of ours is left, proven; else `remains` says what is known."""

    flat: bool
    remains: str = ""
    account: str = ""  # that was flattened, for a person
    daemon_ended: bool = False  # a daemon flattened and ended


async def flatten_with_database(settings: Settings, dsn: str, clock: Clock) -> FlattenResult:
    """Recover as a start does, exit everything, leave the latch and end.

    Raises AnotherDaemonRunning when a daemon has started meanwhile, BrokerSilent when the broker does not answer,
    another UserError when broker or database refuse.
    """
    code = await app.run(settings, dsn, clock, flatten_by=BY)
    remains = "" if code is ExitCode.FLAT else "`catalyst status` and `catalyst alerts` name what remains"
    return FlattenResult(code is ExitCode.FLAT, remains, describe_account(settings))


async def flatten_without_database(settings: Settings, clock: Clock) -> FlattenResult:
    """Exit our orders and shares as the broker shows them; the spool is the record.

    Raises BrokerSilent when the broker does not answer, another UserError when nobody can tell which orders are ours.
    """
    key, secret = settings.keys
    broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(broker.close)
        account = await _read_account(broker, settings, clock)
        check_account(settings, account)
        name = settings.account_name(account.account_id)
        described = describe_account(settings, account)
        by_daemon = await _flatten_by_daemons_or_lock(stack, settings, clock, name)
        if by_daemon.flat:
            return replace(by_daemon, account=described)
        _ignore_interrupts()
        installation = InstallationFile.of_account(settings.spool_dir, name).read()
        if installation is None:
            raise UserError(
                f"without the database nobody can tell which shares of {account.account_number} are Catalyst's: "
                f"no daemon of this machine has traded it (there is no {name}.installation in {settings.spool_dir}). "
                "Nothing was sold: sell in the broker's own app, or correct DATABASE_URL"
            )
        result = await _flatten_by_broker(settings, clock, broker, name, installation)
        return replace(result, daemon_ended=by_daemon.daemon_ended, account=described)


def describe_account(settings: Settings, account: AccountReport | None = None) -> str:
    """Return which account is meant: a shell without the keys of the service means the simulator."""
    number = "" if account is None else f" {account.account_number}"
    return f"the {settings.mode} account{number} at {settings.trading_url}"


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
        without_rows=True,
    )
    session = await session_of_today(broker, clock)
    market_open = session is not None and session.phase(clock.now()) is Phase.OPEN
    left = await outage_exit.flatten(
        latch=FLATTEN_LATCH,
        reason=f"{CloseReason.MANUAL}: {BY} without the database",
        by=BY,
        within=FLATTEN_TIMEOUT if market_open else CLOSED_TIMEOUT,
        market_open=market_open,
    )
    if left.flat:
        return FlattenResult(flat=True)
    protection = OutageProtection(outage_exit, clock, CurrentConfig(settings.config))
    stops = await protection.protect_overnight(PROTECT_REST_TIMEOUT)
    log.critical("flatten_not_proven", stops=str(stops), broker_orders=left.orders)
    return FlattenResult(flat=False, remains=remains_of(left, stops, market_open=market_open))


def remains_of(left: OutageFlatResult, stops: OvernightStops, *, market_open: bool) -> str:
    """Return what is known of the shares left and their stops, for a person."""
    if left.orders is None or not stops.is_read:
        return "the broker could not be read: what remains, and under which stops, is not known"
    parts = [f"{left.positions} positions and {left.orders} orders of Catalyst were left at the broker"]
    left_stop = (
        "no fill of the last two weeks explains the shares: the stop stays, sell in the broker's own app"
    )
    for symbols, state in (
        (stops.lasting, "under a good-till-cancelled stop"),
        (stops.ending, "under a day order, which ends with the session: set a stop in the broker's own app"),
        (stops.missing, "WITHOUT A STOP: set one in the broker's own app"),
        (stops.unexplained, f"held with a working order of Catalyst, but {left_stop}"),
    ):
        if symbols:
            parts.append(f"{', '.join(sorted(symbols))} {state}")
    if not market_open:
        parts.append("the market is closed: nothing was sold, the next start sells at the open")
    return "; ".join(parts)


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
                raise BrokerSilent(_no_broker(settings, error)) from None
        except BrokerError as error:
            raise BrokerSilent(_no_broker(settings, error)) from None
        await clock.sleep(RETRY_PAUSE)


def _no_broker(settings: Settings, error: BrokerError) -> str:
    simulator = (
        ". This shell means the simulator: for another account repeat with the keys and configuration of its service"
        if settings.mode is Mode.SIM
        else ""
    )
    return (
        f"neither the database nor the broker at {settings.trading_url} can be used ({error}): nothing was sold; use "
        f"the broker's own app{simulator}"
    )


# -- a daemon that has lost its database


async def _flatten_by_daemons_or_lock(
    stack: AsyncExitStack, settings: Settings, clock: Clock, name: str
) -> FlattenResult:
    """Lock this machine until `stack` closes; a daemon that holds the lock flattens and ends first.

    Its result is returned when its proof says flat. Else the lock is ours and the caller goes on from what it left.
    Raises UserError when another flatten holds the lock, or a holder does not end.
    """
    result = FlattenResult(flat=False)
    for _ in range(MAX_HOLDERS):
        owner = f"{BY}, process {os.getpid()}, since {clock.now():%H:%M:%S} UTC"
        try:
            stack.callback(HostLock.acquire(settings.spool_dir, name, owner).release)
        except AnotherDaemonRunning as error:
            result = await _flatten_by_daemon(settings, name, str(error))
            if result.flat:
                return result
        else:
            return result
    raise UserError(
        "a daemon of this account is started again each time it ends: stop what starts it, then repeat "
        "`catalyst flatten`"
    )


async def _flatten_by_daemon(settings: Settings, name: str, refused: str) -> FlattenResult:
    """Signal the process that holds the lock of this machine, wait for its end and return its proof."""
    path = settings.spool_dir / f"{name}.lock"
    if BY in refused:
        raise UserError(f"a flatten already runs, wait for its result: {refused}")
    pid = holder_of(path)
    if pid is None:
        raise UserError(
            f"{refused}; without the database only its end can flatten: send SIGTERM to that process"
        )
    known_proofs = {proof for proof, _ in read_flat_proofs(settings.proofs_dir, name)}
    _signal(pid)
    clock = SystemClock()  # another process ends in real time
    deadline = clock.now() + DAEMON_TIMEOUT
    while holder_of(path) == pid:
        if clock.now() >= deadline:
            raise UserError(
                f"the daemon (process {pid}) was told to flatten and has not ended after {DAEMON_TIMEOUT.seconds} s: "
                f"see its log and the broker's own app; if it hangs, `kill -9 {pid}` and repeat `catalyst flatten`, "
                "which then sells by itself"
            )
        await clock.sleep(POLL_INTERVAL)
    new = [facts for proof, facts in read_flat_proofs(settings.proofs_dir, name) if proof not in known_proofs]
    return FlattenResult(bool(new) and proves_our_flatten(new[-1]), daemon_ended=True)


def proves_our_flatten(facts: Mapping[str, object]) -> bool:
    """Return true when the proof file says that nothing is left, after this command asked for the flatten.

    A proof of an outage has no `proven`: it compares nothing with the database.
    """
    by = facts.get("requested_by", facts.get("by"))
    return by == BY and facts.get("proven", facts.get("flat")) is True


def _signal(pid: int) -> None:
    """Tell a daemon to flatten. SIGUSR2 kills a process that has no handler for it: that one gets SIGTERM."""
    number = signal.SIGUSR2 if _catches(pid, signal.SIGUSR2) else signal.SIGTERM
    log.warning("daemon_signalled", pid=pid, signal=number.name)
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.warning("daemon_gone", pid=pid)
    except PermissionError:
        raise UserError(
            f"the daemon (process {pid}) belongs to another user: repeat `catalyst flatten` as that user, or as root"
        ) from None


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return true when the process has a handler for the signal."""
    try:
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


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
