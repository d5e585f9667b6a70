"""Start reading here: what runs, in which order it starts, and how it stops.

Starting is recovering, in this order: the seat on this machine → the database, its schema and rights → the account's
lock → the epoch, with the account pinned → what was left unfinished → the stream, buffering → what the broker shows →
the buffered messages → protection and latches → READY; then the loops and the day's jobs run until a signal. This
file wires and waits; it decides nothing.
"""

import asyncio
import hashlib
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import Clock, wait
from catalyst.config import Config, Mode, Settings
from catalyst.daemon.blind import Blind
from catalyst.daemon.books import Books
from catalyst.daemon.boot import Boot
from catalyst.daemon.commands import Commands
from catalyst.daemon.day import Day
from catalyst.daemon.emergency import Emergency
from catalyst.daemon.entries import Entries
from catalyst.daemon.execution import Execution
from catalyst.daemon.exits import SafeExit
from catalyst.daemon.flatten import Flatten
from catalyst.daemon.gate import Gate
from catalyst.daemon.guard import Guard
from catalyst.daemon.hard_stop import HardStop
from catalyst.daemon.heartbeat import Heartbeat
from catalyst.daemon.holding import Holding, WithoutTables, take
from catalyst.daemon.listening import Listening
from catalyst.daemon.loops import Loop, Loops
from catalyst.daemon.naked import Naked
from catalyst.daemon.orphans import Orphans
from catalyst.daemon.reconciler import Reconciler
from catalyst.daemon.reload import Reload, hand_over
from catalyst.daemon.risk_watch import RiskWatch
from catalyst.daemon.safety import Safety
from catalyst.daemon.scanning import Scanner
from catalyst.daemon.schedule import PRE_OPEN_AT, keep, market_day, still_to_do
from catalyst.daemon.seat import Seat
from catalyst.daemon.spool import Spool
from catalyst.daemon.spooled import Spooled
from catalyst.daemon.standing import Standing
from catalyst.daemon.stop_monitor import StopMonitor
from catalyst.domain.errors import (
    AnotherDaemon,
    BrokerError,
    BrokerUnavailable,
    OutcomeUnknown,
    UserError,
    WrongAccount,
)
from catalyst.domain.order import Purpose
from catalyst.domain.position import CloseReason
from catalyst.domain.report import AccountReport
from catalyst.domain.session import NEW_YORK, Session, trading_date
from catalyst.domain.witness import Witness
from catalyst.proofs import Proofs
from catalyst.store import manifest, risk_events
from catalyst.store.dedicated import Ear, listen
from catalyst.store.guards import require_guards, require_rights
from catalyst.store.manifest import Manifest
from catalyst.store.migrate import require_current
from catalyst.store.pool import Store, is_outage, open_store
from catalyst.store.refusals import StaleEpoch

log = structlog.get_logger()

ROOT: Final = Path(__file__).parents[2]
VERSION: Final = version("catalyst")
COMMANDS: Final = "catalyst_commands"
SHORTS_LOCKED: Final = "ACCOUNT_NO_SHORTING_SET"
SHORTS_UNLOCKED: Final = "ACCOUNT_NO_SHORTING_UNSET"
STREAM_WITHIN: Final = timedelta(
    seconds=5
)  # a recovery waits that long for the stream, and then does without
ANSWER_WITHIN: Final = timedelta(seconds=30)  # the broker's first answer, before a start is given up
RECOVERY_RETRY: Final = timedelta(seconds=5)
TURN: Final = 0.0005  # seconds: a thread that parses megabytes gives the event loop its turn that soon
FLATTEN_TRIES: Final = 3  # by the tables; what fails so often is done without them
FLATTEN_PAUSE: Final = timedelta(seconds=2)
LEAST_FLATTEN: Final = timedelta(seconds=20)  # that a flatten without the tables gets, however late it begins
DRAIN: Final = timedelta(seconds=10)  # a request of ours ends by then


class Exit(IntEnum):
    """The process's exit codes; systemd does not restart on the last two."""

    FLAT = 0
    NOT_FLAT = 2
    LOCKED = 75
    CONFIG = 78


