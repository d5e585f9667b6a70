"""`catalyst logs`: shows, filters, follows and saves the daemon's log."""

import shutil
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from catalyst.cli.log_lines import (
    LEVELS,
    LogFilter,
    LogLine,
    Style,
    date_line,
    format_line,
    no_style,
    parse_line,
    parse_since,
)
from catalyst.cli.masked_output import print_masked
from catalyst.cli.settings import run_async
from catalyst.clock import NEW_YORK, Clock, SystemClock
from catalyst.config.listing_names import broker_symbol
from catalyst.domain.errors import UserError

UNIT: Final = "catalyst"
MIN_WIDTH: Final = 40
LINES_BEFORE_FOLLOWING: Final = 10  # as tail and journalctl have it
_COLOURS: Final = {"warning": typer.colors.YELLOW, "error": typer.colors.RED, "critical": typer.colors.RED}


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the lines that come.")] = False,
    level: Annotated[
        str | None, typer.Option("--level", help="At least this one: debug, info, warning, error, critical.")
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option("--event", help="Only this event, or a pattern such as 'entry_*'.")
    ] = None,
    symbol: Annotated[list[str] | None, typer.Option("--symbol", help="Only this symbol.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="30m, 2h, 1d, 09:30 or 2026-11-30T09:30, New York time."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file of the daemon's JSON lines instead of the journal.")
    ] = None,
    unit: Annotated[str, typer.Option("--unit", help="The unit of systemd.")] = UNIT,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write to this new file instead of the terminal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The JSON lines as they were written.")] = False,
) -> None:
    """Show the daemon's log, from the journal (today's) or a file: one event per line, New York time."""
    if level is not None and level.lower() not in LEVELS:
        raise UserError(f"{level} is no level: write {', '.join(LEVELS)}")
    clock = SystemClock()
    began = None if since is None else parse_since(since, clock.now())
    chosen = LogFilter(
        level=None if level is None else level.lower(),
        events=tuple(event or ()),
        symbols=tuple(broker_symbol(name) for name in symbol or ()),
        since=began,
    )
    try:
        shown = run_async(
            lambda: _show(_lines_of(file, unit, began, clock, follow=follow), chosen, output, as_json)
        )
    except KeyboardInterrupt:
        raise typer.Exit(0) from None  # the usual end of --follow
    if not shown:
        typer.echo(_nothing_shown(file, unit, since), err=True)


def _nothing_shown(file: Path | None, unit: str, since: str | None) -> str:
    if file is not None:
        return f"no line of {file} matches"
    asked = "today" if since is None else f"since {since}"
    return (
        f"the journal has no matching line of {unit}.service {asked}: ask further back with --since 2d, or name the "
        "file of a daemon that does not run under systemd with --file"
    )


def _lines_of(
    file: Path | None, unit: str, since: datetime | None, clock: Clock, *, follow: bool
) -> AsyncGenerator[str, None]:
    from catalyst.cli.log_sources import file_lines, journal_lines

    if file is not None:
        return file_lines(file, clock, follow=follow, last=LINES_BEFORE_FOLLOWING if since is None else None)
    if follow:
        return journal_lines(unit, since, follow=True)
    midnight = clock.now().astimezone(NEW_YORK).replace(hour=0, minute=0, second=0, microsecond=0)
    return journal_lines(unit, since or midnight, follow=False)


async def _show(
    lines: AsyncGenerator[str, None], chosen: LogFilter, output: Path | None, as_json: bool
) -> bool:
    """Write the chosen lines; return false when there is none."""
    shown = False
    with ExitStack() as stack:
        write: Callable[[str], object] = print_masked if as_json else typer.echo
        width: int | None = _terminal_width()
        style: Style = _colour
        if output is not None:
            target = stack.enter_context(_new_file(output))
            write, width, style = (lambda text: target.write(f"{text}\n")), None, no_style
        day: date | None = None
        async with aclosing(lines):
            async for text in lines:
                line = parse_line(text)
                if not chosen.chooses(line):
                    continue
                shown = True
                if as_json:
                    if line.facts is not None:
                        write(line.text)
                    continue
                day = _begin_day(line, day, write)
                for part in format_line(line, width, style):
                    write(part)
    if output is not None:
        typer.echo(f"written to {output}", err=True)
    return shown


def _begin_day(line: LogLine, day: date | None, write: Callable[[str], object]) -> date | None:
    """Write the date before the first line of a day; return the day of the line."""
    if line.at is None:
        return day
    present = line.at.astimezone(NEW_YORK).date()
    if present != day:
        write(date_line(present))
    return present


def _terminal_width() -> int | None:
    """Return the columns of the terminal; None for a pipe, which gets one line per event."""
    return max(shutil.get_terminal_size().columns, MIN_WIDTH) if sys.stdout.isatty() else None


def _colour(text: str, level: str) -> str:
    colour = _COLOURS.get(level)
    return text if colour is None else typer.style(text, fg=colour, bold=level == "critical")


def _new_file(path: Path) -> TextIO:
    """Create a file that only its owner reads. Raises UserError when there is one, or when it cannot be written."""
    try:
        path.touch(mode=0o600, exist_ok=False)
        return path.open("w", encoding="utf-8", buffering=1)
    except FileExistsError:
        raise UserError(f"{path} exists: name a new file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
