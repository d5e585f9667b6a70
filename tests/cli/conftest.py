"""Fixtures of the command line tests: an empty shell, and a shell whose database holds a traded day."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Shell
from report.traded_day import write_day

from catalyst.clock import ManualClock, ScaledClock
from catalyst.store.pool import open_store


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in an empty folder."""
    return Shell(tmp_path)


@pytest.fixture
def traded_shell(shell: Shell, postgres: Any, database: str) -> Shell:
    """Return a shell on a database with the traded day, at 10:15 New York of that day, without a daemon."""
    at = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)

    async def write() -> None:
        store = await open_store(database, ManualClock(at))
        await write_day(store)
        await store.close()

    postgres.run(write)
    ScaledClock.create(shell.folder / "clock", at)
    shell.settings = {"DATABASE_URL": database, "CATALYST_CLOCK": str(shell.folder / "clock")}
    return shell
