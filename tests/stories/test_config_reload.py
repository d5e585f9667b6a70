"""Configuration reload during the day (F097), with valid and invalid files."""

import ast
import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

import catalyst
from catalyst.config.loader import load
from catalyst.daemon.runtime.config_reload import START_ONLY_KEYS, changed_values
from catalyst.daemon.shutdown import stop_on_signals
from catalyst.simulator.market.interface import SnapshotColumns
from tests.changed_config import changed_config
from tests.dbfaults.postgres_proxy import open_proxy
from tests.stories.scenario import Facts, Scenario, ScenarioMarket, open_scenario

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
    """The components act by the new values: a resting entry and a held position reach their new, shorter times.
    The position keeps its stop until then, and the change is recorded."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, write_config):
        assert scenario.components is not None
        scenario.print_trade("MSFT", "190.00")
        await scenario.given_position("AAPL", 20)
        await scenario.submit_entry("MSFT", 10, limit="170.00", stop="160.00", target="195.00")
        config = scenario.components.config
        old = config.in_force
        write_config(
            risk={"max_daily_loss": 500, "max_positions": 2},
            positions={"default_stop_loss_pct": 1.0, "max_hold_time_minutes": 5},
            execution={"entry_timeout_seconds": 60},
        )
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert config.risk.max_daily_loss == Decimal(500)
        [event] = await config_changes(scenario)
        assert event["changes"].keys() == changed_values(old, config.in_force).keys()
        assert event["changes"]["risk.max_daily_loss"] == ["2000.00", "500"]
        assert event["fingerprint"] == config.in_force.fingerprint
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["stop_loss"] == Decimal("188.00")
        await scenario.advance(seconds=15)
        assert (await scenario.orders("MSFT"))[0]["cancel_reason"] == "ENTRY_TIMEOUT"
        assert scenario.held_qty("AAPL") == 20
        await scenario.advance(minutes=5)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TIME_LIMIT")
        await scenario.assert_consistent()


CONFIG_IN_FORCE = {"config", "self.config", "components.config", "self.config.in_force"}


def names_read_by_daemon() -> tuple[set[str], set[str]]:
    """Return the sections that the daemon reads through the configuration in force, and every attribute name that
    daemon or pipeline reads."""
    package = Path(catalyst.__file__).parent
    sections: set[str] = set()
    names: set[str] = set()
    for path in [*package.glob("daemon/**/*.py"), *package.glob("pipeline/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
                if ast.unparse(node.value) in CONFIG_IN_FORCE:
                    sections.add(node.attr)
    return sections, names


@pytest.mark.promise("F097")
async def test_every_reloadable_key_takes_effect_without_restart(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in which every reloadable value differs puts all of them in force. Each key is read somewhere, and
    each of its sections through the configuration in force."""
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, write_config):
        assert scenario.components is not None
        config = scenario.components.config
        old = config.in_force
        wanted = changed_config(old)
        tree, old_tree = wanted.model_dump(mode="json"), old.model_dump(mode="json")
        reloadable: set[str] = set()
        for section, values in tree.items():
            for name in values:
                if {section, f"{section}.{name}"}.isdisjoint(START_ONLY_KEYS):
                    reloadable.add(f"{section}.{name}")
                else:
                    values[name] = old_tree[section][name]
        write_config(**tree)
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        changes = changed_values(old, config.in_force)
        assert changes.keys() == reloadable
        assert changed_values(wanted, config.in_force).keys().isdisjoint(reloadable)
    read_sections, read_keys = names_read_by_daemon()
    assert {key.partition(".")[0] for key in reloadable} - read_sections == set()
    assert {key.partition(".")[2] for key in reloadable} - read_keys == set()


class MarketWithHook(ScenarioMarket):
    """Market that calls `on_snapshots` before it serves snapshots."""

    on_snapshots: Callable[[], None] = staticmethod(lambda: None)

    def snapshots(self, symbols: Sequence[str], when: datetime) -> SnapshotColumns:
        self.on_snapshots()
        return super().snapshots(symbols, when)


@pytest.mark.promise("F097")
async def test_running_scan_ends_with_the_values_it_began_with(database: str) -> None:
    """A configuration that comes into force while a scan reads its snapshots applies to the next scan."""
    market = MarketWithHook()
    async with open_scenario(database, market=market) as scenario:
        assert scenario.components is not None
        config, day = scenario.components.config, scenario.components.trading_day
        limits = config.in_force.scan.model_copy(update={"max_spread_bps": 0.1})
        new = config.in_force.model_copy(update={"scan": limits})
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=90)
        market.on_snapshots = lambda: config.put_in_force(new)
        results = [await day.scan(trade=False) for _ in range(2)]
        reasons = [str(result.frame.loc["AAPL", "reason"]) for result in results if result is not None]
        assert ["limit 0.1 bp" in reason for reason in reasons] == [False, True]


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
        old_config = scenario.components.config.in_force
        path = tmp_path / "config.yaml"
        for alert_count, text in enumerate(INVALID_SECTIONS, start=1):
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
            await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
            assert scenario.components.config.in_force is old_config, text
            assert (await scenario.alert_events()).count("CONFIG_INVALID") == alert_count, text
        await scenario.advance(seconds=2 * RELOAD_WAIT_SECONDS)
        assert (
            await scenario.conn.fetchval("SELECT sum(repeats) FROM alerts WHERE event = 'CONFIG_INVALID'")
            == 0
        )
        assert await config_changes(scenario) == []

        write_config(risk={"max_positions": 3})
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert scenario.components.config.risk.max_positions == 3


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
        config = scenario.components.config.in_force
        assert config.risk.max_positions == 4
        assert config.trading.allow_short is False
        assert config.broker.simulator == scenario.server.url
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
            assert scenario.components.config.risk.max_positions == 2
            new_config = scenario.components.config.in_force
            os.kill(os.getpid(), signal.SIGHUP)
            await scenario.advance(seconds=1)
            assert changed_values(new_config, scenario.components.config.in_force) == {}
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
        assert scenario.components.config.risk.max_positions == 2
        assert await config_changes(scenario) == []
        proxy.resume()
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert len(await config_changes(scenario)) == 1
