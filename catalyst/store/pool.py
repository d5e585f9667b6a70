"""Connection pool: the only way to the database.

Statements that belong together run in `tx`. A single statement is a transaction by itself, runs in
`statement` and saves two round trips. Statements on the order path run in `order_statement` on reserved
connections, so that no report or scan that holds every other connection delays them, and they stay prepared
there.

Every call holds the clock, as any effect in flight does. A session carries no state between borrowers
(settings are per transaction; locks and LISTEN have their own connections), so it is not reset: that would
cost another round trip.

Every call, and every connection outside the pool, raises DatabaseUnavailable and DatabaseContention instead of
the driver's errors that mean them. All other errors pass unchanged: those of a wrong statement, of a constraint
(StaleEpoch is one), and those of other code in the block, even its OSError or TimeoutError.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
import orjson
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from catalyst.clock import Clock
from catalyst.domain.errors import DatabaseContention, DatabasePooled, DatabaseUnavailable, InvariantBroken
from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.domain.secret_mask import EXACT_FIELDS, mask_text, may_contain_secret
from catalyst.store.driver_errors import is_outage, raise_translated, raise_unavailable, translated_errors

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_T = TypeVar("_T")

STATEMENT_TIMEOUT_MS: Final = 5_000  # milliseconds, as the next two
LOCK_TIMEOUT_MS: Final = 2_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 30_000
RESERVED_CONNECTION_COUNT: Final = 2  # connections of the order path: one for requests, one for reports
_ACQUIRE_TIMEOUT_S: Final = 2.0  # real seconds; later the pool is exhausted, which raises an alert
_COMMAND_TIMEOUT_S: Final = (
    10.0  # real seconds; a later response counts as a lost server, whatever TCP reports
)
_CLOSE_TIMEOUT_S: Final = 2.0  # real seconds for a connection to close
_MAX_ATTEMPTS: Final = 3
_READ_WRITE: Final = SessionAttribute.read_write
# The settings that guard a session, as the server has them; timeouts in milliseconds.
_READ_BACK: Final = """
    SELECT $1::text[] IS NULL AND $2::bigint[] IS NULL AND $3::numeric[] IS NULL AS types,
           current_setting('timezone') AS timezone, current_setting('search_path') AS search_path,
           current_setting('synchronous_commit') AS synchronous_commit,
           (extract(epoch FROM current_setting('statement_timeout')::interval) * 1000)::bigint AS statement_timeout,
           (extract(epoch FROM current_setting('lock_timeout')::interval) * 1000)::bigint AS lock_timeout,
           (extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval) * 1000)::bigint
               AS idle_in_transaction_session_timeout
"""
_TRY_JOURNAL: Final = """
    BEGIN;
    INSERT INTO order_events (at, source, kind) VALUES (to_timestamp(0), 'probe', 'probe');
    SET CONSTRAINTS ALL IMMEDIATE;
    ROLLBACK;
