"""Commands that read more than one day: events and performance."""

from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, open_clock, parse_day, query_store
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError
from catalyst.domain.session import trading_date

if TYPE_CHECKING:
    from catalyst.report.performance import Performance
    from catalyst.store.pool import Store
    from catalyst.store.risk_events import RiskEvent

SEVERITIES = ("INFO", "WARNING", "CRITICAL")


def events(
    severity: Annotated[str | None, typer.Option(help="INFO, WARNING or CRITICAL.")] = None,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="The most events, newest first.")] = 20,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List risk events: what the limits, the emergency stop, the doctor and the operator did."""
    if severity is not None and severity.upper() not in SEVERITIES:
        raise UserError(f"--severity {severity}: use {', '.join(SEVERITIES)}")

    async def read(store: "Store", _: Settings) -> "list[RiskEvent]":
        from catalyst.store import risk_events

        async with store.read() as conn:
            return await risk_events.recent(
                conn, limit=last, severity=None if severity is None else severity.upper()
            )

    rows = query_store(config, read)
    from catalyst.report.performance_screen import render_events

    print_result(rows, as_json, lambda: render_events(rows))


def performance(
    days: Annotated[int, typer.Option(min=1, max=3660, help="The days of the calendar up to --until.")] = 7,
    since: Annotated[str | None, typer.Option(help="YYYY-MM-DD, instead of --days.")] = None,
    until: Annotated[str | None, typer.Option(help="YYYY-MM-DD (default: today in New York).")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the result of several days: win rate, average, exits by reason, drawdown, funnel, and each day."""
    first, last = parse_day(since), parse_day(until)

    async def read(store: "Store", settings: Settings) -> "Performance":
        from catalyst.report.performance import read_performance

        now = open_clock(settings).now()
        end = last or trading_date(now)
        begin = first or _days_before(end, days)
        if begin > end:
            raise UserError(f"--since {begin} is after --until {end}")
        async with store.read() as conn:
            return await read_performance(conn, begin, end, at=now)

    result = query_store(config, read)
    from catalyst.report.performance_screen import render_performance

    print_result(result, as_json, lambda: render_performance(result))


def _days_before(end: date, days: int) -> date:
    """Return the first of `days` days that end with `end`."""
    return end - timedelta(days=days - 1)
