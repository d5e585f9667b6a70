"""Configuration: keys, defaults, environment variables and refusals. Each refusal is one sentence that names
what to change and shows no secret."""

import json
import os
import traceback
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from catalyst.config.loader import environment_without_catalyst, load
from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.settings import Environment, Settings
from catalyst.domain.errors import ConfigInvalid
from catalyst.domain.secret_mask import mask_text

ROOT = Path(__file__).parent.parent
KEYS = {"ALPACA_API_KEY": "key", "ALPACA_SECRET_KEY": "secret"}

Write = Callable[[str | dict[str, Any]], Path]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test without a Catalyst variable in the environment."""
    for name in [name for name in os.environ if name.lower() in Environment.model_fields]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes config.yaml and returns its path."""

    def write(content: str | dict[str, Any]) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets environment variables."""

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def load_error(path: Path | None = None, **kwargs: Any) -> str:
    """Return the sentence with which `load` refuses."""
    with pytest.raises(ConfigInvalid) as caught:
        load(path, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert 0 < len(message) < 500
    return message


def leaf_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every value in the tree."""
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaf_keys(info.annotation, f"{name}.")
        else:
            yield prefix + name


LEAF_KEYS = sorted(leaf_keys(Config))


# -- the file


def test_config_defaults_to_the_supervised_simulator():
    """Without a file and variables: the local simulator, supervised mode, the documented limits, no notice."""
    settings = load()
    assert (settings.mode, settings.session_mode) == (Mode.SIM, SessionMode.SUPERVISED)
    assert settings.trading_url == settings.data_url == "http://127.0.0.1:8765"
    assert settings.keys == ("demo", "demo")
    assert settings.stream_url == "ws://127.0.0.1:8765/stream"
    risk = settings.config.risk
    assert (risk.max_daily_loss, risk.max_positions, risk.max_position_size) == (2000, 5, 5000)
    assert settings.notices == ()


DOCUMENTED = {
    "risk.max_daily_loss": "2000.00",
    "risk.warning_threshold_pct": "75.0",
    "risk.max_positions": "5",
    "risk.max_position_size": "5000.00",
    "risk.min_position_size": "100.00",
    "risk.risk_per_trade_pct": "0.5",
    "risk.max_sector_exposure_pct": "40.0",
    "risk.max_correlation": "0.7",
    "risk.max_participation_pct": "1.0",
    "risk.max_spread_bps": "30.0",
    "risk.min_reward_risk": "2.0",
    "positions.default_stop_loss_pct": "2.0",
    "positions.default_take_profit_pct": "6.0",
    "positions.max_hold_time_minutes": "180",
    "positions.close_all_at_market_close": "True",
    "session.flat_before_close_minutes": "10",
    "session.mode": "supervised",
    "session.timezone": "America/New_York",
    "emergency.close_all_positions_on_limit": "True",
    "emergency.halt_new_trades": "True",
    "emergency.send_email_alert": "True",
    "emergency.cooldown_period_minutes": "60",
    "daily_limits.emergency_stop_at_100": "True",
    "reconcile.every_seconds": "60.0",
    "reconcile.orphans": "protect",
    "protection.unprotected_budget_seconds": "15.0",
    "sector_limits.sectors_to_limit": "()",
    "correlation.check_enabled": "True",
    "workflow.auto_execute": "False",
    "workflow.execute_top_n": "3",
    "workflow.scan_frequency_minutes": "30",
    "shutdown.on_sigterm": "flatten",
    "shutdown.on_sigint": "ask",
    "shutdown.latch_after_flatten": "session",
    "shutdown.flatten_timeout_seconds": "60.0",
    "log.level": "INFO",
    "log.format": "auto",
}


@pytest.mark.parametrize(("key", "default"), DOCUMENTED.items())
def test_config_defaults_equal_the_documented_values(key: str, default: str):
    """Each default equals the documented value."""
    section, name = key.split(".")
    assert str(getattr(getattr(Config(), section), name)) == default


def test_config_file_of_the_repository_equals_the_defaults():
    """config.yaml in the repository has every key except the retired ones, with its default value."""
    path = ROOT / "config.yaml"
    if not path.exists():
        pytest.skip("there is no config.yaml yet")
    assert load(path).config == Config()
    shown = {
        f"{section}.{name}" for section, keys in yaml.safe_load(path.read_text()).items() for name in keys
    }
    assert shown == set(LEAF_KEYS) - {"session.market_open", "session.market_close"}


@pytest.mark.parametrize("key", LEAF_KEYS)
def test_config_names_the_nearest_key_for_an_unknown_one(key: str, write: Write):
    """A key with two letters swapped is refused, and the message names the right key."""
    section, name = key.split(".")
    middle = len(name) // 2
    typo = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    if typo == name:
        typo = name + "s"
    message = load_error(write({section: {typo: 1}}))
    assert f"unknown key {section}.{typo}: did you mean {key}?" in message


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"rsk": {}}, "unknown key rsk: did you mean risk?"),
        ({"Risk": {}}, "unknown key Risk: did you mean risk?"),
        ({"risk": {"max_dayly_los": 1}}, "did you mean risk.max_daily_loss?"),
        ({"zzzzzz": 1}, "unknown key zzzzzz"),
    ],
)
def test_config_refuses_an_unknown_section(tree: dict[str, Any], message: str, write: Write):
    """An unknown key or section is refused, with the nearest name where there is one."""
    assert message in load_error(write(tree))


def test_config_names_every_fault_in_one_message(write: Write):
    """One message names all three errors, each with its key and value."""
    message = load_error(
        write({"risk": {"max_positions": 0, "max_correlation": 1.5}, "log": {"level": "LOUD"}})
    )
    for part in ("risk.max_positions", "(got 0)", "risk.max_correlation", "(got 1.5)", "log.level", "'LOUD'"):
        assert part in message


