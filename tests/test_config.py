"""What the operator may choose, and what is refused: in one sentence, naming what to mend, keeping every secret."""

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

from catalyst.config import loader
from catalyst.config.loader import environment_without_catalyst, load
from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.settings import Environment, Settings
from catalyst.domain.errors import ConfigInvalid

ROOT = Path(__file__).parent.parent
KEYS = {"ALPACA_API_KEY": "key", "ALPACA_SECRET_KEY": "secret"}

Write = Callable[[str | dict[str, Any]], Path]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' operator has set nothing yet."""
    for name in [name for name in os.environ if name.lower() in Environment.model_fields]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes config.yaml and returns where it is."""

    def write(content: str | dict[str, Any]) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def load_error(path: Path | None = None, **kwargs: Any) -> str:
    """The sentence with which `load` refuses."""
    with pytest.raises(ConfigInvalid) as caught:
        load(path, **kwargs)
    said = str(caught.value)
    assert "\n" not in said
    assert 0 < len(said) < 500
    return said


def leaf_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaf_keys(info.annotation, f"{name}.")
        else:
            yield prefix + name


LEAF_KEYS = sorted(leaf_keys(Config))


# -- the file


def test_config_defaults_to_the_supervised_simulator():
    """No file, no variable: the exchange of this machine, a person who approves, the documented limits, no notice."""
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
    "shutdown.flatten_timeout_seconds": "60.0",
    "log.level": "INFO",
    "log.format": "auto",
}


@pytest.mark.parametrize(("key", "default"), DOCUMENTED.items())
def test_config_defaults_equal_the_documented_values(key: str, default: str):
    """A limit that is not written is the one of the documentation, not another."""
    section, name = key.split(".")
    assert str(getattr(getattr(Config(), section), name)) == default


def test_config_file_of_the_repository_equals_the_defaults():
    """config.yaml at the root shows every key there is, but the retired, with the value it has without a file."""
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
    """Two letters swapped in any key there is: the answer names the key that was meant."""
    section, name = key.split(".")
    middle = len(name) // 2
    typo = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    if typo == name:
        typo = name + "s"
    said = load_error(write({section: {typo: 1}}))
    assert f"unknown key {section}.{typo}: did you mean {key}?" in said


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"rsk": {}}, "unknown key rsk: did you mean risk?"),
        ({"Risk": {}}, "unknown key Risk: did you mean risk?"),
        ({"risk": {"max_dayly_los": 1}}, "did you mean risk.max_daily_loss?"),
        ({"zzzzzz": 1}, "unknown key zzzzzz"),
    ],
)
def test_config_refuses_an_unknown_section(tree: dict[str, Any], said: str, write: Write):
    """Nothing unknown is passed over, whatever is near it."""
    assert said in load_error(write(tree))


def test_config_names_every_fault_in_one_message(write: Write):
    """Three faults, one sentence with all three, each with its key and the value that was there."""
    said = load_error(write({"risk": {"max_positions": 0, "max_correlation": 1.5}, "log": {"level": "LOUD"}}))
    for part in ("risk.max_positions", "(got 0)", "risk.max_correlation", "(got 1.5)", "log.level", "'LOUD'"):
        assert part in said


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
    """Negative, not a number, infinite, of the wrong shape, or contradicting another value."""
    load_error(write(tree))


def test_config_refuses_infinite_and_nan_numbers(write: Write):
    """There is no number in the tree that may be infinite or none: a limit that never bites is no limit."""
    numbers = [key for key in LEAF_KEYS if isinstance(_default(key), (int, float, Decimal))]
    numbers = [key for key in numbers if not isinstance(_default(key), bool)]
    assert len(numbers) > 60
    for key, value in product(numbers, (float("inf"), float("nan"), float("-inf"))):
        section, name = key.split(".")
        assert key in load_error(write({section: {name: value}}))


def _default(key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(Config(), section), name)


def test_config_refuses_another_time_zone(write: Write):
    """The exchange keeps New York hours; the sentence says so, and what to do."""
    said = load_error(write({"session": {"timezone": "Australia/Perth"}}))
    assert "must be America/New_York: the exchange keeps New York hours" in said
    load(write({"session": {"timezone": "America/New_York"}}))


@pytest.mark.parametrize("line", ["market_close: 16:00", "market_open: '09:30'", "market_open: 9:30"])
def test_config_ignores_retired_keys_with_a_notice(line: str, write: Write):
    """Opening hours come from the calendar; whoever still writes them hears it, quoted or not."""
    settings = load(write(f"session:\n  {line}\n"))
    assert any("ignored: the exchange calendar decides" in notice for notice in settings.notices)


BOMB = "a: &a [x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
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
        ("risk:\n  max_positions: 3\nrisk:\n  max_daily_loss: 1\n", "line 3: risk is there twice"),
        ("risk:\n  max_positions: 3\n  max_positions: 9\n", "line 3: max_positions is there twice"),
        ("[" * 5_000, "nested deeper than any configuration needs to be"),
        ("a: " + "x" * 70_000, "larger than any configuration needs to be"),
        ("---\nrisk: {}\n---\nlog: {}\n", "line 3"),
        ("session:\n  timezone: 2026-13-45\n", "is not YAML text"),
        ("risk: \x07", "is not YAML text"),
    ],
)
def test_config_refuses_an_invalid_file_in_one_sentence(text: str, said: str, write: Write):
    """Bombs, objects, lists, torn text, a key twice, nests, floods: where it is and what, and nothing is run."""
    path = write(text)
    message = load_error(path)
    assert message.startswith(str(path))
    assert said in message


def test_config_refuses_an_unreadable_file_in_one_sentence(tmp_path: Path):
    """Missing, a folder, or bytes that are no text."""
    assert "does not exist: name another with --config" in load_error(tmp_path / "none.yaml")
    assert "cannot be read: Is a directory" in load_error(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00risk")
    assert "is not YAML text" in load_error(tmp_path / "bytes.yaml")
    (tmp_path / ".env").write_bytes(b"\xff\xfe=1")
    assert ".env cannot be read as text" in load_error(env_file=tmp_path / ".env")


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "risk:\nlog:\n", "{}"])
def test_config_uses_defaults_for_an_empty_file_or_section(text: str, write: Write):
    """What is not written is as it is without a file."""
    assert load(write(text)).config == Config()


def test_config_is_frozen_and_has_a_fingerprint(write: Write):
    """Nobody changes it in passing, and a day can say which one it was traded under."""
    before, after = load(), load(write({"risk": {"max_positions": 4}}))
    with pytest.raises(ValueError, match="frozen"):
        before.config.risk.max_positions = 9  # type: ignore[misc]
    assert before.config.fingerprint == load().config.fingerprint != after.config.fingerprint
    assert len(before.config.fingerprint) == 16


def test_config_fingerprint_is_independent_of_number_spelling(write: Write):
    """The defaults written out, 2000 or 2000.00 or 2e3, 75 or 75.0, are the same configuration as none at all."""
    for text in (
        "risk: {max_daily_loss: 2000, warning_threshold_pct: 75}",
        "risk: {max_daily_loss: 2000.00, warning_threshold_pct: 75.0}",
        "risk: {max_daily_loss: '2e3', max_position_size: 5000.0}",
        yaml.safe_dump(json.loads(Config().model_dump_json())),
    ):
        settings = load(write(text))
        assert settings.config == Config()
        assert settings.config.fingerprint == Config().fingerprint


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
    return None if secret is None else secret.get_secret_value()


@pytest.mark.parametrize("name", ENVIRONMENT_CASES)
def test_environment_variable_has_its_effect(name: str, environ: Callable[..., None], tmp_path: Path):
    """Each name the older guides taught has its effect, from the process or from an env file, and changes nothing
    else about the mode."""
    value, read, expected = ENVIRONMENT_CASES[name]
    file = tmp_path / "env"
    file.write_text(f"{name}={value}\n")
    assert read(load(env_file=file)) == expected
    environ(**{name: value})
    settings = load()
    assert read(settings) == expected
    assert settings.mode is Mode.SIM


def test_empty_environment_variable_counts_as_unset(environ: Callable[..., None]):
    """KEY= in an env file is how a key is left out: no mode, no limit, no address comes of it."""
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
    """A limit is the process's, else the env file's, else the file's; the file's other values stay."""
    path = write({"risk": {"max_positions": 2, "max_daily_loss": 900}})
    (tmp_path / "env").write_text("MAX_POSITIONS=3\n")
    assert load(path).config.risk.max_positions == 2
    assert load(path, env_file=tmp_path / "env").config.risk.max_positions == 3
    environ(MAX_POSITIONS="4")
    settings = load(path, env_file=tmp_path / "env")
    assert settings.config.risk.max_positions == 4
    assert settings.config.risk.max_daily_loss == 900


@pytest.mark.parametrize(
    ("name", "key", "there", "value"),
    [
        ("MAX_DAILY_LOSS", "max_daily_loss", 2000, "1500"),
        ("MAX_POSITION_SIZE", "max_position_size", 5000, "2500.00"),
        ("MAX_POSITIONS", "max_positions", 5, "3"),
    ],
)
def test_config_warns_when_environment_and_file_limits_differ(
    name: str, key: str, there: int, value: str, environ: Callable[..., None], write: Write
):
    """File and environment disagree: the environment holds, and the notice says both. Agreement is silent."""
    environ(**{name: value})
    settings = load(write({"risk": {key: there}}))
    assert getattr(settings.config.risk, key) == Decimal(value)
    assert settings.notices == (
        f"CONFIG_WARNING {name}={value} in the environment overrides risk.{key}={there}",
    )
    assert load(write({"risk": {key: value}})).notices == ()
    assert load(write({"log": {"level": "INFO"}})).notices == ()
    assert load().notices == ()


def test_environment_overrides_an_invalid_limit_in_the_file(environ: Callable[..., None], write: Write):
    """Nonsense in the file beside a good variable is a disagreement, not a crash."""
    environ(MAX_DAILY_LOSS="1500")
    assert load(write({"risk": {"max_daily_loss": "lots"}})).config.risk.max_daily_loss == 1500
    load_error(write({"risk": "none"}))


@pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_PORT", "REDIS_URL", "REDIS_PASSWORD", "REDIS_DB"])
def test_redis_variables_are_ignored_with_a_notice(name: str, environ: Callable[..., None]):
    """REDIS_* is ignored, and says so."""
    environ(**{name: "6379"})
    assert [notice for notice in load().notices if "REDIS_* is ignored" in notice]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_POSITIONS", "many"),
        ("MAX_POSITIONS", "0"),
        ("MAX_DAILY_LOSS", "Infinity"),
        ("ALPACA_PAPER", "perhaps"),
        ("TRADING_MODE", "yolo"),
        ("SMTP_PORT", "smtp"),
        ("LOG_LEVEL", "LOUD"),
        ("CATALYST_CLOCK_SPEED", "0"),
    ],
)
def test_config_refuses_an_invalid_environment_variable(name: str, value: str, environ: Callable[..., None]):
    """The sentence names the variable, or the key it stands for."""
    environ(**{name: value})
    said = load_error()
    assert name in said or loader.OVERRIDES.get(name.lower(), "none") in said


def test_child_environment_leaves_out_catalyst_variables(environ: Callable[..., None]):
    """The environment for a child without ours: no key, no database, no mode; all else, and what is laid over it."""
    environ(**{name: value for name, (value, _, _) in ENVIRONMENT_CASES.items()}, SOMETHING_ELSE="kept")
    child = environment_without_catalyst(DATABASE_URL="postgresql://child")
    assert child["SOMETHING_ELSE"] == "kept"
    assert {name for name in child if name in ENVIRONMENT_CASES} == {"DATABASE_URL"}
    assert child["DATABASE_URL"] == "postgresql://child"
    assert "PATH" in child


# -- which account


def test_config_selects_paper_with_keys_and_no_mode(environ: Callable[..., None]):
    """Keys alone mean the paper account: its address, its stream, these keys."""
    environ(**KEYS)
    settings = load()
    assert settings.mode is Mode.PAPER
    assert settings.trading_url == "https://paper-api.alpaca.markets"
    assert settings.stream_url == "wss://paper-api.alpaca.markets/stream"
    assert settings.data_url == "https://data.alpaca.markets"
    assert settings.keys == ("key", "secret")


@pytest.mark.parametrize("missing", list(KEYS))
def test_config_selects_the_simulator_with_half_a_key_pair(
    missing: str, environ: Callable[..., None], write: Write
):
    """One of the two is not enough: the simulator, and its own keys."""
    environ(**{name: value for name, value in KEYS.items() if name != missing})
    settings = load()
    assert (settings.mode, settings.keys) == (Mode.SIM, ("demo", "demo"))
    assert "paper trading needs ALPACA_API_KEY and ALPACA_SECRET_KEY" in load_error(
        write({"trading": {"mode": "paper"}})
    )


def test_simulator_mode_never_uses_alpaca_keys(environ: Callable[..., None], write: Write):
    """Asked for, it is the simulator with its own keys, whatever keys there are."""
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
    """Of the eight combinations one is live: mode in the file, the switch in the environment, the account's number.
    With the mode alone missing nothing is live; with it there and a lock closed the start is refused."""
    environ(**KEYS, **({"ENABLE_LIVE_TRADING": "true"} if enabled else {}))
    trading = {name: value for name, value in (("mode", mode), ("account_number", number)) if value}
    path = write({"trading": trading})
    if mode is None:
        assert load(path).mode is Mode.PAPER
    elif enabled and number:
        settings = load(path)
        assert (settings.mode, settings.trading_url) == (Mode.LIVE, "https://api.alpaca.markets")
    else:
        said = load_error(path)
        assert ("ENABLE_LIVE_TRADING=true" in said) is not enabled
        assert ("trading.account_number" in said) is (number is None)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"reconcile": {"every_seconds": 121}}, "at least every 120 seconds"),
        ({"emergency": {"halt_new_trades": False}}, "stops entries"),
    ],
)
def test_live_mode_refuses_settings_allowed_on_paper(
    section: dict[str, Any], said: str, environ: Callable[..., None], write: Write
):
    """Tables and broker are compared, and a lost day is over, wherever money is; on paper both may be tried."""
    environ(**KEYS, ENABLE_LIVE_TRADING="true")
    live = {"trading": {"mode": "live", "account_number": "PA3ABC"}}
    assert said in load_error(write(live | section))
    environ(**KEYS)
    assert load(write(section)).mode is Mode.PAPER


def test_config_refuses_to_disable_reconciliation(write: Write):
    """No number means never, in any mode."""
    for seconds in (0, -1, 601, "off"):
        assert "reconcile.every_seconds" in load_error(write({"reconcile": {"every_seconds": seconds}}))


def test_live_mode_is_refused_without_keys(environ: Callable[..., None], write: Write):
    """All three locks open and nobody to trade as."""
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


@pytest.mark.parametrize(("said", "hint"), list(product(Mode, HINTS)))
def test_config_refuses_a_variable_that_contradicts_trading_mode(
    said: Mode, hint: tuple[str, str, Mode], environ: Callable[..., None], write: Write
):
    """The older variables must agree with trading.mode; where one does not, the start names it and the mode."""
    name, value, means = hint
    environ(**KEYS, ENABLE_LIVE_TRADING="true", **{name: value})
    path = write({"trading": {"mode": str(said), "account_number": "PA3ABC"}})
    if means is said:
        assert load(path).mode is said
    else:
        assert f"{name} means {means}, trading.mode is {said}" in load_error(path)


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("keys", [False, True])
def test_environment_variable_alone_never_selects_live(
    hint: tuple[str, str, Mode], keys: bool, environ: Callable[..., None]
):
    """Without trading.mode a variable may choose the simulator or paper; one that means live stops the start, and so
    does an address that is not the one that would be traded at."""
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
    """ENABLE_PAPER_TRADING=false beside a paper account is a contradiction, said or by default."""
    environ(**KEYS, ENABLE_PAPER_TRADING="false")
    assert "ENABLE_PAPER_TRADING is false, trading.mode would be paper" in load_error()
    assert "ENABLE_PAPER_TRADING is false, trading.mode is paper" in load_error(
        write({"trading": {"mode": "paper"}})
    )
    assert load(write({"trading": {"mode": "sim"}})).mode is Mode.SIM


# -- who decides


@pytest.mark.parametrize(("asked", "auto", "enabled"), list(product([False, True], repeat=3)))
def test_autonomous_session_needs_three_switches(
    asked: bool, auto: bool, enabled: bool, environ: Callable[..., None], write: Write
):
    """With all three the session is autonomous; asked for with fewer it is supervised and says what is missing; not
    asked for it is supervised without a word."""
    if enabled:
        environ(ENABLE_AUTONOMOUS_TRADING="true")
    settings = load(
        write(
            {"session": {"mode": "autonomous" if asked else "supervised"}, "workflow": {"auto_execute": auto}}
        )
    )
    if asked and auto and enabled:
        assert (settings.session_mode, settings.notices) == (SessionMode.AUTONOMOUS, ())
        return
    assert settings.session_mode is SessionMode.SUPERVISED
    if not asked:
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
    """Keys, passwords, and addresses that carry one are kept as secrets."""
    assert {"DATABASE_URL", *KEYS, "SMTP_PASSWORD", "NEWS_API_KEY", "BENZINGA_API_KEY", "REDIS_URL"} <= set(
        SECRETS
    )


def test_settings_show_no_secret(environ: Callable[..., None], write: Write, tmp_path: Path):
    """A canary in every secret: in no text of the settings, no dump of the tree, no notice."""
    environ(**{name: f"canary-{name}" for name in SECRETS})
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
    """A variable that is wrong, even one that was given a secret by mistake, is named without its value."""
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
    """A DSN where a section belongs, a key in the file: refused, and not printed."""
    assert "canary" not in load_error(write(tree))


def test_config_fingerprint_is_independent_of_secrets(environ: Callable[..., None]):
    """It is of the tree alone: another key is the same configuration."""
    before = load().config.fingerprint
    environ(DATABASE_URL="postgresql://elsewhere/d")
    assert load().config.fingerprint == before
    assert "elsewhere" not in json.dumps(load().config.model_dump(mode="json"))
