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


def test_modules_keep_the_layer_contracts():
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
def test_layer_check_fails_on_a_planted_violation(tmp_path: Path, module: str, line: str):
    """One import of the wrong kind, or a module that has chosen no floor, and the check fails."""
    shutil.copytree(ROOT / "catalyst", tmp_path / "catalyst", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "catalyst" / module).write_text(f"{line}\n")
    done = lint_imports(tmp_path)
    assert (done.returncode, "BROKEN" in done.stdout) == (1, True), done.stdout + done.stderr


def test_package_init_files_are_empty():
    """Every __init__.py is empty: a name has one place."""
    assert [str(path) for path in MODULES if path.name == "__init__.py" and path.read_text().strip()] == []


CHECKED_BY_LINT = {"sleep", "time", "monotonic"}  # banned there, each exception with its reason


def time_reads(tree: ast.AST) -> set[str]:
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
    return found - CHECKED_BY_LINT - {"perf_counter"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_other_than_clock_read_no_time(path: Path):
    """Beside clock.py nobody asks the machine for the present by a way that lint does not know."""
    assert path.name == "clock.py" or time_reads(ast.parse(path.read_text())) == set()


def test_time_read_check_finds_planted_reads():
    """The check above knows the ways around the list."""
    ways = "import time\nfrom time import monotonic_ns\ntime.time_ns()\ndatetime.today()\ntime.perf_counter()"
    assert time_reads(ast.parse(ways)) == {"monotonic_ns", "time_ns", "today"}
