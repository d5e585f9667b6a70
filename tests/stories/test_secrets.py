"""No secret is written anywhere: a bad day with keys that would be known again wherever they turned up."""

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import structlog

from catalyst.config.settings import Settings
from catalyst.daemon.shutdown import Exit
from tests.stories.scenario import Desk, open_desk

KEY, SECRET = "PKCANARY7Q2W9E4R5T6Y", "canary/8uJ3kLm9Zx2Cv5Bn7Qw1Er4Ty6Ui"


class Keyed(Settings):
    """Settings whose keys are the canaries."""

    @property
    def keys(self) -> tuple[str, str]:
        return KEY, SECRET


async def test_i19_no_secret_is_written_anywhere(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trades, answers of every bad kind, a stream turned away, keys refused, a death, a flatten: the keys are in no
    line of the log before anything masks it, in no row and in no file, the seat and the proofs among them."""
    with everything_logged(monkeypatch) as lines:
        async with open_desk(database, opened=False) as desk:
            plain = desk.settings
            desk.settings = Keyed(**{each.name: getattr(plain, each.name) for each in fields(plain)})
            accepted = desk.server.transport._keys
            accepted.clear()
            accepted[KEY] = SECRET
            await a_bad_day(desk)
            places = {
                "the log": "\n".join(lines),
                "the tables": await every_row(desk),
                "the files": every_file(plain.data_dir.parent),
                "the settings": f"{desk.settings!r} {desk.settings.config!r} {desk.settings.env!r}",
            }
    for place, word in {"the log": "Traceback", "the tables": "AAPL", "the files": "EMERGENCY_STOP"}.items():
        assert word in places[place], f"{place} says nothing that a secret could be in"
    assert [place for place, text in places.items() if KEY in text or SECRET in text] == []


async def a_bad_day(desk: Desk) -> None:
    """Whatever makes the daemon speak of its requests, and of its own faults."""
    await desk.opens()
    await desk.holds("AAPL", 20)
    await desk.enters("MSFT", 5, limit="90.10", stop="80.00", target="120.00")
    for kind in ("garble", "drop", "html", "unauthorized"):
        await desk.faults(kind, route="/v2/*", count=2)
        await desk.waits(seconds=16)
    await desk.faults("stream_refuse", count=1)
    desk.server.streams.disconnect()
    await desk.waits(seconds=5)
    await desk.heals()
    assert desk.parts is not None

    async def breaks() -> None:
        raise RuntimeError(f"with {desk.parts!r} in its hands")

    desk.parts.guard.look = breaks
    await desk.waits(seconds=31)
    await desk.dies()
    await desk.opens()
    desk.stop.ask("SIGTERM", flatten=True)
    assert await desk.leaves() is Exit.FLAT


@contextmanager
def everything_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every event of ours with its traceback, and what libraries say from a warning on, nothing masked."""
    lines: list[str] = []

    def note(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
        lines.append(repr(dict(event)))
        return ""

    class Library(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    before, library = structlog.get_config(), Library(logging.WARNING)
    structlog.configure(processors=[structlog.processors.format_exc_info, note])
    logging.getLogger().addHandler(library)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(library)
        structlog.configure(**before)


async def every_row(desk: Desk) -> str:
    """All tables as text."""
    names = await desk.conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    found = []
    for name in names:
        found += await desk.conn.fetch(f'SELECT t::text AS row FROM "{name["tablename"]}" t')
    return "\n".join(record["row"] for record in found)


def every_file(folder: Path) -> str:
    """What lies under a folder, names included."""
    return "\n".join(
        f"{path}\n{path.read_bytes().decode(errors='replace')}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