"""


class ReservedConnections:
    """A few connections of the order path, kept open and lent one at a time.

    A pool's work for each loan (one task to hand out, one to take back) would cost a third of a short
    statement. A loan runs one statement, so nothing needs a reset: after a refused statement the connection
    is good; after anything else it is closed and replaced.
    """

    def __init__(self, connect: Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]) -> None:
        self._connect = connect
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []
        self._in_use: set[asyncpg.Connection[asyncpg.Record]] = set()
        self._slots = asyncio.Semaphore(RESERVED_CONNECTION_COUNT)
        self._closed = asyncio.Event()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend the connection used last. Raises DatabaseUnavailable when none is free for two seconds, and
        asyncpg's errors."""
        if not self._slots.locked() and any(not conn.is_closed() for conn in self._idle):
            conn = await self._check_out()
        else:
            try:
                async with asyncio.timeout(_ACQUIRE_TIMEOUT_S):  # noqa: TID251 -- a connection's turn is real time
                    conn = await self._check_out()
            except TimeoutError as error:
                raise_unavailable(error)
        try:
            yield conn
        except (asyncio.CancelledError, TimeoutError):
            # Stop the statement on the server before anyone reads what it did.
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await conn.close(timeout=_ACQUIRE_TIMEOUT_S)
            raise
        except BaseException as error:  # whatever ended the block, the connection may be in the middle of it
            if is_outage(error) or not isinstance(error, asyncpg.PostgresError):
                conn.terminate()
            raise
        finally:
            if conn not in self._in_use:
                conn.terminate()  # expired meanwhile, or abandoned
            elif not conn.is_closed():
                self._idle.append(conn)
            self._in_use.discard(conn)
            self._slots.release()

    async def open_first(self) -> None:
        """Connect the first one now, so that no order waits for it."""
        async with self.acquire():
            pass

    def expire(self) -> None:
        """Reuse no present connection; the next acquire connects anew."""
        for conn in self._idle:
            conn.terminate()
        self._idle.clear()
        self._in_use.clear()

    def abandon(self) -> None:
        """Cut every connection; later calls raise an error of the driver that means an outage."""
        self._closed.set()
        for conn in (*self._idle, *self._in_use):
            conn.terminate()
        self.expire()

    async def close(self) -> None:
        """Close every connection once it is returned."""
        if self._closed.is_set():
            return
        self._closed.set()
        for _ in range(RESERVED_CONNECTION_COUNT):
            await self._slots.acquire()
        while self._idle:
            await self._idle.pop().close()

    async def _check_out(self) -> "asyncpg.Connection[asyncpg.Record]":
        await self._slots.acquire()
        try:
            conn = await self._idle_or_new()
        except BaseException:  # a failed or cancelled connect gives its slot back
            self._slots.release()
            raise
        self._in_use.add(conn)
        return conn

    async def _idle_or_new(self) -> "asyncpg.Connection[asyncpg.Record]":
        while self._idle:
            if not (conn := self._idle.pop()).is_closed():
                return conn
        if not self._closed.is_set():
            conn = await self._connect()
            if not self._closed.is_set():
                return conn
            conn.terminate()
        raise asyncpg.InterfaceError("the reserved connections are closed")


