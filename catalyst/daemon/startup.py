"""Starting is recovering: the seat, the database, the lock and the epoch, and then one clean look at everything."""

import asyncio
import hashlib
import os
from contextlib import AsyncExitStack
from datetime import timedelta
from importlib.metadata import version
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
from catalyst.daemon.components import Desk, wire
from catalyst.daemon.outage.spool import Spool
from catalyst.daemon.shutdown import LEAST_FLATTEN, Stop
from catalyst.daemon.trading_day.sessions import session_ahead
from catalyst.daemon.trading_state.account_lease import Holding, take
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.daemon.trading_state.host_lock import Seat
from catalyst.domain.errors import BrokerError, BrokerUnavailable, OutcomeUnknown, UserError, WrongAccount
from catalyst.domain.fault_points import Witness
from catalyst.domain.report import AccountReport
from catalyst.flat_proof_files import Proofs
from catalyst.store import daemon_epoch
from catalyst.store.daemon_epoch import Manifest
from catalyst.store.migrate import require_current
from catalyst.store.pool import Store, is_outage, open_store
from catalyst.store.schema_checks import require_guards, require_rights

log = structlog.get_logger()

ROOT: Final = Path(__file__).parents[2]
VERSION: Final = version("catalyst")
STREAM_WITHIN: Final = timedelta(seconds=5)  # a recovery waits that long for the stream, then does without
ANSWER_WITHIN: Final = timedelta(seconds=30)  # the broker's first answer, before a start is given up
RETRY: Final = timedelta(seconds=5)


async def sit_down(
    stack: AsyncExitStack, settings: Settings, clock: Clock, *, witness: Witness | None = None
) -> AccountReport:
    """The account the keys open; from now on no other process of this machine trades it.

    A broker that cannot be read at this moment is asked again for `ANSWER_WITHIN`: one slow answer is no reason not to
    look after what is held. Raises UserError when it stays so, or says no.
    """
    key, secret = settings.keys
    asking = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret, witness=witness)
    try:
        account = await _first_answer(asking, clock)
    except BrokerError as error:
        raise UserError(
            f"the broker at {settings.trading_url} does not answer ({error}): "
            + (
                "start the exchange with `catalyst sim`"
                if settings.mode is Mode.SIM
                else "check keys and network with `catalyst check`"
            )
        ) from None
    finally:
        await asking.close()
    _check_account(settings, account)
    seat = Seat.take(
        settings.spool_dir,
        settings.account_name(account.account_id),
        f"process {os.getpid()}, since {clock.now():%Y-%m-%d %H:%M:%S} UTC, {settings.mode} account "
        f"{account.account_number}",
        witness=witness,
    )
    stack.callback(seat.leave)
    log.info("seat_taken", path=str(seat.path))
    return account


async def _first_answer(broker: AlpacaBroker, clock: Clock) -> AccountReport:
    deadline = clock.now() + ANSWER_WITHIN
    while True:
        try:
            return await broker.account()
        except (BrokerUnavailable, OutcomeUnknown) as error:
            if clock.now() >= deadline:
                raise
            log.warning("broker_unanswered", error=str(error), until=deadline.isoformat())
            await clock.sleep(RETRY)


def _check_account(settings: Settings, account: AccountReport) -> None:
    wanted = settings.config.trading.account_number
    if settings.mode is Mode.LIVE and account.account_number != wanted:
        raise WrongAccount(
            f"trading.account_number is {wanted}, the keys open account {account.account_number}"
        )


async def open_books(
    stack: AsyncExitStack, dsn: str, clock: Clock, *, witness: Witness | None = None
) -> Store:
    """A store on a database whose schema, guards and rights are whole. Nothing is written before that is known."""
    try:
        with clock.hold():
            store = await open_store(dsn, clock, witness=witness, writable=True)
    except Exception as error:
        if not is_outage(error):
            raise
        raise UserError(
            f"the database cannot be reached ({error}): start it, or correct DATABASE_URL"
        ) from None
    stack.push_async_callback(store.close)
    async with store.read() as conn:
        await require_current(conn)
        await require_guards(conn)
        await require_rights(conn)
    log.info("database_whole")
    return store


