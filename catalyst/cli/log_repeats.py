"""Log repeats: an outage is one line at its start and one a minute, without the tracebacks of client libraries.

A line repeats another when event and facts are equal; which loop met the error, how long it waits and the numbers in
the error's text do not count.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from catalyst.clock import Clock
from catalyst.concurrency import leaf_errors
from catalyst.domain.errors import BrokerError, DatabaseContention, DatabaseUnavailable
from catalyst.store import driver_errors

Event = MutableMapping[str, Any]

REPEAT_INTERVAL: Final = timedelta(seconds=60)
MAX_REMEMBERED: Final = 1_000  # different lines; older ones are forgotten
QUIET_LEVELS: Final = ("debug", "info")  # events of the day: never repeats
_NUMBER: Final = re.compile(r"\b0x[0-9a-f]+|\d+")  # seconds left, ports, addresses of objects
# Facts that differ between two lines about one outage.
VARYING_FACTS: Final = ("loop", "seconds", "again_in", "attempt", "at", "level")


@dataclass
class RepeatLimit:
    """Drops a line that was written within REPEAT_INTERVAL of market time, and counts it."""

    clock: Clock
    _written: dict[str, datetime] = field(default_factory=dict)  # by line: when it was written last
    _dropped: dict[str, int] = field(default_factory=dict)  # by line: how often it was dropped since

    def __call__(self, _: Any, __: str, event: Event) -> Event:
        """Return the event of our logs, with the number of its dropped repeats. Raises structlog.DropEvent for one."""
        shorten_outage(event)
        if event.get("level") in QUIET_LEVELS or "exc_info" in event:
            return event
        facts = sorted(
            (key, _NUMBER.sub("#", str(value)) if key == "error" else str(value))
            for key, value in event.items()
            if key not in VARYING_FACTS
        )
        repeated = self._count(repr(facts))
        if repeated is None:
            raise structlog.DropEvent
        if repeated:
            event["repeated"] = repeated
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line of a library is written; an outage loses its traceback."""
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and is_library_outage(error):
            record.msg, record.args = f"{record.getMessage()}: {_first_line(error)}", None
            record.exc_info = record.exc_text = None
        return record.exc_info is not None or self._count(f"{record.name} {record.getMessage()}") is not None

    def _count(self, line: str) -> int | None:
        """Return how often the line was dropped since it was written last; None when it is dropped now."""
        now = self.clock.now()
        written = self._written.get(line)
        if written is not None and now - written < REPEAT_INTERVAL:
            self._dropped[line] = self._dropped.get(line, 0) + 1
            return None
        if len(self._written) >= MAX_REMEMBERED:
            self._written.clear()
        self._written[line] = now
        return self._dropped.pop(line, 0)


def shorten_outage(event: Event) -> None:
    """Replace the traceback of an outage by its first line."""
    info = event.get("exc_info")
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if info is True:
        error = sys.exc_info()[1]
    if error is not None and is_outage(error):
        del event["exc_info"]
        event["error"] = _first_line(error)


def is_outage(error: BaseException, *more: type[BaseException]) -> bool:
    """Return true when every error inside is one of the database or the broker, or of the types `more`."""
    return all(
        isinstance(leaf, (BrokerError, DatabaseUnavailable, DatabaseContention, *more))
        for leaf in leaf_errors(error)
    )


def is_library_outage(error: BaseException) -> bool:
    """Return true when every error inside is an outage as a library raises it: not translated to an error of ours."""
    return all(is_outage(leaf, OSError) or driver_errors.is_outage(leaf) for leaf in leaf_errors(error))


def _first_line(error: BaseException) -> str:
    leaf = next(leaf_errors(error))
    return f"{type(leaf).__name__}: {leaf}".splitlines()[0]
