"""Health: 200 only when the daemon is really healthy."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest

from catalyst.broker.port import StreamState
from catalyst.daemon.monitoring.health import health_document, problems_of
from catalyst.daemon.monitoring.metrics import render_metrics
from catalyst.daemon.runtime.database_health import DatabaseState
from catalyst.doctor.issues import Examination, IssueKind, new_issue
from tests.monitoring.sample_reading import EXAMINATION, HEALTHY, NOW, STORED, reading

LONG_AGO = timedelta(minutes=10)


def examined(*kinds: IssueKind) -> Examination:
    """Return an examination that found these issues."""
    return replace(EXAMINATION, issues=tuple(new_issue(kind, f"{kind} of AAPL") for kind in kinds))


FAULTS: dict[str, dict[str, Any]] = {
    "recovering": {"ready": False},
    "entries_closed_halt": {
        "entries_closed_by": {"halt": "halted by ann", "day_ending": "the day is ending"}
    },
    "unprotected": {"unprotected": frozenset({2}), "unprotected_seconds": {2: Decimal(16)}},
    "prices": {"prices_age": LONG_AGO},
    "stream": {"stream_state": StreamState.LOST},
    "reconcile": {"reconcile_age": LONG_AGO},
    "database": {"database_state": DatabaseState.DOWN, "stored": None},
    "figures": {"stored": replace(STORED, at=NOW - LONG_AGO)},
    "loops_ended": {"ended_loops": ("exits",)},
    "loops_late": {"late_loops": ("stop_monitor",)},
    "doctor": {"examination": examined(IssueKind.PHANTOM_POSITION, IssueKind.STUCK_ORDER)},
    "alerts": {"stored": replace(STORED, oldest_waiting_at=NOW - LONG_AGO)},
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_makes_the_daemon_unhealthy_by_its_name(name: str) -> None:
    """One fault gives one problem with a sentence, and 0 in `catalyst_healthy`."""
    faulty = reading(**FAULTS[name])
    assert [problem.name for problem in problems_of(faulty)] == [name]
    document = health_document(faulty)
    assert orjson.loads(orjson.dumps(document))["status"] == "unhealthy"
    assert b"\ncatalyst_healthy 0.0\n" in (body := render_metrics(faulty, 0.0))
    assert f'catalyst_problem{{problem="{name}"}} 1.0\n'.encode() in body


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"entries_closed_by": {"day_ending": "the day is ending", "cycle_closed": "the cycle is closed"}},
        {
            "unprotected": frozenset({2}),
            "unprotected_seconds": {2: Decimal(3)},
        },  # a fill of three seconds ago
        {"prices_age": LONG_AGO, "market_open": False},
        {"prices_age": None, "held_positions": 0},
        # The gate has closed, and the shares have got their stop, since the examination: the reading shows it itself.
        {"examination": examined(IssueKind.GATE_CLOSED, IssueKind.SAFE_MODE, IssueKind.UNPROTECTED_POSITION)},
        {"examination": None},
    ],
)
def test_ordinary_states_of_a_day_are_healthy(changes: dict[str, Any]) -> None:
    """The end of the day, a position that is just being protected, and a closed market raise no alarm."""
    assert health_document(reading(**changes))["problems"] == []
    assert b"\ncatalyst_healthy 1.0\n" in render_metrics(reading(**changes), 0.0)


def test_metrics_have_cumulative_buckets_and_no_sample_for_an_unknown_value() -> None:
    """A duration beyond the last bound counts in +Inf only; ages that are not known yet have no sample."""
    text = render_metrics(reading(reconcile_age=None, stored=None), 0.002).decode()
    assert 'catalyst_request_seconds_bucket{api="data",le="0.5",method="GET",resource="stocks"} 1.0\n' in text
    assert (
        'catalyst_request_seconds_bucket{api="data",le="10.0",method="GET",resource="stocks"} 1.0\n' in text
    )
    assert 'catalyst_request_seconds_count{api="data",method="GET",resource="stocks"} 2.0\n' in text
    for name in ("catalyst_reconcile_age_seconds", "catalyst_day_result_dollars", "catalyst_orders_working"):
        assert f"# TYPE {name} gauge\n" in text
        assert f"\n{name} " not in text
    assert "catalyst_event_loop_lag_seconds 0.002\n" in text
    assert HEALTHY.config.risk.max_daily_loss == 2000
    assert "catalyst_daily_loss_warning_dollars 1500.0\n" in text