class Store:
    """The pool and its clock. `dsn` is for connections outside the pool.

    `fault_point` is called with the label of each step before its transaction begins and after its commit.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        reserved: ReservedConnections,
        clock: Clock,
        dsn: str,
        fault_point: FaultPoint | None = None,
        on_constraint_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.clock = clock
        self.dsn = dsn
        self._on_constraint_error = on_constraint_error
        self._pool = pool
        self._reserved = reserved
        self._fault_point = fault_point

    @asynccontextmanager
    async def tx(self, label: str) -> AsyncIterator[Connection]:
        """Run a transaction: commit at the end of the block, roll back when it raises. `label` names the
        step."""
        acquired = self._pool.acquire(timeout=_ACQUIRE_TIMEOUT_S)
        async with self._step_on(acquired, label, "transaction") as conn, conn.transaction():
            yield conn

    def statement(self, label: str) -> AbstractAsyncContextManager[Connection]:
        """Borrow a connection for one statement, which is a transaction by itself."""
        return self._step_on(self._pool.acquire(timeout=_ACQUIRE_TIMEOUT_S), label, "statement")

    def order_statement(self, label: str) -> AbstractAsyncContextManager[Connection]:
        """Borrow a reserved connection for one statement of an order."""
        return self._step_on(self._reserved.acquire(), label, "statement")

    @asynccontextmanager
    async def _step_on(
        self, acquired: AbstractAsyncContextManager[Connection], label: str, kind: str
    ) -> AsyncIterator[Connection]:
        with self.clock.hold():
            reach(self._fault_point, label, Moment.BEFORE)
            try:
                async with acquired as conn:
                    yield conn
            except Exception as error:  # any error of the block names the step that it ended
                error.add_note(f"in {kind} {label!r}")
                self._report_constraint_error(error)
                await self._expire_if_read_only(error)
                raise_translated(error)
                raise
            reach(self._fault_point, label, Moment.AFTER)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """Borrow a connection for reads; each statement sees what is committed by then."""
        with self.clock.hold(), translated_errors():
            async with self._pool.acquire(timeout=_ACQUIRE_TIMEOUT_S) as conn:
                yield conn

    async def run(self, label: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Run `work` in a transaction of its own and return its result; repeat it while others conflict.

        `work` must touch nothing but its connection. Raises DatabaseContention at the third conflict.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                async with self.tx(label) as conn:
                    return await work(conn)
            except DatabaseContention:
                if attempt == _MAX_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _report_constraint_error(self, error: Exception) -> None:
        if self._on_constraint_error is not None and isinstance(error, InvariantBroken):
            self._on_constraint_error(error)

    async def _expire_if_read_only(self, error: Exception) -> None:
        """Replace the connections when the server is read-only: the next one looks for the primary."""
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            await self.expire()

    async def is_writable(self) -> bool:
        """Return true when a new connection can write a line of the journal, which every order needs; it is rolled
        back. A full server counts as writable; a lock that outlives LOCK_TIMEOUT_MS does not."""
        try:
            with self.clock.hold(), translated_errors():
                conn = await asyncpg.connect(
                    self.dsn,
                    timeout=_ACQUIRE_TIMEOUT_S,
                    server_settings={"lock_timeout": str(LOCK_TIMEOUT_MS), "search_path": "public"},
                )
                try:
                    await conn.execute(_TRY_JOURNAL, timeout=_ACQUIRE_TIMEOUT_S * 2)
                finally:
                    conn.terminate()
        except DatabaseContention:
            return False
        except DatabaseUnavailable as error:
            return isinstance(error.__cause__, asyncpg.TooManyConnectionsError)
        return True

    def abandon(self) -> None:
        """Cut every connection and open no other; later calls raise DatabaseUnavailable."""
        self._pool.terminate()
        self._reserved.abandon()

    async def expire(self) -> None:
        """Replace every connection before its next use: after a failover the old ones reach the old server."""
        await self._pool.expire_connections()
        self._reserved.expire()

    async def close(self) -> None:
        """Close every connection; cut one that does not end by itself."""
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_S):  # noqa: TID251 -- a socket's end is real time
                await self._reserved.close()
                await self._pool.close()
        except TimeoutError:
            self.abandon()


async def open_store(
    dsn: str,
    clock: Clock,
    *,
    size: int = 8,
    name: str = "catalyst",
    fault_point: FaultPoint | None = None,
    writable: bool = False,
    on_constraint_error: Callable[[Exception], None] | None = None,
) -> Store:
    """Open a store with at most `size` connections and two reserved ones; the first of each connects now.

    Raises DatabaseUnavailable, and asyncpg's errors of a refused login. With `writable`, a read-only server counts
    as unreachable, so that the primary is found after a failover. Without it the process sends no orders, and the
    reserved connections open at first use. `on_constraint_error` is called with the error when a constraint refuses
    a statement.
    """
    settings = _settings(name, STATEMENT_TIMEOUT_MS, LOCK_TIMEOUT_MS)
    options: dict[str, Any] = {
        "max_cached_statement_lifetime": 0,  # a statement prepared in the morning stays prepared in the evening
        "command_timeout": _COMMAND_TIMEOUT_S,
        "timeout": _COMMAND_TIMEOUT_S,
        "target_session_attrs": _READ_WRITE if writable else None,
    }

    async def connect_reserved() -> "asyncpg.Connection[asyncpg.Record]":
        # The order path reads by key only. A plan made on the empty tables of the first day would scan them
        # (also in the queries of triggers) and would be kept while they grow; so would a plan that hashes or
        # merges the rows of one order with those of all orders.
        by_key = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
        return await _open_connection(dsn, server_settings=settings | by_key, **options)

    with translated_errors(), ExitStack() as on_failure:
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            max_inactive_connection_lifetime=0,
            server_settings=settings,
            init=partial(_set_up, settings),
            reset=_skip_reset,
            **options,
        )
        on_failure.callback(pool.terminate)
        reserved = ReservedConnections(connect_reserved)
        if writable:
            await reserved.open_first()
        on_failure.pop_all()
    return Store(pool, reserved, clock, dsn, fault_point, on_constraint_error)


@asynccontextmanager
async def connected(
    dsn: str,
    name: str,
    *,
    statement_timeout: int = STATEMENT_TIMEOUT_MS,
    lock_timeout: int = LOCK_TIMEOUT_MS,
    timeout_s: float | None = None,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a connection outside the pool for the length of the block, as `connect` does, and close it.

    The block raises the errors that `Store` raises. After an error the connection is cut.
    """
    conn = await connect(
        dsn, name, statement_timeout=statement_timeout, lock_timeout=lock_timeout, timeout_s=timeout_s
    )
    try:
        with translated_errors():
            yield conn
        await close_connection(conn)
    finally:
        conn.terminate()


