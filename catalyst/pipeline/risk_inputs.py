"""Inputs of the risk check: the portfolio, the account state and the configured limits."""

from dataclasses import dataclass, field
from decimal import Decimal

from catalyst.config.schema import Config
from catalyst.domain.order import PositionSide


@dataclass(frozen=True, slots=True)
class HeldPosition:
    """An open position. `mark_price` is its last price; None uses the entry price."""

    symbol: str
    side: PositionSide
    quantity: Decimal
    entry: Decimal
    stop: Decimal | None = None
    sector: str = "unknown"
    mark_price: Decimal | None = None

    @property
    def value(self) -> Decimal:
        """Market value in dollars at the mark price, positive for both sides."""
        return self.quantity * (self.entry if self.mark_price is None else self.mark_price)


@dataclass(frozen=True, slots=True)
class WorkingEntry:
    """The unfilled shares of a working entry order. `in_buying_power`: the broker has already deducted them from the
    account's buying power."""

    symbol: str
    side: PositionSide
    quantity: Decimal
    limit: Decimal
    sector: str = "unknown"
    in_buying_power: bool = False

    @property
    def value(self) -> Decimal:
        return self.quantity * self.limit


@dataclass(frozen=True, slots=True)
class Portfolio:
    """Open positions and working entries."""

    positions: tuple[HeldPosition, ...] = ()
    working: tuple[WorkingEntry, ...] = ()

    @property
    def exposures(self) -> tuple[HeldPosition | WorkingEntry, ...]:
        """Working entries, then open positions."""
        return (*self.working, *self.positions)

    def slots_used(self) -> int:
        """Count positions and working entries; a symbol with both counts once."""
        return len({exposure.symbol for exposure in self.exposures})

    def sector_value(self, sector: str) -> Decimal:
        """Return the dollars of positions and working entries in a sector."""
        return sum((exposure.value for exposure in self.exposures if exposure.sector == sector), Decimal(0))

    def side_by_symbol(self) -> dict[str, PositionSide]:
        """Return the side of each symbol with a position or a working entry."""
        return {exposure.symbol: exposure.side for exposure in self.exposures}


@dataclass(frozen=True, slots=True)
class AccountState:
    """The account, in dollars. `day_pnl` is what our positions made since the start of the day, realised and
    unrealised; `restriction` is the reason why no position may be opened now, or None; `size_factor` scales size and
    risk of a trade in the first live sessions."""

    equity: Decimal
    start_of_day_equity: Decimal
    buying_power: Decimal
    day_pnl: Decimal = Decimal(0)
    shorting_enabled: bool = True
    restriction: str | None = None
    size_factor: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of config.yaml in the units of the checks; the defaults equal those of config.yaml."""

    max_daily_loss: Decimal = Decimal(2000)
    max_positions: int = 5
    max_position_size: Decimal = Decimal(5000)
    min_position_size: Decimal = Decimal(100)
    risk_per_trade_pct: Decimal = Decimal("0.5")
    max_sector_exposure_pct: Decimal = Decimal(40)
    max_correlation: float = 0.7
    max_participation_pct: Decimal = Decimal(1)
    max_spread_bps: Decimal = Decimal(30)
    min_reward_risk: Decimal = Decimal(2)
    default_stop_pct: Decimal = Decimal(2)
    default_target_pct: Decimal = Decimal(6)
    min_stop_atr: float = 1.0
    max_stop_pct: Decimal = Decimal(5)
    sectors_to_limit: frozenset[str] = field(default_factory=frozenset)
    check_correlation: bool = True
    allow_short: bool = False
    no_entry_minutes: int = 45  # no entry in the last minutes before the close
    market_entry: bool = False
    collar_bps: Decimal = Decimal(15)
    size_factor: Decimal = Decimal(1)  # scales size and risk per trade (first live sessions)
    max_candidates: int = 5

    @property
    def max_deployed(self) -> Decimal:
        """The most dollars that can be invested at once."""
        return self.max_positions * self.max_position_size


def limits_of(config: Config, *, size_factor: Decimal = Decimal(1)) -> Limits:
    """Return the limits of a configuration."""
    risk, positions, session = config.risk, config.positions, config.session
    return Limits(
        max_daily_loss=risk.max_daily_loss,
        max_positions=risk.max_positions,
        max_position_size=risk.max_position_size,
        min_position_size=risk.min_position_size,
        risk_per_trade_pct=Decimal(f"{risk.risk_per_trade_pct:g}"),
        max_sector_exposure_pct=Decimal(f"{risk.max_sector_exposure_pct:g}"),
        max_correlation=risk.max_correlation,
        max_participation_pct=Decimal(f"{risk.max_participation_pct:g}"),
        max_spread_bps=Decimal(f"{risk.max_spread_bps:g}"),
        min_reward_risk=Decimal(str(risk.min_reward_risk)),
        default_stop_pct=Decimal(f"{positions.default_stop_loss_pct:g}"),
        default_target_pct=Decimal(f"{positions.default_take_profit_pct:g}"),
        min_stop_atr=risk.min_stop_atr,
        max_stop_pct=Decimal(f"{risk.max_stop_pct:g}"),
        sectors_to_limit=frozenset(config.sector_limits.sectors_to_limit),
        check_correlation=config.correlation.check_enabled,
        allow_short=config.trading.allow_short,
        no_entry_minutes=max(session.no_entries_before_close_minutes, session.flat_before_close_minutes),
        market_entry=config.plan.entry_type == "market",
        collar_bps=Decimal(str(config.plan.collar_bps)),
        size_factor=size_factor,
        max_candidates=risk.max_candidates,
    )
