"""The seam at the edge of the process: a witness is told of every step that can change the world outside it, or
that a decision rests on, before it is taken and after it is done. In production there is none."""

from enum import StrEnum
from typing import Protocol


class Moment(StrEnum):
    BEFORE = "before"
    AFTER = "after"


class FaultPoint(Protocol):
    """`step` is a transaction by its label, or a request by its verb and path.

    What it raises takes the place of the step: before, the step is not taken; after, it is done and nobody hears
    of it. A transaction that was rolled back has no after; a request has one whatever its answer.
    """

    def __call__(self, step: str, moment: Moment, /) -> None: ...


def reach(fault_point: FaultPoint | None, step: str, moment: Moment) -> None:
    """Tell the witness, if there is one."""
    if fault_point is not None:
        fault_point(step, moment)
