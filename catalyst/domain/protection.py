"""When is a position protected? Pure judgement over what the broker shows of its exits."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.order import PositionSide, Purpose, Status
from catalyst.domain.price import round_stop, round_target

# An exit that is working at the broker, in the broker's own words.
LIVE_STATUSES: Final = frozenset(
    {"new", "accepted", "partially_filled", "held", "pending_replace", "accepted_for_bidding"}
)
# On its way to the venue: most often for milliseconds, and once for ever.
UNACKNOWLEDGED_STATUS: Final = "pending_new"
UNACKNOWLEDGED_REASON: Final = (
    "UNACKNOWLEDGED"  # why a stop was cancelled that the venue had never said yes to
)


class Protection(StrEnum):
    PROTECTED = "protected"  # live stops at the broker for exactly what is held
    EXCESS = "excess"  # live stops for more than is held: they would turn it over
    INACTIVE_LEGS = (
        "inactive_legs"  # legs exist, but their entry is not completely filled: they protect nothing
    )
    PENDING = "pending"  # exits for what is held, which the venue has not acknowledged
    PARTIAL = "partial"  # a live stop for less than is held
    UNPROTECTED = "unprotected"


@dataclass(frozen=True, slots=True)
class ExitOrder:
    """One exit of a position, as our books and the broker's last word show it."""

    purpose: Purpose
    status: Status
    broker_status: str | None
    remaining: Decimal
    inactive: bool  # its entry may still fill
    group: int = 0  # a stop and the target that goes with it have the same


def protection_of(quantity: Decimal, exits: list[ExitOrder]) -> Protection:
    """Judge whether `quantity` shares are covered by `exits`.

    A stop that is `held` under a completely filled entry counts while its sibling target works: the target carries
    the quantity and the exchange elects the stop itself. A stop `held` under an unfinished entry, or beside a target
    that is gone, counts for nothing. What the venue has not acknowledged yet may never live.
    """
    live, asleep = _live_stop_qty(exits, LIVE_STATUSES)
    if live == quantity:
        return Protection.PROTECTED
    if live > quantity:
        return Protection.EXCESS
    if _live_stop_qty(exits, LIVE_STATUSES | {UNACKNOWLEDGED_STATUS})[0] == quantity:
        return Protection.PENDING
    if live > 0:
        return Protection.PARTIAL
    return Protection.INACTIVE_LEGS if asleep else Protection.UNPROTECTED


def _live_stop_qty(exits: list[ExitOrder], statuses: AbstractSet[str]) -> tuple[Decimal, bool]:
    """Shares under stops that work, in these words of the broker; and whether others sleep."""
    working = (Status.SUBMITTED, Status.ACCEPTED, Status.PARTIAL_FILL)
    # A target that ends `replaced` gave way to its stop, which has just been elected.
    carrying = (*working, Status.REPLACED)
    carried = {
        one.group
        for one in exits
        if one.purpose is Purpose.TAKE_PROFIT
        and one.status in carrying
        and (one.broker_status != UNACKNOWLEDGED_STATUS or UNACKNOWLEDGED_STATUS in statuses)
    }
    stops = [
        one
        for one in exits
        if one.purpose is Purpose.STOP_LOSS
        and one.status in working
        and one.broker_status in statuses
        and (one.broker_status != "held" or one.inactive or one.group in carried)
    ]
    return sum((one.remaining for one in stops if not one.inactive), Decimal(0)), bool(stops)


def default_levels(
    side: PositionSide, reference: Decimal, *, stop_pct: float, target_pct: float
) -> tuple[Decimal, Decimal]:
    """(stop, target) on tick, so many percent from `reference` (dollars): for shares no chart gave levels to."""
    away, towards = Decimal(str(stop_pct)) / 100, Decimal(str(target_pct)) / 100
    sign = 1 if side is PositionSide.LONG else -1
    stop = round_stop(reference * (1 - sign * away), side)
    return stop, round_target(reference * (1 + sign * towards), side)
