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
from catalyst.daemon.runtime.config_reload import changed_values
from catalyst.daemon.shutdown import stop_on_signals
from tests.dbfaults.postgres_proxy import open_proxy
from tests.stories.scenario import Facts, Scenario, open_scenario

RELOAD_WAIT_SECONDS = 65


@asynccontextmanager
async def open_scenario_with_config_file(
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, through: str | None = None
) -> AsyncIterator[tuple[Scenario, Callable[..., None]]]:
    """A desk whose settings are a file; the second value writes that file anew, with other sections."""
    for name in ("RISK_HOT_RELOAD", "TRADING_HOT_RELOAD"):
        monkeypatch.delenv(name, raising=False)
    path = folder / "config.yaml"
    async with open_scenario(database, started=False) as scenario:
        base: dict[str, Any] = {
            "trading": {"mode": "sim"},
            "broker": {"simulator": scenario.server.url},
            "session": {"mode": "autonomous"},
            "workflow": {"auto_execute": True},
            "features": {"autonomous_trading": True},
        }

        def writes(**changes: Facts) -> None:
            tree = {name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}}
            path.write_text(yaml.safe_dump(tree))

        writes()
        scenario.settings = load(path)
        scenario.dsn = through or database
        await scenario.start()
        yield scenario, writes


async def config_changes(scenario: Scenario) -> list[Facts]:
    rows = await scenario.conn.fetch(
        "SELECT facts FROM risk_events WHERE event_type = 'CONFIG_CHANGED' ORDER BY 1"
    )
    return [orjson.loads(row["facts"]) for row in rows]


@pytest.mark.promise("F097")
async def test_config_change_is_applied_within_a_minute(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part holds the new values, and what is held keeps its stop; the tables know what changed."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, writes):
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        old = scenario.components.settings.config
        writes(
            risk={"max_daily_loss": 500, "max_positions": 2},
            positions={"default_stop_loss_pct": 1.0},
            stop_monitor={"every_seconds": 10},
            execution={"entry_timeout_seconds": 60},
            reconcile={"every_seconds": 30},
        )
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        new = scenario.components.settings.config
        assert new.risk.max_daily_loss == Decimal(500)
        parts = scenario.components
        assert parts.trading_day is not None
        assert parts.daily_loss_limit.cfg is parts.scanner.cfg is parts.trading_day.cfg is new
        assert parts.submission.cfg is parts.protector.cfg is parts.entry_expiry.cfg is new.execution
        assert (parts.reconciler.cfg, parts.reconciler.polling_cfg) == (new.reconcile, new.execution)
        assert parts.stop_monitor.cfg is new.stop_monitor
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["stop_loss"] == Decimal("188.00")
        [reported] = await config_changes(scenario)
        assert reported["changes"].keys() == changed_values(old, new).keys()
        assert reported["changes"]["risk.max_daily_loss"] == ["2000.00", "500"]
        assert reported["fingerprint"] == new.fingerprint
        await scenario.assert_consistent()


INVALID_SECTIONS = [
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


@pytest.mark.promise("F097")
async def test_invalid_config_keeps_old_values_and_alerts_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not YAML, absurd values, unknown keys, another account, no file at all: the old values stay, somebody is told
    once of each, and the next good file is taken."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, writes):
        assert scenario.components is not None
        before = scenario.components.settings.config
        path = tmp_path / "config.yaml"
        for reported, text in enumerate(INVALID_SECTIONS, start=1):
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
            await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
            assert scenario.components.settings.config is before, text
            assert scenario.components.daily_loss_limit.cfg is before
            assert (await scenario.alert_events()).count("CONFIG_INVALID") == reported, text
        await scenario.advance(seconds=2 * RELOAD_WAIT_SECONDS)
        assert (
            await scenario.conn.fetchval("SELECT sum(repeats) FROM alerts WHERE event = 'CONFIG_INVALID'")
            == 0
        )
        assert await config_changes(scenario) == []

        writes(risk={"max_positions": 3})
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert scenario.components.daily_loss_limit.cfg.risk.max_positions == 3


@pytest.mark.promise("F097")
async def test_config_keys_that_need_restart_are_reported(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who trades what and where stays as it was; the rest of the same file is taken over."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, writes):
        assert scenario.components is not None
        writes(
            trading={"allow_short": True},
            broker={"simulator": "http://127.0.0.1:1"},
            session={"mode": "supervised"},
            risk={"max_positions": 4},
        )
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        now = scenario.components.settings
        assert now.config.risk.max_positions == 4
        assert now.config.trading.allow_short is False
        assert now.trading_url == scenario.server.url
        [reported] = await config_changes(scenario)
        assert reported["needs_restart"] == ["broker.simulator", "session.mode", "trading.allow_short"]
        assert reported["changes"].keys() == {"risk.max_positions"}


@pytest.mark.promise("F097")
@pytest.mark.parametrize(
    ("variable", "stays", "moves"),
    [
        ("RISK_HOT_RELOAD", "risk.max_positions", "scan.max_candidates"),
        ("TRADING_HOT_RELOAD", "scan.max_candidates", "risk.max_positions"),
    ],
)
async def test_config_reload_can_be_disabled_by_environment(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, stays: str, moves: str
) -> None:
    """Each of the two switches keeps its half of the file."""
    async with open_scenario(database, started=False) as scenario:
        monkeypatch.setenv(variable, "false")
        path = tmp_path / "config.yaml"
        tree: dict[str, Any] = {"trading": {"mode": "sim"}, "broker": {"simulator": scenario.server.url}}
        path.write_text(yaml.safe_dump(tree))
        scenario.settings = load(path)
        await scenario.start()
        path.write_text(
            yaml.safe_dump({**tree, "risk": {"max_positions": 4}, "scan": {"max_candidates": 100}})
        )
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        [reported] = await config_changes(scenario)
        assert (list(reported["changes"]), reported["needs_restart"]) == ([moves], [stays])


@pytest.mark.promise("F097")
async def test_sighup_reloads_config_at_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal itself, to this very process: no minute passes; the same file again changes nothing."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, writes):
        assert scenario.components is not None
        stop_on_signals(scenario.stop, scenario.settings)
        loop = asyncio.get_running_loop()
        try:
            writes(risk={"max_positions": 2})
            os.kill(os.getpid(), signal.SIGHUP)
            await scenario.advance(seconds=1)
            assert scenario.components.daily_loss_limit.cfg.risk.max_positions == 2
            held = scenario.components.settings.config
            os.kill(os.getpid(), signal.SIGHUP)
            await scenario.advance(seconds=1)
            assert changed_values(held, scenario.components.settings.config) == {}
            assert len(await config_changes(scenario)) == 1
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
                loop.remove_signal_handler(number)


@pytest.mark.promise("F097")
async def test_config_change_in_database_outage_is_recorded_later(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower limit holds at once; the tables hear of it when they can."""
    async with (
        open_proxy(database) as proxy,
        open_scenario_with_config_file(database, tmp_path, monkeypatch, through=proxy.dsn) as (
            scenario,
            writes,
        ),
    ):
        assert scenario.components is not None
        proxy.refuse_connections()
        writes(risk={"max_positions": 2})
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert scenario.components.daily_loss_limit.cfg.risk.max_positions == 2
        assert await config_changes(scenario) == []
        proxy.resume()
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert len(await config_changes(scenario)) == 1
