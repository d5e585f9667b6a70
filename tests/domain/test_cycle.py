"""The cycle's state machine against a table written by hand."""

from datetime import UTC, datetime
from itertools import product

import pytest

from catalyst.domain.cycle import CYCLE_EDGES, CycleStatus, advance, cycle_id
from catalyst.domain.errors import IllegalTransition

TRANSITIONS = """
idle        scanning closed
scanning    evaluating monitoring idle closed
evaluating  trading monitoring idle closed
trading     monitoring closed
monitoring  scanning idle closed
closed      completed
completed
"""
TABLE = {
    (CycleStatus(seen), CycleStatus(then))
    for seen, *ends in (line.split() for line in TRANSITIONS.strip().splitlines())
    for then in ends
}


@pytest.mark.parametrize(("seen", "then"), list(product(CycleStatus, CycleStatus)))
def test_cycle_transitions_match_table(seen: CycleStatus, then: CycleStatus):
    """The cycle advances along every edge of the table; any other pair is refused and names both states."""
    if (seen, then) in TABLE:
        assert advance(seen, then) is then
    else:
        with pytest.raises(IllegalTransition, match=f"that is {seen} cannot become {then}"):
            advance(seen, then)
    assert (seen, then) in CYCLE_EDGES or (seen, then) not in TABLE


def test_cycle_can_close_from_every_open_state():
    """Every state but the last two leads to closed, and closed only to completed."""
    assert {seen for seen, then in CYCLE_EDGES if then is CycleStatus.CLOSED} == set(CycleStatus) - {
        CycleStatus.CLOSED,
        CycleStatus.COMPLETED,
    }
    assert not [then for seen, then in CYCLE_EDGES if seen is CycleStatus.COMPLETED]


@pytest.mark.parametrize(
    ("created", "name"),
    [
        (datetime(2026, 1, 5, 13, 0, 7, tzinfo=UTC), "20260105-080007"),
        (datetime(2026, 7, 6, 12, 0, tzinfo=UTC), "20260706-080000"),
        (datetime(2026, 7, 7, 2, 30, tzinfo=UTC), "20260706-223000"),
    ],
)
def test_cycle_id_uses_new_york_creation_time(created: datetime, name: str):
    """Winter, summer, and an evening that is tomorrow in UTC."""
    assert cycle_id(created) == name
