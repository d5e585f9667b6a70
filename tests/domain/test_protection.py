"""When a position is protected: the truth table."""

from decimal import Decimal
from itertools import product

import pytest

from catalyst.domain.order import Purpose, Status
from catalyst.domain.protection import LIVE_WORDS, ExitOrder, Protection, protection_of

HELD = Decimal(100)
COVERED, EXCESS, DORMANT, PENDING, PARTIAL, NAKED = Protection


def exit_of(
    quantity: int = 100,
    *,
    purpose: Purpose = Purpose.STOP_LOSS,
    status: Status = Status.ACCEPTED,
    word: str | None = "new",
    dormant: bool = False,
    family: int = 0,
) -> ExitOrder:
    return ExitOrder(purpose, status, word, Decimal(quantity), dormant, family)


STOP, HALF, SLEEPING = exit_of(), exit_of(50), exit_of(dormant=True)
TARGET = exit_of(purpose=Purpose.TAKE_PROFIT)

JUDGED = [
    ([], NAKED),
    ([TARGET], NAKED),
    ([STOP], COVERED),
    ([STOP, TARGET], COVERED),
    ([exit_of(150)], EXCESS),
    ([STOP, HALF], EXCESS),
    ([exit_of(word="held")], NAKED),
    ([exit_of(word="held"), TARGET], COVERED),
    ([exit_of(word="held", family=1), exit_of(purpose=Purpose.TAKE_PROFIT, family=2)], NAKED),
    ([exit_of(word="held"), exit_of(purpose=Purpose.TAKE_PROFIT, status=Status.CANCELLED)], NAKED),
    ([exit_of(word="held"), exit_of(purpose=Purpose.TAKE_PROFIT, status=Status.REPLACED)], COVERED),
    ([exit_of(word="pending_new")], PENDING),
    ([exit_of(word="pending_new"), TARGET], PENDING),
    ([exit_of(word="held"), exit_of(purpose=Purpose.TAKE_PROFIT, word="pending_new")], PENDING),
    ([exit_of(50, word="pending_new"), HALF], PENDING),
    ([exit_of(50, word="pending_new")], NAKED),
    ([exit_of(40, word="pending_new"), HALF], PARTIAL),
    ([exit_of(word="pending_new"), STOP], COVERED),
    ([HALF], PARTIAL),
    ([exit_of(99)], PARTIAL),
    ([HALF, HALF], COVERED),
    ([HALF, TARGET], PARTIAL),
    ([SLEEPING], DORMANT),
    ([SLEEPING, TARGET], DORMANT),
    ([HALF, SLEEPING], PARTIAL),
    ([STOP, SLEEPING], COVERED),
    ([exit_of(word="held", dormant=True)], DORMANT),
    ([exit_of(purpose=Purpose.EXIT)], NAKED),
    ([exit_of(purpose=Purpose.FLATTEN)], NAKED),
]


@pytest.mark.parametrize(("exits", "judged"), JUDGED)
def test_a_position_is_as_protected_as_its_live_stops(exits: list[ExitOrder], judged: Protection):
    """Only stops count, only their remaining shares, and only once their entry is done; order does not matter."""
    assert protection_of(HELD, exits) is judged
    assert protection_of(HELD, exits[::-1]) is judged


WORKING_WORDS = [
    "new", "accepted", "partially_filled", "held", "pending_replace", "accepted_for_bidding",
]  # fmt: skip
OTHER_WORDS = [
    "pending_cancel", "stopped", "suspended", "done_for_day", "calculated", "canceled", "expired", "filled",
    "rejected", "replaced", "pending_review", "pending_new", "pondering", None,
]  # fmt: skip


@pytest.mark.parametrize(("status", "word"), list(product(Status, [*WORKING_WORDS, *OTHER_WORDS])))
def test_a_stop_protects_while_both_sides_say_it_works(status: Status, word: str | None):
    """Our state must be working at the broker, and the broker's last word one that can still trigger."""
    ours = status in {Status.SUBMITTED, Status.ACCEPTED, Status.PARTIAL_FILL}
    expected = NAKED
    if ours:
        expected = COVERED if word in WORKING_WORDS else PENDING if word == "pending_new" else NAKED
    assert protection_of(HELD, [exit_of(status=status, word=word), TARGET]) is expected
    assert set(WORKING_WORDS) == LIVE_WORDS
