"""Reading: the state of the daemon at one instant, for /health and /metrics.

It is taken in the daemon's event loop from memory alone: no request, no statement, no wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from catalyst.broker.port import RateLimitStatus, StreamState
from catalyst.config.schema import Config
from catalyst.daemon.components import Components
from catalyst.daemon.runtime.database_health import DatabaseState
from catalyst.daemon.runtime.watchdog import ENDLESS_LOOPS, Watchdog
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.doctor.issues import Examination
from catalyst.domain.latency import LatencyCounts
from catalyst.store.monitoring_figures import StoredFigures

# Reasons that close entries as planned: the day ends, or its cycle is closed.
PLANNED_REASONS: Final = frozenset({"day_ending", "cycle_closed"})


@dataclass(frozen=True, slots=True)
class DaemonReading:
    """State of the daemon. Ages are timedeltas before `at`, in market time; None: it has not happened yet."""

    at: datetime
    mode: str
    config: Config
    ready: bool  # recovery is complete
    market_open: bool
    entries_closed_by: Mapping[str, str]  # reasons by name; empty: entries are possible
    refused_symbols: Mapping[str, str]  # symbols that take no entry now, and why
    stream_state: StreamState
    stream_age: timedelta | None  # since the last frame
    reconcile_age: timedelta | None  # since the last complete reconciliation began
    prices_age: timedelta | None  # since the prices of held symbols were read; None: nothing is held
    database_state: DatabaseState
    held_positions: int  # as last known, also while the database is down
    unprotected: frozenset[int]  # positions without a working stop; by id
    unprotected_seconds: Mapping[int, Decimal]  # of each open position so far; by id
    ended_loops: tuple[str, ...]  # endless loops that have ended
    late_loops: tuple[str, ...]  # watched loops that take no turns
    rate_limits: Mapping[str, RateLimitStatus]  # by API
    request_latencies: Mapping[tuple[str, str, str], LatencyCounts]  # by API, verb and resource
    order_latency: LatencyCounts
    update_latency: LatencyCounts
    updates_applied: int
    updates_malformed: int
    stored: StoredFigures | None  # the last figures of the database; None before the first read
    examination: Examination | None  # of the doctor, every five minutes; None before the first

    @property
    def stored_age(self) -> timedelta | None:
        """Return the age of the figures of the database."""
        return None if self.stored is None else self.at - self.stored.at

    @property
    def examination_age(self) -> timedelta | None:
        """Return the age of the doctor's last examination."""
        return None if self.examination is None else _age(self.at, self.examination.at)

    @property
    def over_budget(self) -> tuple[int, ...]:
        """Return the ids of the positions that have no working stop, for longer than the budget in all."""
        budget = Decimal(str(self.config.protection.unprotected_budget_seconds))
        return tuple(
            key for key in sorted(self.unprotected) if self.unprotected_seconds.get(key, Decimal(0)) > budget
        )


def entries_closed_by(components: Components) -> Mapping[str, str]:
    """Return why entries are closed, by the name of each reason; empty when they are possible.

    The only place of the monitoring that reads it.
    """
    return dict(components.gate.reasons)


def read_daemon(components: Components, watchdog: Watchdog, stored: StoredFigures | None) -> DaemonReading:
    """Return the state of the daemon now."""
    now = components.clock.now()
    supervisor, unprotected_time = components.supervisor, components.protector.unprotected_time
    held = len(components.ledger.last_known.positions)
    trading, market = components.broker, components.market
    outage = components.stop_monitor.health.is_down
    return DaemonReading(
        at=now,
        mode=components.settings.mode,
        config=components.config.in_force,
        ready=components.ready.is_set(),
        market_open=components.current_day.market_open,
        entries_closed_by=entries_closed_by(components),
        refused_symbols=_refused_symbols(components),
        stream_state=components.stream.state,
        stream_age=_age(now, components.stream.last_received_at),
        reconcile_age=_age(now, components.reconciler.complete_at),
        prices_age=_age(now, components.stop_monitor.prices.refreshed_at) if held else None,
        database_state=components.stop_monitor.health.state,
        held_positions=held,
        unprotected=frozenset(
            components.outage_protection.shown.unprotected if outage else unprotected_time.unprotected
        ),
        unprotected_seconds=dict(unprotected_time.measured_seconds),
        ended_loops=tuple(sorted(supervisor.ended & ENDLESS_LOOPS)),
        late_loops=tuple(watchdog.late_loops()),
        rate_limits={"trading": trading.rate_limit_status, "data": market.rate_limit_status},
        request_latencies={
            (api, verb, resource): latency.counts
            for api, client in (("trading", trading), ("data", market))
            for (verb, resource), latency in client.latencies.items()
        },
        order_latency=components.submission.latency.counts,
        update_latency=components.stream_consumer.latency.counts,
        updates_applied=components.stream_consumer.applied,
        updates_malformed=components.stream_consumer.malformed,
        stored=stored,
        examination=components.examination.last,
    )


def _refused_symbols(components: Components) -> dict[str, str]:
    states = components.gate.symbols
    symbols = sorted({symbol for reason in SymbolReason for symbol in states.symbols(reason)})
    return {symbol: why for symbol in symbols if (why := states.entry_refusal(symbol)) is not None}


def _age(now: datetime, at: datetime | None) -> timedelta | None:
    return None if at is None else max(now - at, timedelta(0))
