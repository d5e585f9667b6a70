"""`catalyst migrate` on a database of the earlier Catalyst: upgrade, dry run, verification, the end of the upgrade."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import open_clock, run_async
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError
from catalyst.store.pool import connected

if TYPE_CHECKING:
    from rich.table import Table

    from catalyst.store.legacy.upgrade import Upgrade
    from catalyst.store.legacy.verification import Check


BEFORE_UPGRADE: Final = "pre-upgrade"  # the name of the backup; none with this name is ever deleted


def upgrade_legacy(
    settings: Settings, dsn: str, *, backup_dir: Path | None, dry_run: bool, as_json: bool
) -> bool:
    """Upgrade the database if it is the earlier Catalyst's, and print what was done; return whether it was one."""
    from catalyst.backup.write import server_version, write_backup
    from catalyst.store.legacy.upgrade import upgrade

    folder = (backup_dir or settings.backups_dir).expanduser().absolute()
    now = open_clock(settings).now()

    async def create_backup() -> str:
        server, keep_days = await server_version(dsn), settings.config.database.keep_backup_days
        written = write_backup(dsn, folder, at=now, server=server, keep_days=keep_days, label=BEFORE_UPGRADE)
        return str(written.path)

    done = run_async(lambda: upgrade(dsn, now=now, create_backup=create_backup, dry_run=dry_run))
    if done is not None:
        print_result(asdict(done), as_json, lambda: _upgrade_lines(done, dry_run=dry_run))
    return done is not None


def end_legacy(settings: Settings, dsn: str, *, finalize: bool, as_json: bool) -> None:
    """Drop the old tables (`finalize`), or put them in place again."""
    from catalyst.store.legacy import reversal

    now = open_clock(settings).now()
    if finalize:
        tables = run_async(lambda: reversal.finalize(dsn, now=now))
        print_result({"dropped": tables}, as_json, lambda: [f"finalized: {tables} old tables are dropped"])
        return
    done = run_async(lambda: reversal.roll_back(dsn, now=now))
    kept = (
        f"the tables of this release are kept in the schema {done.schema}; of their rows the old tables lack "
        f"{done.orders} orders and {done.positions} positions"
    )
    lines = ["rolled back: the earlier Catalyst's tables are in place again, with every value", kept]
    print_result(asdict(done), as_json, lambda: lines)


def verify_upgrade(config: Path | None, dsn: str, *, as_json: bool) -> None:
    """Print every check of the database; exit 1 when one fails."""
    from catalyst.store.legacy.verification import Check, verify

    async def read() -> list[Check]:
        async with connected(dsn, "catalyst migrate --verify", statement_timeout=0) as conn:
            return await verify(conn)

    checks = run_async(read)
    if all(check.passed for check in checks):
        checks.append(_check_doctor(config))
    passed = all(check.passed for check in checks)
    print_result({"passed": passed, "checks": checks}, as_json, lambda: [_check_table(checks)])
    if not passed:
        raise typer.Exit(1)


def _check_doctor(config: Path | None) -> "Check":
    """Run the doctor; whatever it finds, it must run."""
    from catalyst.cli.doctor import run_examination
    from catalyst.cli.settings import read_addresses
    from catalyst.store.legacy.verification import Check

    try:
        found = run_examination(read_addresses(config, print_problem=False).settings, whole_journal=False)
    except UserError as error:
        return Check("the doctor runs", False, str(error))
    return Check("the doctor runs", True, f"{found.status}, {len(found.issues)} issues")


def _upgrade_lines(done: "Upgrade", *, dry_run: bool) -> "Iterator[str | Table]":
    from rich.table import Table

    yield f"found: {done.found}"
    if dry_run:
        for statement in done.statements:
            rows = "" if statement.rows is None else f"  [{statement.rows} rows]"
            yield f"{statement.name}{rows}"
            yield f"    {statement.sql}"
    else:
        yield f"backup: {done.backup}"
    table = Table("", "before", "after", "kept or merged", box=None)
    for name, values in done.counts.items():
        table.add_row(name, *(f"{value:f}" for value in values))
    yield table
    yield from done.notes
    if dry_run:
        yield f"dry run: {len(done.statements)} statements were executed and rolled back; nothing has changed"
        return
    yield "upgraded; the old tables are kept in the schema legacy"
    yield (
        "next: catalyst migrate --verify; after one day of trading catalyst migrate --finalize-legacy, until then "
        "--rollback-legacy takes it back"
    )


def _check_table(checks: "list[Check]") -> "Table":
    from rich.table import Table

    table = Table("check", "", "found", box=None)
    for check in checks:
        table.add_row(check.name, "ok" if check.passed else "FAILED", check.found)
    return table
