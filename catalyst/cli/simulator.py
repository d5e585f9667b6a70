"""`catalyst sim`: the exchange alone, on a market of recorded or generated bars."""

import asyncio
import errno
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catalyst.cli import parent_watch
from catalyst.cli.run import ExitWithParentOption
from catalyst.cli.settings import parse_day, run_async
from catalyst.cli.simulator_start import DEFAULT_START, last_saved_instant, parse_start
from catalyst.clock import NEW_YORK, Clock, ScaledClock, SystemClock
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from catalyst.simulator.market.bar_market import BarMarket

LOOPBACK: Final = "127.0.0.1"
DEFAULT_SEED: Final = 7
DEFAULT_DAY: Final = date(
    2026, 6, 17
)  # an ordinary Wednesday; a generated market is the same whenever it is played


@dataclass(frozen=True, slots=True)
class MarketChoice:
    """Which market is played."""

    recorded: tuple[Path, ...]
    quotes: tuple[Path, ...]
    daily: Path | None
    headlines: Path | None
    listings: Path | None
    day: date | None
    seed: int
    symbols: int


MARKET_PANEL: Final = "Which market"
CLOCK_PANEL: Final = "Its time"
LISTEN_PANEL: Final = "Where"
DAEMON_PANEL: Final = "With a Catalyst daemon on the same clock"


def sim(
    port: Annotated[
        int,
        typer.Option(
            help="Where to listen on the loopback; 0 takes a free port.", rich_help_panel=LISTEN_PANEL
        ),
    ] = 8765,
    port_file: Annotated[
        Path | None,
        typer.Option(help="Write the port here once somebody can connect.", rich_help_panel=LISTEN_PANEL),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Keep orders, positions, cash and the time here, over restarts and into later days.",
            rich_help_panel=LISTEN_PANEL,
        ),
    ] = None,
    generated: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            help=f"Play a generated market, AAPL, MSFT and SPY in it.  (seed {DEFAULT_SEED} when nothing is chosen)",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = None,
    symbols: Annotated[
        int,
        typer.Option(
            min=50, max=20_000, help="How many a generated market lists.", rich_help_panel=MARKET_PANEL
        ),
    ] = 4_200,
    recorded: Annotated[
        list[Path] | None,
        typer.Option(
            help="Play these recorded bars of a second, 1 or 5 minutes, or single trades (Parquet or CSV).",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = None,
    quotes: Annotated[
        list[Path] | None,
        typer.Option(
            help="Quotes that belong to --recorded: single ones, or bars of a second or a minute.",
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
            help=f"The day to play, YYYY-MM-DD; half days are short.  (else the last one recorded, or {DEFAULT_DAY})",
            rich_help_panel=MARKET_PANEL,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="When its clock starts: HH:MM in New York, `YYYY-MM-DD HH:MM`, or `now` for the wall clock's time."
            f"  (else where --state stopped, or {DEFAULT_START}: the market is open from 09:30 to 16:00)",
            rich_help_panel=CLOCK_PANEL,
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Market seconds a second; 0 stands still until POST /admin/clock moves it.",
            rich_help_panel=CLOCK_PANEL,
        ),
    ] = 1.0,
    clock_file: Annotated[
        Path | None,
        typer.Option(
            help="Follow this clock instead of making one: whoever drives it sets the pace.",
            rich_help_panel=DAEMON_PANEL,
        ),
    ] = None,
    new_clock: Annotated[
        Path | None,
        typer.Option(
            help="Make the clock here, standing still until somebody drives it.", rich_help_panel=DAEMON_PANEL
        ),
    ] = None,
    write_listings: Annotated[
        Path | None,
        typer.Option(
            help="Write symbol, name and sector here, for universe.listings_file.",
            rich_help_panel=DAEMON_PANEL,
        ),
    ] = None,
    exit_with_parent: ExitWithParentOption = False,
) -> None:
    """Run an exchange that speaks Alpaca's protocol on this machine: no account, no keys, no money.

    Any Alpaca client trades on it: give it the base URL printed at the start,
    and demo as key and as secret. It enforces the broker's rules, keeps exact
    books, and misbehaves when told to. It plays one day, then the tape is silent;
    the next one goes on with the same --state, from --day or --start.

    Its side door takes no keys:
    GET  /admin/state  /admin/audit (are the books clean?)  /admin/logs
    POST /admin/clock  {"speed": 60}, {"speed": 0} to pause,
                       {"seconds": 5} to step, {"to": "15:59"} to jump
    POST /admin/faults  /admin/settings  /admin/halt  /admin/market

    docs/your-own-bot.md has curl, Python and JavaScript;
    docs/simulator.md has every switch and every fault.

    catalyst sim
    catalyst sim --speed 60 --generated 42
    catalyst sim --day 2026-11-27 --start 12:30     (a half day)
    catalyst sim --recorded bars.parquet --state ~/sim
    """
    if generated is not None and recorded:
        raise UserError("--generated and --recorded exclude each other: leave one out")
    if not recorded and (quotes or daily or headlines or listings):
        raise UserError("--quotes, --daily, --headlines and --listings belong to --recorded FILE")
    begin = parse_start(start, parse_day(day))
    choice = MarketChoice(
        recorded=tuple(recorded or ()),
        quotes=tuple(quotes or ()),
        daily=daily,
        headlines=headlines,
        listings=listings,
        day=begin.day,
        seed=DEFAULT_SEED if generated is None else generated,
        symbols=symbols,
    )
    check_port(port)
    if sys.stderr.isatty():
        typer.echo("making the market ...", err=True)
    market = open_market(choice)
    first = begin.first_instant(market.day)
    if state is not None:
        last = last_saved_instant(state, _market_label(choice), market.day)
        if last is not None and first is not None:
            goes_on = last.astimezone(NEW_YORK).date() == market.day
            first = last if start is None and goes_on else max(first, last)
    if write_listings is not None:
        from catalyst.simulator.market.listings_file import write_listings as write

        write(market, write_listings)
    if exit_with_parent:
        parent_watch.exit_with_parent(parent_watch.ParentExitSignal.TERMINATE)
    with ExitStack() as stack:

        def temporary(name: str) -> Path:
            """A file that is gone when the exchange is."""
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="catalyst-sim-"))) / name

        path = clock_file or new_clock or temporary("clock")
        if clock_file is None and first is not None:
            ScaledClock.create(path, first)
        clock = (
            _open_clock_file(path, drive=None if clock_file or new_clock else speed)
            if first is not None or clock_file is not None
            else SystemClock()
        )
        ready = port_file or temporary("port")
        ready.unlink(missing_ok=True)
        run_async(lambda: _serve_until_signal(market, choice, clock, path, port, ready, state))


