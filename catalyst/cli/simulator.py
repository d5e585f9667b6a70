"""`catalyst sim`: the simulated exchange as a process, on a market of recorded or generated bars."""

import asyncio
import errno
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catalyst.cli import parent_watch
from catalyst.cli.run import ExitWithParentOption
from catalyst.cli.settings import parse_day, run_async
from catalyst.cli.simulator_start import (
    DEFAULT_START,
    day_to_continue,
    day_with_session,
    last_saved_instant,
    new_account_id,
    parse_start,
)
from catalyst.clock import NEW_YORK, Clock, ScaledClock, SystemClock
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from catalyst.simulator.market.bar_market import BarMarket

LOOPBACK: Final = "127.0.0.1"
DEFAULT_SEED: Final = 7


@dataclass(frozen=True, slots=True)
class MarketChoice:
    """The market to run: recorded files, or the seed and size of a generated market."""

    recorded: tuple[Path, ...]
    quotes: tuple[Path, ...]
    daily: Path | None
    headlines: Path | None
    listings: Path | None
    day: date | None
    seed: int
    symbols: int


MARKET_PANEL: Final = "Market"
CLOCK_PANEL: Final = "Clock"
LISTEN_PANEL: Final = "Port and state"
DAEMON_PANEL: Final = "With a Catalyst daemon on the same clock"


