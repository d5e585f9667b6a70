"""docs/faults.md and the tests that exist tell of the same faults."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text()
ROWS = re.findall(r"^\| (F\d{3}) \| (.+?) \| (.+?) \|$", PAGE, re.M)
_NUMBERED = re.compile(r"^test_(?:c\d\d_|f\d{3}_)?")


def bare(name: str) -> str:
    """A test's name without the number of a client's behaviour or of a fault before it: one test may have several."""
    return _NUMBERED.sub("test_", name)


def existing() -> set[str]:
    """Every test function of this folder, tests that a condition leaves out included."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def test_every_fault_has_its_row() -> None:
    """F001 to F100, each once, in order, in words."""
    assert [number for number, _, _ in ROWS] == [f"F{n:03}" for n in range(1, 101)]


def test_every_test_that_is_named_exists() -> None:
    """No row leans on a test that is gone."""
    known = {bare(name) for name in existing()}
    named = {name for _, _, tests in ROWS for name in re.findall(r"`(test_\w+)`", tests)}
    assert {name for name in named if bare(name) not in known} == set()


def test_every_numbered_test_is_in_its_row() -> None:
    """A test that carries a fault's number is told of there."""
    told = {number: tests for number, _, tests in ROWS}
    numbered = [name for name in existing() if re.match(r"test_f\d{3}_", name)]
    assert {name for name in numbered if f"`{name}`" not in told[name[5:9].upper()]} == set()


def test_what_is_not_here_says_why_and_is_counted() -> None:
    """A row names tests, or why there are none; the page's own figure is the count."""
    without = [number for number, _, tests in ROWS if tests.startswith("not here: ")]
    for number, _, tests in ROWS:
        assert number in without or re.match(r"`test_", tests), number
    assert f"Of 100 faults {100 - len(without)} are made to happen" in PAGE