@pytest.mark.parametrize(
    "tree",
    [
        {"risk": {"max_daily_loss": -1}},
        {"risk": {"max_daily_loss": 0}},
        {"risk": {"max_daily_loss": "NaN"}},
        {"risk": {"risk_per_trade_pct": float("nan")}},
        {"risk": {"max_spread_bps": float("inf")}},
        {"scan": {"max_price": float("inf")}},
        {"scan": {"max_trade_age_seconds": float("nan")}},
        {"risk": {"min_position_size": 6000}},
        {"risk": 5},
        {"risk": ["max_positions"]},
        {"scoring": {"news": 0.9}},
        {"broker": {"feed": "free"}},
        {"universe": {"deny": [True]}},
    ],
)
def test_config_refuses_an_impossible_value(tree: dict[str, Any], write: Write):
    """Negative, non-finite, misshapen and contradicting values are refused."""
    load_error(write(tree))


def test_config_refuses_infinite_and_nan_numbers(write: Write):
    """No number in the tree may be infinite or NaN."""
    numbers = [key for key in LEAF_KEYS if isinstance(_default(key), (int, float, Decimal))]
    numbers = [key for key in numbers if not isinstance(_default(key), bool)]
    assert len(numbers) > 60
    for key, value in product(numbers, (float("inf"), float("nan"), float("-inf"))):
        section, name = key.split(".")
        assert key in load_error(write({section: {name: value}}))


def _default(key: str) -> object:
    """Return the default value of a key."""
    section, name = key.split(".")
    return getattr(getattr(Config(), section), name)


def test_config_refuses_another_time_zone(write: Write):
    """Another time zone is refused, because the exchange keeps New York hours."""
    message = load_error(write({"session": {"timezone": "Australia/Perth"}}))
    assert "must be America/New_York: the exchange keeps New York hours" in message
    for name in ("America/New_York", "US/Eastern"):
        assert load(write({"session": {"timezone": name}})).config == Config()


@pytest.mark.parametrize("line", ["market_close: 16:00", "market_open: '09:30'", "market_open: 9:30"])
def test_config_ignores_retired_keys_with_a_notice(line: str, write: Write):
    """Opening hours in the file are ignored with a notice, quoted or not: the calendar decides."""
    settings = load(write(f"session:\n  {line}\n"))
    assert any("ignored: the exchange calendar decides" in notice for notice in settings.notices)


BOMB = "a: &a [x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "line 1: anchors and aliases are not allowed"),
        ("risk: &r {}\npositions: *r\n", "line 1: anchors and aliases are not allowed"),
        ("universe:\n  deny: !!python/object/apply:os.system ['true']\n", "line 2: tags are not allowed"),
        ("risk: !!python/name:os.environ\n", "line 1: tags are not allowed"),
        ("risk: !!timestamp soon\n", "line 1: tags are not allowed"),
        ("- risk\n- session\n", "must hold sections such as `risk:`, not a list"),
        ("live", "must hold sections such as `risk:`, not a str"),
        ("risk: [1\nsession: {", "line 2"),
        ("risk:\n\tmax_positions: 3\n", "line 2"),
        ("risk:\n  max_positions: 3\nrisk:\n  max_daily_loss: 1\n", "line 3: the key risk is set twice"),
        ("risk:\n  max_positions: 3\n  max_positions: 9\n", "line 3: the key max_positions is set twice"),
        ("[" * 5_000, "has too many nested levels"),
        ("a: " + "x" * 70_000, "is larger than 64 KiB"),
        ("---\nrisk: {}\n---\nlog: {}\n", "line 3"),
        ("session:\n  timezone: 2026-13-45\n", "session.timezone: it must be America/New_York"),
        ("risk: \x07", "is not YAML text"),
    ],
)
def test_config_refuses_an_invalid_file_in_one_sentence(text: str, expected: str, write: Write):
    """Alias bombs, tags, lists, broken YAML, duplicate keys, deep and large files: the message names file and
    line, and nothing is executed."""
    path = write(text)
    message = load_error(path)
    assert message.startswith(str(path))
    assert expected in message


def test_config_refuses_an_unreadable_file_in_one_sentence(tmp_path: Path):
    """A missing file, a folder and bytes that are no text are refused."""
    assert "does not exist: name another with --config" in load_error(tmp_path / "none.yaml")
    assert "cannot be read: Is a directory" in load_error(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00risk")
    assert "is not YAML text" in load_error(tmp_path / "bytes.yaml")
    (tmp_path / ".env").write_bytes(b"\xff\xfe=1")
    assert ".env cannot be read as text" in load_error(env_file=tmp_path / ".env")


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "risk:\nlog:\n", "{}"])
def test_config_uses_defaults_for_an_empty_file_or_section(text: str, write: Write):
    """Missing values have their defaults."""
    assert load(write(text)).config == Config()


def test_config_is_frozen_and_has_a_fingerprint(write: Write):
    """The configuration cannot be changed, and its fingerprint identifies it."""
    before, after = load(), load(write({"risk": {"max_positions": 4}}))
    with pytest.raises(ValueError, match="frozen"):
        before.config.risk.max_positions = 9  # type: ignore[misc]
    assert before.config.fingerprint == load().config.fingerprint != after.config.fingerprint
    assert len(before.config.fingerprint) == 16


def test_config_fingerprint_is_independent_of_number_spelling(write: Write):
    """Defaults written as 2000, 2000.00 or 2e3 have the same fingerprint as no file."""
    for text in (
        "risk: {max_daily_loss: 2000, warning_threshold_pct: 75}",
        "risk: {max_daily_loss: 2000.00, warning_threshold_pct: 75.0}",
        "risk: {max_daily_loss: '2e3', max_position_size: 5000.0}",
        yaml.safe_dump(json.loads(Config().model_dump_json())),
    ):
        settings = load(write(text))
        assert settings.config == Config()
        assert settings.config.fingerprint == Config().fingerprint


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("max_daily_loss: 0500", "write a plain decimal number"),
        ("max_daily_loss: 0x1F4", "write a plain decimal number"),
        ("max_daily_loss: 1_500", "write a plain decimal number"),
        ("max_daily_loss: '1_500'", "write a plain decimal number"),
        ("max_daily_loss: 1:30", "write a plain decimal number"),
        ("max_daily_loss: 1,500", "write a plain decimal number"),
        ("max_daily_loss: $1500", "write a plain decimal number"),
        ("max_positions: yes", "write a plain decimal number"),
        ("max_positions: true", "true and false (and yes and no) are no numbers"),
        ("max_positions: False", "true and false (and yes and no) are no numbers"),
    ],
)
def test_config_reads_only_plain_decimal_numbers(line: str, sentence: str, write: Write):
    """Octal, hexadecimal and base-60 numbers, separators and booleans are refused, not read as another number."""
    message = load_error(write(f"risk:\n  {line}\n"))
    assert f"risk.{line.partition(':')[0]}: {sentence}" in message