@dataclass
class Stop:
    """What a signal asks for; `asked` is set by the first, and a second changes nothing."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    flatten: bool = False
    why: str = ""
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, why: str, *, flatten: bool) -> None:
        if self.asked.is_set():
            log.warning("stop_already_asked", by=why)
            return
        self.flatten = flatten
        self.why = why
        log.warning("stop_asked", by=why, flatten=flatten)
        self.asked.set()


async def run(settings: Settings, dsn: str, clock: Clock, *, once: bool = False) -> Exit:
    """Trade until a signal, or with `once` until the day's cycle is completed. Returns the exit code.

    Raises UserError for what the operator must mend: the schema, the lock, the account, the broker's address.
    """
    sys.setswitchinterval(TURN)
    stop = Stop()
    _stop_on_signals(stop, settings)
    for notice in settings.notices:
        log.warning("config_notice", notice=notice)
    async with AsyncExitStack() as stack:
        account = await sit_down(stack, settings, clock)
        store = await open_books(stack, dsn, clock)
        desk, holding = await take_the_desk(stack, settings, store, clock, account)
        return await live(desk, holding, stop, once=once)


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
            await clock.sleep(RECOVERY_RETRY)


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


@dataclass
class Desk:
    """Every part of a running daemon."""

    settings: Settings
    clock: Clock
    store: Store
    broker: AlpacaBroker
    market: AlpacaMarketData
    stream: AlpacaTradeUpdates
    gate: Gate
    books: Books
    execution: Execution
    exits: SafeExit
    guard: Guard
    entries: Entries
    stop_monitor: StopMonitor
    risk_watch: RiskWatch
    reconciler: Reconciler
    orphans: Orphans
    listening: Listening
    flatten: Flatten
    emergency: Emergency
    scanner: Scanner
    loops: Loops
    safety: Safety
    boot: Boot
    epoch: int
    account_id: str = ""
    day: Day | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def adopt(self, config: Config) -> None:
        """Every part holds the new values from now on; a scan or a flatten under way ends with the old ones."""
        old = self.settings.config
        self.settings = replace(self.settings, config=config)
        hand_over(old, config, [self])

    async def emergency_stop(self, reason: str) -> bool:
        assert self.day is not None  # the risk watch looks only once a cycle is open
        return await self.day.emergency_stop(reason)


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
    await _lock_shorts(broker, store, settings, clock)
    stream = AlpacaTradeUpdates(
        clock, url=settings.stream_url, key=key, secret=secret, epoch=epoch, witness=witness
    )
    spool = Spool(settings.spool_dir, settings.account_name(account.account_id), witness)
    proofs = Proofs(settings.proofs_dir, settings.account_name(account.account_id), witness=witness)
    desk = _wire(settings, store, clock, gate, broker, market, news, stream, epoch, spool, proofs, holding)
    desk.account_id = account.account_id
    return desk, holding


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


def _check_account(settings: Settings, account: AccountReport) -> None:
    wanted = settings.config.trading.account_number
    if settings.mode is Mode.LIVE and account.account_number != wanted:
        raise WrongAccount(
            f"trading.account_number is {wanted}, the keys open account {account.account_number}"
        )


async def _lock_shorts(broker: AlpacaBroker, store: Store, settings: Settings, clock: Clock) -> None:
    """Long-only is enforced by the broker too: the account's own `no_shorting` follows `trading.allow_short`.

    Only a lock that we set ourselves is ever taken off.
    """
    trading = settings.config.trading
    if not trading.manage_account_locks:
        return
    async with store.read() as conn:
        ours = await risk_events.last_of(conn, SHORTS_LOCKED, SHORTS_UNLOCKED)
    if trading.allow_short and (ours is None or ours.event_type != SHORTS_LOCKED):
        return
    try:
        changed = await broker.forbid_shorting(not trading.allow_short)
    except BrokerError as error:
        log.warning("account_lock_unset", error=str(error))
        return
    if not changed:
        return
    event = SHORTS_UNLOCKED if trading.allow_short else SHORTS_LOCKED
    log.info("account_lock_changed", no_shorting=not trading.allow_short)
    async with store.tx("account_lock") as conn:
        await risk_events.put(
            conn,
            event_type=event,
            severity="INFO",
            message=f"the account's no_shorting was set to {not trading.allow_short}".lower(),
            facts={},
            at=clock.now(),
        )


async def _begin_epoch(store: Store, account: AccountReport, settings: Settings, clock: Clock) -> int:
    """Bump the fence: whoever wrote orders before this moment can no longer."""
    async with store.tx("epoch") as conn:
        epoch = await manifest.begin_epoch(
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


def _wire(
    settings: Settings,
    store: Store,
    clock: Clock,
    gate: Gate,
    broker: AlpacaBroker,
    market: AlpacaMarketData,
    news: AlpacaNews,
    stream: AlpacaTradeUpdates,
    epoch: int,
    spool: Spool,
    proofs: Proofs,
    holding: Holding,
) -> Desk:
    """Every part gets exactly what it may touch."""
    cfg = settings.config
    gate.shut("stream", "trade updates are not connected yet")
    books = Books(store, broker, clock, epoch, cfg=cfg.reconcile)
    execution = Execution(store, broker, books, gate, clock, cfg.execution, epoch)
    exits = SafeExit(store, broker, books, execution, clock, epoch)
    measure = Naked(store, clock, cfg.protection)
    guard = Guard(store, books, execution, exits, clock, cfg.execution, cfg.positions, measure, epoch)
    emergency = Emergency(
        broker.permitted_by(WithoutTables(holding)), execution, books.memory, spool, proofs, clock
    )
    standing = Standing(store, broker, gate, clock)
    reconciler = Reconciler(
        store, broker, books, execution, gate, standing, clock, cfg.reconcile, cfg.execution
    )
    reconciler.spooled = Spooled(store, broker, books, emergency, clock, epoch)
    desk = Desk(
        settings=settings,
        clock=clock,
        store=store,
        broker=broker,
        market=market,
        stream=stream,
        gate=gate,
        books=books,
        execution=execution,
        exits=exits,
        guard=guard,
        entries=Entries(store, books, execution, clock, cfg.execution),
        stop_monitor=StopMonitor(
            store,
            market,
            broker,
            exits,
            guard,
            clock,
            cfg.stop_monitor,
            emergency,
            Blind(emergency, clock, cfg.execution),
            timedelta(minutes=cfg.session.flat_before_close_minutes),
        ),
        risk_watch=RiskWatch(store, broker, books, exits, clock, cfg, emergency_stop=_not_yet),
        reconciler=reconciler,
        orphans=Orphans(store, broker, books, execution, exits, clock, cfg.reconcile, cfg.positions, epoch),
        listening=Listening(stream, books, gate, reconciler, store, clock),
        flatten=Flatten(store, broker, books, execution, exits, gate, clock, proofs),
        emergency=emergency,
        scanner=Scanner(broker, market, news, clock, cfg),
        loops=Loops(gate, clock, reconciler.soon),
        safety=Safety(store, gate, clock, proofs),
        boot=Boot(store, gate, clock),
        epoch=epoch,
    )
    desk.risk_watch.emergency_stop = desk.emergency_stop
    return desk


async def _not_yet(reason: str) -> bool:
    raise AssertionError(f"no emergency stop is wired: {reason}")


async def live(desk: Desk, holding: Holding, stop: Stop, *, once: bool) -> Exit:
    """Recover, then run every loop until a signal, a successor or the end of the only day."""
    with desk.clock.hold():
        ear = await listen(desk.store.dsn, COMMANDS)
    try:
        async with desk.loops.running({"stream": lambda: _listen(desk)}):
            if not await _started(desk, stop):
                log.critical("stopped_before_recovery", why=stop.why)
                if not stop.flatten:
                    return Exit.FLAT
                deadline = desk.clock.now() + LEAST_FLATTEN
                await _give_up_the_tables(desk)
            else:
                code, deadline = await _trade(desk, holding, ear, stop, once=once)
                if code is not None:
                    return code
        # The loops have ended, and with the store given up nothing of them can send: one hand is left.
        return await _flatten_without_tables(desk, stop, deadline)
    finally:
        await desk.execution.close()
        with desk.clock.hold():
            await ear.close()
        await _end_epoch(desk, stop)


async def _trade(
    desk: Desk, holding: Holding, ear: Ear, stop: Stop, *, once: bool
) -> tuple[Exit | None, datetime]:
    """Run every loop until somebody asks to stop; the exit code, or None and until when to flatten by another hand."""
    loops: dict[str, Loop] = {
        "exits": desk.exits.run,
        "guard": desk.guard.run,
        "entries": desk.entries.run,
        "stop_monitor": desk.stop_monitor.run,
        "risk_watch": desk.risk_watch.run,
        "reconciler": desk.reconciler.run,
        "orphans": desk.orphans.run,
        "safety": desk.safety.run,
        "lock": holding.run,
        "boot": desk.boot.outlive,
        "heartbeat": Heartbeat(desk.store, desk.clock, desk.epoch).run,
        "reload": Reload(desk.settings, desk.store, desk.clock, desk.adopt, stop.reload).run,
        "days": lambda: _days(desk, ear, stop, once=once),
    }
    async with desk.loops.running(loops):
        log.info("daemon_ready", gate=sorted(desk.gate.reasons))
        desk.ready.set()
        await stop.asked.wait()
        desk.gate.shut("stopping", stop.why)
        if not stop.flatten:
            return Exit.FLAT, desk.clock.now()
        within = timedelta(seconds=desk.settings.config.shutdown.flatten_timeout_seconds)
        deadline = desk.clock.now() + within
        return await _flatten_and_say(desk, stop, deadline), deadline


async def _started(desk: Desk, stop: Stop) -> bool:
    """True once everything is recovered. Asked to stop meanwhile, it is given as long as a flatten is, but for what a
    flatten without the tables needs: false then."""

    async def begin() -> None:
        await _survey(desk)
        desk.exits.session = await _next_session(desk)
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
            late = asyncio.create_task(desk.clock.sleep(max(within, RECOVERY_RETRY)))
            await asyncio.wait({beginning, late}, return_when=asyncio.FIRST_COMPLETED)
        if beginning.done():
            beginning.result()
        return beginning.done()
    finally:
        for task in (beginning, asked, late):
            if task is not None:
                task.cancel()


async def _listen(desk: Desk) -> None:
    """Hear the stream, once it is known what was left unfinished."""
    await desk.boot.surveyed.wait()
    await desk.listening.run()


async def _survey(desk: Desk) -> None:
    """What was left unfinished, and how often we began; asked until the database has answered."""
    while True:
        try:
            await desk.boot.survey()
            await desk.boot.count()
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("recovery_waits", reason=f"the database is away: {error}")
            await desk.clock.sleep(RECOVERY_RETRY)
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
        await desk.clock.sleep(RECOVERY_RETRY)
    desk.gate.clear("recovery")
    log.info(
        "recovered",
        orders_heard=findings.heard,
        fills_booked=findings.fills_booked,
        differences=list(findings.differences),
        kept=kept,
        protecting=bare,
    )


async def _next_session(desk: Desk) -> Session:
    """Today's session, or the next one when today's is over or there is none."""
    today = trading_date(desk.clock.now())
    while True:
        try:
            sessions = await desk.broker.calendar(today, today + timedelta(days=10))
        except BrokerError as error:
            log.warning("calendar_unreadable", error=str(error))
            sessions = []
        for session in sessions:
            if session.close + timedelta(minutes=5) > desk.clock.now():
                return session
        log.warning("no_session_known", days=len(sessions))
        await desk.clock.sleep(RECOVERY_RETRY)


async def _session_of_today(desk: Desk) -> Session | None:
    """Today's session; None when there is none, or when it could not be read."""
    today = trading_date(desk.clock.now())
    try:
        sessions = await desk.broker.calendar(today, today)
    except BrokerError as error:
        log.warning("calendar_unreadable", error=str(error))
        return None
    return sessions[0] if sessions else None


