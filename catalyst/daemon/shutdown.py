"""Shutdown: what a signal requests, the flatten with or without the database, and the exit code."""

import asyncio
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

import structlog

from catalyst.clock import StallTimer
from catalyst.config.settings import Settings
from catalyst.daemon.components import Components
from catalyst.daemon.exits.flatten import FLATTEN_LATCH, protect_rest_time
from catalyst.daemon.trading_day.sessions import session_of_today
from catalyst.domain.errors import AnotherDaemonRunning, DatabaseContention, DatabaseUnavailable
from catalyst.domain.order import Purpose
from catalyst.domain.position import CloseReason
from catalyst.store import daemon_epoch, exit_intents, gate_reasons
from catalyst.store.constraint_errors import StaleEpoch

log = structlog.get_logger()

MAX_FLATTEN_ATTEMPTS: Final = 3  # with the database; after that the outage flatten takes over
FLATTEN_RETRY_PAUSE: Final = timedelta(seconds=2)
MIN_OUTAGE_FLATTEN_TIME: Final = timedelta(
    seconds=20
)  # an outage flatten gets at least this, however late it begins
PROTECT_REST_TIMEOUT: Final = timedelta(seconds=10)  # for the stops of what an outage flatten could not sell
DRAIN_TIMEOUT: Final = timedelta(seconds=10)  # our open requests end within this time
CONFIRM_WITHIN_S: Final = 5.0  # real seconds between two Ctrl-C of a person


class ExitCode(IntEnum):
    """Exit codes of the process; systemd does not restart on the last two."""

    FLAT = 0
    NOT_FLAT = 2
    LOCKED = 75
    CONFIG = 78


@dataclass
class StopRequest:
    """The requested stop. The first request sets `requested`; a later one changes nothing."""

    requested: asyncio.Event = field(default_factory=asyncio.Event)
    flatten: bool = False
    reason: str = ""
    exit_code: ExitCode = ExitCode.FLAT  # for a stop without a flatten
    close_reason: CloseReason = CloseReason.SHUTDOWN  # of the flatten's exits
    reload_requested: asyncio.Event = field(default_factory=asyncio.Event)
    describe_positions: Callable[[], str] = lambda: "the positions are not known yet"

    def describe_positions_by(self, describe: Callable[[], str]) -> None:
        """Use this description in the question of the first Ctrl-C."""
        self.describe_positions = describe

    def request(
        self,
        reason: str,
        *,
        flatten: bool,
        exit_code: ExitCode = ExitCode.FLAT,
        close_reason: CloseReason = CloseReason.SHUTDOWN,
    ) -> None:
        if self.requested.is_set():
            log.warning("stop_already_requested", by=reason)
            return
        self.flatten = flatten
        self.reason = reason
        self.exit_code = exit_code
        self.close_reason = close_reason
        log.warning("stop_requested", by=reason, flatten=flatten)
        self.requested.set()


@dataclass
class InterruptKey:
    """Ctrl-C on a terminal: the first prints the open positions, a second within CONFIRM_WITHIN_S stops as SIGTERM
    does. A later one starts over."""

    stop: StopRequest
    flatten: bool
    write: Callable[[str], object] = sys.stderr.write
    _since_first: StallTimer | None = None

    def press(self) -> None:
        if self._since_first is not None and self._since_first.seconds <= CONFIRM_WITHIN_S:
            self._since_first = None
            self.stop.request("SIGINT", flatten=self.flatten)
            return
        self._since_first = StallTimer()
        action = (
            "sell everything" if self.flatten else "end the daemon and keep the positions under their stops"
        )
        self.write(
            f"\n{self.stop.describe_positions()}\nCtrl-C again within {CONFIRM_WITHIN_S:.0f} s to {action}; "
            "otherwise the daemon goes on\n"
        )


def stop_on_signals(stop: StopRequest, settings: Settings) -> None:
    """Install the signal handlers.

    SIGTERM and SIGINT flatten, or keep, as configured; Ctrl-C on a terminal asks first. SIGUSR1 keeps the positions,
    SIGUSR2 flattens for `catalyst flatten`, SIGHUP reloads the configuration.
    """
    on_sigterm, on_sigint = settings.config.shutdown.on_sigterm, settings.config.shutdown.on_sigint
    flatten = on_sigterm == "flatten"
    flatten_on_sigint = flatten if on_sigint == "ask" else on_sigint == "flatten"
    asks = on_sigint == "ask" and sys.stdin.isatty() and sys.stderr.isatty()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: stop.request("SIGTERM", flatten=flatten))
    loop.add_signal_handler(
        signal.SIGINT,
        InterruptKey(stop, flatten).press
        if asks
        else lambda: stop.request("SIGINT", flatten=flatten_on_sigint),
    )
    loop.add_signal_handler(signal.SIGUSR1, lambda: stop.request("SIGUSR1", flatten=False))
    loop.add_signal_handler(
        signal.SIGUSR2,
        lambda: stop.request("catalyst flatten", flatten=True, close_reason=CloseReason.MANUAL),
    )
    loop.add_signal_handler(signal.SIGHUP, stop.reload_requested.set)


