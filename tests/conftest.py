"""PostgreSQL for the tests: one server for each session, one new database for each test. Order of the tests.

`DATABASE_URL` names a server to use instead of the embedded one; its role must be allowed to create
databases.
"""

import asyncio
import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, settings

from catalyst import embedded
from catalyst.clock import ManualClock
from catalyst.domain.secret_mask import forget_secrets
from catalyst.store import account_lock, migrate, pool
from catalyst.store.pool import Store, open_store
from tests.slow_first import slow_first

# Every run uses fixed examples; HYPOTHESIS_PROFILE=long draws many new ones.
_HYPOTHESIS_SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=100, derandomize=True, **_HYPOTHESIS_SETTINGS)
settings.register_profile("long", max_examples=5_000, **_HYPOTHESIS_SETTINGS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# These databases need not survive a crash of the machine; all other settings are as in production.
_FAST_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "autovacuum": "off"}
_FOLDER_PREFIX = "catalyst-tests-"
_NO_STATEMENT = SimpleNamespace(name="none")  # a name: the driver need not prepare its own statement again
_FIRST_NUMBER_OF_A_NEW_TYPE = 16_384  # PostgreSQL's FirstNormalObjectId
_MEMORY_FOLDER = Path("/dev/shm")
_MEMORY_FOLDER_MIN_BYTES = 3 << 30  # each worker takes up to half a gigabyte


def _keep_temporary_files_in_memory() -> None:
    """Create temporary files in memory where there is room and programs may run, unless TMPDIR names a folder: a new
    database is three hundred files, and a disk needs ten times as long for them."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY_FOLDER, os.W_OK | os.X_OK):
        return
    has_room = shutil.disk_usage(_MEMORY_FOLDER).free >= _MEMORY_FOLDER_MIN_BYTES
    if has_room and not os.statvfs(_MEMORY_FOLDER).f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY_FOLDER)


_keep_temporary_files_in_memory()


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of cores plus one: scenario tests wait half of their time for a server or process."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each worker begin with its share of the slow tests."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    seconds = {item: mark.args[0] for item in items if (mark := item.get_closest_marker("slow"))}
    items[:] = slow_first(items, seconds, workers)


def pytest_collection_finish() -> None:
    """Let the garbage collector skip what the collection created: hundreds of thousands of objects that stay."""
    gc.collect()
    gc.freeze()


@dataclass
class PostgresServer:
    """PostgreSQL server that creates databases, for sync and async code: it has its own thread and event
    loop, and keeps one connection."""

    admin_dsn: str
    strategy: str = "wal_log"
    _numbers: Iterator[int] = field(default_factory=count)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _conn: "asyncpg.Connection[asyncpg.Record] | None" = None

    def dsn_of(self, database: str) -> str:
        """Return the address of a database on this server."""
        return urlunsplit(urlsplit(self.admin_dsn)._replace(path=f"/{database}"))

    def create(self, template: str = "template0") -> str:
        """Create a new database as a copy of `template`; return its DSN."""
        name = f"catalyst_{os.getpid()}_{next(self._numbers)}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {self.strategy}")
        return self.dsn_of(name)

    def drop(self, dsn: str) -> None:
        """Drop a database and cut its connections."""
        self._admin(f"DROP DATABASE IF EXISTS {database_name(dsn)} WITH (FORCE)")

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run the coroutine in the server's event loop and return its result."""
        return self._thread.submit(lambda: self._loop.run_until_complete(work())).result()

    def close(self) -> None:
        """Close the connection and the event loop."""
        if self._conn is not None:
            self.run(self._conn.close)
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()

    def _admin(self, sql: str) -> None:
        """Execute a statement in the admin database."""

        async def execute() -> None:
            if self._conn is None or self._conn.is_closed():
                self._conn = await asyncpg.connect(self.admin_dsn)
            await self._conn.execute(sql)

        self.run(execute)


