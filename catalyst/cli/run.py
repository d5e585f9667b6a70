"""Commands that run the daemon and migrate its database."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from catalyst.cli.masked_output import print_masked
from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    ConfigOption,
    JsonOption,
    database_dsn,
    database_server,
    is_embedded,
    open_clock,
    open_migrated_store,
    read_settings,
    run_async,
    translate_connection_errors,
)
from catalyst.clock import Clock
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError

ExitWithParentOption = Annotated[
    bool,
    typer.Option(
        "--exit-with-parent", hidden=True, help="Exit when standard input ends because the parent ended."
    ),
]


def run(
    config: ConfigOption = None,
    once: Annotated[
        bool, typer.Option("--once", help="Trade one day, then exit with 0 when proven flat, else 2.")
    ] = False,
    exit_with_parent: ExitWithParentOption = False,
) -> None:
    """Run the daemon until a signal: SIGTERM exits every position (unless shutdown.on_sigterm is keep), SIGUSR1 keeps
    them with their stops at the broker. Ctrl-C asks first (shutdown.on_sigint).

    Without DATABASE_URL the embedded PostgreSQL is used and migrated. Without Alpaca's keys the broker is the
    exchange that `catalyst sim` runs.
    """
    from catalyst.cli import logs, parent_watch
    from catalyst.daemon import app

    settings = read_settings(config)
    with database_server(settings) as (dsn, server):
        clock = open_clock(settings)
        logs.configure(settings, clock)
        run_async(lambda: _require_current_schema(dsn, clock))
        if exit_with_parent:
            parent_watch.exit_with_parent(parent_watch.ParentExitSignal.KEEP_POSITIONS)
        driving_clock = open_clock(settings, drive=True)
        code = run_async(lambda: app.run(settings, dsn, driving_clock, once=once, server=server))
    raise typer.Exit(int(code))


async def _require_current_schema(dsn: str, clock: Clock) -> None:
    """Check before the start that the database answers and its schema is current. Raises UserError."""
    async with open_migrated_store(dsn, clock):
        pass


def migrate(
    config: ConfigOption = None,
    status: Annotated[
        bool,
        typer.Option(
            "--status", help="Only show applied and pending migrations; exit 1 if one is not applied."
        ),
    ] = False,
    roles: Annotated[
        bool, typer.Option("--roles", help="Only print the SQL that creates and grants the three roles.")
    ] = False,
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            help="Create database and roles too; DATABASE_URL is the address of the server's administrator. Prints the "
            "daemon's DATABASE_URL.",
        ),
    ] = False,
    login: Annotated[
        str,
        typer.Option(help="With --create: the role of the daemon; over a socket, its user of the system."),
    ] = "catalyst_app",
    new_password: Annotated[
        bool, typer.Option("--new-password", help="With --create: give an existing login another password.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Earlier Catalyst's database: show each statement and its rows, change nothing."
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Only check the database after an upgrade; exit 1 when a check fails."),
    ] = False,
    finalize_legacy: Annotated[
        bool, typer.Option("--finalize-legacy", help="Drop the old tables, after a day on the new ones.")
    ] = False,
    rollback_legacy: Annotated[
        bool, typer.Option("--rollback-legacy", help="Take the upgrade back: the old tables as they were.")
    ] = False,
    backup_dir: Annotated[
        Path | None,
        typer.Option(help="Where the backup before an upgrade is written (default: beside the data)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the database's schema up to date; a second run changes nothing. Upgrades a database of the earlier
    Catalyst (v6) after a backup.
    """
    from catalyst.cli import legacy_upgrade
    from catalyst.store import migrate as schema

    if roles:
        print_result({"sql": schema.roles_sql()}, as_json, lambda: [schema.roles_sql()])
        return
    settings = read_settings(config)
    if create:
        _create_database(settings, login=login, new_password=new_password, as_json=as_json)
        return
    if sum((status, dry_run, verify, finalize_legacy, rollback_legacy)) > 1:
        raise UserError(
            "choose one of --status, --dry-run, --verify, --finalize-legacy and --rollback-legacy"
        )
    with database_dsn(settings, create=not status) as dsn, translate_connection_errors(dsn):
        if verify:
            legacy_upgrade.verify_upgrade(config, dsn, as_json=as_json)
            return
        if finalize_legacy or rollback_legacy:
            legacy_upgrade.end_legacy(settings, dsn, finalize=finalize_legacy, as_json=as_json)
            return
        if status:
            states = run_async(lambda: schema.status(dsn))
            print_result(
                states, as_json, lambda: [f"{migration.state:8} {migration.name}" for migration in states]
            )
            if any(migration.state is not schema.MigrationState.APPLIED for migration in states):
                raise typer.Exit(1)
            return
        if legacy_upgrade.upgrade_legacy(
            settings, dsn, backup_dir=backup_dir, dry_run=dry_run, as_json=as_json
        ):
            return
        applied = [] if dry_run else run_async(lambda: schema.migrate(dsn))
    current = "the schema is current" + (
        " (the embedded database migrates by itself)" if is_embedded(settings) else ""
    )
    print_result({"applied": applied}, as_json, lambda: [*(f"applied {name}" for name in applied), current])


def _create_database(settings: Settings, *, login: str, new_password: bool, as_json: bool) -> None:
    """Create database, roles and schema, and print the line of .env: alone on stdout, so that it can be appended."""
    from catalyst.store.create_database import create_database, is_local

    url = settings.env.database_url
    if url is None:
        raise UserError(
            "--create is for a server of your own: set DATABASE_URL to its administrator's address"
        )
    dsn = url.get_secret_value()
    with translate_connection_errors(dsn):
        made = run_async(lambda: create_database(dsn, login=login, new_password=new_password))
    # Nothing here is masked: the new password is stored nowhere else.
    if as_json:
        print_masked(json.dumps(asdict(made)))
        return
    typer.echo(f"the database {'is created' if made.database_created else 'existed'}", err=True)
    typer.echo(f"roles created: {', '.join(made.roles_created) or 'none'}", err=True)
    typer.echo(f"migrations applied: {len(made.migrations_applied)}", err=True)
    if made.has_new_login:
        typer.echo("the daemon's line of .env, shown once:", err=True)
        print_masked(f"DATABASE_URL={made.url}")
    elif is_local(made.url):
        typer.echo(f"{made.login} existed: its line of .env is DATABASE_URL={made.url}", err=True)
    else:
        typer.echo(f"{made.login} keeps its password; --new-password gives it another", err=True)