def test_environment_numbers_are_plain_decimal(environ: Callable[..., None]):
    """A variable accepts the numbers that the file accepts."""
    for value in ("0500", "1_500", "true", "1:30"):
        environ(MAX_DAILY_LOSS=value)
        assert load_error() == "MAX_DAILY_LOSS: write a plain decimal number, such as 1500 or 0.5"


def test_config_reads_words_of_yaml_1_1_as_text(write: Write):
    """The tickers ON, NO and Y are symbols, and yes and no still switch a flag."""
    config = load(
        write(
            "universe: {deny: [ON, NO, Y, OFF]}\nfeatures: {news_sentiment: no}\nrisk: {max_daily_loss: 2e3}\n"
        )
    ).config
    assert config.universe.deny == ("ON", "NO", "Y", "OFF")
    assert config.features.news_sentiment is False
    assert config.risk.max_daily_loss == 2000


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (
            {"session": {"flat_before_close_minutes": 60, "no_entries_before_close_minutes": 45}},
            "session.no_entries_before_close_minutes 45 is below session.flat_before_close_minutes 60",
        ),
        (
            {"positions": {"default_stop_loss_pct": 6, "default_take_profit_pct": 2}},
            "is below risk.min_reward_risk 2 times positions.default_stop_loss_pct 6: every plan",
        ),
        ({"scan": {"weight_volume": 0.9}}, "weight_liquidity must sum to 1, not 1.55"),
        (
            {"technical": {"weight_intraday": 0, "weight_quarter_hour": 0, "weight_daily": 0}},
            "are all 0: give one of them a weight",
        ),
        ({"risk": {"min_position_size": 6000}}, "risk.min_position_size is above risk.max_position_size"),
        ({"scan": {"min_price": 500}}, "scan.min_price is not below scan.max_price"),
        ({"broker": {"requests_per_minute": 60}}, "broker.reserved_for_exits leaves nothing"),
    ],
)
def test_config_refuses_keys_that_contradict_each_other(tree: dict[str, Any], sentence: str, write: Write):
    """Values that are valid alone and senseless together are refused with a sentence that names both keys."""
    assert sentence in load_error(write(tree))


def test_config_writes_symbols_exchanges_and_sectors_as_the_broker_does(write: Write):
    """Case, separators of class shares and the earlier Catalyst's sector names do not matter."""
    config = load(
        write(
            {
                "universe": {
                    "deny": ["BRK-B", "brk/a", "aapl", " BF B "],
                    "allow": ["msft"],
                    "exchanges": ["nasdaq"],
                },
                "sector_limits": {"sectors_to_limit": ["technology", "Financial", "Healthcare", "Tech"]},
            }
        )
    ).config
    assert config.universe.deny == ("BRK.B", "BRK.A", "AAPL", "BF.B")
    assert (config.universe.allow, config.universe.exchanges) == (("MSFT",), ("NASDAQ",))
    assert config.sector_limits.sectors_to_limit == ("Technology", "Finance", "Health Care", "Tech")
    assert "NASDQ is no exchange: use AMEX, ARCA" in load_error(write({"universe": {"exchanges": ["NASDQ"]}}))


# The earlier Catalyst's two files, with the values of its guide.
OLD_FILES = {
    "trading_config.yaml": """
session: {mode: supervised, timezone: US/Eastern, market_open: "09:30", market_close: "16:00"}
risk:
  max_daily_loss: 2000.00
  max_position_size: 5000.00
  max_positions: 5
  max_sector_exposure_pct: 40
  max_correlation: 0.7
positions:
  default_stop_loss_pct: 2.0
  default_take_profit_pct: 6.0
  max_hold_time_minutes: 180
  close_all_at_market_close: true
workflow: {auto_execute: false, scan_frequency_minutes: 30, execute_top_n: 3}
""",
    "risk_parameters.yaml": """
daily_limits: {max_loss: 2000.00, warning_threshold_pct: 75, emergency_stop_at_100: true}
position_limits: {max_positions: 5, max_position_size: 5000.00, min_position_size: 100.00}
sector_limits: {max_exposure_pct: 40, sectors_to_limit: [Technology, Financial, Healthcare]}
correlation: {max_correlation: 0.7, check_enabled: true}
emergency_actions:
  close_all_positions_on_limit: true
  send_email_alert: true
  halt_new_trades: true
  cooldown_period_minutes: 60
""",
}


def test_config_reads_the_earlier_trading_file(write: Write):
    """Every key of the first old file is still read; its opening hours give a notice."""
    settings = load(write(OLD_FILES["trading_config.yaml"]))
    assert len(settings.notices) == 1
    assert settings.config.risk == Config().risk


def test_config_names_the_new_key_of_every_key_of_the_earlier_risk_file(write: Write):
    """Each key of the second old file is accepted, or refused with the name that it has now, which exists."""
    known = set(LEAF_KEYS)
    for section, keys in yaml.safe_load(OLD_FILES["risk_parameters.yaml"]).items():
        for name, value in keys.items():
            path = write({section: {name: value}})
            if f"{section}.{name}" in known:
                load(path)
                continue
            message = load_error(path)
            (renamed,) = [key for key in known if message.endswith(f": {section}.{name} is now {key}")]
            assert renamed.endswith(name.removeprefix("max_exposure").removeprefix("max_loss"))
    message = load_error(
        write({"position_limits": {"max_positions": 5, "min_position_size": 100}, "emergency_actions": 1})
    )
    assert (
        "position_limits.max_positions is now risk.max_positions; position_limits.min_position_size"
        in message
    )
    assert "the section emergency_actions is now emergency" in message


