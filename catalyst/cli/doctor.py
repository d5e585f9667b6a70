"""`catalyst doctor`: checks database, broker and journal and prints each issue with its fix, as JSON or text."""

import sys
from collections.abc import Iterator
from datetime import datetime
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from catalyst.cli.commands import send_command
from catalyst.cli.doctor_database import examine_database
from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    ConfigOption,
    JsonOption,
    database_dsn,
    open_clock,
    open_migrated_store,
    read_addresses,
    run_async,
    translate_connection_errors,
)
from catalyst.clock import SystemClock
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from catalyst.doctor.issues import Examination

EXIT_COULD_NOT_RUN = 3


def doctor(
    pretty: Annotated[
        bool, typer.Option("--pretty", help="Lines for people, the default on a terminal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, the default in a pipe.")] = False,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="Let the daemon reconcile the database with the broker, which sends no order; on a terminal also ask "
            "for each exit that would help.",
        ),
    ] = False,
    journal: Annotated[
        bool, typer.Option("--journal", help="Verify the whole journal against every stored proof.")
    ] = False,
    resolve: Annotated[
        str | None,
        typer.Option(
            "--resolve", metavar="NOTE", help="Mark all quarantined reports as checked, with a note."
        ),
    ] = None,
    database: Annotated[
        bool,
        typer.Option("--db", help="Report on the database itself: sizes, dead rows, locks, slow queries."),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Examine database, broker and journal; exit 0 without warnings, 1 warnings, 2 critical, 3 could not run."""
    if pretty and as_json:
        raise UserError("--pretty prints lines for people, --json prints JSON: choose one")
    pretty = prints_lines(sys.stdout, pretty=pretty, as_json=as_json)
    try:
        settings = read_addresses(config).settings
        if database:
            examine_database(settings, pretty=pretty)
        if resolve is not None:
            _resolve_quarantine(settings, resolve)
        examination = run_examination(settings, whole_journal=journal)
        fixed = apply_fixes(config, examination) if fix else []
        if fixed:
            examination = run_examination(settings, whole_journal=journal)
    except UserError as error:
        message = str(error)
        result = {"timestamp": SystemClock().now(), "error": message, "status": "ERROR"}
        print_result(result, not pretty, lambda: [f"ERROR {message}"])
        raise typer.Exit(EXIT_COULD_NOT_RUN) from None
    print_result(
        {**examination.as_dict, **({"fixed_by": fixed} if fix else {})},
        not pretty,
        lambda: _issue_lines(examination),
    )
    raise typer.Exit(examination.exit_code)


def prints_lines(target: TextIO, *, pretty: bool, as_json: bool) -> bool:
    """Return true when lines for people are printed: on a terminal unless --json, in a pipe only with --pretty.

    Scripts read the JSON of a doctor without options.
    """
    return pretty or (target.isatty() and not as_json)


def reconcile(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Let the daemon read all orders and positions of the broker now and update the database; no order is sent."""
    answer = send_command(config, "reconcile", {})
    print_result(answer, as_json, lambda: [_reconcile_line(answer)])


def apply_fixes(config: ConfigOption, examination: "Examination") -> list[str]:
    """Show the fixes, then run the safe one; ask on a terminal before each exit. Return the commands that were run."""
    from catalyst.doctor.issues import CLOSE, RECONCILE

    fixed: list[str] = []
    for issue in examination.issues:
        if issue.fix == RECONCILE or issue.fix.startswith(CLOSE):
            typer.echo(f"{issue.kind}: {issue.message} → {issue.fix}", err=True)
    if any(issue.fix == RECONCILE for issue in examination.issues):
        send_command(config, "reconcile", {})
        fixed.append(RECONCILE)
    exits = dict.fromkeys(issue.fix for issue in examination.issues if issue.fix.startswith(CLOSE))
    for command in exits if sys.stdin.isatty() else ():  # it trades: only a person may say so
        if typer.confirm(f"Run `{command}` now? It sends orders.", err=True):
            send_command(config, "close", {"symbol": command.removeprefix(CLOSE)})
            fixed.append(command)
    return fixed


def run_examination(settings: Settings, *, whole_journal: bool) -> "Examination":
    with database_dsn(settings, create=False) as dsn, translate_connection_errors(dsn):
        return examine_database_at(settings, dsn, whole_journal=whole_journal)


def examine_database_at(settings: Settings, dsn: str, *, whole_journal: bool) -> "Examination":
    """Examine the database of that address, with the broker and the folders of the settings."""

    async def run_checks() -> "Examination":
        from catalyst.broker.alpaca import AlpacaBroker
        from catalyst.doctor.examination import Journal, examine

        clock = open_clock(settings)
        key, secret = settings.keys
        async with open_migrated_store(dsn, clock) as store:
            broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
            try:
                return await examine(
                    store,
                    broker,
                    settings,
                    clock,
                    pause_clock=SystemClock(),
                    journal=Journal.WHOLE if whole_journal else Journal.SINCE_LAST_PROOF,
                )
            finally:
                await broker.close()

    return run_async(run_checks)


def _resolve_quarantine(settings: Settings, note: str) -> None:
    async def resolve_all(dsn: str) -> int:
        from catalyst.store import quarantine

        clock = open_clock(settings)
        async with open_migrated_store(dsn, clock) as store, store.tx("quarantine_resolved") as conn:
            return await quarantine.resolve_all(conn, by=getuser(), note=note, at=clock.now())

    with database_dsn(settings, create=False) as dsn, translate_connection_errors(dsn):
        count = run_async(lambda: resolve_all(dsn))
    typer.echo(f"{count} quarantined reports are marked as checked: {note}", err=True)


def _reconcile_line(answer: object) -> str:
    facts = answer if isinstance(answer, dict) else {}
    result = f"{facts.get('orders_applied')} orders read, {facts.get('fills_booked')} fills booked"
    discrepancies = facts.get("discrepancies")
    return result + (
        f"; discrepancies left: {', '.join(map(str, discrepancies))}"
        if discrepancies
        else "; the order ledger agrees with the broker"
    )


def _issue_lines(examination: "Examination") -> "Iterator[Text]":
    from rich.text import Text

    styles = {"CRITICAL": "bold red", "WARNING": "yellow", "INFO": "cyan", "OK": "bold green"}
    broker = f"{examination.mode} answers" if examination.mode is not None else "does not answer"
    pipeline = examination.pipeline
    yield Text(
        f"{examination.status}: {len(examination.issues)} issues, broker {broker}",
        style=styles[examination.status],
    )
    yield Text(f"cycle     {pipeline.get('cycle_id') or 'none today'} {pipeline['status']}")
    delivered_at = examination.alerts["last_delivered_at"]
    when = f"{delivered_at:%Y-%m-%d %H:%M} UTC" if isinstance(delivered_at, datetime) else "never"
    yield Text(f"alerts    {examination.alerts['waiting']} waiting, last delivered {when}")
    for issue in examination.issues:
        line = Text(f"{issue.severity:<9} ", style=styles[issue.severity])
        line.append(f"{issue.kind}: {issue.message}  → {issue.fix}", style="default not bold")
        yield line
