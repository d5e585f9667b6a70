"""Next protection step: decides what to do next about the stop of shares that we hold. Pure.

Positions, orphans and the positions of a database outage use the same rules. Each of them reads the exits in its own
way and sends the order in its own way.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Generic, TypeVar

from catalyst.domain.order import Purpose, Status
from catalyst.domain.protection import UNACKNOWLEDGED_REASON, Protection
from catalyst.domain.refusals import UNBOOKED_REASONS
from catalyst.domain.rows import OrderRow

EXCESS_GRACE: Final = timedelta(seconds=3)  # after a partial fill of the target the broker reduces the stop
ACKNOWLEDGE_GRACE: Final = timedelta(seconds=5)  # an order that stays unacknowledged protects nothing
REPLACED_REASON: Final = "OCO"  # the cancel reason of exits that a new OCO replaces
EXCESS_REASON: Final = "EXCESS"  # the cancel reason of stops for more shares than are held
MAX_REFUSALS: Final = 4  # refusals in a row after which a position is exited
MAX_UNBOOKED_REFUSALS: Final = 15  # the same for UNBOOKED_CODES
# The broker has not booked the new shares yet: it accepts the same order some seconds later.
UNBOOKED_CODES: Final = UNBOOKED_REASONS
HARD_TO_BORROW: Final = "HARD_TO_BORROW"  # the broker accepts only day orders
PRICE_RULE: Final = "PRICE_RULE"  # the price is beyond the stop or the target already
PRICE_RULE_VALID_FOR: Final = timedelta(seconds=30)  # afterwards the price may be between the levels again
MAX_OCO_REFUSALS: Final = 2  # after that many, shares that may not be exited get a simple stop
FIRST_PAUSE: Final = timedelta(seconds=1)
MAX_PAUSE: Final = timedelta(seconds=60)
# Accepted orders of this time count as attempts to protect; each makes the pause before the next longer.
ATTEMPT_WINDOW: Final = timedelta(minutes=30)
LONG_PAUSE_AFTER: Final = (
    6  # refusals and accepted orders, after which a pause is read every few seconds only
)
FREE_PLACEMENTS: Final = 3  # accepted orders that the broker ended: so many are replaced without a pause
FIRST_REPLACEMENT_PAUSE: Final = timedelta(seconds=5)
LIMITED_CHECK_INTERVAL: Final = timedelta(seconds=5)  # while a pause keeps an order that does not protect
MAX_REPLACEMENTS: Final = 6  # later an order that the broker shows and that does not protect is left alone
OVERNIGHT_REASON: Final = (
    "OVERNIGHT"  # the cancel reason of day orders that a good-till-cancelled stop replaces
)

# The cancel reasons of working orders that are cancelled for an exit, or for an order that stays.
EXIT_CANCEL_REASONS: Final = (Purpose.EXIT.upper(), Purpose.FLATTEN.upper(), OVERNIGHT_REASON)

SharesKey = TypeVar("SharesKey", bound=Hashable)  # our position id, our orphan id, or a symbol


class ProtectionAction(StrEnum):
    CONFIRM = "confirm"  # every share is under a working stop
    WAIT = "wait"
    CANCEL_ENTRY = "cancel_entry"  # cancel the rest of a partly filled entry
    CANCEL_EXITS = "cancel_exits"  # cancel exits that do not protect exactly these shares
    PLACE = "place"
    EXIT = "exit"  # the broker does not accept a stop


@dataclass(frozen=True, slots=True)
class Refusal:
    """An order of protection that the broker refused: our code, ": ", the broker's message; and when we sent it."""

    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ProtectionRules:
    """What differs between kinds of shares.

    `may_exit`: exit the shares when no stop is accepted; else try for ever, with growing pauses. `may_cancel_exits`:
    working exits that do not protect exactly these shares are replaced; else they are left as they are.
    `confirm_after`: how long the shares must have been seen without a stop. `time_in_force`: of the orders.
    `must_outlive_session`: working day orders are replaced too. `may_pause`: pauses grow with refusals and
    accepted orders; false while the session ends.
    """

    may_exit: bool
    may_cancel_exits: bool = True
    confirm_after: timedelta = timedelta(0)
    time_in_force: str = "day"
    must_outlive_session: bool = False
    may_pause: bool = True


