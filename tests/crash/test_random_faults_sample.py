"""A few storms for every day, and the storms tried on a daemon that is known to be wrong."""

from collections.abc import Callable, Iterator

import pytest

from catalyst.daemon.orders.ledger import Books
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.faults.schedule import Schedule
from tests.conftest import Server
from tests.crash.random_faults import KINDS, NOT_HERE, Storm
from tests.crash.scenario_run import Outcome, play
from tests.crash.scenarios import SCENARIOS


@pytest.fixture
def weathered(postgres: Server, migrated: str) -> Iterator[Callable[[Storm], Outcome]]:
    """Play a storm on a database of its own."""
    used = []

    def run(storm: Storm) -> Outcome:
        used.append(postgres.create(migrated))
        return play(SCENARIOS[storm.scenario], used[-1], storm.deaths, storm=storm.schedule)

    yield run
    for dsn in used:
        postgres.drop(dsn)


@pytest.mark.parametrize("seed", [5, 17, 29, 47, 71, 124])
def test_a_storm_leaves_nothing_behind(seed: int, weathered: Callable[[Storm], Outcome]) -> None:
    """When the weather has cleared, books, journal and exchange agree, everything is resolved, entries may go on."""
    storm = Storm.of(seed)
    outcome = weathered(storm)
    assert outcome.problems == [], f"{storm}\n" + "\n".join(outcome.lines)


def test_a_daemon_that_books_sales_before_purchases_is_found(
    weathered: Callable[[Storm], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Green as it is; red when it books a stop's fill although its entry's was lost."""
    storm = Storm(5, "bracket_loss", (), Schedule(5, {FaultKind.STREAM_DROP: 0.4}))
    assert weathered(storm).problems == []

    async def trust(self: Books, *_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(Books, "_require_entries", trust)
    assert weathered(storm).problems != []


def test_every_kind_of_fault_has_its_weather() -> None:
    """A kind is drawn, or it is said why not; two hundred seeds draw them all, and every story."""
    assert set(KINDS) | NOT_HERE == set(FaultKind)
    storms = [Storm.of(seed) for seed in range(1, 201)]
    assert {kind for storm in storms for kind in storm.schedule.rates} == set(KINDS)
    assert {storm.scenario for storm in storms} == set(SCENARIOS)
