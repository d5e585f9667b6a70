"""The verbs that run the daemon and bring its database up to date."""

from typing import Annotated

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    ConfigOption,
    JsonOption,
    database_dsn,
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
        "--exit-with-parent", hidden=True, help="End when standard input ends: the starter is gone."
    ),
]


def run(
    config: ConfigOption = None,
    once: Annotated[
        bool, typer.Option("--once", help="Trade one day, then leave: exit 0 proven flat, 2 not.")
    ] = False,
    exit_with_parent: ExitWithParentOption = False,
) -> None:
    """Run the daemon until a signal: SIGTERM flattens everything and leaves, SIGUSR1 leaves all protected.

    Without DATABASE_URL the embedded PostgreSQL is used and migrated; without Alpaca's keys the broker is the
    exchange that `catalyst sim` runs.
    """
    from catalyst.cli import logs, parent_watch
    from catalyst.daemon import app

    settings = read_settings(config)
    with database_dsn(settings) as dsn:
        clock = open_clock(settings)
        logs.configure(settings, clock)
        run_async(lambda: _require_current_schema(dsn, clock))
        if exit_with_parent:
            parent_watch.exit_with_parent(parent_watch.ParentExitSignal.KEEP_POSITIONS)
        driven = open_clock(settings, drive=True)
        code = run_async(lambda: app.run(settings, dsn, driven, once=once))
    raise typer.Exit(int(code))


async def _require_current_schema(dsn: str, clock: Clock) -> None:
    """The database answers and has today's schema, or the operator is told before anything starts."""
    async with open_migrated_store(dsn, clock):
        pass


def migrate(
    config: ConfigOption = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only show what is applied and what waits; exit 1 if any waits.")
    ] = False,
    roles: Annotated[
        bool, typer.Option("--roles", help="Only print the SQL that makes and grants the three roles.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the database's schema up to date; doing it twice changes nothing."""
    from catalyst.store import migrate as schema

    if roles:
        print_result({"sql": schema.roles_sql()}, as_json, lambda: [schema.roles_sql()])
        return
    settings = read_settings(config)
    with database_dsn(settings, create=not status) as dsn, translate_connection_errors(dsn):
        if status:
            states = run_async(lambda: schema.status(dsn))
            print_result(states, as_json, lambda: [f"{one.state:8} {one.name}" for one in states])
            if any(one.state is not schema.MigrationState.APPLIED for one in states):
                raise typer.Exit(1)
            return
        applied = run_async(lambda: schema.migrate(dsn))
    current = "the schema is current" + (
        " (the embedded database migrates by itself)" if is_embedded(settings) else ""
    )
    print_result({"applied": applied}, as_json, lambda: [*(f"applied {name}" for name in applied), current])
