"""Commands that read the database: status, report, explain, candidates, orders, positions and cycles."""

from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, is_embedded, open_clock, parse_day, query_store
from catalyst.config.listing_names import broker_symbol
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError
from catalyst.installation import VERSION

if TYPE_CHECKING:
    from catalyst.domain.rows import OrderRow, PositionRow
    from catalyst.report.day import DayReport
    from catalyst.report.explain import Explanation
    from catalyst.report.status import PositionLine, SystemStatus
    from catalyst.store.candidates import CandidateRow
    from catalyst.store.cycles import CycleRow
    from catalyst.store.pool import Connection, Store

CycleOption = Annotated[
    str | None, typer.Option("--cycle", help="The id of a cycle (default: the latest day).")
]
TopOption = Annotated[
    int, typer.Option("--top", min=1, help="The most rows on the screen, the best first; JSON has all.")
]
SymbolOption = Annotated[str | None, typer.Option("--symbol", help="Only this symbol.")]


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show health, entries, open positions and proposals; exit 0 when healthy or halted by a person, else 1."""

    async def read(store: "Store", settings: Settings) -> "tuple[SystemStatus, Settings]":
        from catalyst.report import status as status_report

        async with store.read() as conn:
            return await status_report.read_status(conn, open_clock(settings).now()), settings

    current, settings = query_store(config, read)
    from catalyst.report.status import Verdict
    from catalyst.report.tables import render_status

    facts = {
        "healthy": current.healthy,
        "version": current.daemon.version,
        "program_version": VERSION,
        "mode": current.daemon.mode,
        "session_mode": current.daemon.session_mode,
        "broker": current.daemon.broker_url,
        "database": "embedded" if is_embedded(settings) else "DATABASE_URL",
        **asdict(current),
    }
    print_result(facts, as_json, lambda: render_status(current))
    if current.verdict is Verdict.UNHEALTHY:
        raise typer.Exit(1)


def explain(
    symbol: Annotated[str, typer.Argument(help="Any symbol that the broker lists.")],
    day: Annotated[str | None, typer.Option("--day", help="YYYY-MM-DD (default: the latest day).")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show the details of every scan instead of the best one.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain why a symbol was or was not traded: the stage that refused it in each scan, and the numbers."""
    chosen_day = parse_day(day)

    async def read(store: "Store", _: Settings) -> "Explanation | None":
        from catalyst.report.explain import explain as read_explanation

        async with store.read() as conn:
            return await read_explanation(conn, symbol, chosen_day)

    result = query_store(config, read)
    if result is None:
        raise UserError(
            f"no data on {broker_symbol(symbol)}{f' on {day}' if day else ''}: the broker does not list it, or there "
            "was no trading day; `catalyst cycles` lists the days"
        )
    from catalyst.report.explain_screen import render_explanation

    print_result(result, as_json, lambda: render_explanation(result, every_scan=every))


def candidates(
    cycle: CycleOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show every scan of the day instead of the last one.")
    ] = False,
    symbol: SymbolOption = None,
    top: TopOption = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the candidates of a scan, best first, each with the stage that refused it and the reason."""

    async def read(store: "Store", _: Settings) -> "list[CandidateRow]":
        from catalyst.store import candidates as candidate_store

        async with store.read() as conn:
            found_cycle = await _find_cycle(conn, cycle)
            scans = [] if found_cycle is None else await candidate_store.scans_of(conn, found_cycle.cycle_id)
            if found_cycle is None or not scans:
                return []
            if every or symbol:
                rows = await candidate_store.of_cycle(conn, found_cycle.cycle_id)
                return [row for row in rows if symbol is None or row.symbol == broker_symbol(symbol)]
            return await candidate_store.of_scan(conn, scans[-1].scan_id)

    rows = query_store(config, read)
    from catalyst.report.tables import render_candidates

    print_result(rows, as_json, lambda: render_candidates(rows, top=top))


def orders(
    cycle: CycleOption = None,
    symbol: SymbolOption = None,
    working: Annotated[bool, typer.Option("--working", help="Only orders that are not terminal.")] = False,
    top: TopOption = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the entry orders of a day with their legs, and its exit orders."""

    async def read(store: "Store", _: Settings) -> "list[OrderRow]":
        from catalyst.store import orders as order_store
        from catalyst.store import reporting_queries

        async with store.read() as conn:
            if working:
                rows = await order_store.working(conn)
            else:
                found_cycle = await _find_cycle(conn, cycle)
                rows = (
                    []
                    if found_cycle is None
                    else await reporting_queries.orders_of_day(conn, found_cycle.cycle_id)
                )
        return [row for row in rows if symbol is None or row.symbol == broker_symbol(symbol)]

    rows = query_store(config, read)
    from catalyst.report.tables import render_orders

    print_result(rows, as_json, lambda: render_orders(rows, top=top))


