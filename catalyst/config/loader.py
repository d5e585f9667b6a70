"""Configuration loader: reads config.yaml and the environment into validated Settings."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from catalyst.config.env_file import (
    ENVIRONMENT,
    Variable,
    expected_key_name,
    misspelt_name,
    read_env_file,
)
from catalyst.config.old_keys import describe_old_keys
from catalyst.config.scalars import FLOAT, INTEGER
from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.settings import SECRET_NAMES, Environment, Settings
from catalyst.domain.errors import ConfigInvalid
from catalyst.domain.secret_mask import add_secrets, messenger_secrets, url_secrets

# Environment variable → the key that it overrides.
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


# Limits that give a warning when the environment overrides the file's value.
NEWS_KEYS: Final = ("news_api_key", "benzinga_api_key")  # of sources that are not read yet
WARNED_LIMITS: Final = frozenset({"max_daily_loss", "max_position_size", "max_positions"})

_LOG_FORMATS: Final = ("auto", "json", "console")  # another program's LOG_FORMAT is not ours
_MAX_FILE_BYTES: Final = 65_536  # bytes of a configuration file
MAX_LIVE_RECONCILE_SECONDS: Final = 120  # seconds between two reconciliations in live mode
_MAX_SHOWN_CHARACTERS: Final = 40  # characters; a longer wrong value is not quoted in the error
FileSignature = tuple[int, int, int]


def file_signature(path: Path | None) -> FileSignature | None:
    """Return modification time, size and inode, which change when the file is edited; None when there is no file."""
    try:
        file_status = None if path is None else path.stat()
    except OSError:
        return None
    return None if file_status is None else (file_status.st_mtime_ns, file_status.st_size, file_status.st_ino)


def load(path: Path | None = None, *, env_file: Path | None = None) -> Settings:
    """Read config.yaml (only defaults when `path` is None) and the environment.

    Raises ConfigInvalid for a missing or unreadable file, an unknown key (the message names the nearest valid one), a
    value out of bounds, a line of the env file that cannot be read, a misspelt variable in it, keys under
    other names, or file and environment that disagree on the trading mode. Its text shows no secret, and from now
    on `mask_text` masks all of them.
    """
    variables = read_variables(env_file)
    tree = read_yaml(path) if path is not None else {}
    try:
        env = read_environment(env_file)
    except ValidationError as error:
        raise ConfigInvalid(_describe_environment_errors(error)) from None
    except SettingsError:
        raise ConfigInvalid("a file in $CREDENTIALS_DIRECTORY cannot be read as text") from None
    held = {name: value for name, value in env if isinstance(value, SecretStr)}
    add_secrets(_secrets_of(Variable(name, value.get_secret_value()) for name, value in held.items()))
    notices = [*_describe_unread(variables), *_apply_environment(tree, env)]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigInvalid(_describe_errors(error, path)) from None
    if config.session.market_open is not None or config.session.market_close is not None:
        notices.append("session.market_open/close are ignored: the exchange calendar decides; remove them")
    mode = decide_mode(config, env, _describe_foreign_keys(variables))
    session_mode, session_notices = _decide_session_mode(config)
    return Settings(config, env, mode, session_mode, (*notices, *session_notices), path, env_file)


def read_environment(env_file: Path | None, **values: Any) -> Environment:
    """Return the environment; `values` override it. Raises pydantic's ValidationError."""
    # systemd's LoadCredential: files named like the variables; the environment overrides them.
    return Environment(_env_file=env_file, _secrets_dir=os.environ.get("CREDENTIALS_DIRECTORY"), **values)


