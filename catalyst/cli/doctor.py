"""`catalyst doctor`: whether all is as it should be, as JSON for programs or lines for people; and what to do."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.commands import send
from catalyst.cli.output import tell
from catalyst.cli.settings import (
    Config,
    Json,
    database,
    open_books,
    open_clock,
    reaching,
    read_settings,
    run_async,
)
from catalyst.clock import SystemClock
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from catalyst.doctor.issues import Examination

COULD_NOT_RUN = 3


def doctor(
    pretty: Annotated[bool, typer.Option("--pretty", help="Lines for people instead of JSON.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Let the daemon do what only makes the tables follow the broker.")
    ] = False,
    journal: Annotated[
        bool, typer.Option("--journal", help="Verify the whole journal, beside every proof there is.")
    ] = False,
    config: Config = None,
) -> None:
    """Examine tables, broker and journal; exit 0 when all is well, 1 warnings, 2 critical, 3 could not run."""
    from catalyst.doctor.issues import RECONCILE

    try:
        settings = read_settings(config)
        found = _examined(settings, whole_journal=journal)
        done: list[str] = []
        if fix and (wanted := [one for one in found.issues if one.fix == RECONCILE]):
            for one in wanted:
                typer.echo(f"{one.kind}: {one.message} → {one.fix}", err=True)
            send(config, "reconcile", {})
            done.append(RECONCILE)
            found = _examined(settings, whole_journal=journal)
    except UserError as error:
        said = str(error)
        told = {"timestamp": SystemClock().now(), "error": said, "status": "ERROR"}
        tell(told, not pretty, lambda: [f"ERROR {said}"])
        raise typer.Exit(COULD_NOT_RUN) from None
    tell({**found.told, **({"fixed_by": done} if fix else {})}, not pretty, lambda: _lines(found))
    raise typer.Exit(found.exit_code)


def reconcile(config: Config = None, as_json: Json = False) -> None:
    """Let the daemon look at everything the broker shows, now: the tables follow it; nothing is ordered."""
    answer = send(config, "reconcile", {})
    tell(answer, as_json, lambda: [_reconciled(answer)])


def _examined(settings: Settings, *, whole_journal: bool) -> "Examination":
    async def look(dsn: str) -> "Examination":
        from catalyst.broker.alpaca import AlpacaBroker
        from catalyst.doctor.examination import examine

        clock = open_clock(settings)
        key, secret = settings.keys
        async with open_books(dsn, clock) as store:
            broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
            try:
                return await examine(
                    store, broker, settings, clock, pace=SystemClock(), whole_journal=whole_journal
                )
            finally:
                await broker.close()

    with database(settings, make=False) as dsn, reaching(dsn):
        return run_async(lambda: look(dsn))


def _reconciled(answer: object) -> str:
    facts = answer if isinstance(answer, dict) else {}
    told = f"{facts.get('heard')} orders heard, {facts.get('fills_booked')} fills booked"
    differences = facts.get("differences")
    return told + (
        f"; still different: {', '.join(map(str, differences))}" if differences else "; the books agree"
    )


def _lines(found: "Examination") -> "Iterator[Text]":
    from rich.text import Text

    styles = {"CRITICAL": "bold red", "WARNING": "yellow", "INFO": "cyan", "OK": "bold green"}
    broker = f"{found.mode} answers" if found.mode is not None else "does not answer"
    pipeline = found.pipeline
    yield Text(f"{found.status}: {len(found.issues)} issues, broker {broker}", style=styles[found.status])
    yield Text(f"cycle     {pipeline.get('cycle_id') or 'none today'} {pipeline['status']}")
    for one in found.issues:
        line = Text(f"{one.severity:<9} ", style=styles[one.severity])
        line.append(f"{one.kind}: {one.message}  → {one.fix}", style="default not bold")
        yield line
