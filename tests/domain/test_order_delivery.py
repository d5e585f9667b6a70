"""One order at a broker whose reports arrive twice, late, in any order or never; the ledger must come out
right.

The broker is a model of its own. The ledger model asks `outcome_of_report` and `after_fill` for every
decision, as the daemon does. Five planted faulty ledgers are detected.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from catalyst.domain.errors import IllegalTransition, InvariantBroken
from catalyst.domain.order import (
    NEVER_ARRIVED,
    OrderState,
    Status,
    Verdict,
    after_fill,
    outcome_of_report,
    transition,
)

QUANTITY = Decimal(100)
WORKING_STATUSES = [
    "pending_new",
    "accepted",
    "new",
    "held",
    "stopped",
    "pending_cancel",
    "pending_replace",
    "done_for_day",
]
TERMINAL_STATUSES = ["canceled", "expired", "replaced"]
LOCAL_STATUS = {
    "filled": Status.FILLED,
    "canceled": Status.CANCELLED,
    "expired": Status.EXPIRED,
    "replaced": Status.REPLACED,
    "rejected": Status.REJECTED,
}


@dataclass(frozen=True)
class Slice:
    """One execution, by the cumulative quantity after it."""

    cum_qty: Decimal
    quantity: Decimal


@dataclass(frozen=True)
class Message:
    """A report of the broker at one moment: a status, the cumulative quantity, and the slice if it was a
    fill."""

    broker_status: str
    cum_qty: Decimal
    slice: Slice | None = None


@dataclass
class Venue:
    """The broker's true state of one order."""

    broker_status: str | None = None  # None: it has not arrived
    slices: list[Slice] = field(default_factory=list)

    @property
    def filled(self) -> Decimal:
        return self.slices[-1].cum_qty if self.slices else Decimal(0)

    def fill(self, quantity: Decimal) -> Message:
        self.slices.append(Slice(self.filled + quantity, quantity))
        if self.filled == QUANTITY:
            self.broker_status = "filled"
        elif self.broker_status in WORKING_STATUSES:
            self.broker_status = "partially_filled"
        return self.message(self.slices[-1])

    def message(self, slice_: Slice | None = None) -> Message:
        assert self.broker_status is not None  # it reports nothing about an order that has not arrived
        return Message(self.broker_status, self.filled, slice_)


class LedgerModel:
    """Our side: a state, the fills, and the path of states."""

    def __init__(self) -> None:
        self.state = OrderState(Status.CREATED, QUANTITY, Decimal(0))
        self.fills: dict[Decimal, Decimal] = {}
        self.path: list[tuple[Status, Status, str | None]] = []

    def transition(self, then: Status, reason: str | None = None) -> None:
        self.path.append((self.state.status, then, self.state.rejection_reason))
        self.state = OrderState(then, QUANTITY, self.state.filled_qty, reason or self.state.rejection_reason)

    def set_filled(self, filled: Decimal) -> None:
        self.state = OrderState(self.state.status, QUANTITY, filled, self.state.rejection_reason)

    def book_fill(self, found: Slice) -> None:
        """Book each slice once, by its identity."""
        if found.cum_qty in self.fills:
            return
        then, _ = after_fill(self.state, found.quantity)
        self.fills[found.cum_qty] = found.quantity
        self.transition(then)
        self.set_filled(self.state.filled_qty + found.quantity)

    def apply(self, message: Message, venue: Venue, *, ledger_answers: bool) -> Verdict:
        """Apply as the daemon does: the slice, then the report; with missing fills, the fills, then the
        report again."""
        if message.slice is not None:
            self.book_fill(message.slice)
        verdict = self.apply_status(message)
        if verdict is Verdict.MISSING_FILLS and ledger_answers:
            for slice_ in venue.slices:
                self.book_fill(slice_)
            verdict = self.apply_status(message)
        return verdict

    def apply_status(self, message: Message) -> Verdict:
        outcome = outcome_of_report(self.state, message.broker_status, message.cum_qty)
        if outcome.verdict is Verdict.MOVE:
            assert outcome.then is not None
            self.transition(outcome.then, "BROKER: no" if outcome.then is Status.REJECTED else None)
        return outcome.verdict


