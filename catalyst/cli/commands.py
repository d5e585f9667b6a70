"""Commands to the daemon: each inserts a command row, waits for the daemon's answer in it and prints the answer.

They need no valid configuration, only its addresses. `halt` and `flatten` need no daemon, `flatten` no database.
"""

import asyncio
import getpass
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from catalyst.cli.command_lines import close_line, flatten_line, resume_lines, scan_line
from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    ConfigOption,
    DatabaseUnreachable,
    JsonOption,
    database_dsn,
    open_clock,
    open_migrated_store,
    read_addresses,
    run_async,
)
from catalyst.clock import SystemClock
from catalyst.concurrency import leaf_errors
from catalyst.config.listing_names import broker_symbol
from catalyst.config.settings import Settings
from catalyst.domain.errors import (
    AnotherDaemonRunning,
    BrokerError,
    BrokerSilent,
    CatalystError,
    ConfigInvalid,
    DatabaseContention,
    DatabaseUnavailable,
    UserError,
    WrongAccount,
)

if TYPE_CHECKING:
    from catalyst.clock import Clock
    from catalyst.daemon.flatten_alone import FlattenResult
    from catalyst.store.commands import Command
    from catalyst.store.pool import Connection, Store

ANSWER_TIMEOUT: Final = timedelta(seconds=30)
# A flatten may take a minute, a scan of the whole market some seconds.
LONG_ANSWER_TIMEOUT: Final = timedelta(seconds=150)
# Commands that only reduce risk stay requested when their sender stops waiting; any other is withdrawn.
LASTING: Final = frozenset({"halt", "flatten", "close"})
TABLES_OF_HALT: Final = ("commands", "latches", "daemon")
INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ProposalId = Annotated[int, typer.Argument(metavar="ID", help="The proposal's number in `catalyst status`.")]


class CommandUnanswered(UserError):
    """No daemon answered the command; the message says whether it may still be carried out."""


class NoDaemon(CommandUnanswered):
    """No daemon is running. `command_id`: the command is stored all the same, for a daemon that starts meanwhile."""

    def __init__(self, message: str, command_id: int | None = None) -> None:
        super().__init__(message)
        self.command_id = command_id


class DaemonRefused(UserError):
    """The daemon refused the command; the message holds its reason."""


@dataclass
class CommandInterrupted(Exception):
    """A signal ended the wait for the answer; the message says what becomes of the command."""

    number: int
    message: str