def database_name(dsn: str) -> str:
    """Return the database name of a DSN."""
    return urlsplit(dsn).path.lstrip("/")


@pytest.fixture(autouse=True)
def _forget_secrets() -> Iterator[None]:
    """End each test without its secrets: tests share a process, and a secret of one may be a word of another."""
    yield
    forget_secrets()


@pytest.fixture(scope="session", autouse=True)
def plain_log() -> None:
    """Print the log with plain tracebacks; a traceback with every local value takes seconds to draw."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )


@pytest.fixture(scope="session", autouse=True)
def isolated_data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let daemons keep their data in the session's folder instead of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("share")))
        yield


@pytest.fixture(scope="session", autouse=True)
def long_database_limits() -> Iterator[None]:
    """Wait half a minute for a connection and for a ping: with the two seconds of the product, a machine that
    stalls would be a database outage. Tests of these limits set their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_ACQUIRE_TIMEOUT_S", 30.0)
        patch.setattr(account_lock, "_PING_TIMEOUT_S", 30.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def known_array_types() -> Iterator[None]:
    """Ask a server once for the description of a built-in type: it has the same number in every database, and the
    driver's query costs each new connection fifteen milliseconds of the server."""
    known: dict[int, Any] = {}
    ask = asyncpg.Connection._introspect_types

    async def introspect(conn: Any, numbers: Any, limit_s: float | None) -> tuple[list[Any], Any]:
        if not all(number in known for number in numbers):
            rows, statement = await ask(conn, numbers, limit_s)
            known.update((row["oid"], row) for row in rows if row["oid"] < _FIRST_NUMBER_OF_A_NEW_TYPE)
            return rows, statement
        return [known[number] for number in numbers], _NO_STATEMENT

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "_introspect_types", introspect)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Start the server of the session."""
    if url := os.environ.get("DATABASE_URL"):
        with closing(PostgresServer(url)) as server:
            yield server
        return
    for old in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        # Remove folders of killed sessions, except those in use, of another user or being removed already.
        with suppress(embedded.EmbeddedUnavailable, OSError):
            if (old / "users.lock").exists():
                embedded.remove_data_dir(old)
    data_dir = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    with (
        embedded.start(data_dir, settings=_FAST_SETTINGS) as running,
        closing(PostgresServer(running.dsn, strategy="file_copy")) as server,  # faster while fsync is off
    ):
        yield server
    with suppress(embedded.EmbeddedUnavailable, OSError):  # another session is removing it already
        embedded.remove_data_dir(data_dir)


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer) -> Iterator[str]:
    """Return the name of a migrated database that is only cloned, never connected to."""
    dsn = postgres.create()
    postgres.run(lambda: migrate.migrate(dsn))
    yield database_name(dsn)
    postgres.drop(dsn)


@pytest.fixture
def empty_database(postgres: PostgresServer) -> Iterator[str]:
    """Return the DSN of a new, empty database."""
    dsn = postgres.create()
    yield dsn
    postgres.drop(dsn)


@pytest.fixture
def database(postgres: PostgresServer, migrated: str) -> Iterator[str]:
    """Return the DSN of a new, migrated database."""
    dsn = postgres.create(migrated)
    yield dsn
    postgres.drop(dsn)


@pytest.fixture
def second_database(postgres: PostgresServer, migrated: str) -> Iterator[str]:
    """Return the DSN of another new, migrated database."""
    dsn = postgres.create(migrated)
    yield dsn
    postgres.drop(dsn)


@pytest.fixture
def clock() -> ManualClock:
    """Return a manual clock at 10:15 New York time on a trading day."""
    return ManualClock(datetime(2026, 4, 8, 14, 15, tzinfo=UTC))


@pytest.fixture
async def store(database: str, clock: ManualClock) -> AsyncIterator[Store]:
    """Open a store on a new, migrated database."""
    store = await open_store(database, clock)
    yield store
    await store.close()