def _market_label(choice: MarketChoice) -> str:
    """What a market is called, whichever of its days is played."""
    if choice.recorded:
        return f"recorded {' '.join(file.name for file in choice.recorded)}"
    return f"generated {choice.seed}, {choice.symbols} symbols"


def check_port(port: int) -> None:
    """Nobody listens there: said before the market is made, which takes seconds. Raises UserError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise _port_error(port, error) from None
        except OverflowError:
            raise UserError(f"port {port} cannot be: choose another with --port, up to 65535") from None


def _port_error(port: int, error: OSError) -> UserError:
    why = (
        "is taken by another program"
        if error.errno == errno.EADDRINUSE
        else f"cannot be used ({error.strerror})"
    )
    return UserError(f"port {port} {why}: choose another with --port, or 0 for any that is free")


def open_market(choice: MarketChoice) -> "BarMarket":
    """The market chosen. Raises UserError for files or days it cannot be made of."""
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

        return synthetic_market.make_market(choice.seed, choice.day or DEFAULT_DAY, choice.symbols)
    except FileNotFoundError as error:
        raise UserError(f"this market cannot be played: {error.filename or error} is not there") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"this market cannot be played: {error}") from None


def _open_clock_file(path: Path, *, drive: float | None) -> Clock:
    """The clock in that file; running at the speed `drive`, when it is ours to drive."""
    try:
        return ScaledClock(path) if drive is None else ScaledClock(path, drive=True, speed=drive)
    except (OSError, ValueError) as error:
        raise UserError(f"--clock-file {path} is no clock: {error}") from None


def _read_port(port_file: Path) -> int | None:
    """The port the exchange listens on, once it does."""
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
    """The exchange answers until SIGINT or SIGTERM."""
    from catalyst.simulator import server

    options = server.SimOptions(market, clock, port=port, port_file=port_file, state_dir=state)
    serving = asyncio.ensure_future(server.serve_until_cancelled(options))
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, serving.cancel)
    while not serving.done():
        await asyncio.wait({serving}, timeout=0.02)
        if (chosen := _read_port(port_file)) is not None:
            typer.echo("\n".join(_banner(market, choice, clock, clock_file, chosen)))
            break
    try:
        await serving
    except asyncio.CancelledError:
        typer.echo("the exchange has closed")
    except OSError as error:
        raise _port_error(port, error) from None


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
        f"streams   ws://{base}/stream  (trade_updates), ws://{base}/v2/iex, ws://{base}/v1beta1/news",
        f"market    {market.day}, {len(market.assets()):,} symbols, {source}",
        f"time      {now:%a %Y-%m-%d %H:%M} in New York, {state}",
    ]
    if isinstance(clock, ScaledClock) and clock.is_driver:
        lines.append(f'          pause, step, jump:  curl http://{base}/admin/clock -d \'{{"to": "15:55"}}\'')
    if isinstance(clock, ScaledClock):
        lines.append(f"clock     run the daemon on the same one:  CATALYST_CLOCK={clock_file} catalyst run")
    return [*lines, "stop      Ctrl-C"]
