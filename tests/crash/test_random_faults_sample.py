"""Daily sample of randomized fault runs, and a run on a daemon with a planted bug."""

from collections.abc import Callable, Iterator

import pytest

from catalyst.domain.fault_points import Moment
from catalyst.domain.fill_decision import FillDecision
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.faults.schedule import FaultSchedule
from tests.conftest import PostgresServer
from tests.crash.random_faults import EXCLUDED_KINDS, FAULT_KINDS, SCENARIOS_OF_RARE_KINDS, RandomFaultRun
from tests.crash.restartable_daemon import ANY_STEP, CrashPoint
from tests.crash.scenario_run import RandomFaults, RunOutcome, run_blocking
from tests.crash.scenarios import SCENARIOS


@pytest.fixture
def run_with_faults(
    postgres: PostgresServer, migrated: str
) -> Iterator[Callable[[RandomFaultRun], RunOutcome]]:
    """Return a function that plays a randomized fault run on a new database."""
    used = []

    def run(fault_run: RandomFaultRun) -> RunOutcome:
        used.append(postgres.create(migrated))
        return run_blocking(
            SCENARIOS[fault_run.scenario],
            used[-1],
            fault_run.crash_points,
            faults=RandomFaults(fault_run.schedule, fault_run.extras),
        )

    yield run
    for dsn in used:
        postgres.drop(dsn)


# Seed 17 drew this run before the rare kinds got scenarios of their own.
EARLIER_RUN = RandomFaultRun(
    17,
    "entry_rejected",
    (CrashPoint(ANY_STEP, 139, Moment.AFTER), CrashPoint(ANY_STEP, 29, Moment.BEFORE)),
    FaultSchedule(
        17,
        {
            FaultKind.VISIBILITY: 0.05,
            FaultKind.LEG_CANCEL: 0.2,
            FaultKind.REPLACE_REJECT: 0.2,
            FaultKind.LEG_REJECT: 0.1,
            FaultKind.STALE: 0.4,
        },
    ),
)


@pytest.mark.parametrize(
    "fault_run",
    [*(RandomFaultRun.from_seed(seed) for seed in (5, 29, 47, 71, 124, 8477)), EARLIER_RUN],
    ids=lambda fault_run: str(fault_run.seed),
)
def test_random_faults_leave_consistent_state(
    fault_run: RandomFaultRun, run_with_faults: Callable[[RandomFaultRun], RunOutcome]
) -> None:
    """After the faults end, order ledger, journal and exchange agree, everything is resolved and entries are
    allowed."""
    outcome = run_with_faults(fault_run)
    assert outcome.fired
    assert outcome.problems == [], f"{fault_run}\n" + "\n".join(outcome.log_lines)


# Seeds whose runs reach the kinds with few occasions.
RARE_KINDS_OF_SEEDS = {
    39: {FaultKind.STOP_REPLACED},
    57: {FaultKind.REPLACE_REJECT},
    79: {FaultKind.GAP},
    96: {FaultKind.NO_TRIGGER, FaultKind.STREAM_SECOND},
}


@pytest.mark.parametrize("seed", RARE_KINDS_OF_SEEDS)
def test_rare_fault_kinds_fire_and_leave_consistent_state(
    seed: int, run_with_faults: Callable[[RandomFaultRun], RunOutcome]
) -> None:
    """A seed that draws a kind with few occasions reaches one: the kind fires, and the state is consistent."""
    fault_run = RandomFaultRun.from_seed(seed)
    outcome = run_with_faults(fault_run)
    assert outcome.fired.keys() >= RARE_KINDS_OF_SEEDS[seed], fault_run
    assert outcome.problems == [], f"{fault_run}\n" + "\n".join(outcome.log_lines)


def test_random_faults_detect_exit_fill_booked_before_entry_fill(
    run_with_faults: Callable[[RandomFaultRun], RunOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is green, and red for a daemon that books the fill of a stop although the entry's fill got
    lost."""
    fault_run = RandomFaultRun(5, "bracket_loss", (), FaultSchedule(5, {FaultKind.STREAM_DROP: 0.4}))
    assert run_with_faults(fault_run).problems == []

    monkeypatch.setattr(FillDecision, "_require_entry_fills", lambda *_: None)
    assert run_with_faults(fault_run).problems != []


def test_random_faults_draw_every_fault_kind() -> None:
    """Each fault kind is drawn or excluded; 200 seeds draw each kind and each scenario."""
    assert set(FAULT_KINDS) | EXCLUDED_KINDS == set(FaultKind)
    fault_runs = [RandomFaultRun.from_seed(seed) for seed in range(1, 201)]
    assert {kind for fault_run in fault_runs for kind in fault_run.schedule.rates} == set(FAULT_KINDS)
    assert {fault_run.scenario for fault_run in fault_runs} == set(SCENARIOS)
    assert set().union(*RARE_KINDS_OF_SEEDS.values()) == SCENARIOS_OF_RARE_KINDS.keys()
