"""Commands to the daemon: each inserts a command row, waits for the daemon's answer in it and prints the answer.

They need no valid configuration, only its addresses. `halt` and `flatten` need no daemon, `flatten` no database.
"""

import asyncio
import getpass
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

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
from catalyst.config.settings import Settings
from catalyst.domain.errors import (
    AnotherDaemonRunning,
    BrokerError,
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
    from catalyst.store.pool import Store

ANSWER_TIMEOUT: Final = timedelta(seconds=30)
# A flatten may take a minute, a scan of the whole market some seconds.
LONG_ANSWER_TIMEOUT: Final = timedelta(seconds=150)
# Commands that only reduce risk stay requested when their sender stops waiting; any other is withdrawn.
LASTING: Final = frozenset({"halt", "flatten", "close"})
INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ProposalId = Annotated[int, typer.Argument(metavar="ID", help="The proposal's number in `catalyst status`.")]


class CommandUnanswered(UserError):
    """No daemon answered the command; the message says whether it may still be carried out."""


class NoDaemon(CommandUnanswered):
    """No daemon is running; nothing was requested."""


class DaemonRefused(UserError):
    """The daemon refused the command; the message holds its reason."""


@dataclass
class CommandInterrupted(Exception):
    """A signal ended the wait for the answer; the message says what becomes of the command."""

    number: int
    message: str


def approve(proposal: ProposalId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send the order of a proposed trade."""
    answer = send_command(config, "approve", {"proposal_id": proposal})
    print_result(
        answer, as_json, lambda: [f"order {answer['order_id']} {answer['symbol']}: {answer['status']}"]
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
    print_result(answer, as_json, lambda: [_scan_line(answer)])


def close(
    symbol: Annotated[str, typer.Argument(help="The symbol of the position to exit.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exit one position safely: cancel its stop and target, then close the shares with a market order."""
    answer = send_command(config, "close", {"symbol": symbol.upper()})
    print_result(answer, as_json, lambda: [_close_line(answer)])


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
        raise CommandUnanswered(
            f"{error}. The halt is not stored; a daemon without its database makes no entries, and `catalyst flatten` "
            "works without it"
        ) from None
    no_daemon = "" if answer.get("daemon", True) else "no daemon is running, the next start obeys; "
    print_result(
        answer,
        as_json,
        lambda: [f"halted: {answer['reason']}; {no_daemon}`catalyst resume` allows entries again"],
    )


def resume(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Allow entries again after a halt, a flatten, an emergency stop or SAFE mode."""
    answer = send_command(config, "resume", {})
    print_result(answer, as_json, lambda: _resume_lines(answer))


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
    except NoDaemon:
        answer = _flatten_alone(config, with_database=True)
    except _database_errors() as error:
        typer.secho(f"catalyst: {error}; trying without the database", err=True)
        answer = _flatten_alone(config, with_database=False)
    flat = bool(answer.get("flat"))
    print_result(answer, as_json, lambda: [_flatten_line(answer)])
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


def _flatten_alone(config: ConfigOption, *, with_database: bool) -> Mapping[str, object]:
    """Flatten in this process. Raises ConfigInvalid when the configuration does not tell which account is meant."""
    from catalyst.cli import logs
    from catalyst.daemon import flatten_alone

    addresses = read_addresses(config, print_problem=False)
    if addresses.account_problem is not None:
        raise ConfigInvalid(
            f"no daemon answers, and which account is meant is not known: {addresses.account_problem}"
        )
    settings = addresses.settings
    clock = open_clock(settings, drive=True)  # as the daemon that does not run
    logs.configure(settings, clock, sys.stderr)
    if not with_database:
        result = run_async(lambda: flatten_alone.flatten_without_database(settings, clock))
        return _alone_facts(result)
    typer.secho("no daemon is running: this command recovers and flattens itself", err=True)
    with database_dsn(settings, create=False) as dsn:
        return _alone_facts(run_async(lambda: _flatten_or_fall_back(settings, dsn, clock)))


async def _flatten_or_fall_back(settings: Settings, dsn: str, clock: "Clock") -> "FlattenResult":
    """Flatten with the database; without it when that fails, whatever failed, unless the broker or the account do."""
    from catalyst.daemon import flatten_alone

    try:
        return await flatten_alone.flatten_with_database(settings, dsn, clock)
    except (CatalystError, ExceptionGroup, OSError, *_defects(), *_database_errors()) as error:
        for cause in leaf_errors(error):
            if isinstance(cause, AnotherDaemonRunning | WrongAccount | BrokerError):
                raise cause from None
        typer.secho(f"catalyst: {error}; trying without the database", err=True)
        return await flatten_alone.flatten_without_database(settings, clock)


def _defects() -> tuple[type[Exception], ...]:
    """Return the errors of a defect of ours: shares must not stay because of one."""
    return (
        ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError,
    )  # fmt: skip


def _alone_facts(result: "FlattenResult") -> Mapping[str, object]:
    return {
        "flat": result.flat,
        "unproven_reason": result.remains or None,
        "daemon_ended": result.daemon_ended,
        "market_open": True,
        "held": [],
    }


def send_command(
    config: ConfigOption, kind: str, arguments: Mapping[str, object], *, timeout: timedelta = ANSWER_TIMEOUT
) -> Mapping[str, object]:
    """Send a command to the daemon and return its answer.

    Raises DaemonRefused with the daemon's reason, CommandUnanswered when no daemon answered within `timeout`. Ctrl-C,
    SIGTERM or SIGHUP end the process with 128 + the signal; a command to trade is withdrawn then.
    """
    settings = read_addresses(config).settings
    try:
        with database_dsn(settings, create=False) as dsn:
            return run_async(lambda: _insert_and_wait(settings, dsn, kind, arguments, timeout))
    except CommandInterrupted as interrupted:
        typer.secho(f"catalyst: {interrupted.message}", err=True)
        raise typer.Exit(128 + interrupted.number) from None


async def _insert_and_wait(
    settings: Settings, dsn: str, kind: str, arguments: Mapping[str, object], max_wait: timedelta
) -> Mapping[str, object]:
    from catalyst.store import commands, daemon_epoch, latches, reporting_queries

    market = open_clock(settings)  # for the rows' timestamps; the timeout is real time
    by = f"cli:{_user_name()}"
    interrupted = _catch_interrupts()
    async with open_migrated_store(dsn, SystemClock()) as store:
        async with store.read() as conn:
            account = (await daemon_epoch.current(conn)).account_id
            alive = account is not None and await reporting_queries.is_account_locked(conn, account)
        if not alive and kind != "halt":
            raise NoDaemon(f"no daemon is running to {kind}: start it with `catalyst run`")
        async with store.tx("command") as conn:
            command_id = await commands.put(conn, kind, arguments, by=by, at=market.now())
            if (
                not alive
            ):  # the latch is obeyed before anything else, the command by a daemon that is just starting
                await latches.set_latch(
                    conn, "halt", reason=str(arguments["reason"]), by=by, at=market.now(), until=None
                )
        if not alive:
            return {"halted": True, "reason": arguments["reason"], "daemon": False}
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
                f"no answer after {max_wait.seconds} s: {await _withdraw(store, kind, command_id, market)}"
            )
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
        return f"the {kind} stays requested: the daemon, or the next one, carries it out within a day"
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


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return "unknown"


def _close_line(answer: Mapping[str, object]) -> str:
    if answer.get("market_open", True):
        return f"exiting {answer['symbol']}; `catalyst positions` shows when it is closed"
    return (
        f"the market is closed: {answer['symbol']} stays under its stop and is sold {answer['sold_when']}; "
        "`catalyst positions` shows when it is closed"
    )


def _flatten_line(answer: Mapping[str, object]) -> str:
    resume = "`catalyst resume` allows entries again"
    ended = (
        "the daemon has flattened and ended; start it with `catalyst run`; "
        if answer.get("daemon_ended")
        else ""
    )
    held = answer.get("held")
    if answer.get("flat"):
        return f"flat: no order, no position; {ended}{resume}"
    if not answer.get("market_open", True) and isinstance(held, list) and held:
        return (
            f"NOT flat, the market is closed: {', '.join(map(str, held))} stay under their stops and are sold "
            f"{answer['sold_when']}; {resume}"
        )
    return f"NOT proven flat: {answer.get('unproven_reason')}; {ended}check `catalyst status` and the broker's own app"


def _scan_line(answer: Mapping[str, object]) -> str:
    from catalyst.report.formatting import describe_funnel

    counts, plans = answer.get("counts"), answer.get("plans")
    steps = describe_funnel(counts) if isinstance(counts, dict) else ""
    chosen = ", ".join(map(str, plans)) if isinstance(plans, list) and plans else "nothing to trade"
    return f"{steps}: {chosen}"


def _resume_lines(answer: Mapping[str, object]) -> list[str]:
    cleared, still_closed = answer.get("cleared"), answer.get("still_closed")
    lines = [
        f"cleared: {', '.join(map(str, cleared))}"
        if isinstance(cleared, list) and cleared
        else "no latch was set"
    ]
    reasons = answer.get("reasons")
    if isinstance(still_closed, list) and still_closed:
        texts = reasons if isinstance(reasons, dict) else {}
        lines.append("entries stay blocked by:")
        lines += [f"  {name}: {texts.get(name, '')}" for name in still_closed]
    return lines
