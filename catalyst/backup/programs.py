"""PostgreSQL's client programs on this machine: which of them fits a server, and how they are run.

A program may be newer than its server and never older. The password of an address is in no command line.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from catalyst import embedded
from catalyst.config.loader import environment_without_catalyst
from catalyst.domain.errors import UserError

_DEBIAN: Final = Path("/usr/lib/postgresql")  # one folder for each release of the server
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)")
_SHOWN_LINES: Final = 5  # of a program's error


def client_folders() -> dict[int, Path]:
    """Return the folder of pg_dump, pg_restore and psql for each release of PostgreSQL on this machine."""
    folders = [path / "bin" for path in sorted(_DEBIAN.glob("*"))]
    if (on_path := shutil.which("pg_dump")) is not None:
        folders.append(Path(on_path).parent)
    with suppress(embedded.EmbeddedUnavailable):  # no wheel for this platform
        folders.append(embedded.find_binaries())
    found: dict[int, Path] = {}
    for folder in folders:
        if all((folder / name).exists() for name in ("pg_dump", "pg_restore", "psql")):
            found.setdefault(_major_version(folder / "pg_dump"), folder)
    return found


def folder_for_server(major: int) -> Path:
    """Return the folder of the programs of the server's release, else of the next newer one. Raises UserError."""
    folders = client_folders()
    fitting = [version for version in sorted(folders) if version >= major]
    if not fitting:
        have = ", ".join(map(str, sorted(folders))) or "none"
        raise UserError(
            f"the server is PostgreSQL {major}, and pg_dump must not be older (found: {have}): install "
            f"postgresql-client-{major}"
        )
    return folders[fitting[0]]


def newest_folder() -> Path:
    """Return the folder of the newest programs, which read every backup that an older one wrote. Raises UserError."""
    folders = client_folders()
    if not folders:
        raise UserError("there is no pg_restore: install postgresql-client")
    return folders[max(folders)]


def run_program(
    program: Path, arguments: Sequence[str | Path], *, dsn: str | None = None, options: str = ""
) -> str:
    """Run one program to its end and return its output. Raises UserError with the last lines of its error.

    `dsn`: the database, whose password goes through the environment. `options`: settings of its session.
    """
    variables = {"LC_ALL": "C"}
    if options:
        variables["PGOPTIONS"] = options
    command = [str(program), *map(str, arguments)]
    if dsn is not None:
        address, password = split_password(dsn)
        command += ["--dbname", address]
        variables["PGAPPNAME"] = f"catalyst {program.name}"
        if password is not None:
            variables["PGPASSWORD"] = password
    done = subprocess.run(  # noqa: S603 -- programs of PostgreSQL, age or gpg; no shell
        command,
        env=environment_without_catalyst(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        umask=0o077,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-_SHOWN_LINES:]
        raise UserError(f"{program.name} failed: {' | '.join(lines) or f'code {done.returncode}'}")
    return done.stdout


def split_password(dsn: str) -> tuple[str, str | None]:
    """Return the address without its password, and the password."""
    parts = urlsplit(dsn)
    user_info, at, hosts = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    pairs = parse_qsl(parts.query)
    kept = [(name, value) for name, value in pairs if name != "password"]
    query = urlencode(kept, safe="/", quote_via=quote)  # libpq reads a plus sign as one, not as a blank
    address = f"{parts.scheme}://{user}{at}{hosts}{parts.path}" + (f"?{query}" if query else "")
    return address, unquote(password) or dict(pairs).get("password")


def _major_version(program: Path) -> int:
    match = _VERSION.search(run_program(program, ["--version"]))
    if match is None:
        raise UserError(f"{program} names no version of PostgreSQL")
    return int(match.group(1))
