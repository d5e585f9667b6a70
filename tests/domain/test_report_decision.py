"""Decisions about broker reports: a table of cases over every (status, report) pair, and every fill in every status."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from catalyst.domain import order as machine
from catalyst.domain.fill_decision import Circumstances, FillRows
from catalyst.domain.order import NEVER_ARRIVED, PositionSide, Purpose, Side, Status, Verdict
from catalyst.domain.report import Fill, OrderReport, fills_by_order
from catalyst.domain.report_changes import ReportDecision
from catalyst.domain.report_decision import ReportRows, decide, decide_batch, leg_row
from catalyst.domain.rows import ExecutionRow, OrderRow, Orphan, PositionRow, changed
from tests.domain.test_order_state_machine import REPORTS, report_cases

AT = datetime(2026, 3, 9, 15, 0, tzinfo=UTC)
QUANTITY = Decimal(100)
PRICE = Decimal(190)
GIVEN = Circumstances(AT, "poll")

ENTRY = OrderRow(
    order_id=1, client_order_id="cat-e", alpaca_order_id="b-e", cycle_id="20260309-093000", security_id=1,
    symbol="AAPL", position_id=None, parent_order_id=None, replaces=None, order_purpose=Purpose.ENTRY,
    position_side=PositionSide.LONG, side=Side.BUY, order_class="bracket", order_type="limit", time_in_force="day",
    quantity=QUANTITY, limit_price=PRICE, stop_price=None, bracket_stop=Decimal(188), bracket_target=Decimal(194),
    status=Status.SUBMITTED, filled_qty=Decimal(0), filled_avg_price=None, broker_status="new", epoch=1,
    origin="catalyst", signal_id=None, attempts=1, last_attempt_at=AT, created_at=AT, submitted_at=AT,
    expires_at=None, closed_at=None, rejection_reason=None, cancel_reason=None,
)  # fmt: skip
FILLED_ENTRY = replace(
    ENTRY, status=Status.FILLED, filled_qty=QUANTITY, broker_status="filled", position_id=7
)
STOP = replace(
    ENTRY, order_id=2, client_order_id="cat-s", alpaca_order_id="b-s", order_purpose=Purpose.STOP_LOSS,
    side=Side.SELL, order_type="stop", order_class="oco", stop_price=Decimal(188), limit_price=None,
    parent_order_id=3, position_id=7, status=Status.ACCEPTED, origin="broker", bracket_stop=None, bracket_target=None,
)  # fmt: skip
TARGET = replace(
    STOP, order_id=3, client_order_id="cat-t", alpaca_order_id="b-t", order_purpose=Purpose.TAKE_PROFIT,
    order_type="limit", limit_price=Decimal(194), stop_price=None, parent_order_id=None, origin="catalyst",
)  # fmt: skip
POSITION = PositionRow(
    position_id=7, cycle_id=ENTRY.cycle_id, security_id=1, symbol="AAPL", sector=None, side=PositionSide.LONG,
    quantity=QUANTITY, entered_qty=QUANTITY, cost=QUANTITY * PRICE, exited_qty=Decimal(0), proceeds=Decimal(0),
    entry_price=PRICE, stop_loss=Decimal(188), take_profit=Decimal(194), entry_time=AT, exit_time=None,
    status="open", realized_pnl=Decimal(0), unrealized_pnl=Decimal(0), last_price=PRICE, protected_at=None,
    unprotected_seconds=Decimal(0), close_reason=None, carried=False,
)  # fmt: skip
HELD = FillRows(position=POSITION, parents={3: TARGET}, position_orders=(FILLED_ENTRY, STOP, TARGET))


def report_of(row: OrderRow, broker_status: str, filled: int = 0, **facts: object) -> OrderReport:
    """Return a report of the row's order with this status and cumulative filled quantity."""
    values: dict[str, object] = {
        "broker_id": row.alpaca_order_id or "b-e", "client_order_id": row.client_order_id, "symbol": row.symbol,
        "side": row.side, "quantity": row.quantity, "filled_qty": Decimal(filled),
        "filled_avg_price": PRICE if filled else None, "broker_status": broker_status, "order_type": row.order_type,
        "order_class": row.order_class, "time_in_force": "day", "limit_price": row.limit_price,
        "stop_price": row.stop_price, "raw": {"status": broker_status},
    }  # fmt: skip
    return OrderReport(**{**values, **facts})  # type: ignore[arg-type] -- the facts of a test


