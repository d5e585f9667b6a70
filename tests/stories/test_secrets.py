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
from catalyst.daemon.shutdown import ExitCode
from tests.stories.scenario import Scenario, open_scenario

KEY, SECRET = "PKCANARY7Q2W9E4R5T6Y", "canary/8uJ3kLm9Zx2Cv5Bn7Qw1Er4Ty6Ui"


class SettingsWithKeys(Settings):
    """Settings whose keys are the canaries."""

    @property
    def keys(self) -> tuple[str, str]:
        return KEY, SECRET


@pytest.mark.promise("I19")
async def test_no_secret_is_written_to_logs_rows_or_files(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trades, answers of every bad kind, a stream turned away, keys refused, a death, a flatten: the keys are in no
    line of the log before anything masks it, in no row and in no file, the seat and the proofs among them."""
    with capture_logs(monkeypatch) as lines:
        async with open_scenario(database, started=False) as scenario:
            plain = scenario.settings
            scenario.settings = SettingsWithKeys(
                **{each.name: getattr(plain, each.name) for each in fields(plain)}
            )
            accepted = scenario.server.middleware._keys
            accepted.clear()
            accepted[KEY] = SECRET
            await run_failing_day(scenario)
            places = {
                "the log": "\n".join(lines),
                "the tables": await read_all_rows(scenario),
                "the files": read_all_files(plain.data_dir.parent),
                "the settings": f"{scenario.settings!r} {scenario.settings.config!r} {scenario.settings.env!r}",
            }
    for place, word in {"the log": "Traceback", "the tables": "AAPL", "the files": "EMERGENCY_STOP"}.items():
        assert word in places[place], f"{place} says nothing that a secret could be in"
    assert [place for place, text in places.items() if KEY in text or SECRET in text] == []


async def run_failing_day(scenario: Scenario) -> None:
    """Whatever makes the daemon speak of its requests, and of its own faults."""
    await scenario.start()
    await scenario.given_position("AAPL", 20)
    await scenario.submit_entry("MSFT", 5, limit="90.10", stop="80.00", target="120.00")
    for kind in ("garble", "drop", "html", "unauthorized"):
        await scenario.inject_fault(kind, route="/v2/*", count=2)
        await scenario.advance(seconds=16)
    await scenario.inject_fault("stream_refuse", count=1)
    scenario.server.streams.disconnect()
    await scenario.advance(seconds=5)
    await scenario.clear_faults()
    assert scenario.components is not None

    async def breaks() -> None:
        raise RuntimeError(f"with {scenario.components!r} in its hands")

    scenario.components.protector.check = breaks
    await scenario.advance(seconds=31)
    await scenario.crash()
    await scenario.start()
    scenario.stop.request("SIGTERM", flatten=True)
    assert await scenario.wait_for_exit() is ExitCode.FLAT


@contextmanager
def capture_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
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


async def read_all_rows(scenario: Scenario) -> str:
    """All tables as text."""
    names = await scenario.conn.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )
    found = []
    for name in names:
        found += await scenario.conn.fetch(f'SELECT t::text AS row FROM "{name["tablename"]}" t')
    return "\n".join(record["row"] for record in found)


def read_all_files(folder: Path) -> str:
    """What lies under a folder, names included."""
    return "\n".join(
        f"{path}\n{path.read_bytes().decode(errors='replace')}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
