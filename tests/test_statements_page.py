"""docs/statements.md has a row for every field that status, doctor, report, positions and orders print as JSON."""

import ast
import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import catalyst
from catalyst.doctor.issues import Examination, IssueKind, new_issue
from catalyst.domain.rows import OrderRow
from catalyst.report.day import DayReport, TradeSummary
from catalyst.report.status import PositionLine, SystemStatus

SOURCES = Path(catalyst.__file__).parent
TESTS = Path(__file__).parent
PAGE = (SOURCES.parent / "docs" / "statements.md").read_text()
PRINTED = (
    SystemStatus,
    DayReport,
    OrderRow,
    PositionLine,
    TradeSummary,
)  # the roots of what the commands print
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \| `(test_\w+)` \|$", re.M)


def sections_of(page: str) -> dict[str, list[tuple[str, ...]]]:
    """Return the rows under each heading: field, source, when it is false, test."""
    parts = re.split(r"^## (\w+)$", page, flags=re.M)[1:]
    return {name: ROW.findall(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def dataclasses_in(annotation: object) -> Iterator[type]:
    """Yield the dataclasses that a field's type names, also inside tuples and unions."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from dataclasses_in(argument)


def printed_fields() -> dict[str, list[str]]:
    """Return the fields of every dataclass that the commands print, by its name."""
    fields: dict[str, list[str]] = {}
    waiting: list[type] = list(PRINTED)
    while waiting:
        printed = waiting.pop()
        if printed.__name__ in fields:
            continue
        hints = typing.get_type_hints(printed)
        fields[printed.__name__] = [each.name for each in dataclasses.fields(printed)]
        waiting += [inner for name in fields[printed.__name__] for inner in dataclasses_in(hints[name])]
    return fields


def added_keys(module: str, function: str) -> list[str]:
    """Return the keys that a command adds: those of its dict literals."""
    tree = ast.parse((SOURCES / "cli" / module).read_text())
    (command,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    return [
        key.value
        for node in ast.walk(command)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]


def test_statements_page_has_a_row_for_every_field() -> None:
    """Each printed object has a section, whose rows are its fields in their order, once each."""
    expected = {
        **printed_fields(),
        "status": added_keys("queries.py", "status"),
        "positions": added_keys("queries.py", "positions"),
        "Examination": list(Examination(None, 0.0, None, {}, {}, ()).as_dict),  # type: ignore[arg-type] # only its keys
        "Issue": list(new_issue(IssueKind.SAFE_MODE, "").as_dict),
    }
    written = {name: [row[0] for row in rows] for name, rows in sections_of(PAGE).items()}
    assert written == expected


def test_statements_page_names_tests_that_exist() -> None:
    """The test of each row is in the tree."""
    existing = {
        name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert {row[3] for rows in sections_of(PAGE).values() for row in rows} <= existing


def test_statements_check_finds_a_missing_row() -> None:
    """A field without a row differs from the page."""
    shorter = PAGE.replace("| `scan_failure` |", "| scan_failure |")
    assert sections_of(shorter)["DaemonStatus"] != sections_of(PAGE)["DaemonStatus"]