async def flatten_or_none(components: Components, stop: StopRequest, deadline: datetime) -> ExitCode | None:
    """Flatten within the time limit and return the exit code.

    A passing database error is retried. None when the database is unavailable: then the store is abandoned,
    and `OrderSubmission` has no request in flight and can send none.
    """
    for attempt in range(MAX_FLATTEN_ATTEMPTS):
        if attempt:
            await components.clock.sleep(FLATTEN_RETRY_PAUSE)
        if not await components.store.is_writable():
            break
        flattening = asyncio.create_task(_flatten_by_database(components, stop, deadline), name="flatten")
        outage = asyncio.create_task(_wait_for_outage(components), name="outage_watch")
        try:
            await asyncio.wait({flattening, outage}, return_when=asyncio.FIRST_COMPLETED)
            if not flattening.done():
                break
            if (error := flattening.exception()) is None:
                return flattening.result()
            if isinstance(error, StaleEpoch):
                raise AnotherDaemonRunning(
                    "another daemon has taken over and manages the positions"
                ) from error
            log.error("flatten_interrupted", error=f"{type(error).__name__}: {error}")
        finally:
            for task in (flattening, outage):
                task.cancel()
    await abandon_database(components)
    return None


async def abandon_database(components: Components) -> None:
    """Abandon the store: nothing is written or sent in the ordinary way, and no such request is in flight."""
    components.store.abandon()
    await components.submission.requests.wait_until_idle(DRAIN_TIMEOUT)


async def _wait_for_outage(components: Components) -> None:
    """Return once the database has failed to respond twice in a row."""
    missed = 0
    while missed < 2:
        await components.clock.sleep(FLATTEN_RETRY_PAUSE)
        missed = 0 if await components.store.is_writable() else missed + 1


async def flatten_in_outage(components: Components, stop: StopRequest, deadline: datetime) -> ExitCode:
    """Flatten from what the broker shows. The next start imports the spool and continues."""
    if components.current_day.session is None:
        components.current_day.set_session(await session_of_today(components.broker, components.clock))
    left = await components.outage_exit.flatten(
        latch=FLATTEN_LATCH,
        latch_until=_latch_until(components, stop),
        reason=f"{stop.close_reason}: {stop.reason} during a database outage",
        by=stop.reason,
        within=max(deadline - components.clock.now(), MIN_OUTAGE_FLATTEN_TIME),
        market_open=components.exits.market_open,
    )
    if left.flat:
        return ExitCode.FLAT
    await components.outage_protection.protect_overnight(PROTECT_REST_TIMEOUT)
    return ExitCode.NOT_FLAT


async def _flatten_by_database(components: Components, stop: StopRequest, deadline: datetime) -> ExitCode:
    """Flatten with the rows of the database. A signal that found nothing to sell leaves no latch."""
    now = components.clock.now()
    is_new = await components.current_day.end_entries(
        FLATTEN_LATCH,
        reason=stop.reason,
        by="signal",
        until=_latch_until(components, stop),
        facts={"close_reason": stop.close_reason},
    )
    held = await components.flatten.has_positions()
    proof = await components.flatten.run(
        stop.close_reason,
        by=stop.reason,
        purpose=Purpose.FLATTEN,
        within=deadline - now,
        cycle_id=components.current_day.cycle_id,
        protect_rest_at=protect_rest_time(now, deadline),
    )
    if proof.proven and is_new and not held and stop.close_reason is CloseReason.SHUTDOWN:
        async with components.store.read() as conn:
            has_sold = await exit_intents.any_since(conn, now)
        if not has_sold:
            await components.current_day.withdraw_latch(FLATTEN_LATCH, by="signal")
    return ExitCode.FLAT if proof.proven else ExitCode.NOT_FLAT


def _latch_until(components: Components, stop: StopRequest) -> datetime | None:
    """Return when the latch of the flatten ends: with the session that is open; None for a person's resume."""
    until_resume = components.config.shutdown.latch_after_flatten == "until_resume"
    if until_resume or stop.close_reason is not CloseReason.SHUTDOWN:
        return None
    session = components.current_day.session
    is_open = session is not None and components.current_day.market_open
    return session.close if session is not None and is_open else components.clock.now()


async def send_last_alerts(components: Components) -> None:
    """Send the alerts of the last moments, each channel within its time limit; the next start sends the rest."""
    try:
        await components.alert_delivery.send_waiting()
    except (DatabaseUnavailable, DatabaseContention) as error:
        log.warning("last_alerts_not_sent", error=str(error))


async def end_epoch(components: Components, stop: StopRequest) -> None:
    """Write the last rows after every loop has ended: latch what failed in the last moments and was not
    written by safe mode, and record the end of the run."""
    why = stop.reason or "superseded"
    try:
        await components.safe_mode.persist_latch()
    except Exception:  # the end of the run must still be recorded
        log.exception("safe_mode_latch_failed", broken=dict(components.gate.failed_invariants))
    try:
        async with components.store.tx("end_run") as conn:
            at = components.clock.now()
            await daemon_epoch.end_epoch(conn, components.epoch, end_reason=why, at=at)
            await gate_reasons.end_all(conn, components.epoch, at=at)
    except (DatabaseUnavailable, DatabaseContention) as error:
        log.warning("run_end_not_recorded", error=str(error))
    log.info("daemon_stopped", reason=why)