def fill_of(row: OrderRow, quantity: int = 100, cum_qty: int | None = None, **ids: str) -> Fill:
    """Return a fill of `quantity` shares of the row's order."""
    return Fill(
        str(row.alpaca_order_id),
        Decimal(quantity if cum_qty is None else cum_qty),
        Decimal(quantity),
        PRICE,
        AT,
        **ids,
    )


def decided(
    rows: Sequence[OrderRow],
    report: OrderReport | None,
    *fills: Fill,
    fill_rows: FillRows | None = None,
    given: Circumstances = GIVEN,
) -> ReportDecision:
    """Return the decision from rows that were just read."""
    decision = decide(ReportRows.just_read(rows, fill_rows), report, fills, given)
    assert decision is not None
    return decision


@pytest.mark.parametrize(("state", "booked", "name", "mark"), report_cases())
def test_report_changes_order_as_table_says(state: str, booked: int, name: str, mark: str) -> None:
    """Every (status, report) pair moves the order, leaves it, asks for fills, or goes to quarantine exactly once."""
    reason = NEVER_ARRIVED if state == "never_arrived" else "BROKER: no" if state == "rejected" else None
    status = Status.REJECTED if state == "never_arrived" else Status(state)
    row = replace(
        ENTRY, status=status, filled_qty=Decimal(booked), rejection_reason=reason, broker_status="held"
    )
    broker_status, then = REPORTS[name]
    cumulative = {"new": 0, "acc": 0, "par": 40, "fil": 100}.get(name, booked)
    report = report_of(row, broker_status, cumulative)
    decision = decided([row], report)
    after = decision.order_changes[0].after if decision.order_changes else row
    if mark in ">L":
        revived = Status.CANCELLED if name == "can" else Status.ACCEPTED
        assert after.status is (revived if mark == "L" else then)
        assert [(line.from_status, line.to_status) for line in decision.order_changes[0].journal] == [
            (status, after.status)
        ]
    else:
        assert after.status is status
        assert all(not change.journal for change in decision.order_changes)
    assert (decision.missing_fills == ("b-e",)) == (mark == "+")
    assert [item.kind for item in decision.quarantined] == (["unknown"] if mark == "x" else [])
    assert [alert.event for alert in decision.alerts] == (["ORDER_REVIVED"] if mark == "L" else [])
    assert decision.stale_reports == (mark == "<")
    assert after.filled_qty == row.filled_qty
    repeated = decided([after], report)
    assert not repeated.quarantined
    assert all(not change.journal for change in repeated.order_changes)


@pytest.mark.parametrize("purpose", [Purpose.ENTRY, Purpose.STOP_LOSS])
@pytest.mark.parametrize("status", list(Status))
def test_fill_is_booked_in_every_status_without_any_edge(
    monkeypatch: pytest.MonkeyPatch, status: Status, purpose: Purpose
) -> None:
    """A fill is a fact: with no edge at all, an entry opens its position and a stop closes it, in every status."""
    monkeypatch.setattr(machine, "EDGES", {})
    filled = Decimal(40) if status in (Status.PARTIAL_FILL, Status.FILLED) else Decimal(0)
    base, fill_rows = (ENTRY, FillRows()) if purpose is Purpose.ENTRY else (STOP, HELD)
    row = replace(base, status=status, filled_qty=filled, rejection_reason="AUTH_REFUSED: no")
    decision = decided([row, TARGET], None, fill_of(row, 60, int(filled) + 60), fill_rows=fill_rows)
    assert [booked.fill.quantity for booked in decision.booked] == [60]
    change = decision.order_changes[0]
    assert change.after.filled_qty == filled + 60
    assert change.after.status is (Status.FILLED if filled else Status.PARTIAL_FILL)
    expected = status in (Status.SUBMITTED, Status.ACCEPTED, Status.PARTIAL_FILL)
    assert [alert.event for alert in decision.alerts] == ([] if expected else ["LATE_FILL"])
    if purpose is Purpose.ENTRY:
        assert decision.opened[0].state.quantity == 60
    else:
        assert decision.position is not None
        assert decision.position.state.quantity == 40