@dataclass(frozen=True, slots=True)
class HeldShares:
    """What is known about the shares of one position or orphan.

    `since`: when `state` was first seen. `entry_since`: when the entry that still works had its first fill; None
    without such an entry. `entry_grace`: how long it may fill. `refusals`: of the last orders, oldest first, back to
    the last accepted one. `earlier_refusals`: those before it. `placed`: when the orders were sent that the broker
    accepted, oldest first. `expires_today`: a working order is a day order.
    """

    state: Protection
    since: datetime
    exits_working: bool
    refusals: Sequence[Refusal] = ()
    earlier_refusals: Sequence[Refusal] = ()
    placed: Sequence[datetime] = ()
    expires_today: bool = False
    entry_since: datetime | None = None
    entry_grace: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class ProtectionStep:
    """The next action; `reason` of a cancel or an exit, order class and time in force of an order to place.

    `check_after`: the next read is useless before, unless a report changes an order.
    """

    action: ProtectionAction
    reason: str = ""
    order_class: str = ""
    time_in_force: str = ""
    check_after: timedelta = timedelta(0)


WAIT: Final = ProtectionStep(ProtectionAction.WAIT)


def next_protection_step(shares: HeldShares, rules: ProtectionRules, now: datetime) -> ProtectionStep:
    """Return what to do next. At most one request follows: afterwards the caller reads again and asks again."""
    seen_for = now - shares.since
    if shares.state is Protection.PROTECTED:
        # A symbol that takes day orders only keeps its day orders.
        if rules.must_outlive_session and shares.expires_today and not _takes_day_orders_only(shares):
            return _cancel(OVERNIGHT_REASON, rules)
        return ProtectionStep(ProtectionAction.CONFIRM)
    if shares.state is Protection.EXCESS:
        return WAIT if seen_for < EXCESS_GRACE else _cancel(EXCESS_REASON, rules)
    if shares.state is Protection.PENDING and seen_for < ACKNOWLEDGE_GRACE:
        return WAIT
    if shares.entry_since is not None:
        filling_for = now - shares.entry_since
        return WAIT if filling_for < shares.entry_grace else ProtectionStep(ProtectionAction.CANCEL_ENTRY)
    if seen_for < rules.confirm_after:
        return WAIT
    if shares.exits_working:
        wait = _time_to_replace(shares, now)
        if shares.state is not Protection.PARTIAL and wait > timedelta(0):
            return ProtectionStep(ProtectionAction.WAIT, check_after=wait)
        is_pending = shares.state is Protection.PENDING
        return _cancel(UNACKNOWLEDGED_REASON if is_pending else REPLACED_REASON, rules)
    return _place_or_exit(shares, rules, now)


def _cancel(reason: str, rules: ProtectionRules) -> ProtectionStep:
    return ProtectionStep(ProtectionAction.CANCEL_EXITS, reason=reason) if rules.may_cancel_exits else WAIT


def refusals_of(rows: Sequence[OrderRow]) -> list[Refusal]:
    """Return the refusals since the last order that the broker accepted; `rows` are the orders sent, oldest first."""
    accepted = [number for number, row in enumerate(rows, 1) if row.status is not Status.REJECTED]
    return all_refusals_of(rows[accepted[-1] if accepted else 0 :])


def all_refusals_of(rows: Sequence[OrderRow]) -> list[Refusal]:
    """Return the refusals of all these orders, oldest first."""
    return [
        Refusal(str(row.rejection_reason), row.created_at) for row in rows if row.status is Status.REJECTED
    ]


def _place_or_exit(shares: HeldShares, rules: ProtectionRules, now: datetime) -> ProtectionStep:
    """Place an OCO, after a pause when the last one was refused; after too many refusals do what the rules allow."""
    refusals = shares.refusals
    if rules.may_exit and refusals and _must_exit(refusals, now):
        return ProtectionStep(ProtectionAction.EXIT, reason=refusals[-1].text)
    is_growing = rules.may_pause and not rules.may_exit
    is_early = rules.may_pause and _is_too_early_to_place(shares, now)
    if is_in_pause(refusals, now, growing=is_growing) or is_early:
        is_long = len(refusals) + len(shares.placed) > LONG_PAUSE_AFTER
        return ProtectionStep(
            ProtectionAction.WAIT,
            check_after=LIMITED_CHECK_INTERVAL if is_long and rules.may_pause else timedelta(0),
        )
    ever = (*shares.earlier_refusals, *refusals)
    borrowed = [refusal for refusal in ever if refusal.text.startswith(HARD_TO_BORROW)]
    use_simple_stop = not rules.may_exit and len(ever) - len(borrowed) >= MAX_OCO_REFUSALS
    return ProtectionStep(
        ProtectionAction.PLACE,
        order_class="simple" if use_simple_stop else "oco",
        time_in_force="day" if borrowed else rules.time_in_force,
    )


