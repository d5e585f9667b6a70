"""Commands that run the daemon and migrate its database."""

from typing import Annotated

import typer

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
    as_json: JsonOption = False,
) -> None:
    """Bring the database's schema up to date; a second run changes nothing."""
    from catalyst.store import migrate as schema

    if roles:
        print_result({"sql": schema.roles_sql()}, as_json, lambda: [schema.roles_sql()])
        return
    settings = read_settings(config)
    with database_dsn(settings, create=not status) as dsn, translate_connection_errors(dsn):
        if status:
            states = run_async(lambda: schema.status(dsn))
            print_result(
                states, as_json, lambda: [f"{migration.state:8} {migration.name}" for migration in states]
            )
            if any(migration.state is not schema.MigrationState.APPLIED for migration in states):
                raise typer.Exit(1)
            return
        applied = run_async(lambda: schema.migrate(dsn))
    current = "the schema is current" + (
        " (the embedded database migrates by itself)" if is_embedded(settings) else ""
    )
    print_result({"applied": applied}, as_json, lambda: [*(f"applied {name}" for name in applied), current])
