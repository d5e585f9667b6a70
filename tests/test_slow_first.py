"""Order of the tests: the slow ones are spread over the workers and begin first."""

from itertools import product

import pytest

from tests.slow_first import slow_first


def test_each_worker_begins_with_its_share_of_the_slow_tests() -> None:
    """Three runs of equal length: each begins with its slow tests, the slowest first; the others keep their order."""
    seconds = {"z": 140.0, "c": 70.0, "h": 50.0, "e": 30.0}
    ordered = slow_first("abcdefghiz" + "xy", seconds, 3)
    assert ["".join(ordered[start : start + 4]) for start in (0, 4, 8)] == ["zeab", "cdfg", "hixy"]


@pytest.mark.parametrize(("count", "workers"), list(product((0, 1, 2, 5, 23, 60), (1, 2, 3, 4))))
def test_no_test_is_lost_or_repeated(count: int, workers: int) -> None:
    """Every test stays in the order once, with more workers than tests and with slow tests only."""
    items = list(range(count))
    for slow in (range(0), range(0, count, 7), range(count)):
        assert sorted(slow_first(items, {item: float(item) for item in slow}, workers)) == items
