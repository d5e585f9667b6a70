"""When shares had no working stop: gaps from fills and the lives of orders, at the broker's times."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.domain.unprotected_time import OrderFill, position_gaps, seconds_of, unprotected_gaps

NOON = datetime(2026, 3, 9, 16, tzinfo=UTC)
HELD = Decimal(20)
NUMBER = {Purpose.ENTRY: 1, Purpose.TAKE_PROFIT: 2, Purpose.STOP_LOSS: 3, Purpose.EXIT: 4}


def after(seconds: float) -> datetime:
    """Return the time `seconds` after noon."""
    return NOON + timedelta(seconds=seconds)


def order(
    purpose: Purpose,
    *,
    status: Status = Status.SUBMITTED,
    began: float = 0,
    ended: float | None = None,
    number: int | None = None,
    parent: int | None = None,
    broker_status: str = "new",
    quantity: Decimal = HELD,
) -> OrderRow:
    """Return an order for 20 shares; a terminal one ended at the broker at `ended`, and we heard of it much later."""
    order_id = number or NUMBER[purpose]
    is_terminal = ended is not None
    return OrderRow(
        order_id=order_id, client_order_id=f"order-{order_id}", alpaca_order_id=f"broker-{order_id}", cycle_id=None,
        security_id=1, symbol="AAPL", position_id=1, parent_order_id=parent, replaces=None, order_purpose=purpose,
        position_side=PositionSide.LONG, side=Side.BUY if purpose is Purpose.ENTRY else Side.SELL,
        order_class="bracket", order_type="market" if purpose is Purpose.EXIT else "stop", time_in_force="day",
        quantity=quantity, limit_price=None, stop_price=None, bracket_stop=None, bracket_target=None, status=status,
        filled_qty=Decimal(0), filled_avg_price=None, broker_status=broker_status, epoch=1, origin="catalyst",
        signal_id=None, attempts=1, last_attempt_at=None, created_at=after(began), submitted_at=after(began),
        expires_at=None, closed_at=after(900) if is_terminal else None, rejection_reason=None, cancel_reason=None,
        broker_submitted_at=after(began), broker_canceled_at=None if ended is None else after(ended),
        broker_expired_at=None if ended is None else after(ended),
    )  # fmt: skip


ENTRY = order(Purpose.ENTRY, status=Status.FILLED)
STOP = order(Purpose.STOP_LOSS, parent=1, broker_status="held")
TARGET = order(Purpose.TAKE_PROFIT, parent=1)
STOP_ENDED = order(Purpose.STOP_LOSS, parent=1, status=Status.CANCELLED, ended=60, broker_status="canceled")
EXIT = order(Purpose.EXIT, began=90)
ENTRY_FILL = OrderFill(1, HELD, after(0))
EXIT_FILL = OrderFill(4, HELD, after(200))

CASES = [
    ("protected from its fill on", [ENTRY, STOP, TARGET], [ENTRY_FILL], []),
    ("no stop", [ENTRY], [ENTRY_FILL], [(0, 300)]),
    (
        "two fills of the entry",
        [ENTRY, STOP, TARGET],
        [OrderFill(1, Decimal(8), after(0)), OrderFill(1, Decimal(12), after(9))],
        [(0, 9)],
    ),
    ("the stop was cancelled while nobody listened", [ENTRY, STOP_ENDED, TARGET], [ENTRY_FILL], [(60, 300)]),
    ("legs cancelled, the sale sent later", [ENTRY, STOP_ENDED, EXIT], [ENTRY_FILL, EXIT_FILL], [(60, 90)]),
    (
        "a sale that fails leaves the shares bare",
        [ENTRY, STOP_ENDED, replace(EXIT, status=Status.REJECTED)],
        [ENTRY_FILL],
        [(60, 300)],
    ),
    (
        "a cancelled sale covers until its end",
        [ENTRY, STOP_ENDED, order(Purpose.EXIT, began=90, ended=120, status=Status.CANCELLED)],
        [ENTRY_FILL],
        [(60, 90), (120, 300)],
    ),
    (
        "a limit order is no stop",
        [ENTRY, STOP_ENDED, replace(EXIT, order_type="limit")],
        [ENTRY_FILL],
        [(60, 300)],
    ),
    ("a part of the stop", [ENTRY, replace(STOP, quantity=Decimal(8)), TARGET], [ENTRY_FILL], [(0, 300)]),
    (
        "held behind a cancelled target",
        [
            ENTRY,
            STOP,
            replace(TARGET, status=Status.CANCELLED, closed_at=after(900), broker_canceled_at=after(50)),
        ],
        [ENTRY_FILL],
        [(50, 300)],
    ),
    (
        "the broker refuses to move the target",
        [
            ENTRY,
            STOP,
            TARGET,
            replace(TARGET, order_id=5, replaces=2, status=Status.REJECTED, closed_at=after(50)),
        ],
        [ENTRY_FILL],
        [],
    ),
    (
        "a triggered stop fills",
        [ENTRY, replace(STOP, status=Status.FILLED), TARGET],
        [ENTRY_FILL, OrderFill(3, Decimal(5), after(10)), OrderFill(3, Decimal(15), after(20))],
        [],
    ),
    (
        "never at a venue",
        [ENTRY, replace(STOP, parent_order_id=None, broker_status="accepted", pending_at=after(1))],
        [ENTRY_FILL],
        [(0, 300)],
    ),
    (
        "at the venue after 7 s",
        [ENTRY, replace(STOP, parent_order_id=None, pending_at=after(1), acknowledged_at=after(7))],
        [ENTRY_FILL],
        [(0, 7)],
    ),
    (
        "suspended after 100 s",
        [ENTRY, replace(STOP, parent_order_id=None, broker_status="suspended", inactive_at=after(100))],
        [ENTRY_FILL],
        [(100, 300)],
    ),
    (
        "the target fills a part and the broker reduces the stop",
        [ENTRY, replace(STOP, quantity=Decimal(12)), TARGET],
        [ENTRY_FILL, OrderFill(2, Decimal(8), after(120))],
        [],
    ),
    (
        "a part of the stop that has followed the target",
        [ENTRY, replace(STOP, quantity=Decimal(9)), TARGET],
        [ENTRY_FILL, OrderFill(2, Decimal(8), after(120))],
        [(0, 300)],
    ),
    (
        "a fill of the target after the stop was reduced is no larger stop",
        [
            ENTRY,
            replace(STOP_ENDED, broker_canceled_at=after(250), quantity=Decimal(12)),
            TARGET,
            order(Purpose.STOP_LOSS, number=9, began=20, quantity=Decimal(1)),
            order(Purpose.ENTRY, number=8),
        ],
        [
            ENTRY_FILL,
            OrderFill(2, Decimal(8), after(120)),
            OrderFill(8, Decimal(2), after(30)),
            OrderFill(2, Decimal(12), after(250)),
        ],
        [(30, 300)],
    ),
    ("no answer to the request", [ENTRY, replace(STOP, alpaca_order_id=None)], [ENTRY_FILL], [(0, 300)]),
]


@pytest.mark.parametrize(
    ("rows", "fills", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_gaps_follow_from_fills_and_order_lives(
    rows: list[OrderRow], fills: list[OrderFill], expected: list[tuple[float, float]]
) -> None:
    """Five minutes after the first fill the gaps are those of the case, at the broker's times."""
    gaps = unprotected_gaps(rows, fills, until=after(300))
    assert [(gap.began, gap.ended) for gap in gaps] == [(after(a), after(b)) for a, b in expected]
    assert [gap.lasts for gap in gaps] == [b == 300 for _, b in expected]