def placed_of(rows: Sequence[OrderRow]) -> list[datetime]:
    """Return when the orders were sent that the broker accepted and that did not protect, oldest first.

    `rows` are the orders sent. Those that protected until we cancelled them for an exit do not count.
    """
    return [
        row.created_at
        for row in rows
        if row.status is not Status.REJECTED and row.cancel_reason not in EXIT_CANCEL_REASONS
    ]


def _recently_placed(shares: HeldShares, now: datetime) -> list[datetime]:
    return [at for at in shares.placed if now - at < ATTEMPT_WINDOW]


def _time_to_replace(shares: HeldShares, now: datetime) -> timedelta:
    """Return how long working orders that do not protect are left alone, at most LIMITED_CHECK_INTERVAL.

    The broker shows each replacement in the same state, so the pause doubles, and MAX_REPLACEMENTS end it.
    """
    placed = _recently_placed(shares, now)
    if not placed:
        return timedelta(0)
    if len(placed) >= MAX_REPLACEMENTS:
        return LIMITED_CHECK_INTERVAL
    pause: timedelta = FIRST_REPLACEMENT_PAUSE * 2 ** (len(placed) - 1)
    return min(placed[-1] + pause - now, LIMITED_CHECK_INTERVAL)


def _is_too_early_to_place(shares: HeldShares, now: datetime) -> bool:
    """Return true during the pause after several orders that the broker accepted and ended; it doubles."""
    placed = _recently_placed(shares, now)
    if len(placed) < FREE_PLACEMENTS:
        return False
    pause: timedelta = min(FIRST_PAUSE * 2 ** (len(placed) - FREE_PLACEMENTS), MAX_PAUSE)
    return now - placed[-1] < pause


def _takes_day_orders_only(shares: HeldShares) -> bool:
    ever = (*shares.earlier_refusals, *shares.refusals)
    return any(refusal.text.startswith(HARD_TO_BORROW) for refusal in ever)


def _must_exit(refusals: Sequence[Refusal], now: datetime) -> bool:
    last = refusals[-1]
    if last.text.startswith(PRICE_RULE) and now - last.at < PRICE_RULE_VALID_FOR:
        return True
    return len(refusals) >= (MAX_UNBOOKED_REFUSALS if last.text.startswith(UNBOOKED_CODES) else MAX_REFUSALS)


def is_in_pause(refusals: Sequence[Refusal], now: datetime, *, growing: bool = True) -> bool:
    """Return true during the pause after these refusals.

    A growing pause doubles with each refusal; it stays short while the broker has not booked the shares yet.
    """
    if not refusals:
        return False
    doublings = len(refusals) - 1 if growing else 0
    if refusals[-1].text.startswith(UNBOOKED_CODES):
        doublings = max(0, len(refusals) - MAX_UNBOOKED_REFUSALS)
    pause: timedelta = min(FIRST_PAUSE * 2 ** min(doublings, 10), MAX_PAUSE)
    return now - refusals[-1].at < pause


@dataclass
class StateSince(Generic[SharesKey]):
    """Remembers since when the shares of each key have been in their state of protection.

    The states without a working stop for all shares count as one.
    """

    _seen: dict[SharesKey, tuple[Protection, datetime]] = field(default_factory=dict)

    def update(self, key: SharesKey, state: Protection, now: datetime) -> datetime:
        """Return when this state was first seen without another one between."""
        if state in (Protection.PARTIAL, Protection.INACTIVE_LEGS):
            state = Protection.UNPROTECTED
        previous, since = self._seen.get(key, (state, now))
        since = since if previous is state else now
        self._seen[key] = state, since
        return since

    def keep(self, keys: set[SharesKey]) -> None:
        """Forget every other key."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in keys}