def test_fill_beyond_the_ordered_quantity_is_booked_with_an_alert() -> None:
    """Shares that the broker bought beyond the order are held; they are booked and reported."""
    row = replace(FILLED_ENTRY, filled_avg_price=PRICE)
    first = ExecutionRow(row.order_id, QUANTITY, QUANTITY, PRICE, "x", None)
    rows = FillRows(executions={row.order_id: [first]}, position=POSITION)
    decision = decided([row], None, fill_of(row, 20, 120), fill_rows=rows)
    assert decision.order_changes[0].after.filled_qty == 120
    assert decision.position is not None
    assert decision.position.state.quantity == 120
    assert [alert.event for alert in decision.alerts] == ["OVERFILLED"]


def test_repeated_fill_is_not_booked_and_only_adds_its_missing_id() -> None:
    """One execution, from the stream and from the activities, is one row with both ids."""
    booked = ExecutionRow(1, QUANTITY, QUANTITY, PRICE, "x-1", None)
    rows = FillRows(executions={1: [booked]}, position=POSITION)
    repeated = decided([FILLED_ENTRY], None, fill_of(ENTRY, execution_id="x-1"), fill_rows=rows)
    assert repeated.is_empty
    with_id = decided([FILLED_ENTRY], None, fill_of(ENTRY, activity_id="a-1"), fill_rows=rows)
    assert not with_id.booked
    assert [order_id for order_id, _ in with_id.known_fills] == [1]


@pytest.mark.parametrize(("quantity", "cum_qty"), [(90, 100), (60, 60), (100, 150), (0, 50), (60, 50)])
def test_fill_that_overlaps_another_goes_to_quarantine(quantity: int, cum_qty: int) -> None:
    """Shares that are booked already cannot fill again under other numbers; nothing is counted twice."""
    row = replace(FILLED_ENTRY, quantity=Decimal(200), status=Status.PARTIAL_FILL)
    rows = FillRows(
        executions={1: [ExecutionRow(1, QUANTITY, QUANTITY, PRICE, "x", None)]}, position=POSITION
    )
    decision = decided([row], None, fill_of(row, quantity, cum_qty), fill_rows=rows)
    assert not decision.booked
    assert not decision.order_changes
    assert [item.alert.event for item in decision.quarantined] == ["FILL_UNEXPLAINED"]


def test_slices_average_exactly_in_any_order_of_arrival() -> None:
    """Two slices give the same totals and average whichever arrives first."""
    row = replace(ENTRY, status=Status.ACCEPTED)
    early = replace(fill_of(row, 30, 30), price=Decimal("190.01"))
    late = replace(fill_of(row, 70, 100), price=Decimal("190.04"))
    averages = set()
    for fills in ((early, late), (late, early)):
        decision = decided([row], None, *fills, fill_rows=FillRows())
        averages.add((decision.order_changes[0].after.filled_avg_price, decision.opened[0].state.cost))
        assert decision.order_changes[0].after.status is Status.FILLED
    assert averages == {(Decimal("190.031"), Decimal("19003.10"))}


def test_reports_of_a_group_are_one_decision() -> None:
    """A triggered stop: its fill and the cancel of its target are written together, so no moment has neither."""
    report = report_of(TARGET, "canceled", legs=(report_of(STOP, "filled", 100),))
    first = decided([TARGET, STOP], report)
    assert first.missing_fills == ("b-s",)
    decision = decided([TARGET, STOP], report, fill_of(STOP), fill_rows=HELD)
    assert {change.after.order_purpose: change.after.status for change in decision.order_changes} == {
        Purpose.TAKE_PROFIT: Status.CANCELLED,
        Purpose.STOP_LOSS: Status.FILLED,
    }
    assert decision.position is not None
    assert decision.position.state.quantity == 0
    assert str(decision.position.close_reason).startswith("STOP_LOSS_HIT")
    assert not decision.missing_fills


