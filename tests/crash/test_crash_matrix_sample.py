"""A sample of the crash matrix for every day, and the matrix tried on daemons that are known to be wrong."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from catalyst.daemon.orders.submission import Execution, request_of
from catalyst.daemon.protection.position_protector import Guard
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Status
from catalyst.store import orders
from catalyst.store.orders import NewOrder, OrderRow
from tests.conftest import Server
from tests.crash.matrix import TRIES, point_of
from tests.crash.restartable_daemon import Point
from tests.crash.scenario_run import Outcome, play, steps
from tests.crash.scenarios import SCENARIOS


@pytest.fixture
def tried(postgres: Server, migrated: str) -> Iterator[Callable[..., Outcome]]:
    """Play a scenario on a database of its own; again, where the step did not come up."""
    used = []

    def run(name: str, *deaths: Point) -> Outcome:
        for _ in range(TRIES):
            used.append(postgres.create(migrated))
            outcome = play(SCENARIOS[name], used[-1], deaths)
            if len(outcome.died) == len(deaths):
                break
        return outcome

    yield run
    for dsn in used:
        postgres.drop(dsn)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_daemon_may_die_at_any_step(name: str, tried: Callable[..., Outcome], database: str) -> None:
    """Dead at a step drawn from those that change something, the daemon is followed by one that ends the story
    as it must end."""
    taken = asyncio.run(steps(SCENARIOS[name], database))
    point = random.Random(name).choice([point for point in taken if not point.label.startswith("GET")])
    outcome = tried(name, point)
    assert outcome.problems == [], f"{name} {point}\n" + "\n".join(outcome.lines)


def test_points_are_named_so_that_they_can_be_replayed() -> None:
    """A point's name is read back as the point."""
    for point in (Point("submit", 1, Moment.BEFORE), Point("GET /orders/*", 12, Moment.AFTER)):
        assert point_of(str(point)) == point


# -- daemons that are known to be wrong


async def _send_before_commit(self: Execution, new: NewOrder, *, note: str) -> OrderRow:
    """A submit that writes its row only when the broker has answered."""
    at = self.clock.now()
    report = await self.broker.submit(request_of(new))  # type: ignore[arg-type]  # it has the same fields
    async with self.store.tx("submit") as conn:
        order_id = await orders.insert(conn, new, status=Status.SUBMITTED, at=at, source="submit", note=note)
    await self.books.hear(report, "submit")
    async with self.store.read() as conn:
        return await orders.get(conn, order_id)


async def _forget(self: Execution, row: OrderRow) -> Status:
    """A resolver that does not ask about orders that may have been sent."""
    return row.status


async def _look_away(self: Guard) -> bool:
    """A guard that protects nothing."""
    return False


@pytest.mark.parametrize(
    ("part", "verb", "instead", "name", "death"),
    [
        (Execution, "place", _send_before_commit, "bracket_win", "POST /orders #1 after"),
        (Execution, "_ask", _forget, "bracket_win", "submit #1 after"),
        (Guard, "look", _look_away, "partial_entry", "hear #4 after"),
    ],
    ids=["sends-before-it-commits", "forgets-what-may-have-been-sent", "protects-nothing"],
)
def test_a_planted_bug_is_found(
    part: type,
    verb: str,
    instead: Any,
    name: str,
    death: str,
    tried: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A daemon with this bug is red where it dies, and the right daemon is green there."""
    assert tried(name, point_of(death)).problems == []
    monkeypatch.setattr(part, verb, instead)
    assert tried(name, point_of(death)).problems != []
