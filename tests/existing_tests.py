"""The tests that exist, for the pages that name them."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
_NUMBERED = re.compile(r"^test_(?:c\d\d_|f\d{3}_|i\d\d_)?")


def existing_tests() -> set[str]:
    """Every test function of this folder, tests that a condition leaves out included."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def without_number(name: str) -> str:
    """A test's name without the number of a behaviour, fault or invariant before it: one test may have several."""
    return _NUMBERED.sub("test_", name)


def named_tests(text: str) -> set[str]:
    """The tests a page speaks of."""
    return set(re.findall(r"`(test_\w+)`", text))