def test_report_of_an_order_without_row_is_external_only_when_rows_were_read() -> None:
    """A cache without the order proves nothing; a read without it does."""
    report = report_of(ENTRY, "new")
    assert decide(ReportRows({}, {}, current=False), report, (), GIVEN) is None
    decision = decided([], report)
    assert (decision.verdict, decision.unknown_broker_ids) == (None, {"b-e"})


def test_entry_misses_fills_that_the_broker_shows() -> None:
    """A report with more filled shares than booked asks for the fills and books none by itself."""
    decision = decided([ENTRY], report_of(ENTRY, "filled", 100))
    assert (decision.missing_fills, decision.is_entry) == (("b-e",), True)
    assert decision.verdict is Verdict.MISSING_FILLS
    assert not decision.booked


def test_exit_fill_waits_for_the_fills_of_its_working_entry() -> None:
    """A leg can fill only after its whole entry: with 40 of 100 booked, the entry is read first."""
    entry = replace(FILLED_ENTRY, status=Status.PARTIAL_FILL, filled_qty=Decimal(40))
    leg = replace(STOP, parent_order_id=1)
    held = replace(POSITION, quantity=Decimal(40), entered_qty=Decimal(40), cost=40 * PRICE)
    rows = FillRows(position=held, parents={1: entry}, position_orders=(entry, leg))
    waiting = decided([entry, leg], None, fill_of(leg), fill_rows=rows)
    assert waiting.unread_entries == ("b-e",)
    still = decided(
        [entry, leg], None, fill_of(leg), fill_rows=rows, given=replace(GIVEN, entries_complete=True)
    )
    assert still.unread_entries == ("b-e",)  # the leg's fill proves that the entry has filled
    over = replace(entry, status=Status.CANCELLED)
    ended = replace(rows, parents={1: over}, position_orders=(over, leg))
    sold = decided(
        [over, leg], None, fill_of(leg), fill_rows=ended, given=replace(GIVEN, entries_complete=True)
    )
    assert [(surplus.side, surplus.quantity) for surplus in sold.oversold] == [(PositionSide.SHORT, 60)]
    assert [alert.event for alert in sold.alerts] == ["OVERSOLD"]


def test_both_exits_of_a_group_that_fill_oversell_by_the_second() -> None:
    """The first exit closes the position; the second one's shares are orphan shares on the other side."""
    fills = (fill_of(TARGET), fill_of(STOP))
    report = report_of(TARGET, "filled", 100, legs=(report_of(STOP, "filled", 100),))
    decision = decided([TARGET, STOP], report, *fills, fill_rows=HELD)
    assert decision.position is not None
    assert decision.position.state.quantity == 0
    assert [surplus.quantity for surplus in decision.oversold] == [100]
    assert decision.reconcile
    assert decision.orphans_changed


def test_exit_without_position_reduces_orphan_shares_or_alerts() -> None:
    """An exit of orphan shares reduces them; without orphan shares the fill is booked and alerted."""
    row = replace(STOP, position_id=None, parent_order_id=None, origin="orphan")
    orphan = Orphan(
        5, None, 1, "AAPL", None, "unexplained", PositionSide.LONG, QUANTITY, QUANTITY, None, Decimal(0), Decimal(0),
        None, None, None, AT, None, None,
    )  # fmt: skip
    reduced = decided([row], None, fill_of(row), fill_rows=FillRows(orphan=orphan))
    assert [(taken.after.orphan_id, taken.after.quantity) for taken in reduced.orphan_fills] == [(5, 0)]
    assert not reduced.alerts
    alone = decided([row], None, fill_of(row), fill_rows=FillRows())
    assert [alert.event for alert in alone.alerts] == ["EXIT_WITHOUT_POSITION"]
    assert len(alone.booked) == 1


