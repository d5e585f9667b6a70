"""The order state machine against a table written by hand: the edges, and the effect of each status and fill."""

from decimal import Decimal
from itertools import product

import pytest

from catalyst.domain.errors import IllegalTransition
from catalyst.domain.order import (
    EDGES,
    EXITS,
    NEVER_ARRIVED,
    TERMINAL,
    WORKING,
    EdgeKind,
    OrderState,
    PositionSide,
    Purpose,
    ReportOutcome,
    Side,
    Status,
    Verdict,
    after_fill,
    outcome_of_report,
    position_side_for,
    side_for,
    status_of,
    transition,
)
from catalyst.store.pool import Store

QUANTITY = Decimal(100)

# n: an edge. l: an edge that alerts the operator. a: late, and only for an order that had never arrived.
TRANSITION_TABLE = """
              cr su ac pa fi ca re ex rp
created       .  n  .  .  .  n  n  .  .
submitted     .  .  n  n  n  n  n  n  n
accepted      .  .  .  n  n  n  n  n  n
partial_fill  .  .  .  n  n  n  n  n  n
filled        .  .  .  .  .  .  .  .  .
cancelled     .  .  .  l  l  .  .  .  .
rejected      .  .  a  a  a  a  .  .  .
expired       .  .  .  l  l  .  .  .  .
replaced      .  .  .  l  l  .  .  .  .
"""
ROWS = [line.split() for line in TRANSITION_TABLE.strip().splitlines()[1:]]
TABLE = {  # the columns are the states of the rows, in their order
    (Status(seen), Status(then)): mark
    for seen, *marks in ROWS
    for (then, *_), mark in zip(ROWS, marks, strict=True)
}
REASONS = [None, "WASH_TRADE: the other side is working", NEVER_ARRIVED]


def order(status: Status, filled: int = 0, reason: str | None = None) -> OrderState:
    return OrderState(status, QUANTITY, Decimal(filled), reason)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize(("seen", "then"), list(product(Status, Status)))
def test_order_transitions_match_table(seen: Status, then: Status, reason: str | None):
    """A pair is allowed with its kind, or is no edge; a rejected order revives only if it had never arrived."""
    mark = TABLE[seen, then]
    if mark == "n":
        assert transition(seen, then, reason=reason) is EdgeKind.NORMAL
    elif mark == "l" or (mark == "a" and reason == NEVER_ARRIVED):
        assert transition(seen, then, reason=reason) is EdgeKind.LATE
    else:
        with pytest.raises(IllegalTransition, match=f"that is {seen} cannot become {then}"):
            transition(seen, then, reason=reason)


async def test_order_edges_in_database_match_table(store: Store):
    """order_edges holds the table: the same pairs and kinds, a revival bound to its reason, and corrections
    only for other pairs, never out of `filled`."""
    kinds = {"n": "normal", "l": "late", "a": "late"}
    async with store.read() as conn:
        rows = await conn.fetch("SELECT from_status, to_status, kind, reason FROM order_edges")
    drawn = {pair: kinds[mark] for pair, mark in TABLE.items() if mark != "."}
    stored = {(Status(r["from_status"]), Status(r["to_status"])): r["kind"] for r in rows}
    assert {pair: kind for pair, kind in stored.items() if kind != "correction"} == drawn
    assert {pair: str(kind) for pair, kind in EDGES.items()} == drawn
    assert {
        (Status(r["from_status"]), Status(r["to_status"])) for r in rows if r["reason"] == NEVER_ARRIVED
    } == {pair for pair, mark in TABLE.items() if mark == "a"}
    assert all(r["reason"] in (None, NEVER_ARRIVED) for r in rows)
    repairs = {pair for pair, kind in stored.items() if kind == "correction"}
    assert {before for before, _ in repairs} == TERMINAL - {Status.FILLED}
    assert len(rows) == len(stored)


def test_every_order_status_is_terminal_or_working():
    """The two sets divide the states: five terminal, four working."""
    ends = {Status.FILLED, Status.CANCELLED, Status.REJECTED, Status.EXPIRED, Status.REPLACED}
    assert ends == TERMINAL
    assert set(Status) - ends == WORKING
    assert set(Purpose) - {Purpose.ENTRY} == EXITS


