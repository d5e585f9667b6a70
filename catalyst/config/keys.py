"""Keys: every key of config.yaml and every environment variable with type, bounds, default and meaning.

They are read from the models, so that the pages made of them cannot differ from what a start accepts.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from catalyst.config.loader import OVERRIDES
from catalyst.config.meanings import KEY_MEANINGS, VARIABLE_MEANINGS
from catalyst.config.schema import Config
from catalyst.config.settings import SECRET_NAMES, Environment

RETIRED_KEYS: Final = frozenset({"session.market_open", "session.market_close"})
_TYPE_NAMES: Final = {int: "integer", float: "number", Decimal: "number", bool: "true or false", Path: "path"}


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key of config.yaml; `bounds` is empty when every value of the type is accepted, `choices` when it is free."""

    section: str
    name: str
    type: str
    choices: tuple[str, ...]
    bounds: str
    default: object
    meaning: str

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"


@dataclass(frozen=True, slots=True)
class EnvironmentVariable:
    """One environment variable; `overrides` is the key whose value it replaces, `secret` hides its value."""

    name: str
    type: str
    default: object
    meaning: str
    overrides: str | None
    secret: bool


def config_keys() -> Iterator[ConfigKey]:
    """Yield every key of config.yaml that still has an effect, in the order of the models."""
    for section, section_info in Config.model_fields.items():
        model = section_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        for name, info in model.model_fields.items():
            if (key := f"{section}.{name}") not in RETIRED_KEYS:
                yield ConfigKey(
                    section,
                    name,
                    _type_text(info.annotation),
                    _choices(info.annotation),
                    _bounds_text(info),
                    info.default,
                    KEY_MEANINGS[key],
                )


def environment_variables() -> Iterator[EnvironmentVariable]:
    """Yield every environment variable that Catalyst reads, in the order of the model."""
    for name, info in Environment.model_fields.items():
        secret, key = name in SECRET_NAMES, OVERRIDES.get(name)
        # A variable may have a free type where its key has a choice: log_level.
        type_text = "text" if secret else _type_text(info.annotation)
        default = None if info.default is None or secret else info.default
        yield EnvironmentVariable(name.upper(), type_text, default, VARIABLE_MEANINGS[name], key, secret)


def value_text(value: object) -> str:
    """Return a value as it is written in config.yaml."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Decimal():
            return f"{value.normalize():f}"
        case float():
            return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"
        case tuple() | list():
            return f"[{', '.join(map(value_text, value))}]"
        case _:
            return str(value)


def _type_text(annotation: Any) -> str:
    """Return the type as people read it: `integer`, `limit or market`, `list`, `path`."""
    if choices := _choices(annotation):
        return " or ".join((", ".join(choices[:-1]), choices[-1]))
    inner = _without_none(annotation)
    if len(inner) > 1:
        return " or ".join(map(_type_text, inner))
    return "list" if get_origin(inner[0]) is tuple else _TYPE_NAMES.get(inner[0], "text")


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the values of a type that has only some; empty for every other type."""
    (inner, *others) = _without_none(annotation)
    if others:
        return ()
    if get_origin(inner) is Literal:
        return tuple(map(str, get_args(inner)))
    return tuple(inner) if isinstance(inner, type) and issubclass(inner, StrEnum) else ()


def _without_none(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union but None, or the one type."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(item for item in get_args(annotation) if item is not type(None))
    return (annotation,)


def _bounds_text(info: FieldInfo) -> str:
    """Return the bounds of a number: `1 to 50`, `above 0 to 100`, `0 or more`."""
    limits = {
        name: value_text(limit)
        for item in info.metadata
        for name in ("ge", "gt", "le", "lt")
        if (limit := getattr(item, name, None)) is not None
    }
    low = f"above {limits['gt']}" if "gt" in limits else limits.get("ge", "")
    high = f"below {limits['lt']}" if "lt" in limits else limits.get("le", "")
    if low and high:
        return f"{low} to {high}"
    return high or (low if low.startswith("above") or not low else f"{low} or more")
