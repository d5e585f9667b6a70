"""Reads config.yaml and the environment into Settings."""

import difflib
import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.settings import Environment, Settings
from catalyst.domain.errors import ConfigInvalid

# variable → the key it overrides
OVERRIDES: Final = {
    "trading_mode": "trading.mode",
    "max_daily_loss": "risk.max_daily_loss",
    "max_position_size": "risk.max_position_size",
    "max_positions": "risk.max_positions",
    "trading_session_mode": "session.mode",
    "workflow_auto_execute": "workflow.auto_execute",
    "workflow_scan_frequency_minutes": "workflow.scan_frequency_minutes",
    "workflow_execute_top_n": "workflow.execute_top_n",
    "enable_email_alerts": "features.email_alerts",
    "enable_news_sentiment": "features.news_sentiment",
    "enable_pattern_detection": "features.pattern_detection",
    "enable_autonomous_trading": "features.autonomous_trading",
    "log_level": "log.level",
    "log_format": "log.format",
}


# A limit that file and environment disagree on is worth a warning.
WARNED_LIMITS: Final = frozenset({"max_daily_loss", "max_position_size", "max_positions"})

_MAX_FILE_BYTES: Final = 65_536  # bytes of a configuration file
MAX_LIVE_RECONCILE_SECONDS: Final = 120  # seconds between two reconciliations where money is
_MAX_SHOWN_CHARACTERS: Final = 40  # characters of a wrong value that are repeated to the operator
FileSignature = tuple[int, int, int]


def file_signature(path: Path | None) -> FileSignature | None:
    """What tells one state of a file from another without reading it; None when it is not there."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def load(path: Path | None = None, *, env_file: Path | None = None) -> Settings:
    """Read config.yaml (nothing but defaults when `path` is None) and the environment.

    Raises ConfigInvalid: a file that is missing or unreadable, an unknown key (the nearest known one is named), a
    value out of bounds, or file and environment contradicting each other about real money.
    """
    tree = _read_yaml(path) if path is not None else {}
    try:
        env = Environment(_env_file=env_file)
    except ValidationError as error:
        raise ConfigInvalid(_describe_environment_errors(error)) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigInvalid(f"{env_file} cannot be read as text") from None
    notices = _apply_environment(tree, env)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigInvalid(_describe_errors(error, path)) from None
    if config.session.market_open is not None or config.session.market_close is not None:
        notices.append("session.market_open/close are retired: the exchange calendar decides; remove them")
    mode = _decide_mode(config, env)
    session_mode, why = _decide_session_mode(config)
    return Settings(config, env, mode, session_mode, (*notices, *why), path, env_file)


def environment_without_catalyst(**changes: str) -> dict[str, str]:
    """This process's environment for a child that must know nothing of the operator's keys, database or mode:
    every variable Catalyst reads is left out, then `changes` are laid over it."""
    ours = {name.upper() for name in Environment.model_fields} - {"XDG_DATA_HOME"}
    return {name: value for name, value in os.environ.items() if name.upper() not in ours} | changes


class _PlainLoader(yaml.SafeLoader):
    """YAML without what a configuration never needs: anchors, aliases, tags, and the same key twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not read", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="tags are not read", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name} is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigInvalid(f"{path} does not exist: name another with --config, or leave it out") from None
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigInvalid(f"{path} is larger than any configuration needs to be")
    try:
        tree = yaml.load(raw.decode(), _PlainLoader)  # noqa: S506 - a SafeLoader that reads less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigInvalid(f"{path}{where}: {error.problem}") from None
    except RecursionError:
        raise ConfigInvalid(f"{path} is nested deeper than any configuration needs to be") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigInvalid(f"{path} is not YAML text") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigInvalid(f"{path} must hold sections such as `risk:`, not a {type(tree).__name__}")
    return {str(name): section for name, section in tree.items() if section is not None}


def _apply_environment(tree: dict[str, Any], env: Environment) -> list[str]:
    """Lay the overrides over the tree; return what the operator should hear about."""
    notices = []
    for variable, key in OVERRIDES.items():
        value = getattr(env, variable)
        if value is None or (variable == "log_format" and value not in {"auto", "json", "console"}):
            continue
        section, name = key.split(".")
        before = tree.setdefault(section, {}) if isinstance(tree.get(section, {}), dict) else {}
        if variable in WARNED_LIMITS and name in before and not _same_amount(before[name], value):
            notices.append(
                f"CONFIG_WARNING {variable.upper()}={value} in the environment overrides {key}={before[name]}"
            )
        if variable == "trading_mode":
            continue  # it never selects a mode by itself; see _decide_mode
        before[name] = value.upper() if variable == "log_level" else value
    if any(getattr(env, name) for name in Environment.model_fields if name.startswith("redis_")):
        notices.append("REDIS_* is ignored: the daemon is one process and needs no cache server")
    return notices


