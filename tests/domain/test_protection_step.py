"""Next protection step: the table of states, and the pauses and limits after refusals."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from catalyst.domain.order import Status
from catalyst.domain.protection import Protection
from catalyst.domain.protection_step import (
    HeldShares,
    ProtectionAction,
    ProtectionRules,
    Refusal,
    StateSince,
    next_protection_step,
    placed_of,
)
from tests.domain.test_report_decision import STOP

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


def placed(*ago: float) -> dict[str, Any]:
    return {"placed": [NOW - seconds(number) for number in ago]}


@pytest.mark.parametrize(("count", "pause"), [(0, 0), (1, 5), (2, 10), (3, 20), (4, 40), (5, 80)], ids=str)
def test_order_that_does_not_protect_is_replaced_after_doubling_pauses(count: int, pause: float) -> None:
    """A working order that protects nothing is replaced at once, then after 5, 10, 20, 40 and 80 s; meanwhile
    the next read waits for the end of the pause, 5 s at most."""
    sent = [pause + 60 * number for number in range(count, 0, -1)]
    sent[-1:] = [pause] if count else []
    held = shares(BARE, 600, exits_working=True, **placed(*sent))
    assert next_protection_step(held, POSITION, NOW).action is ProtectionAction.CANCEL_EXITS
    if count:
        early = next_protection_step(held, POSITION, NOW - seconds(1))
        assert (early.action, early.check_after) == (ProtectionAction.WAIT, seconds(1))
        earlier = next_protection_step(held, POSITION, NOW - seconds(pause))
        assert earlier.check_after == seconds(min(pause, 5))


def test_order_that_does_not_protect_is_replaced_six_times_in_half_an_hour() -> None:
    """After six accepted orders in 30 minutes a working order is left alone; an order for a wrong number of shares
    is replaced all the same, and an order that works and is too large is cancelled."""
    sent = placed(1500, 1400, 1300, 1200, 1100, 1000)
    step = next_protection_step(shares(BARE, exits_working=True, **sent), POSITION, NOW)
    assert (step.action, step.check_after) == (ProtectionAction.WAIT, seconds(5))
    for state in (Protection.PARTIAL, Protection.EXCESS):
        step = next_protection_step(shares(state, exits_working=True, **sent), POSITION, NOW)
        assert step.action is ProtectionAction.CANCEL_EXITS
    later = next_protection_step(shares(BARE, exits_working=True, **sent), POSITION, NOW + seconds(301))
    assert later.action is ProtectionAction.CANCEL_EXITS


@pytest.mark.parametrize(("count", "pause"), [(2, 0), (3, 1), (4, 2), (8, 32), (12, 60)])
def test_shares_whose_orders_end_at_once_get_the_next_after_a_growing_pause(count: int, pause: float) -> None:
    """Two orders that the broker accepted and ended are replaced at once, the next after 1, 2, 4 s, to a minute."""
    held = shares(BARE, **placed(*[100.0 + pause] * (count - 1), pause))
    assert next_protection_step(held, POSITION, NOW).action is ProtectionAction.PLACE
    if pause:
        assert next_protection_step(held, POSITION, NOW - seconds(0.5)).action is ProtectionAction.WAIT


@pytest.mark.parametrize("cancel_reason", ["EXIT", "FLATTEN", "OVERNIGHT"])
def test_stops_that_an_exit_cancelled_make_no_pause_longer(cancel_reason: str) -> None:
    """Stops that protected until an exit cancelled them are no failed attempts: the next one follows at once."""
    ended = replace(STOP, status=Status.CANCELLED, cancel_reason=None)
    sent = [ended, replace(ended, status=Status.REJECTED), replace(ended, cancel_reason=cancel_reason)]
    assert placed_of([*sent, *sent]) == [ended.created_at] * 2
    assert placed_of([replace(ended, cancel_reason="UNACKNOWLEDGED"), replace(ended, cancel_reason="OCO")])


def test_no_pause_grows_while_the_session_ends() -> None:
    """In its last seconds each refused or ended stop is followed by another within a second."""
    ending = ProtectionRules(may_exit=False, time_in_force="gtc", must_outlive_session=True, may_pause=False)
    held = shares(BARE, **placed(*[1.0] * 12))
    assert next_protection_step(held, ending, NOW).action is ProtectionAction.PLACE
    held = shares(BARE, **placed(*[9.0] * 12), **refused(*[REFUSED] * 12, ago=1))
    assert next_protection_step(held, ending, NOW).action is ProtectionAction.PLACE
    early = next_protection_step(held, ending, NOW - seconds(0.5))
    assert (early.action, early.check_after) == (ProtectionAction.WAIT, seconds(0))


def test_day_orders_are_replaced_when_the_stop_must_outlive_the_session() -> None:
    """A protected share under day orders gets lasting ones when the session ends, unless its symbol takes none."""
    ending = ProtectionRules(may_exit=False, time_in_force="gtc", must_outlive_session=True)
    held = shares(Protection.PROTECTED, exits_working=True, expires_today=True)
    assert next_protection_step(held, ending, NOW).reason == "OVERNIGHT"
    assert next_protection_step(held, POSITION, NOW).action is ProtectionAction.CONFIRM
    borrowed = shares(Protection.PROTECTED, exits_working=True, expires_today=True, **refused(BORROW))
    assert next_protection_step(borrowed, ending, NOW).action is ProtectionAction.CONFIRM
    lasting = shares(Protection.PROTECTED, exits_working=True)
    assert next_protection_step(lasting, ending, NOW).action is ProtectionAction.CONFIRM
