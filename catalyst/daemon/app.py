"""Daemon process: start, run the loops, stop. Start reading here.

Order of a start: host lock, database (schema and rights), account lease, fencing epoch with the account
pinned, unfinished work of the previous run, stream (buffering), broker snapshot, buffered messages,
protection and latches, READY. Then the loops and the day's jobs run until a signal.

This file only builds, starts and stops components. It contains no order logic.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock, waiting
from catalyst.config.settings import Settings
from catalyst.daemon.components import Components, describe_positions, describe_state
from catalyst.daemon.monitoring.monitoring import Monitoring
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.config_reload import ConfigReload
from catalyst.daemon.runtime.database_server import DatabaseServerWatch
from catalyst.daemon.runtime.heartbeat import Heartbeat
from catalyst.daemon.runtime.supervisor import Loop
from catalyst.daemon.runtime.watchdog import Watchdog
from catalyst.daemon.shutdown import (
    MIN_OUTAGE_FLATTEN_TIME,
    ExitCode,
    StopRequest,
    abandon_database,
    end_epoch,
    flatten_in_outage,
    flatten_or_none,
    send_last_alerts,
    stop_on_signals,
)
from catalyst.daemon.startup import (
    StoppedAtStart,
    acquire_account,
    acquire_host_lock,
    open_database,
    recover_or_stop,
)
from catalyst.daemon.trading_day.bracket_trial import BracketTrial
from catalyst.daemon.trading_day.operator_commands import OperatorCommands
from catalyst.daemon.trading_day.schedule import PRE_OPEN_AT, market_day, remaining, run_schedule, scan_times
from catalyst.daemon.trading_day.sessions import CURRENT_AFTER_CLOSE, next_session
from catalyst.daemon.trading_state.account_lease import AccountLease
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.closed_entries import STOPPING
from catalyst.domain.position import CloseReason
from catalyst.domain.session import NEW_YORK
from catalyst.embedded import EmbeddedPostgres
from catalyst.store.notifications import listen

log = structlog.get_logger()

COMMAND_CHANNEL: Final = "catalyst_commands"
THREAD_SWITCH_INTERVAL_S: Final = (
    0.0005  # seconds; a thread that parses megabytes yields to the event loop that soon
)


async def run(
    settings: Settings,
    dsn: str,
    clock: Clock,
    *,
    once: bool = False,
    server: EmbeddedPostgres | None = None,
    flatten_by: str | None = None,
) -> ExitCode:
    """Run the daemon until a signal, or with `once` until the day's cycle ends. Return the exit code.

    With `once` it is 0 when the account is proven flat, else 2. `server`: the embedded server of the database, started
    again when it ends. `flatten_by`: recover, flatten for this person and end; a silent broker ends it too.
    Raises UserError when the operator must act: schema, lock, account, broker address.
    """
    sys.setswitchinterval(THREAD_SWITCH_INTERVAL_S)
    stop = StopRequest()
    stop_on_signals(stop, settings)
    for notice in settings.notices:
        log.warning("config_notice", notice=notice)
    async with held_at_close(clock) as stack:
        try:
            account = await acquire_host_lock(
                stack, settings, clock, dsn=dsn, stop=stop, has_limit=flatten_by is not None
            )
        except StoppedAtStart:
            log.critical("stopped_before_recovery", reason=stop.reason)
            return ExitCode.NOT_FLAT
        gate = EntryGate(clock)
        store = await open_database(stack, dsn, clock, gate)
        components, holding = await acquire_account(stack, settings, store, clock, gate, account)
        if flatten_by is not None:
            stop.request(flatten_by, flatten=True, close_reason=CloseReason.MANUAL)
        return await recover_and_run(components, holding, stop, once=once, server=server)


@asynccontextmanager
async def held_at_close(clock: Clock) -> AsyncIterator[AsyncExitStack]:
    """Provide a stack whose resources close under a hold: sockets need real time to close."""
    async with AsyncExitStack() as stack:
        try:
            yield stack
        finally:
            with clock.hold():
                await stack.aclose()


async def recover_and_run(
    components: Components,
    lease: AccountLease,
    stop: StopRequest,
    *,
    once: bool,
    server: EmbeddedPostgres | None = None,
) -> ExitCode:
    """Recover, then run every loop until a signal, a successor, or the end of the only day."""
    stop.describe_positions_by(lambda: describe_positions(components))
    watchdog = _build_watchdog(components)
    async with watchdog.watching():
        return await _recover_and_run(components, lease, stop, watchdog, once=once, server=server)


def _build_watchdog(components: Components) -> Watchdog:
    env = components.settings.env
    within = None if env.watchdog_usec is None else timedelta(microseconds=env.watchdog_usec)
    return Watchdog(
        components.supervisor, components.clock, env.notify_socket, within, lambda: describe_state(components)
    )


async def _recover_and_run(
    components: Components,
    lease: AccountLease,
    stop: StopRequest,
    watchdog: Watchdog,
    *,
    once: bool,
    server: EmbeddedPostgres | None,
) -> ExitCode:
    command_inserted = ChangeSignal()
    with components.clock.hold():
        command_listener = await listen(components.store.dsn, COMMAND_CHANNEL, command_inserted.notify)
    try:
        loops: dict[str, Loop] = {
            "stream": lambda: consume_stream(components),
            "alert_delivery": components.alert_delivery.run,
            "heartbeat": Heartbeat(
                components.store,
                components.clock,
                components.epoch,
                components.gate,
                components.current_day,
                components.config,
                components.settings,
            ).run,
        }
        if (port := components.settings.config.monitoring.port) is not None:
            loops["monitoring"] = Monitoring(components, watchdog, port).run
        loops["commands"] = lambda: run_commands(components, command_inserted)
        if server is not None:
            loops["database_server"] = DatabaseServerWatch(server, components.clock).run
        async with components.supervisor.running(loops):
            if not await recover_or_stop(components, stop):
                log.critical("stopped_before_recovery", reason=stop.reason)
                if not stop.flatten:
                    return ExitCode.FLAT
                deadline = components.clock.now() + MIN_OUTAGE_FLATTEN_TIME
                await abandon_database(components)
            else:
                code, deadline = await run_loops(components, lease, stop, watchdog, once=once)
                if code is not None:
                    return code
        # The loops have ended and the store is abandoned, so only the outage exit can still send.
        return await flatten_in_outage(components, stop, deadline)
    finally:
        await components.submission.close()
        with components.clock.hold():
            await command_listener.close()
        await end_epoch(components, stop)
        await send_last_alerts(components)


async def run_loops(
    components: Components,
    lease: AccountLease,
    stop: StopRequest,
    watchdog: Watchdog,
    *,
    once: bool,
) -> tuple[ExitCode | None, datetime]:
    """Run every loop until a stop is requested. Return the exit code, or None with the deadline of an outage
    flatten."""
    loops: dict[str, Loop] = {
        "exits": components.exits.run,
        "position_protector": components.protector.run,
        "entry_expiry": components.entry_expiry.run,
        "stop_monitor": components.stop_monitor.run,
        "stop_prices": components.stop_monitor.run_price_refresh,
        "daily_loss_limit": components.daily_loss_limit.run,
        "reconciler": components.reconciler.run,
        "orphans": components.orphans.run,
        "safe_mode": components.safe_mode.run,
        "account_lease": lease.run,
        "startup_survey": components.startup_survey.clear_crash_loop,
        "shorting_lock": components.shorting_lock.run,
        "examination": components.examination.run,
        "config_reload": ConfigReload(
            components.settings,
            components.config,
            components.store,
            components.clock,
            stop.reload_requested,
        ).run,
        "sessions": lambda: run_sessions(components, stop, once=once),
    }
    async with components.supervisor.running(loops):
        log.info("daemon_ready", gate=sorted(components.gate.reasons))
        components.ready.set()
        watchdog.notify("READY=1")
        watchdog.send_status(describe_state(components))
        await stop.requested.wait()
        components.gate.close(STOPPING, stop.reason)
        if not stop.flatten:
            return stop.exit_code, components.clock.now()
        within = timedelta(seconds=components.config.shutdown.flatten_timeout_seconds)
        deadline = components.clock.now() + within
        return await flatten_or_none(components, stop, deadline), deadline


async def consume_stream(components: Components) -> None:
    """Consume the stream after the unfinished work is known."""
    with waiting():  # for the database
        await components.startup_survey.completed.wait()
    await components.stream_consumer.run()


async def run_commands(components: Components, command_inserted: ChangeSignal) -> None:
    """Execute commands as soon as the latches are known, also while the recovery waits for the broker."""
    await components.startup_survey.completed.wait()
    await OperatorCommands(
        components.store,
        command_inserted,
        components.trading_day,
        components.entries,
        BracketTrial(
            components.store,
            components.market,
            components.submission,
            components.entries,
            components.clock,
            components.settings.mode,
        ),
        components.emergency_stop,
        components.flatten,
        components.reconciler,
        components.current_day,
        components.exits,
        components.gate,
        components.safe_mode,
        components.ready,
        components.clock,
    ).run()


async def run_sessions(components: Components, stop: StopRequest, *, once: bool) -> None:
    """Run one session after the other, from the one that is open or next."""
    clock, day, current_day = components.clock, components.trading_day, components.current_day
    while True:
        # A session is running when this loop failed and was restarted.
        session = current_day.running_session or await next_session(
            components.broker, components.store, clock
        )
        current_day.set_session(session)
        # Close a day that a crash left open now, not at the next day's start.
        if clock.now() < session.open:
            to_be_flat = components.config.positions.close_all_at_market_close
            await components.end_of_day.close_missed_days(session.day, to_be_flat=to_be_flat)
        pre_open = datetime.combine(session.day, PRE_OPEN_AT, NEW_YORK)
        await clock.sleep_until(pre_open.astimezone(session.open.tzinfo))
        await day.begin()
        async with components.supervisor.running({"enforce_flat": day.enforce_flat}):
            jobs = market_day(session, components.config.in_force)
            current_day.set_scan_times(scan_times(jobs))
            await day.log_missed_scans(jobs)
            await run_schedule(remaining(jobs, clock.now()), clock, day.run)
        current_day.mark_finished()
        if once:
            exit_code = ExitCode.FLAT if components.end_of_day.proven else ExitCode.NOT_FLAT
            stop.request("the day is done", flatten=False, exit_code=exit_code)
            return
        # After this time current_or_next_session returns the next day.
        await clock.sleep_until(session.close + CURRENT_AFTER_CLOSE)
        components.gate.reopen("day_ending")
        components.gate.reopen("cycle_closed")