def test_orphan_shares_are_unprotected_from_the_time_they_were_found() -> None:
    """Shares without an entry count from their discovery until their own stop works."""
    stop = order(Purpose.STOP_LOSS, began=12)
    gaps = unprotected_gaps([stop], [], until=after(300), found=(after(2), HELD))
    assert seconds_of(gaps) == 10


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 60), st.integers(1, 20)), max_size=5),
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 199), st.integers(1, 8)), max_size=3),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_measured_time_is_the_time_without_a_stop_second_by_second(
    lives: list[tuple[int, int, int]], bracket_ended: int, sales: list[tuple[int, int]], extra: list[int]
) -> None:
    """For any stops and sales by the target the gaps hold exactly the seconds in which the sizes of the stops, each as
    it was then, were less than the shares held; a later measurement only adds."""
    sold_by = [sum(sold for at, sold in sales if at <= second) if sales else 0 for second in range(201)]
    sales = sales if sold_by[199] < HELD else []
    sold_by = sold_by if sales else [0] * 201
    fills = [ENTRY_FILL, *(OrderFill(2, Decimal(sold), after(at)) for at, sold in sales)]
    bracket_stop = replace(
        order(Purpose.STOP_LOSS, parent=1, ended=bracket_ended, status=Status.CANCELLED),
        quantity=HELD - sold_by[bracket_ended - 1],
    )
    stops = [
        order(
            Purpose.STOP_LOSS, number=10 + n, began=a, ended=a + length, status=Status.CANCELLED,
            quantity=Decimal(size),
        )
        for n, (a, length, size) in enumerate(lives)
    ]  # fmt: skip
    rows = [ENTRY, TARGET, bracket_stop, *stops]

    def is_bare(second: int) -> bool:
        held = HELD - sold_by[second]
        covered = sum(size for a, length, size in lives if a <= second < a + length)
        return covered + (held if second < bracket_ended else 0) < held

    bare = [second for second in range(200) if is_bare(second)]
    assert seconds_of(unprotected_gaps(rows, fills, until=after(200))) == len(bare)
    for second in extra:
        early = seconds_of(unprotected_gaps(rows, fills, until=after(second)))
        assert early == sum(each < second for each in bare)


