"""`catalyst demo`: one simulated trading day in about a minute, with a crash and an audit; needs no account."""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.output import make_console, print_parts
from catalyst.cli.settings import parse_day
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from catalyst.demo.trading_day import DemoOutcome


def demo(
    recorded: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded 1- or 5-minute bars to play instead of a generated market."),
    ] = None,
    daily: Annotated[Path | None, typer.Option(help="Daily bars that belong to --recorded.")] = None,
    headlines: Annotated[Path | None, typer.Option(help="Headlines that belong to --recorded.")] = None,
    listings: Annotated[
        Path | None, typer.Option(help="Names and sectors that belong to --recorded.")
    ] = None,
    day: Annotated[str | None, typer.Option(help="The day to play, YYYY-MM-DD.")] = None,
    bar_minutes: Annotated[
        int | None,
        typer.Option(help="Length of the bars the pipeline reads, 1 or 5 (generated 1, recorded 5)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the generated market.")] = 7,
    symbols: Annotated[int, typer.Option(min=50, max=20_000, help="The number of symbols it lists.")] = 4_200,
    speed: Annotated[
        float,
        typer.Option(min=1, max=5_000, help="Market seconds per real second, while no request is in flight."),
    ] = 800.0,
    keep: Annotated[
        Path | None,
        typer.Option(help="A new folder for all files of the demo, which stays after the next demo."),
    ] = None,
    kill: Annotated[
        bool,
        typer.Option("--kill/--no-kill", help="Kill the daemon during its first entry and start it again."),
    ] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live screen.")] = False,
) -> None:
    """Trade a whole day in about a minute, against an exchange on this machine: no account, no keys, no money.

    Scans, entries, protection, exits and the report are those of the real daemon. During its first entry the daemon
    is killed with SIGKILL and started again. At the end the exchange audits the database. Exit code 0: the day was
    completed, every share held during the kill was protected, and both sides agree on every fill and every cent.
    """
    from catalyst.demo.trading_day import Demo, DemoOptions
    from catalyst.demo.workspace import make_workspace
    from catalyst.report.live_screen import LineDisplay, LiveScreen, fits_live_screen

    if bar_minutes not in (None, 1, 5):
        raise UserError(f"--bar-minutes {bar_minutes}: the pipeline reads bars of 1 or 5 minutes")
    options = DemoOptions(
        seed=seed,
        symbols=symbols,
        day=parse_day(day),
        recorded=tuple(recorded or ()),
        daily=daily,
        headlines=headlines,
        listings=listings,
        bar_minutes=bar_minutes or (5 if recorded else 1),
        speed=speed,
        keep=keep,
        kill=kill,
    )
    console = make_console()
    lines = LineDisplay(console)
    console.print("Catalyst plays one trading day: no account, no keys, no network, no money", style="bold")
    folder = make_workspace(keep)
    console.print(f"everything it writes is in {folder}", style="dim", highlight=False, soft_wrap=True)
    display = LiveScreen(console, lines) if fits_live_screen(console) and not plain else lines
    outcome = asyncio.run(Demo(options, display, folder).run())
    _print_outcome(outcome, folder, keep is not None)
    raise typer.Exit(outcome.exit_code)


def _print_outcome(outcome: "DemoOutcome", folder: Path, permanent: bool) -> None:
    """Print the day's report, the result of the audit, the folder of the files and the next commands to try."""
    from catalyst.report.terminal import render_day

    console = make_console()
    console.print()
    if outcome.day is not None:
        print_parts(console, render_day(outcome.day))
    if outcome.scene is not None:
        result = outcome.scene.result or "kill -9: there was no entry, so the daemon was not killed"
        style = "bold green" if outcome.scene.is_over and outcome.scene.passed else "bold red"
        console.print(result.replace(": ", "   ", 1), style=style, highlight=False, soft_wrap=True)
    if outcome.agreement is not None:
        style = "bold green" if outcome.agreement.matches else "bold red"
        console.print(f"audit     {outcome.agreement.sentence}", style=style, highlight=False, soft_wrap=True)
    if outcome.day is not None and outcome.day.cycle.status != "completed" and not outcome.interrupted:
        console.print(f"the day was not completed: the cycle is {outcome.day.cycle.status}", style="bold red")
    console.print(
        f"clock     {outcome.seconds:.0f} s for the day, {outcome.speed:,.0f} market seconds per real second\n"
        f"files     {folder}: daemon.log, exchange.log, config.yaml, pg/ (the database)"
        + ("" if permanent else "; removed by the next demo"),
        highlight=False,
        soft_wrap=True,
    )
    print_parts(console, _next_steps(outcome, folder))


def _next_steps(outcome: "DemoOutcome", folder: Path) -> list[str]:
    """Return three commands, ready to be copied, with their explanations."""
    command = _command_name()
    traded = outcome.day.trades if outcome.day is not None else ()
    symbol = traded[0].symbol if traded else "SYMBOL"
    config = f"--config {folder / 'config.yaml'}"
    return [
        "",
        "next",
        f"  {command} explain {symbol} {config}",
        "      why it was traded; for any other symbol, the stage that refused it and the numbers",
        f"  {command} candidates {config}",
        "      the candidates of the last scan, and the result of each",
        f"  {command} check",
        "      then `sim` and `run` for your own daemon, or put Alpaca's paper keys into .env and `run`",
    ]


def _command_name() -> str:
    """Return the command of this program: `catalyst` when the shell finds it, else its path."""
    if shutil.which("catalyst"):
        return "catalyst"
    script = Path(sys.executable).with_name("catalyst")
    if not script.exists():
        return f"{sys.executable} -m catalyst"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)
