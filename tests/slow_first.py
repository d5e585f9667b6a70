"""Order of the tests: each of xdist's workers begins with its share of the slow ones.

xdist gives every worker a run of neighbours, and an idle worker takes over the last tests of another. A slow test at
the end of a run would keep one worker busy while the others are idle.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def slow_first(items: Sequence[T], seconds: Mapping[T, float], workers: int) -> list[T]:
    """Return the items in the order of xdist's runs, one run for each worker: first the slow ones, the slowest at the
    very beginning, then the others in their order. `seconds` holds the slow items."""
    slow = sorted(seconds, key=seconds.__getitem__, reverse=True)
    others = [item for item in items if item not in seconds]
    ordered: list[T] = []
    for worker in range(workers):
        share = slow[worker::workers]
        size = (len(items) - len(ordered)) // (workers - worker)
        taken = max(size - len(share), 0)
        ordered += share + others[:taken]
        others = others[taken:]
    return ordered
