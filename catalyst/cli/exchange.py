"""`catalyst sim`: the exchange alone, on a market of recorded or generated bars."""

import asyncio
import signal
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catalyst.cli import leashed
from catalyst.cli.operating import Leash
from catalyst.cli.settings import parse_day, run_async
from catalyst.clock import NEW_YORK, Clock, ScaledClock, SystemClock
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from catalyst.simulator.market_bars import BarMarket

SEED: Final = 7
DAY: Final = date(2026, 6, 17)  # an ordinary Wednesday; a generated market is the same whenever it is played


@dataclass(frozen=True, slots=True)
class Choice:
    """Which market is played."""

    recorded: tuple[Path, ...]
    quotes: tuple[Path, ...]
    daily: Path | None
    headlines: Path | None
    listings: Path | None
    day: date | None
    seed: int
    symbols: int


def sim(
    port: Annotated[int, typer.Option(help="Where to listen on the loopback; 0 takes a free port.")] = 8765,
    port_file: Annotated[
        Path | None, typer.Option(help="Write the port here once somebody can connect.")
    ] = None,
    generated: Annotated[
        int | None,
        typer.Option(metavar="SEED", help=f"Play a generated market.  (seed {SEED} when nothing is chosen)"),
    ] = None,
    symbols: Annotated[
        int, typer.Option(min=50, max=20_000, help="How many a generated market lists.")
    ] = 4_200,
    recorded: Annotated[
        list[Path] | None,
        typer.Option(
            help="Play these recorded bars of a second, 1 or 5 minutes, or single trades (Parquet or CSV)."
        ),
    ] = None,
    quotes: Annotated[
        list[Path] | None, typer.Option(help="Quote bars that belong to --recorded, of a second or a minute.")
    ] = None,
    daily: Annotated[Path | None, typer.Option(help="Daily bars that belong to --recorded.")] = None,
    headlines: Annotated[Path | None, typer.Option(help="Headlines that belong to --recorded.")] = None,
    listings: Annotated[
        Path | None, typer.Option(help="Names and sectors that belong to --recorded.")
    ] = None,
    day: Annotated[
        str | None, typer.Option(help="The day to play, YYYY-MM-DD (else the last one recorded)")
    ] = None,
    start: Annotated[
        str, typer.Option(help="When the market's clock starts: HH:MM New York of that day, or `now`.")
    ] = "09:25",
    speed: Annotated[float, typer.Option(min=0.01, help="Market seconds a second.")] = 1.0,
    state: Annotated[
        Path | None, typer.Option(help="Keep orders, positions and cash here, over restarts.")
    ] = None,
    clock_file: Annotated[
        Path | None,
        typer.Option(help="Follow this clock instead of making one: whoever drives it sets the pace."),
    ] = None,
    new_clock: Annotated[
        Path | None, typer.Option(help="Make the clock here, standing still until somebody drives it.")
    ] = None,
    write_listings: Annotated[
        Path | None, typer.Option(help="Write symbol, name and sector here, for universe.listings_file.")
    ] = None,
    leash: Leash = False,
) -> None:
    """Run an exchange that speaks Alpaca's protocol on this machine: no account, no keys, no money.

    It enforces the broker's rules and audits its own books (GET /admin/audit); any Alpaca client can talk to it.
    """
    if generated is not None and recorded:
        raise UserError("--generated and --recorded exclude each other: leave one out")
    if not recorded and (quotes or daily or headlines or listings):
        raise UserError("--quotes, --daily, --headlines and --listings belong to --recorded FILE")
    choice = Choice(
        recorded=tuple(recorded or ()),
        quotes=tuple(quotes or ()),
        daily=daily,
        headlines=headlines,
        listings=listings,
        day=parse_day(day),
        seed=SEED if generated is None else generated,
        symbols=symbols,
    )
    market = open_market(choice)
    if write_listings is not None:
        from catalyst.simulator.market_listings import write_listings as write

        write(market, write_listings)
    if leash:
        leashed.leave_with_parent(leashed.Farewell.END)
    with ExitStack() as stack:

        def temporary(name: str) -> Path:
            """A file that is gone when the exchange is."""
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="catalyst-sim-"))) / name

        path = clock_file or new_clock or temporary("clock")
        if clock_file is None and start != "now":
            ScaledClock.create(path, _start(market.day, start))
        clock = (
            _clock(path, drive=None if clock_file or new_clock else speed)
            if start != "now"
            else SystemClock()
        )
        ready = port_file or temporary("port")
        ready.unlink(missing_ok=True)
        run_async(lambda: _serve(market, choice, clock, path, port, ready, state))


def open_market(choice: Choice) -> "BarMarket":
    """The market chosen. Raises UserError for files or days it cannot be made of."""
    from catalyst.simulator import recorded

    try:
        if choice.recorded:
            return recorded.load(
                choice.recorded,
                daily=choice.daily,
                headlines=choice.headlines,
                listings=choice.listings,
                day=choice.day,
                quotes=choice.quotes,
            )
        from catalyst.simulator import generated

        return generated.make(choice.seed, choice.day or DAY, choice.symbols)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"this market cannot be played: {error}") from None


def _start(day: date, start: str) -> datetime:
    try:
        return datetime.combine(day, time.fromisoformat(start), NEW_YORK).astimezone(UTC)
    except ValueError:
        raise UserError(f"--start {start} is no time: write 09:25, or now") from None


def _clock(path: Path, *, drive: float | None) -> Clock:
    """The clock in that file; running at the speed `drive`, when it is ours to drive."""
    try:
        return ScaledClock(path) if drive is None else ScaledClock(path, drive=True, speed=drive)
    except (OSError, ValueError) as error:
        raise UserError(f"--clock-file {path} is no clock: {error}") from None


def _port(ready: Path) -> int | None:
    """The port the exchange listens on, once it does."""
    return int(ready.read_text()) if ready.exists() else None


async def _serve(
    market: "BarMarket",
    choice: Choice,
    clock: Clock,
    path: Path,
    port: int,
    ready: Path,
    state: Path | None,
) -> None:
    """The exchange answers until SIGINT or SIGTERM."""
    from catalyst.simulator import server

    options = server.SimOptions(market, clock, port=port, port_file=ready, state_dir=state)
    serving = asyncio.ensure_future(server.run(options))
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, serving.cancel)
    while not serving.done():
        await asyncio.wait({serving}, timeout=0.02)
        if (chosen := _port(ready)) is not None:
            typer.echo("\n".join(_greeting(market, choice, clock, path, chosen)))
            break
    try:
        await serving
    except asyncio.CancelledError:
        typer.echo("the exchange has closed")
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used ({error.strerror}): choose another with --port"
        ) from None


def _greeting(market: "BarMarket", choice: Choice, clock: Clock, path: Path, port: int) -> list[str]:
    source = "recorded" if choice.recorded else f"generated, seed {choice.seed}"
    now = clock.now().astimezone(NEW_YORK)
    lines = [
        f"exchange  http://127.0.0.1:{port}  key demo, secret demo",
        f"market    {market.day}, {len(market.assets()):,} symbols, {source}; it is {now:%H:%M} in New York",
    ]
    if isinstance(clock, ScaledClock):
        lines.append(f"clock     run the daemon on the same one:  CATALYST_CLOCK={path} catalyst run")
    return [*lines, "stop      Ctrl-C"]
