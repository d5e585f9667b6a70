"""Writes a backup: pg_dump's custom format, read again to its end by pg_restore, fsynced, and only then named.

A file that has a backup's name is complete and was read. A run that is killed leaves a file `*.partial`, which the next
run deletes.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from catalyst.backup.encryption import encrypt, encryption_program
from catalyst.backup.programs import folder_for_server, run_program
from catalyst.backup_files import DAILY, LABEL, backup_name, backups_in, expired_backups
from catalyst.domain.errors import UserError
from catalyst.store.pool import connected

PARTIAL: Final = ".partial"
_MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class WrittenBackup:
    """One finished backup. `tables` have their rows in it; `deleted` are the older backups that this one replaced."""

    path: Path
    bytes: int
    tables: int
    encrypted: bool
    server_version: int
    deleted: tuple[Path, ...]


async def server_version(dsn: str) -> int:
    """Return the release of the server, as 15 or 18."""
    async with connected(dsn, "catalyst backup", statement_timeout=_MINUTE_MS) as conn:
        return int(await conn.fetchval("SELECT current_setting('server_version_num')::int / 10000"))


def write_backup(
    dsn: str,
    folder: Path,
    *,
    at: datetime,
    server: int,
    keep_days: int,
    label: str = DAILY,
    recipient: str | None = None,
) -> WrittenBackup:
    """Back up the database into `folder`, and delete the daily backups that are older than `keep_days` days.

    Raises UserError when no complete backup was written; then every older one stays.
    """
    if LABEL.fullmatch(label) is None:
        raise UserError(f"{label!r} cannot be the name of a backup: use small letters, digits and -")
    programs = folder_for_server(server)
    if recipient is not None:
        encryption_program(recipient)  # before the work, which may take minutes
    try:
        with _locked(folder):
            for left_over in folder.glob(f"*{PARTIAL}*"):
                left_over.unlink()
            final = folder / backup_name(label, at)
            partial = final.with_name(final.name + PARTIAL)
            try:
                tables = _dump(programs, dsn, partial)
                if recipient is not None:
                    encrypted = encrypt(partial, recipient)
                    final = final.with_name(final.name + encrypted.suffix)
                    encrypted.replace(partial)
                _fsync(partial)
                partial.replace(final)
                _fsync(folder)
            finally:
                for left_over in folder.glob(f"{partial.name}*"):
                    left_over.unlink()
            expired = [file.path for file in expired_backups(backups_in(folder), keep_days=keep_days)]
            for path in expired:
                path.unlink()
    except OSError as error:
        raise UserError(f"the backup cannot be written to {folder}: {error.strerror or error}") from None
    return WrittenBackup(final, final.stat().st_size, tables, recipient is not None, server, tuple(expired))


def _dump(programs: Path, dsn: str, target: Path) -> int:
    """Dump the schema public and read the file again to its end; return the number of tables with rows in it."""
    # An extension that the administrator made (pg_stat_statements) needs an administrator to be restored.
    arguments = ["--format=custom", "--schema=public", "--no-password", "--lock-wait-timeout=60s"]
    run_program(programs / "pg_dump", [*arguments, "--file", target], dsn=dsn)
    listed = run_program(programs / "pg_restore", ["--list", target])
    tables = sum(" TABLE DATA " in line for line in listed.splitlines())
    if not tables:
        raise UserError("the database has no tables: there is nothing to back up")
    run_program(programs / "pg_restore", ["--file", os.devnull, target])  # decompresses every row
    return tables


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create the folder, for this user alone, and let one backup at a time write into it. Raises UserError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UserError(f"another backup is written to {folder} now") from None
    try:
        yield
    finally:
        os.close(fd)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