# -- the environment

ENVIRONMENT_CASES: dict[str, tuple[str, Callable[[Settings], object], object]] = {
    "DATABASE_URL": ("postgresql://h/d", lambda s: _secret_value(s.env.database_url), "postgresql://h/d"),
    "ALPACA_API_KEY": ("k", lambda s: _secret_value(s.env.alpaca_api_key), "k"),
    "ALPACA_SECRET_KEY": ("s", lambda s: _secret_value(s.env.alpaca_secret_key), "s"),
    "ALPACA_BASE_URL": ("https://paper-api.alpaca.markets", lambda s: s.mode, Mode.SIM),
    "ALPACA_PAPER": ("true", lambda s: s.env.alpaca_paper, True),
    "TRADING_MODE": ("sim", lambda s: s.mode, Mode.SIM),
    "ENABLE_PAPER_TRADING": ("true", lambda s: s.env.enable_paper_trading, True),
    "ENABLE_LIVE_TRADING": ("true", lambda s: s.env.enable_live_trading, True),
    "MAX_DAILY_LOSS": ("1500.50", lambda s: s.config.risk.max_daily_loss, Decimal("1500.50")),
    "MAX_POSITION_SIZE": ("2500", lambda s: s.config.risk.max_position_size, Decimal(2500)),
    "MAX_POSITIONS": ("3", lambda s: s.config.risk.max_positions, 3),
    "TRADING_SESSION_MODE": ("autonomous", lambda s: s.config.session.mode, SessionMode.AUTONOMOUS),
    "WORKFLOW_AUTO_EXECUTE": ("true", lambda s: s.config.workflow.auto_execute, True),
    "WORKFLOW_SCAN_FREQUENCY_MINUTES": ("15", lambda s: s.config.workflow.scan_frequency_minutes, 15),
    "WORKFLOW_EXECUTE_TOP_N": ("2", lambda s: s.config.workflow.execute_top_n, 2),
    "ENABLE_EMAIL_ALERTS": ("true", lambda s: s.config.features.email_alerts, True),
    "ENABLE_NEWS_SENTIMENT": ("false", lambda s: s.config.features.news_sentiment, False),
    "ENABLE_PATTERN_DETECTION": ("false", lambda s: s.config.features.pattern_detection, False),
    "ENABLE_AUTONOMOUS_TRADING": ("true", lambda s: s.config.features.autonomous_trading, True),
    "SMTP_HOST": ("mail.example.org", lambda s: s.env.smtp_host, "mail.example.org"),
    "SMTP_PORT": ("2525", lambda s: s.env.smtp_port, 2525),
    "SMTP_USERNAME": ("trader", lambda s: s.env.smtp_username, "trader"),
    "SMTP_PASSWORD": ("p", lambda s: _secret_value(s.env.smtp_password), "p"),
    "SMTP_FROM": ("trader@example.org", lambda s: s.env.smtp_from, "trader@example.org"),
    "SMTP_TLS": ("false", lambda s: s.env.smtp_tls, False),
    "ALERT_EMAIL_CRITICAL": ("a@example.org", lambda s: s.env.alert_email_critical, "a@example.org"),
    "ALERT_EMAIL_WARNING": ("b@example.org", lambda s: s.env.alert_email_warning, "b@example.org"),
    "ALERT_EMAIL_INFO": ("c@example.org", lambda s: s.env.alert_email_info, "c@example.org"),
    "NEWS_API_KEY": ("n", lambda s: _secret_value(s.env.news_api_key), "n"),
    "BENZINGA_API_KEY": ("b", lambda s: _secret_value(s.env.benzinga_api_key), "b"),
    "LOG_LEVEL": ("debug", lambda s: s.config.log.level, "DEBUG"),
    "LOG_FORMAT": ("json", lambda s: s.config.log.format, "json"),
    "RISK_HOT_RELOAD": ("false", lambda s: s.env.risk_hot_reload, False),
    "TRADING_HOT_RELOAD": ("false", lambda s: s.env.trading_hot_reload, False),
}


def _secret_value(secret: SecretStr | None) -> str | None:
    """Return the value of a secret, or None."""
    return None if secret is None else secret.get_secret_value()


@pytest.mark.parametrize("name", ENVIRONMENT_CASES)
def test_environment_variable_has_its_effect(name: str, environ: Callable[..., None], tmp_path: Path):
    """Each variable has its effect, from the process or from an env file, and does not change the mode
    otherwise."""
    value, read, expected = ENVIRONMENT_CASES[name]
    if name in KEYS:  # one key alone is refused, unless the simulator is chosen
        environ(TRADING_MODE="sim")
    file = tmp_path / "env"
    file.write_text(f"{name}={value}\n")
    assert read(load(env_file=file)) == expected
    environ(**{name: value})
    settings = load()
    assert read(settings) == expected
    assert settings.mode is Mode.SIM


def test_empty_environment_variable_counts_as_unset(environ: Callable[..., None]):
    """An empty variable counts as unset."""
    environ(**dict.fromkeys(ENVIRONMENT_CASES, ""))
    settings = load()
    assert (settings.mode, settings.session_mode, settings.config) == (
        Mode.SIM,
        SessionMode.SUPERVISED,
        Config(),
    )
    assert settings.env == Environment.model_construct()


def test_environment_overrides_env_file_and_config_file(
    environ: Callable[..., None], write: Write, tmp_path: Path
):
    """The process's variable overrides the env file, which overrides the configuration file; other values of
    the file stay."""
    path = write({"risk": {"max_positions": 2, "max_daily_loss": 900}})
    (tmp_path / "env").write_text("MAX_POSITIONS=3\n")
    assert load(path).config.risk.max_positions == 2
    assert load(path, env_file=tmp_path / "env").config.risk.max_positions == 3
    environ(MAX_POSITIONS="4")
    settings = load(path, env_file=tmp_path / "env")
    assert settings.config.risk.max_positions == 4
    assert settings.config.risk.max_daily_loss == 900


