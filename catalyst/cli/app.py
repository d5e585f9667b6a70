"""The command line: its commands, error messages and exit codes.

An error that the operator can correct prints one sentence on stderr and exits with 1, with 75 when another daemon
has the account, or with 78 when the configuration is wrong. Only a bug of Catalyst prints a traceback.
"""

import os
import sys
from typing import Annotated, Final

import typer

from catalyst.cli import (
    alerts,
    backup,
    bracket_trial,
    commands,
    configuration,
    history,
    init,
    install_service,
    masked_output,
    preflight,
    psql,
    queries,
    readiness,
    retention,
    risk_check,
    show_logs,
    simulator,
    stop,
    unit_alert,
)
from catalyst.cli import demo as demo_command
from catalyst.cli import doctor as doctor_command
from catalyst.cli import run as run_command
from catalyst.domain.errors import AnotherDaemonRunning, ConfigInvalid, UserError, WrongAccount
from catalyst.installation import VERSION

EX_TEMPFAIL: Final = 75  # sysexits: try again later; systemd does not restart on it
EX_CONFIG: Final = 78  # sysexits: the configuration must be edited first

app = typer.Typer(
    name="catalyst",
    help="A day-trading daemon for US equities on Alpaca: the database, the broker and the logs always show the "
    "same orders, fills and positions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: Final = {
    "Start here": (demo_command.demo, init.init, preflight.check),
    "Run": (
        run_command.run,
        simulator.sim,
        run_command.migrate,
        psql.psql,
        retention.retention,
        backup.backup,
        backup.restore,
        install_service.install_service,
    ),
    "Show": (
        queries.status,
        doctor_command.doctor,
        queries.report,
        queries.explain,
        queries.candidates,
        queries.orders,
        queries.positions,
        queries.cycles,
        history.performance,
        history.events,
        readiness.readiness,
        show_logs.logs,
    ),
    "Command the daemon": (
        commands.approve,
        commands.reject,
        commands.scan,
        commands.close,
        commands.halt,
        commands.resume,
        stop.stop,
        doctor_command.reconcile,
        commands.flatten,
    ),
}

for panel, verbs in COMMANDS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.command("test-alert", rich_help_panel="Start here")(alerts.send_test_alert)
app.command("risk-check", rich_help_panel="Start here")(risk_check.risk_check)
app.command("test-order", rich_help_panel="Start here")(bracket_trial.send_test_order)
app.add_typer(configuration.app, name="config", rich_help_panel="Start here")
app.command(hidden=True)(unit_alert.alert)  # called by systemd
app.add_typer(alerts.app, name="alerts", rich_help_panel="Show")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"catalyst {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """A day-trading daemon for US equities on Alpaca. Begin with `catalyst demo`: a whole day in about a minute."""


def main() -> None:
    """Run one command and exit with its exit code."""
    masked_output.install()
    try:
        app(prog_name="catalyst")
    except BrokenPipeError:  # `catalyst orders | head`: the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except BaseException as error:  # the edge of the process: message or traceback, by the type
        messages = error_messages(error)
        if messages is None:
            raise
        typer.secho("\n".join(messages), err=True, fg=typer.colors.RED)
        sys.exit(exit_code(error))


def error_messages(error: BaseException) -> list[str] | None:
    """Return the messages for the operator; None for a bug, whose traceback is needed."""
    if isinstance(error, BaseExceptionGroup):
        messages = [error_messages(inner) for inner in error.exceptions]
        return (
            None
            if any(lines is None for lines in messages)
            else [line for lines in messages for line in lines or []]
        )
    return [f"catalyst: {error}"] if isinstance(error, UserError) else None


def exit_code(error: BaseException) -> int:
    """Return 75 (another daemon runs) or 78 (wrong configuration) as in sysexits, else 1."""
    if isinstance(error, BaseExceptionGroup):
        return max(exit_code(inner) for inner in error.exceptions)
    if isinstance(error, AnotherDaemonRunning):
        return EX_TEMPFAIL
    return EX_CONFIG if isinstance(error, (ConfigInvalid, WrongAccount)) else 1
