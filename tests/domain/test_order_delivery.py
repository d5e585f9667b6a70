"""One order at a broker whose words arrive twice, late, in any order or never; and books that must come out right.

The broker here is a model of its own. The books keep a ledger of slices and ask `hear` and `after_fill` for every
decision, as the daemon does with a database underneath. Four wrong ways to keep them are planted, and found.
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
from catalyst.domain.order import NEVER_ARRIVED, OrderState, Status, Verdict, after_fill, hear, transition

QUANTITY = Decimal(100)
ALIVE = [
    "pending_new",
    "accepted",
    "new",
    "held",
    "stopped",
    "pending_cancel",
    "pending_replace",
    "done_for_day",
]
ENDS = ["canceled", "expired", "replaced"]
OURS = {
    "filled": Status.FILLED,
    "canceled": Status.CANCELLED,
    "expired": Status.EXPIRED,
    "replaced": Status.REPLACED,
    "rejected": Status.REJECTED,
}


@dataclass(frozen=True)
class Slice:
    """One execution, by the cumulative quantity after it."""

    cum: Decimal
    quantity: Decimal


@dataclass(frozen=True)
class Message:
    """What the broker said at some moment: a word, the cumulative quantity, and the slice if it was a fill."""

    word: str
    cum: Decimal
    slice: Slice | None = None


@dataclass
class Venue:
    """The broker's own truth of one order."""

    word: str | None = None  # None: it has not arrived
    slices: list[Slice] = field(default_factory=list)

    @property
    def filled(self) -> Decimal:
        return self.slices[-1].cum if self.slices else Decimal(0)

    def fill(self, quantity: Decimal) -> Message:
        self.slices.append(Slice(self.filled + quantity, quantity))
        if self.filled == QUANTITY:
            self.word = "filled"
        elif self.word in ALIVE:
            self.word = "partially_filled"
        return self.say(self.slices[-1])

    def say(self, slice_: Slice | None = None) -> Message:
        assert self.word is not None  # it says nothing about an order it has not got
        return Message(self.word, self.filled, slice_)


class Books:
    """Ours: a state, a ledger, and the path that was walked."""

    def __init__(self) -> None:
        self.state = OrderState(Status.CREATED, QUANTITY, Decimal(0))
        self.ledger: dict[Decimal, Decimal] = {}
        self.path: list[tuple[Status, Status, str | None]] = []

    def move(self, then: Status, reason: str | None = None) -> None:
        self.path.append((self.state.status, then, self.state.rejection_reason))
        self.state = OrderState(then, QUANTITY, self.state.filled_qty, reason or self.state.rejection_reason)

    def count(self, filled: Decimal) -> None:
        self.state = OrderState(self.state.status, QUANTITY, filled, self.state.rejection_reason)

    def book(self, found: Slice) -> None:
        """Each slice once, by its identity."""
        if found.cum in self.ledger:
            return
        then, _ = after_fill(self.state, found.quantity)
        self.ledger[found.cum] = found.quantity
        self.move(then)
        self.count(self.state.filled_qty + found.quantity)

    def apply(self, message: Message, venue: Venue, *, ledger_answers: bool) -> Verdict:
        """As the daemon's door: the slice, then the word; when behind, the ledger, then the word again."""
        if message.slice is not None:
            self.book(message.slice)
        verdict = self.listen(message)
        if verdict is Verdict.BEHIND and ledger_answers:
            for slice_ in venue.slices:
                self.book(slice_)
            verdict = self.listen(message)
        return verdict

    def listen(self, message: Message) -> Verdict:
        heard = hear(self.state, message.word, message.cum)
        if heard.verdict is Verdict.MOVE:
            assert heard.then is not None
            self.move(heard.then, "BROKER: no" if heard.then is Status.REJECTED else None)
        return heard.verdict


