"""When a position is protected: the truth table."""

from decimal import Decimal
from itertools import product

import pytest

from catalyst.domain.order import Purpose, Status
from catalyst.domain.protection import LIVE_STATUSES, ExitOrder, Protection, protection_of

HELD = Decimal(100)
PROTECTED, EXCESS, INACTIVE_LEGS, PENDING, PARTIAL, UNPROTECTED = Protection


def exit_of(
    quantity: int = 100,
    *,
    purpose: Purpose = Purpose.STOP_LOSS,
    status: Status = Status.ACCEPTED,
    broker_status: str | None = "new",
    dormant: bool = False,
    group: int = 0,
) -> ExitOrder:
    return ExitOrder(purpose, status, broker_status, Decimal(quantity), dormant, group)


STOP, HALF, INACTIVE = exit_of(), exit_of(50), exit_of(dormant=True)
TARGET = exit_of(purpose=Purpose.TAKE_PROFIT)

CASES = [
    ([], UNPROTECTED),
    ([TARGET], UNPROTECTED),
    ([STOP], PROTECTED),
    ([STOP, TARGET], PROTECTED),
    ([exit_of(150)], EXCESS),
    ([STOP, HALF], EXCESS),
    ([exit_of(broker_status="held")], UNPROTECTED),
    ([exit_of(broker_status="held"), TARGET], PROTECTED),
    ([exit_of(broker_status="held", group=1), exit_of(purpose=Purpose.TAKE_PROFIT, group=2)], UNPROTECTED),
    (
        [exit_of(broker_status="held"), exit_of(purpose=Purpose.TAKE_PROFIT, status=Status.CANCELLED)],
        UNPROTECTED,
    ),
    (
        [exit_of(broker_status="held"), exit_of(purpose=Purpose.TAKE_PROFIT, status=Status.REPLACED)],
        PROTECTED,
    ),
    ([exit_of(broker_status="pending_new")], PENDING),
    ([exit_of(broker_status="pending_new"), TARGET], PENDING),
    (
        [exit_of(broker_status="held"), exit_of(purpose=Purpose.TAKE_PROFIT, broker_status="pending_new")],
        PENDING,
    ),
    ([exit_of(50, broker_status="pending_new"), HALF], PENDING),
    ([exit_of(50, broker_status="pending_new")], UNPROTECTED),
    ([exit_of(40, broker_status="pending_new"), HALF], PARTIAL),
    ([exit_of(broker_status="pending_new"), STOP], PROTECTED),
    ([HALF], PARTIAL),
    ([exit_of(99)], PARTIAL),
    ([HALF, HALF], PROTECTED),
    ([HALF, TARGET], PARTIAL),
    ([INACTIVE], INACTIVE_LEGS),
    ([INACTIVE, TARGET], INACTIVE_LEGS),
    ([HALF, INACTIVE], PARTIAL),
    ([STOP, INACTIVE], PROTECTED),
    ([exit_of(broker_status="held", dormant=True)], INACTIVE_LEGS),
    ([exit_of(purpose=Purpose.EXIT)], UNPROTECTED),
    ([exit_of(purpose=Purpose.FLATTEN)], UNPROTECTED),
]


@pytest.mark.parametrize(("exits", "judged"), CASES)
def test_protection_is_judged_by_working_stops(exits: list[ExitOrder], judged: Protection):
    """Only stops count, only their remaining shares, and only once their entry is complete; order does not
    matter."""
    assert protection_of(HELD, exits) is judged
    assert protection_of(HELD, exits[::-1]) is judged


WORKING_STATUSES = [
    "new", "accepted", "partially_filled", "held", "pending_replace", "accepted_for_bidding",
]  # fmt: skip
OTHER_STATUSES = [
    "pending_cancel", "stopped", "suspended", "done_for_day", "calculated", "canceled", "expired", "filled",
    "rejected", "replaced", "pending_review", "pending_new", "pondering", None,
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "broker_status"), list(product(Status, [*WORKING_STATUSES, *OTHER_STATUSES]))
)
def test_stop_protects_while_local_and_broker_status_work(status: Status, broker_status: str | None):
    """Our state must be working, and the broker's last status one that can still trigger."""
    ours = status in {Status.SUBMITTED, Status.ACCEPTED, Status.PARTIAL_FILL}
    expected = UNPROTECTED
    if ours:
        expected = (
            PROTECTED
            if broker_status in WORKING_STATUSES
            else PENDING
            if broker_status == "pending_new"
            else UNPROTECTED
        )
    assert protection_of(HELD, [exit_of(status=status, broker_status=broker_status), TARGET]) is expected
    assert set(WORKING_STATUSES) == LIVE_STATUSES
