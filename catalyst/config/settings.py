"""Settings of the process: config.yaml and the environment together, read once, validated, frozen.

The environment overrides the file. Secrets come only from the environment (or an env file) and never appear in a repr.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from catalyst.config.scalars import is_number_type, require_plain_number
from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.secret_values import ApiKey, DatabaseUrl, Password


class Environment(BaseSettings):
    """Environment variables: secrets and overrides. No default here allows trading."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8",
        env_ignore_empty=True,  # an empty ALPACA_API_KEY= counts as unset
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: DatabaseUrl | None = None
    alpaca_api_key: ApiKey | None = None
    alpaca_secret_key: ApiKey | None = None
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
    smtp_password: Password | None = None
    smtp_from: str | None = None
    smtp_tls: bool = True
    alert_email_critical: str | None = None
    alert_email_warning: str | None = None
    alert_email_info: str | None = None
    alert_url_critical: SecretStr | None = None  # Apprise URLs, separated by commas
    alert_url_warning: SecretStr | None = None
    alert_url_info: SecretStr | None = None
    news_api_key: ApiKey | None = None
    benzinga_api_key: ApiKey | None = None
    notify_socket: str | None = None  # set by systemd, like watchdog_usec
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
    catalyst_clock: Path | None = None  # file of a shared scaled clock, for the demo and tests
    # Market seconds per real second: normally, and while an effect is in flight.
    catalyst_clock_speed: float | None = Field(None, gt=0, le=100_000)
    catalyst_clock_held_speed: float | None = Field(None, gt=0, le=100_000)
    xdg_data_home: Path | None = None

    @field_validator("*", mode="before")
    @classmethod
    def check_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        return require_plain_number(value) if is_number_type(field.annotation) else value


SECRET_NAMES: Final = frozenset(
    name for name, info in Environment.model_fields.items() if "SecretStr" in str(info.annotation)
)
ALPACA_PAPER: Final = "https://paper-api.alpaca.markets"
ALPACA_LIVE: Final = "https://api.alpaca.markets"
ALPACA_DATA: Final = "https://data.alpaca.markets"


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration, the secrets, the decided modes, and notices for the operator."""

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
        """The folder of the embedded database, used without DATABASE_URL."""
        share = self.env.xdg_data_home or Path.home() / ".local" / "share"
        return self.config.database.data_dir or share / "catalyst" / "pg"

    @property
    def spool_dir(self) -> Path:
        """The folder of the spool, which holds the actions of a database outage until they are imported."""
        return self.config.database.spool or self.data_dir.parent / "spool"

    def account_name(self, account_id: str) -> str:
        """Return a name that is unique on this machine; simulators share one account id, so it gets their address."""
        return (
            account_id if self.mode is not Mode.SIM else f"{account_id}@{urlsplit(self.trading_url).netloc}"
        )

    @property
    def proofs_dir(self) -> Path:
        """The folder of the flat proofs, one file each."""
        return self.config.database.proofs or self.data_dir.parent / "proofs"

    @property
    def backups_dir(self) -> Path:
        """The folder of the backups of the database."""
        return self.config.database.backups or self.data_dir.parent / "backups"

    @property
    def data_url(self) -> str:
        return self.config.broker.simulator if self.mode is Mode.SIM else ALPACA_DATA

    @property
    def stream_url(self) -> str:
        return self.trading_url.replace("http", "ws", 1).rstrip("/") + "/stream"

    @property
    def keys(self) -> tuple[str, str]:
        """The API key and secret; the simulator's own in sim mode or when none are set."""
        key, secret = self.env.alpaca_api_key, self.env.alpaca_secret_key
        if key is None or secret is None or self.mode is Mode.SIM:
            return "demo", "demo"
        return key.get_secret_value(), secret.get_secret_value()
