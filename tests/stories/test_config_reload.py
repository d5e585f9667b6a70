"""Configuration reload during the day (F097), with valid and invalid files."""

import ast
import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

import catalyst
from catalyst.config.loader import load
from catalyst.config.schema import Config, Section
from catalyst.daemon.runtime.config_reload import (
    NEXT_SESSION_KEYS,
    RISK_SECTIONS,
    START_ONLY_KEYS,
    changed_values,
)
from catalyst.daemon.shutdown import stop_on_signals
from catalyst.simulator.market.interface import SnapshotColumns
from tests.changed_config import changed_config
from tests.dbfaults.postgres_proxy import open_proxy
from tests.object_graph import held_values
from tests.stories.scenario import Facts, Scenario, ScenarioMarket, open_scenario

RELOAD_WAIT_SECONDS = 65
NO_VARIABLES: Mapping[str, str] = {}


@asynccontextmanager
async def open_scenario_with_config_file(
    database: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    proxy_dsn: str | None = None,
    environment: Mapping[str, str] = NO_VARIABLES,
) -> AsyncIterator[tuple[Scenario, Callable[..., None]]]:
    """Open a scenario with a configuration file and an environment file; the second value is a function that writes
    the configuration file with other sections."""
    for name in ("RISK_HOT_RELOAD", "TRADING_HOT_RELOAD"):
        monkeypatch.delenv(name, raising=False)
    env_file = folder / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
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
        scenario.settings = load(path, env_file=env_file)
        scenario.dsn = proxy_dsn or database
        await scenario.start()
        yield scenario, write_config