# =: right already. >: move. L: a late move. <: stale. +: read the fills first. x: no edge leads there.
# The row's number is what is booked; a terminal report carries the same, `par` 40 of 100, `fil` 100.
REPORT_OUTCOMES = """
                    new acc par fil can rej exp rep
created 0           >   x   +   +   >   >   x   x
submitted 0         =   >   +   +   >   >   >   >
accepted 0          <   =   +   +   >   >   >   >
partial_fill 40     <   <   =   +   >   >   >   >
filled 100          <   <   <   =   x   x   x   x
cancelled 0         <   <   +   +   =   x   x   x
cancelled 40        <   <   <   +   =   x   x   x
rejected 0          <   <   +   +   x   =   x   x
never_arrived 0     L   L   +   +   L   =   x   x
expired 0           <   <   +   +   x   x   =   x
expired 40          <   <   <   +   x   x   =   x
replaced 0          <   <   +   +   x   x   x   =
replaced 40         <   <   <   +   x   x   x   =
"""
REPORTS = {
    "new": ("new", Status.SUBMITTED),
    "acc": ("accepted", Status.ACCEPTED),
    "par": ("partially_filled", Status.PARTIAL_FILL),
    "fil": ("filled", Status.FILLED),
    "can": ("canceled", Status.CANCELLED),
    "rej": ("rejected", Status.REJECTED),
    "exp": ("expired", Status.EXPIRED),
    "rep": ("replaced", Status.REPLACED),
}
VERDICTS = {
    "=": Verdict.SAME,
    ">": Verdict.MOVE,
    "L": Verdict.MOVE,
    "<": Verdict.STALE,
    "+": Verdict.MISSING_FILLS,
    "x": Verdict.CONTRADICTION,
}


def report_cases() -> list[tuple[str, int, str, str]]:
    lines = REPORT_OUTCOMES.strip().splitlines()
    names = lines[0].split()
    return [
        (state, int(booked), name, mark)
        for state, booked, *marks in (line.split() for line in lines[1:])
        for name, mark in zip(names, marks, strict=True)
    ]


@pytest.mark.parametrize(("state", "booked", "name", "mark"), report_cases())
def test_report_outcomes_match_table(state: str, booked: int, name: str, mark: str):
    """For every state and status the outcome is that of the table; a move names its target and its kind."""
    reason = NEVER_ARRIVED if state == "never_arrived" else "BROKER: no" if state == "rejected" else None
    seen = Status.REJECTED if state == "never_arrived" else Status(state)
    broker_status, then = REPORTS[name]
    cumulative = {"new": 0, "acc": 0, "par": 40, "fil": 100}.get(name, booked)
    outcome = outcome_of_report(order(seen, booked, reason), broker_status, Decimal(cumulative))
    assert outcome.verdict is VERDICTS[mark]
    if mark == ">":
        assert outcome == ReportOutcome(Verdict.MOVE, then, EdgeKind.NORMAL)
    elif mark == "L":  # working after all: it continues as accepted, whatever the exact status
        revived = Status.CANCELLED if name == "can" else Status.ACCEPTED
        assert outcome == ReportOutcome(Verdict.MOVE, revived, EdgeKind.LATE)
    else:
        assert outcome.then is then


@pytest.mark.parametrize("status", sorted(WORKING - {Status.CREATED}))
def test_terminal_report_waits_for_missing_fills(status: Status):
    """A cancel that carries 70 filled, and a `filled` that carries too little, move nothing: the fills come
    first."""
    booked = 40 if status is Status.PARTIAL_FILL else 0
    assert outcome_of_report(order(status, booked), "canceled", Decimal(70)).verdict is Verdict.MISSING_FILLS
    assert (
        outcome_of_report(order(status, booked), "filled", Decimal(booked)).verdict is Verdict.MISSING_FILLS
    )
    assert outcome_of_report(order(status, booked), "filled", Decimal(0)).verdict is Verdict.MISSING_FILLS


@pytest.mark.parametrize("broker_status", ["canceled", "expired", "replaced", "rejected"])
def test_terminal_report_older_than_last_fill_is_stale(broker_status: str):
    """With 40 booked, a terminal report at 20 is stale; a newer one will come."""
    assert (
        outcome_of_report(order(Status.PARTIAL_FILL, 40), broker_status, Decimal(20)).verdict is Verdict.STALE
    )


@pytest.mark.parametrize("broker_status", ["new", "held", "pending_cancel", "partially_filled"])
def test_partial_fill_is_kept_for_every_working_status(broker_status: str):
    """With a filled quantity every working status means a partial fill."""
    for cumulative in (20, 40):
        assert (
            outcome_of_report(order(Status.PARTIAL_FILL, 40), broker_status, Decimal(cumulative)).verdict
            is Verdict.SAME
        )