def sim(
    port: Annotated[
        int,
        typer.Option(
            help="The port on the loopback address; 0 takes a free one.", rich_help_panel=LISTEN_PANEL
        ),
    ] = 8765,
    port_file: Annotated[
        Path | None,
        typer.Option(
            help="A file for the port, written once clients can connect.", rich_help_panel=LISTEN_PANEL
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="A folder for account, orders, positions, cash and the time, to continue after a restart, and with the"
            " next day once a day is over.",
            rich_help_panel=LISTEN_PANEL,
        ),
    ] = None,
    generated: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            help=f"Play a generated market with AAPL, MSFT and SPY.  (the default, with seed {DEFAULT_SEED})",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = None,
    symbols: Annotated[
        int,
        typer.Option(
            min=50,
            max=20_000,
            help="The number of symbols in a generated market.",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = 4_200,
    recorded: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recorded bars of 1 second, 1 or 5 minutes, or single trades, to replay (Parquet or CSV).",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = None,
    quotes: Annotated[
        list[Path] | None,
        typer.Option(
            help="Quotes that belong to --recorded: single quotes, or bars of 1 second or 1 minute.",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = None,
    daily: Annotated[
        Path | None, typer.Option(help="Daily bars that belong to --recorded.", rich_help_panel=MARKET_PANEL)
    ] = None,
    headlines: Annotated[
        Path | None, typer.Option(help="Headlines that belong to --recorded.", rich_help_panel=MARKET_PANEL)
    ] = None,
    listings: Annotated[
        Path | None,
        typer.Option(help="Names and sectors that belong to --recorded.", rich_help_panel=MARKET_PANEL),
    ] = None,
    day: Annotated[
        str | None,
        typer.Option(
            help="The day to run, YYYY-MM-DD; half days are short. For a day without a session a generated market "
            "plays the last one before it.  (default: today in New York, or the last recorded day)",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="The start time of the clock: HH:MM in New York, `YYYY-MM-DD HH:MM`, or `now` (the wall clock)."
            f"  (default: where --state stopped, or {DEFAULT_START}; the market is open from 09:30 to 16:00)",
            rich_help_panel=CLOCK_PANEL,
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Market seconds per real second; 0 stops the clock until POST /admin/clock moves it.",
            rich_help_panel=CLOCK_PANEL,
        ),
    ] = 1.0,
    clock_file: Annotated[
        Path | None,
        typer.Option(
            help="Follow this existing clock; the process that drives it sets the speed.",
            rich_help_panel=DAEMON_PANEL,
        ),
    ] = None,
    new_clock: Annotated[
        Path | None,
        typer.Option(
            help="Create the clock file here; it is stopped until a process drives it.",
            rich_help_panel=DAEMON_PANEL,
        ),
    ] = None,
    write_listings: Annotated[
        Path | None,
        typer.Option(
            help="A file for symbol, name and sector, for universe.listings_file.",
            rich_help_panel=DAEMON_PANEL,
        ),
    ] = None,
    exit_with_parent: ExitWithParentOption = False,
) -> None:
    """Run an exchange that speaks Alpaca's protocol on this machine: no account, no keys, no money.

    Any Alpaca client trades on it: give it the base URL printed at the start,
    and demo as key and as secret. It enforces the broker's rules, accounts for
    every cent, and injects faults on request. It plays one day, then prints end;
    the same --state continues with that account, on the next day once the day is
    over. Without --state each start is a new account.

    The admin API needs no keys:
    GET  /admin/state  /admin/audit (is the accounting exact?)  /admin/logs
    POST /admin/clock  {"speed": 60}, {"speed": 0} to pause,
                       {"seconds": 5} to step, {"to": "15:59"} to jump
    POST /admin/faults  /admin/settings  /admin/halt  /admin/market

    docs/your-own-bot.md has curl, Python and JavaScript;
    docs/simulator.md has every setting and every fault.

    catalyst sim
    catalyst sim --speed 60 --generated 42
    catalyst sim --day 2026-11-27 --start 12:30     (a half day)
    catalyst sim --day 2026-06-17       (an equal day at each start)
    catalyst sim --recorded bars.parquet --state ~/sim
    """
    if generated is not None and recorded:
        raise UserError("--generated and --recorded exclude each other: leave one out")
    if not recorded and (quotes or daily or headlines or listings):
        raise UserError("--quotes, --daily, --headlines and --listings belong to --recorded FILE")
    market_start = parse_start(start, parse_day(day))
    choice = MarketChoice(
        recorded=tuple(recorded or ()),
        quotes=tuple(quotes or ()),
        daily=daily,
        headlines=headlines,
        listings=listings,
        day=market_start.day,
        seed=DEFAULT_SEED if generated is None else generated,
        symbols=symbols,
    )
    check_port(port)
    if sys.stderr.isatty():
        typer.echo("creating the market ...", err=True)
    choice = _with_day(choice, state if choice.day is None else None)
    market = open_market(choice)
    first = market_start.first_instant(market.day)
    if state is not None:
        last_saved = last_saved_instant(state, _market_label(choice), market.day)
        if last_saved is not None and first is not None:
            is_same_day = last_saved.astimezone(NEW_YORK).date() == market.day
            first = last_saved if start is None and is_same_day else max(first, last_saved)
    if write_listings is not None:
        from catalyst.simulator.market.listings_file import write_listings as write_file

        write_file(market, write_listings)
    if exit_with_parent:
        parent_watch.exit_with_parent(parent_watch.ParentExitSignal.TERMINATE)
    with ExitStack() as stack:

        def temporary(name: str) -> Path:
            """Return a file path that is removed when the exchange ends."""
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="catalyst-sim-"))) / name

        path = clock_file or new_clock or temporary("clock")
        if clock_file is None and first is not None:
            ScaledClock.create(path, first)
        clock = (
            _open_clock_file(path, drive=None if clock_file or new_clock else speed)
            if first is not None or clock_file is not None
            else SystemClock()
        )
        ready_file = port_file or temporary("port")
        ready_file.unlink(missing_ok=True)
        run_async(lambda: _serve_until_signal(market, choice, clock, path, port, ready_file, state))


def _with_day(choice: MarketChoice, state: Path | None) -> MarketChoice:
    """Return the choice with the day to run: the one at which a kept state continues, else the wanted one, else
    today; a recorded market has only its own days."""
    if choice.recorded:
        return choice
    kept = None if state is None else day_to_continue(state, _market_label(choice))
    return replace(choice, day=kept or day_with_session(choice.day))


def _market_label(choice: MarketChoice) -> str:
    """Return the name of a market, which is equal for all of its days."""
    if choice.recorded:
        return f"recorded {' '.join(file.name for file in choice.recorded)}"
    return f"generated {choice.seed}, {choice.symbols} symbols"


def check_port(port: int) -> None:
    """Check that the port is free before the market is created, which takes seconds. Raises UserError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise _port_error(port, error) from None
        except OverflowError:
            raise UserError(f"port {port} is not valid: choose one from 0 to 65535 with --port") from None


def _port_error(port: int, error: OSError) -> UserError:
    reason = (
        "is taken by another program"
        if error.errno == errno.EADDRINUSE
        else f"cannot be used ({error.strerror})"
    )
    return UserError(f"port {port} {reason}: choose another with --port, or 0 for any that is free")


def open_market(choice: MarketChoice) -> "BarMarket":
    """Load or generate the chosen market. Raises UserError for files or days that do not give a market."""
    from catalyst.simulator.recorded import market as recorded_market

    try:
        if choice.recorded:
            return recorded_market.load_market(
                choice.recorded,
                daily=choice.daily,
                headlines=choice.headlines,
                listings=choice.listings,
                day=choice.day,
                quotes=choice.quotes,
            )
        from catalyst.simulator.synthetic import market as synthetic_market

        return synthetic_market.make_market(choice.seed, choice.day or day_with_session(None), choice.symbols)
    except FileNotFoundError as error:
        raise UserError(
            f"this market cannot be loaded: the file {error.filename or error} does not exist"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"this market cannot be loaded: {error}") from None


def _open_clock_file(path: Path, *, drive: float | None) -> Clock:
    """Return the clock of that file; this process drives it at the speed `drive` unless that is None.

    Raises UserError when the file is not a clock file.
    """
    try:
        return ScaledClock(path) if drive is None else ScaledClock(path, drive=True, speed=drive)
    except (OSError, ValueError) as error:
        raise UserError(f"--clock-file {path} is not a clock file: {error}") from None


def _read_port(port_file: Path) -> int | None:
    """Return the port on which the exchange listens; None while it does not listen yet."""
    return int(port_file.read_text()) if port_file.exists() else None


async def _serve_until_signal(
    market: "BarMarket",
    choice: MarketChoice,
    clock: Clock,
    clock_file: Path,
    port: int,
    port_file: Path,
    state: Path | None,
) -> None:
    """Run the exchange until SIGINT or SIGTERM."""
    from catalyst.simulator import server

    options = server.SimOptions(
        market, clock, port=port, port_file=port_file, state_dir=state, account_id=new_account_id()
    )
    serving = asyncio.ensure_future(server.serve_until_cancelled(options))
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, serving.cancel)
    while not serving.done():
        await asyncio.wait({serving}, timeout=0.02)
        if (bound_port := _read_port(port_file)) is not None:
            typer.echo("\n".join(_banner(market, choice, clock, clock_file, bound_port)))
            break
    try:
        await serving
    except asyncio.CancelledError:
        typer.echo("the exchange has closed")
    except OSError as error:
        raise _port_error(port, error) from None


def _date_lines(day: date, wall_time: datetime) -> list[str]:
    """Return what a client must know whose own clock does not show the market's time."""
    if day == wall_time.date():
        return [
            f"dates     the market's day is today, {day}; its time is its own: ask /v2/clock, not your computer"
        ]
    return [
        f"dates     the market's day is {day}, not today ({wall_time:%a %Y-%m-%d} in New York): a client that asks by",
        "          its own clock finds nothing newer; give it dates of that day, or ask /v2/clock",
    ]


def _banner(
    market: "BarMarket", choice: MarketChoice, clock: Clock, clock_file: Path, port: int
) -> list[str]:
    source = "recorded" if choice.recorded else f"generated, seed {choice.seed}"
    now = clock.now().astimezone(NEW_YORK)
    session = market.session(now.date())
    state = "open" if session is not None and session.open <= now < session.close else "closed"
    base = f"{LOOPBACK}:{port}"
    lines = [
        f"exchange  http://{base}  key demo, secret demo",
        *_date_lines(market.day, SystemClock().now().astimezone(NEW_YORK)),
        f"streams   ws://{base}/stream  (trade_updates), ws://{base}/v2/iex, ws://{base}/v1beta1/news",
        f"market    {market.day}, {len(market.assets()):,} symbols, {source}",
        f"time      {now:%a %Y-%m-%d %H:%M} in New York, {state}",
    ]
    lines.append(f"set       APCA_API_BASE_URL=http://{base} APCA_API_DATA_URL=http://{base}")
    lines.append(f"          or url_override=http://{base} (alpaca-py); other clients: docs/your-own-bot.md")
    if isinstance(clock, ScaledClock) and clock.is_driver:
        lines.append(f'          pause, step, jump:  curl http://{base}/admin/clock -d \'{{"to": "15:55"}}\'')
    if isinstance(clock, ScaledClock):
        lines.append("daemon    catalyst run  (trading.mode: sim; it finds this clock by itself)")
        lines.append(f"clock     {clock_file}")
    return [*lines, "stop      Ctrl-C"]