async def config_changes(scenario: Scenario) -> list[Facts]:
    """Return the facts of every CONFIG_CHANGED event."""
    rows = await scenario.conn.fetch(
        "SELECT facts FROM risk_events WHERE event_type = 'CONFIG_CHANGED' ORDER BY risk_event_id"
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


WHOLE_CONFIG = {
    "config",
    "self.config",
    "components.config",
    "self.config.in_force",
    "components.config.in_force",
}
SECTION_OF_CLASS = {info.annotation.__name__: name for name, info in Config.model_fields.items()}  # type: ignore[union-attr]


class ConfigReads(ast.NodeVisitor):
    """Keys (`section.key`) that a module reads. A section is a parameter of its class, an attribute of the whole
    configuration, or a local variable that stands for it."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.sections: dict[str, str] = {}  # section by local name

    def section_of(self, node: ast.expr) -> str | None:
        """Return the section that an expression stands for; None when it is not one."""
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in WHOLE_CONFIG:
            return node.attr if node.attr in Config.model_fields else None
        return self.sections.get(ast.unparse(node))

    def visit_arg(self, node: ast.arg) -> None:
        name = "" if node.annotation is None else ast.unparse(node.annotation)
        self.sections.pop(node.arg, None)
        if name in SECTION_OF_CLASS:
            self.sections[node.arg] = SECTION_OF_CLASS[name]

    def visit_Assign(self, node: ast.Assign) -> None:
        names, values = node.targets, [node.value]
        if isinstance(names[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            names, values = names[0].elts, node.value.elts
        for name, value in zip(names, values, strict=False):
            section = self.section_of(value)
            if section is not None:
                self.sections[ast.unparse(name)] = section
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        section = self.section_of(node.value)
        if section is not None:
            self.keys.add(f"{section}.{node.attr}")
        self.generic_visit(node)


def keys_read_by_daemon() -> set[str]:
    """Return every key that daemon or pipeline reads from its section."""
    package = Path(catalyst.__file__).parent
    reads = ConfigReads()
    for path in [*package.glob("daemon/**/*.py"), *package.glob("pipeline/*.py")]:
        reads.sections.clear()
        reads.visit(ast.parse(path.read_text()))
    return reads.keys


def reloadable_keys() -> set[str]:
    """Return every key of the schema that a reload changes."""
    return {
        f"{section}.{name}"
        for section, info in Config.model_fields.items()
        for name in info.annotation.model_fields  # type: ignore[union-attr]
        if {section, f"{section}.{name}"}.isdisjoint(START_ONLY_KEYS)
    }


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
        write_config(**with_values_of(wanted, old, reloadable_keys()).model_dump(mode="json"))
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        changes = changed_values(old, config.in_force)
        assert changes.keys() == reloadable_keys()
        assert changed_values(wanted, config.in_force).keys().isdisjoint(reloadable_keys())
    assert reloadable_keys() - keys_read_by_daemon() == set()


def with_values_of(wanted: Config, old: Config, keys: AbstractSet[str]) -> Config:
    """Return `old` with the values of `wanted` for these keys."""
    tree = old.model_dump()
    for key in keys:
        section, _, name = key.partition(".")
        tree[section][name] = getattr(getattr(wanted, section), name)
    return Config.model_validate(tree)


def kept_values(root: object, start: Config, now: Config) -> set[tuple[str, str]]:
    """Return path and key of each value of the start that a component holds, although another one is in force."""
    before = {key: old for key, (old, _) in changed_values(start, now).items()}
    found: set[tuple[str, str]] = set()
    for path, value in held_values(root):
        if isinstance(value, Section):
            if value in sections_of(start) and value not in sections_of(now):
                found.add((path, type(value).__name__))
            continue
        found |= {(path, key) for key, old in before.items() if stands_for(value, old)}
    return found


def sections_of(config: Config) -> list[Section]:
    """Return the configuration and each of its sections."""
    return [config, *(getattr(config, name) for name in Config.model_fields)]


def stands_for(value: object, configured: object) -> bool:
    """Return true when `value` may be this configured value: itself, or a number as a duration or a part of 100."""
    if isinstance(configured, int | float | Decimal) and not isinstance(configured, bool):
        number = value.total_seconds() if isinstance(value, timedelta) else value
        if not isinstance(number, int | float | Decimal) or isinstance(number, bool):
            return False
        return any(float(number) == float(configured) * factor for factor in (1.0, 60.0, 0.01))
    return type(value) is type(configured) and value == configured


@pytest.mark.promise("F097")
async def test_no_component_keeps_a_value_of_the_start(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reload of every key that applies at once, no component and no running loop holds a value of the start.

    The daemon starts twice, with each of two configurations, and reloads the other one. A place that holds the value
    of the start both times is a copy; a value that is equal by chance is not.
    """
    async with open_scenario_with_config_file(database, tmp_path, monkeypatch) as (scenario, write_config):
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        first = scenario.components.config.in_force
        at_once = {key for key in reloadable_keys() if not key.startswith(NEXT_SESSION_KEYS)}
        second = with_values_of(changed_config(first), first, at_once)
        kept: list[set[tuple[str, str]]] = []
        for start, reloaded in ((second, first), (first, second)):
            await scenario.crash()
            write_config(**start.model_dump(mode="json"))
            scenario.settings = load(tmp_path / "config.yaml")
            await scenario.start()
            write_config(**reloaded.model_dump(mode="json"))
            await scenario.advance(minutes=3)
            assert changed_values(scenario.components.config.in_force, reloaded) == {}
            kept.append(kept_values(scenario.components, start, reloaded))
        assert kept[0] & kept[1] == set()


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


IGNORED_KEYS = {"session.market_open", "session.market_close"}  # the loader ignores them with a notice


def names_in_config_file(introduction: str) -> set[str]:
    """Return the sections and keys that the comment of config.yaml lists after `introduction`, up to the full stop."""
    lines = (Path(__file__).parents[2] / "config.yaml").read_text().splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    assert comment.count(introduction) == 1
    return set(re.split(r",\s*", re.split(r"\.(?:\s|$)", comment.partition(introduction)[2])[0].strip()))


@pytest.mark.promise("F097")
def test_config_file_names_the_keys_that_a_reload_does_not_apply() -> None:
    """The comment of config.yaml names exactly the keys of a restart, of the next session and of RISK_HOT_RELOAD."""
    assert names_in_config_file("the daemon reports it:") | IGNORED_KEYS == set(START_ONLY_KEYS)
    assert names_in_config_file("from the next session on:") == set(NEXT_SESSION_KEYS)
    assert names_in_config_file("these sections until a restart:") == set(RISK_SECTIONS)


@pytest.mark.promise("F097")
@pytest.mark.parametrize("variable", ["RISK_HOT_RELOAD", "TRADING_HOT_RELOAD"])
async def test_config_reload_can_be_disabled_by_environment(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Each of the two environment variables keeps every value of its half of the file; the other half is reloaded."""
    risk_sections = names_in_config_file("these sections until a restart:")
    risk_keys = {key for key in reloadable_keys() if key.partition(".")[0] in risk_sections}
    kept = risk_keys if variable == "RISK_HOT_RELOAD" else reloadable_keys() - risk_keys
    async with open_scenario_with_config_file(
        database, tmp_path, monkeypatch, environment={variable: "false"}
    ) as (scenario, write_config):
        assert scenario.components is not None
        old = scenario.components.config.in_force
        wanted = with_values_of(changed_config(old), old, reloadable_keys())
        write_config(**wanted.model_dump(mode="json"))
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        [event] = await config_changes(scenario)
        assert event["changes"].keys() == reloadable_keys() - kept
        assert set(event["needs_restart"]) == kept
        assert changed_values(old, scenario.components.config.in_force).keys() == reloadable_keys() - kept


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
    """Two changes apply at once during a database outage. Each is recorded after it, with the values before it."""
    async with (
        open_proxy(database) as proxy,
        open_scenario_with_config_file(database, tmp_path, monkeypatch, proxy_dsn=proxy.dsn) as (
            scenario,
            write_config,
        ),
    ):
        assert scenario.components is not None
        proxy.refuse_connections()
        for number in (2, 4):
            write_config(risk={"max_positions": number})
            await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
            assert scenario.components.config.risk.max_positions == number
        assert await config_changes(scenario) == []
        proxy.resume()
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        assert [event["changes"] for event in await config_changes(scenario)] == [
            {"risk.max_positions": ["5", "2"]},
            {"risk.max_positions": ["2", "4"]},
        ]


@pytest.mark.promise("F097")
async def test_environment_file_overrides_the_file_at_every_reload(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of the environment file stays in force when the configuration file is read again."""
    async with open_scenario_with_config_file(
        database, tmp_path, monkeypatch, environment={"MAX_POSITIONS": "2"}
    ) as (scenario, write_config):
        assert scenario.components is not None
        write_config(risk={"max_positions": 7, "max_daily_loss": 500})
        await scenario.advance(seconds=RELOAD_WAIT_SECONDS)
        risk = scenario.components.config.risk
        assert (risk.max_positions, risk.max_daily_loss) == (2, Decimal(500))
