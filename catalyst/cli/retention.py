"""`catalyst retention`: deletes the frames of old scans where the daemon's role may not."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, open_clock, query_store, read_settings
from catalyst.domain.errors import UserError

if TYPE_CHECKING:
    from catalyst.store.pool import Store

BATCH: Final = 200  # frames of one transaction


def retention(
    apply: Annotated[
        bool, typer.Option("--apply", help="Delete them. Needs the address of the database's owner.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count, or delete with --apply, the scan frames older than database.keep_scan_frames_days; results stay.

    A daemon whose role owns the database, as the embedded one, deletes them itself after each close.
    """
    settings = read_settings(config)
    days = settings.config.database.keep_scan_frames_days
    before = open_clock(settings).now() - timedelta(days=days)
    count = query_store(config, lambda store, _: _delete(store, before) if apply else _count(store, before))
    done = "deleted" if apply else "would be deleted"
    facts = {"older_than_days": days, "frames": count, "deleted": apply}
    print_result(facts, as_json, lambda: [f"{count} scan frames older than {days} days {done}"])


async def _count(store: "Store", before: datetime) -> int:
    from catalyst.store import candidates

    async with store.read() as conn:
        return await candidates.count_frames(conn, before=before)


async def _delete(store: "Store", before: datetime) -> int:
    from catalyst.store import candidates

    async with store.read() as conn:
        if not await candidates.may_delete_frames(conn):
            raise UserError(
                "this role may delete nothing: set DATABASE_URL to the address of the database's owner or of the "
                "server's administrator"
            )
    total = 0
    while True:
        async with store.tx("retention") as conn:
            deleted = await candidates.delete_frames(conn, before=before, limit=BATCH)
        total += deleted
        if deleted < BATCH:
            return total
