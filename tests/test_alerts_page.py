"""docs/alerts.md lists every event that raises an alert."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import catalyst
from catalyst.daemon.reconciliation.discrepancies import DiscrepancyKind

SOURCES = Path(catalyst.__file__).parent
PAGE = (SOURCES.parent / "docs" / "alerts.md").read_text()
ROWS = re.findall(r"^\| `([A-Z_]+)` \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
EVENT = re.compile(r"[A-Z]{3,}(_[A-Z]+)+|OVERFILLED|OVERSOLD")
# Functions that raise an alert of the event that they receive.
RAISING = {
    "raise_alert",
    "raise_exit_alert",
    "raise_for_symbols",
    "OrderAlert",
    "_quarantine",
    "alert",
    "_alert",
}


def events_in(tree: ast.Module) -> Iterator[str]:
    """Yield the events that a module raises: constants in a raising call, or by name from the head of the module."""
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant)
        for target in [node.target]
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in RAISING:
            continue
        for argument in ast.walk(ast.Module([ast.Expr(each) for each in node.args], [])):
            value = argument.value if isinstance(argument, ast.Constant) else None
            if isinstance(argument, ast.Name):
                value = constants.get(argument.id)
            if isinstance(value, str) and EVENT.fullmatch(value):
                yield value


def raised_events() -> set[str]:
    modules = [path for path in SOURCES.rglob("*.py") if "simulator" not in path.parts]
    events = {event for path in modules for event in events_in(ast.parse(path.read_text()))}
    return events | {str(kind) for kind in DiscrepancyKind}


def test_alerts_page_has_a_row_for_every_event() -> None:
    """The table is in the order of the alphabet and has exactly the events of the code."""
    events = [event for event, _, _, _ in ROWS]
    assert events == sorted(set(events))
    assert set(events) == raised_events()


def test_alerts_page_names_known_severities() -> None:
    assert {severity for _, severity, _, _ in ROWS} <= {"CRITICAL", "WARNING", "INFO", "CRITICAL or WARNING"}


def test_event_search_finds_constants_names_and_choices() -> None:
    source = 'EVENT: Final = "STOPPED_DAY"\nraise_alert(conn, EVENT if a else "OTHER_EVENT", "text")\nput("NO_ALERT")'
    assert set(events_in(ast.parse(source))) == {"STOPPED_DAY", "OTHER_EVENT"}