class OrderDeliveryMachine(RuleBasedStateMachine):
    """The model. `ledger_type` is where faulty ledgers are planted."""

    ledger_type: type[LedgerModel] = LedgerModel

    def __init__(self) -> None:
        super().__init__()
        self.venue = Venue()
        self.ledger = self.ledger_type()
        self.undelivered: list[Message] = []
        self.in_flight = False
        self.before = Decimal(0)

    @initialize(arrives=st.sampled_from(["now", "late", "never"]))
    def send(self, arrives: str) -> None:
        """Commit the intent, then send; the response may be lost, or the request late."""
        self.ledger.transition(Status.SUBMITTED)
        self.in_flight = arrives == "late"
        if arrives == "now":
            self.arrive()

    def arrive(self) -> None:
        self.in_flight = False
        self.venue.broker_status = "pending_new"
        self.undelivered.append(self.venue.message())

    # -- at the broker

    @precondition(lambda self: self.in_flight)
    @rule()
    def arrive_late(self) -> None:
        self.arrive()

    @precondition(lambda self: self.venue.broker_status in {*WORKING_STATUSES, "partially_filled"})
    @rule(broker_status=st.sampled_from(WORKING_STATUSES))
    def change_status(self, broker_status: str) -> None:
        self.venue.broker_status = broker_status
        self.undelivered.append(self.venue.message())

    @precondition(
        lambda self: self.venue.broker_status in {*WORKING_STATUSES, "partially_filled", *TERMINAL_STATUSES}
    )
    @rule(share=st.sampled_from([1, 7, 20, 50, 100]))
    def execute(self, share: int) -> None:
        """Fill an order that works or has just ended: the exchange was first."""
        self.undelivered.append(self.venue.fill(min(Decimal(share), QUANTITY - self.venue.filled)))

    @precondition(lambda self: self.venue.broker_status in {*WORKING_STATUSES, "partially_filled"})
    @rule(broker_status=st.sampled_from([*TERMINAL_STATUSES, "rejected"]))
    def reach_terminal(self, broker_status: str) -> None:
        self.venue.broker_status = broker_status
        self.undelivered.append(self.venue.message())

    # -- delivery

    @precondition(lambda self: self.undelivered)
    @rule(data=st.data(), again=st.booleans(), ledger_answers=st.booleans())
    def deliver_message(self, data: st.DataObject, again: bool, ledger_answers: bool) -> None:
        """Deliver any message in flight, once or to be repeated."""
        place = data.draw(st.integers(0, len(self.undelivered) - 1))
        message = self.undelivered[place] if again else self.undelivered.pop(place)
        verdict = self.ledger.apply(message, self.venue, ledger_answers=ledger_answers)
        if verdict is Verdict.CONTRADICTION:
            self.assert_expected_contradiction(message)

    @precondition(lambda self: self.undelivered)
    @rule(data=st.data())
    def drop_message(self, data: st.DataObject) -> None:
        self.undelivered.pop(data.draw(st.integers(0, len(self.undelivered) - 1)))

    @rule(broker_status=st.sampled_from(["pondering", "", "cancelled"]))
    def deliver_unknown_status(self, broker_status: str) -> None:
        """An unknown status changes nothing."""
        before = self.ledger.state
        verdict = self.ledger.apply(Message(broker_status, QUANTITY), self.venue, ledger_answers=True)
        assert (verdict, self.ledger.state) == (Verdict.UNKNOWN, before)

    # -- our side

    @precondition(
        lambda self: self.venue.broker_status is None and self.ledger.state.status is Status.SUBMITTED
    )
    @rule()
    def assume_never_arrived(self) -> None:
        """Give the order up: the broker does not show it, and it may still be in flight."""
        self.ledger.transition(Status.REJECTED, NEVER_ARRIVED)

    @precondition(lambda self: self.venue.broker_status is not None)
    @rule()
    def reconcile(self) -> None:
        """Read the order and its fills: then both sides agree, and a second read changes nothing."""
        for slice_ in self.venue.slices:
            self.ledger.book_fill(slice_)
        verdict = self.ledger.apply(self.venue.message(), self.venue, ledger_answers=True)
        if verdict is Verdict.CONTRADICTION:
            self.assert_expected_contradiction(self.venue.message())
            self.ledger.state = OrderState(
                LOCAL_STATUS[self.venue.broker_status], QUANTITY, self.ledger.state.filled_qty
            )
        assert self.ledger.state.filled_qty == self.venue.filled
        assert self.ledger.fills == {one.cum_qty: one.quantity for one in self.venue.slices}
        ours = self.ledger.state.status
        if self.venue.broker_status in LOCAL_STATUS:
            assert ours is LOCAL_STATUS[self.venue.broker_status]
        else:  # working; accepted never goes back to submitted
            alive = {Status.PARTIAL_FILL} if self.venue.filled else {Status.SUBMITTED, Status.ACCEPTED}
            assert ours in alive
        settled = self.ledger.state
        assert self.ledger.apply(self.venue.message(), self.venue, ledger_answers=True) in (
            Verdict.SAME,
            Verdict.STALE,
        )
        assert self.ledger.state == settled

    def assert_expected_contradiction(self, message: Message) -> None:
        """Only one contradiction is possible: an order given up for lost ended at the broker without a fill."""
        assert self.ledger.state.status is Status.REJECTED
        assert self.ledger.state.rejection_reason == NEVER_ARRIVED
        assert message.broker_status in {"expired", "replaced"}

    # -- invariants

    @invariant()
    def fills_match_exchange(self) -> None:
        """The filled quantity never falls, is never invented, never exceeds the order, and is the sum of the
        booked slices."""
        filled = self.ledger.state.filled_qty
        assert filled >= self.before
        self.before = filled
        assert filled == sum(self.ledger.fills.values()) <= QUANTITY
        assert self.ledger.fills.items() <= {one.cum_qty: one.quantity for one in self.venue.slices}.items()

    @invariant()
    def status_matches_fills(self) -> None:
        status, filled = self.ledger.state.status, self.ledger.state.filled_qty
        assert (status is Status.FILLED) == (filled == QUANTITY)
        assert status not in {Status.SUBMITTED, Status.ACCEPTED} or filled == 0
        assert status is not Status.PARTIAL_FILL or filled > 0

    @invariant()
    def path_follows_edges(self) -> None:
        for seen, then, reason in self.ledger.path:
            transition(seen, then, reason=reason)
        self.ledger.path.clear()

    def teardown(self) -> None:
        if self.venue.broker_status is not None:
            self.reconcile()


