"""Startup: acquires host lock, database, lease and epoch, then recovers from one complete read of the broker."""

import asyncio
import hashlib
import os
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import Clock, wait
from catalyst.config.schema import Mode
from catalyst.config.settings import Settings
from catalyst.daemon.components import Components, build_components
from catalyst.daemon.outage.spool import Spool
from catalyst.daemon.runtime.alert_delivery import usable_channels
from catalyst.daemon.runtime.broker_wait import BrokerWait
from catalyst.daemon.runtime.heartbeat import daemon_statement
from catalyst.daemon.shutdown import MIN_OUTAGE_FLATTEN_TIME, StopRequest
from catalyst.daemon.trading_day.sessions import current_or_next_session
from catalyst.daemon.trading_state.account_lease import AccountLease, acquire_lease
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.daemon.trading_state.host_lock import HostLock
from catalyst.daemon.trading_state.installation_file import InstallationFile
from catalyst.daemon.trading_state.safe_mode import report_constraint_error
from catalyst.domain.errors import (
    BrokerError,
    BrokerSilent,
    BrokerUnavailable,
    DatabaseUnavailable,
    OutcomeUnknown,
    UserError,
    WrongAccount,
)
from catalyst.domain.fault_points import FaultPoint
from catalyst.domain.report import AccountReport
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.installation import VERSION
from catalyst.store import daemon_epoch, gate_reasons
from catalyst.store.daemon_epoch import RunInfo
from catalyst.store.migrate import require_current
from catalyst.store.pool import Store, open_store
from catalyst.store.schema_checks import require_constraints, require_privileges

log = structlog.get_logger()

ROOT: Final = Path(__file__).parents[2]
STREAM_TIMEOUT: Final = timedelta(
    seconds=5
)  # recovery waits that long for the stream, then goes on without it
RETRY_PAUSE: Final = timedelta(seconds=5)


class StoppedAtStart(Exception):
    """A stop was requested before the broker answered."""


async def acquire_host_lock(
    stack: AsyncExitStack,
    settings: Settings,
    clock: Clock,
    *,
    dsn: str,
    stop: StopRequest,
    has_limit: bool = False,
    fault_point: FaultPoint | None = None,
) -> AccountReport:
    """Read the account of the keys and lock it against every other process of this machine.

    A broker that cannot be read is retried for BROKER_TIMEOUT, and unless `has_limit` as long as the database at `dsn`
    shows open work: held shares must not be left unattended. Raises BrokerSilent when it stays unreachable or rejects
    the keys, and StoppedAtStart when a stop is requested meanwhile.
    """
    key, secret = settings.keys
    asking = AlpacaBroker(
        clock, base_url=settings.trading_url, key=key, secret=secret, fault_point=fault_point
    )
    try:
        waiting = BrokerWait(
            dsn, clock, settings.env.notify_socket, usable_channels(settings, clock), has_limit=has_limit
        )
        account = await _read_account_with_retry(asking, clock, waiting, stop)
    except BrokerError as error:
        raise BrokerSilent(
            f"the broker at {settings.trading_url} does not answer ({error}): "
            + (
                "start the exchange with `catalyst sim`"
                if settings.mode is Mode.SIM
                else "check keys and network with `catalyst check`"
            )
        ) from None
    finally:
        await asking.close()
    check_account(settings, account)
    host_lock = HostLock.acquire(
        settings.spool_dir,
        settings.account_name(account.account_id),
        f"process {os.getpid()}, since {clock.now():%Y-%m-%d %H:%M:%S} UTC, {settings.mode} account "
        f"{account.account_number}",
        fault_point=fault_point,
    )
    stack.callback(host_lock.release)
    log.info("host_lock_acquired", path=str(host_lock.path))
    return account


async def _read_account_with_retry(
    broker: AlpacaBroker, clock: Clock, waiting: BrokerWait, stop: StopRequest
) -> AccountReport:
    while True:
        try:
            account = await broker.account()
        except (BrokerUnavailable, OutcomeUnknown) as error:
            if not await waiting.must_go_on(str(error)):
                raise
        else:
            waiting.end()
            return account
        if await wait(clock, stop.requested, RETRY_PAUSE):
            raise StoppedAtStart


