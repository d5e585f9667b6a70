"""Values that the components of a daemon hold: in their fields, and in the local variables of their running loops."""

import asyncio
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

from catalyst.config.schema import Section
from catalyst.config.settings import Settings
from catalyst.domain.latency import Latency
from catalyst.store.cycles import CycleRow

WAITS = ("/catalyst/clock.py", "/change_signal.py")  # their frames hold the pause of the present wait
SCALARS = (bool, int, float, Decimal, str, timedelta, Path, Section)


def held_values(root: object) -> Iterator[tuple[str, object]]:
    """Yield the path and the value of each scalar, text and section that `root` or a running loop holds.

    An object has one path, the shortest one, equal in each run: from `root`, else from the loop that holds it.
    `Settings` are left out: they are those of the start. So are the stored row of a day, whose limits nobody applies,
    and the counts of latencies.
    """
    seen: set[int] = set()
    yield from _walk(deque([("", root)]), seen)
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        yield from _walk(deque(_frame_locals(task.get_coro())), seen)


def _walk(pending: deque[tuple[str, object]], seen: set[int]) -> Iterator[tuple[str, object]]:
    """Yield path and value of all that `pending` leads to, breadth first; `seen` has the ids of the objects so far."""
    while pending:
        path, value = pending.popleft()
        if isinstance(value, Settings | CycleRow | Latency):
            continue
        if isinstance(value, SCALARS) or (isinstance(value, tuple) and not any(map(_has_fields, value))):
            yield path, value
        elif id(value) not in seen:
            seen.add(id(value))
            pending += ((f"{path}{name}", part) for name, part in _parts(value))


def _has_fields(value: object) -> bool:
    return not isinstance(value, SCALARS)


def _is_ours(value: object) -> bool:
    module = type(value).__module__
    return module.startswith("catalyst.") and not module.startswith("catalyst.simulator.")


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield the parts of a container, of a function's closure, or of an object of ours."""
    match value:
        case dict():
            yield from ((f"[{key!r}]", part) for key, part in value.items())
        case list() | tuple() | deque():
            yield from ((f"[{number}]", part) for number, part in enumerate(value))
        case set() | frozenset():
            yield from (("{}", part) for part in value)
        case partial():
            yield from (("()", part) for part in (value.func, *value.args, *value.keywords.values()))
        case FunctionType():
            yield from (("()", cell.cell_contents) for cell in value.__closure__ or ())
        case _ if _is_ours(value):
            names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
            names += getattr(value, "__dict__", {})
            yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


def _frame_locals(coroutine: Any) -> Iterator[tuple[str, object]]:
    """Yield the local variables of the frames of ours in which a coroutine waits."""
    while coroutine is not None:
        frame: FrameType | None = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        file = "" if frame is None else frame.f_code.co_filename
        if frame is not None and "/catalyst/" in file and not file.endswith(WAITS):
            yield from (
                (f"{frame.f_code.co_qualname}: {name}", value) for name, value in frame.f_locals.items()
            )
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
