"""Log lines: reads, filters and formats the lines that the daemon has written. Pure.

A line is a JSON object with `at`, `level` and `event`; anything else (a traceback, a line of another program) is kept
as text.
"""

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final

import orjson

from catalyst.clock import NEW_YORK
from catalyst.domain.errors import UserError

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
INDENT: Final = " " * 10  # of the facts that do not fit the first line
# `cycle_id` is the day, which has its own line.
_HEAD_KEYS: Final = frozenset({"at", "level", "event", "exception", "logger", "cycle_id"})
_FIRST_FACTS: Final = ("symbol", "symbols", "side", "qty", "price")  # in this order, before the others
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Style = Callable[[str, str], str]  # text and level to the text with its colour


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: its text as written, and its facts when it is an event of ours."""

    text: str
    facts: Mapping[str, Any] | None
    at: datetime | None

    @property
    def level(self) -> str:
        return "info" if self.facts is None else str(self.facts.get("level", "info"))

    @property
    def event(self) -> str:
        return "" if self.facts is None else str(self.facts.get("event", ""))


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Chooses lines; empty fields choose all. `events` are names or patterns such as `entry_*`."""

    level: str | None = None  # at least this one
    events: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    since: datetime | None = None

    def chooses(self, line: LogLine) -> bool:
        """Return whether to show the line. A text that is no event is shown only without a filter."""
        if line.facts is None:
            return self == LogFilter()
        if self.since is not None and (line.at is None or line.at < self.since):
            return False
        if self.level is not None and _rank(line.level) < _rank(self.level):
            return False
        if self.events and not any(fnmatchcase(line.event, pattern) for pattern in self.events):
            return False
        return not self.symbols or not _symbols_of(line.facts).isdisjoint(self.symbols)


def parse_line(text: str) -> LogLine:
    """Read one line. A line that is no event keeps its text."""
    text = text.rstrip("\r\n")
    try:
        facts = orjson.loads(text) if text.startswith("{") else None
    except orjson.JSONDecodeError:
        facts = None
    if not isinstance(facts, dict) or "event" not in facts:
        return LogLine(text, None, None)
    try:
        at = datetime.fromisoformat(str(facts.get("at")))
    except ValueError:
        at = None
    return LogLine(text, facts, at if at is not None and at.tzinfo is not None else None)


def no_style(text: str, _level: str) -> str:
    """Return the text without a colour."""
    return text


def format_line(line: LogLine, width: int | None, style: Style = no_style) -> Iterator[str]:
    """Yield the line for a person: New York time, level from WARNING on, event, facts. `width` None: one line.

    Control characters of a value are shown as escapes, so that no text moves the cursor or forges a line.
    """
    if line.facts is None:
        yield printable(line.text)
        return
    time = "--:--:--" if line.at is None else f"{line.at.astimezone(NEW_YORK):%H:%M:%S}"
    head = printable(line.event)
    if _rank(line.level) >= _rank("warning"):
        head = f"{line.level.upper()} {head}"
    facts = [f"{printable(key)}={_value(value)}" for key, value in _ordered(line.facts)]
    parts = _wrapped(facts, first=len(time) + 2 + len(head) + 2, width=width)
    yield f"{time}  {style(head, line.level)}{'  ' + parts[0] if parts and parts[0] else ''}"
    yield from (INDENT + part for part in parts[1:])
    exception = line.facts.get("exception")
    if exception:
        yield from (INDENT + printable(part) for part in str(exception).splitlines())


def date_line(day: date) -> str:
    """Return the line that begins a day."""
    return f"---- {day:%A %d %B %Y}, New York time"


def printable(text: str) -> str:
    """Return the text with every character that a terminal would not print as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def parse_since(text: str, now: datetime) -> datetime:
    """Return the time that `text` means: 30m, 2h, 1d (before now), 09:30 (today), 2026-11-30 or 2026-11-30T09:30.

    Times are New York's. Raises UserError.
    """
    number, unit = text[:-1], text[-1:]
    if number.isdecimal() and len(number) <= 5 and unit in _UNITS:
        return now - timedelta(**{_UNITS[unit]: int(number)})
    if len(text) in (4, 5) and ":" in text:
        text = f"{now.astimezone(NEW_YORK):%Y-%m-%d}T{text.zfill(5)}"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"--since {text} is no time: write 30m, 2h, 1d, 09:30, 2026-11-30 or 2026-11-30T09:30 (New York)"
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=NEW_YORK)


def _wrapped(facts: list[str], *, first: int, width: int | None) -> list[str]:
    """Return the facts in lines; a fact that fits no line is broken at its blanks."""
    if width is None:
        return [" ".join(facts)]
    lines, room = [""], width - first
    for fact in facts:
        needed = len(fact) + (1 if lines[-1] else 0)
        if len(lines[-1]) + needed <= room:
            lines[-1] += (" " if lines[-1] else "") + fact
            continue
        room = width - len(INDENT)
        lines += textwrap.wrap(fact, room, break_on_hyphens=False) or [fact]
    return lines


def _ordered(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    first = [(key, facts[key]) for key in _FIRST_FACTS if key in facts]
    return first + [(key, value) for key, value in facts.items() if key not in (*_FIRST_FACTS, *_HEAD_KEYS)]


def _value(value: object) -> str:
    """Return a value as text, a list or an object without its brackets; quotes only where a text has blanks."""
    if isinstance(value, list) and value and all(isinstance(each, str | int | float) for each in value):
        return printable(",".join(map(str, value)))
    if isinstance(value, dict) and value:
        value = ", ".join(f"{key} {each}" for key, each in value.items())
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    text = printable(text)
    quote = "'" if '"' in text else '"'
    return f"{quote}{text}{quote}" if " " in text or not text else text


def _symbols_of(facts: Mapping[str, Any]) -> set[str]:
    """Return the symbols that a line is about; some events name theirs in the reason only."""
    names = {facts.get("symbol")}
    for key in ("symbols", "plans"):
        several = facts.get(key)
        names |= {name for name in several if isinstance(name, str)} if isinstance(several, list) else set()
    words = re.findall(r"[A-Z][A-Z.]*", str(facts.get("reason", "")))
    return {name for name in (*names, *words) if isinstance(name, str)}


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("info")
