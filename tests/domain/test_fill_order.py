"""Order of fills: the fills of one decision are booked in the order in which they happened."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import permutations

import pytest

from catalyst.domain.fill_decision import FillRows
from catalyst.domain.order import Status
from catalyst.domain.report import Fill
from tests.domain.test_report_decision import AT, ENTRY, HELD, STOP, decided, fill_of

SLICES = [(30, 30), (50, 80), (20, 100)]


def slices_of(row_name: str) -> list[Fill]:
    """Return three fills of the entry or of the stop, a second and a dollar apart."""
    row = ENTRY if row_name == "entry" else STOP
    return [
        replace(
            fill_of(row, quantity, cum_qty), at=AT + timedelta(seconds=number), price=Decimal(190 + number)
        )
        for number, (quantity, cum_qty) in enumerate(SLICES)
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_position_opens_with_its_first_slice_whatever_the_order_of_arrival(order: tuple[int, ...]) -> None:
    """The position begins with the first slice of its entry, and the journal lists the slices as they happened."""
    slices = slices_of("entry")
    row = replace(ENTRY, status=Status.ACCEPTED)
    decision = decided([row], None, *(slices[number] for number in order), fill_rows=FillRows())
    (opened,) = decision.opened
    assert opened.fill == slices[0]
    assert [booked.fill for booked in decision.booked] == slices
    assert [booked.held_qty for booked in decision.booked] == [30, 80, 100]
    statuses = [line.to_status for line in decision.order_changes[0].journal]
    assert statuses == [Status.PARTIAL_FILL, Status.PARTIAL_FILL, Status.FILLED]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_position_closes_with_its_last_slice_whatever_the_order_of_arrival(order: tuple[int, ...]) -> None:
    """The position ends at the time and the price of the last slice of its exit."""
    slices = slices_of("stop")
    decision = decided([STOP], None, *(slices[number] for number in order), fill_rows=HELD)
    assert decision.position is not None
    assert decision.position.at == slices[-1].at
    assert decision.position.close_reason is not None
    assert f"@ ${slices[-1].price}" in decision.position.close_reason
    assert [booked.held_qty for booked in decision.booked] == [70, 20, 0]