async def _days(desk: Desk, ear: Ear, stop: Stop, *, once: bool) -> None:
    """One session after the other, from the one that is running or next."""
    while True:
        session = desk.exits.session = await _next_session(desk)
        pre_open = datetime.combine(session.day, PRE_OPEN_AT, NEW_YORK)
        await desk.clock.sleep_until(pre_open.astimezone(session.open.tzinfo))
        day = Day(
            store=desk.store,
            broker=desk.broker,
            books=desk.books,
            execution=desk.execution,
            exits=desk.exits,
            flatten=desk.flatten,
            gate=desk.gate,
            reconciler=desk.reconciler,
            risk_watch=desk.risk_watch,
            scanner=desk.scanner,
            hard_stop=HardStop(
                desk.store,
                desk.flatten,
                desk.emergency,
                desk.gate,
                desk.clock,
                desk.settings.config.emergency,
            ),
            clock=desk.clock,
            cfg=desk.settings.config,
            mode=desk.settings.session_mode,
            session=session,
            epoch=desk.epoch,
        )
        desk.day = day
        await day.begin()
        commands = Commands(desk.store, ear, day, desk.exits, desk.gate, desk.safety, desk.clock)
        async with desk.loops.running({"commands": commands.run, "flat": day.stay_flat}):
            appointments = still_to_do(market_day(session, desk.settings.config), desk.clock.now())
            await keep(appointments, desk.clock, day.run)
        if once:
            stop.ask("the day is done", flatten=False)
            return
        await desk.clock.sleep_until(
            session.close + timedelta(minutes=5)
        )  # from then on the next one is next
        desk.gate.clear("close")
        desk.gate.clear("closed")


