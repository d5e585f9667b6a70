"""A reading of a healthy daemon that holds two positions, for pure tests."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from catalyst.broker.port import RateLimitStatus, StreamState
from catalyst.config.schema import Config
from catalyst.daemon.monitoring.reading import DaemonReading
from catalyst.daemon.runtime.database_health import DatabaseState
from catalyst.doctor.issues import Examination
from catalyst.domain.latency import Latency
from catalyst.store.monitoring_figures import StoredFigures

NOW = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)


def counts(*seconds: float) -> Any:
    """Return the counts of a latency that recorded these durations."""
    latency = Latency()
    for each in seconds:
        latency.record(each)
    return latency.counts


STORED = StoredFigures(
    at=NOW - timedelta(seconds=4),
    day_result=Decimal("9.25"),
    realized_pnl=Decimal("12.50"),
    unrealized_pnl=Decimal("-3.25"),
    open_positions=2,
    working_orders=4,
    alerts_waiting={"WARNING": 1},
    oldest_waiting_at=NOW - timedelta(seconds=20),
    critical_unacknowledged=0,
    quarantined=0,
)

EXAMINATION = Examination(NOW - timedelta(minutes=4), 31.0, "paper", {"cycle_id": None}, {}, ())

HEALTHY = DaemonReading(
    at=NOW,
    mode="paper",
    config=Config(),
    ready=True,
    market_open=True,
    entries_closed_by={},
    refused_symbols={},
    stream_state=StreamState.READY,
    stream_age=timedelta(seconds=7),
    reconcile_age=timedelta(seconds=41),
    prices_age=timedelta(seconds=12),
    database_state=DatabaseState.UP,
    held_positions=2,
    unprotected=frozenset(),
    unprotected_seconds={1: Decimal("0.4"), 2: Decimal("1.9")},
    ended_loops=(),
    late_loops=(),
    rate_limits={
        "trading": RateLimitStatus(200, 171, None),
        "data": RateLimitStatus(200, 188, None),
    },
    request_latencies={
        ("trading", "POST", "orders"): counts(0.04, 0.2),
        ("data", "GET", "stocks"): counts(0.3, 30.0),
    },
    order_latency=counts(0.06, 0.21),
    update_latency=counts(0.004),
    updates_applied=9,
    updates_malformed=0,
    stored=STORED,
    examination=EXAMINATION,
)


def reading(**changes: Any) -> DaemonReading:
    """Return the healthy reading with these fields changed."""
    return replace(HEALTHY, **changes)
