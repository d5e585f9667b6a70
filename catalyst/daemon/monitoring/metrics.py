"""Metrics: a reading in the text format of Prometheus. Pure.

Every family is present in every answer; one without a known value has no sample. Names and labels are stable:
`monitoring/` has a dashboard and alert rules that use them.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from catalyst.broker.port import StreamState
from catalyst.daemon.monitoring.health import problems_of
from catalyst.daemon.monitoring.reading import DaemonReading
from catalyst.daemon.runtime.database_health import DatabaseState
from catalyst.doctor.issues import Severity
from catalyst.domain.alert_message import SEVERITIES
from catalyst.domain.latency import BUCKETS_S, LatencyCounts
from catalyst.installation import VERSION

Value = float | int | Decimal | timedelta | None


def render_metrics(reading: DaemonReading, loop_lag_s: float) -> bytes:
    """Return the body of /metrics. `loop_lag_s`: how long the daemon's event loop took to begin this reading."""
    registry = CollectorRegistry()
    registry.register(_Families(families(reading, loop_lag_s)))
    ProcessCollector(registry=registry)  # memory, CPU seconds and file descriptors of the daemon
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        return self._found


def families(reading: DaemonReading, loop_lag_s: float) -> Iterator[Metric]:
    """Yield every family with its samples."""
    yield _gauge(
        "catalyst_info",
        "Version and mode of the daemon.",
        {(VERSION, reading.mode): 1},
        labels=("version", "mode"),
    )
    yield _gauge(
        "catalyst_time_seconds", "The daemon's time, as seconds since the epoch.", reading.at.timestamp()
    )
    yield _gauge("catalyst_ready", "1 once recovery is complete.", reading.ready)
    problems = problems_of(reading)
    yield _gauge("catalyst_healthy", "1 while /health answers 200.", not problems)
    yield _gauge(
        "catalyst_problem",
        "1 for each problem that /health names.",
        {(problem.name,): 1 for problem in problems},
        labels=("problem",),
    )
    yield _gauge("catalyst_market_open", "1 during the regular session.", reading.market_open)
    yield from _entries(reading)
    yield from _positions(reading)
    yield from _money(reading)
    yield from _broker(reading)
    yield from _database(reading)
    yield from _doctor(reading)
    yield from _latencies(reading)
    yield _gauge(
        "catalyst_event_loop_lag_seconds",
        "Real time from the request of this reading until the event loop took it.",
        loop_lag_s,
    )
    yield _gauge(
        "catalyst_loops_ended", "Endless loops of the daemon that have ended.", len(reading.ended_loops)
    )
    yield _gauge(
        "catalyst_loops_late", "Watched loops that have taken no turn for 10 s.", len(reading.late_loops)
    )


def _entries(reading: DaemonReading) -> Iterator[Metric]:
    closed = reading.entries_closed_by
    yield _gauge("catalyst_entries_open", "1 while the entry gate is open.", not closed)
    yield _gauge(
        "catalyst_entries_closed",
        "1 for each reason that closes the entry gate.",
        {(name,): 1 for name in sorted(closed)},
        labels=("reason",),
    )
    yield _gauge("catalyst_symbols_refused", "Symbols that take no entry now.", len(reading.refused_symbols))


def _positions(reading: DaemonReading) -> Iterator[Metric]:
    yield _gauge("catalyst_positions", "Open positions.", reading.held_positions)
    yield _gauge(
        "catalyst_positions_limit",
        "Most open positions and working entries (risk.max_positions).",
        reading.config.risk.max_positions,
    )
    yield _gauge(
        "catalyst_positions_unprotected",
        "Open positions without a working stop at the broker.",
        len(reading.unprotected),
    )
    yield _gauge(
        "catalyst_positions_over_budget",
        "Unprotected positions whose unprotected seconds exceed the budget.",
        len(reading.over_budget),
    )
    yield _gauge(
        "catalyst_unprotected_seconds",
        "Largest unprotected time of an open position so far.",
        max(reading.unprotected_seconds.values(), default=Decimal(0)),
    )
    yield _gauge(
        "catalyst_unprotected_budget_seconds",
        "Unprotected time of a position that raises an alert (protection.unprotected_budget_seconds).",
        reading.config.protection.unprotected_budget_seconds,
    )


def _money(reading: DaemonReading) -> Iterator[Metric]:
    stored, risk = reading.stored, reading.config.risk
    yield _gauge(
        "catalyst_day_result_dollars",
        "Result of the day, as the daily loss limit measures it.",
        None if stored is None else stored.day_result,
    )
    pnl: dict[tuple[str, ...], Value] = {}
    if stored is not None:
        pnl = {("realized",): stored.realized_pnl, ("unrealized",): stored.unrealized_pnl}
    yield _gauge("catalyst_pnl_dollars", "Profit and loss of the cycle.", pnl, labels=("kind",))
    yield _gauge(
        "catalyst_daily_loss_limit_dollars",
        "Loss that stops the day (risk.max_daily_loss).",
        risk.max_daily_loss,
    )
    yield _gauge(
        "catalyst_daily_loss_warning_dollars",
        "Loss that raises a warning.",
        risk.max_daily_loss * Decimal(str(risk.warning_threshold_pct)) / 100,
    )
    yield _gauge(
        "catalyst_position_limit_dollars",
        "Largest position (risk.max_position_size).",
        risk.max_position_size,
    )


