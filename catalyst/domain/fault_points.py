"""Fault points, for crash tests: called before and after every step with an outside effect, and before and after every
read that a decision needs. None in production."""

from enum import StrEnum
from typing import Protocol


class Moment(StrEnum):
    BEFORE = "before"
    AFTER = "after"


class FaultPoint(Protocol):
    """Test callback. `step` is the label of a transaction, or the verb and path of a request.

    An exception raised BEFORE replaces the step; one raised AFTER hides the result of a step that was done. A
    transaction that is rolled back has no AFTER; a request has one, whatever its response.
    """

    def __call__(self, step: str, moment: Moment, /) -> None: ...


def reach(fault_point: FaultPoint | None, step: str, moment: Moment) -> None:
    """Call the fault point, if there is one."""
    if fault_point is not None:
        fault_point(step, moment)