class OrderLife(RuleBasedStateMachine):
    """The model. `books` is the seam where the wrong ones are planted."""

    books_type: type[Books] = Books

    def __init__(self) -> None:
        super().__init__()
        self.venue = Venue()
        self.books = self.books_type()
        self.channel: list[Message] = []
        self.in_flight = False
        self.before = Decimal(0)

    @initialize(arrives=st.sampled_from(["now", "late", "never"]))
    def send(self, arrives: str) -> None:
        """Intent first, then the request; its answer may be lost, or the request itself late."""
        self.books.move(Status.SUBMITTED)
        self.in_flight = arrives == "late"
        if arrives == "now":
            self.land()

    def land(self) -> None:
        self.in_flight = False
        self.venue.word = "pending_new"
        self.channel.append(self.venue.say())

    # -- at the broker

    @precondition(lambda self: self.in_flight)
    @rule()
    def arrive_late(self) -> None:
        self.land()

    @precondition(lambda self: self.venue.word in {*ALIVE, "partially_filled"})
    @rule(word=st.sampled_from(ALIVE))
    def work(self, word: str) -> None:
        self.venue.word = word
        self.channel.append(self.venue.say())

    @precondition(lambda self: self.venue.word in {*ALIVE, "partially_filled", *ENDS})
    @rule(share=st.sampled_from([1, 7, 20, 50, 100]))
    def execute(self, share: int) -> None:
        """A fill, of an order that works or of one that has just ended: the exchange was first."""
        self.channel.append(self.venue.fill(min(Decimal(share), QUANTITY - self.venue.filled)))

    @precondition(lambda self: self.venue.word in {*ALIVE, "partially_filled"})
    @rule(word=st.sampled_from([*ENDS, "rejected"]))
    def end(self, word: str) -> None:
        self.venue.word = word
        self.channel.append(self.venue.say())

    # -- on the way

    @precondition(lambda self: self.channel)
    @rule(data=st.data(), again=st.booleans(), ledger_answers=st.booleans())
    def deliver(self, data: st.DataObject, again: bool, ledger_answers: bool) -> None:
        """Any message that is under way, once or to come again."""
        place = data.draw(st.integers(0, len(self.channel) - 1))
        message = self.channel[place] if again else self.channel.pop(place)
        verdict = self.books.apply(message, self.venue, ledger_answers=ledger_answers)
        if verdict is Verdict.CONTRADICTION:
            self.expect_a_contradiction(message)

    @precondition(lambda self: self.channel)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.channel.pop(data.draw(st.integers(0, len(self.channel) - 1)))

    @rule(word=st.sampled_from(["pondering", "", "cancelled"]))
    def garble(self, word: str) -> None:
        """A word nobody knows changes nothing."""
        before = self.books.state
        verdict = self.books.apply(Message(word, QUANTITY), self.venue, ledger_answers=True)
        assert (verdict, self.books.state) == (Verdict.UNKNOWN, before)

    # -- at home

    @precondition(lambda self: self.venue.word is None and self.books.state.status is Status.SUBMITTED)
    @rule()
    def give_up(self) -> None:
        """The broker never had it, as far as one can see; it may be on the way all the same."""
        self.books.move(Status.REJECTED, NEVER_ARRIVED)

    @precondition(lambda self: self.venue.word is not None)
    @rule()
    def reconcile(self) -> None:
        """The broker is asked for the order and its fills: then we agree, and asking again changes nothing."""
        for slice_ in self.venue.slices:
            self.books.book(slice_)
        verdict = self.books.apply(self.venue.say(), self.venue, ledger_answers=True)
        if verdict is Verdict.CONTRADICTION:
            self.expect_a_contradiction(self.venue.say())
            self.books.state = OrderState(OURS[self.venue.word], QUANTITY, self.books.state.filled_qty)
        assert self.books.state.filled_qty == self.venue.filled
        assert self.books.ledger == {one.cum: one.quantity for one in self.venue.slices}
        ours = self.books.state.status
        if self.venue.word in OURS:
            assert ours is OURS[self.venue.word]
        else:  # alive, and we never go back from accepted to submitted
            alive = {Status.PARTIAL_FILL} if self.venue.filled else {Status.SUBMITTED, Status.ACCEPTED}
            assert ours in alive
        settled = self.books.state
        assert self.books.apply(self.venue.say(), self.venue, ledger_answers=True) in (
            Verdict.SAME,
            Verdict.STALE,
        )
        assert self.books.state == settled

    def expect_a_contradiction(self, message: Message) -> None:
        """The only one there is: an order given up for lost has ended at the broker without a fill."""
        assert self.books.state.status is Status.REJECTED
        assert self.books.state.rejection_reason == NEVER_ARRIVED
        assert message.word in {"expired", "replaced"}

    # -- always

    @invariant()
    def fills_are_facts(self) -> None:
        """Never fewer than before, never invented, never more than ordered; the sum of the slices booked."""
        filled = self.books.state.filled_qty
        assert filled >= self.before
        self.before = filled
        assert filled == sum(self.books.ledger.values()) <= QUANTITY
        assert self.books.ledger.items() <= {one.cum: one.quantity for one in self.venue.slices}.items()

    @invariant()
    def the_state_fits_the_fills(self) -> None:
        status, filled = self.books.state.status, self.books.state.filled_qty
        assert (status is Status.FILLED) == (filled == QUANTITY)
        assert status not in {Status.SUBMITTED, Status.ACCEPTED} or filled == 0
        assert status is not Status.PARTIAL_FILL or filled > 0

    @invariant()
    def the_path_is_made_of_edges(self) -> None:
        for seen, then, reason in self.books.path:
            transition(seen, then, reason=reason)
        self.books.path.clear()

    def teardown(self) -> None:
        if self.venue.word is not None:
            self.reconcile()