def positions(
    status: Annotated[str, typer.Option(help="open, closed or all.")] = "all",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most closed positions to show.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List open positions with stop, target and worst case, and closed positions with their result."""
    if status not in ("open", "closed", "all"):
        raise UserError(f"--status {status}: use open, closed or all")

    async def read(
        store: "Store", settings: Settings
    ) -> "tuple[tuple[PositionLine, ...], list[PositionRow]]":
        from catalyst.report import status as status_report
        from catalyst.store import positions as positions_store
        from catalyst.store import reporting_queries

        at = open_clock(settings).now()
        async with store.read() as conn:
            open_positions = (
                () if status == "closed" else (await status_report.read_status(conn, at)).positions
            )
            closed = (
                [] if status == "open" else await reporting_queries.recent_positions(conn, "closed", limit)
            )
            closed = await positions_store.with_unprotected_time(conn, closed, at)
        return open_positions, closed

    open_positions, closed = query_store(config, read)
    from catalyst.report.day import trade_of
    from catalyst.report.tables import render_positions

    trades = [trade_of(row) for row in reversed(closed)]
    print_result(
        {"open": open_positions, "closed": trades}, as_json, lambda: render_positions(open_positions, trades)
    )


def cycles(
    cycle: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The id of one cycle to report.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most cycles to show.")] = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the trading days, newest first, or report one."""
    if cycle is not None:
        _print_report(config, as_json, cycle=cycle)
        return

    async def read(store: "Store", _: Settings) -> "list[CycleRow]":
        from catalyst.store import cycles as cycle_store

        async with store.read() as conn:
            return await cycle_store.recent(conn, limit)

    rows = query_store(config, read)
    from catalyst.report.tables import render_cycles

    print_result(rows, as_json, lambda: render_cycles(rows))


def report(
    day: Annotated[str | None, typer.Argument(help="YYYY-MM-DD (default: the latest day).")] = None,
    day_option: Annotated[str | None, typer.Option("--day", help="YYYY-MM-DD, as for `explain`.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report a day's result: trades, exits by reason, drawdown, protection, and the funnel of each scan."""
    _print_report(config, as_json, day=parse_day(day or day_option))


def _print_report(
    config: ConfigOption, as_json: bool, *, day: date | None = None, cycle: str | None = None
) -> None:
    async def read(store: "Store", settings: Settings) -> "DayReport | None":
        from catalyst.report.day import read_day_report

        async with store.read() as conn:
            chosen_day = day if cycle is None else getattr(await _find_cycle(conn, cycle), "cycle_date", None)
            return await read_day_report(conn, chosen_day, at=open_clock(settings).now())

    result = query_store(config, read)
    if result is None:
        raise UserError(
            f"there is no trading day{f' {day}' if day else ''} in the database; `catalyst cycles` lists the days"
        )
    from catalyst.report.terminal import render_day

    print_result(result, as_json, lambda: render_day(result))


async def _find_cycle(conn: "Connection", cycle_id: str | None) -> "CycleRow | None":
    """Return the cycle with that id, or the latest one when the id is None; None when there is no cycle.

    Raises UserError for an unknown id.
    """
    from catalyst.store import cycles as cycle_store

    if cycle_id is None:
        recent = await cycle_store.recent(conn, 1)
        return recent[0] if recent else None
    found = await cycle_store.get(conn, cycle_id)
    if found is None:
        raise UserError(f"there is no cycle {cycle_id}; `catalyst cycles` lists them")
    return found