def check_account(settings: Settings, account: AccountReport) -> None:
    """Raise WrongAccount when the keys open another account than the configured live one."""
    wanted = settings.config.trading.account_number
    if settings.mode is Mode.LIVE and account.account_number != wanted:
        raise WrongAccount(
            f"trading.account_number is {wanted}, the keys open account {account.account_number}"
        )
    if settings.config.risk.max_daily_loss > account.equity:
        log.warning(
            "config_notice",
            notice=f"risk.max_daily_loss {settings.config.risk.max_daily_loss} is above the account's equity "
            f"{account.equity}: the limit can never stop a loss; lower it",
        )


async def open_database(
    stack: AsyncExitStack, dsn: str, clock: Clock, gate: EntryGate, *, fault_point: FaultPoint | None = None
) -> Store:
    """Open a store after its schema, constraints and rights were verified. Nothing is written before.

    A constraint that refuses a statement later enters SAFE mode at the gate.
    """
    try:
        with clock.hold():
            store = await open_store(
                dsn,
                clock,
                fault_point=fault_point,
                writable=True,
                on_constraint_error=partial(report_constraint_error, gate),
            )
    except DatabaseUnavailable as error:
        raise UserError(
            f"the database cannot be reached ({error}): start it, or correct DATABASE_URL"
        ) from None
    stack.push_async_callback(store.close)
    async with store.read() as conn:
        await require_current(conn)
        await require_constraints(conn)
        await require_privileges(conn)
    log.info("schema_verified")
    return store


async def acquire_account(
    stack: AsyncExitStack,
    settings: Settings,
    store: Store,
    clock: Clock,
    gate: EntryGate,
    account: AccountReport,
    *,
    fault_point: FaultPoint | None = None,
) -> tuple[Components, AccountLease]:
    """Acquire the account lease and a new epoch: no other process trades this account through this database."""
    key, secret = settings.keys
    limits = settings.config.broker
    lock = await acquire_lease(store.dsn, account.account_id, clock, fault_point=fault_point)
    stack.push_async_callback(lock.release)
    epoch, installation = await _begin_epoch(store, account, settings, clock, gate)
    with clock.hold():
        await lock.ping()
    holding = AccountLease(store.dsn, gate, clock, account.account_id, epoch, lock)
    stack.push_async_callback(holding.release)
    broker = AlpacaBroker(
        clock,
        base_url=settings.trading_url,
        epoch=epoch,
        rate_limit=limits.requests_per_minute,
        rate_reserve=limits.reserved_for_exits,
        key=key,
        secret=secret,
        fault_point=fault_point,
        permit=holding,
    )
    url, rate = settings.data_url, limits.data_requests_per_minute
    market = AlpacaMarketData(
        clock,
        base_url=url,
        key=key,
        secret=secret,
        feed=limits.feed,
        epoch=epoch,
        rate_limit=rate,
        fault_point=fault_point,
    )
    news = AlpacaNews(
        clock, base_url=url, key=key, secret=secret, epoch=epoch, rate_limit=rate, fault_point=fault_point
    )
    for part in (broker, market, news):
        stack.push_async_callback(part.close)
    stream = AlpacaTradeUpdates(
        clock, url=settings.stream_url, key=key, secret=secret, epoch=epoch, fault_point=fault_point
    )
    spool = Spool(settings.spool_dir, settings.account_name(account.account_id), fault_point)
    proofs = FlatProofFiles(
        settings.proofs_dir, settings.account_name(account.account_id), fault_point=fault_point
    )
    components = build_components(
        settings,
        store,
        clock,
        gate,
        broker,
        market,
        news,
        stream,
        epoch,
        installation,
        spool,
        proofs,
        holding,
    )
    await components.shorting_lock.apply()
    return components, holding


