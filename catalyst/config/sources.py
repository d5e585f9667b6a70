"""Sources: the effective value of each key, and where it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from catalyst.config.keys import config_keys
from catalyst.config.loader import OVERRIDES, is_overridden, read_variables, read_yaml
from catalyst.config.settings import Environment, Settings
from catalyst.domain.secret_mask import MASK, mask_text

DEFAULT: Final = "default"
CREDENTIALS: Final = "a file of systemd's credentials"
_ADDRESSES: Final = ("database_url",)  # shown without the password; all of any other secret is hidden


@dataclass(frozen=True, slots=True)
class SourcedValue:
    """A value in force and its source: `default`, a file, or a variable and its place."""

    value: object
    source: str


def effective_values(settings: Settings) -> dict[str, SourcedValue]:
    """Return the value in force of every key, by its dotted name."""
    tree = {} if settings.source is None else read_yaml(settings.source)
    places = variable_places(settings.env_file)
    variables = {key: name for name, key in OVERRIDES.items() if is_overridden(settings.env, name)}
    values = {}
    for key in config_keys():
        value = getattr(getattr(settings.config, key.section), key.name)
        section = tree.get(key.section)
        source = DEFAULT
        if key.key in variables:
            name = variables[key.key]
            source = f"{name.upper()} in {places.get(name, CREDENTIALS)}"
        elif isinstance(section, dict) and key.name in section:
            source = str(settings.source)
        values[key.key] = SourcedValue(value, source)
    return values | _decided_values(settings, values)


def _decided_values(settings: Settings, values: dict[str, SourcedValue]) -> dict[str, SourcedValue]:
    """Return the values that a start decides from several settings: modes and folders."""
    decided = {
        "database.data_dir": SourcedValue(settings.data_dir, values["database.data_dir"].source),
        "database.spool": SourcedValue(settings.spool_dir, values["database.spool"].source),
        "database.proofs": SourcedValue(settings.proofs_dir, values["database.proofs"].source),
        "database.backups": SourcedValue(settings.backups_dir, values["database.backups"].source),
    }
    if settings.config.trading.mode is None:
        if settings.env.trading_mode is settings.mode:
            source = "TRADING_MODE"
        elif settings.env.alpaca_api_key is not None:
            source = "ALPACA_API_KEY and ALPACA_SECRET_KEY are set"
        else:
            source = f"{DEFAULT}: no key of a broker is set"
        decided["trading.mode"] = SourcedValue(settings.mode, source)
    if settings.session_mode is not settings.config.session.mode:
        decided["session.mode"] = SourcedValue(settings.session_mode, "its other switches are off")
    return decided


def variables_in_force(settings: Settings) -> dict[str, SourcedValue]:
    """Return every variable that is set, by its name, with its place; secrets are masked."""
    places = variable_places(settings.env_file)
    return {
        name.upper(): SourcedValue(_shown_value(name, value), places.get(name, CREDENTIALS))
        for name, value in settings.env
        if name in settings.env.model_fields_set
    }


def variable_places(env_file: Path | None) -> dict[str, str]:
    """Return the place of each variable that is set and not empty, by its name in lower case."""
    return {
        variable.key: variable.place
        for variable in read_variables(env_file)
        if variable.value and variable.key in Environment.model_fields
    }


def _shown_value(name: str, value: object) -> object:
    if not isinstance(value, SecretStr):
        return value
    return mask_text(value.get_secret_value()) if name in _ADDRESSES else MASK