class CumulativeLedger(LedgerModel):
    """Faulty: takes the cumulative quantity for the slice."""

    def book_fill(self, found: Slice) -> None:
        super().book_fill(Slice(found.cum_qty, found.cum_qty))


class ForgetfulLedger(LedgerModel):
    """Faulty: books a known slice again."""

    def book_fill(self, found: Slice) -> None:
        then, _ = after_fill(self.state, found.quantity)
        self.fills[found.cum_qty] = found.quantity
        self.transition(then)
        self.set_filled(self.state.filled_qty + found.quantity)


class SkippingLedger(LedgerModel):
    """Faulty: ignores a slice below the highest one."""

    def book_fill(self, found: Slice) -> None:
        if not self.fills or found.cum_qty > max(self.fills):
            super().book_fill(found)


class TrustingLedger(LedgerModel):
    """Faulty: takes the report's quantity instead of booking the slices."""

    def apply(self, message: Message, venue: Venue, *, ledger_answers: bool) -> Verdict:
        self.set_filled(max(self.state.filled_qty, message.cum_qty))
        return self.apply_status(message)


class HastyLedger(LedgerModel):
    """Faulty: lets the last report decide, without the edges."""

    def apply_status(self, message: Message) -> Verdict:
        then = LOCAL_STATUS.get(message.broker_status)
        if then is not None and then is not self.state.status:
            self.transition(then)
        return super().apply_status(message)


TestOrderDelivery = OrderDeliveryMachine.TestCase


def faulty_machine(faulty_ledger: type[LedgerModel]) -> Iterable[OrderDeliveryMachine]:
    class FaultyMachine(OrderDeliveryMachine):
        ledger_type = faulty_ledger

    return FaultyMachine  # type: ignore[return-value]


@pytest.mark.parametrize(
    "ledger", [CumulativeLedger, ForgetfulLedger, SkippingLedger, TrustingLedger, HastyLedger]
)
def test_order_delivery_model_detects_faulty_ledgers(ledger: type[LedgerModel]):
    """Each planted fault breaks an invariant within a few hundred runs."""
    search = settings(
        max_examples=500,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        print_blob=False,
    )
    with pytest.raises((AssertionError, InvariantBroken, IllegalTransition)):
        run(faulty_machine(ledger), settings=search)
