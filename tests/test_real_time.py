"""No test races real time: only one module of the tests sleeps, and a limit on a healthy answer is long.

A delay in a test is a guess about the machine. A test waits for a condition (`tests/waiting.py`), for a fault point,
for a message that comes after, or on the manual clock.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.test_seams import _dotted, _imported

ROOT = Path(__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

MIN_LIMIT_S: Final = 30.0
SLEEPS: Final = {"asyncio.sleep", "time.sleep"}
LIMITS: Final = {"asyncio.timeout": 0, "asyncio.wait_for": 1}  # position of the limit
CLOCKS: Final = {"time.monotonic", "time.perf_counter", "time.time", "time.process_time"}

# Modules that may sleep, set a short limit or read the machine's clock, and why.
ALLOWED: Final = {
    "waiting.py": "the poll of every wait",
    "broker/scripted_server.py": "a response that drips",
    "broker/test_contract.py": "the clock of the paper account is real",
    "dbfaults/postgres_proxy.py": "a slow network; ends every connection at the end of a test",
    "dbfaults/short_timeouts.py": "the limits of a database that gives no answer",
    "crash/restartable_daemon.py": "measures a recovery; cancels the tasks of a crashed run again and again",
    "crash/matrix.py": "prints how long the run took",
    "crash/random_faults.py": "prints how long the run took",
    "mutants/__main__.py": "prints how long the run took",
    "mutants/run.py": "prints how long each slip took",
    "systemd_day/story.py": "waits for systemd, in a program of its own; keeps broker and database silent",
    "fault_days/day.py": "waits for real processes, in a program of its own",
    "fault_days/network.py": "delays a connection, in a program of its own",
    "fault_days/run.py": "prints how long each day took",
    "try_install/__main__.py": "prints how long each command took",
    "minimum_machine.py": "prints how long each run took; waits for the end of killed processes",
    "cli/shell.py": "ends a wait after five minutes",
    "conformance/alpaca_trade_api_session.py": "a program of its own, run by the interpreter of another environment",
}


def real_time_uses(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each sleep, short limit and reading of the machine's clock."""
    tree = ast.parse(source)
    names = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and _dotted(node, names) in CLOCKS:
            yield node.lineno, _dotted(node, names)
        if isinstance(node, ast.Attribute) and _dotted(node, names) in SLEEPS and not _is_called(tree, node):
            yield node.lineno, _dotted(node, names)
        if not isinstance(node, ast.Call):
            continue
        function = _dotted(node.func, names)
        if function in SLEEPS and not (node.args and _number(node.args[0]) == 0):
            yield node.lineno, function
        limits = (
            [node.args[LIMITS[function]]] if len(node.args) > LIMITS.get(function, len(node.args)) else []
        )
        limits += [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
        for limit in limits:
            seconds = _number(limit)
            if seconds is not None and seconds < MIN_LIMIT_S:
                yield node.lineno, f"{function} limited to {seconds:g} s"


def _is_called(tree: ast.AST, function: ast.expr) -> bool:
    """Return true when the expression is called, not passed on."""
    return any(isinstance(node, ast.Call) and node.func is function for node in ast.walk(tree))


def _number(node: ast.expr) -> float | None:
    """Return the number of a constant; None for another expression."""
    is_number = isinstance(node, ast.Constant) and isinstance(node.value, (int, float))
    return float(node.value) if is_number else None  # type: ignore[union-attr, arg-type]  # a constant, see above


def test_tests_neither_sleep_nor_hurry() -> None:
    """A module of the tests has no delay and no limit below half a minute, unless its reason is listed."""
    uses = {str(path.relative_to(ROOT)): list(real_time_uses(path.read_text())) for path in MODULES}
    assert {name: found for name, found in uses.items() if found and name not in ALLOWED} == {}


def test_listed_modules_need_their_exception() -> None:
    """Each listed module uses real time, so that no stale entry hides a new use."""
    assert [name for name in ALLOWED if not list(real_time_uses((ROOT / name).read_text()))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.05)",
        "from asyncio import sleep as nap\nasync def f(s):\n    await nap(s)",
        "import time\ntime.sleep(1)",
        "import asyncio\nwait = asyncio.sleep",
        "import asyncio\nasync def f():\n    async with asyncio.timeout(5): ...",
        "import asyncio\nasync def f(x):\n    await asyncio.wait_for(x, 0.1)",
        "import asyncio\nasync def f(x):\n    await asyncio.wait_for(x, timeout=0.1)",
        "def f(served):\n    served.request('GET', '/', timeout=0.25)",
        "from time import perf_counter\nbegan = perf_counter()",
    ],
)
def test_check_finds_planted_use_of_real_time(source: str) -> None:
    """The check finds each planted use, under any import name."""
    assert len(list(real_time_uses(source))) == 1


def test_check_ignores_turns_of_the_loop_and_long_limits() -> None:
    """A turn of the event loop, a limit by name and a long one are no race."""
    source = (
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    await asyncio.wait_for(x, LIMIT_S)\n"
        "    async with asyncio.timeout(60): ..."
    )
    assert list(real_time_uses(source)) == []
