"""Components of a running daemon; each receives only what it may use."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import Clock
from catalyst.config.schema import Config
from catalyst.config.settings import Settings
from catalyst.daemon.exits.flatten import Flatten
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.entry_expiry import EntryExpiry
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.outage.exits import OutageExit
from catalyst.daemon.outage.protection import OutageProtection
from catalyst.daemon.outage.spool import Spool
from catalyst.daemon.outage.spool_import import SpoolImport
from catalyst.daemon.protection.orphan_positions import OrphanPositions
from catalyst.daemon.protection.position_protector import PositionProtector
from catalyst.daemon.protection.unprotected_time import UnprotectedTime
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.reconciliation.stream_consumer import StreamConsumer
from catalyst.daemon.risk.daily_loss import DailyLossLimit
from catalyst.daemon.risk.price_cache import PriceCache
from catalyst.daemon.risk.stop_monitor import StopMonitor
from catalyst.daemon.runtime.config_reload import replace_config_references
from catalyst.daemon.runtime.database_health import DatabaseHealth
from catalyst.daemon.runtime.startup_survey import StartupSurvey
from catalyst.daemon.runtime.supervisor import Supervisor
from catalyst.daemon.trading_day.scanner import Scanner
from catalyst.daemon.trading_day.trading_day import TradingDay
from catalyst.daemon.trading_state.account_lease import AccountLease, OutagePermit
from catalyst.daemon.trading_state.account_status import AccountStatus
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.daemon.trading_state.safe_mode import SafeMode
from catalyst.daemon.trading_state.shorting_lock import ShortingLock
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.store.pool import Store


@dataclass
class Components:
    """All components of a running daemon."""

    settings: Settings
    clock: Clock
    store: Store
    broker: AlpacaBroker
    market: AlpacaMarketData
    stream: AlpacaTradeUpdates
    gate: EntryGate
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    protector: PositionProtector
    entry_expiry: EntryExpiry
    stop_monitor: StopMonitor
    daily_loss_limit: DailyLossLimit
    reconciler: Reconciler
    orphans: OrphanPositions
    stream_consumer: StreamConsumer
    flatten: Flatten
    outage_exit: OutageExit
    scanner: Scanner
    supervisor: Supervisor
    safe_mode: SafeMode
    shorting_lock: ShortingLock
    startup_survey: StartupSurvey
    epoch: int
    account_id: str = ""
    trading_day: TradingDay | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def apply_config(self, config: Config) -> None:
        """Give every component the new values. A running scan or flatten ends with the old ones."""
        old = self.settings.config
        self.settings = replace(self.settings, config=config)
        replace_config_references(old, config, [self])

    async def emergency_stop(self, reason: str) -> bool | None:
        assert self.trading_day is not None  # the daily loss limit is checked only once a cycle is open
        return await self.trading_day.emergency_stop(reason)


def build_components(
    settings: Settings,
    store: Store,
    clock: Clock,
    gate: EntryGate,
    broker: AlpacaBroker,
    market: AlpacaMarketData,
    news: AlpacaNews,
    stream: AlpacaTradeUpdates,
    epoch: int,
    spool: Spool,
    proofs: FlatProofFiles,
    lease: AccountLease,
) -> Components:
    """Build every component with what it may use."""
    cfg = settings.config
    gate.close("stream", "trade updates are not connected yet")
    books = OrderLedger(store, broker, clock, epoch, cfg=cfg.reconcile)
    execution = OrderSubmission(store, broker, books, gate, clock, cfg.execution, epoch)
    exits = SafeExit(store, broker, books, execution, clock, epoch)
    measure = UnprotectedTime(store, clock, cfg.protection)
    health = DatabaseHealth(gate, clock, measure.unprotected_changed)
    guard = PositionProtector(
        store, books, execution, exits, clock, cfg.execution, cfg.positions, measure, health, epoch
    )
    emergency = OutageExit(
        broker.with_permit(OutagePermit(lease)), execution, books.last_known, spool, proofs, clock
    )
    standing = AccountStatus(store, broker, gate, clock)
    reconciler = Reconciler(
        store, broker, books, execution, gate, standing, clock, cfg.reconcile, cfg.execution
    )
    reconciler.spool_import = SpoolImport(store, broker, books, emergency, clock, epoch)
    components = Components(
        settings=settings,
        clock=clock,
        store=store,
        broker=broker,
        market=market,
        stream=stream,
        gate=gate,
        ledger=books,
        submission=execution,
        exits=exits,
        protector=guard,
        entry_expiry=EntryExpiry(store, books, execution, clock, cfg.execution),
        stop_monitor=StopMonitor(
            store,
            PriceCache(store, market, broker, clock, cfg.stop_monitor, health),
            exits,
            execution,
            books,
            measure,
            OutageProtection(
                emergency,
                clock,
                cfg.execution,
                cfg.positions,
                timedelta(minutes=cfg.session.flat_before_close_minutes),
            ),
            health,
            clock,
            cfg.stop_monitor,
        ),
        daily_loss_limit=DailyLossLimit(
            store, broker, books, exits, standing, health, clock, cfg, emergency_stop=_no_emergency_stop
        ),
        reconciler=reconciler,
        orphans=OrphanPositions(
            store, broker, books, execution, exits, clock, cfg.reconcile, cfg.positions, epoch
        ),
        stream_consumer=StreamConsumer(stream, books, gate, reconciler, store, clock),
        flatten=Flatten(store, broker, books, execution, exits, gate, clock, proofs),
        outage_exit=emergency,
        scanner=Scanner(broker, market, news, clock, cfg),
        supervisor=Supervisor(gate, clock, reconciler.requested),
        safe_mode=SafeMode(store, gate, clock, proofs, epoch),
        shorting_lock=ShortingLock(broker, store, clock, cfg.trading),
        startup_survey=StartupSurvey(store, gate, clock),
        epoch=epoch,
    )
    components.daily_loss_limit.emergency_stop = components.emergency_stop
    return components


async def _no_emergency_stop(reason: str) -> bool | None:
    raise AssertionError(f"no emergency stop is wired: {reason}")