def test_outage_exit_links_to_the_position_whose_entry_came_first() -> None:
    """An exit sent during a database outage closes the open position and gets its exit intent."""
    row = replace(
        STOP, position_id=None, parent_order_id=None, origin="outage", order_purpose=Purpose.EXIT,
        created_at=AT + timedelta(minutes=1),
    )  # fmt: skip
    rows = replace(HELD, outage_reason="EMERGENCY_STOP: loss")
    decision = decided([row], None, fill_of(row), fill_rows=rows, given=replace(GIVEN, entries_complete=True))
    assert [(link.order_ids, link.position_id) for link in decision.links] == [((2,), 7)]
    assert decision.position is not None
    assert decision.position.close_reason == "EMERGENCY_STOP: loss"
    earlier = replace(row, created_at=AT - timedelta(minutes=1))
    unlinked = decided(
        [earlier], None, fill_of(row), fill_rows=rows, given=replace(GIVEN, entries_complete=True)
    )
    assert not unlinked.links
    assert unlinked.position is None


def test_broker_times_are_stored_beside_the_status() -> None:
    """The broker's times of submit, fill, cancel and expiry go to the row with the status they belong to."""
    submitted, canceled = AT - timedelta(minutes=3), AT - timedelta(minutes=2)
    report = report_of(STOP, "canceled", submitted_at=submitted, canceled_at=canceled)
    after = decided([STOP], report).order_changes[0].after
    assert (after.status, after.broker_submitted_at, after.broker_canceled_at) == (
        Status.CANCELLED,
        submitted,
        canceled,
    )
    assert replace(after, closed_at=AT).ended_at == canceled
    assert replace(after, closed_at=AT, broker_canceled_at=AT + timedelta(seconds=9)).ended_at == AT


@pytest.mark.parametrize(
    ("before", "broker_status", "changed_s", "acknowledged_s"),
    [
        ("pending_new", "new", 1, 1),
        ("accepted", "held", 1, 1),
        ("pending_new", "new", 0, None),  # not changed since it was sent: the time of receipt counts
        ("pending_new", "new", None, None),
        ("pending_new", "new", 500, 180),  # the broker's clock is ahead
        ("pending_new", "accepted", 1, None),
        ("pending_new", "canceled", 1, None),
        ("new", "held", 1, None),
    ],
)
def test_venue_has_a_stop_from_the_brokers_last_change(
    before: str, broker_status: str, changed_s: int | None, acknowledged_s: int | None
) -> None:
    """A report that a venue has an order that waited for one sets the time of the broker's last change of it."""
    submitted = AT - timedelta(minutes=3)
    changed_at = None if changed_s is None else submitted + timedelta(seconds=changed_s)
    report = report_of(STOP, broker_status, submitted_at=submitted, updated_at=changed_at)
    after = decided([replace(STOP, broker_status=before)], report).order_changes[0].after
    assert after.acknowledged_at == (
        None if acknowledged_s is None else submitted + timedelta(seconds=acknowledged_s)
    )


def test_fill_of_a_report_with_another_quantity_is_booked() -> None:
    """The report is a contradiction and goes to quarantine; its fill is a fact and is booked."""
    report = report_of(ENTRY, "partially_filled", 40, quantity=Decimal(90))
    decision = decided([ENTRY], report, fill_of(ENTRY, 40), fill_rows=FillRows())
    assert decision.verdict is Verdict.CONTRADICTION
    assert decision.opened[0].state.quantity == 40
    assert [item.alert.event for item in decision.quarantined] == ["ORDER_CONTRADICTION"]


def test_mismatched_report_changes_no_status() -> None:
    """Another broker id, or another quantity than we sent, is a contradiction: quarantine, and the status stays."""
    for report in (
        report_of(ENTRY, "canceled", broker_id="b-x"),
        report_of(ENTRY, "canceled", quantity=Decimal(90)),
    ):
        decision = decided([ENTRY], report)
        assert decision.verdict is Verdict.CONTRADICTION
        assert [item.alert.event for item in decision.quarantined] == ["ORDER_CONTRADICTION"]
        assert all(change.after.status is Status.SUBMITTED for change in decision.order_changes)
    resized = decided([STOP], report_of(STOP, "new", quantity=Decimal(60)))
    assert resized.order_changes[0].after.quantity == 60
    assert not resized.quarantined


