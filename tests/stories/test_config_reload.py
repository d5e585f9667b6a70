"""F097: the configuration changes, or breaks, while the day runs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from catalyst.config.loader import load
from catalyst.daemon.runtime.config_reload import differences
from catalyst.daemon.shutdown import stop_on_signals
from tests.dbfaults.postgres_proxy import between
from tests.stories.scenario import Desk, Facts, open_desk

MINUTE = 65


@asynccontextmanager
async def open_configured(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, through: str | None = None
) -> AsyncIterator[tuple[Desk, Callable[..., None]]]:
    """A desk whose settings are a file; the second value writes that file anew, with other sections."""
    for name in ("RISK_HOT_RELOAD", "TRADING_HOT_RELOAD"):
        monkeypatch.delenv(name, raising=False)
    path = folder / "config.yaml"
    async with open_desk(database, opened=False) as desk:
        base: dict[str, Any] = {
            "trading": {"mode": "sim"},
            "broker": {"simulator": desk.server.url},
            "session": {"mode": "autonomous"},
            "workflow": {"auto_execute": True},
            "features": {"autonomous_trading": True},
        }

        def writes(**changes: Facts) -> None:
            tree = {name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}}
            path.write_text(yaml.safe_dump(tree))

        writes()
        desk.settings = load(path)
        desk.dsn = through or database
        await desk.opens()
        yield desk, writes


async def changes_of(desk: Desk) -> list[Facts]:
    rows = await desk.conn.fetch(
        "SELECT facts FROM risk_events WHERE event_type = 'CONFIG_CHANGED' ORDER BY 1"
    )
    return [orjson.loads(row["facts"]) for row in rows]


async def test_f097_a_change_is_taken_over_within_a_minute(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part holds the new values, and what is held keeps its stop; the tables know what changed."""
    async with open_configured(database, tmp_path, monkeypatch) as (desk, writes):
        assert desk.parts is not None
        await desk.holds("AAPL", 20)
        old = desk.parts.settings.config
        writes(
            risk={"max_daily_loss": 500, "max_positions": 2},
            positions={"default_stop_loss_pct": 1.0},
            stop_monitor={"every_seconds": 10},
            execution={"entry_timeout_seconds": 60},
            reconcile={"every_seconds": 30},
        )
        await desk.waits(seconds=MINUTE)
        new = desk.parts.settings.config
        assert new.risk.max_daily_loss == Decimal(500)
        parts = desk.parts
        assert parts.day is not None
        assert parts.risk_watch.cfg is parts.scanner.cfg is parts.day.cfg is new
        assert parts.execution.cfg is parts.guard.cfg is parts.entries.cfg is new.execution
        assert (parts.reconciler.cfg, parts.reconciler.polls) == (new.reconcile, new.execution)
        assert parts.stop_monitor.cfg is new.stop_monitor
        position = await desk.position("AAPL")
        assert position is not None
        assert position["stop_loss"] == Decimal("188.00")
        [told] = await changes_of(desk)
        assert told["changes"].keys() == differences(old, new).keys()
        assert told["changes"]["risk.max_daily_loss"] == ["2000.00", "500"]
        assert told["fingerprint"] == new.fingerprint
        await desk.agrees()


UNACCEPTABLE = [
    "risk: [unclosed",
    "risk:\n  max_daily_loss: -5",
    "risk:\n  max_daily_loss: .nan",
    "risk:\n  max_positions: 5000",
    "positions:\n  default_stop_loss_pct: 0",
    "shutdown:\n  flatten_timeout_seconds: 100000",
    "risk:\n  max_dayly_loss: 5",
    "scan:\n  min_price: 600",
    "trading:\n  mode: live",
    "- a\n- list",
    "\x00\x01",
    None,  # the file is gone
]