def approve(
    proposal: ProposalId,
    qty: Annotated[int | None, typer.Option("--qty", min=1, help="Fewer shares than proposed.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send the order of a proposed trade."""
    chosen = {} if qty is None else {"quantity": qty}
    answer = send_command(config, "approve", {"proposal_id": proposal, **chosen})
    print_result(
        answer,
        as_json,
        lambda: [f"order {answer['order_id']} {answer['quantity']} {answer['symbol']}: {answer['status']}"],
    )


def reject(proposal: ProposalId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Reject a proposed trade; its order is never sent."""
    answer = send_command(config, "reject", {"proposal_id": proposal})
    print_result(answer, as_json, lambda: [f"proposal {proposal} is rejected"])


def scan(
    trade: Annotated[
        bool,
        typer.Option("--trade", help="Also enter the selected trades, or propose them in supervised mode."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Scan now; without --trade no order is sent."""
    answer = send_command(config, "scan", {"trade": trade}, timeout=LONG_ANSWER_TIMEOUT)
    print_result(answer, as_json, lambda: [scan_line(answer)])


def close(
    symbol: Annotated[str, typer.Argument(help="The symbol of the position to exit.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exit one position safely: cancel its stop and target, then close the shares with a market order."""
    answer = send_command(config, "close", {"symbol": broker_symbol(symbol)})
    print_result(answer, as_json, lambda: [close_line(answer)])


def halt(
    reason: Annotated[
        str, typer.Option(help="The reason, stored with the halt.")
    ] = "requested by the operator",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop all entries; open positions stay protected. `resume` allows entries again.

    Without a daemon the halt is stored, and the next start obeys it.
    """
    try:
        answer = send_command(config, "halt", {"reason": reason})
    except _database_errors() as error:
        # The commit may have succeeded although its response was lost.
        stored = "may not be" if isinstance(error, DatabaseUnavailable) else "is not"
        raise CommandUnanswered(
            f"{error}. The halt {stored} stored. A daemon that still reaches its database GOES ON entering: to stop it "
            "use `catalyst flatten`, or send its process SIGTERM (stops as configured) or SIGUSR1 (stops, keeps the "
            "positions)"
        ) from None
    no_daemon = "" if answer.get("daemon", True) else "no daemon is running, the next start obeys; "
    print_result(
        answer,
        as_json,
        lambda: [f"halted: {answer['reason']}; {no_daemon}`catalyst resume` allows entries again"],
    )


def resume(
    accept_carried: Annotated[
        bool,
        typer.Option("--accept-carried", help="Also allow entries beside the positions of an earlier day."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Allow entries again after a halt, a flatten, an emergency stop or SAFE mode."""
    answer = send_command(config, "resume", {"accept_carried": True} if accept_carried else {})
    print_result(answer, as_json, lambda: resume_lines(answer))


def flatten(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel every order, exit every position, verify at the broker; no entry is made until `resume`.

    Without a daemon this command does it itself; without the database, from what the broker shows.
    """
    if not yes and not as_json:
        typer.confirm("Cancel every order and exit every position now?", abort=True)
    try:
        answer = send_command(config, "flatten", {}, timeout=LONG_ANSWER_TIMEOUT)
    except NoDaemon as absent:
        answer = _flatten_alone(config, absent.command_id)
    except _database_errors() as error:
        typer.secho(f"catalyst: {error}; trying without the database", err=True)
        answer = _flatten_alone(config, None)
    flat = bool(answer.get("flat"))
    print_result(answer, as_json, lambda: [flatten_line(answer)])
    if not flat:
        raise typer.Exit(2)


def _database_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a database that cannot be used; the imports are slow and not needed for --help."""
    from catalyst.embedded import EmbeddedUnavailable
    from catalyst.store.migrate import SchemaNotCurrent

    return (
        DatabaseUnreachable,
        EmbeddedUnavailable,
        SchemaNotCurrent,
        DatabaseUnavailable,
        DatabaseContention,
    )


def _flatten_alone(config: ConfigOption, command_id: int | None) -> Mapping[str, object]:
    """Flatten in this process; without the database when the command has no row in it.

    Raises ConfigInvalid when the configuration does not tell which account is meant.
    """
    from catalyst.cli import logs
    from catalyst.daemon import flatten_alone

    addresses = read_addresses(config, print_problem=False)
    if addresses.account_problem is not None:
        stays = "" if command_id is None else f"; {_describe_lasting('flatten')}"
        raise ConfigInvalid(
            f"no daemon answers, and which account is meant is not known: {addresses.account_problem}{stays}"
        )
    settings = addresses.settings
    clock = open_clock(settings, drive=True)  # as the daemon that does not run
    logs.configure(settings, clock, sys.stderr)
    if command_id is None:
        result = run_async(lambda: flatten_alone.flatten_without_database(settings, clock))
        return _alone_facts(result)
    typer.secho("no daemon is running: this command recovers and flattens itself", err=True)
    with _exit_on_interrupt(), database_dsn(settings, create=False) as dsn:
        return run_async(lambda: flatten_or_fall_back(settings, dsn, clock, command_id))


async def flatten_or_fall_back(
    settings: Settings,
    dsn: str,
    clock: "Clock",
    command_id: int,
    *,
    max_wait: timedelta = LONG_ANSWER_TIMEOUT,
) -> Mapping[str, object]:
    """Flatten with the database, and answer the command; without the database when it cannot be written.

    A daemon that has started meanwhile, or has lost its lease, gets `max_wait` to answer the command; then it is
    signalled. A flatten that fails stays requested for the next start.
    """
    from catalyst.daemon import flatten_alone

    try:
        await _check_same_mode(settings, dsn)
        result = await flatten_alone.flatten_with_database(settings, dsn, clock)
        if result.flat:
            await _answer_flattens(dsn, clock)
        return _alone_facts(result)
    except Exception as error:  # whatever has failed, the shares must be sold  # noqa: BLE001
        causes = list(leaf_errors(error))
        another = next((cause for cause in causes if isinstance(cause, AnotherDaemonRunning)), None)
        if another is not None:
            typer.secho(f"catalyst: {another}; waiting for its answer", err=True)
            try:
                answer = await _answer_of_starting_daemon(dsn, clock, command_id, max_wait)
            except _database_errors() as lost:
                typer.secho(f"catalyst: {lost}", err=True)
                answer = None
            if answer is not None:
                return answer
            return _alone_facts(await flatten_alone.flatten_without_database(settings, clock))
        for cause in causes:
            if isinstance(cause, WrongAccount):
                raise cause from None
            if isinstance(cause, BrokerSilent | BrokerError):
                raise BrokerSilent(
                    f"{cause}. What is not sold keeps its stop at the broker; {_describe_lasting('flatten')}"
                ) from None
        typer.secho(f"catalyst: {error}; trying without the database", err=True)
    return _alone_facts(await flatten_alone.flatten_without_database(settings, clock))


async def _check_same_mode(settings: Settings, dsn: str) -> None:
    """Raise WrongAccount when this shell means another kind of account than the daemon that ran last: without the keys
    of the service it means the simulator."""
    from catalyst.store import daemon_epoch

    async with open_migrated_store(dsn, SystemClock()) as store, store.read() as conn:
        daemon = await daemon_epoch.current(conn)
    if daemon.mode not in (None, str(settings.mode)):
        raise WrongAccount(
            f"the database belongs to a {daemon.mode} account at {daemon.broker_url}, and this shell means the "
            f"{settings.mode} account at {settings.trading_url}: nothing was sold. Repeat with the keys and the "
            f"configuration of the service; {_describe_lasting('flatten')}"
        )


async def _answer_flattens(dsn: str, clock: "Clock") -> None:
    """Answer the command that this process has carried out, so that no daemon repeats it, and those of other senders
    that wait for the same."""
    from catalyst.store import commands

    try:
        async with open_migrated_store(dsn, SystemClock()) as store, store.tx("answer_command") as conn:
            await commands.answer_all(conn, "flatten", result={"flat": True}, at=clock.now())
    except CatalystError as error:
        typer.secho(f"catalyst: {error}; the next start flattens once more", err=True)


async def _answer_of_starting_daemon(
    dsn: str, clock: "Clock", command_id: int, max_wait: timedelta
) -> Mapping[str, object] | None:
    """Return the answer of a daemon that had no lease when the command was stored; None when it has none still.

    Raises CommandUnanswered when it has the lease, here or on another machine, and does not answer.
    """
    async with open_migrated_store(dsn, SystemClock()) as store:
        try:
            return await _wait_for_answer(store, "flatten", command_id, clock, _catch_interrupts(), max_wait)
        except CommandUnanswered:
            async with store.read() as conn:
                if await _is_daemon_alive(conn):
                    raise
    return None


def _alone_facts(result: "FlattenResult") -> Mapping[str, object]:
    return {
        "flat": result.flat,
        "unproven_reason": result.remains or None,
        "daemon_ended": result.daemon_ended,
        "account": result.account,
    }


def send_command(
    config: ConfigOption, kind: str, arguments: Mapping[str, object], *, timeout: timedelta = ANSWER_TIMEOUT
) -> Mapping[str, object]:
    """Send a command to the daemon and return its answer.

    Raises DaemonRefused with the daemon's reason, CommandUnanswered when no daemon answered within `timeout`. Ctrl-C,
    SIGTERM or SIGHUP end the process with 128 + the signal; a command to trade is withdrawn then.
    """
    settings = read_addresses(config).settings
    with _exit_on_interrupt(), database_dsn(settings, create=False) as dsn:
        return run_async(lambda: insert_and_wait(settings, dsn, kind, arguments, timeout))


@contextmanager
def _exit_on_interrupt() -> Iterator[None]:
    """End the process with 128 + the signal after an interrupted wait."""
    try:
        yield
    except CommandInterrupted as interrupted:
        typer.secho(f"catalyst: {interrupted.message}", err=True)
        raise typer.Exit(128 + interrupted.number) from None


async def insert_and_wait(
    settings: Settings, dsn: str, kind: str, arguments: Mapping[str, object], max_wait: timedelta
) -> Mapping[str, object]:
    """Store the command and return the daemon's answer; raises as `send_command` does.

    A halt sets its latch with the row: no daemon may have to take it for the next start to obey. A flatten is stored
    without a daemon too, because one that is starting or has lost its lease looks the same.
    """
    from catalyst.store import commands, latches

    market = open_clock(settings)  # for the rows' timestamps; the timeout is real time
    by = f"cli:{user_name()}"
    interrupted = _catch_interrupts()
    async with open_migrated_store(
        dsn, SystemClock(), tables=TABLES_OF_HALT if kind == "halt" else ()
    ) as store:
        async with store.read() as conn:
            alive = await _is_daemon_alive(conn)
        no_daemon = (
            f"no daemon is running to {kind}, or it still waits for the broker: start it with `catalyst run`"
        )
        if not alive and kind not in ("halt", "flatten"):
            raise NoDaemon(no_daemon)
        async with store.tx("command") as conn:
            command_id = await commands.put(conn, kind, arguments, by=by, at=market.now())
            if kind == "halt":
                await latches.set_latch(
                    conn, "halt", reason=str(arguments["reason"]), by=by, at=market.now(), until=None
                )
        if not alive:
            if kind == "flatten":
                raise NoDaemon(no_daemon, command_id)
            return {"halted": True, "reason": arguments["reason"], "daemon": False}
        try:
            return await _wait_for_answer(store, kind, command_id, market, interrupted, max_wait)
        except _database_errors() as error:
            if kind == "flatten":
                raise  # it goes on without the database
            fate = (
                _describe_lasting(kind)
                if kind in LASTING
                else "it may be carried out: check `catalyst status`"
            )
            raise CommandUnanswered(
                f"{error}. The {kind} is stored, its answer cannot be read: {fate}"
            ) from None


async def _is_daemon_alive(conn: "Connection") -> bool:
    """Return true while a daemon holds the lease of the database's account."""
    from catalyst.store import daemon_epoch, reporting_queries

    account = await daemon_epoch.account(conn)
    return account is not None and await reporting_queries.is_account_locked(conn, account)


async def _wait_for_answer(
    store: "Store",
    kind: str,
    command_id: int,
    market: "Clock",
    interrupted: "asyncio.Future[int]",
    max_wait: timedelta,
) -> Mapping[str, object]:
    from catalyst.store import commands

    waiting = asyncio.create_task(commands.wait(store, command_id, max_wait=max_wait))
    ends: set[asyncio.Future[Any]] = {waiting, interrupted}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        fate = await _withdraw(store, kind, command_id, market)
        raise CommandInterrupted(interrupted.result(), f"interrupted: {fate}")
    answered = waiting.result()
    if not answered.answered:
        raise CommandUnanswered(
            f"no answer after {max_wait.total_seconds():g} s: {await _withdraw(store, kind, command_id, market)}"
        )
    return _result_of(answered)


def _result_of(answered: "Command") -> Mapping[str, object]:
    """Return the daemon's result. Raises DaemonRefused with its reason."""
    result = answered.result or {}
    if not answered.ok:
        raise DaemonRefused(f"the daemon refused: {result.get('error') or result}")
    return result


def _catch_interrupts() -> "asyncio.Future[int]":
    """Return a future with the number of the first signal that asks this process to end."""
    loop = asyncio.get_running_loop()
    interrupted: asyncio.Future[int] = loop.create_future()

    def on_signal(number: int) -> None:
        if not interrupted.done():
            interrupted.set_result(number)

    for number in INTERRUPTS:
        loop.add_signal_handler(number, on_signal, number)
    return interrupted


async def _withdraw(store: "Store", kind: str, command_id: int, market: "Clock") -> str:
    """Withdraw a command to trade that no daemon has taken; return what becomes of the command, for a person."""
    from catalyst.store import commands

    if kind in LASTING:
        return _describe_lasting(kind)
    async with store.tx("withdraw") as conn:
        withdrawn = await commands.withdraw(
            conn,
            command_id,
            reason="the sender stopped waiting before the daemon took it",
            at=market.now(),
        )
    if withdrawn:
        return f"the {kind} is withdrawn and will not be carried out"
    return f"the daemon has already taken the {kind}: check `catalyst status`"


def _describe_lasting(kind: str) -> str:
    """Return what becomes of an unanswered command that only reduces risk, for a person."""
    if kind == "halt":
        return "the halt stays requested: every start obeys it; a daemon that hangs may still enter: stop its process"
    hung = "; a daemon that hangs: end its process and repeat `catalyst flatten`" if kind == "flatten" else ""
    return f"the {kind} stays requested: the daemon, or the next one, carries it out within a day{hung}"


def user_name() -> str:
    """Return the name of the operating system's user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return "unknown"
