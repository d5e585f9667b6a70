"""Configuration reload during the day (F097), with valid and invalid files."""

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
    database: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, proxy_dsn: str | None = None
) -> AsyncIterator[tuple[Scenario, Callable[..., None]]]:
    """Open a scenario with a configuration file; the second value is a function that writes the file with
    other sections."""
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

        def write_config(**changes: Facts) -> None:
            tree = {name: {**base.get(name, {}), **changes.get(name, {})} for name in {*base, *changes}}
            path.write_text(yaml.safe_dump(tree))

        write_config()
        scenario.settings = load(path)
        scenario.dsn = proxy_dsn or database
        await scenario.start()
        yield scenario, write_config


async def config_changes(scenario: Scenario) -> list[Facts]:
    """Return the facts of every CONFIG_CHANGED event."""
    rows = await scenario.conn.fetch(
        "SELECT facts FROM risk_events WHERE event_type = 'CONFIG_CHANGED' ORDER BY 1"
    )
    return [orjson.loads(row["facts"]) for row in rows]


@pytest.mark.promise("F097")
async def test_config_change_is_applied_within_a_minute(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every component gets the new values, open positions keep their stop, and the change is recorded."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, write_config):
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        old = scenario.components.settings.config
        write_config(
            risk={"max_daily_loss": 500, "max_positions": 2},
            positions={"default_stop_loss_pct": 1.0},
            stop_monitor={"every_seconds": 10},
            execution={"entry_timeout_seconds": 60},
            reconcile={"every_seconds": 30},
        )
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        new = scenario.components.settings.config
        assert new.risk.max_daily_loss == Decimal(500)
        components = scenario.components
        assert components.daily_loss_limit.cfg is components.scanner.cfg is components.trading_day.cfg is new
        assert (
            components.submission.cfg
            is components.protector.cfg
            is components.entry_expiry.cfg
            is new.execution
        )
        assert (components.reconciler.cfg, components.reconciler.polling_cfg) == (
            new.reconcile,
            new.execution,
        )
        assert components.stop_monitor.cfg is new.stop_monitor
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["stop_loss"] == Decimal("188.00")
        [event] = await config_changes(scenario)
        assert event["changes"].keys() == changed_values(old, new).keys()
        assert event["changes"]["risk.max_daily_loss"] == ["2000.00", "500"]
        assert event["fingerprint"] == new.fingerprint
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
    None,  # the file is deleted
]


@pytest.mark.promise("F097")
async def test_invalid_config_keeps_old_values_and_alerts_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid or missing file keeps the old values and raises one alert; the next valid file is applied."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, write_config):
        assert scenario.components is not None
        old_config = scenario.components.settings.config
        path = tmp_path / "config.yaml"
        for alert_count, text in enumerate(INVALID_SECTIONS, start=1):
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
            await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
            assert scenario.components.settings.config is old_config, text
            assert scenario.components.daily_loss_limit.cfg is old_config
            assert (await scenario.alert_events()).count("CONFIG_INVALID") == alert_count, text
        await scenario.advance(seconds=2 * RELOAD_WAIT_SECONDS)
        assert (
            await scenario.conn.fetchval("SELECT sum(repeats) FROM alerts WHERE event = 'CONFIG_INVALID'")
            == 0
        )
        assert await config_changes(scenario) == []

        write_config(risk={"max_positions": 3})
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert scenario.components.daily_loss_limit.cfg.risk.max_positions == 3


@pytest.mark.promise("F097")
async def test_config_keys_that_need_restart_are_reported(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of account, broker and session mode keep their value and are reported; the rest of the file is
    applied."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, write_config):
        assert scenario.components is not None
        write_config(
            trading={"allow_short": True},
            broker={"simulator": "http://127.0.0.1:1"},
            session={"mode": "supervised"},
            risk={"max_positions": 4},
        )
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        settings = scenario.components.settings
        assert settings.config.risk.max_positions == 4
        assert settings.config.trading.allow_short is False
        assert settings.trading_url == scenario.server.url
        [event] = await config_changes(scenario)
        assert event["needs_restart"] == ["broker.simulator", "session.mode", "trading.allow_short"]
        assert event["changes"].keys() == {"risk.max_positions"}


@pytest.mark.promise("F097")
@pytest.mark.parametrize(
    ("variable", "unchanged_key", "changed_key"),
    [
        ("RISK_HOT_RELOAD", "risk.max_positions", "scan.max_candidates"),
        ("TRADING_HOT_RELOAD", "scan.max_candidates", "risk.max_positions"),
    ],
)
async def test_config_reload_can_be_disabled_by_environment(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    unchanged_key: str,
    changed_key: str,
) -> None:
    """Each of the two environment variables disables the reload of its half of the file."""
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
        [event] = await config_changes(scenario)
        assert (list(event["changes"]), event["needs_restart"]) == ([changed_key], [unchanged_key])


@pytest.mark.promise("F097")
async def test_sighup_reloads_config_at_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP reloads the file at once; an unchanged file changes nothing."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, write_config):
        assert scenario.components is not None
        stop_on_signals(scenario.stop, scenario.settings)
        loop = asyncio.get_running_loop()
        try:
            write_config(risk={"max_positions": 2})
            os.kill(os.getpid(), signal.SIGHUP)
            await scenario.advance(seconds=1)
            assert scenario.components.daily_loss_limit.cfg.risk.max_positions == 2
            new_config = scenario.components.settings.config
            os.kill(os.getpid(), signal.SIGHUP)
            await scenario.advance(seconds=1)
            assert changed_values(new_config, scenario.components.settings.config) == {}
            assert len(await config_changes(scenario)) == 1
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
                loop.remove_signal_handler(number)


@pytest.mark.promise("F097")
async def test_config_change_in_database_outage_is_recorded_later(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower limit applies at once during a database outage and is recorded after it."""
    async with (
        open_proxy(database) as proxy,
        open_scenario_with_config_file(database, tmp_path, monkeypatch, proxy_dsn=proxy.dsn) as (
            scenario,
            write_config,
        ),
    ):
        assert scenario.components is not None
        proxy.refuse_connections()
        write_config(risk={"max_positions": 2})
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert scenario.components.daily_loss_limit.cfg.risk.max_positions == 2
        assert await config_changes(scenario) == []
        proxy.resume()
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert len(await config_changes(scenario)) == 1
