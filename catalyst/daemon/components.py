"""Components of a running daemon; each receives only what it may use."""

import asyncio
from dataclasses import dataclass, field

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.config.settings import Settings
from catalyst.daemon.exits.blocking_orders import BlockingOrders
from catalyst.daemon.exits.flat_proof import ProofReader
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
from catalyst.daemon.reconciliation.another_catalyst import AnotherCatalyst
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.reconciliation.stream_consumer import StreamConsumer
from catalyst.daemon.risk.account_comparison import AccountComparison
from catalyst.daemon.risk.daily_loss import DailyLossLimit
from catalyst.daemon.risk.emergency_stop import EmergencyStop
from catalyst.daemon.risk.price_cache import PriceCache
from catalyst.daemon.risk.stop_monitor import StopMonitor
from catalyst.daemon.runtime.alert_delivery import AlertDelivery, usable_channels
from catalyst.daemon.runtime.database_health import DatabaseHealth
from catalyst.daemon.runtime.periodic_examination import PeriodicExamination
from catalyst.daemon.runtime.startup_survey import StartupSurvey
from catalyst.daemon.runtime.supervisor import Supervisor
from catalyst.daemon.trading_day.end_of_day import EndOfDay
from catalyst.daemon.trading_day.entry import EntryPlacement
from catalyst.daemon.trading_day.first_live_sessions import FirstLiveSessions
from catalyst.daemon.trading_day.scan_failures import ScanFailures
from catalyst.daemon.trading_day.scanner import Scanner
from catalyst.daemon.trading_day.trading_day import TradingDay
from catalyst.daemon.trading_state.account_lease import AccountLease, OutagePermit
from catalyst.daemon.trading_state.account_status import AccountStatus
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.daemon.trading_state.safe_mode import SafeMode
from catalyst.daemon.trading_state.shorting_lock import ShortingLock
from catalyst.domain.closed_entries import STOPPING
from catalyst.domain.session import NEW_YORK
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.store.pool import Store


