"""`catalyst doctor --db`: prints sizes, dead rows, indexes, connections, long transactions, locks and slow queries."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    database_dsn,
    open_clock,
    open_migrated_store,
    run_async,
    translate_connection_errors,
)
from catalyst.config.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType


RETENTION_DELAY: Final = timedelta(days=7)  # the daemon deletes at the close of a trading day


def examine_database(settings: Settings, *, pretty: bool) -> None:
    """Print the report on the database; exit 1 when it holds a warning, else 0."""
    from catalyst.store import database_report

    async def read(dsn: str) -> dict[str, Any]:
        async with open_migrated_store(dsn, open_clock(settings)) as store, store.read() as conn:
            return await database_report.read_report(conn)

    with database_dsn(settings, create=False) as dsn, translate_connection_errors(dsn):
        report = run_async(lambda: read(dsn))
    report["flat_proofs"] = sum(1 for _ in settings.proofs_dir.glob("*.json"))
    oldest, days = report["scan_frames"]["oldest"], settings.config.database.keep_scan_frames_days
    if oldest is not None and oldest < open_clock(settings).now() - timedelta(days=days) - RETENTION_DELAY:
        report["warnings"].append(
            f"scan frames older than {days} days are kept: run `catalyst retention --apply` as the database's owner"
        )
    print_result(report, not pretty, lambda: _parts_of(report))
    raise typer.Exit(1 if report["warnings"] else 0)


def _parts_of(report: dict[str, Any]) -> "Iterator[RenderableType]":
    server, frames = report["server"], report["scan_frames"]
    yield (
        f"PostgreSQL {server['version']}, {_size(server['database_bytes'])}, {server['connections']} of "
        f"{server['max_connections']} connections"
    )
    yield from (f"WARNING   {warning}" for warning in report["warnings"])
    yield _table(
        "tables",
        report["tables"],
        ("name", "total_bytes", "index_bytes", "live_rows", "dead_rows", "vacuumed_at"),
    )
    yield _table("indexes", report["indexes"], ("name", "table_name", "bytes", "scans"))
    yield _table("connections", report["connections"], ("application", "role", "state", "count"))
    if report["long_transactions"]:
        yield _table(
            "long transactions",
            report["long_transactions"],
            ("pid", "application", "state", "seconds", "query"),
        )
    if report["blocked"]:
        yield _table(
            "waiting for a lock", report["blocked"], ("pid", "application", "blocked_by", "seconds", "query")
        )
    if report["slow_queries"] is not None:
        yield _table(
            "slow queries", report["slow_queries"], ("calls", "mean_ms", "total_ms", "rows", "query")
        )
    else:
        yield "slow queries: pg_stat_statements is not installed (shared_preload_libraries, then CREATE EXTENSION)"
    yield f"scan frames: {frames['frames']}, {_size(frames['bytes'])}, the oldest of {frames['oldest'] or 'no day'}"
    yield f"flat proofs: {report['flat_proofs']} files, which are never deleted"
    yield (
        f"logged statements: log_statement {server['log_statement']}, log_min_duration_statement "
        f"{server['log_min_duration_statement']} (ALTER SYSTEM SET log_min_duration_statement = '250ms' logs slow ones)"
    )


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> "RenderableType":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.removesuffix("_bytes").replace("_", " "))
    for row in rows:
        table.add_row(*(_cell(column, row[column]) for column in columns))
    return table


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column.endswith("bytes"):
        return _size(value)
    if hasattr(value, "strftime"):
        return f"{value:%Y-%m-%d %H:%M}"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if isinstance(value, float) else str(value)
    )


def _size(count: int) -> str:
    """Return a size in KiB, MiB or GiB."""
    for unit, bytes_of_unit in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= bytes_of_unit:
            return f"{count / bytes_of_unit:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