class CumulativeBooks(Books):
    """Wrong: takes what is filled in all for what was filled now."""

    def book(self, found: Slice) -> None:
        super().book(Slice(found.cum, found.cum))


class ForgetfulBooks(Books):
    """Wrong: does not know a slice it has booked before."""

    def book(self, found: Slice) -> None:
        then, _ = after_fill(self.state, found.quantity)
        self.ledger[found.cum] = found.quantity
        self.move(then)
        self.count(self.state.filled_qty + found.quantity)


class SkippingBooks(Books):
    """Wrong: takes a slice that lies behind the highest one for an old acquaintance."""

    def book(self, found: Slice) -> None:
        if not self.ledger or found.cum > max(self.ledger):
            super().book(found)


class TrustingBooks(Books):
    """Wrong: believes the report's quantity instead of booking the slices."""

    def apply(self, message: Message, venue: Venue, *, ledger_answers: bool) -> Verdict:
        self.count(max(self.state.filled_qty, message.cum))
        return self.listen(message)


class HastyBooks(Books):
    """Wrong: lets the last word decide, without asking which edges there are."""

    def listen(self, message: Message) -> Verdict:
        then = OURS.get(message.word)
        if then is not None and then is not self.state.status:
            self.move(then)
        return super().listen(message)


TestOrderLife = OrderLife.TestCase


def wrong(books: type[Books]) -> Iterable[OrderLife]:
    class WrongLife(OrderLife):
        books_type = books

    return WrongLife  # type: ignore[return-value]


@pytest.mark.parametrize("books", [CumulativeBooks, ForgetfulBooks, SkippingBooks, TrustingBooks, HastyBooks])
def test_wrong_books_are_found_out(books: type[Books]):
    """The model sees what it is for: each planted fault breaks an invariant within a few hundred lives."""
    search = settings(
        max_examples=500,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        print_blob=False,
    )
    with pytest.raises((AssertionError, InvariantBroken, IllegalTransition)):
        run(wrong(books), settings=search)
