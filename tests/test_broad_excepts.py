"""Broad excepts: few, each with its reason; a database outage has a class of its own, raised in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "catalyst").rglob("*.py"))

MAX_BROAD_EXCEPTS = 23
MIN_REASON_WORDS = 3
BROAD = ("Exception", "BaseException")
DATABASE_ERRORS = ("DatabaseUnavailable", "DatabaseContention")


def broad_excepts(source: str) -> Iterator[int]:
    """Yield the line of every except and `suppress` that catches all errors."""
    for node in ast.walk(ast.parse(source)):
        caught: list[ast.AST] = []
        if isinstance(node, ast.ExceptHandler):
            caught = [ast.Name("BaseException")] if node.type is None else list(ast.walk(node.type))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "suppress":
            caught = list(node.args)
        if any(isinstance(name, ast.Name) and name.id in BROAD for name in caught):
            yield node.lineno


def has_reason(line: str) -> bool:
    """Return true when the line ends with a comment of several words that is no directive."""
    _, _, comment = line.partition("  # ")
    return len(comment.split()) >= MIN_REASON_WORDS and not comment.startswith(("noqa", "type:"))


def constructed_errors(source: str) -> Iterator[str]:
    """Yield the name of each database error that the source constructs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DATABASE_ERRORS:
            yield node.func.id


def test_broad_excepts_are_few_and_give_their_reason() -> None:
    """Adding one means removing one: name the errors, or let them pass to the supervisor."""
    found: list[str] = []
    without_reason: list[str] = []
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for number in broad_excepts(source):
            place = f"{path.relative_to(ROOT)}:{number}"
            found.append(place)
            if not has_reason(lines[number - 1]):
                without_reason.append(place)
    assert without_reason == []
    assert len(found) <= MAX_BROAD_EXCEPTS, found


def test_database_errors_are_raised_in_one_place() -> None:
    """Only one module decides which errors of the driver are an outage or a conflict."""
    raising = {
        str(path.relative_to(ROOT / "catalyst"))
        for path in MODULES
        if any(constructed_errors(path.read_text(encoding="utf-8")))
    }
    assert raising == {"store/driver_errors.py"}


@pytest.mark.parametrize(
    ("line", "broad", "reasoned"),
    [
        ("except Exception:", True, False),
        ("except Exception as error:  # noqa: BLE001", True, False),
        ("except (ValueError, BaseException):  # one failure must not stop the others", True, True),
        ("except:  # any error of a plugin is logged", True, True),
        ("except ValueError:", False, False),
    ],
)
def test_broad_except_without_reason_is_found(line: str, broad: bool, reasoned: bool) -> None:
    """The rule sees every spelling of a broad except, and accepts no directive as its reason."""
    source = f"try:\n    pass\n{line}\n    pass\n"
    assert list(broad_excepts(source)) == ([3] if broad else [])
    assert has_reason(line) is reasoned


def test_broad_suppress_is_found() -> None:
    """`suppress(Exception)` counts as a broad except."""
    assert list(broad_excepts("with suppress(Exception):\n    pass\n")) == [1]
