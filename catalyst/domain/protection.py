"""When is a position protected? Pure judgement over what the broker shows of its exits."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.order import Purpose, Status

# An exit that is working at the broker, in the broker's own words.
LIVE_WORDS: Final = frozenset(
    {"new", "accepted", "partially_filled", "held", "pending_new", "pending_replace", "accepted_for_bidding"}
)


class Protection(StrEnum):
    COVERED = "covered"  # a live stop at the broker for the whole quantity
    DORMANT = "dormant"  # legs exist, but their entry is not completely filled: they protect nothing
    PARTIAL = "partial"  # a live stop for less than is held
    NAKED = "naked"


@dataclass(frozen=True, slots=True)
class ExitOrder:
    """One exit of a position, as our books and the broker's last word show it."""

    purpose: Purpose
    status: Status
    broker_status: str | None
    remaining: Decimal
    dormant: bool  # its entry may still fill


def protection_of(quantity: Decimal, exits: list[ExitOrder]) -> Protection:
    """Judge whether `quantity` shares are covered by `exits`.

    A stop that is `held` under a completely filled entry counts: its sibling target carries the quantity and
    the exchange elects the stop itself. A stop `held` under an unfinished entry counts for nothing.
    """
    stops = [
        order
        for order in exits
        if order.purpose is Purpose.STOP_LOSS
        and order.status in (Status.SUBMITTED, Status.ACCEPTED, Status.PARTIAL_FILL)
        and order.broker_status in LIVE_WORDS
    ]
    live = sum((order.remaining for order in stops if not order.dormant), Decimal(0))
    if live >= quantity:
        return Protection.COVERED
    if live > 0:
        return Protection.PARTIAL
    return Protection.DORMANT if stops else Protection.NAKED