def read_valid_environment(env_file: Path | None) -> tuple[Environment, set[str]]:
    """Return the environment with the default in place of each wrong value, and the names of these.

    Every secret in it is masked from now on. Raises ConfigInvalid when the credentials cannot be read.
    """
    defaults: dict[str, Any] = {}
    while True:
        try:
            env = read_environment(env_file, **defaults)
            break
        except ValidationError as error:
            wrong = {
                str(fault["loc"][0]).lower() for fault in error.errors(include_input=False)
            } - defaults.keys()
            if not wrong:
                raise ConfigInvalid("the environment cannot be read") from None
            defaults |= {name: Environment.model_fields[name].default for name in wrong}
        except SettingsError:
            raise ConfigInvalid("a file in $CREDENTIALS_DIRECTORY cannot be read as text") from None
    held = {name: value for name, value in env if isinstance(value, SecretStr)}
    add_secrets(_secrets_of(Variable(name, value.get_secret_value()) for name, value in held.items()))
    return env, set(defaults)


def load_alert_settings(*, env_file: Path | None = None) -> Settings:
    """Read the settings of alerts from the environment although the rest of the configuration is wrong.

    A variable with a wrong value counts as not set. Mail is on when a mail server is named, unless
    ENABLE_EMAIL_ALERTS says no. Raises ConfigInvalid when the env file or the credentials cannot be read.
    """
    read_variables(env_file)
    env, _ = read_valid_environment(env_file)
    mail_is_on = env.enable_email_alerts if env.enable_email_alerts is not None else env.smtp_host is not None
    config = Config.model_validate({"features": {"email_alerts": mail_is_on}})
    return Settings(config, env, Mode.SIM, SessionMode.SUPERVISED)


def read_variables(env_file: Path | None) -> list[Variable]:
    """Return the variables of the env file and of the process, the stronger last, and let every secret be masked."""
    add_secrets(_secrets_of(map(Variable, os.environ, os.environ.values())))
    file_variables = [] if env_file is None else read_env_file(env_file, Environment.model_fields)
    add_secrets(_secrets_of(file_variables))
    return [*file_variables, *map(Variable, os.environ, os.environ.values())]


def _secrets_of(variables: Iterable[Variable]) -> Iterator[str]:
    """Yield the secret values, or the secret parts of those that are addresses; of keys under other names too."""
    for variable in variables:
        if variable.key in ("database_url", "redis_url"):
            yield from url_secrets(variable.value)
        elif variable.key in ("alert_url_critical", "alert_url_warning", "alert_url_info"):
            yield from messenger_secrets(variable.value)
        elif variable.key in SECRET_NAMES or expected_key_name(variable.name) is not None:
            yield variable.value


def _describe_foreign_keys(variables: Iterable[Variable]) -> list[str]:
    """Return a sentence for each broker key under another name, unless its own variable is set too."""
    own = {variable.key for variable in variables if variable.value}
    return [
        f"{variable.place}: {variable.name} is not read: name it {expected}"
        for variable in variables
        if (expected := expected_key_name(variable.name)) is not None
        and variable.value
        and expected.lower() not in own
    ]


def _describe_unread(variables: Iterable[Variable]) -> Iterator[str]:
    """Yield notices of the variables of the env file that Catalyst does not read, and of misspelt ones elsewhere."""
    names = [
        variable.name
        for variable in variables
        if variable.place != ENVIRONMENT and variable.key not in Environment.model_fields
    ]
    if names:
        yield f"{', '.join(names)} in the env file: not read by Catalyst, no effect"
    for variable in variables:
        if variable.place == ENVIRONMENT and (near := misspelt_name(variable, Environment.model_fields)):
            yield f"{variable.name} in the environment: not read by Catalyst, no effect: did you mean {near.upper()}?"


def environment_without_catalyst(**changes: str) -> dict[str, str]:
    """Return this process's environment without any variable that Catalyst reads, then with `changes` applied: for a
    child process that must not get the operator's keys, database or mode."""
    catalyst_names = {name.upper() for name in Environment.model_fields} - {"XDG_DATA_HOME"}
    return {name: value for name, value in os.environ.items() if name.upper() not in catalyst_names} | changes