async def _flatten_and_say(desk: Desk, stop: Stop, deadline: datetime) -> Exit | None:
    """SIGTERM: be flat now, within the bound, and say truthfully whether we are.

    A database that only stumbled is asked again. None when it is away: then the store is given up, nothing more
    can be written or sent in the ordinary way, and nothing of that is on its way any more.
    """
    for attempt in range(FLATTEN_TRIES):
        if attempt:
            await desk.clock.sleep(FLATTEN_PAUSE)
        if not await desk.store.answers():
            break
        flattening = asyncio.create_task(_flatten(desk, stop, deadline), name="flatten")
        away = asyncio.create_task(_until_away(desk), name="away")
        try:
            await asyncio.wait({flattening, away}, return_when=asyncio.FIRST_COMPLETED)
            if not flattening.done():
                break
            if (error := flattening.exception()) is None:
                return flattening.result()
            if isinstance(error, StaleEpoch):
                raise AnotherDaemon("another daemon has taken over; it has the positions") from error
            log.error("flatten_interrupted", error=f"{type(error).__name__}: {error}")
        finally:
            for task in (flattening, away):
                task.cancel()
    await _give_up_the_tables(desk)
    return None


async def _give_up_the_tables(desk: Desk) -> None:
    """Nothing is written or sent in the ordinary way any more, and nothing of that is on its way."""
    desk.store.give_up()
    await desk.execution.drained(DRAIN)