def test_last_share_moves_order_to_filled():
    """40 of 100 make a partial fill, the other 60 make it filled, in one edge from any state."""
    for status in (Status.SUBMITTED, Status.ACCEPTED):
        assert after_fill(order(status), Decimal(40)) == (Status.PARTIAL_FILL, EdgeKind.NORMAL)
        assert after_fill(order(status), QUANTITY) == (Status.FILLED, EdgeKind.NORMAL)
    partial = order(Status.PARTIAL_FILL, 40)
    assert after_fill(partial, Decimal(10)) == (Status.PARTIAL_FILL, EdgeKind.NORMAL)
    assert after_fill(partial, Decimal(60)) == (Status.FILLED, EdgeKind.NORMAL)


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.EXPIRED, Status.REPLACED])
@pytest.mark.parametrize("booked", [0, 40])
def test_fill_after_terminal_status_is_booked_as_late(status: Status, booked: int):
    """The exchange filled first and the report came later: the shares are ours, and an alert is raised."""
    assert after_fill(order(status, booked), Decimal(20)) == (Status.PARTIAL_FILL, EdgeKind.LATE)
    assert after_fill(order(status, booked), QUANTITY - booked) == (Status.FILLED, EdgeKind.LATE)


@pytest.mark.parametrize("reason", [None, "HALTED", NEVER_ARRIVED])
def test_fill_of_a_rejected_order_is_booked_as_late(reason: str | None):
    """The shares are at the broker, whatever our row says: a rejected order fills, and an alert is raised."""
    assert after_fill(order(Status.REJECTED, 0, reason), Decimal(20)) == (Status.PARTIAL_FILL, EdgeKind.LATE)


def test_fill_of_an_unsent_or_filled_order_is_booked_as_late():
    """A fill of an order that was never sent, or of one that is filled, is booked too."""
    assert after_fill(order(Status.CREATED), Decimal(20)) == (Status.PARTIAL_FILL, EdgeKind.LATE)
    assert after_fill(order(Status.FILLED, 100), Decimal(1)) == (Status.FILLED, EdgeKind.LATE)
    assert after_fill(order(Status.ACCEPTED), Decimal(101)) == (Status.FILLED, EdgeKind.LATE)


# The statuses of Alpaca's orders documentation, with nothing filled, 40 of 100, and all.
BROKER_STATUSES = """
pending_new           submitted  partial_fill  filled
new                   submitted  partial_fill  filled
pending_review        submitted  partial_fill  filled
accepted              accepted   partial_fill  filled
accepted_for_bidding  accepted   partial_fill  filled
held                  accepted   partial_fill  filled
stopped               accepted   partial_fill  filled
suspended             accepted   partial_fill  filled
pending_cancel        accepted   partial_fill  filled
pending_replace       accepted   partial_fill  filled
done_for_day          accepted   partial_fill  filled
calculated            accepted   partial_fill  filled
partially_filled      accepted   partial_fill  filled
filled                filled     filled        filled
canceled              cancelled  cancelled     cancelled
expired               expired    expired       expired
rejected              rejected   rejected      rejected
replaced              replaced   replaced      replaced
"""


@pytest.mark.parametrize("line", BROKER_STATUSES.strip().splitlines())
def test_every_broker_status_maps_to_a_status(line: str):
    """Every status of the broker's list has a state, at every filled quantity."""
    broker_status, *states = line.split()
    for filled, state in zip((0, 40, 100), states, strict=True):
        assert status_of(broker_status, Decimal(filled), QUANTITY) is Status(state)


@pytest.mark.parametrize(
    "broker_status", ["", "cancelled", "NEW", "Filled", "not_found", "partial_fill", "pending"]
)
def test_unknown_broker_status_changes_nothing(broker_status: str):
    """An unknown status, also one of our own or in capitals, gives no state and no move."""
    for filled in (0, 40, 100):
        assert status_of(broker_status, Decimal(filled), QUANTITY) is None
    for status in Status:
        assert outcome_of_report(order(status), broker_status, Decimal(40)) == ReportOutcome(Verdict.UNKNOWN)


SIDES = {
    (PositionSide.LONG, Purpose.ENTRY): Side.BUY,
    (PositionSide.LONG, Purpose.STOP_LOSS): Side.SELL,
    (PositionSide.LONG, Purpose.TAKE_PROFIT): Side.SELL,
    (PositionSide.LONG, Purpose.EXIT): Side.SELL,
    (PositionSide.LONG, Purpose.FLATTEN): Side.SELL,
    (PositionSide.SHORT, Purpose.ENTRY): Side.SELL,
    (PositionSide.SHORT, Purpose.STOP_LOSS): Side.BUY,
    (PositionSide.SHORT, Purpose.TAKE_PROFIT): Side.BUY,
    (PositionSide.SHORT, Purpose.EXIT): Side.BUY,
    (PositionSide.SHORT, Purpose.FLATTEN): Side.BUY,
}


@pytest.mark.parametrize(("held", "purpose"), list(product(PositionSide, Purpose)))
def test_order_side_follows_from_position_side_and_purpose(held: PositionSide, purpose: Purpose):
    """Entries have the position's side, every exit the opposite one; the way back finds the position's side."""
    assert side_for(held, purpose) is SIDES[held, purpose]
    assert position_side_for(SIDES[held, purpose], purpose) is held