def test_secrets_come_from_systemd_credentials_unless_the_environment_has_them(
    environ: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Files in $CREDENTIALS_DIRECTORY are secrets without their last line break; the environment overrides them."""
    (tmp_path / "alpaca_api_key").write_text("PK-credential\n")
    (tmp_path / "alpaca_secret_key").write_text("of-the-file\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    environ(ALPACA_SECRET_KEY="of-the-environment")
    settings = load()
    assert (settings.mode, settings.keys) == (Mode.PAPER, ("PK-credential", "of-the-environment"))
    assert "PK-credential" not in mask_text("the key PK-credential")
    (tmp_path / "database_url").write_bytes(b"\xff\xfe")
    assert load_error() == "a file in $CREDENTIALS_DIRECTORY cannot be read as text"


@pytest.mark.parametrize(
    ("name", "key", "file_value", "value"),
    [
        ("MAX_DAILY_LOSS", "max_daily_loss", 2000, "1500"),
        ("MAX_POSITION_SIZE", "max_position_size", 5000, "2500.00"),
        ("MAX_POSITIONS", "max_positions", 5, "3"),
    ],
)
def test_config_warns_when_environment_and_file_limits_differ(
    name: str, key: str, file_value: int, value: str, environ: Callable[..., None], write: Write
):
    """When file and environment differ, the environment applies and a notice names both; equal values give no
    notice."""
    environ(**{name: value})
    settings = load(write({"risk": {key: file_value}}))
    assert getattr(settings.config.risk, key) == Decimal(value)
    assert settings.notices == (
        f"CONFIG_WARNING {name}={value} in the environment overrides risk.{key}={file_value}",
    )
    assert load(write({"risk": {key: value}})).notices == ()
    assert load(write({"log": {"level": "INFO"}})).notices == ()
    assert load().notices == ()


def test_environment_overrides_an_invalid_limit_in_the_file(environ: Callable[..., None], write: Write):
    """A valid variable overrides an invalid value in the file; a misshapen section is still refused."""
    environ(MAX_DAILY_LOSS="1500")
    assert load(write({"risk": {"max_daily_loss": "lots"}})).config.risk.max_daily_loss == 1500
    load_error(write({"risk": "none"}))


@pytest.mark.parametrize("name", ["NEWS_API_KEY", "BENZINGA_API_KEY"])
def test_keys_of_news_sources_that_are_not_read_have_a_notice(name: str, environ: Callable[..., None]):
    """A key that is accepted and has no effect says so."""
    environ(**{name: "abcdefgh12345678"})
    assert [notice for notice in load().notices if f"{name} has no effect" in notice]


@pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_PORT", "REDIS_URL", "REDIS_PASSWORD", "REDIS_DB"])
def test_redis_variables_are_ignored_with_a_notice(name: str, environ: Callable[..., None]):
    """REDIS_* variables are ignored with a notice."""
    environ(**{name: "6379"})
    assert [notice for notice in load().notices if "REDIS_* is ignored" in notice]


@pytest.mark.parametrize("name", ["NEWS_API_KEY", "BENZINGA_API_KEY"])
def test_keys_of_other_news_sources_are_ignored_with_a_notice(name: str, environ: Callable[..., None]):
    """A variable of the earlier .env that has no effect is named."""
    environ(**{name: "abc123"})
    assert [notice for notice in load().notices if name in notice and "has no effect" in notice]


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("MAX_POSITIONS", "many", "MAX_POSITIONS"),
        ("MAX_POSITIONS", "0", "risk.max_positions"),
        ("MAX_DAILY_LOSS", "Infinity", "MAX_DAILY_LOSS"),
        ("ALPACA_PAPER", "perhaps", "ALPACA_PAPER"),
        ("TRADING_MODE", "yolo", "TRADING_MODE"),
        ("SMTP_PORT", "smtp", "SMTP_PORT"),
        ("LOG_LEVEL", "LOUD", "log.level"),
        ("CATALYST_CLOCK_SPEED", "0", "CATALYST_CLOCK_SPEED"),
    ],
)
def test_config_refuses_an_invalid_environment_variable(
    name: str, value: str, named: str, environ: Callable[..., None]
):
    """The message names the variable or its key."""
    environ(**{name: value})
    message = load_error()
    assert named in message


def test_child_environment_leaves_out_catalyst_variables(environ: Callable[..., None]):
    """The environment of a child process has no Catalyst variable except the given ones, and every other
    variable."""
    environ(**{name: value for name, (value, _, _) in ENVIRONMENT_CASES.items()}, SOMETHING_ELSE="kept")
    child = environment_without_catalyst(DATABASE_URL="postgresql://child")
    assert child["SOMETHING_ELSE"] == "kept"
    assert {name for name in child if name in ENVIRONMENT_CASES} == {"DATABASE_URL"}
    assert child["DATABASE_URL"] == "postgresql://child"
    assert "PATH" in child


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'A=1\nMAX_DAILY_LOSS="1500\n',
            ", line 2 cannot be read: write NAME=value, with both quotes or with none",
        ),
        ('MAX_DAILY_LOSS="1500\nLOG_LEVEL="INFO"\n', ", line 1"),
        ("MAX_DAILY_LOSS='1500\nLOG_FORMAT=json'\n", ", line 1: the value runs over several lines"),
        ("\n# limits\nMAX_DAILY_LOSS\n", ", line 3 has no =: write NAME=value"),
        ("MAX_DAILY_LOSS 1500\n", ", line 1 cannot be read"),
        (
            "\nMAX_DAILY_LOS=1500\n",
            ", line 2: the variable MAX_DAILY_LOS is unknown: did you mean MAX_DAILY_LOSS?",
        ),
        ("MAX_DIALY_LOSS=1500\n", "did you mean MAX_DAILY_LOSS?"),
        ("MAX_POSITIONS1=3\nOTHER='1500\nMAX_POSITIONS=3\nLAST='\n", "the value runs over several lines"),
        ("LOGLEVEL=DEBUG\n", "did you mean LOG_LEVEL?"),
        ("MAX_POSITIONS=3\nmax_positions=4\n", ", line 2: max_positions is set twice"),
    ],
)
def test_config_refuses_a_line_of_the_env_file_without_effect(text: str, expected: str, tmp_path: Path):
    """A line that cannot be read, a misspelt name and a second value are errors with file and line."""
    path = tmp_path / ".env"
    path.write_text(text)
    message = load_error(env_file=path)
    assert message.startswith(str(path))
    assert expected in message
    assert "1500" not in message


def test_config_names_a_misspelt_variable_of_the_process(environ: Callable[..., None]):
    """The environment belongs to other programs too: a misspelt limit in it is a notice."""
    environ(MAX_DAILY_LOS="1500", DATABASE_URI="x")
    (notice,) = load().notices
    assert (
        notice
        == "MAX_DAILY_LOS in the environment: not read by Catalyst, no effect: did you mean MAX_DAILY_LOSS?"
    )


@pytest.mark.parametrize(
    "text",
    [
        "DATABASE_URI=postgresql://elsewhere/db\n",
        "DATABASE_URL_RO=postgresql://elsewhere/db\n",
        "DATABASE_URL2=postgresql://elsewhere/db\n",
        "MIN_POSITION_SIZE=10\n",
        "NEWSAPI_KEY=k\n",
        "ALPACA_API_BASE_URL=https://elsewhere\n",
        "REDIS_URI=redis://elsewhere\n",
        "SIGNING_KEY='one\ntwo=2\n'\n",
        "POSTGRES_DB=a\nPOSTGRES_DB=b\n",
    ],
)
def test_config_lets_names_of_other_programs_stand_in_the_env_file(text: str, tmp_path: Path):
    """A name that is another word than ours, and what stands twice or over several lines under one, is a notice
    without advice."""
    (tmp_path / "env").write_text(text)
    (notice,) = load(env_file=tmp_path / "env").notices
    assert notice == f"{text.partition('=')[0]} in the env file: not read by Catalyst, no effect"


def test_config_names_the_variables_of_the_env_file_without_effect(tmp_path: Path):
    """A name that is nobody's slip may stand in the file; a notice says that it has no effect."""
    (tmp_path / "env").write_text('export POSTGRES_DB=x # shared\nMAX_POSITIONS="3"\n')
    settings = load(env_file=tmp_path / "env")
    assert settings.config.risk.max_positions == 3
    assert settings.notices == ("POSTGRES_DB in the env file: not read by Catalyst, no effect",)


# -- which account


def test_config_selects_paper_with_keys_and_no_mode(environ: Callable[..., None]):
    """Keys without a mode select the paper account."""
    environ(**KEYS)
    settings = load()
    assert settings.mode is Mode.PAPER
    assert settings.trading_url == "https://paper-api.alpaca.markets"
    assert settings.stream_url == "wss://paper-api.alpaca.markets/stream"
    assert settings.data_url == "https://data.alpaca.markets"
    assert settings.keys == ("key", "secret")


@pytest.mark.parametrize("missing", list(KEYS))
def test_config_refuses_half_a_key_pair(missing: str, environ: Callable[..., None], write: Write):
    """One key of two is refused with the name of the other; the simulator must be chosen."""
    (present,) = [name for name in KEYS if name != missing]
    environ(**{present: KEYS[present]})
    for path in (None, write({"trading": {"mode": "paper"}})):
        assert f"{present} is set and {missing} is not: set both" in load_error(path)
    settings = load(write({"trading": {"mode": "sim"}}))
    assert (settings.mode, settings.keys) == (Mode.SIM, ("demo", "demo"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ALPACA_API_SECRET", "ALPACA_SECRET_KEY"),
        ("APCA_API_SECRET_KEY", "ALPACA_SECRET_KEY"),
        ("ALPACA_SECERT_KEY", "ALPACA_SECRET_KEY"),
        ("ALPACA_SECRET", "ALPACA_SECRET_KEY"),
        ("APCA_API_KEY_ID", "ALPACA_API_KEY"),
        ("ALPACA_KEY_ID", "ALPACA_API_KEY"),
        ("alpaca_key", "ALPACA_API_KEY"),
    ],
)
def test_config_names_the_variable_of_a_key_under_another_name(
    name: str, expected: str, environ: Callable[..., None], write: Write, tmp_path: Path
):
    """A broker key under another name is refused with the right name and its place, never the simulator in silence;
    beside the right name it is ignored."""
    (tmp_path / "env").write_text(f"# keys\n{name}=canary-value\n")
    message = load_error(env_file=tmp_path / "env")
    assert f"line 2: {name} is not read: name it {expected}" in message
    environ(**{name: "canary-value"})
    message = load_error(write({"trading": {"mode": "paper"}}))
    assert f"the environment: {name} is not read: name it {expected}" in message
    assert "canary" not in message
    assert load(write({"trading": {"mode": "sim"}})).mode is Mode.SIM
    environ(**KEYS)
    assert load().mode is Mode.PAPER


def test_simulator_mode_never_uses_alpaca_keys(environ: Callable[..., None], write: Write):
    """The simulator mode uses its own keys, even where Alpaca keys are set."""
    environ(**KEYS)
    settings = load(write({"trading": {"mode": "sim"}}))
    assert (settings.mode, settings.keys) == (Mode.SIM, ("demo", "demo"))
    environ(TRADING_MODE="sim")
    assert load().mode is Mode.SIM


@pytest.mark.parametrize(
    ("mode", "enabled", "number"), list(product([None, "live"], [False, True], [None, "PA3ABC"]))
)
def test_live_mode_needs_mode_switch_and_account_number(
    mode: str | None, enabled: bool, number: str | None, environ: Callable[..., None], write: Write
):
    """Only mode, ENABLE_LIVE_TRADING and account number together select live; without the mode it is paper,
    and with the mode and a missing lock the start is refused."""
    environ(**KEYS, **({"ENABLE_LIVE_TRADING": "true"} if enabled else {}))
    trading = {name: value for name, value in (("mode", mode), ("account_number", number)) if value}
    path = write({"trading": trading})
    if mode is None:
        assert load(path).mode is Mode.PAPER
    elif enabled and number:
        settings = load(path)
        assert (settings.mode, settings.trading_url) == (Mode.LIVE, "https://api.alpaca.markets")
    else:
        message = load_error(path)
        assert ("ENABLE_LIVE_TRADING=true" in message) is not enabled
        assert ("trading.account_number" in message) is (number is None)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"reconcile": {"every_seconds": 121}}, "must be 120 or less"),
        ({"emergency": {"halt_new_trades": False}}, "stops entries"),
    ],
)
def test_live_mode_refuses_settings_allowed_on_paper(
    section: dict[str, Any], message: str, environ: Callable[..., None], write: Write
):
    """Live mode requires reconciliation every 120 s and the halt after a lost day; paper does not."""
    environ(**KEYS, ENABLE_LIVE_TRADING="true")
    live = {"trading": {"mode": "live", "account_number": "PA3ABC"}}
    assert message in load_error(write(live | section))
    environ(**KEYS)
    assert load(write(section)).mode is Mode.PAPER