@dataclass(frozen=True)
class Components:
    """All components of a running daemon. `settings` are those of the start, `config` is the configuration in force."""

    settings: Settings
    config: CurrentConfig
    clock: Clock
    store: Store
    broker: AlpacaBroker
    market: AlpacaMarketData
    stream: AlpacaTradeUpdates
    gate: EntryGate
    current_day: CurrentDay
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    protector: PositionProtector
    entry_expiry: EntryExpiry
    stop_monitor: StopMonitor
    emergency_stop: EmergencyStop
    daily_loss_limit: DailyLossLimit
    reconciler: Reconciler
    orphans: OrphanPositions
    stream_consumer: StreamConsumer
    flatten: Flatten
    outage_exit: OutageExit
    outage_protection: OutageProtection
    scanner: Scanner
    entries: EntryPlacement
    end_of_day: EndOfDay
    trading_day: TradingDay
    supervisor: Supervisor
    safe_mode: SafeMode
    shorting_lock: ShortingLock
    startup_survey: StartupSurvey
    alert_delivery: AlertDelivery
    examination: PeriodicExamination
    epoch: int
    ready: asyncio.Event = field(default_factory=asyncio.Event)


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
    installation: str,
    spool: Spool,
    proofs: FlatProofFiles,
    lease: AccountLease,
) -> Components:
    """Build every component with what it may use."""
    config = CurrentConfig(settings.config)
    gate.close("stream", "trade updates are not connected yet")
    current_day = CurrentDay(store, gate, clock)
    ledger = OrderLedger(store, broker, clock, epoch, config, gate)
    submission = OrderSubmission(store, broker, ledger, gate, clock, config, epoch, installation)
    outage_exit = OutageExit(
        broker.with_permit(OutagePermit(lease)),
        submission.requests,
        ledger.last_known,
        spool,
        proofs,
        clock,
        installation,
    )
    blocking_orders = BlockingOrders(store, broker, ledger, submission, clock)
    exits = SafeExit(
        store, broker, ledger, current_day, clock, epoch, blocking_orders, outage_exit.exit_contended_symbol
    )
    proof_reader = ProofReader(store, broker, ledger, gate, clock, config, installation)
    flatten = Flatten(store, broker, ledger, submission, exits, clock, proofs, proof_reader)
    account_status = AccountStatus(store, broker, gate, clock)
    unprotected_time = UnprotectedTime(store, clock, config)
    health = DatabaseHealth(gate, clock, unprotected_time.unprotected_changed)
    protector = PositionProtector(
        store, ledger, submission, exits, clock, config, unprotected_time, health, epoch
    )
    spool_import = SpoolImport(store, broker, ledger, outage_exit, clock, epoch)
    another_catalyst = AnotherCatalyst(store, gate, clock, installation)
    reconciler = Reconciler(
        store,
        broker,
        ledger,
        submission,
        gate,
        account_status,
        another_catalyst,
        spool_import,
        clock,
        config,
    )
    outage_protection = OutageProtection(outage_exit, clock, config)
    stop_monitor = StopMonitor(
        store,
        PriceCache(store, market, broker, clock, config, health),
        exits,
        submission,
        ledger,
        unprotected_time,
        outage_protection,
        health,
        clock,
        config,
    )
    emergency_stop = EmergencyStop(store, flatten, outage_exit, gate, current_day, clock, config)
    daily_loss_limit = DailyLossLimit(
        store,
        broker,
        ledger,
        exits,
        account_status,
        AccountComparison(store, broker, account_status, clock, config),
        health,
        clock,
        config,
        emergency_stop,
    )
    scanner = Scanner(broker, market, news, clock, config, installation)
    entries = EntryPlacement(
        store,
        broker,
        market,
        submission,
        gate,
        current_day,
        clock,
        config,
        settings.session_mode,
        FirstLiveSessions(store, clock, config, settings.mode),
    )
    end_of_day = EndOfDay(store, broker, reconciler, flatten, current_day, clock)
    trading_day = TradingDay(
        store=store,
        broker=broker,
        exits=exits,
        flatten=flatten,
        gate=gate,
        daily_loss_limit=daily_loss_limit,
        emergency_stop=emergency_stop,
        scanner=scanner,
        scan_failures=ScanFailures(store, gate, current_day, clock, config),
        entries=entries,
        end_of_day=end_of_day,
        current_day=current_day,
        clock=clock,
        config=config,
        mode=settings.session_mode,
    )
    return Components(
        settings=settings,
        config=config,
        clock=clock,
        store=store,
        broker=broker,
        market=market,
        stream=stream,
        gate=gate,
        current_day=current_day,
        ledger=ledger,
        submission=submission,
        exits=exits,
        protector=protector,
        entry_expiry=EntryExpiry(store, ledger, submission, clock, config),
        stop_monitor=stop_monitor,
        emergency_stop=emergency_stop,
        daily_loss_limit=daily_loss_limit,
        reconciler=reconciler,
        orphans=OrphanPositions(
            store, broker, ledger, submission, exits, clock, config, unprotected_time, epoch
        ),
        stream_consumer=StreamConsumer(stream, ledger, gate, reconciler, another_catalyst, store, clock),
        flatten=flatten,
        outage_exit=outage_exit,
        outage_protection=outage_protection,
        scanner=scanner,
        entries=entries,
        end_of_day=end_of_day,
        trading_day=trading_day,
        supervisor=Supervisor(gate, clock, reconciler.requested),
        safe_mode=SafeMode(store, gate, clock, proofs, epoch),
        shorting_lock=ShortingLock(broker, store, clock, config),
        startup_survey=StartupSurvey(store, gate, clock),
        alert_delivery=AlertDelivery(store, usable_channels(settings, clock), clock),
        examination=PeriodicExamination(store, broker, settings, config, clock),
        epoch=epoch,
    )


def describe_positions(components: Components) -> str:
    """Return the open positions for a person who is about to sell them."""
    held = components.ledger.last_known.positions
    lines = [
        f"{row.symbol} {row.quantity.normalize():f} shares at ${row.entry_price:.2f}"
        + ("" if row.stop_loss is None else f", stop ${row.stop_loss:.2f}")
        for row in held
    ]
    return "\n".join(["open positions:", *lines]) if lines else "no open position"


def describe_state(components: Components) -> str:
    """Return one line for the service manager: the phase, the positions and what blocks entries."""
    if not components.ready.is_set():
        return "recovering: reads every order and position at the broker"
    session = components.current_day.session
    if session is None:
        market = "market hours unknown"
    elif components.current_day.market_open:
        market = f"market open until {session.close.astimezone(NEW_YORK):%H:%M} New York"
    else:
        market = "market closed"
    count = len(components.ledger.last_known.positions)
    unprotected = components.protector.unprotected_time.unprotected
    stops = f", {len(unprotected)} without a confirmed stop" if unprotected else ""
    reasons = sorted(components.gate.reasons)
    blocked = f"blocked by {', '.join(reasons)}" if reasons else "possible"
    phase = "stopping" if STOPPING in reasons else "running"
    return f"{phase}: {market}; {count} position{'s' * (count != 1)}{stops}; entries {blocked}"
