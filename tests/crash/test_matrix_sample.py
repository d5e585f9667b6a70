"""A sample of the crash matrix for every day, and the matrix tried on daemons that are known to be wrong."""

import random
from typing import Any

import pytest

from catalyst.daemon.execution import Execution, request_of
from catalyst.daemon.guard import Guard
from catalyst.daemon.reconciler import Reconciler
from catalyst.domain.order import Status
from catalyst.domain.witness import Moment
from catalyst.store import orders
from catalyst.store.orders import NewOrder, OrderRow
from tests.conftest import Server
from tests.crash.crash import Outcome, play
from tests.crash.lives import Point
from tests.crash.matrix import point_of
from tests.crash.scenarios import SCENARIOS

CHANGING = ("POST", "DELETE", "PATCH")


@pytest.fixture
def tried(postgres: Server, migrated: str) -> Any:
    """Play a scenario on a database of its own."""

    def run(name: str, *deaths: Point) -> Outcome:
        dsn = postgres.create(migrated)
        try:
            return play(SCENARIOS[name], dsn, deaths)
        finally:
            postgres.drop(dsn)

    return run


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_daemon_may_die_at_any_step(name: str, tried: Any) -> None:
    """The story is green without a death, with one at any step, and with one at a step that changes something."""
    alone = tried(name)
    assert alone.problems == []
    draw = random.Random(name)
    steps = list(alone.points)
    changing = [one for one in steps if one.label.startswith(CHANGING) or not one.label.startswith("GET")]
    for point in (draw.choice(steps), draw.choice(changing)):
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


async def _forget(self: Reconciler, source: str) -> None:
    """A recovery that does not ask about orders that may have been sent."""


async def _look_away(self: Guard) -> bool:
    """A guard that protects nothing."""
    return False


@pytest.mark.parametrize(
    ("part", "verb", "instead", "name", "death"),
    [
        (Execution, "place", _send_before_commit, "bracket_win", "POST /orders #1 after"),
        (Reconciler, "_resolve_rows", _forget, "bracket_win", "submit #1 after"),
        (Guard, "look", _look_away, "partial_entry", "hear #4 after"),
    ],
    ids=["sends-before-it-commits", "forgets-what-may-have-been-sent", "protects-nothing"],
)
def test_a_planted_bug_is_found(
    part: type, verb: str, instead: Any, name: str, death: str, tried: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon with this bug is red where it dies, and the right daemon is green there."""
    assert tried(name, point_of(death)).problems == []
    monkeypatch.setattr(part, verb, instead)
    assert tried(name, point_of(death)).problems != []