async def take_the_desk(
    stack: AsyncExitStack,
    settings: Settings,
    store: Store,
    clock: Clock,
    account: AccountReport,
    *,
    witness: Witness | None = None,
) -> tuple[Desk, Holding]:
    """Lock and epoch: afterwards nobody else may trade this account through this database."""
    key, secret = settings.keys
    limits = settings.config.broker
    gate = Gate()
    lock = await take(store.dsn, account.account_id, clock, witness=witness)
    stack.push_async_callback(lock.release)
    epoch = await _begin_epoch(store, account, settings, clock)
    with clock.hold():
        await lock.beat()
    holding = Holding(store.dsn, gate, clock, account.account_id, epoch, lock)
    stack.push_async_callback(holding.release)
    broker = AlpacaBroker(
        clock,
        base_url=settings.trading_url,
        epoch=epoch,
        rate_limit=limits.requests_per_minute,
        rate_reserve=limits.reserved_for_exits,
        key=key,
        secret=secret,
        witness=witness,
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
        witness=witness,
    )
    news = AlpacaNews(
        clock, base_url=url, key=key, secret=secret, epoch=epoch, rate_limit=rate, witness=witness
    )
    for part in (broker, market, news):
        stack.push_async_callback(part.close)
    stream = AlpacaTradeUpdates(
        clock, url=settings.stream_url, key=key, secret=secret, epoch=epoch, witness=witness
    )
    spool = Spool(settings.spool_dir, settings.account_name(account.account_id), witness)
    proofs = Proofs(settings.proofs_dir, settings.account_name(account.account_id), witness=witness)
    desk = wire(settings, store, clock, gate, broker, market, news, stream, epoch, spool, proofs, holding)
    desk.account_id = account.account_id
    await desk.shorts.settle()
    return desk, holding


async def _begin_epoch(store: Store, account: AccountReport, settings: Settings, clock: Clock) -> int:
    """Bump the fence: whoever wrote orders before this moment can no longer."""
    async with store.tx("epoch") as conn:
        epoch = await daemon_epoch.begin_epoch(
            conn,
            account.account_id,
            Manifest(VERSION, _commit(), settings.config.fingerprint, _lock_hash(), os.getpid()),
            at=clock.now(),
        )
    log.info(
        "daemon_started",
        version=VERSION,
        epoch=epoch,
        mode=settings.mode,
        session_mode=settings.session_mode,
        account=account.account_number,
        equity=str(account.equity),
        broker=settings.trading_url,
    )
    return epoch


def _commit() -> str:
    """The commit a checkout stands at; empty when this is an installed package."""
    head = ROOT / ".git" / "HEAD"
    if not head.is_file():
        return ""
    said = head.read_text().strip()
    ref = ROOT / ".git" / said.removeprefix("ref: ")
    return ref.read_text().strip() if said.startswith("ref: ") and ref.is_file() else said


def _lock_hash() -> str:
    """A hash of the dependency lock, when this is a checkout."""
    lock = ROOT / "requirements.lock"
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.is_file() else ""


async def started(desk: Desk, stop: Stop) -> bool:
    """True once everything is recovered. Asked to stop meanwhile, it is given as long as a flatten is, but for what a
    flatten without the tables needs: false then."""

    async def begin() -> None:
        await survey(desk)
        desk.exits.session = await session_ahead(desk.broker, desk.store, desk.clock)
        if not await wait(desk.clock, desk.listening.opened, STREAM_WITHIN):
            log.warning("recovery_without_stream", state=desk.stream.state)
        await _recover(desk)

    within = timedelta(seconds=desk.settings.config.shutdown.flatten_timeout_seconds) - LEAST_FLATTEN
    beginning = asyncio.create_task(begin(), name="recovery")
    asked = asyncio.create_task(stop.asked.wait())
    late = None
    try:
        await asyncio.wait({beginning, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not beginning.done():
            late = asyncio.create_task(desk.clock.sleep(max(within, RETRY)))
            await asyncio.wait({beginning, late}, return_when=asyncio.FIRST_COMPLETED)
        if beginning.done():
            beginning.result()
        return beginning.done()
    finally:
        for task in (beginning, asked, late):
            if task is not None:
                task.cancel()


async def survey(desk: Desk) -> None:
    """What was left unfinished, and how often we began; asked until the database has answered."""
    while True:
        try:
            await desk.boot.survey()
            await desk.boot.count()
            await desk.books.recall()
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("recovery_waits", reason=f"the database is away: {error}")
            await desk.clock.sleep(RETRY)
        else:
            desk.boot.surveyed.set()
            return


async def _recover(desk: Desk) -> None:
    """One clean look at everything the broker shows, before anything else; tried until it succeeds."""
    while True:
        try:
            findings = await desk.reconciler.look("recovery")
            if findings.read:
                kept = await desk.listening.go_on()
                await desk.entries.look()
                bare = await desk.guard.look()
                break
            log.warning("recovery_waits", reason="the broker could not be read")
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("recovery_waits", reason=f"the database is away: {error}")
        await desk.clock.sleep(RETRY)
    desk.gate.clear("recovery")
    log.info(
        "recovered",
        orders_heard=findings.heard,
        fills_booked=findings.fills_booked,
        differences=list(findings.differences),
        kept=kept,
        protecting=bare,
    )