def test_config_refuses_to_disable_reconciliation(write: Write):
    """No value of the interval disables reconciliation."""
    for seconds in (0, -1, 601, "off"):
        assert "reconcile.every_seconds" in load_error(write({"reconcile": {"every_seconds": seconds}}))


def test_live_mode_is_refused_without_keys(environ: Callable[..., None], write: Write):
    """Live mode without keys is refused."""
    environ(ENABLE_LIVE_TRADING="true")
    assert "needs ALPACA_API_KEY" in load_error(
        write({"trading": {"mode": "live", "account_number": "PA3ABC"}})
    )


HINTS = [
    ("TRADING_MODE", "live", Mode.LIVE),
    ("TRADING_MODE", "paper", Mode.PAPER),
    ("TRADING_MODE", "sim", Mode.SIM),
    ("ALPACA_PAPER", "false", Mode.LIVE),
    ("ALPACA_PAPER", "true", Mode.PAPER),
    ("ENABLE_PAPER_TRADING", "true", Mode.PAPER),
    ("ALPACA_BASE_URL", "https://api.alpaca.markets", Mode.LIVE),
    ("ALPACA_BASE_URL", "https://api.alpaca.markets/v2", Mode.LIVE),
    ("ALPACA_BASE_URL", "https://paper-api.alpaca.markets", Mode.PAPER),
    ("ALPACA_BASE_URL", "http://127.0.0.1:9000", Mode.SIM),
]


