"""The floors: imports lead downward only, and time has one reader."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "catalyst").rglob("*.py"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_module_keeps_to_its_floor():
    """The contracts of the project file hold for every module there is."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pipeline/planted.py", "import catalyst.store.pool"),
        ("domain/planted.py", "import asyncio"),
        ("domain/planted.py", "import catalyst.config.settings"),
        ("simulator/planted.py", "import catalyst.domain.order"),
        ("store/planted.py", "import alpaca"),
        ("planted.py", "import catalyst.domain.order"),
    ],
)
def test_a_contract_that_is_broken_is_seen(tmp_path: Path, module: str, line: str):
    """One import of the wrong kind, or a module that has chosen no floor, and the check fails."""
    shutil.copytree(ROOT / "catalyst", tmp_path / "catalyst", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "catalyst" / module).write_text(f"{line}\n")
    done = lint_imports(tmp_path)
    assert (done.returncode, "BROKEN" in done.stdout) == (1, True), done.stdout + done.stderr


def test_no_package_says_anything_at_its_door():
    """Every __init__.py is empty: a name has one place."""
    assert [str(path) for path in MODULES if path.name == "__init__.py" and path.read_text().strip()] == []


JUDGED_BY_LINT = {"sleep", "time", "monotonic"}  # banned there, each exception with its reason


def readers_of_time(tree: ast.AST) -> set[str]:
    """Ways to the present that lint has no list for, the measure of our own work apart."""
    imported = any(
        isinstance(node, ast.Import) and any(name.name == "time" for name in node.names)
        for node in ast.walk(tree)
    )
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.Attribute) and node.attr in {"today", "utcnow", "localtime", "gmtime"}:
            found.add(node.attr)
        elif imported and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} if node.value.id == "time" else set()
    return found - JUDGED_BY_LINT - {"perf_counter"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_clock_reads_time(path: Path):
    """Beside clock.py nobody asks the machine for the present by a way that lint does not know."""
    assert path.name == "clock.py" or readers_of_time(ast.parse(path.read_text())) == set()


def test_a_reader_of_time_is_seen():
    """The check above knows the ways around the list."""
    ways = "import time\nfrom time import monotonic_ns\ntime.time_ns()\ndatetime.today()\ntime.perf_counter()"
    assert readers_of_time(ast.parse(ways)) == {"monotonic_ns", "time_ns", "today"}
