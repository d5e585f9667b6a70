"""`catalyst backup` and `catalyst restore`: a verified copy of the database, and an empty database filled from it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catalyst.cli.commands import user_name
from catalyst.cli.doctor import examine_database_at
from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    ConfigOption,
    JsonOption,
    database_dsn,
    open_clock,
    read_addresses,
    run_async,
    translate_connection_errors,
)
from catalyst.clock import SystemClock
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from catalyst.backup.restore import RestoredBackup
    from catalyst.doctor.issues import Examination, Issue

EXIT_INCONSISTENT: Final = 2


def backup(
    into: Annotated[Path | None, typer.Option("--into", help="Another folder than database.backups.")] = None,
    encrypt: Annotated[
        str | None,
        typer.Option(
            "--encrypt",
            metavar="RECIPIENT",
            help="Encrypt for a key of age (age1...) or gpg; default: database.backup_recipient.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name the file so, as in pre-upgrade; such a backup is never deleted."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the database with pg_dump, read the file again, and delete the daily backups that are too old."""
    from catalyst.backup.write import server_version, write_backup
    from catalyst.backup_files import DAILY

    settings = read_addresses(config).settings
    limits = settings.config.database
    with database_dsn(settings, create=False) as dsn, translate_connection_errors(dsn):
        server = run_async(lambda: server_version(dsn))
        written = write_backup(
            dsn,
            (into or settings.backups_dir).expanduser().absolute(),
            at=SystemClock().now(),
            server=server,
            keep_days=limits.keep_backup_days,
            label=DAILY if name is None else name,
            recipient=encrypt or limits.backup_recipient,
        )
    state = "encrypted" if written.encrypted else "not encrypted"
    lines = [
        f"{written.path}: {written.tables} tables, {written.bytes / (1 << 20):.1f} MiB, read again, {state}",
        *(f"deleted {path}" for path in written.deleted),
    ]
    print_result(asdict(written), as_json, lambda: lines)


def restore(
    file: Annotated[Path, typer.Argument(help="A file of `catalyst backup`, or .sql, .sql.gpg, .sql.age.")],
    into: Annotated[
        str,
        typer.Option(
            "--into",
            metavar="URL|FOLDER",
            help="An empty or new database (postgresql://...), or a new folder for the embedded server.",
        ),
    ],
    identity: Annotated[
        Path | None, typer.Option("--identity", help="The file of age's secret key, for a .age file.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into an empty database, check it, and name what the broker has beyond it. Sends no order.

    Exit 0: restored and consistent; 2: restored, and a check of the database failed.
    """
    from catalyst.backup.restore import read_content, unpack
    from catalyst.backup.restore import restore as restore_backup

    settings = read_addresses(config).settings
    with (
        tempfile.TemporaryDirectory(prefix="catalyst-restore-") as scratch,
        _target(into) as dsn,
        translate_connection_errors(dsn),
    ):
        folder = Path(scratch)
        sql = unpack(file.expanduser().absolute(), folder, identity=identity)
        content = read_content(sql)
        by, at = f"cli:{user_name()}", open_clock(settings).now()
        restored = run_async(
            lambda: restore_backup(sql, content, dsn, folder, backup=file.name, by=by, at=at)
        )
        examination = _examine(settings, dsn) if restored.is_catalyst else None
    beyond, faults = _sorted_issues(examination)
    facts = {
        "file": file,
        "server_version": restored.content.server_version,
        "database_created": restored.created,
        "migrations_applied": restored.migrated,
        "broker_answered": examination is not None and examination.mode is not None,
        "beyond": [issue.as_dict for issue in beyond],
        "faults": [issue.as_dict for issue in faults],
    }
    print_result(facts, as_json, lambda: _restore_lines(into, restored, examination, beyond, faults))
    if faults:
        raise typer.Exit(EXIT_INCONSISTENT)


@contextmanager
def _target(into: str) -> Iterator[str]:
    """Yield the address of the target; the embedded server of a folder runs for the length of the block."""
    if "://" in into:
        from catalyst.config.secret_values import database_url_fault
        from catalyst.domain.secret_mask import add_secrets, url_secrets

        add_secrets(url_secrets(into))
        if (fault := database_url_fault(into)) is not None:
            raise UserError(f"--into: {fault}")
        yield into
        return
    from catalyst import embedded

    with embedded.start(Path(into)) as server:
        yield server.dsn


def _examine(settings: Settings, dsn: str) -> "Examination":
    """Check the restored database, its whole journal, and what the broker shows."""
    return examine_database_at(settings, dsn, whole_journal=True)


def _sorted_issues(examination: "Examination | None") -> "tuple[list[Issue], list[Issue]]":
    """Return what the broker has beyond the backup, and the faults of the restored database itself."""
    from catalyst.doctor.issues import FOUND_AT_BROKER, IN_DATABASE

    issues = () if examination is None else examination.issues
    return (
        [issue for issue in issues if issue.kind in FOUND_AT_BROKER],
        [issue for issue in issues if issue.kind in IN_DATABASE],
    )


def _restore_lines(
    into: str,
    restored: "RestoredBackup",
    examination: "Examination | None",
    beyond: "list[Issue]",
    faults: "list[Issue]",
) -> list[str]:
    target = into if "://" not in into else "the database of --into"
    release = restored.content.server_version or "of an unknown release"
    done = (
        f"restored into {target}: PostgreSQL {release}, {len(restored.migrated)} migrations applied after it"
    )
    lines = [done]
    if examination is None:
        return [*lines, "its tables are not those of this release: nothing is checked"]
    lines += [f"FAULT     {issue.kind}: {issue.message}" for issue in faults] or [
        "consistent: rows, journal, fills and proofs agree"
    ]
    if examination.mode is None:
        lines.append("the broker did not answer: what it has beyond the backup is not known")
    else:
        lines += [f"beyond it {issue.kind}: {issue.message}" for issue in beyond] or [
            "the broker has nothing beyond it"
        ]
    use = (
        "set DATABASE_URL to it (`catalyst migrate --create` gives the daemon's role its rights)"
        if "://" in into
        else f"set database.data_dir to {into}"
    )
    lines.append(f"to use it: {use}; the next start adopts what the broker has beyond it")
    return [*lines, "entries are halted, because later halts are lost: `catalyst resume` allows them"]
