"""The verbs that ask: what it saw, what it decided, what it holds, and why."""

from dataclasses import asdict
from datetime import date, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, is_embedded, open_clock, parse_day, query_store
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError
from catalyst.domain.session import trading_date

if TYPE_CHECKING:
    from catalyst.report.day import DayReport
    from catalyst.report.explain import Explanation
    from catalyst.report.status import PositionLine, SystemStatus
    from catalyst.store.candidates import CandidateRow
    from catalyst.store.cycles import CycleRow
    from catalyst.store.orders import OrderRow
    from catalyst.store.pool import Connection, Store
    from catalyst.store.positions import PositionRow
    from catalyst.store.reporting_queries import SessionRow

CycleOption = Annotated[str | None, typer.Option("--cycle", help="A cycle's id (else the latest day).")]
SymbolOption = Annotated[str | None, typer.Option("--symbol", help="Only this symbol.")]


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show whether all is well, what is held, what waits, and why there is a scan or none; exit 1 unless healthy."""

    async def read(store: "Store", settings: Settings) -> "tuple[SystemStatus, Settings]":
        from catalyst.report import status as status_report
        from catalyst.store import reporting_queries

        at = open_clock(settings).now()
        async with store.read() as conn:
            session = await reporting_queries.session_of(conn, trading_date(at))
            return await status_report.read_status(
                conn, at, next_scan=_next_scan(session, settings, at)
            ), settings

    seen, settings = query_store(config, read)
    from catalyst.report.tables import render_status

    facts = {
        "healthy": seen.healthy,
        "version": version("catalyst"),
        "mode": settings.mode,
        "session_mode": settings.session_mode,
        "broker": settings.trading_url,
        "database": "embedded" if is_embedded(settings) else "DATABASE_URL",
        **asdict(seen),
    }
    print_result(facts, as_json, lambda: render_status(seen))
    if not seen.healthy:
        raise typer.Exit(1)


def _next_scan(session: "SessionRow | None", settings: Settings, at: datetime) -> datetime | None:
    """The next scan of the day's schedule."""
    if session is None:
        return None
    from catalyst.daemon.trading_day.schedule import Job, market_day
    from catalyst.domain.session import Session

    day = market_day(Session(session.day, session.open, session.close), settings.config)
    return next((one.at for one in day if one.at > at and one.job in (Job.FIRST_SCAN, Job.SCAN)), None)


