"""Addresses: what a command that only stops, leaves or shows needs from the configuration, also from an invalid one.

Database, broker, keys and trading mode are read; every other key is left at its default when the configuration is not
valid. The daemon never starts with such settings.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from catalyst.config.loader import PlainLoader, decide_mode, load, read_environment
from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.settings import Environment, Settings
from catalyst.domain.errors import ConfigInvalid
from catalyst.domain.secret_mask import add_secrets, url_secrets

SECTIONS: Final = ("trading", "broker", "database")
MAX_REPAIRS: Final = 50  # lines or keys that are left out
# Variables that decide which account is traded.
ACCOUNT_VARIABLES: Final = frozenset(
    {"alpaca_api_key", "alpaca_secret_key", "alpaca_base_url", "alpaca_paper", "trading_mode"}
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Settings whose addresses hold. `problem`: why the configuration is not valid; `account_problem`: why nobody knows
    which account is meant. Both are None for a valid configuration."""

    settings: Settings
    problem: str | None = None
    account_problem: str | None = None


def load_addresses(path: Path | None, *, env_file: Path | None) -> Addresses:
    """Return the settings of a valid configuration, or the addresses of an invalid one.

    Raises ConfigInvalid when the address of the database is what is not valid.
    """
    try:
        return Addresses(load(path, env_file=env_file))
    except ConfigInvalid as error:
        problem = str(error)
    if "database" in problem.lower() or (path is not None and not path.exists()):
        raise ConfigInvalid(problem)
    env, invalid_names = _valid_environment(env_file)
    if "database_url" in invalid_names or _has_lost_address(env_file, env):
        raise ConfigInvalid(problem)
    config = _valid_sections(path)
    invalid = sorted(name.upper() for name in invalid_names & ACCOUNT_VARIABLES)
    account_problem = f"{', '.join(invalid)} is not valid" if invalid else None
    try:
        mode = decide_mode(config, env, [])
    except ConfigInvalid as error:
        mode, account_problem = Mode.SIM, account_problem or str(error)
    settings = Settings(config, env, mode, SessionMode.SUPERVISED, (), path, env_file)
    return Addresses(settings, problem, account_problem)


def _valid_environment(env_file: Path | None) -> tuple[Environment, set[str]]:
    """Return the environment with the default in place of each invalid value, and the names of these."""
    defaults: dict[str, Any] = {}
    while True:
        try:
            env = read_environment(env_file, **defaults)
            break
        except ValidationError as error:
            invalid_names = {str(fault["loc"][0]) for fault in error.errors()} - defaults.keys()
            if not invalid_names:
                raise ConfigInvalid("the environment cannot be read") from None
            defaults |= {name: Environment.model_fields[name].default for name in invalid_names}
    for name, value in env:
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            add_secrets(url_secrets(secret) if name.endswith("_url") else [secret])
    return env, set(defaults)


def _has_lost_address(env_file: Path | None, env: Environment) -> bool:
    """Return true when the env file mentions DATABASE_URL and no value could be read from it."""
    if env_file is None or env.database_url is not None:
        return False
    text = env_file.read_text("utf-8", errors="replace")
    return "DATABASE_URL" in text.upper() and not any(
        name.upper() == "DATABASE_URL" for name in dotenv_values(env_file)
    )


def _valid_sections(path: Path | None) -> Config:
    """Return the valid keys of SECTIONS; a line that is not YAML and a key that is not valid are left out."""
    tree = {} if path is None else _readable_tree(path)
    sections = {name: tree[name] for name in SECTIONS if isinstance(tree.get(name), dict)}
    for _ in range(MAX_REPAIRS):
        try:
            return Config.model_validate(sections)
        except ValidationError as error:
            for fault in error.errors():
                section, *key = fault["loc"]
                sections.get(str(section), {}).pop(str(key[0]) if key else "", None)
    return Config()


def _readable_tree(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for _ in range(MAX_REPAIRS):
        try:
            tree = yaml.load("\n".join(lines), PlainLoader)  # noqa: S506 - a stricter SafeLoader
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            if mark is None or not lines:
                return {}
            del lines[min(mark.line, len(lines) - 1)]
        except (yaml.YAMLError, ValueError, RecursionError):
            return {}
        else:
            return tree if isinstance(tree, dict) else {}
    return {}