class PlainLoader(yaml.SafeLoader):
    """YAML 1.2 loader that refuses anchors, aliases, tags and duplicate keys, which a configuration never needs.

    The library reads YAML 1.1, in which 0500 is 320, 1:30 is 90, and the ticker ON is true.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}  # type: ignore[misc]  # the stubs declare no ClassVar

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not allowed", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="tags are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {name} is set twice: remove one of them", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first_characters in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", INTEGER, list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
):
    PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first_characters
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the sections of a configuration file as they are written. Raises ConfigInvalid."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigInvalid(f"{path} does not exist: name another with --config, or leave it out") from None
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigInvalid(
            f"{path} is larger than {_MAX_FILE_BYTES // 1024} KiB: is it the configuration file?"
        )
    try:
        tree = yaml.load(raw.decode(), PlainLoader)  # noqa: S506 - a stricter SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line_text = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigInvalid(f"{path}{line_text}: {error.problem}") from None
    except RecursionError:
        raise ConfigInvalid(f"{path} has too many nested levels: use sections with plain keys") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigInvalid(f"{path} is not YAML text") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigInvalid(f"{path} must hold sections such as `risk:`, not a {type(tree).__name__}")
    return {str(name): section for name, section in tree.items() if section is not None}


def _apply_environment(tree: dict[str, Any], env: Environment) -> list[str]:
    """Apply the environment's overrides to the tree; return notices for the operator."""
    notices = []
    for variable, key in OVERRIDES.items():
        if not is_overridden(env, variable):
            continue
        value = getattr(env, variable)
        section, name = key.split(".")
        section_values = tree.setdefault(section, {}) if isinstance(tree.get(section, {}), dict) else {}
        if (
            variable in WARNED_LIMITS
            and name in section_values
            and not _same_amount(section_values[name], value)
        ):
            notices.append(
                f"CONFIG_WARNING {variable.upper()}={value} in the environment overrides {key}={section_values[name]}"
            )
        section_values[name] = value.upper() if variable == "log_level" else value
    if any(getattr(env, name) for name in Environment.model_fields if name.startswith("redis_")):
        notices.append("REDIS_* is ignored: the daemon is one process and needs no cache server")
    notices += [
        f"{name.upper()} has no effect: headlines come from the broker"
        for name in NEWS_KEYS
        if getattr(env, name)
    ]
    return notices


def is_overridden(env: Environment, variable: str) -> bool:
    """Return true when the variable's value replaces that of its key.

    TRADING_MODE never does, because it alone must not select live; see _decide_mode.
    """
    value = getattr(env, variable)
    if variable == "trading_mode" or (variable == "log_format" and value not in _LOG_FORMATS):
        return False
    return value is not None


def _same_amount(file_value: object, value: object) -> bool:
    try:
        return Decimal(str(file_value)) == Decimal(str(value))
    except InvalidOperation:
        return False


def decide_mode(config: Config, env: Environment, foreign_keys: list[str]) -> Mode:
    """Decide the trading mode. Only `trading.mode` selects live, and live needs two more settings.

    Raises ConfigInvalid when file and environment disagree, or when keys or live settings are missing. The simulator
    is chosen in silence only where no key of a broker is set.
    """
    configured = config.trading.mode
    has_keys = env.alpaca_api_key is not None and env.alpaca_secret_key is not None
    mode = configured or (env.trading_mode if env.trading_mode is not Mode.LIVE else None)
    if mode is not Mode.SIM and not has_keys:
        _require_whole_keys(env, foreign_keys)
    mode = mode or (Mode.PAPER if has_keys else Mode.SIM)
    hints = {
        "TRADING_MODE": env.trading_mode,
        "ALPACA_PAPER": None if env.alpaca_paper is None else (Mode.PAPER if env.alpaca_paper else Mode.LIVE),
        "ENABLE_PAPER_TRADING": Mode.PAPER if env.enable_paper_trading else None,
        "ALPACA_BASE_URL": _mode_of_url(env.alpaca_base_url),
    }
    for name, hint in hints.items():
        riskier = hint is Mode.LIVE or (hint is Mode.SIM and mode is not Mode.SIM)
        if hint is not None and hint is not mode and (configured is not None or riskier):
            raise ConfigInvalid(
                f"{name} means {hint}, trading.mode {'is' if configured else 'would be'} {mode}: make them agree"
            )
    if env.enable_paper_trading is False and mode is Mode.PAPER:
        raise ConfigInvalid(
            f"ENABLE_PAPER_TRADING is false, trading.mode {'is' if configured else 'would be'} paper: make them agree"
        )
    if mode is Mode.LIVE:
        missing = [
            setting
            for setting, present in (
                ("ENABLE_LIVE_TRADING=true in the environment", env.enable_live_trading),
                ("trading.account_number in config.yaml", config.trading.account_number is not None),
            )
            if not present
        ]
        if missing:
            raise ConfigInvalid(f"live trading is not enabled: it also needs {' and '.join(missing)}")
        _check_live(config)
    if mode is not Mode.SIM and not has_keys:
        raise ConfigInvalid(f"{mode} trading needs ALPACA_API_KEY and ALPACA_SECRET_KEY in the environment")
    return mode


