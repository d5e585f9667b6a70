"""Seams: each kind of effect outside the process is used only by its listed modules, each with a reason.

Clock, broker, stream, store, spool and configuration are where tests can count, delay or fail an effect. An
effect elsewhere would be invisible to the crash matrix and to the manual clock.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "catalyst").rglob("*.py"))

# Kinds of effect and their patterns: dotted names of calls and attributes, or imported modules.
EFFECT_PATTERNS: dict[str, tuple[str, ...]] = {
    "real time": (
        "asyncio.sleep", "asyncio.timeout", "asyncio.timeout_at", "asyncio.wait_for", "time.sleep", "time.time",
        "time.monotonic", "time.time_ns", "time.monotonic_ns", "time.localtime", "time.gmtime", "datetime.now",
        "datetime.utcnow", "datetime.today", "date.today", "pd.Timestamp.now", "Timestamp.now", "Timestamp.utcnow",
    ),
    "randomness": ("random", "secrets", "uuid.uuid1", "uuid.uuid4", "uuid4", "uuid1", "os.urandom", "np.random"),
    "the broker's network": ("requests", "urllib.request", "urllib3", "http.client", "httpx", "aiohttp"),
    "a websocket": ("websockets",),
    "a mailbox": ("smtplib", "aiosmtplib", "apprise"),
    "a socket": ("socket",),
    "the database": ("asyncpg", "psycopg", "psycopg2", "sqlite3"),
    "a file": (
        "open", "os.open", "os.write", "os.pwrite", "os.replace", "os.rename", "os.fsync", "os.unlink", "os.remove",
        "shutil", "tempfile", "*.write_text", "*.write_bytes", "*.touch", "*.unlink", "*.open", "fcntl", "mmap",
    ),
    "another process": (
        "subprocess", "multiprocessing", "os.system", "os.fork", "os.kill", "os.exec*", "os.spawn*", "os.posix_spawn",
        "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "ProcessPoolExecutor",
    ),
    "the environment": ("os.environ", "os.getenv", "os.putenv", "os.environb"),
}  # fmt: skip

# module → {kind of effect: reason}. No other module may have this effect.
SEAMS: dict[str, dict[str, str]] = {
    "clock.py": {
        "real time": "the only reader of time",
        "a file": "the scaled clock is a file that several processes map",
    },
    "config/loader.py": {
        "a file": "reads config.yaml, bounded",
        "the environment": "the only reader of the environment",
    },
    "broker/alpaca_session.py": {
        "the broker's network": "the transport of alpaca-py, with its timeouts",
        "real time": "bounds a real socket",
    },
    "broker/trade_updates.py": {"a websocket": "the stream", "real time": "bounds a real socket"},
    "store/pool.py": {"the database": "the one pool", "real time": "bounds a real socket"},
    "store/driver_errors.py": {"the database": "classifies the errors of the driver"},
    "store/account_lock.py": {"the database": "the connection of the account lock"},
    "store/notifications.py": {"the database": "the connection of LISTEN"},
    "store/migrate.py": {"the database": "migrations run outside the pool"},
    "store/legacy/upgrade.py": {"the database": "names a missing right; the upgrade runs outside the pool"},
    "store/legacy/verification.py": {"the database": "names the error of a view that does not answer"},
    "store/constraint_errors.py": {"the database": "classifies the errors of the database"},
    "daemon/outage/spool.py": {"a file": "stores actions during a database outage; each line is a step"},
    "daemon/trading_state/host_lock.py": {"a file": "the lock of this machine; taking it is a step"},
    "daemon/trading_state/installation_file.py": {
        "a file": "the installation id outlives the database; writing it comes before the first order"
    },
    "flat_proof_files.py": {"a file": "proofs that outlive the database; writing one is a step"},
    "backup/programs.py": {
        "a file": "finds PostgreSQL's programs",
        "another process": "runs pg_dump, pg_restore, psql, age and gpg",
    },
    "backup/encryption.py": {"a file": "finds age and gpg"},
    "backup/write.py": {"a file": "writes a backup in one step, and deletes old ones"},
    "backup/restore.py": {
        "a file": "reads a backup",
        "the database": "the target is no database of a running daemon",
    },
    "doctor/disks.py": {"a file": "reads the free space of the disks"},
    "daemon/trading_day/trading_day.py": {
        "real time": "cancels a hanging job in real time, independent of the market clock"
    },
    "daemon/runtime/watchdog.py": {"a socket": "notifies the service manager"},
    "daemon/trading_day/end_of_day.py": {"real time": "cancels a hanging attempt, like the jobs of the day"},
    "daemon/trading_day/scanner.py": {"a file": "reads the operator's listings"},
    "daemon/flatten_alone.py": {"another process": "asks a daemon of this machine to stop"},
    "daemon/monitoring/http_server.py": {
        "the broker's network": "serves /health and /metrics on the loopback address"
    },
    "embedded_sockets.py": {"a file": "makes the folder of a server's socket"},
    "store/create_database.py": {
        "the database": "creates the database before there is a pool",
        "randomness": "draws a password and its salt",
    },
    "embedded.py": {
        "a file": "creates the folder of a server",
        "a socket": "checks whether a server is running",
        "another process": "runs PostgreSQL's own programs",
        "real time": "waits for a server of another process",
    },
    "report/live_screen.py": {"a file": "reads the log it shows"},
    "demo/*": {
        "a file": "stores a demo in its own folder",
        "another process": "starts the exchange and the daemon",
        "the broker's network": "the exchange's admin API",
    },
    "simulator/*": {
        "a file": "stores an exchange over a restart; reads recorded days",
        "the broker's network": "serves the exchange's HTTP API",
        "a socket": "listens for clients",
    },
    "notify/mail.py": {
        "a mailbox": "sends a mail",
        "real time": "bounds a mail server, which knows no market clock",
    },
    "notify/urls.py": {
        "a mailbox": "sends to the URLs of Apprise",
        "real time": "bounds a service, which knows no market clock",
    },
    "cli/settings.py": {
        "the database": "names the error of an unreachable database",
        "the broker's network": "reads the clock's file from the simulated exchange",
    },
    "cli/app.py": {"a file": "a closed output pipe must not end in a traceback"},
    "cli/log_sources.py": {"a file": "reads a log", "another process": "runs journalctl"},
    "cli/psql.py": {"a file": "finds PostgreSQL's programs", "another process": "runs psql"},
    "cli/parent_watch.py": {"another process": "exits when its parent process is gone"},
    "cli/stop.py": {"another process": "asks a daemon of this machine to end"},
    "cli/simulator.py": {"a socket": "checks whether a port is free"},
    "cli/unit_alert.py": {"a file": "stores when it last told of a failed service"},
    "cli/install_service.py": {
        "a file": "writes the units and their files",
        "another process": "lets systemd create the user and read the units",
    },
    "cli/*": {"a file": "writes files that the operator requests"},
}

TYPES_ONLY = "TYPE_CHECKING"


def effects_in(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Yield (kind of effect, dotted name, line) for every effect in `tree`."""
    names = dict(_imported(tree))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in _runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, (ast.Attribute, ast.Name)) and id(node) not in inner:
            dotted = _dotted(node, names)
            call_only = isinstance(node, ast.Name) or dotted.endswith(".open")  # `gate.open` is no file
            if call_only and id(node) not in called:
                continue
            found = [dotted]
        else:
            continue
        for name in found:
            for kind, patterns in EFFECT_PATTERNS.items():
                if any(_is(name, pattern) for pattern in patterns):
                    yield kind, name, node.lineno