def test_batch_ends_before_a_report_that_one_statement_cannot_write() -> None:
    """The prefix holds one kind of change; it ends at a repeated order, an unchanged report and a missing fill."""
    others = [
        replace(ENTRY, order_id=10 + n, client_order_id=f"cat-{n}", alpaca_order_id=f"b-{n}")
        for n in range(4)
    ]
    cache = {row.client_order_id: row for row in others}
    rows = ReportRows(cache, {}, current=False)
    accepted = [(report_of(row, "accepted"), None) for row in others]
    assert decide_batch(rows, accepted, GIVEN)[0] == 4
    assert decide_batch(rows, [*accepted[:2], accepted[0]], GIVEN)[0] == 2
    assert decide_batch(rows, [accepted[0], (report_of(others[1], "new"), None)], GIVEN)[0] == 1
    assert decide_batch(rows, [accepted[0], (report_of(others[1], "filled", 100), None)], GIVEN)[0] == 1
    filled = [(report_of(row, "filled", 100), fill_of(row)) for row in others]
    count, decision = decide_batch(rows, filled, GIVEN)
    assert (count, len(decision.opened), len(decision.booked)) == (4, 4, 4)
    assert decide_batch(rows, [filled[0], accepted[1]], GIVEN)[0] == 1


def slices(row: OrderRow, *quantities: int) -> list[Fill]:
    """Return consecutive fills of the row's order."""
    fills, total = [], 0
    for quantity in quantities:
        total += quantity
        fills.append(fill_of(row, quantity, total))
    return fills


def test_two_fills_of_an_external_entry_enter_one_position() -> None:
    """The second fill of an adopted entry belongs to the position that the first one opens in this decision."""
    row = replace(ENTRY, origin="external", client_order_id="by hand", status=Status.ACCEPTED)
    given = replace(GIVEN, adopted_symbols=frozenset({"AAPL"}))
    decision = decided([row], None, *slices(row, 40, 60), fill_rows=FillRows(), given=given)
    assert decision.opened[0].state.quantity == 100
    assert not decision.alerts


def test_two_fills_of_an_orphan_exit_both_reduce_it() -> None:
    """The second fill reduces what the first one left."""
    row = replace(STOP, position_id=None, parent_order_id=None, origin="orphan")
    orphan = Orphan(
        5, None, 1, "AAPL", None, "unexplained", PositionSide.LONG, QUANTITY, QUANTITY, 100 * PRICE, Decimal(0),
        Decimal(0), None, None, None, AT, None, None,
    )  # fmt: skip
    decision = decided([row], None, *slices(row, 40, 60), fill_rows=FillRows(orphan=orphan))
    left = decision.orphan_fills[-1].after
    assert (left.quantity, left.exited_qty, left.realized_pnl) == (0, 100, Decimal("0.00"))


def test_overlapping_fills_of_one_list_are_booked_once() -> None:
    """The stream's whole fill and the activities' two slices are the same shares: nothing is booked twice."""
    row = replace(ENTRY, status=Status.ACCEPTED)
    decision = decided([row], None, fill_of(row), *slices(row, 60, 40), fill_rows=FillRows())
    assert decision.order_changes[0].after.filled_qty == 100
    assert decision.opened[0].state.quantity == 100
    assert {item.alert.event for item in decision.quarantined} == {"FILL_UNEXPLAINED"}


def test_two_fills_of_an_outage_exit_close_with_its_reason() -> None:
    """The reason of the outage exit holds for its last fill too."""
    row = replace(
        STOP, position_id=None, parent_order_id=None, origin="outage", order_purpose=Purpose.EXIT,
        created_at=AT + timedelta(minutes=1),
    )  # fmt: skip
    rows = replace(HELD, outage_reason="TIME_LIMIT: out")
    decision = decided(
        [row], None, *slices(row, 40, 60), fill_rows=rows, given=replace(GIVEN, entries_complete=True)
    )
    assert decision.position is not None
    assert decision.position.close_reason == "TIME_LIMIT: out"
    assert len(decision.links) == 1


def test_leg_side_follows_from_its_purpose() -> None:
    """A leg of an external short entry buys, whatever the broker shows: the row must be storable."""
    parent = replace(ENTRY, origin="external", position_side=PositionSide.SHORT, side=Side.SELL)
    leg = report_of(STOP, "held", side=Side.SELL)
    decision = decided([parent], report_of(parent, "new", legs=(leg,)))
    assert decision.new_legs[0].order.side is Side.BUY


