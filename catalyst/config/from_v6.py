"""The earlier Catalyst's configuration (v6): .env, trading_config.yaml and risk_parameters.yaml in one.

Of values that differ the stricter one wins; each difference and each key that has no use any more is named.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from catalyst.config.env_file import read_env_file
from catalyst.config.loader import OVERRIDES, read_yaml
from catalyst.config.old_keys import RENAMED
from catalyst.config.schema import Config, Mode
from catalyst.config.settings import Environment
from catalyst.domain.errors import ConfigInvalid

FILES: Final = ("trading_config.yaml", "risk_parameters.yaml")

# Which of two values is the stricter one. A key that is in neither list must not differ.
_LOWER_IS_STRICTER: Final = frozenset(
    {
        "risk.max_daily_loss", "risk.max_position_size", "risk.max_positions", "risk.max_sector_exposure_pct",
        "risk.max_correlation", "risk.warning_threshold_pct", "positions.default_stop_loss_pct",
        "positions.max_hold_time_minutes", "workflow.execute_top_n",
    }
)  # fmt: skip
_HIGHER_IS_STRICTER: Final = frozenset(
    {"risk.min_position_size", "emergency.cooldown_period_minutes", "workflow.scan_frequency_minutes"}
)
_STRICTER_VALUE: Final[Mapping[str, object]] = {
    "session.mode": "supervised", "workflow.auto_execute": False, "features.autonomous_trading": False,
    "features.email_alerts": True, "emergency.send_email_alert": True, "emergency.halt_new_trades": True,
    "emergency.close_all_positions_on_limit": True, "daily_limits.emergency_stop_at_100": True,
    "correlation.check_enabled": True, "positions.close_all_at_market_close": True,
}  # fmt: skip
_RETIRED: Final[Mapping[str, str]] = {
    "session.market_open": "the exchange's calendar decides",
    "session.market_close": "the exchange's calendar decides",
    "redis_host": "the daemon needs no cache server",
    "redis_port": "the daemon needs no cache server",
    "redis_db": "the daemon needs no cache server",
    "redis_password": "the daemon needs no cache server",
    "redis_url": "the daemon needs no cache server",
    "trading_mode": "trading.mode in config.yaml decides",
    "enable_paper_trading": "trading.mode in config.yaml decides",
    "enable_live_trading": "init writes no live configuration",
    "alpaca_base_url": "trading.mode in config.yaml decides",
    "alpaca_paper": "trading.mode in config.yaml decides",
}


@dataclass
class OldConfiguration:
    """The values of keys and the variables of .env to write, and a sentence for each decision."""

    values: dict[str, object] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_v6(folder: Path) -> OldConfiguration:
    """Read the earlier files below `folder`, the YAML files there or in `folder`/config. Raises ConfigInvalid."""
    found = OldConfiguration()
    places: dict[str, str] = {}
    env_file = folder / ".env"
    if env_file.is_file():
        for key, place, value in _read_variables(env_file, found):
            _take(found, places, key, place, value)
    files = [path for name in FILES for path in (folder / name, folder / "config" / name) if path.is_file()]
    if not files and not env_file.is_file():
        raise ConfigInvalid(
            f"{folder} has none of .env, {', '.join(FILES)}: name the folder of the earlier Catalyst"
        )
    for path in files:
        for key, value in _leaves(read_yaml(path)):
            name = RENAMED.get(key, key)
            if key in _RETIRED:
                found.notes.append(f"{path.name}: {key} is left out: {_RETIRED[key]}")
                continue
            _take(found, places, name, path.name, _checked(name, value, f"{path.name}: {key}"))
    found.values["trading.mode"] = Mode.PAPER if "ALPACA_API_KEY" in found.variables else Mode.SIM
    return found


def _read_variables(path: Path, found: OldConfiguration) -> Iterator[tuple[str, str, object]]:
    """Yield key, name and value of each variable that has a key; put every other one into .env."""
    for variable in read_env_file(path, Environment.model_fields):
        key = OVERRIDES.get(variable.key)
        if variable.key in _RETIRED:
            found.notes.append(f".env: {variable.name} is left out: {_RETIRED[variable.key]}")
        elif key is not None and variable.key not in ("log_format", "log_level"):
            if variable.value:
                yield key, f".env, {variable.name}", _checked(key, variable.value, f".env: {variable.name}")
        else:
            is_ours = variable.key in Environment.model_fields
            found.variables[variable.name.upper() if is_ours else variable.name] = variable.value
            if not is_ours:
                found.notes.append(
                    f".env: {variable.name} is kept and has no effect: Catalyst does not read it"
                )


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for section, values in tree.items():
        if not isinstance(values, Mapping):
            raise ConfigInvalid(f"{section} must be a section with keys")
        for name, value in values.items():
            yield f"{section}.{name}", value


def _checked(key: str, value: object, place: str) -> object:
    """Return the value as the configuration reads it. Raises ConfigInvalid for an unknown key or a wrong value."""
    section, _, name = key.partition(".")
    try:
        config = Config.model_validate({section: {name: value}})
    except ValidationError as error:
        faults = "; ".join(
            fault["msg"].removeprefix("Value error, ") for fault in error.errors(include_url=False)
        )
        raise ConfigInvalid(f"{place}: {faults}") from None
    return getattr(getattr(config, section), name)


def _take(found: OldConfiguration, places: dict[str, str], key: str, place: str, value: object) -> None:
    """Keep the value, or the stricter one of it and the value that another file has."""
    if key not in found.values or found.values[key] == value:
        found.values[key], places[key] = value, place
        return
    other, other_place = found.values[key], places[key]
    chosen = _stricter(key, other, value)
    found.values[key] = chosen
    places[key] = place if chosen == value else other_place
    found.notes.append(
        f"{key}: {_shown(other)} ({other_place}) and {_shown(value)} ({place}) differ; the stricter, {_shown(chosen)}, "
        "is written"
    )


def _stricter(key: str, a: object, b: object) -> object:
    if key in _STRICTER_VALUE:
        return _STRICTER_VALUE[key] if _STRICTER_VALUE[key] in (a, b) else a
    numbers = [value for value in (a, b) if isinstance(value, (int, float, Decimal))]
    if key in _LOWER_IS_STRICTER and len(numbers) == 2:
        return min(numbers, key=float)
    if key in _HIGHER_IS_STRICTER and len(numbers) == 2:
        return max(numbers, key=float)
    raise ConfigInvalid(f"{key} is {_shown(a)} and {_shown(b)}: make the files agree, neither is stricter")


def _shown(value: object) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value).lower()
