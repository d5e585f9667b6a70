"""Schema of config.yaml: one frozen model per section."""

import hashlib
import json
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dollars = Annotated[Decimal, Field(ge=0, le=Decimal(10_000_000))]
Percent = Annotated[float, Field(gt=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]


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


class TradingConfig(Section):
    mode: Mode | None = None  # None: sim without keys, paper with them
    allow_short: bool = False
    manage_account_locks: bool = True
    account_number: str | None = None  # live: must equal the broker's


class BrokerConfig(Section):
    """Where the broker is. None: Alpaca's own hosts for paper and live, `simulator` for sim."""

    simulator: str = "http://127.0.0.1:8765"
    feed: Literal["iex", "sip", "delayed_sip"] = "iex"
    requests_per_minute: int = Field(200, ge=20, le=10_000)
    data_requests_per_minute: int = Field(200, ge=20, le=10_000)
    reserved_for_exits: int = Field(60, ge=0, le=150)


class DatabaseConfig(Section):
    data_dir: Path | None = None  # the embedded server's, when DATABASE_URL is not set
    spool: Path | None = None  # the folder of what is done while the database is away
    proofs: Path | None = None  # the folder of the proofs of being flat


class SessionConfig(Section):
    mode: SessionMode = SessionMode.SUPERVISED
    timezone: str = "America/New_York"
    flat_before_close_minutes: int = Field(10, ge=2, le=120)
    no_entries_before_close_minutes: int = Field(45, ge=5, le=240)
    proposal_expires_minutes: int = Field(5, ge=1, le=60)
    market_open: str | int | None = None  # retired, and YAML reads 16:00 as 960
    market_close: str | int | None = None


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
    """Which symbols may be traded at all."""

    listings_file: Path | None = None  # CSV: symbol, name, sector
    exchanges: tuple[str, ...] = ("NYSE", "NASDAQ", "ARCA", "AMEX")
    allow: tuple[str, ...] = ()  # when not empty, only these
    deny: tuple[str, ...] = ()  # never these


class ScanConfig(Section):
    """What makes a stock worth a second look, and which market data are too poor to judge it by."""

    max_candidates: int = Field(200, ge=1, le=200)
    min_price: float = Field(1.0, gt=0)
    max_price: float = Field(500.0, gt=0)
    min_dollar_volume: float = Field(5_000_000.0, ge=0)  # 20-day average, dollars a day
    min_relative_volume: float = Field(1.0, ge=0)  # volume so far over what is usual by this minute
    max_spread_bps: float = Field(50.0, gt=0)  # looser than risk's: a spread may tighten until the order goes
    max_trade_age_seconds: float = Field(420, gt=0)
    max_quote_age_seconds: float = Field(420, gt=0)
    max_quote_distance_pct: float = Field(5.0, gt=0)  # of the last trade from the middle of the quote
    min_history_days: int = Field(5, ge=1, le=20)  # daily bars before "usual" means anything
    weight_volume: Fraction = 0.35
    weight_momentum: Fraction = 0.35
    weight_gap: Fraction = 0.20
    weight_liquidity: Fraction = 0.10


class NewsConfig(Section):
    """How headlines weigh."""

    max_symbols: int = Field(100, ge=1, le=200)
    max_candidates: int = Field(35, ge=1, le=200)
    lookback_hours: float = Field(24.0, gt=0, le=168)
    half_life_hours: float = Field(6.0, gt=0, le=168)  # a headline this old weighs half
    veto_score: Fraction = 0.25  # a news score this low refuses a stock that may only be bought


class PatternConfig(Section):
    """Chart patterns. Times are minutes, so that 1- and 5-minute bars mean the same."""

    max_candidates: int = Field(20, ge=1, le=200)
    min_confidence: float = Field(0.4, ge=0, le=1)
    max_trigger_age_minutes: float = Field(30, ge=5, le=120)  # the trigger was crossed this recently
    max_bar_age_minutes: float = Field(15, ge=1, le=60)  # the last bar ended this recently
    opening_range_minutes: float = Field(15, ge=5, le=60)
    pivot_minutes: float = Field(10, ge=1, le=60)  # a pivot is the extreme this far to both sides
    max_extension: Fraction = 0.4  # of the way from trigger to target already gone


class TechnicalConfig(Section):
    """What the indicators must agree on, and when a move counts as spent."""

    max_candidates: int = Field(10, ge=1, le=200)
    min_votes: int = Field(6, ge=1, le=20)  # votes that must be warm
    min_agreement: Fraction = 0.5
    # Weights of the timeframes that have a vote, scaled to sum to 1.
    weight_intraday: float = Field(0.5, ge=0)
    weight_quarter_hour: float = Field(0.2, ge=0)
    weight_daily: float = Field(0.3, ge=0)
    max_rsi: float = Field(88.0, gt=50, le=100)  # shorts: 100 minus it
    max_move_atr: float = Field(1.5, gt=0)  # open to now, in daily ATRs
    max_vwap_distance_atr: float = Field(1.0, gt=0)  # VWAP to now, in daily ATRs


class PipelineConfig(Section):
    require_pattern: bool = True
    bar_minutes: Literal[1, 5] = 1  # the intraday bars the stages read


class ScoringConfig(Section):
    """composite = sum of weight times component, each component in [0, 1]."""

    news: Fraction = 0.30
    technical: Fraction = 0.30
    momentum: Fraction = 0.20
    volume: Fraction = 0.20
    min_composite: Fraction = 0.5

    @model_validator(mode="after")
    def check_weights(self) -> "ScoringConfig":
        if abs(self.news + self.technical + self.momentum + self.volume - 1) > 1e-9:
            raise ValueError("scoring.news + technical + momentum + volume must sum to 1")
        return self


class RiskConfig(Section):
    max_candidates: int = Field(5, ge=1, le=50)  # approved candidates a scan may leave
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


class DailyLimitsConfig(Section):
    emergency_stop_at_100: bool = True


class SectorLimitsConfig(Section):
    sectors_to_limit: tuple[str, ...] = ()


class CorrelationConfig(Section):
    check_enabled: bool = True


class EmergencyConfig(Section):
    close_all_positions_on_limit: bool = True
    halt_new_trades: bool = True
    send_email_alert: bool = True
    cooldown_period_minutes: int = Field(60, ge=0, le=1440)


class PlanConfig(Section):
    entry_type: Literal["limit", "market"] = "limit"
    collar_bps: float = Field(15.0, ge=0, le=200)  # how far past the far side of the quote we follow


class ExecutionConfig(Section):
    partial_entry_grace_seconds: float = Field(5, ge=1, le=60)
    entry_timeout_seconds: float = Field(120, ge=5, le=1800)  # an entry that has not filled is cancelled
    signal_max_age_seconds: float = Field(60, ge=5, le=600)
    order_poll_seconds: float = Field(10, ge=1, le=60)
    position_poll_seconds: float = Field(30, ge=1, le=120)


class ReconcileConfig(Section):
    every_seconds: float = Field(60, ge=5, le=600)  # live: at most SLOWEST_LIVE_LOOK
    orphans: Literal["alert", "protect", "close"] = "protect"  # shares of our symbols that no row explains


class ProtectionConfig(Section):
    unprotected_budget_seconds: float = Field(15, ge=1, le=600)  # without a stop at the broker, per position


class StopMonitorConfig(Section):
    every_seconds: float = Field(30, ge=1, le=60)
    unprotected_every_seconds: float = Field(1, ge=0.5, le=10)
    grace_seconds: float = Field(3, ge=0.5, le=60)
    stale_after_seconds: float = Field(300, ge=5, le=3600)


class ShutdownConfig(Section):
    on_sigterm: Literal["flatten", "keep"] = "flatten"
    flatten_timeout_seconds: float = Field(60, ge=5, le=85)


class LogConfig(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "console"] = "auto"


class Config(Section):
    """The whole tree, as config.yaml writes it."""

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
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def check_limits(self) -> "Config":
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
