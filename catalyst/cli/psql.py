"""`catalyst psql`: opens psql on the database, read-only unless --write; the password is in no command line."""

import shutil
import signal
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from catalyst.backup.programs import split_password
from catalyst.cli.settings import ConfigOption, database_dsn, is_embedded, read_settings
from catalyst.config.loader import environment_without_catalyst
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError

# A forgotten session must not hold a lock for which the daemon waits.
SESSION_OPTIONS = "-c lock_timeout=5s -c idle_in_transaction_session_timeout=60s"


def psql(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- ARGUMENTS", help='Arguments of psql, as in `-- -c "SELECT * FROM positions"`.'
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Allow changes; without it every transaction is read-only.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Open psql on the embedded or the configured database; read-only unless --write."""
    settings = read_settings(config)
    program = _find_psql(settings)
    with database_dsn(settings, create=False) as dsn:
        address, password = split_password(dsn)
        options = SESSION_OPTIONS if write else f"{SESSION_OPTIONS} -c default_transaction_read_only=on"
        variables = {"PGAPPNAME": "catalyst psql", "PGOPTIONS": options, "PGTZ": "UTC"}
        if password is not None:
            variables["PGPASSWORD"] = password
        # Ctrl-C belongs to psql, which cancels the query; a handler of Python is reset in the child, SIG_IGN is not.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            done = subprocess.run(  # noqa: S603 -- psql with the operator's own arguments
                [program, "--dbname", address, *(arguments or [])],
                env=environment_without_catalyst(**variables),
                check=False,
            )
        finally:
            signal.signal(signal.SIGINT, before)
    raise typer.Exit(done.returncode)


def _find_psql(settings: Settings) -> Path:
    """Return the machine's psql for a configured database where there is one, else the embedded server's."""
    from catalyst import embedded

    found = None if is_embedded(settings) else shutil.which("psql")
    if found is not None:
        return Path(found)
    try:
        return embedded.find_binaries() / "psql"
    except embedded.EmbeddedUnavailable:
        raise UserError("there is no psql: install postgresql-client") from None