@pytest.mark.parametrize(("mode", "hint"), list(product(Mode, HINTS)))
def test_config_refuses_a_variable_that_contradicts_trading_mode(
    mode: Mode, hint: tuple[str, str, Mode], environ: Callable[..., None], write: Write
):
    """A variable that contradicts trading.mode is refused with both in the message."""
    name, value, means = hint
    environ(**KEYS, ENABLE_LIVE_TRADING="true", **{name: value})
    path = write({"trading": {"mode": str(mode), "account_number": "PA3ABC"}})
    if means is mode:
        assert load(path).mode is mode
    else:
        assert f"{name} means {means}, trading.mode is {mode}" in load_error(path)


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("keys", [False, True])
def test_environment_variable_alone_never_selects_live(
    hint: tuple[str, str, Mode], keys: bool, environ: Callable[..., None]
):
    """Without trading.mode a variable may select sim or paper; one that means live, or another address, is
    refused."""
    name, value, means = hint
    environ(**(KEYS if keys else {}), ENABLE_LIVE_TRADING="true", **{name: value})
    default = Mode.PAPER if keys else Mode.SIM
    if means is Mode.LIVE:
        assert f"{name} means live, trading.mode would be {default}" in load_error()
    elif name == "ALPACA_BASE_URL" and means is Mode.SIM and keys:
        assert "ALPACA_BASE_URL means sim, trading.mode would be paper" in load_error()
    elif name == "TRADING_MODE" and means is Mode.PAPER and not keys:
        assert "paper trading needs ALPACA_API_KEY" in load_error()
    else:
        assert load().mode is (means if name == "TRADING_MODE" else default)


def test_config_refuses_paper_when_it_is_disabled(environ: Callable[..., None], write: Write):
    """ENABLE_PAPER_TRADING=false contradicts a paper account, selected in the file or by default."""
    environ(**KEYS, ENABLE_PAPER_TRADING="false")
    assert "ENABLE_PAPER_TRADING is false, trading.mode would be paper" in load_error()
    assert "ENABLE_PAPER_TRADING is false, trading.mode is paper" in load_error(
        write({"trading": {"mode": "paper"}})
    )
    assert load(write({"trading": {"mode": "sim"}})).mode is Mode.SIM


# -- session mode


@pytest.mark.parametrize(("requested", "auto", "enabled"), list(product([False, True], repeat=3)))
def test_autonomous_session_needs_three_switches(
    requested: bool, auto: bool, enabled: bool, environ: Callable[..., None], write: Write
):
    """All three switches give an autonomous session; fewer give a supervised one with a notice of what is
    missing, and no notice when it was not requested."""
    if enabled:
        environ(ENABLE_AUTONOMOUS_TRADING="true")
    settings = load(
        write(
            {
                "session": {"mode": "autonomous" if requested else "supervised"},
                "workflow": {"auto_execute": auto},
            }
        )
    )
    if requested and auto and enabled:
        assert (settings.session_mode, settings.notices) == (SessionMode.AUTONOMOUS, ())
        return
    assert settings.session_mode is SessionMode.SUPERVISED
    if not requested:
        assert settings.notices == ()
        return
    (notice,) = settings.notices
    assert ("workflow.auto_execute: true" in notice) is not auto
    assert ("ENABLE_AUTONOMOUS_TRADING=true" in notice) is not enabled


# -- secrets

SECRETS = [
    name.upper() for name, info in Environment.model_fields.items() if "SecretStr" in str(info.annotation)
]