def _same_amount(stated: object, value: object) -> bool:
    try:
        return Decimal(str(stated)) == Decimal(str(value))
    except InvalidOperation:
        return False


def _decide_mode(config: Config, env: Environment) -> Mode:
    """Which account is traded. Only `trading.mode` can say live, and only with a second lock opened."""
    said = config.trading.mode
    has_keys = env.alpaca_api_key is not None and env.alpaca_secret_key is not None
    mode = said or (env.trading_mode if env.trading_mode is not Mode.LIVE else None)
    mode = mode or (Mode.PAPER if has_keys else Mode.SIM)
    hints = {
        "TRADING_MODE": env.trading_mode,
        "ALPACA_PAPER": None if env.alpaca_paper is None else (Mode.PAPER if env.alpaca_paper else Mode.LIVE),
        "ENABLE_PAPER_TRADING": Mode.PAPER if env.enable_paper_trading else None,
        "ALPACA_BASE_URL": _mode_of_url(env.alpaca_base_url),
    }
    for name, hint in hints.items():
        bolder = hint is Mode.LIVE or (hint is Mode.SIM and mode is not Mode.SIM)
        if hint is not None and hint is not mode and (said is not None or bolder):
            raise ConfigInvalid(
                f"{name} says {hint}, trading.mode {'is' if said else 'would be'} {mode}: make them agree"
            )
    if env.enable_paper_trading is False and mode is Mode.PAPER:
        raise ConfigInvalid(
            f"ENABLE_PAPER_TRADING is false, trading.mode {'is' if said else 'would be'} paper: make them agree"
        )
    if mode is Mode.LIVE:
        missing = [
            what
            for what, present in (
                ("ENABLE_LIVE_TRADING=true in the environment", env.enable_live_trading),
                ("trading.account_number in config.yaml", config.trading.account_number is not None),
            )
            if not present
        ]
        if missing:
            raise ConfigInvalid(f"live trading is locked; it also needs {' and '.join(missing)}")
        _check_live(config)
    if mode is not Mode.SIM and not has_keys:
        raise ConfigInvalid(f"{mode} trading needs ALPACA_API_KEY and ALPACA_SECRET_KEY in the environment")
    return mode


def _check_live(config: Config) -> None:
    """What may be loosened on paper is not to be loosened where money is."""
    if config.reconcile.every_seconds > MAX_LIVE_RECONCILE_SECONDS:
        raise ConfigInvalid(
            f"reconcile.every_seconds is {config.reconcile.every_seconds:g}: live, tables and broker are compared at "
            f"least every {MAX_LIVE_RECONCILE_SECONDS} seconds"
        )
    if not config.emergency.halt_new_trades:
        raise ConfigInvalid(
            "emergency.halt_new_trades is false: live, the daily loss limit ends the day's entries"
        )


def _mode_of_url(url: str | None) -> Mode | None:
    if url is None:
        return None
    return Mode.PAPER if "paper-api" in url else Mode.LIVE if "api.alpaca.markets" in url else Mode.SIM


def _decide_session_mode(config: Config) -> tuple[SessionMode, tuple[str, ...]]:
    """Autonomous needs three switches; with fewer the session is supervised, and says which is missing."""
    if config.session.mode is SessionMode.SUPERVISED:
        return SessionMode.SUPERVISED, ()
    missing = [
        key
        for key, on in (
            ("workflow.auto_execute: true", config.workflow.auto_execute),
            ("ENABLE_AUTONOMOUS_TRADING=true", config.features.autonomous_trading),
        )
        if not on
    ]
    if missing:
        return SessionMode.SUPERVISED, (
            f"supervised: session.mode autonomous also needs {', '.join(missing)}",
        )
    return SessionMode.AUTONOMOUS, ()


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys.extend(_known_keys(info.annotation, f"{prefix}{name}."))
    return keys


def _describe_errors(error: ValidationError, path: Path | None) -> str:
    """Every fault on a line of its own, in the file's words."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, _known_keys(Config), n=1, cutoff=0.4)
            lines.append(f"unknown key {key}" + (f": did you mean {near[0]}?" if near else ""))
        else:
            said = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {said}{_describe_value(fault['input'])}" if key else said)
    return f"{path or 'the configuration'}: " + "; ".join(lines)


def _describe_value(value: object) -> str:
    """The value, when it is short and no section: a DSN in the wrong place keeps its password."""
    shown = repr(value) if isinstance(value, (str, int, float, Decimal)) else ""
    return f" (got {shown})" if 0 < len(shown) <= _MAX_SHOWN_CHARACTERS and "://" not in shown else ""


def _describe_environment_errors(error: ValidationError) -> str:
    """Names only: a value may be a secret."""
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in faults)