def explain(
    symbol: Annotated[str, typer.Argument(help="Any symbol of the broker's list.")],
    day: Annotated[str | None, typer.Option("--day", help="YYYY-MM-DD (else the latest day).")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="The details of every scan, not of the best one.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell why a symbol was or was not traded: the stage that dropped it in each scan, and the numbers."""
    wanted = parse_day(day)

    async def read(store: "Store", _: Settings) -> "Explanation | None":
        from catalyst.report.explain import explain as explained

        async with store.read() as conn:
            return await explained(conn, symbol, wanted)

    result = query_store(config, read)
    if result is None:
        raise UserError(
            f"nothing is known of {symbol.upper()}{f' on {day}' if day else ''}: the broker does not list it, or no "
            "day has been traded; `catalyst cycles` lists the days"
        )
    from catalyst.report.tables import render_explanation

    print_result(result, as_json, lambda: render_explanation(result, every_scan=every))


def candidates(
    cycle: CycleOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Of every scan of the day, not of the last one.")
    ] = False,
    symbol: SymbolOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what passed a scan, best first, with the stage that refused it and the reason."""

    async def read(store: "Store", _: Settings) -> "list[CandidateRow]":
        from catalyst.store import candidates as kept

        async with store.read() as conn:
            day = await _find_cycle(conn, cycle)
            scans = [] if day is None else await kept.scans_of(conn, day.cycle_id)
            if day is None or not scans:
                return []
            if every or symbol:
                rows = await kept.of_cycle(conn, day.cycle_id)
                return [row for row in rows if symbol is None or row.symbol == symbol.upper()]
            return await kept.of_scan(conn, scans[-1].scan_id)

    rows = query_store(config, read)
    from catalyst.report.tables import render_candidates

    print_result(rows, as_json, lambda: render_candidates(rows))


def orders(
    cycle: CycleOption = None,
    symbol: SymbolOption = None,
    working: Annotated[bool, typer.Option("--working", help="Only those that have not ended.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a day's orders with their legs and exits."""

    async def read(store: "Store", _: Settings) -> "list[OrderRow]":
        from catalyst.store import orders as kept
        from catalyst.store import reporting_queries

        async with store.read() as conn:
            if working:
                rows = await kept.working(conn)
            else:
                day = await _find_cycle(conn, cycle)
                rows = [] if day is None else await reporting_queries.orders_of_day(conn, day.cycle_id)
        return [row for row in rows if symbol is None or row.symbol == symbol.upper()]

    rows = query_store(config, read)
    from catalyst.report.tables import render_orders

    print_result(rows, as_json, lambda: render_orders(rows))


def positions(
    status: Annotated[str, typer.Option(help="open, closed or all.")] = "all",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many closed ones at most.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is held, with stop, target and worst case, and what was."""
    if status not in ("open", "closed", "all"):
        raise UserError(f"--status {status}: say open, closed or all")

    async def read(
        store: "Store", settings: Settings
    ) -> "tuple[tuple[PositionLine, ...], list[PositionRow]]":
        from catalyst.report import status as status_report
        from catalyst.store import reporting_queries

        at = open_clock(settings).now()
        async with store.read() as conn:
            held = () if status == "closed" else (await status_report.read_status(conn, at)).positions
            closed = (
                [] if status == "open" else await reporting_queries.recent_positions(conn, "closed", limit)
            )
        return held, closed

    held, closed = query_store(config, read)
    from catalyst.report.day import trade_of
    from catalyst.report.tables import render_positions

    trades = [trade_of(row) for row in reversed(closed)]
    print_result({"open": held, "closed": trades}, as_json, lambda: render_positions(held, trades))


def cycles(
    cycle: Annotated[str | None, typer.Argument(metavar="[ID]", help="One cycle, with its figures.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the trading days, newest first, or tell of one."""
    if cycle is not None:
        _print_report(config, as_json, cycle=cycle)
        return

    async def read(store: "Store", _: Settings) -> "list[CycleRow]":
        from catalyst.store import cycles as kept

        async with store.read() as conn:
            return await kept.recent(conn, limit)

    rows = query_store(config, read)
    from catalyst.report.tables import render_cycles

    print_result(rows, as_json, lambda: render_cycles(rows))


def report(
    day: Annotated[str | None, typer.Argument(help="YYYY-MM-DD (else the latest day).")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a day's result: trades, exits by reason, drawdown, protection, and the funnel of each scan."""
    _print_report(config, as_json, day=parse_day(day))


def _print_report(
    config: ConfigOption, as_json: bool, *, day: date | None = None, cycle: str | None = None
) -> None:
    async def read(store: "Store", _: Settings) -> "DayReport | None":
        from catalyst.report.day import read_day_report

        async with store.read() as conn:
            wanted = day if cycle is None else getattr(await _find_cycle(conn, cycle), "cycle_date", None)
            return await read_day_report(conn, wanted)

    result = query_store(config, read)
    if result is None:
        raise UserError(
            f"there is no trading day{f' {day}' if day else ''} on record; `catalyst cycles` lists them"
        )
    from catalyst.report.terminal import render_day

    print_result(result, as_json, lambda: render_day(result))


async def _find_cycle(conn: "Connection", cycle_id: str | None) -> "CycleRow | None":
    """The cycle of that id, else the latest; None when there is none at all."""
    from catalyst.store import cycles as kept

    if cycle_id is None:
        recent = await kept.recent(conn, 1)
        return recent[0] if recent else None
    found = await kept.get(conn, cycle_id)
    if found is None:
        raise UserError(f"there is no cycle {cycle_id}; `catalyst cycles` lists them")
    return found