def _require_whole_keys(env: Environment, foreign_keys: list[str]) -> None:
    """Refuse keys under other names and one key without the other: they are meant for a broker."""
    advice = "; for the simulator set trading.mode: sim"
    if foreign_keys:
        raise ConfigInvalid("; ".join(foreign_keys) + advice)
    present = {"ALPACA_API_KEY": env.alpaca_api_key, "ALPACA_SECRET_KEY": env.alpaca_secret_key}
    for name, other in (("ALPACA_API_KEY", "ALPACA_SECRET_KEY"), ("ALPACA_SECRET_KEY", "ALPACA_API_KEY")):
        if present[name] is not None and present[other] is None:
            raise ConfigInvalid(f"{name} is set and {other} is not: set both{advice}")


def _check_live(config: Config) -> None:
    """Refuse settings that are allowed in paper mode but too loose for live. Raises ConfigInvalid."""
    if config.reconcile.every_seconds > MAX_LIVE_RECONCILE_SECONDS:
        raise ConfigInvalid(
            f"reconcile.every_seconds is {config.reconcile.every_seconds:g}: in live mode it must be "
            f"{MAX_LIVE_RECONCILE_SECONDS} or less"
        )
    if not config.emergency.halt_new_trades:
        raise ConfigInvalid(
            "emergency.halt_new_trades is false: live mode needs true, so that the daily loss limit stops entries"
        )


def _mode_of_url(url: str | None) -> Mode | None:
    if url is None:
        return None
    return Mode.PAPER if "paper-api" in url else Mode.LIVE if "api.alpaca.markets" in url else Mode.SIM


def _decide_session_mode(config: Config) -> tuple[SessionMode, tuple[str, ...]]:
    """Return autonomous when its three settings are on, else supervised with a notice of the missing ones."""
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
    """Describe every validation error with the key of the file, separated by semicolons."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden" and (renamed := describe_old_keys(key, fault["input"])):
            lines.extend(renamed)
        elif fault["type"] == "extra_forbidden":
            similar_keys = difflib.get_close_matches(key, _known_keys(Config), n=1, cutoff=0.4)
            lines.append(
                f"unknown key {key}" + (f": did you mean {similar_keys[0]}?" if similar_keys else "")
            )
        else:
            reason = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {reason}{_describe_value(fault['input'])}" if key else reason)
    return f"{path or 'the configuration'}: " + "; ".join(lines)


def _describe_value(value: object) -> str:
    """Quote a wrong value when it is short, is not a section and holds no URL, which may contain a password."""
    shown = repr(value) if isinstance(value, (str, int, float, Decimal)) else ""
    return f" (got {shown})" if 0 < len(shown) <= _MAX_SHOWN_CHARACTERS and "://" not in shown else ""


def _describe_environment_errors(error: ValidationError) -> str:
    """Describe invalid variables by name only, because a value may be a secret."""
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(
        f"{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults
    )