def _is(name: str, pattern: str) -> bool:
    """Return true when the dotted name matches the pattern."""
    if "*" in pattern:
        return fnmatch(name, pattern)
    return (
        name == pattern or name.startswith(f"{pattern}.") or ("." in pattern and name.endswith(f".{pattern}"))
    )


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the local name and the full name of each import: `from asyncio import sleep as nap` gives nap,
    asyncio.sleep."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    alias.asname or alias.name.split(".")[0],
                    alias.name if alias.asname else alias.name.split(".")[0],
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """Return the dotted name of an expression, with imported names resolved."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    if isinstance(node, ast.Call):
        return _dotted(node.func, names)
    return "?"


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node except those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == TYPES_ONLY:
            continue
        yield child
        yield from _runtime_nodes(child)


def allowed_effects(module: str) -> set[str]:
    """Return the kinds of effect that a module may have."""
    return {kind for pattern, kinds in SEAMS.items() if fnmatch(module, pattern) for kind in kinds}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "catalyst")))
def test_modules_cause_effects_only_through_their_seams(path: Path) -> None:
    """A module has only the kinds of effect that its seam allows."""
    module = str(path.relative_to(ROOT / "catalyst"))
    found = [
        effect
        for effect in effects_in(ast.parse(path.read_text()))
        if effect[0] not in allowed_effects(module)
    ]
    assert found == []


def test_seam_exceptions_are_all_used() -> None:
    """Each listed kind of effect occurs in its modules, so that no stale entry hides a new effect."""
    used = {
        (pattern, kind)
        for path in MODULES
        for kind, _, _ in effects_in(ast.parse(path.read_text()))
        for pattern in SEAMS
        if fnmatch(str(path.relative_to(ROOT / "catalyst")), pattern)
    }
    assert {(pattern, kind) for pattern, kinds in SEAMS.items() for kind in kinds} - used == set()


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("real time", "import asyncio\nasync def f():\n    await asyncio.sleep(1)"),
        ("real time", "from asyncio import sleep as nap\nasync def f():\n    await nap(1)"),
        ("real time", "import asyncio as a\nasync def f():\n    async with a.timeout(1): ..."),
        ("real time", "import time\nx = time.monotonic()"),
        ("real time", "from time import time\nx = time()"),
        ("real time", "import datetime\nx = datetime.datetime.now()"),
        ("real time", "from datetime import datetime\nx = datetime.now()"),
        ("randomness", "import random"),
        ("randomness", "from uuid import uuid4\nx = uuid4()"),
        ("randomness", "import uuid\nx = uuid.uuid4()"),
        ("the broker's network", "import requests"),
        ("the broker's network", "from aiohttp import ClientSession"),
        ("a websocket", "from websockets.asyncio.client import connect"),
        ("the database", "import asyncpg"),
        ("a file", "x = open('y')"),
        ("a file", "from pathlib import Path\nPath('x').write_text('y')"),
        ("a file", "from pathlib import Path\nx = Path('x').open()"),
        ("a file", "def f(path):\n    with path.open() as file: ..."),
        ("a file", "def f(path):\n    path.write_bytes(b'')"),
        ("a file", "import os\nos.replace('a', 'b')"),
        ("another process", "import subprocess"),
        ("another process", "import asyncio\nx = asyncio.create_subprocess_exec('ls')"),
        ("the environment", "import os\nx = os.environ['HOME']"),
        ("the environment", "from os import environ\nx = environ['HOME']"),
        ("a mailbox", "import smtplib"),
    ],
)
def test_seam_check_finds_planted_effects(kind: str, source: str) -> None:
    """The check finds each planted effect under any import name."""
    assert kind in {found for found, _, _ in effects_in(ast.parse(source))}


def test_seam_check_ignores_types_docstrings_and_own_methods() -> None:
    """The check ignores type-only imports, docstrings and own methods named sleep or open."""
    source = (
        '"""asyncio.sleep"""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncpg\n'
        "async def f(clock, gate):\n    await clock.sleep(1)\n    return gate.open"
    )
    assert list(effects_in(ast.parse(source))) == []
