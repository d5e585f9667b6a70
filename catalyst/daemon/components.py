"""Every part of a running daemon, each given exactly what it may touch."""

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
from catalyst.daemon.orders.entry_expiry import Entries
from catalyst.daemon.orders.ledger import Books
from catalyst.daemon.orders.submission import Execution
from catalyst.daemon.outage.exits import Emergency
from catalyst.daemon.outage.protection import Blind
from catalyst.daemon.outage.spool import Spool
from catalyst.daemon.outage.spool_import import Spooled
from catalyst.daemon.protection.orphan_positions import Orphans
from catalyst.daemon.protection.position_protector import Guard
from catalyst.daemon.protection.unprotected_time import Naked
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.reconciliation.stream_consumer import Listening
from catalyst.daemon.risk.daily_loss import RiskWatch
from catalyst.daemon.risk.stop_monitor import StopMonitor
from catalyst.daemon.runtime.config_reload import hand_over
from catalyst.daemon.runtime.startup_survey import Boot
from catalyst.daemon.runtime.supervisor import Loops
from catalyst.daemon.trading_day.scanner import Scanner
from catalyst.daemon.trading_day.trading_day import Day
from catalyst.daemon.trading_state.account_lease import Holding, WithoutTables
from catalyst.daemon.trading_state.account_status import Standing
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.daemon.trading_state.safe_mode import Safety
from catalyst.daemon.trading_state.shorting_lock import Shorts
from catalyst.flat_proof_files import Proofs
from catalyst.store.pool import Store


@dataclass
class Desk:
    """Every part of a running daemon."""

    settings: Settings
    clock: Clock
    store: Store
    broker: AlpacaBroker
    market: AlpacaMarketData
    stream: AlpacaTradeUpdates
    gate: Gate
    books: Books
    execution: Execution
    exits: SafeExit
    guard: Guard
    entries: Entries
    stop_monitor: StopMonitor
    risk_watch: RiskWatch
    reconciler: Reconciler
    orphans: Orphans
    listening: Listening
    flatten: Flatten
    emergency: Emergency
    scanner: Scanner
    loops: Loops
    safety: Safety
    shorts: Shorts
    boot: Boot
    epoch: int
    account_id: str = ""
    day: Day | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def adopt(self, config: Config) -> None:
        """Every part holds the new values from now on; a scan or a flatten under way ends with the old ones."""
        old = self.settings.config
        self.settings = replace(self.settings, config=config)
        hand_over(old, config, [self])

    async def emergency_stop(self, reason: str) -> bool | None:
        assert self.day is not None  # the risk watch looks only once a cycle is open
        return await self.day.emergency_stop(reason)


def wire(
    settings: Settings,
    store: Store,
    clock: Clock,
    gate: Gate,
    broker: AlpacaBroker,
    market: AlpacaMarketData,
    news: AlpacaNews,
    stream: AlpacaTradeUpdates,
    epoch: int,
    spool: Spool,
    proofs: Proofs,
    holding: Holding,
) -> Desk:
    """Every part gets exactly what it may touch."""
    cfg = settings.config
    gate.shut("stream", "trade updates are not connected yet")
    books = Books(store, broker, clock, epoch, cfg=cfg.reconcile)
    execution = Execution(store, broker, books, gate, clock, cfg.execution, epoch)
    exits = SafeExit(store, broker, books, execution, clock, epoch)
    measure = Naked(store, clock, cfg.protection)
    guard = Guard(store, books, execution, exits, clock, cfg.execution, cfg.positions, measure, epoch)
    emergency = Emergency(
        broker.permitted_by(WithoutTables(holding)), execution, books.memory, spool, proofs, clock
    )
    standing = Standing(store, broker, gate, clock)
    reconciler = Reconciler(
        store, broker, books, execution, gate, standing, clock, cfg.reconcile, cfg.execution
    )
    reconciler.spooled = Spooled(store, broker, books, emergency, clock, epoch)
    desk = Desk(
        settings=settings,
        clock=clock,
        store=store,
        broker=broker,
        market=market,
        stream=stream,
        gate=gate,
        books=books,
        execution=execution,
        exits=exits,
        guard=guard,
        entries=Entries(store, books, execution, clock, cfg.execution),
        stop_monitor=StopMonitor(
            store,
            market,
            broker,
            exits,
            guard,
            clock,
            cfg.stop_monitor,
            emergency,
            Blind(emergency, clock, cfg.execution, cfg.positions),
            timedelta(minutes=cfg.session.flat_before_close_minutes),
        ),
        risk_watch=RiskWatch(store, broker, books, exits, standing, clock, cfg, emergency_stop=_not_yet),
        reconciler=reconciler,
        orphans=Orphans(store, broker, books, execution, exits, clock, cfg.reconcile, cfg.positions, epoch),
        listening=Listening(stream, books, gate, reconciler, store, clock),
        flatten=Flatten(store, broker, books, execution, exits, gate, clock, proofs),
        emergency=emergency,
        scanner=Scanner(broker, market, news, clock, cfg),
        loops=Loops(gate, clock, reconciler.soon),
        safety=Safety(store, gate, clock, proofs, epoch),
        shorts=Shorts(broker, store, clock, cfg.trading),
        boot=Boot(store, gate, clock),
        epoch=epoch,
    )
    desk.risk_watch.emergency_stop = desk.emergency_stop
    return desk


async def _not_yet(reason: str) -> bool | None:
    raise AssertionError(f"no emergency stop is wired: {reason}")
