"""Current config: the configuration in force. Only a reload changes it."""

from catalyst.config.schema import (
    Config,
    DailyLimitsConfig,
    EmergencyConfig,
    ExecutionConfig,
    PositionsConfig,
    ProtectionConfig,
    ReconcileConfig,
    RiskConfig,
    SessionConfig,
    ShutdownConfig,
    StopMonitorConfig,
    TradingConfig,
)


class CurrentConfig:
    """Holds the configuration in force; components hold this object and read each value when they need it.

    Work that must end with the values it began with reads `in_force`, or a section, once into a local.
    """

    def __init__(self, config: Config) -> None:
        self._in_force = config

    @property
    def in_force(self) -> Config:
        """The whole configuration. It is frozen: a reload puts another one in force."""
        return self._in_force

    def put_in_force(self, config: Config) -> None:
        """Replace the configuration: every later read returns its values."""
        self._in_force = config

    @property
    def trading(self) -> TradingConfig:
        return self._in_force.trading

    @property
    def session(self) -> SessionConfig:
        return self._in_force.session

    @property
    def risk(self) -> RiskConfig:
        return self._in_force.risk

    @property
    def daily_limits(self) -> DailyLimitsConfig:
        return self._in_force.daily_limits

    @property
    def positions(self) -> PositionsConfig:
        return self._in_force.positions

    @property
    def emergency(self) -> EmergencyConfig:
        return self._in_force.emergency

    @property
    def execution(self) -> ExecutionConfig:
        return self._in_force.execution

    @property
    def stop_monitor(self) -> StopMonitorConfig:
        return self._in_force.stop_monitor

    @property
    def reconcile(self) -> ReconcileConfig:
        return self._in_force.reconcile

    @property
    def protection(self) -> ProtectionConfig:
        return self._in_force.protection

    @property
    def shutdown(self) -> ShutdownConfig:
        return self._in_force.shutdown