def test_new_leg_with_an_unknown_status_is_quarantined_once_it_has_a_row() -> None:
    """The leg is inserted without the status; the next report of that status is quarantined."""
    leg = report_of(STOP, "pondering")
    first = decided([ENTRY], report_of(ENTRY, "new", legs=(leg,)))
    assert first.has_incomplete_legs
    assert first.new_legs[0].order.broker_status is None
    stored = replace(STOP, broker_status=None, status=Status.SUBMITTED, parent_order_id=1)
    second = decided([ENTRY, stored], report_of(ENTRY, "new", legs=(leg,)))
    assert [item.alert.event for item in second.quarantined] == ["UNKNOWN_BROKER_STATUS"]


def test_rejected_new_leg_keeps_its_reason_and_its_own_times() -> None:
    """A leg that is rejected when it is first seen has its reason; it inherits no time of its parent."""
    parent = replace(FILLED_ENTRY, broker_filled_at=AT, rejection_reason="NEVER_ARRIVED")
    leg = replace(report_of(STOP, "rejected"), raw={"reject_reason": "no"})
    new_leg = decided([parent], report_of(parent, "filled", 100, legs=(leg,))).new_legs[0]
    assert (new_leg.status, new_leg.rejection_reason) == (Status.REJECTED, "BROKER: no")
    row = leg_row(new_leg, 9)
    assert (row.broker_filled_at, row.rejection_reason) == (None, "BROKER: no")


def test_legs_of_another_order_are_not_adopted() -> None:
    """An order with our client order id and another broker id is not ours, and neither are its legs."""
    report = report_of(ENTRY, "new", broker_id="b-x", legs=(report_of(STOP, "held"),))
    decision = decided([ENTRY], report)
    assert not decision.new_legs
    assert decision.verdict is Verdict.CONTRADICTION


def test_changed_row_equals_a_replaced_one_and_refuses_unknown_columns() -> None:
    columns = {"status": Status.FILLED, "filled_qty": Decimal(100), "closed_at": None}
    assert changed(ENTRY, **columns) == replace(ENTRY, **columns)
    assert ENTRY.filled_qty == 0
    with pytest.raises(TypeError, match="has no column sides"):
        changed(ENTRY, sides="sell")


def test_replacement_does_not_count_the_fills_of_the_order_it_replaces() -> None:
    """The broker shows 8 shares of the replaced target, and 5 of the replacement, as 13 of the replacement: its row is
    one of 92 shares, 5 of them filled, and no fill is missing."""
    old = replace(TARGET, status=Status.REPLACED, filled_qty=Decimal(8), broker_status="replaced")
    new = replace(
        TARGET, order_id=4, client_order_id="cat-m", alpaca_order_id="b-m", replaces=3, status=Status.ACCEPTED,
        filled_qty=Decimal(5),
    )  # fmt: skip
    decision = decided([old, new], report_of(new, "partially_filled", 13, replaces="b-t"))
    assert (decision.missing_fills, decision.quarantined) == ((), ())
    [change] = decision.order_changes
    assert (change.after.quantity, change.after.filled_qty) == (92, 5)
    filled = replace(change.after, filled_qty=Decimal(92), status=Status.PARTIAL_FILL)
    again = decided([old, filled], report_of(new, "filled", 100, replaces="b-t"))
    assert again.missing_fills == ()
    assert again.order_changes[0].after.status is Status.FILLED


def test_fills_of_a_replaced_order_are_counted_once() -> None:
    """The broker shows the 8 shares of a replaced target in its replacement too; each share has one order."""
    target = report_of(TARGET, "replaced", 8)
    moved = report_of(TARGET, "partially_filled", 13, broker_id="b-m", replaces="b-t")
    other = report_of(ENTRY, "filled", 100)
    fills = [(report.broker_id, quantity) for report, quantity in fills_by_order([other, moved, target])]
    assert fills == [("b-e", 100), ("b-m", 5), ("b-t", 8)]
    assert list(fills_by_order([moved])) == [(moved, Decimal(13))]  # its past is not read: all are its own