async def test_f097_what_cannot_be_taken_over_changes_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not YAML, absurd values, unknown keys, another account, no file at all: the old values stay, somebody is told
    once of each, and the next good file is taken."""
    async with open_configured(database, tmp_path, monkeypatch) as (desk, writes):
        assert desk.parts is not None
        before = desk.parts.settings.config
        path = tmp_path / "config.yaml"
        for told, text in enumerate(UNACCEPTABLE, start=1):
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
            await desk.waits(seconds=MINUTE)
            assert desk.parts.settings.config is before, text
            assert desk.parts.risk_watch.cfg is before
            assert (await desk.alerts()).count("CONFIG_INVALID") == told, text
        await desk.waits(seconds=2 * MINUTE)
        assert await desk.conn.fetchval("SELECT sum(repeats) FROM alerts WHERE event = 'CONFIG_INVALID'") == 0
        assert await changes_of(desk) == []

        writes(risk={"max_positions": 3})
        await desk.waits(seconds=MINUTE)
        assert desk.parts.risk_watch.cfg.risk.max_positions == 3


async def test_f097_keys_that_need_a_start_say_so(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who trades what and where stays as it was; the rest of the same file is taken over."""
    async with open_configured(database, tmp_path, monkeypatch) as (desk, writes):
        assert desk.parts is not None
        writes(
            trading={"allow_short": True},
            broker={"simulator": "http://127.0.0.1:1"},
            session={"mode": "supervised"},
            risk={"max_positions": 4},
        )
        await desk.waits(seconds=MINUTE)
        now = desk.parts.settings
        assert now.config.risk.max_positions == 4
        assert now.config.trading.allow_short is False
        assert now.trading_url == desk.server.url
        [told] = await changes_of(desk)
        assert told["needs_restart"] == ["broker.simulator", "session.mode", "trading.allow_short"]
        assert told["changes"].keys() == {"risk.max_positions"}


@pytest.mark.parametrize(
    ("variable", "stays", "moves"),
    [
        ("RISK_HOT_RELOAD", "risk.max_positions", "scan.keep"),
        ("TRADING_HOT_RELOAD", "scan.keep", "risk.max_positions"),
    ],
)
async def test_f097_the_environment_may_forbid_it(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, stays: str, moves: str
) -> None:
    """Each of the two switches keeps its half of the file."""
    async with open_desk(database, opened=False) as desk:
        monkeypatch.setenv(variable, "false")
        path = tmp_path / "config.yaml"
        tree: dict[str, Any] = {"trading": {"mode": "sim"}, "broker": {"simulator": desk.server.url}}
        path.write_text(yaml.safe_dump(tree))
        desk.settings = load(path)
        await desk.opens()
        path.write_text(yaml.safe_dump({**tree, "risk": {"max_positions": 4}, "scan": {"keep": 100}}))
        await desk.waits(seconds=MINUTE)
        [told] = await changes_of(desk)
        assert (list(told["changes"]), told["needs_restart"]) == ([moves], [stays])


async def test_f097_sighup_rereads_at_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal itself, to this very process: no minute passes; the same file again changes nothing."""
    async with open_configured(database, tmp_path, monkeypatch) as (desk, writes):
        assert desk.parts is not None
        stop_on_signals(desk.stop, desk.settings)
        loop = asyncio.get_running_loop()
        try:
            writes(risk={"max_positions": 2})
            os.kill(os.getpid(), signal.SIGHUP)
            await desk.waits(seconds=1)
            assert desk.parts.risk_watch.cfg.risk.max_positions == 2
            held = desk.parts.settings.config
            os.kill(os.getpid(), signal.SIGHUP)
            await desk.waits(seconds=1)
            assert differences(held, desk.parts.settings.config) == {}
            assert len(await changes_of(desk)) == 1
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
                loop.remove_signal_handler(number)


async def test_f097_a_change_while_the_database_is_away_is_written_later(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower limit holds at once; the tables hear of it when they can."""
    async with (
        between(database) as proxy,
        open_configured(database, tmp_path, monkeypatch, through=proxy.dsn) as (desk, writes),
    ):
        assert desk.parts is not None
        proxy.goes_away()
        writes(risk={"max_positions": 2})
        await desk.waits(seconds=MINUTE)
        assert desk.parts.risk_watch.cfg.risk.max_positions == 2
        assert await changes_of(desk) == []
        proxy.heals()
        await desk.waits(seconds=MINUTE)
        assert len(await changes_of(desk)) == 1
