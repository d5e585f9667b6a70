"""Sample of the promises: the test of a promise fails when the code that keeps the promise does nothing.

    python -m tests.census_sample              every row; the exit code is 1 when a test passes without its code
    python -m tests.census_sample C09 B12      the rows of these promises

The tests of the pages prove that a promise has a test of that name; this proves that the test tests it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from catalyst import embedded
from tests import disabled_code
from tests.conftest import _FAST_SETTINGS
from tests.promises import TESTS

TIMEOUT_S = 300


@dataclass(frozen=True)
class Sample:
    """A promise, a test that shows it, and the function that keeps it, with what that returns when disabled."""

    promise: str
    test: str
    code: str
    result: object = None


SAMPLES = (
    # Behaviours of the exchange.
    Sample(
        "B10",
        "simulator/test_behaviours_orders.py::test_open_exit_reserves_its_shares",
        "catalyst.simulator.exchange.admission:OrderAdmission.check_available",
    ),
    Sample(
        "B12",
        "simulator/test_behaviours_orders.py::test_wash_trade_rule_follows_alpacas_table",
        "catalyst.simulator.exchange.admission:OrderAdmission._check_wash_trade",
    ),
    Sample(
        "B23",
        "simulator/test_behaviours_groups.py::test_bracket_legs_activate_only_when_the_entry_is_complete",
        "catalyst.simulator.exchange.linked_orders:activate_legs",
    ),
    Sample(
        "B28",
        "simulator/test_behaviours_groups.py::test_cancel_of_one_leg_cancels_the_group_and_keeps_the_position",
        "catalyst.simulator.exchange.linked_orders:cancel_linked",
    ),
    # Behaviours of the client.
    Sample(
        "C06",
        "broker/test_rate_limit.py::test_rate_limiter_blocks_routine_calls_after_429_until_reset",
        "catalyst.broker.rate_limit:RateLimiter.record_response",
    ),
    Sample(
        "C09",
        "broker/test_client_promises.py::test_bracket_check_requires_exits_beyond_entry_and_market",
        "catalyst.domain.bracket_check:invalid_bracket_reason",
    ),
    Sample(
        "C09",
        "stories/test_client_behaviours_orders.py::test_bracket_beyond_market_quote_is_refused",
        "catalyst.domain.bracket_check:invalid_bracket_reason",
    ),
    Sample(
        "C18",
        "stories/test_trade_lifecycle.py::test_partly_filled_entry_is_protected_for_filled_shares",
        "catalyst.daemon.protection.position_protector:PositionProtector._cancel_partial_entry",
    ),
    Sample(
        "C20",
        "stories/test_market_conditions.py::test_stop_monitor_sells_when_broker_stop_does_not_trigger",
        "catalyst.daemon.risk.stop_monitor:StopMonitor._confirmed_breach",
    ),
    Sample(
        "C26",
        "stories/test_client_behaviours_exits.py::test_exit_cancels_external_order_named_in_rejection",
        "catalyst.daemon.exits.blocking_orders:BlockingOrders.cancel_named",
    ),
    Sample(
        "C34",
        "stories/test_client_behaviours_monitoring.py::test_stale_prices_raise_alert_without_exit",
        "catalyst.daemon.risk.price_cache:PriceCache.alert_stale_prices",
    ),
    # Faults.
    Sample(
        "F024",
        "stories/test_unknown_request_outcomes.py::test_revived_order_raises_alert_and_is_cancelled",
        "catalyst.daemon.orders.entry_expiry:EntryExpiry._cancel_entry",
    ),
    Sample(
        "F028",
        "stories/test_client_behaviours_exits.py::test_replacement_chain_is_resolved_to_last_order_after_restart",
        "catalyst.daemon.reconciliation.order_adoption:OrderAdoption._adopt_replacement",
        False,
    ),
    Sample(
        "F056",
        "stories/test_order_races.py::test_surplus_is_bought_back_when_both_exits_fill",
        "catalyst.daemon.protection.orphan_positions:OrphanPositions._check_orphan",
        True,
    ),
    Sample(
        "F074",
        "stories/test_client_behaviours_monitoring.py::test_clock_skew_raises_alert_and_closes_entry_gate",
        "catalyst.daemon.trading_state.account_status:AccountStatus._follow_clock_skew",
    ),
    Sample(
        "F075",
        "stories/test_client_behaviours_monitoring.py::test_blocked_account_closes_entry_gate_until_unblocked",
        "catalyst.daemon.trading_state.account_status:follow_account_status",
    ),
    Sample(
        "F097",
        "stories/test_config_reload.py::test_config_change_is_applied_within_a_minute",
        "catalyst.daemon.runtime.config_reload:ConfigReload.reload",
    ),
    # Rules and invariants.
    Sample(
        "I8",
        "domain/test_protection.py::test_protection_is_judged_by_working_stops",
        "catalyst.domain.protection:_working_stop_qty",
        (0, False),
    ),
    Sample(
        "I13",
        "stories/test_daily_limits_and_proposals.py::test_loss_limit_flattens_and_latches_the_day",
        "catalyst.daemon.risk.daily_loss:DailyLossLimit._run_emergency_stop",
    ),
    Sample(
        "I22",
        "stories/test_doctor.py::test_doctor_reports_unprotected_shares_without_fixing_them",
        "catalyst.doctor.broker_checks:_unprotected_shares",
        (),
    ),
    Sample(
        "R13",
        "stories/test_entry_gate_and_latches.py::test_shares_arriving_after_flatten_are_exited",
        "catalyst.daemon.trading_day.trading_day:TradingDay._enforce_flat_once",
    ),
)


def survival_reason(sample: Sample, **environment: str) -> str | None:
    """Run the sample's test without its code; return why that is no proof, or None when an assertion failed."""
    with tempfile.TemporaryDirectory(prefix="catalyst-census-") as folder:
        report_file = Path(folder) / "report.json"
        variables = {
            disabled_code.TARGET: sample.code,
            disabled_code.RESULT: repr(sample.result),
            disabled_code.REPORT: str(report_file),
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "tests.disabled_code",
            f"tests/{sample.test}",
        ]
        finished = subprocess.run(
            [*command, "-p", "no:cacheprovider"],
            cwd=TESTS.parent,
            env={**os.environ, **variables, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if not report_file.exists():
            return f"pytest did not run: {finished.stdout[-2000:]}{finished.stderr[-2000:]}"
        report = json.loads(report_file.read_text())
    if not report["calls"]:
        return "the test does not call this code"
    if not report["failures"]:
        return "the test passes without this code"
    others = [each for each in report["failures"] if (each["phase"], each["error"]) != ("call", "assertion")]
    return f"the test failed by another error than an assertion: {others}" if others else None


def main(promises: Sequence[str]) -> int:
    """Print each sample and its result; return 1 when one survives."""
    survived = 0
    with tempfile.TemporaryDirectory(prefix="catalyst-census-") as folder:
        data_dir = Path(folder) / "pg"
        with embedded.start(data_dir, settings=_FAST_SETTINGS) as server:
            for sample in SAMPLES:
                if not promises or sample.promise in promises:
                    reason = survival_reason(sample, DATABASE_URL=server.dsn)
                    survived += reason is not None
                    name = sample.test.split("::")[1]
                    print(f"{sample.promise}  {name}: {reason or 'fails without its code'}", flush=True)
        embedded.remove_data_dir(data_dir)
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