async def close_connection(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Close a connection outside the pool; cut it when the server does not respond. Idempotent."""
    if conn.is_closed():
        return
    try:
        with translated_errors():
            await conn.close(timeout=_CLOSE_TIMEOUT_S)
    except DatabaseUnavailable:
        conn.terminate()


async def connect(
    dsn: str,
    name: str,
    *,
    statement_timeout: int = STATEMENT_TIMEOUT_MS,
    lock_timeout: int = LOCK_TIMEOUT_MS,
    timeout_s: float | None = None,
    writable: bool = False,
) -> "asyncpg.Connection[asyncpg.Record]":
    """Open a connection outside the pool, with the same types and limits. Raises the errors of `open_store`.

    Timeouts in milliseconds, 0 for none; `timeout_s` in real seconds, where less than usual is enough;
    `writable` as in `open_store`. Its statements raise the driver's errors: run them in `translated_errors`.
    """
    response_timeout = _COMMAND_TIMEOUT_S if timeout_s is None else timeout_s
    with translated_errors():
        return await _open_connection(
            dsn,
            timeout=response_timeout,
            command_timeout=response_timeout if statement_timeout else None,
            target_session_attrs=_READ_WRITE if writable else None,
            server_settings=_settings(name, statement_timeout, lock_timeout),
        )


async def _open_connection(dsn: str, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(dsn, **options)
    with ExitStack() as on_failure:
        on_failure.callback(conn.terminate)
        await _set_up(options["server_settings"], conn)
        on_failure.pop_all()
    return conn


def _settings(name: str, statement_timeout: int, lock_timeout: int) -> dict[str, str]:
    return {
        "application_name": name,
        "timezone": "UTC",
        "search_path": "public",
        "synchronous_commit": "on",
        "random_page_cost": "1.1",  # open and recent rows are in memory: a key costs little more than its page
        "statement_timeout": str(statement_timeout),
        "lock_timeout": str(lock_timeout),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
        # Detect a dead peer in seconds; ignored on a Unix socket.
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "jit": "off",
    }


async def _set_up(requested: Mapping[str, str], conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Exchange jsonb as Python values in binary form: a version byte, then the text. Array types are read
    here, so that the first order does not wait for them.

    Raises DatabasePooled when the session does not have the settings that guard it: a pooler may ignore them.
    """
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=encode_json,
        decoder=lambda data: orjson.loads(data[1:]),
    )
    in_force = await conn.fetchrow(_READ_BACK, [], [], [])
    assert in_force is not None  # a query without FROM returns one row
    ignored = [
        name for name, value in in_force.items() if name in requested and str(value) != requested[name]
    ]
    if ignored:
        raise DatabasePooled(f"it ignores {', '.join(ignored)}")


async def _skip_reset(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Leave a returned connection as it is."""


def encode_json(value: object) -> bytes:
    """Return `value` as binary jsonb; Decimals as text, so that no digit is lost, only what PostgreSQL accepts, and
    every secret masked, except in keys and exact fields."""
    try:
        text = orjson.dumps(value, default=_json_default, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        text = orjson.dumps(_storable_value(value), default=_json_default, option=orjson.OPT_NON_STR_KEYS)
    if b"\\u0000" in text or may_contain_secret(text.decode()):
        text = orjson.dumps(_storable_value(value), default=_json_default, option=orjson.OPT_NON_STR_KEYS)
    return b"\x01" + text


def storable_text(text: str, limit: int = 65_536) -> str:
    """Return `text` as PostgreSQL can store it, at most `limit` characters: no NUL, no lone surrogate, no secret."""
    return _accepted_text(mask_text(text)[:limit])


def _accepted_text(text: str) -> str:
    return text.replace("\x00", "�").encode("utf-8", "replace").decode()


def _storable_value(value: Any) -> Any:
    match value:
        case str():
            return storable_text(value)
        case dict():
            return {
                _accepted_text(key) if isinstance(key, str) else key: _accepted_text(item)
                if key in EXACT_FIELDS and isinstance(item, str)
                else _storable_value(item)
                for key, item in value.items()
            }
        case list() | tuple():
            return [_storable_value(item) for item in value]
        case _:
            return value


def _json_default(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