async def _until_away(desk: Desk) -> None:
    """Return once the database has not answered twice in a row."""
    missed = 0
    while missed < 2:
        await desk.clock.sleep(FLATTEN_PAUSE)
        missed = 0 if await desk.store.answers() else missed + 1


async def _flatten_without_tables(desk: Desk, stop: Stop, deadline: datetime) -> Exit:
    """What the ordinary flatten could not end, or begin; the next start brings it into the tables, and goes on."""
    if desk.exits.session is None:
        desk.exits.session = await _session_of_today(desk)
    left = await desk.emergency.flatten(
        latch="flatten",
        reason=f"{CloseReason.EMERGENCY_STOP}: {stop.why} without the tables",
        by=stop.why,
        within=max(deadline - desk.clock.now(), LEAST_FLATTEN),
        selling=desk.exits.market_open,
    )
    return Exit.FLAT if left.flat else Exit.NOT_FLAT


async def _flatten(desk: Desk, stop: Stop, deadline: datetime) -> Exit:
    """The ordinary flatten, by the tables."""
    if desk.day is not None and desk.day.cycle_id:
        await desk.day.end_entries("flatten", reason=stop.why, by="signal")
    else:
        await desk.flatten.latch("flatten", reason=stop.why, by="signal")
    proof = await desk.flatten.run(
        CloseReason.EMERGENCY_STOP,
        by=stop.why,
        purpose=Purpose.FLATTEN,
        within=deadline - desk.clock.now(),
        cycle_id=desk.day.cycle_id if desk.day else None,
    )
    await desk.safety.settle()
    return Exit.FLAT if proof.proven else Exit.NOT_FLAT


async def _end_epoch(desk: Desk, stop: Stop) -> None:
    why = stop.why or "superseded"
    try:
        async with desk.store.tx("ending") as conn:
            await manifest.end_epoch(conn, desk.epoch, ending=why, at=desk.clock.now())
    except Exception as error:
        if not is_outage(error):
            raise
        log.warning("ending_unwritten", error=str(error))
    log.info("daemon_stopped", why=why)


def _stop_on_signals(stop: Stop, settings: Settings) -> None:
    """SIGTERM and SIGINT flatten (or keep, as configured); SIGUSR1 keeps; SIGHUP reads the configuration again."""
    flatten = settings.config.shutdown.on_sigterm == "flatten"
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: stop.ask("SIGTERM", flatten=flatten))
    loop.add_signal_handler(signal.SIGINT, lambda: stop.ask("SIGINT", flatten=flatten))
    loop.add_signal_handler(signal.SIGUSR1, lambda: stop.ask("SIGUSR1", flatten=False))
    loop.add_signal_handler(signal.SIGHUP, stop.reload.set)
