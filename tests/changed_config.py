"""Configuration in which the values differ from a given one."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from catalyst.config.schema import Config, Section

# Values of keys that a rule ties to others: the weights must sum to 1, a target must be worth its stop.
SCORING = {"news": 0.25, "technical": 0.35, "momentum": 0.25, "volume": 0.15, "min_composite": 0.6}
SCAN_WEIGHTS = {"weight_volume": 0.25, "weight_momentum": 0.4, "weight_gap": 0.15, "weight_liquidity": 0.2}
LEVELS = {"default_stop_loss_pct": 3.0, "default_take_profit_pct": 10.0}


def changed_config(config: Config) -> Config:
    """Return a valid configuration of which every value but the modes and the time zone differs from `config`."""
    tree = {name: _changed_section(getattr(config, name)) for name in Config.model_fields}
    tree["session"]["timezone"] = config.session.timezone
    tree["scan"] |= SCAN_WEIGHTS
    tree["positions"] |= LEVELS
    return Config.model_validate({**tree, "scoring": SCORING})


def _changed_section(section: Section) -> dict[str, Any]:
    return {name: _other_value(section, name) for name in type(section).model_fields}


def _other_value(section: Section, name: str) -> Any:
    """Return another valid value of this key, or the same one when no candidate is valid."""
    value = getattr(section, name)
    for candidate in _candidates(value, get_args(type(section).model_fields[name].annotation)):
        try:
            changed = type(section).model_validate({**section.model_dump(), name: candidate})
        except ValidationError:
            continue
        if getattr(changed, name) != value:
            return getattr(changed, name)
    return value


def _candidates(value: Any, choices: tuple[Any, ...]) -> Iterator[Any]:
    yield from choices  # of a Literal; types are no valid values
    match value:
        case bool():
            yield not value
        case int() | float() | Decimal():
            yield from (value + 1, value - 1, value * 2, value / 2)
        case tuple():
            yield from (("OTHER",), ("NYSE",))
        case _:
            yield from (Path("/other"), "other")
