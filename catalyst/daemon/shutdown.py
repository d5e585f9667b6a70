"""How the process ends: what a signal asks for, flat by the tables or without them, and the exit code that says so."""

import asyncio
import signal
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

import structlog

from catalyst.config.settings import Settings
from catalyst.daemon.components import Desk
from catalyst.daemon.trading_day.sessions import session_of_today
from catalyst.domain.errors import AnotherDaemon
from catalyst.domain.order import Purpose
from catalyst.domain.position import CloseReason
from catalyst.store import daemon_epoch
from catalyst.store.constraint_errors import StaleEpoch
from catalyst.store.pool import is_passing

log = structlog.get_logger()

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
    code: Exit = Exit.FLAT  # of who leaves without a flatten
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, why: str, *, flatten: bool, code: Exit = Exit.FLAT) -> None:
        if self.asked.is_set():
            log.warning("stop_already_asked", by=why)
            return
        self.flatten = flatten
        self.why = why
        self.code = code
        log.warning("stop_asked", by=why, flatten=flatten)
        self.asked.set()


def stop_on_signals(stop: Stop, settings: Settings) -> None:
    """SIGTERM and SIGINT flatten (or keep, as configured); SIGUSR1 keeps; SIGHUP reads the configuration again."""
    flatten = settings.config.shutdown.on_sigterm == "flatten"
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: stop.ask("SIGTERM", flatten=flatten))
    loop.add_signal_handler(signal.SIGINT, lambda: stop.ask("SIGINT", flatten=flatten))
    loop.add_signal_handler(signal.SIGUSR1, lambda: stop.ask("SIGUSR1", flatten=False))
    loop.add_signal_handler(signal.SIGHUP, stop.reload.set)


async def flatten_and_say(desk: Desk, stop: Stop, deadline: datetime) -> Exit | None:
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
    await give_up_the_tables(desk)
    return None


async def give_up_the_tables(desk: Desk) -> None:
    """Nothing is written or sent in the ordinary way any more, and nothing of that is on its way."""
    desk.store.give_up()
    await desk.execution.drained(DRAIN)


async def _until_away(desk: Desk) -> None:
    """Return once the database has not answered twice in a row."""
    missed = 0
    while missed < 2:
        await desk.clock.sleep(FLATTEN_PAUSE)
        missed = 0 if await desk.store.answers() else missed + 1


async def flatten_without_tables(desk: Desk, stop: Stop, deadline: datetime) -> Exit:
    """What the ordinary flatten could not end, or begin; the next start brings it into the tables, and goes on."""
    if desk.exits.session is None:
        desk.exits.session = await session_of_today(desk.broker, desk.clock)
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
    return Exit.FLAT if proof.proven else Exit.NOT_FLAT


async def end_epoch(desk: Desk, stop: Stop) -> None:
    """The last words, when every loop has ended: what broke in the last moments, and was not written by whoever keeps
    the latch, is latched for the next life; and this one is said to be over."""
    why = stop.why or "superseded"
    try:
        await desk.safety.settle()
    except Exception:
        log.exception("safe_unlatched", broken=dict(desk.gate.broken))
    try:
        async with desk.store.tx("ending") as conn:
            await daemon_epoch.end_epoch(conn, desk.epoch, ending=why, at=desk.clock.now())
    except Exception as error:
        if not is_passing(error):
            raise
        log.warning("ending_unwritten", error=str(error))
    log.info("daemon_stopped", why=why)