def test_credential_variables_are_secret_fields():
    """Keys, passwords and addresses with a password are secret fields."""
    assert {"DATABASE_URL", *KEYS, "SMTP_PASSWORD", "NEWS_API_KEY", "BENZINGA_API_KEY", "REDIS_URL"} <= set(
        SECRETS
    )


def test_settings_show_no_secret(environ: Callable[..., None], write: Write, tmp_path: Path):
    """No text of the settings, dump or notice shows a secret."""
    secrets = {name: f"canary-{name}" for name in SECRETS}
    environ(**secrets | {"DATABASE_URL": "postgresql://cat:canary-DATABASE_URL@host/db"})
    settings = load(write({"log": {"level": "DEBUG"}}))
    shown = [
        repr(settings),
        str(settings),
        f"{settings}",
        repr(settings.env),
        str(settings.env),
        str(settings.env.model_dump()),
        settings.env.model_dump_json(),
        settings.config.model_dump_json(),
        str(settings.notices),
    ]
    assert not [text for text in shown if "canary" in text]
    assert settings.keys == ("canary-ALPACA_API_KEY", "canary-ALPACA_SECRET_KEY")


@pytest.mark.parametrize(
    "wrong",
    [
        "MAX_POSITIONS", "MAX_DAILY_LOSS", "ALPACA_PAPER", "TRADING_MODE", "SMTP_PORT", "SMTP_TLS",
        "CATALYST_CLOCK_SPEED",
    ],
)  # fmt: skip
def test_config_errors_show_no_secret(wrong: str, environ: Callable[..., None]):
    """An invalid variable is named without its value, which may be a misplaced secret."""
    environ(**{name: f"canary-{name}" for name in SECRETS}, **{wrong: "canary-misplaced"})
    with pytest.raises(ConfigInvalid, match=wrong) as caught:
        load()
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "tree",
    [
        {"database": "postgresql://trader:canary@db/catalyst"},
        {"database": {"url": "canary"}},
        {"broker": {"secret_key": "canary"}},
        {"log": {"level": "postgresql://trader:canary@db"}},
        {"risk": {"max_positions": {"password": "canary"}}},
        {"risk": ["canary"]},
    ],
)
def test_config_error_does_not_repeat_a_misplaced_secret(tree: dict[str, Any], write: Write):
    """A DSN or key misplaced in the file is refused and not repeated."""
    assert "canary" not in load_error(write(tree))


WRONG_KEYS = {
    "S3cretS3cretS3cret\r": "a line end",
    "S3cretS3cret S3cret": "a blank",
    " S3cretS3cretS3cret": "a blank",
    '"S3cretS3cretS3cret"': "a quote or backslash",
    "S3cretS3cretS3cret\x1b": "a control character",
    "S3cretS3cretS3cret\u200b": "a control character",
    "S3cretS3cret\xe9S3cret": "a character outside ASCII",
}


@pytest.mark.parametrize("name", ["ALPACA_API_KEY", "ALPACA_SECRET_KEY", "NEWS_API_KEY", "BENZINGA_API_KEY"])
@pytest.mark.parametrize("value", WRONG_KEYS)
def test_config_refuses_a_key_that_no_broker_issues(name: str, value: str, environ: Callable[..., None]):
    """A key with a blank, quote or control character is refused by name; the value is not shown."""
    environ(TRADING_MODE="sim", **{name: value})
    message = load_error()
    assert message.startswith(f"{name}: it holds {WRONG_KEYS[value]}")
    assert "cret" not in message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://cat:12/Sup3rS3cret@127.0.0.1:1/db", "percent-encode the password"),
        ("postgresql://cat:12#Sup3rS3cret@127.0.0.1:1/db", "percent-encode the password"),
        ("postgresql://cat:12?Sup3rS3cret@127.0.0.1:1/db", "percent-encode the password"),
        ("postgresql://cat:12[Sup3rS3cret@127.0.0.1:1/db", "percent-encode the password"),
        ("postgresql://cat:12@Sup3rS3cret@127.0.0.1:1/db", "percent-encode the password"),
        ("postgresql://cat:Sup3rS3cret%@127.0.0.1:1/db", "percent-encode the password"),
        ("postgresql://cat:Sup3rS3cret@127.0.0.1:abc/db", "the port is not a number from 1 to 65535"),
        ("postgresql://cat:Sup3rS3cret@127.0.0.1:70000/db", "the port is not a number from 1 to 65535"),
        ("postgresql://cat:Sup3rS3cret@127.0.0.1:0/db", "the port is not a number from 1 to 65535"),
        ("postgresql://cat:Sup3rS3cret@127.0.0.1/db\r", "a line end"),
        ("mysql://cat:Sup3rS3cret@127.0.0.1/db", "is not a PostgreSQL address"),
    ],
)
def test_config_refuses_a_database_url_that_means_another_address(
    url: str, expected: str, environ: Callable[..., None]
):
    """A password with a reserved character and a wrong port are refused in one sentence without any part of them."""
    environ(DATABASE_URL=url)
    message = load_error()
    assert message.startswith("DATABASE_URL: ")
    assert expected in message
    for part in ("Sup3r", "12", "127.0", "abc", "70000"):
        assert part not in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db",
        "postgresql:///db?host=/tmp/socket",
        "postgresql://postgres@/db?host=/tmp/socket",
        "postgres://cat:p%23w%2F@host:5432/db?sslmode=require",
        "postgresql://cat:p:w@[::1]:5432/db",
        "postgresql://cat:pw@first:1,second:2/db",
        "postgresql://cat:pw@host?sslmode=require",
    ],
)
def test_config_accepts_every_form_of_database_url(url: str, environ: Callable[..., None]):
    """Sockets, IPv6, several hosts, options and encoded passwords are accepted."""
    environ(DATABASE_URL=url)
    assert _secret_value(load().env.database_url) == url


def test_config_fingerprint_is_independent_of_secrets(environ: Callable[..., None]):
    """The fingerprint covers the configuration tree only, not the secrets."""
    before = load().config.fingerprint
    environ(DATABASE_URL="postgresql://elsewhere/d")
    assert load().config.fingerprint == before
    assert "elsewhere" not in json.dumps(load().config.model_dump(mode="json"))
