"""Start reading here: what runs, in which order it starts, and how it stops.

Starting is recovering, in this order: the seat on this machine → the database, its schema and rights → the account's
lock → the epoch, with the account pinned → what was left unfinished → the stream, buffering → what the broker shows →
the buffered messages → protection and latches → READY; then the loops and the day's jobs run until a signal. This
file wires and waits; it decides nothing.
"""

import sys
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.config.settings import Settings
from catalyst.daemon.components import Desk
from catalyst.daemon.risk.emergency_stop import HardStop
from catalyst.daemon.runtime.config_reload import Reload
from catalyst.daemon.runtime.heartbeat import Heartbeat
from catalyst.daemon.runtime.supervisor import Loop
from catalyst.daemon.runtime.watchdog import Watchdog
from catalyst.daemon.shutdown import (
    LEAST_FLATTEN,
    Exit,
    Stop,
    end_epoch,
    flatten_and_say,
    flatten_without_tables,
    give_up_the_tables,
    stop_on_signals,
)
from catalyst.daemon.startup import open_books, sit_down, started, take_the_desk
from catalyst.daemon.trading_day.end_of_day import Closing
from catalyst.daemon.trading_day.operator_commands import Commands
from catalyst.daemon.trading_day.schedule import PRE_OPEN_AT, keep, market_day, still_to_do
from catalyst.daemon.trading_day.sessions import LINGER, next_session
from catalyst.daemon.trading_day.trading_day import Day
from catalyst.daemon.trading_state.account_lease import Holding
from catalyst.domain.session import NEW_YORK
from catalyst.store.notifications import Ear, listen

log = structlog.get_logger()

COMMANDS: Final = "catalyst_commands"
TURN: Final = 0.0005  # seconds: a thread that parses megabytes gives the event loop its turn that soon


async def run(settings: Settings, dsn: str, clock: Clock, *, once: bool = False) -> Exit:
    """Trade until a signal, or with `once` until the day's cycle is completed, or cannot be (then the code says so).
    Returns the exit code.

    Raises UserError for what the operator must mend: the schema, the lock, the account, the broker's address.
    """
    sys.setswitchinterval(TURN)
    stop = Stop()
    stop_on_signals(stop, settings)
    for notice in settings.notices:
        log.warning("config_notice", notice=notice)
    async with AsyncExitStack() as stack:
        account = await sit_down(stack, settings, clock)
        store = await open_books(stack, dsn, clock)
        desk, holding = await take_the_desk(stack, settings, store, clock, account)
        return await live(desk, holding, stop, once=once)


async def live(desk: Desk, holding: Holding, stop: Stop, *, once: bool) -> Exit:
    """Recover, then run every loop until a signal, a successor or the end of the only day."""
    async with _watchdog(desk).watching():
        return await _live(desk, holding, stop, once=once)


def _watchdog(desk: Desk) -> Watchdog:
    env = desk.settings.env
    within = None if env.watchdog_usec is None else timedelta(microseconds=env.watchdog_usec)
    return Watchdog(desk.loops, desk.clock, env.notify_socket, within)


async def _live(desk: Desk, holding: Holding, stop: Stop, *, once: bool) -> Exit:
    with desk.clock.hold():
        ear = await listen(desk.store.dsn, COMMANDS)
    try:
        async with desk.loops.running({"stream": lambda: _listen(desk)}):
            if not await started(desk, stop):
                log.critical("stopped_before_recovery", why=stop.why)
                if not stop.flatten:
                    return Exit.FLAT
                deadline = desk.clock.now() + LEAST_FLATTEN
                await give_up_the_tables(desk)
            else:
                code, deadline = await _trade(desk, holding, ear, stop, once=once)
                if code is not None:
                    return code
        # The loops have ended, and with the store given up nothing of them can send: one hand is left.
        return await flatten_without_tables(desk, stop, deadline)
    finally:
        await desk.execution.close()
        with desk.clock.hold():
            await ear.close()
        await end_epoch(desk, stop)


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
        "shorts": desk.shorts.run,
        "heartbeat": Heartbeat(desk.store, desk.clock, desk.epoch).run,
        "reload": Reload(desk.settings, desk.store, desk.clock, desk.adopt, stop.reload).run,
        "days": lambda: _days(desk, ear, stop, once=once),
    }
    async with desk.loops.running(loops):
        log.info("daemon_ready", gate=sorted(desk.gate.reasons))
        desk.ready.set()
        _watchdog(desk).say("READY=1")
        await stop.asked.wait()
        desk.gate.shut("stopping", stop.why)
        if not stop.flatten:
            return stop.code, desk.clock.now()
        within = timedelta(seconds=desk.settings.config.shutdown.flatten_timeout_seconds)
        deadline = desk.clock.now() + within
        return await flatten_and_say(desk, stop, deadline), deadline


async def _listen(desk: Desk) -> None:
    """Hear the stream, once it is known what was left unfinished."""
    await desk.boot.surveyed.wait()
    await desk.listening.run()


async def _days(desk: Desk, ear: Ear, stop: Stop, *, once: bool) -> None:
    """One session after the other, from the one that is running or next."""
    closing = Closing(desk.store, desk.broker, desk.reconciler, desk.flatten, desk.clock)
    while True:
        if desk.day is not None and desk.day.goes_on:  # this loop fell, and began again
            session = desk.day.session
        else:
            session = await next_session(desk.broker, desk.store, desk.clock)
        desk.exits.session = session
        # A close that a death left out: now, and not at the next day's start.
        if desk.clock.now() < session.open:
            to_be_flat = desk.settings.config.positions.close_all_at_market_close
            await closing.make_up(session.day, to_be_flat=to_be_flat)
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
        day.over = True
        if once:
            stop.ask("the day is done", flatten=False, code=Exit.FLAT if day.proven else Exit.NOT_FLAT)
            return
        await desk.clock.sleep_until(session.close + LINGER)  # from then on the next one is next
        desk.gate.clear("close")
        desk.gate.clear("closed")