def _broker(reading: DaemonReading) -> Iterator[Metric]:
    yield _gauge(
        "catalyst_stream_ready",
        "1 while the stream of trade updates is connected and listening.",
        reading.stream_state is StreamState.READY,
    )
    yield _gauge(
        "catalyst_stream_age_seconds",
        "Time since the stream's last message; a live one answers a probe every 30 s.",
        reading.stream_age,
    )
    yield _gauge(
        "catalyst_reconcile_age_seconds",
        "Time since the last complete reconciliation began.",
        reading.reconcile_age,
    )
    yield _gauge(
        "catalyst_prices_age_seconds",
        "Time since the prices of the held symbols were read.",
        reading.prices_age,
    )
    limits = reading.rate_limits
    yield _gauge(
        "catalyst_rate_limit_requests",
        "Requests that the broker allows in a minute.",
        {(api,): status.limit for api, status in limits.items()},
        labels=("api",),
    )
    yield _gauge(
        "catalyst_rate_remaining_requests",
        "Requests left in this minute.",
        {(api,): status.remaining for api, status in limits.items()},
        labels=("api",),
    )
    yield _gauge(
        "catalyst_rate_reserved_requests",
        "Requests of a minute that only exits and cancels use.",
        reading.config.broker.reserved_for_exits,
    )
    yield _counter("catalyst_trade_updates", "Trade updates applied.", reading.updates_applied)
    yield _counter(
        "catalyst_trade_updates_malformed", "Trade updates that could not be read.", reading.updates_malformed
    )


def _database(reading: DaemonReading) -> Iterator[Metric]:
    stored = reading.stored
    yield _gauge(
        "catalyst_database_up", "1 while the database answers.", reading.database_state is DatabaseState.UP
    )
    yield _gauge(
        "catalyst_database_figures_age_seconds",
        "Age of the figures that come from the database: P&L by kind, orders, alerts, quarantine.",
        reading.stored_age,
    )
    yield _gauge(
        "catalyst_orders_working",
        "Orders that may still fill.",
        None if stored is None else stored.working_orders,
    )
    waiting: dict[tuple[str, ...], Value] = {}
    if stored is not None:
        waiting = {(severity,): stored.alerts_waiting.get(severity, 0) for severity in SEVERITIES}
    yield _gauge(
        "catalyst_alerts_waiting", "Alerts that a channel still has to send.", waiting, labels=("severity",)
    )
    oldest = None
    if stored is not None:
        since = stored.oldest_waiting_at
        oldest = timedelta(0) if since is None else max(reading.at - since, timedelta(0))
    yield _gauge(
        "catalyst_alerts_oldest_waiting_seconds", "Age of the oldest alert that waits to be sent.", oldest
    )
    yield _gauge(
        "catalyst_alerts_unacknowledged",
        "Critical alerts of 24 hours that nobody acknowledged.",
        None if stored is None else stored.critical_unacknowledged,
    )
    yield _gauge(
        "catalyst_quarantined_reports",
        "Reports of the broker that nobody has checked.",
        None if stored is None else stored.quarantined,
    )


def _doctor(reading: DaemonReading) -> Iterator[Metric]:
    issues: dict[tuple[str, ...], Value] = {}
    if reading.examination is not None:
        found = [issue.severity for issue in reading.examination.issues]
        issues = {(severity,): found.count(severity) for severity in Severity}
    yield _gauge(
        "catalyst_doctor_issues",
        "Issues that the doctor's last examination found.",
        issues,
        labels=("severity",),
    )
    yield _gauge(
        "catalyst_doctor_age_seconds", "Age of the doctor's last examination.", reading.examination_age
    )


def _latencies(reading: DaemonReading) -> Iterator[Metric]:
    requests = _histogram(
        "catalyst_request_seconds",
        "Real time of a request to the broker, one without a response included.",
        labels=("api", "method", "resource"),
    )
    for key, counts in sorted(reading.request_latencies.items()):
        _add_counts(requests, key, counts)
    yield requests
    order = _histogram(
        "catalyst_order_seconds",
        "Real time from the decision to send until the broker's answer is committed.",
    )
    _add_counts(order, (), reading.order_latency)
    yield order
    update = _histogram(
        "catalyst_trade_update_seconds",
        "Real time from the receipt of a batch of trade updates until it is committed.",
    )
    _add_counts(update, (), reading.update_latency)
    yield update


_BOUNDS: Final = (*map(str, BUCKETS_S), "+Inf")


def _gauge(
    name: str, text: str, value: Value | Mapping[tuple[str, ...], Value], *, labels: tuple[str, ...] = ()
) -> Metric:
    """Return a gauge with one sample, or with one for each tuple of label values."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, found in (value if isinstance(value, Mapping) else {(): value}).items():
        if found is not None:
            number = found.total_seconds() if isinstance(found, timedelta) else float(found)
            family.add_metric(key, number)
    return family


def _counter(name: str, text: str, value: int) -> Metric:
    family = CounterMetricFamily(name, text)
    family.add_metric((), value)
    return family


def _histogram(name: str, text: str, *, labels: tuple[str, ...] = ()) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, labels=labels)


def _add_counts(family: HistogramMetricFamily, key: tuple[str, ...], counts: LatencyCounts) -> None:
    total, buckets = 0, []
    for bound, number in zip(_BOUNDS, counts.buckets, strict=True):
        total += number
        buckets.append((bound, float(total)))
    family.add_metric(key, buckets, counts.total_s)
