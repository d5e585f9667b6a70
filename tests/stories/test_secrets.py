"""Secrets: no key is written to a log, row or file, also on a day with many failures."""

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
    """Settings with keys that the test can recognize."""

    @property
    def keys(self) -> tuple[str, str]:
        """Return the key and the secret of the test."""
        return KEY, SECRET


@pytest.mark.promise("I19")
async def test_no_secret_is_written_to_logs_rows_or_files(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After trades, malformed responses, refused keys, a crash and a flatten, the keys are in no log line
    (before masking), no row and no file."""
    with capture_logs(monkeypatch) as lines:
        async with open_scenario(database, started=False) as scenario:
            default_settings = scenario.settings
            scenario.settings = SettingsWithKeys(
                **{item.name: getattr(default_settings, item.name) for item in fields(default_settings)}
            )
            accepted = scenario.server.middleware._keys
            accepted.clear()
            accepted[KEY] = SECRET
            await run_failing_day(scenario)
            texts = {
                "the log": "\n".join(lines),
                "the database": await read_all_rows(scenario),
                "the files": read_all_files(default_settings.data_dir.parent),
                "the settings": f"{scenario.settings!r} {scenario.settings.config!r} {scenario.settings.env!r}",
            }
    for place, expected in {
        "the log": "Traceback",
        "the database": "AAPL",
        "the files": "SHUTDOWN",
    }.items():
        assert expected in texts[place], f"{place} lacks text in which a secret could be"
    assert [place for place, text in texts.items() if KEY in text or SECRET in text] == []


async def run_failing_day(scenario: Scenario) -> None:
    """Make the daemon log its requests and its errors."""
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

    async def raise_error() -> None:
        raise RuntimeError(f"with {scenario.components!r} in the message")

    scenario.components.protector.check = raise_error
    await scenario.advance(seconds=31)
    await scenario.crash()
    await scenario.start()
    scenario.stop.request("SIGTERM", flatten=True)
    assert await scenario.wait_for_exit() is ExitCode.FLAT


@contextmanager
def capture_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Capture every log event with its traceback, and library records from WARNING on, without masking."""
    lines: list[str] = []

    def capture_event(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
        lines.append(repr(dict(event)))
        return ""

    class Library(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    before, library = structlog.get_config(), Library(logging.WARNING)
    structlog.configure(processors=[structlog.processors.format_exc_info, capture_event])
    logging.getLogger().addHandler(library)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(library)
        structlog.configure(**before)


async def read_all_rows(scenario: Scenario) -> str:
    """Return every row of the database as text."""
    names = await scenario.conn.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )
    rows = []
    for name in names:
        rows += await scenario.conn.fetch(f'SELECT t::text AS row FROM "{name["tablename"]}" t')
    return "\n".join(record["row"] for record in rows)


def read_all_files(folder: Path) -> str:
    """Return the names and contents of all files under a folder."""
    return "\n".join(
        f"{path}\n{path.read_bytes().decode(errors='replace')}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
