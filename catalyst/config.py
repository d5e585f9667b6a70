"""What the operator may choose: config.yaml and the environment, read once, validated, frozen.

The environment beats the file. Secrets live only in the environment (or an env file) and never in a repr.
"""

import difflib
import hashlib
import json
import os
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from catalyst.domain.errors import ConfigInvalid

Dollars = Annotated[Decimal, Field(ge=0, le=Decimal(10_000_000))]
Percent = Annotated[float, Field(gt=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen; an unknown key is an error, and so is a number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Mode(StrEnum):
    SIM = "sim"
    PAPER = "paper"
    LIVE = "live"


class SessionMode(StrEnum):
    SUPERVISED = "supervised"
    AUTONOMOUS = "autonomous"


class Trading(Section):
    mode: Mode | None = None  # None: sim without keys, paper with them
    allow_short: bool = False
    manage_account_locks: bool = True
    account_number: str | None = None  # live: must equal the broker's


class BrokerUrls(Section):
    """Where the broker is. None: Alpaca's own hosts for paper and live, `simulator` for sim."""

    simulator: str = "http://127.0.0.1:8765"
    feed: Literal["iex", "sip", "delayed_sip"] = "iex"
    requests_per_minute: int = Field(200, ge=20, le=10_000)
    data_requests_per_minute: int = Field(200, ge=20, le=10_000)
    reserved_for_exits: int = Field(60, ge=0, le=150)


class Database(Section):
    data_dir: Path | None = None  # the embedded server's, when DATABASE_URL is not set
    spool: Path | None = None  # the folder of what is done while the database is away
    proofs: Path | None = None  # the folder of the proofs of being flat


class SessionSection(Section):
    mode: SessionMode = SessionMode.SUPERVISED
    timezone: str = "America/New_York"
    flat_before_close_minutes: int = Field(10, ge=2, le=120)
    no_entries_before_close_minutes: int = Field(45, ge=5, le=240)
    proposal_expires_minutes: int = Field(5, ge=1, le=60)
    market_open: str | int | None = None  # retired, and YAML reads 16:00 as 960
    market_close: str | int | None = None


class Workflow(Section):
    auto_execute: bool = False
    execute_top_n: int = Field(3, ge=1, le=20)
    scan_frequency_minutes: int = Field(30, ge=0, le=240)


class Features(Section):
    news_sentiment: bool = True
    pattern_detection: bool = True
    autonomous_trading: bool = False
    email_alerts: bool = False


class UniverseConfig(Section):
    """Which symbols may be traded at all."""

    listings_file: Path | None = None  # CSV: symbol, name, sector
    exchanges: tuple[str, ...] = ("NYSE", "NASDAQ", "ARCA", "AMEX")
    allow: tuple[str, ...] = ()  # when not empty, only these
    deny: tuple[str, ...] = ()  # never these


class ScanConfig(Section):
    """What makes a stock worth a second look, and which market data are too poor to judge it by."""

    keep: int = Field(200, ge=1, le=200)
    min_price: float = Field(1.0, gt=0)
    max_price: float = Field(500.0, gt=0)
    min_dollar_volume: float = Field(5_000_000.0, ge=0)  # 20-day average, dollars a day
    min_relative_volume: float = Field(1.0, ge=0)  # volume so far over what is usual by this minute
    max_spread_bps: float = Field(50.0, gt=0)  # looser than risk's: a spread may tighten until the order goes
    max_trade_age_seconds: float = Field(420, gt=0)
    max_quote_age_seconds: float = Field(420, gt=0)
    max_quote_distance_pct: float = Field(5.0, gt=0)  # of the last trade from the middle of the quote
    min_history_days: int = Field(5, ge=1, le=20)  # daily bars before "usual" means anything
    weight_volume: Share = 0.35
    weight_momentum: Share = 0.35
    weight_gap: Share = 0.20
    weight_liquidity: Share = 0.10


class NewsConfig(Section):
    """How headlines weigh."""

    ask: int = Field(100, ge=1, le=200)
    keep: int = Field(35, ge=1, le=200)
    lookback_hours: float = Field(24.0, gt=0, le=168)
    half_life_hours: float = Field(6.0, gt=0, le=168)  # a headline this old weighs half
    veto: Share = 0.25  # a news score this low refuses a stock that may only be bought


class PatternConfig(Section):
    """Chart patterns. Times are minutes, so that 1- and 5-minute bars mean the same."""

    keep: int = Field(20, ge=1, le=200)
    min_confidence: float = Field(0.4, ge=0, le=1)
    fresh_minutes: float = Field(30, ge=5, le=120)  # the trigger was crossed this recently
    max_bar_age_minutes: float = Field(15, ge=1, le=60)  # the last bar ended this recently
    opening_range_minutes: float = Field(15, ge=5, le=60)
    pivot_minutes: float = Field(10, ge=1, le=60)  # a pivot is the extreme this far to both sides
    max_extension: Share = 0.4  # of the way from trigger to target already gone


class TechnicalConfig(Section):
    """What the indicators must agree on, and when a move counts as spent."""

    keep: int = Field(10, ge=1, le=200)
    quorum: int = Field(6, ge=1, le=20)  # votes that must be warm
    min_agreement: Share = 0.5
    # Weights of the timeframes that have a vote, scaled to sum to 1.
    weight_intraday: float = Field(0.5, ge=0)
    weight_quarter_hour: float = Field(0.2, ge=0)
    weight_daily: float = Field(0.3, ge=0)
    spent_rsi: float = Field(88.0, gt=50, le=100)  # shorts: 100 minus it
    spent_move_atr: float = Field(1.5, gt=0)  # open to now, in daily ATRs
    spent_vwap_atr: float = Field(1.0, gt=0)  # VWAP to now, in daily ATRs


class PipelineConfig(Section):
    require_pattern: bool = True
    bar_minutes: Literal[1, 5] = 1  # the intraday bars the stages read


class ScoringConfig(Section):
    """composite = sum of weight times component, each component in [0, 1]."""

    news: Share = 0.30
    technical: Share = 0.30
    momentum: Share = 0.20
    volume: Share = 0.20
    min_composite: Share = 0.5

    @model_validator(mode="after")
    def weights_sum_to_one(self) -> "ScoringConfig":
        if abs(self.news + self.technical + self.momentum + self.volume - 1) > 1e-9:
            raise ValueError("scoring.news + technical + momentum + volume must sum to 1")
        return self


class RiskConfig(Section):
    keep: int = Field(5, ge=1, le=50)  # approved candidates a scan may leave
    max_daily_loss: Annotated[Dollars, Field(gt=0)] = Decimal("2000.00")  # there is no day without a limit
    warning_threshold_pct: Percent = 75
    max_positions: int = Field(5, ge=1, le=50)
    max_position_size: Dollars = Decimal("5000.00")
    min_position_size: Dollars = Decimal("100.00")
    risk_per_trade_pct: float = Field(0.5, gt=0, le=5)
    max_sector_exposure_pct: Percent = 40
    max_correlation: float = Field(0.7, gt=0, le=1)
    max_participation_pct: Percent = 1
    max_spread_bps: float = Field(30, gt=0, le=1000)
    min_reward_risk: float = Field(2.0, ge=0.5, le=20)
    min_stop_atr: float = Field(1.0, ge=0, le=10)  # a stop nearer than this many bar ATRs moves out to it
    max_stop_pct: float = Field(5.0, gt=0, le=20)  # a chart's stop farther than this is not taken


class PositionsConfig(Section):
    default_stop_loss_pct: float = Field(2.0, gt=0, le=20)
    default_take_profit_pct: float = Field(6.0, gt=0, le=100)
    max_hold_time_minutes: int = Field(180, ge=5, le=390)
    close_all_at_market_close: bool = True


class DailyLimits(Section):
    emergency_stop_at_100: bool = True


class SectorLimits(Section):
    sectors_to_limit: tuple[str, ...] = ()


class Correlation(Section):
    check_enabled: bool = True


class Emergency(Section):
    close_all_positions_on_limit: bool = True
    halt_new_trades: bool = True
    send_email_alert: bool = True
    cooldown_period_minutes: int = Field(60, ge=0, le=1440)


class PlanConfig(Section):
    entry_type: Literal["limit", "market"] = "limit"
    collar_bps: float = Field(15.0, ge=0, le=200)  # how far past the far side of the quote we follow


class Execution(Section):
    partial_entry_grace_seconds: float = Field(5, ge=1, le=60)
    entry_timeout_seconds: float = Field(120, ge=5, le=1800)  # an entry that has not filled is cancelled
    signal_max_age_seconds: float = Field(60, ge=5, le=600)
    order_poll_seconds: float = Field(10, ge=1, le=60)
    position_poll_seconds: float = Field(30, ge=1, le=120)


class Reconcile(Section):
    every_seconds: float = Field(60, ge=5, le=600)  # live: at most SLOWEST_LIVE_LOOK
    orphans: Literal["alert", "protect", "close"] = "protect"  # shares of our symbols that no row explains


class ProtectionConfig(Section):
    naked_budget_seconds: float = Field(15, ge=1, le=600)  # without a stop at the broker, per position


class StopMonitorConfig(Section):
    every_seconds: float = Field(30, ge=1, le=60)
    naked_every_seconds: float = Field(1, ge=0.5, le=10)
    grace_seconds: float = Field(3, ge=0.5, le=60)
    stale_after_seconds: float = Field(300, ge=5, le=3600)


class Shutdown(Section):
    on_sigterm: Literal["flatten", "keep"] = "flatten"
    flatten_timeout_seconds: float = Field(60, ge=5, le=85)


class Log(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "console"] = "auto"


class Config(Section):
    """The whole tree, as config.yaml writes it."""

    trading: Trading = Trading()
    broker: BrokerUrls = BrokerUrls()
    database: Database = Database()
    session: SessionSection = SessionSection()
    workflow: Workflow = Workflow()
    features: Features = Features()
    universe: UniverseConfig = UniverseConfig()
    scan: ScanConfig = ScanConfig()
    news: NewsConfig = NewsConfig()
    pipeline: PipelineConfig = PipelineConfig()
    pattern: PatternConfig = PatternConfig()
    technical: TechnicalConfig = TechnicalConfig()
    scoring: ScoringConfig = ScoringConfig()
    risk: RiskConfig = RiskConfig()
    daily_limits: DailyLimits = DailyLimits()
    sector_limits: SectorLimits = SectorLimits()
    correlation: Correlation = Correlation()
    positions: PositionsConfig = PositionsConfig()
    emergency: Emergency = Emergency()
    plan: PlanConfig = PlanConfig()
    execution: Execution = Execution()
    stop_monitor: StopMonitorConfig = StopMonitorConfig()
    reconcile: Reconcile = Reconcile()
    protection: ProtectionConfig = ProtectionConfig()
    shutdown: Shutdown = Shutdown()
    log: Log = Log()

    @model_validator(mode="after")
    def limits_agree(self) -> "Config":
        if self.scan.min_price >= self.scan.max_price:
            raise ValueError("scan.min_price is not below scan.max_price")
        if self.risk.min_position_size > self.risk.max_position_size:
            raise ValueError("risk.min_position_size is above risk.max_position_size")
        if self.session.timezone != "America/New_York":
            raise ValueError(
                "session.timezone must be America/New_York: the exchange keeps New York hours; "
                "remove the key, screens show your local time beside it"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """A hash of every value, however it was written: which configuration a day was traded under."""
        text = json.dumps(self.model_dump(), default=_canonical, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: object) -> str:
    """2000, 2000.00 and 2E+3 are one amount."""
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)


class Environment(BaseSettings):
    """The seeds' variable names. Only secrets and overrides; nothing here has a default that trades."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8",
        env_ignore_empty=True,  # ALPACA_API_KEY= is no key
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = None
    alpaca_api_key: SecretStr | None = None
    alpaca_secret_key: SecretStr | None = None
    alpaca_base_url: str | None = None
    alpaca_paper: bool | None = None
    trading_mode: Mode | None = None
    enable_paper_trading: bool | None = None
    enable_live_trading: bool = False
    max_daily_loss: Decimal | None = None
    max_position_size: Decimal | None = None
    max_positions: int | None = None
    trading_session_mode: SessionMode | None = None
    workflow_auto_execute: bool | None = None
    workflow_scan_frequency_minutes: int | None = None
    workflow_execute_top_n: int | None = None
    enable_email_alerts: bool | None = None
    enable_news_sentiment: bool | None = None
    enable_pattern_detection: bool | None = None
    enable_autonomous_trading: bool | None = None
    smtp_host: str | None = None
    smtp_port: int = 587
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_from: str | None = None
    smtp_tls: bool = True
    alert_email_critical: str | None = None
    alert_email_warning: str | None = None
    alert_email_info: str | None = None
    news_api_key: SecretStr | None = None
    benzinga_api_key: SecretStr | None = None
    notify_socket: str | None = None  # these two are the service manager's
    watchdog_usec: int | None = None
    log_level: str | None = None
    log_format: str | None = None
    risk_hot_reload: bool = True
    trading_hot_reload: bool = True
    redis_host: str | None = None
    redis_port: str | None = None
    redis_db: str | None = None
    redis_password: SecretStr | None = None
    redis_url: SecretStr | None = None
    catalyst_clock: Path | None = None  # a shared scaled clock: the demo's and the tests' seam
    # Market seconds a second: when it runs free, and while an effect is in flight.
    catalyst_clock_speed: float | None = Field(None, gt=0, le=100_000)
    catalyst_clock_held_speed: float | None = Field(None, gt=0, le=100_000)
    xdg_data_home: Path | None = None


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
LIMITS: Final = frozenset({"max_daily_loss", "max_position_size", "max_positions"})

_LONGEST: Final = 65_536  # bytes of a configuration file
SLOWEST_LIVE_LOOK: Final = 120  # seconds between two reconciliations where money is
_SHOWN: Final = 40  # characters of a wrong value that are repeated to the operator

ALPACA_PAPER: Final = "https://paper-api.alpaca.markets"
ALPACA_LIVE: Final = "https://api.alpaca.markets"
ALPACA_DATA: Final = "https://data.alpaca.markets"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the process was told: the tree, the secrets, and what the operator should know of both."""

    config: Config
    env: Environment = field(repr=False)
    mode: Mode
    session_mode: SessionMode
    notices: tuple[str, ...] = ()
    source: Path | None = None
    env_file: Path | None = None

    @property
    def trading_url(self) -> str:
        match self.mode:
            case Mode.SIM:
                return self.config.broker.simulator
            case Mode.PAPER:
                return ALPACA_PAPER
            case Mode.LIVE:
                return ALPACA_LIVE

    @property
    def data_dir(self) -> Path:
        """Where the embedded database lies, when there is no DATABASE_URL."""
        share = self.env.xdg_data_home or Path.home() / ".local" / "share"
        return self.config.database.data_dir or share / "catalyst" / "pg"

    @property
    def spool_dir(self) -> Path:
        """Where what is done without the database is kept until the database has heard of it."""
        return self.config.database.spool or self.data_dir.parent / "spool"

    def account_name(self, account_id: str) -> str:
        """What names an account among all there may be on this machine: every simulator has one of the same id."""
        return (
            account_id if self.mode is not Mode.SIM else f"{account_id}@{urlsplit(self.trading_url).netloc}"
        )

    @property
    def proofs_dir(self) -> Path:
        """Where each proof of being flat lies as a file."""
        return self.config.database.proofs or self.data_dir.parent / "proofs"

    @property
    def data_url(self) -> str:
        return self.config.broker.simulator if self.mode is Mode.SIM else ALPACA_DATA

    @property
    def stream_url(self) -> str:
        return self.trading_url.replace("http", "ws", 1).rstrip("/") + "/stream"

    @property
    def keys(self) -> tuple[str, str]:
        """(key, secret); the simulator's own when none are set."""
        key, secret = self.env.alpaca_api_key, self.env.alpaca_secret_key
        if key is None or secret is None or self.mode is Mode.SIM:
            return "demo", "demo"
        return key.get_secret_value(), secret.get_secret_value()


Signature = tuple[int, int, int]


def signature(path: Path | None) -> Signature | None:
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
        raise ConfigInvalid(_environment_complaint(error)) from None
    except (OSError, UnicodeDecodeError):
        raise ConfigInvalid(f"{env_file} cannot be read as text") from None
    notices = _apply_environment(tree, env)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigInvalid(_complaint(error, path)) from None
    if config.session.market_open is not None or config.session.market_close is not None:
        notices.append("session.market_open/close are retired: the exchange calendar decides; remove them")
    mode = _decide_mode(config, env)
    session_mode, why = _decide_session_mode(config)
    return Settings(config, env, mode, session_mode, (*notices, *why), path, env_file)


def environment_without_ours(**changes: str) -> dict[str, str]:
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
            raw = file.read(_LONGEST + 1)
    except FileNotFoundError:
        raise ConfigInvalid(f"{path} does not exist: name another with --config, or leave it out") from None
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > _LONGEST:
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
        if variable in LIMITS and name in before and not _same_amount(before[name], value):
            notices.append(
                f"CONFIG_WARNING {variable.upper()}={value} in the environment overrides {key}={before[name]}"
            )
        if variable == "trading_mode":
            continue  # it never selects a mode by itself; see _decide_mode
        before[name] = value.upper() if variable == "log_level" else value
    if any(getattr(env, name) for name in Environment.model_fields if name.startswith("redis_")):
        notices.append("REDIS_* is ignored: the daemon is one process and needs no cache server")
    return notices


def _same_amount(said: object, value: object) -> bool:
    try:
        return Decimal(str(said)) == Decimal(str(value))
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
    if config.reconcile.every_seconds > SLOWEST_LIVE_LOOK:
        raise ConfigInvalid(
            f"reconcile.every_seconds is {config.reconcile.every_seconds:g}: live, tables and broker are compared at "
            f"least every {SLOWEST_LIVE_LOOK} seconds"
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


def _complaint(error: ValidationError, path: Path | None) -> str:
    """Every fault on a line of its own, in the file's words."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, _known_keys(Config), n=1, cutoff=0.4)
            lines.append(f"unknown key {key}" + (f": did you mean {near[0]}?" if near else ""))
        else:
            said = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {said}{_got(fault['input'])}" if key else said)
    return f"{path or 'the configuration'}: " + "; ".join(lines)


def _got(value: object) -> str:
    """The value, when it is short and no section: a DSN in the wrong place keeps its password."""
    shown = repr(value) if isinstance(value, (str, int, float, Decimal)) else ""
    return f" (got {shown})" if 0 < len(shown) <= _SHOWN and "://" not in shown else ""


def _environment_complaint(error: ValidationError) -> str:
    """Names only: a value may be a secret."""
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in faults)
