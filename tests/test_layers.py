"""Layers: imports lead downward only, no import cycle exists, and only the clock reads time."""

import ast
import graphlib
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "catalyst").rglob("*.py"))

LAYERS = "Packages import downward only"
DAEMON = "Packages of the daemon import downward only"
SIMULATOR = "Packages of the simulator import downward only"
PURE = "Domain and pipeline do no I/O"
INDEPENDENT = "The simulator shares no code with the daemon but the clock"
ALPACA = "Only the broker package imports alpaca-py"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter in a folder with the project file and the package."""
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def import_cycle(graph: grimp.ImportGraph) -> list[str]:
    """Return the modules of one import cycle; empty when there is none. Imports for type checkers count."""
    edges = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_modules_keep_the_layer_contracts() -> None:
    """Every module keeps the contracts of pyproject.toml."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = (LAYERS, DAEMON, SIMULATOR, PURE, INDEPENDENT, ALPACA)
    assert [name for name in contracts if f"{name} KEPT" not in done.stdout] == []


@pytest.mark.parametrize(
    ("contract", "module", "line"),
    [
        (LAYERS, "pipeline/planted.py", "import catalyst.store.pool"),
        (LAYERS, "domain/planted.py", "import catalyst.config.settings"),
        (LAYERS, "planted.py", "import catalyst.domain.order"),
        (DAEMON, "daemon/orders/planted.py", "import catalyst.daemon.exits.flatten"),
        (DAEMON, "daemon/exits/planted.py", "import catalyst.daemon.outage.spool"),
        (DAEMON, "daemon/planted.py", "import catalyst.daemon.orders.ledger"),
        (SIMULATOR, "simulator/rules/planted.py", "import catalyst.simulator.exchange.exchange"),
        (SIMULATOR, "simulator/recorded/planted.py", "import catalyst.simulator.synthetic.market"),
        (SIMULATOR, "simulator/planted.py", "import catalyst.simulator.rules.orders"),
        (PURE, "domain/planted.py", "import asyncio"),
        (INDEPENDENT, "simulator/planted.py", "import catalyst.domain.order"),
        (ALPACA, "store/planted.py", "import alpaca"),
    ],
)
def test_layer_check_fails_on_a_planted_violation(
    tmp_path: Path, contract: str, module: str, line: str
) -> None:
    """A forbidden import, or a module in no layer, breaks the contract that forbids it."""
    shutil.copytree(ROOT / "catalyst", tmp_path / "catalyst", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "catalyst" / module).write_text(f"{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout


def test_modules_have_no_import_cycle() -> None:
    """No chain of imports inside the package leads back to its start."""
    assert import_cycle(grimp.build_graph("catalyst", cache_dir=None)) == []


def test_import_cycle_is_found_when_planted() -> None:
    """The check finds a cycle of two modules."""
    graph = grimp.build_graph("catalyst", cache_dir=None)
    graph.add_import(importer="catalyst.domain.price", imported="catalyst.cli.app")
    assert import_cycle(graph) != []


def test_package_init_files_are_empty() -> None:
    """Every __init__.py is empty, so each name has one place."""
    assert [str(path) for path in MODULES if path.name == "__init__.py" and path.read_text().strip()] == []


CHECKED_BY_LINT = {"sleep", "time", "monotonic"}  # banned there, each exception with its reason


def time_reads(tree: ast.AST) -> set[str]:
    """Return the calls that read time and that lint does not ban; `perf_counter` is allowed."""
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
    """Only clock.py reads the machine's time by a call that lint does not ban."""
    assert path.name == "clock.py" or time_reads(ast.parse(path.read_text())) == set()


def test_time_read_check_finds_planted_reads():
    """The check finds calls that the lint list does not have."""
    ways = "import time\nfrom time import monotonic_ns\ntime.time_ns()\ndatetime.today()\ntime.perf_counter()"
    assert time_reads(ast.parse(ways)) == {"monotonic_ns", "time_ns", "today"}


MAX_CLASS_LINES = 400
MAX_MODULE_LINES = 500
MAX_FIELDS = 15
# The field limit is for the core. The simulator's rules, orders and settings are records with many columns.
CORE = ("broker", "cli", "daemon", "demo", "doctor", "domain", "pipeline", "report", "store")


def fields_of(node: ast.ClassDef) -> set[str]:
    """Return the fields of a class: annotated names of its body, and attributes that its __init__ assigns."""
    annotated = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        if not ast.unparse(item.annotation).startswith("InitVar")
    }
    inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    assigned = {
        item.attr
        for init in inits
        for item in ast.walk(init)
        if isinstance(item, ast.Attribute)
        and isinstance(item.ctx, ast.Store)
        and isinstance(item.value, ast.Name)
        and item.value.id == "self"
    }
    return annotated | assigned


def has_behaviour(node: ast.ClassDef) -> bool:
    """Return true for a class with a method that is no property; a record has only fields and properties."""
    return any(
        isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        and not item.name.startswith("__")
        and not any(isinstance(each, ast.Name) and each.id == "property" for each in item.decorator_list)
        for item in node.body
    )


def oversized(source: str, name: str, *, core: bool = True) -> list[str]:
    """Return the modules and classes of a source text that exceed a limit."""
    found = [name] if source.count("\n") > MAX_MODULE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_CLASS_LINES or (
                core and has_behaviour(node) and len(fields_of(node)) > MAX_FIELDS
            ):
                found.append(node.name)
    return found


def test_modules_and_classes_stay_below_the_size_limits() -> None:
    """No module exceeds 500 lines, no class 400; a class with behaviour in the core has at most 15 fields."""
    package = ROOT / "catalyst"
    found = [
        each
        for path in MODULES
        for each in oversized(
            path.read_text(), str(path.relative_to(ROOT)), core=path.relative_to(package).parts[0] in CORE
        )
    ]
    assert found == []


def test_size_check_finds_planted_excess() -> None:
    """A long module, a long class and a wide class are found; a wide record is not."""
    assert oversized("x = 1\n" * 501, "module") == ["module"]
    body = "".join(f"    a{n}: int\n" for n in range(16))
    assert oversized(f"class Record:\n{body}", "m") == []
    assert oversized(f"class Wide:\n{body}    def act(self): ...\n", "m") == ["Wide"]
    assert oversized("class Long:\n" + "    x = 1\n" * 400, "m") == ["Long"]
