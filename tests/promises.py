"""Index of the tests and of the promises they show, for the tests that check the pages of docs/.

A test names the promises of the specification that it shows by `@pytest.mark.promise("C03", "F012")`: C for behaviours
of a client, B of the exchange, F for faults, I for invariants, L for levels of the test plan.
"""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
TestNode = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions_of_tests() -> tuple[tuple[Path, TestNode], ...]:
    """Return every test function of this folder with its file, skipped tests included."""
    return tuple(
        (path, node)
        for path in sorted(TESTS.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, TestNode) and node.name.startswith("test_")
    )


def existing_tests() -> set[str]:
    """Return the name of every test function."""
    return {node.name for _, node in functions_of_tests()}


def promises_of(node: TestNode) -> list[str]:
    """Return the numbers in the promise markers of one test."""
    return [
        ast.literal_eval(argument)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise"
        for argument in mark.args
    ]


def promised_tests(letter: str) -> dict[str, set[str]]:
    """Return the test names of each promise whose number begins with `letter`."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, node in functions_of_tests():
        for number in promises_of(node):
            if number.startswith(letter):
                found[number].add(node.name)
    return dict(found)


def named_tests(text: str) -> set[str]:
    """Return the tests that a page names."""
    return set(re.findall(r"`(test_\w+)`", text))
