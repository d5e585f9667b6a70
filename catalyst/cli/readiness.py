"""`catalyst readiness`: the lists before autonomous trading and before real money."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.check_result import CheckVerdict
from catalyst.cli.commands import user_name
from catalyst.cli.output import print_result
from catalyst.cli.preflight import run_checks
from catalyst.cli.settings import ConfigOption, JsonOption, open_clock, query_store, run_async
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError
from catalyst.domain.session import trading_date

if TYPE_CHECKING:
    from rich.text import Text

    from catalyst.report.readiness import Readiness
    from catalyst.store.pool import Store


def readiness(
    level: Annotated[str, typer.Argument(help="autonomous, or live.")] = "autonomous",
    attest: Annotated[
        str | None, typer.Option("--attest", metavar="ITEM", help="Say that an item is done; with your name.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="A note for --attest.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is missing before autonomous trading or real money; exit 0 when ready for the level, else 1."""
    from catalyst.report.readiness import ATTESTED_ITEMS, Level, read_readiness

    if level not in list(Level):
        raise UserError(f"{level}: the levels are {', '.join(Level)}")
    if attest is not None and attest not in ATTESTED_ITEMS:
        raise UserError(f"--attest {attest}: a person can attest {', '.join(ATTESTED_ITEMS)}")
    checks = run_async(lambda: run_checks(config))
    passed = all(check.verdict is not CheckVerdict.FAIL for check in checks)

    async def read(store: "Store", settings: Settings) -> "Readiness":
        from catalyst.backup_files import backups_in
        from catalyst.store import readiness as readiness_store

        now = open_clock(settings).now()
        if attest is not None:
            async with store.tx("attest") as conn:
                await readiness_store.attest(conn, attest, by=f"cli:{user_name()}", note=note, at=now)
        backups = backups_in(settings.backups_dir)
        async with store.read() as conn:
            return await read_readiness(
                conn,
                check_passed=passed,
                backup_at=backups[-1].at if backups else None,
                at=now,
                today=trading_date(now),
            )

    result = query_store(config, read)
    ready = result.is_ready(Level(level))
    facts = {"level": level, "ready": ready, "at": result.at, "items": result.items}
    print_result(facts, as_json, lambda: _lines(result, level, ready=ready))
    if not ready:
        raise typer.Exit(1)


def _lines(result: "Readiness", level: str, *, ready: bool) -> "Iterator[Text]":
    from rich.text import Text

    for item in result.items:
        if level == "autonomous" and item.level != level:
            continue
        line = Text("ok   " if item.passed else "open ", style="green" if item.passed else "bold red")
        line.append(f"{item.level:<11}{item.name:<16}{item.how:<9}{item.text}", style="default not bold")
        yield line
    yield Text(
        f"{'ready' if ready else 'NOT ready'} for {level}", style="bold green" if ready else "bold red"
    )
