"""Addresses: what a command that only stops, leaves or shows needs from the configuration, also from an invalid one.

Database, broker, keys and trading mode are read; every other key is left at its default when the configuration is not
valid. The daemon never starts with such settings.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from dotenv import dotenv_values
from pydantic import ValidationError

from catalyst.config.loader import PlainLoader, decide_mode, load, read_valid_environment
from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.settings import Environment, Settings
from catalyst.domain.errors import ConfigInvalid

SECTIONS: Final = ("trading", "broker", "database")
# Keys that decide the account, the database, and the lock that keeps two processes apart.
ADDRESS_KEYS: Final = frozenset(
    {
        "trading.mode",
        "trading.account_number",
        "broker.simulator",
        "database.data_dir",
        "database.spool",
        "database.proofs",
    }
)
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

    Raises ConfigInvalid when nobody knows the database: DATABASE_URL, or without it database.data_dir, is not valid.
    """
    try:
        return Addresses(load(path, env_file=env_file))
    except ConfigInvalid as error:
        problem = str(error)
    if path is not None and not _exists(path):
        raise ConfigInvalid(problem)
    unreadable = env_file is not None and not os.access(env_file, os.R_OK)
    if unreadable:
        env_file = None
    env, invalid_names = read_valid_environment(env_file)
    if "database_url" in invalid_names or _has_lost_address(env_file, env):
        raise ConfigInvalid(problem)
    config, lost = _valid_sections(path)
    if env.database_url is None and (unreadable or _is_database_lost(lost)):
        raise ConfigInvalid(problem)
    invalid = sorted(name.upper() for name in invalid_names & ACCOUNT_VARIABLES) + sorted(lost)
    account_problem = (
        f"{', '.join(invalid)} is not valid: correct it and repeat the command" if invalid else None
    )
    if unreadable:
        account_problem = problem
    try:
        mode = decide_mode(config, env, [])
    except ConfigInvalid as error:
        mode, account_problem = Mode.SIM, account_problem or str(error)
    settings = Settings(config, env, mode, SessionMode.SUPERVISED, (), path, env_file)
    return Addresses(settings, problem, account_problem)


def _exists(path: Path) -> bool:
    """Return true when the file exists, or nobody can tell because its folder cannot be searched."""
    try:
        return path.exists()
    except OSError:
        return True


def _has_lost_address(env_file: Path | None, env: Environment) -> bool:
    """Return true when the env file mentions DATABASE_URL and no value could be read from it."""
    if env_file is None or env.database_url is not None:
        return False
    text = env_file.read_text("utf-8", errors="replace")
    return "DATABASE_URL" in text.upper() and not any(
        name.upper() == "DATABASE_URL" for name in dotenv_values(env_file)
    )


def _is_database_lost(lost: set[str]) -> bool:
    """Return true when a lost key may have named the folder of the embedded database."""
    return any(name.partition(".")[0] == "database" for name in lost - {"database.spool", "database.proofs"})


def _valid_sections(path: Path | None) -> tuple[Config, set[str]]:
    """Return the valid keys of SECTIONS, and the lost ones: addresses that are not valid, and keys that nobody knows.

    A default in the place of a lost key may be another account, or a lock that the daemon does not hold.
    """
    if path is None:
        return Config(), set()
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return Config(), set(ADDRESS_KEYS)
    tree = _readable_tree(text)
    lost = _lost_lines(text, tree)
    lost |= {name for name in SECTIONS if not isinstance(tree.get(name), dict | None)}
    sections = {name: tree[name] for name in SECTIONS if isinstance(tree.get(name), dict)}
    for _ in range(MAX_REPAIRS):
        try:
            return Config.model_validate(sections), lost
        except ValidationError as error:
            for fault in error.errors():
                section, *key = fault["loc"]
                sections.get(str(section), {}).pop(str(key[0]) if key else "", None)
                name = ".".join(map(str, fault["loc"][:2]))
                if name in ADDRESS_KEYS or fault["type"] == "extra_forbidden":
                    lost.add(name)
    return Config(), set(ADDRESS_KEYS)


def _lost_lines(text: str, tree: dict[str, Any]) -> set[str]:
    """Return the ADDRESS_KEYS that the text names more often than a known section of the tree has them."""
    written = "\n".join(line.partition("#")[0] for line in text.splitlines())
    sections = [tree[name] for name in Config.model_fields if isinstance(tree.get(name), dict)]
    return {
        name
        for name in ADDRESS_KEYS
        if len(re.findall(rf"\b{(key := name.partition('.')[2])}\b[\"']?\s*:", written))
        > sum(key in section for section in sections)
    }


def _readable_tree(text: str) -> dict[str, Any]:
    lines = text.splitlines()
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
