"""Next protection step: the table of states, and the pauses and limits after refusals."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from catalyst.domain.protection import Protection
from catalyst.domain.protection_step import (
    HeldShares,
    ProtectionAction,
    ProtectionRules,
    Refusal,
    StateSince,
    next_protection_step,
)

NOW = datetime(2026, 6, 17, 14, 30, tzinfo=UTC)
POSITION = ProtectionRules(may_exit=True)
ORPHAN = ProtectionRules(may_exit=False, time_in_force="gtc")
OUTAGE = ProtectionRules(may_exit=True, may_cancel_exits=False, confirm_after=timedelta(seconds=2))
GRACE = timedelta(seconds=8)
UNBOOKED = "NOT_EXIT: oco orders must be exit orders"
REFUSED = "SUBMIT_FAILED: trade denied"
BORROW = 'HARD_TO_BORROW: only day orders are allowed for hard-to-borrow asset "AAPL"'


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def shares(
    state: Protection, seen_for: float = 60, *, exits_working: bool = False, **facts: Any
) -> HeldShares:
    return HeldShares(state, NOW - seconds(seen_for), exits_working, **facts)


def refused(*texts: str, ago: float = 3600) -> dict[str, Any]:
    return {"refusals": [Refusal(text, NOW - seconds(ago)) for text in texts]}


BARE = Protection.UNPROTECTED


@pytest.mark.parametrize(
    ("held", "rules", "action", "reason"),
    [
        (shares(Protection.PROTECTED, exits_working=True), POSITION, "confirm", ""),
        (shares(Protection.EXCESS, 2.9, exits_working=True), POSITION, "wait", ""),
        (shares(Protection.EXCESS, 3, exits_working=True), POSITION, "cancel_exits", "EXCESS"),
        (shares(Protection.PENDING, 4.9, exits_working=True), POSITION, "wait", ""),
        (shares(Protection.PENDING, 5, exits_working=True), POSITION, "cancel_exits", "UNACKNOWLEDGED"),
        (shares(Protection.INACTIVE_LEGS, entry_since=NOW - seconds(7.9), entry_grace=GRACE), POSITION, "wait", ""),
        (shares(Protection.INACTIVE_LEGS, entry_since=NOW - GRACE, entry_grace=GRACE), POSITION, "cancel_entry", ""),
        (shares(Protection.PARTIAL, 0, exits_working=True), POSITION, "cancel_exits", "OCO"),
        (shares(Protection.PARTIAL, exits_working=True), OUTAGE, "wait", ""),
        (shares(Protection.EXCESS, exits_working=True), OUTAGE, "wait", ""),
        (shares(Protection.PENDING, exits_working=True), OUTAGE, "wait", ""),
        (shares(BARE, 0), POSITION, "place", ""),
        (shares(BARE, 1.9), OUTAGE, "wait", ""),
        (shares(BARE, 2), OUTAGE, "place", ""),
        # A pause after a refusal: for an orphan it doubles, but not while the broker has not booked the shares.
        (shares(BARE, **refused(REFUSED, REFUSED, REFUSED, ago=0.9)), POSITION, "wait", ""),
        (shares(BARE, **refused(REFUSED, REFUSED, REFUSED, ago=1)), POSITION, "place", ""),
        (shares(BARE, **refused(REFUSED, REFUSED, REFUSED, ago=3.9)), ORPHAN, "wait", ""),
        (shares(BARE, **refused(REFUSED, REFUSED, REFUSED, ago=4)), ORPHAN, "place", ""),
        (shares(BARE, **refused(*[UNBOOKED] * 14, ago=1)), POSITION, "place", ""),
        (shares(BARE, **refused(*[UNBOOKED] * 18, ago=7.9)), ORPHAN, "wait", ""),
        (shares(BARE, **refused(*[REFUSED] * 40, ago=59)), ORPHAN, "wait", ""),
        (shares(BARE, **refused(*[REFUSED] * 40, ago=60)), ORPHAN, "place", ""),
        # Too many refusals exit a position, and never an orphan.
        (shares(BARE, **refused(*[REFUSED] * 4, ago=0)), POSITION, "exit", REFUSED),
        (shares(BARE, **refused(*[REFUSED] * 3, UNBOOKED, ago=1)), POSITION, "place", ""),
        (shares(BARE, **refused(*[UNBOOKED] * 15, ago=0)), POSITION, "exit", UNBOOKED),
        (shares(BARE, **refused("PRICE_RULE: stop", ago=29)), POSITION, "exit", "PRICE_RULE: stop"),
        (shares(BARE, **refused("PRICE_RULE: stop", ago=30)), POSITION, "place", ""),
        (shares(BARE, **refused("PRICE_RULE: stop")), ORPHAN, "place", ""),
        # Working exits are cancelled before anything is placed.
        (shares(BARE, exits_working=True, **refused(*[REFUSED] * 9)), POSITION, "cancel_exits", "OCO"),
    ],
)  # fmt: skip
def test_next_protection_step_follows_the_table(
    held: HeldShares, rules: ProtectionRules, action: str, reason: str
) -> None:
    step = next_protection_step(held, rules, NOW)
    assert (step.action, step.reason) == (action, reason)


@pytest.mark.parametrize(
    ("earlier", "refusals", "rules", "order_class", "time_in_force"),
    [
        ([], [], POSITION, "oco", "day"),
        ([], [], ORPHAN, "oco", "gtc"),
        ([], [BORROW], ORPHAN, "oco", "day"),
        ([BORROW], [], ORPHAN, "oco", "day"),
        ([], [BORROW, REFUSED], ORPHAN, "oco", "day"),
        ([], [REFUSED, REFUSED], ORPHAN, "simple", "gtc"),
        ([REFUSED, REFUSED], [], ORPHAN, "simple", "gtc"),
        ([REFUSED, BORROW], [REFUSED], ORPHAN, "simple", "day"),
        ([], [REFUSED, REFUSED], POSITION, "oco", "day"),
    ],
)
def test_order_to_place_depends_on_the_refusals(
    earlier: list[str], refusals: list[str], rules: ProtectionRules, order_class: str, time_in_force: str
) -> None:
    """An orphan's order keeps the form that the broker accepted after earlier refusals."""
    before = refused(*earlier)["refusals"]
    step = next_protection_step(shares(BARE, earlier_refusals=before, **refused(*refusals)), rules, NOW)
    assert step.action is ProtectionAction.PLACE
    assert (step.order_class, step.time_in_force) == (order_class, time_in_force)


def test_state_since_restarts_when_the_kind_of_state_changes() -> None:
    """The states without a stop for every share count as one; each key has its own time."""
    states = StateSince[str]()
    assert states.update("AAPL", Protection.INACTIVE_LEGS, NOW) == NOW
    assert states.update("MSFT", Protection.PENDING, NOW + seconds(1)) == NOW + seconds(1)
    assert states.update("AAPL", Protection.PARTIAL, NOW + seconds(2)) == NOW
    assert states.update("AAPL", Protection.UNPROTECTED, NOW + seconds(3)) == NOW
    assert states.update("AAPL", Protection.PENDING, NOW + seconds(4)) == NOW + seconds(4)
    assert states.update("AAPL", Protection.UNPROTECTED, NOW + seconds(5)) == NOW + seconds(5)
    states.keep({"AAPL"})
    assert states.update("MSFT", Protection.PENDING, NOW + seconds(6)) == NOW + seconds(6)
    assert states.update("AAPL", Protection.UNPROTECTED, NOW + seconds(7)) == NOW + seconds(5)