async def _begin_epoch(
    store: Store, account: AccountReport, settings: Settings, clock: Clock, gate: EntryGate
) -> tuple[int, str]:
    """Raise the fencing epoch, so that earlier writers of orders are refused; return it with the installation id.

    The reasons and settings of this run replace those of the run before in one transaction.

    The id is in its file before the first order has it.
    """
    file = InstallationFile.of_account(settings.spool_dir, settings.account_name(account.account_id))
    async with store.tx("epoch") as conn:
        epoch = await daemon_epoch.begin_epoch(
            conn,
            account.account_id,
            RunInfo(VERSION, _git_commit(), settings.config.fingerprint, _lock_hash(), os.getpid()),
            at=clock.now(),
            installation=await daemon_epoch.installation(conn) or file.read(),
        )
        installation = await daemon_epoch.installation(conn)
        await gate_reasons.put_in_force(conn, epoch, gate.stated_reasons, at=clock.now())
        await daemon_epoch.put_statement(conn, epoch, daemon_statement(settings, settings.config))
    file.write(installation)
    log.info(
        "daemon_started",
        installation=installation,
        version=VERSION,
        epoch=epoch,
        mode=settings.mode,
        session_mode=settings.session_mode,
        account=account.account_number,
        equity=str(account.equity),
        broker=settings.trading_url,
    )
    return epoch, installation


def _git_commit() -> str:
    """Return the commit of the checkout; empty for an installed package."""
    head = ROOT / ".git" / "HEAD"
    if not head.is_file():
        return ""
    said = head.read_text().strip()
    ref = ROOT / ".git" / said.removeprefix("ref: ")
    return ref.read_text().strip() if said.startswith("ref: ") and ref.is_file() else said


def _lock_hash() -> str:
    """Return a hash of the dependency lock, when this is a checkout."""
    lock = ROOT / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.is_file() else ""


async def recover_or_stop(components: Components, stop: StopRequest) -> bool:
    """Return true once everything is recovered, false after a stop request.

    After a stop request recovery gets the time of a flatten, less the reserve of an outage flatten.
    """

    async def begin() -> None:
        await read_unfinished(components)
        components.current_day.set_session(
            await current_or_next_session(components.broker, components.store, components.clock)
        )
        if not await wait(components.clock, components.stream_consumer.connected, STREAM_TIMEOUT):
            log.warning("recovery_without_stream", state=components.stream.state)
        await _recover(components)

    within = timedelta(seconds=components.config.shutdown.flatten_timeout_seconds) - MIN_OUTAGE_FLATTEN_TIME
    beginning = asyncio.create_task(begin(), name="recovery")
    asked = asyncio.create_task(stop.requested.wait())
    late = None
    try:
        await asyncio.wait({beginning, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not beginning.done():
            late = asyncio.create_task(components.clock.sleep(max(within, RETRY_PAUSE)))
            await asyncio.wait({beginning, late}, return_when=asyncio.FIRST_COMPLETED)
        if beginning.done():
            beginning.result()
        return beginning.done()
    finally:
        for task in (beginning, asked, late):
            if task is not None:
                task.cancel()


async def read_unfinished(components: Components) -> None:
    """Read the unfinished work and count the recent starts; retry until the database responds."""
    while True:
        try:
            await components.startup_survey.read_unfinished()
            await components.startup_survey.detect_crash_loop()
            await components.ledger.load_symbol_states()
        except DatabaseUnavailable as error:
            log.warning("recovery_retried", reason=f"the database is unavailable: {error}")
            await components.clock.sleep(RETRY_PAUSE)
        else:
            components.startup_survey.completed.set()
            return


async def _recover(components: Components) -> None:
    """Read everything the broker shows, before anything else; retry until it succeeds."""
    waiting = BrokerWait(components.store.dsn, components.clock, components.settings.env.notify_socket)
    while True:
        try:
            findings = await components.reconciler.reconcile("recovery")
            if findings.complete or findings.only_rows_unreadable:
                buffered = await components.stream_consumer.drain_buffer()
                await components.entry_expiry.expire_entries()
                unprotected = await components.protector.check()
                break
            await waiting.must_go_on("the broker could not be read")
        except DatabaseUnavailable as error:
            log.warning("recovery_retried", reason=f"the database is unavailable: {error}")
        await components.clock.sleep(RETRY_PAUSE)
    waiting.end()
    components.gate.reopen("recovery")
    log.info(
        "recovered",
        orders_applied=findings.orders_applied,
        fills_booked=findings.fills_booked,
        discrepancies=list(findings.discrepancies),
        buffered=buffered,
        protecting=unprotected,
    )