def position(entered: int, *, entry_time: float, exit_time: float | None = None) -> PositionRow:
    """Return a position of so many shares entered, open or closed."""
    entered_qty = Decimal(entered)
    return PositionRow(
        position_id=1, cycle_id=None, security_id=1, symbol="AAPL", sector=None, side=PositionSide.LONG,
        quantity=entered_qty, entered_qty=entered_qty, cost=Decimal(100), exited_qty=Decimal(0), proceeds=Decimal(0),
        entry_price=Decimal(10), stop_loss=None, take_profit=None, entry_time=after(entry_time),
        exit_time=None if exit_time is None else after(exit_time), status="open", realized_pnl=None,
        unrealized_pnl=None, last_price=None, protected_at=None, unprotected_seconds=Decimal(0), close_reason=None,
        carried=False,
    )  # fmt: skip


LATE_FILLS = [OrderFill(1, Decimal(10), after(0)), OrderFill(1, Decimal(10), after(100))]


def test_late_fill_counts_for_the_position_that_it_opens() -> None:
    """The second half of an entry, filled after the first was sold, is a position of its own: of 10 shares, bare until
    its own stop."""
    stop = order(Purpose.STOP_LOSS, number=9, began=107, quantity=Decimal(10))
    gaps = position_gaps(position(10, entry_time=100), [ENTRY, stop], LATE_FILLS, after(300))
    assert gaps is not None
    assert [(gap.began, gap.ended, gap.shares) for gap in gaps] == [(after(100), after(107), Decimal(10))]


def test_position_whose_entry_has_moved_has_no_measurement() -> None:
    """The closed position has lost the fills of its entry: nothing can be computed, so its stored time stays."""
    closed = position(10, entry_time=0, exit_time=50)
    assert position_gaps(closed, [EXIT], [OrderFill(4, Decimal(10), after(50))], after(300)) is None


def test_fills_newer_than_the_row_of_the_position_count() -> None:
    """A position read before its second fill was booked is measured from its first fill on."""
    for entered, entry_time in ((10, 0), (20, 100)):  # the second row: the later fill was booked first
        gaps = position_gaps(position(entered, entry_time=entry_time), [ENTRY], LATE_FILLS, after(300))
        assert gaps is not None
        assert gaps[0].began == after(0)
