"""Judgement of lookups: when "not found" proves that an order never arrived."""

from datetime import timedelta

import pytest

from catalyst.domain.outcome import MAX_IN_FLIGHT_TIME, NOT_FOUND_LIMIT, NotFoundCount, may_still_arrive

NOT_FOUND, FOUND, FAILED = False, True, None


@pytest.mark.parametrize(
    ("since_sent", "in_flight", "expected"),
    [
        (timedelta(0), False, True),
        (MAX_IN_FLIGHT_TIME - timedelta(microseconds=1), False, True),
        (MAX_IN_FLIGHT_TIME, False, False),
        (MAX_IN_FLIGHT_TIME, True, True),
        (timedelta(hours=1), True, True),
    ],
)
def test_request_may_still_arrive_for_ten_seconds_and_while_open(
    since_sent: timedelta, in_flight: bool, expected: bool
) -> None:
    """A request may arrive until ten seconds have passed, and always while it is open."""
    assert may_still_arrive(since_sent, in_flight=in_flight) is expected


@pytest.mark.parametrize(
    ("lookups", "count", "proven"),
    [
        ([], 0, False),
        ([(NOT_FOUND, False)], 1, False),
        ([(NOT_FOUND, False)] * (NOT_FOUND_LIMIT - 1), NOT_FOUND_LIMIT - 1, False),
        ([(NOT_FOUND, False)] * NOT_FOUND_LIMIT, NOT_FOUND_LIMIT, True),
        # No lookup counts while the request may arrive, however many there are.
        ([(NOT_FOUND, True)] * 9, 0, False),
        # A request sent again starts the count again.
        ([(NOT_FOUND, False), (NOT_FOUND, False), (NOT_FOUND, True), (NOT_FOUND, False)], 1, False),
        # A failed lookup neither counts nor resets.
        ([(NOT_FOUND, False), (NOT_FOUND, False), (FAILED, False)], 2, False),
        ([(NOT_FOUND, False), (FAILED, False), (NOT_FOUND, False), (NOT_FOUND, False)], 3, True),
        ([(NOT_FOUND, False), (NOT_FOUND, False), (FAILED, True)], 0, False),
        # Found once: the broker has it.
        ([(NOT_FOUND, False), (NOT_FOUND, False), (FOUND, False), (NOT_FOUND, False)], 1, False),
    ],
)
def test_not_found_proves_absence_after_three_counted_lookups(
    lookups: list[tuple[bool | None, bool]], count: int, proven: bool
) -> None:
    """Only three "not found" in a row, each when no request may still arrive, prove absence."""
    judgement = NotFoundCount()
    for found, may_arrive in lookups:
        judgement = judgement.after_lookup(found, may_arrive=may_arrive)
    assert (judgement.count, judgement.proves_absence) == (count, proven)
