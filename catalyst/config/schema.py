"""Schema of config.yaml: one frozen model per section."""

import hashlib
import json
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from catalyst.config.listing_names import broker_symbol, exchange_name, sector_name
from catalyst.config.scalars import is_number_type, require_plain_number

Dollars = Annotated[Decimal, Field(ge=0, le=Decimal(10_000_000))]
Percent = Annotated[float, Field(gt=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Symbol = Annotated[str, AfterValidator(broker_symbol)]
Exchange = Annotated[str, AfterValidator(exchange_name)]
Sector = Annotated[str, AfterValidator(sector_name)]

WEIGHT_TOLERANCE: Final = 1e-9


class Section(BaseModel):
    """Base of all sections: frozen; unknown keys, NaN and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def check_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        return require_plain_number(value) if is_number_type(field.annotation) else value


class Mode(StrEnum):
    SIM = "sim"
    PAPER = "paper"
    LIVE = "live"


class SessionMode(StrEnum):
    SUPERVISED = "supervised"
    AUTONOMOUS = "autonomous"


class TradingConfig(Section):
    mode: Mode | None = None  # None: paper with Alpaca's keys, else sim
    allow_short: bool = False
    manage_account_locks: bool = True
    account_number: str | None = None  # live only: must equal the account of the keys


class BrokerConfig(Section):
    """Address of the simulated exchange, data feed and rate limits. Paper and live use Alpaca's own hosts."""

    simulator: str = "http://127.0.0.1:8765"
    feed: Literal["iex", "sip", "delayed_sip"] = "iex"
    requests_per_minute: int = Field(200, ge=20, le=10_000)
    data_requests_per_minute: int = Field(200, ge=20, le=10_000)
    reserved_for_exits: int = Field(60, ge=0, le=150)


class DatabaseConfig(Section):
    data_dir: Path | None = None  # data folder of the embedded server, used without DATABASE_URL
    spool: Path | None = None  # folder of the actions during a database outage
    proofs: Path | None = None  # folder of the flat proofs
    keep_scan_frames_days: int = Field(180, ge=7, le=3650)
    backups: Path | None = None  # folder of the backups
    keep_backup_days: int = Field(7, ge=1, le=3650)
    backup_recipient: str | None = Field(None, min_length=1)  # a key of age or gpg
    warn_backup_age_hours: int = Field(26, ge=0, le=8760)


class SessionConfig(Section):
    mode: SessionMode = SessionMode.SUPERVISED
    timezone: str = "America/New_York"
    flat_before_close_minutes: int = Field(10, ge=2, le=120)
    no_entries_before_close_minutes: int = Field(45, ge=5, le=240)
    proposal_expires_minutes: int = Field(5, ge=1, le=60)
    market_open: str | int | None = None  # ignored with a notice
    market_close: str | int | None = None

    @field_validator("timezone")
    @classmethod
    def check_timezone(cls, timezone: str) -> str:
        if timezone not in ("America/New_York", "US/Eastern"):
            raise ValueError(
                "it must be America/New_York: the exchange keeps New York hours; remove the key; "
                "screens also show your local time"
            )
        return "America/New_York"  # US/Eastern is its old name


class WorkflowConfig(Section):
    auto_execute: bool = False
    execute_top_n: int = Field(3, ge=1, le=20)
    scan_frequency_minutes: int = Field(30, ge=0, le=240)


class FeaturesConfig(Section):
    news_sentiment: bool = True
    pattern_detection: bool = True
    autonomous_trading: bool = False
    email_alerts: bool = False


class UniverseConfig(Section):
    """The symbols that may be traded."""

    listings_file: Path | None = None  # CSV: symbol, name, sector
    exchanges: tuple[Exchange, ...] = ("NYSE", "NASDAQ", "ARCA", "AMEX")
    allow: tuple[Symbol, ...] = ()  # when not empty, only these
    deny: tuple[Symbol, ...] = ()  # never these


class ScanConfig(Section):
    """Limits of the scan stage: price, volume, data age and spread; and the weights of its score."""

    max_candidates: int = Field(200, ge=1, le=200)
    min_price: float = Field(1.0, gt=0)
    max_price: float = Field(500.0, gt=0)
    min_dollar_volume: float = Field(5_000_000.0, ge=0)  # 20-day average, dollars a day
    min_relative_volume: float = Field(1.0, ge=0)  # volume so far over the usual volume by this minute
    max_spread_bps: float = Field(50.0, gt=0)  # wider than risk's limit: a spread may narrow before the entry
    max_trade_age_seconds: float = Field(420, gt=0)
    max_quote_age_seconds: float = Field(420, gt=0)
    max_quote_distance_pct: float = Field(5.0, gt=0)  # between the last trade and the middle of the quote
    min_history_days: int = Field(5, ge=1, le=20)  # daily bars needed for the usual volume
    weight_volume: Fraction = 0.35
    weight_momentum: Fraction = 0.35
    weight_gap: Fraction = 0.20
    weight_liquidity: Fraction = 0.10


class NewsConfig(Section):
    """Which headlines are read, how they lose weight with age, and the veto of the news stage."""

    max_symbols: int = Field(100, ge=1, le=200)
    max_candidates: int = Field(35, ge=1, le=200)
    lookback_hours: float = Field(24.0, gt=0, le=168)
    half_life_hours: float = Field(6.0, gt=0, le=168)  # age at which a headline has half its weight
    veto_score: Fraction = 0.25  # at or below this news score a stock is refused in long-only trading


class PatternConfig(Section):
    """Limits of the pattern stage. Times are minutes, so that they apply to 1- and 5-minute bars alike."""

    max_candidates: int = Field(20, ge=1, le=200)
    min_confidence: float = Field(0.4, ge=0, le=1)
    max_trigger_age_minutes: float = Field(30, ge=5, le=120)  # oldest crossing of the trigger
    max_bar_age_minutes: float = Field(15, ge=1, le=60)  # oldest end of the last bar
    opening_range_minutes: float = Field(15, ge=5, le=60)
    pivot_minutes: float = Field(10, ge=1, le=60)  # a pivot is the extreme of this time on both sides
    max_extension: Fraction = 0.4  # the part of the way from trigger to target already moved


class TechnicalConfig(Section):
    """Limits of the technical stage: votes, agreement, timeframe weights, and when a move is exhausted."""

    max_candidates: int = Field(10, ge=1, le=200)
    min_votes: int = Field(6, ge=1, le=20)  # indicators with enough bars to vote
    min_agreement: Fraction = 0.5
    # Weights of the timeframes that have a vote, scaled to sum to 1.
    weight_intraday: float = Field(0.5, ge=0)
    weight_quarter_hour: float = Field(0.2, ge=0)
    weight_daily: float = Field(0.3, ge=0)
    max_rsi: float = Field(88.0, gt=50, le=100)  # shorts: 100 minus it
    max_move_atr: float = Field(1.5, gt=0)  # open to now, in daily ATRs
    max_vwap_distance_atr: float = Field(1.0, gt=0)  # VWAP to now, in daily ATRs


class PipelineConfig(Section):
    """Settings that several stages share."""

    require_pattern: bool = True
    bar_minutes: Literal[1, 5] = 1  # length of the intraday bars that the stages read


class ScoringConfig(Section):
    """Weights of the composite score: the sum of weight times component, each component in [0, 1]."""

    news: Fraction = 0.30
    technical: Fraction = 0.30
    momentum: Fraction = 0.20
    volume: Fraction = 0.20
    min_composite: Fraction = 0.5

    @model_validator(mode="after")
    def check_weights(self) -> "ScoringConfig":
        if abs(self.news + self.technical + self.momentum + self.volume - 1) > WEIGHT_TOLERANCE:
            raise ValueError("scoring.news + technical + momentum + volume must sum to 1")
        return self


class RiskConfig(Section):
    max_candidates: int = Field(5, ge=1, le=50)  # most approved candidates of a scan
    max_daily_loss: Annotated[Dollars, Field(gt=0)] = Decimal(
        "2000.00"
    )  # a day without a loss limit is not allowed
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
    min_stop_atr: float = Field(1.0, ge=0, le=10)  # bar ATRs; a closer stop is moved out to this distance
    max_stop_pct: float = Field(5.0, gt=0, le=20)  # a chart's stop farther away is not used


class PositionsConfig(Section):
    default_stop_loss_pct: float = Field(2.0, gt=0, le=20)
    default_take_profit_pct: float = Field(6.0, gt=0, le=100)
    max_hold_time_minutes: int = Field(180, ge=5, le=390)
    close_all_at_market_close: bool = True


class DailyLimitsConfig(Section):
    emergency_stop_at_100: bool = True


class SectorLimitsConfig(Section):
    sectors_to_limit: tuple[Sector, ...] = ()  # empty: every sector


class CorrelationConfig(Section):
    check_enabled: bool = True


class EmergencyConfig(Section):
    close_all_positions_on_limit: bool = True
    halt_new_trades: bool = True
    send_email_alert: bool = True
    cooldown_period_minutes: int = Field(60, ge=0, le=1440)


class PlanConfig(Section):
    entry_type: Literal["limit", "market"] = "limit"
    collar_bps: float = Field(15.0, ge=0, le=200)  # the entry limit's distance beyond the opposite quote


class ExecutionConfig(Section):
    partial_entry_grace_seconds: float = Field(5, ge=1, le=60)
    entry_timeout_seconds: float = Field(120, ge=5, le=1800)  # after it an unfilled entry is cancelled
    signal_max_age_seconds: float = Field(60, ge=5, le=600)
    order_poll_seconds: float = Field(10, ge=1, le=60)
    position_poll_seconds: float = Field(30, ge=1, le=120)


class ReconcileConfig(Section):
    every_seconds: float = Field(60, ge=5, le=600)  # live: at most MAX_LIVE_RECONCILE_SECONDS
    orphans: Literal["alert", "protect", "close"] = "protect"  # action for orphan shares of our symbols


class ProtectionConfig(Section):
    unprotected_budget_seconds: float = Field(
        15, ge=1, le=600
    )  # unprotected time before an alert, per position


class StopMonitorConfig(Section):
    every_seconds: float = Field(30, ge=1, le=60)
    unprotected_every_seconds: float = Field(1, ge=0.5, le=10)
    grace_seconds: float = Field(3, ge=0.5, le=60)
    stale_after_seconds: float = Field(300, ge=5, le=3600)


class ShutdownConfig(Section):
    on_sigterm: Literal["flatten", "keep"] = "flatten"
    on_sigint: Literal["ask", "flatten", "keep"] = "ask"  # ask: only on a terminal, elsewhere as SIGTERM
    # After a SIGTERM that sold something, entries open again in the next session, or only after `resume`.
    latch_after_flatten: Literal["session", "until_resume"] = "session"
    flatten_timeout_seconds: float = Field(60, ge=5, le=85)


class LiveConfig(Section):
    """The first sessions with real money."""

    size_factor: float = Field(0.5, gt=0, le=1)
    first_sessions: int = Field(5, ge=0, le=60)


class LogConfig(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "console"] = "auto"


class MonitoringConfig(Section):
    """The address of /health and /metrics, on this machine only."""

    port: int | None = Field(None, ge=1024, le=65535)  # None: they are not served


class Config(Section):
    """The whole configuration, with one field per section of config.yaml."""

    trading: TradingConfig = TradingConfig()
    broker: BrokerConfig = BrokerConfig()
    database: DatabaseConfig = DatabaseConfig()
    session: SessionConfig = SessionConfig()
    workflow: WorkflowConfig = WorkflowConfig()
    features: FeaturesConfig = FeaturesConfig()
    universe: UniverseConfig = UniverseConfig()
    scan: ScanConfig = ScanConfig()
    news: NewsConfig = NewsConfig()
    pipeline: PipelineConfig = PipelineConfig()
    pattern: PatternConfig = PatternConfig()
    technical: TechnicalConfig = TechnicalConfig()
    scoring: ScoringConfig = ScoringConfig()
    risk: RiskConfig = RiskConfig()
    daily_limits: DailyLimitsConfig = DailyLimitsConfig()
    sector_limits: SectorLimitsConfig = SectorLimitsConfig()
    correlation: CorrelationConfig = CorrelationConfig()
    positions: PositionsConfig = PositionsConfig()
    emergency: EmergencyConfig = EmergencyConfig()
    plan: PlanConfig = PlanConfig()
    execution: ExecutionConfig = ExecutionConfig()
    stop_monitor: StopMonitorConfig = StopMonitorConfig()
    reconcile: ReconcileConfig = ReconcileConfig()
    protection: ProtectionConfig = ProtectionConfig()
    shutdown: ShutdownConfig = ShutdownConfig()
    live: LiveConfig = LiveConfig()
    log: LogConfig = LogConfig()
    monitoring: MonitoringConfig = MonitoringConfig()

    @model_validator(mode="after")
    def check_limits(self) -> "Config":
        broken_rules = "; ".join(_broken_rules(self))
        if broken_rules:
            raise ValueError(broken_rules)
        return self

    @property
    def fingerprint(self) -> str:
        """A hash of all values, independent of their notation; stored with each day to identify its configuration."""
        text = json.dumps(self.model_dump(), default=_canonical, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _broken_rules(config: Config) -> Iterator[str]:
    """Yield a sentence for each rule across keys that the configuration breaks."""
    scan, risk, session, positions = config.scan, config.risk, config.session, config.positions
    if scan.min_price >= scan.max_price:
        yield "scan.min_price is not below scan.max_price"
    weights = scan.weight_volume + scan.weight_momentum + scan.weight_gap + scan.weight_liquidity
    if abs(weights - 1) > WEIGHT_TOLERANCE:
        yield f"scan.weight_volume + weight_momentum + weight_gap + weight_liquidity must sum to 1, not {weights:g}"
    technical = config.technical
    if technical.weight_intraday + technical.weight_quarter_hour + technical.weight_daily == 0:
        yield "technical.weight_intraday, weight_quarter_hour and weight_daily are all 0: give one of them a weight"
    if risk.min_position_size > risk.max_position_size:
        yield "risk.min_position_size is above risk.max_position_size"
    last_entry, exits = session.no_entries_before_close_minutes, session.flat_before_close_minutes
    if last_entry < exits:
        yield (
            f"session.no_entries_before_close_minutes {last_entry} is below session.flat_before_close_minutes {exits}: "
            "entries would be made after the day's exits"
        )
    stop, target, ratio = (
        positions.default_stop_loss_pct,
        positions.default_take_profit_pct,
        risk.min_reward_risk,
    )
    if target < ratio * stop:
        yield (
            f"positions.default_take_profit_pct {target:g} is below risk.min_reward_risk {ratio:g} times "
            f"positions.default_stop_loss_pct {stop:g}: every plan with these levels would be refused"
        )
    if config.broker.reserved_for_exits >= config.broker.requests_per_minute:
        yield "broker.reserved_for_exits leaves nothing of broker.requests_per_minute for entries"


def _canonical(value: object) -> str:
    """Return one text for equal amounts such as 2000, 2000.00 and 2E+3."""
    return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)
