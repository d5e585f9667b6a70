"""`catalyst demo`: the first thing a person runs."""

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
        typer.Option(help="Play recorded 1- or 5-minute bars instead of a generated market."),
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
    seed: Annotated[int, typer.Option(help="Which generated market.")] = 7,
    symbols: Annotated[int, typer.Option(min=50, max=20_000, help="How many it lists.")] = 4_200,
    speed: Annotated[
        float, typer.Option(min=1, max=5_000, help="Market seconds a second, while nothing is in flight.")
    ] = 800.0,
    keep: Annotated[
        Path | None, typer.Option(help="Write everything here (a new folder), and keep it for good.")
    ] = None,
    kill: Annotated[
        bool,
        typer.Option("--kill/--no-kill", help="Kill the daemon over its first entry, and start it again."),
    ] = True,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live screen.")] = False,
) -> None:
    """Trade a whole day in about a minute, against an exchange on this machine: no account, no keys, no money.

    Scans, entries, protection, exits and the report are the daemon's own; over its first entry it is killed with
    SIGKILL and started again; at the end the exchange audits the books. Exit code 0: the day was completed, what
    was held through the kill was protected to the share, and both sides agree on every fill and every cent.
    """
    from catalyst.demo.trading_day import Demo, DemoOptions
    from catalyst.demo.workspace import make_workspace
    from catalyst.report.live_screen import LineDisplay, LiveScreen, fits_live_screen

    if bar_minutes not in (None, 1, 5):
        raise UserError(f"--bar-minutes {bar_minutes}: the pipeline reads bars of 1 or 5 minutes")
    play = DemoOptions(
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
    show = LiveScreen(console, lines) if fits_live_screen(console) and not plain else lines
    outcome = asyncio.run(Demo(play, show, folder).run())
    _print_outcome(outcome, folder, keep is not None)
    raise typer.Exit(outcome.exit_code)


def _print_outcome(outcome: "DemoOutcome", folder: Path, kept: bool) -> None:
    """The report, the audit, where everything is, and what to do next."""
    from catalyst.report.terminal import render_day

    console = make_console()
    console.print()
    if outcome.day is not None:
        print_parts(console, render_day(outcome.day))
    if outcome.scene is not None:
        said = outcome.scene.result or "kill -9: no entry came, so nobody was killed"
        style = "bold green" if outcome.scene.is_over and outcome.scene.passed else "bold red"
        console.print(said.replace(": ", "   ", 1), style=style, highlight=False, soft_wrap=True)
    if outcome.agreement is not None:
        style = "bold green" if outcome.agreement.matches else "bold red"
        console.print(f"books     {outcome.agreement.sentence}", style=style, highlight=False, soft_wrap=True)
    if outcome.day is not None and outcome.day.cycle.status != "completed" and not outcome.interrupted:
        console.print(f"the day was not completed: the cycle is {outcome.day.cycle.status}", style="bold red")
    console.print(
        f"clock     {outcome.seconds:.0f} s for the day, {outcome.speed:,.0f} market seconds a second\n"
        f"files     {folder}: daemon.log, exchange.log, config.yaml, pg/ (the database)"
        + ("" if kept else "; kept until the next demo"),
        highlight=False,
        soft_wrap=True,
    )
    print_parts(console, _next_steps(outcome, folder))


def _next_steps(outcome: "DemoOutcome", folder: Path) -> list[str]:
    """Three commands that can be copied as they stand."""
    command = _command_name()
    traded = outcome.day.trades if outcome.day is not None else ()
    symbol = traded[0].symbol if traded else "SYMBOL"
    config = f"--config {folder / 'config.yaml'}"
    return [
        "",
        "next",
        f"  {command} explain {symbol} {config}",
        "      why it was traded; any other symbol too: which stage refused it, and the numbers",
        f"  {command} candidates {config}",
        "      what the last scan passed, and what became of each",
        f"  {command} check",
        "      then `sim` and `run` for a daemon of your own, or Alpaca's paper keys in .env and `run`",
    ]


def _command_name() -> str:
    """How this program is called here: `catalyst` where the shell finds it, else its path."""
    if shutil.which("catalyst"):
        return "catalyst"
    script = Path(sys.executable).with_name("catalyst")
    if not script.exists():
        return f"{sys.executable} -m catalyst"
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)
