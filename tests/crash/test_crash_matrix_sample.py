"""Daily sample of the crash matrix, and the matrix run on daemons with planted bugs."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from catalyst.daemon.orders.open_requests import request_of
from catalyst.daemon.orders.outcome_resolution import OutcomeResolution
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.protection.position_protector import PositionProtector
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Status
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.store import orders
from tests.conftest import PostgresServer
from tests.crash.matrix import MAX_TRIES, parse_point
from tests.crash.restartable_daemon import CrashPoint
from tests.crash.scenario_run import RunOutcome, list_steps, run_blocking
from tests.crash.scenarios import SCENARIOS


@pytest.fixture
def run_scenario(postgres: PostgresServer, migrated: str) -> Iterator[Callable[..., RunOutcome]]:
    """Return a function that plays a scenario on a new database and repeats it when a crash point is not
    reached."""
    used = []

    def run(name: str, *crash_points: CrashPoint) -> RunOutcome:
        for _ in range(MAX_TRIES):
            used.append(postgres.create(migrated))
            outcome = run_blocking(SCENARIOS[name], used[-1], crash_points)
            if len(outcome.crashes) == len(crash_points):
                break
        return outcome

    yield run
    for dsn in used:
        postgres.drop(dsn)


@pytest.mark.parametrize("name", SCENARIOS)
def test_crash_at_sampled_step_recovers(
    name: str, run_scenario: Callable[..., RunOutcome], database: str
) -> None:
    """After a crash at a random step that changes something, the next daemon ends the scenario correctly. A crash
    that prevents a fault of the scenario is followed by one at another step."""
    steps = asyncio.run(list_steps(SCENARIOS[name], database))
    points = [step for step in steps if not step.label.startswith("GET")]
    for point in random.Random(name).sample(points, MAX_TRIES):
        outcome = run_scenario(name, point)
        assert outcome.problems == [], f"{name} {point}\n" + "\n".join(outcome.log_lines)
        if not outcome.silent_rules:
            break
    assert outcome.silent_rules == []


def test_crash_point_name_parses_back() -> None:
    """The name of a crash point parses back to the same point."""
    for point in (CrashPoint("submit", 1, Moment.BEFORE), CrashPoint("GET /orders/*", 12, Moment.AFTER)):
        assert parse_point(str(point)) == point


# -- daemons with a planted bug


async def _send_before_commit(self: OrderSubmission, new: NewOrder, *, note: str) -> OrderRow:
    """Submit the order first and write its row only after the broker's response."""
    at = self.clock.now()
    report = await self.broker.submit(request_of(new))  # type: ignore[arg-type]  # has the same fields
    async with self.store.tx("submit") as conn:
        order_id = await orders.insert(conn, new, status=Status.SUBMITTED, at=at, source="submit", note=note)
    await self.ledger.apply_report(report, "submit")
    async with self.store.read() as conn:
        return await orders.get(conn, order_id)


async def _skip_resolution(self: OutcomeResolution, row: OrderRow) -> Status:
    """Leave an order with unknown outcome unresolved."""
    return row.status


async def _skip_protection(self: PositionProtector) -> bool:
    """Protect nothing."""
    return False


@pytest.mark.parametrize(
    ("component", "method", "planted", "name", "crash_point"),
    [
        (OrderSubmission, "place", _send_before_commit, "bracket_win", "POST /orders #1 after"),
        (OutcomeResolution, "_resolve", _skip_resolution, "bracket_win", "submit #1 after"),
        (PositionProtector, "check", _skip_protection, "partial_entry", "apply_report #4 after"),
    ],
    ids=["sends-before-it-commits", "skips-outcome-resolution", "protects-nothing"],
)
def test_crash_matrix_detects_planted_bug(
    component: type,
    method: str,
    planted: Any,
    name: str,
    crash_point: str,
    run_scenario: Callable[..., RunOutcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run at this crash point is green for the right daemon and red for the daemon with the bug."""
    assert run_scenario(name, parse_point(crash_point)).problems == []
    monkeypatch.setattr(component, method, planted)
    assert run_scenario(name, parse_point(crash_point)).problems != []
