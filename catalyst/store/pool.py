"""The one pool: how the program reaches its database.

Statements that belong together run in `tx`; one statement that is a transaction by itself runs in `statement`
and saves two round trips. What an order waits for runs in `stroke`: a lane of its own, so that no report and no scan
that holds every other connection is in its way, and its statements stay prepared where they run. All hold the clock,
as any effect in flight does. A session carries no state from
one borrower to the next (settings are per transaction, locks and LISTEN live on connections of their own), so
it is not reset in between: that would be another round trip.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from decimal import Decimal
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
import orjson
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from catalyst.clock import Clock
from catalyst.domain.errors import InvariantBroken
from catalyst.domain.fault_points import Moment, Witness, tell
from catalyst.store.constraint_errors import StaleEpoch

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_T = TypeVar("_T")

STATEMENT_TIMEOUT: Final = 5_000  # milliseconds, as are the next two
LOCK_TIMEOUT: Final = 2_000
IDLE_IN_TRANSACTION: Final = 30_000
LANE: Final = 2  # connections of the order path: one that is sent, one that is heard
_ACQUIRE: Final = 2.0  # seconds, real time: beyond it the pool is exhausted, which is worth an alarm
_ANSWER: Final = 10.0  # seconds, real time: beyond it the server is gone, whatever TCP believes
_ATTEMPTS: Final = 3
_WRITES: Final = SessionAttribute.read_write

# Another transaction was in the way: the whole of ours may be done again.
CONTENTION: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)

# The database cannot be reached or cannot write: trading goes on without it as far as it may.
_OUTAGES: Final = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    OSError,
    TimeoutError,
)


def is_outage(error: BaseException) -> bool:
    """True when `error` says that the database is away, not that we asked for something wrong."""
    return isinstance(error, _OUTAGES) and not isinstance(error, (ValueError, StaleEpoch))


def is_passing(error: BaseException) -> bool:
    """True when `error` is no fault of ours and goes by: an outage, or somebody in the way."""
    return is_outage(error) or isinstance(error, CONTENTION)


class Lane:
    """A few connections of the order path, held open and lent one at a time.

    A pool's own care for a connection (a task to hand it out, another to take it back) would cost a third of what a
    short statement does. What is lent here runs one statement, so there is nothing to take back: a connection that the
    server refused something is as good as before, and one that anything else happened to is cut and made anew.
    """

    def __init__(self, connect: Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]) -> None:
        self._connect = connect
        self._free: list[asyncpg.Connection[asyncpg.Record]] = []
        self._lent: set[asyncpg.Connection[asyncpg.Record]] = set()
        self._slots = asyncio.Semaphore(LANE)
        self._shut = asyncio.Event()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """The connection used last. Raises TimeoutError when there is none for two seconds, and what asyncpg raises."""
        if not self._slots.locked() and any(not conn.is_closed() for conn in self._free):
            conn = await self._take()
        else:
            async with asyncio.timeout(_ACQUIRE):  # noqa: TID251 -- a connection's turn is real time
                conn = await self._take()
        try:
            yield conn
        except (asyncio.CancelledError, TimeoutError):
            # The server is told to stop, and has stopped, before anybody looks what became of the statement.
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await conn.close(timeout=_ACQUIRE)
            raise
        except BaseException as error:
            if is_outage(error) or not isinstance(error, asyncpg.PostgresError):
                conn.terminate()
            raise
        finally:
            if conn not in self._lent:
                conn.terminate()  # expired meanwhile, or given up
            elif not conn.is_closed():
                self._free.append(conn)
            self._lent.discard(conn)
            self._slots.release()

    async def warm(self) -> None:
        """Connect the first one now, and not when an order waits for it."""
        async with self.lend():
            pass

    def expire(self) -> None:
        """None of today's connections is lent again."""
        for conn in self._free:
            conn.terminate()
        self._free.clear()
        self._lent.clear()

    def give_up(self) -> None:
        """Every connection is cut; whoever asks for another hears of an outage."""
        self._shut.set()
        for conn in (*self._free, *self._lent):
            conn.terminate()
        self.expire()

    async def close(self) -> None:
        """Every connection is closed, once it has come back."""
        if self._shut.is_set():
            return
        self._shut.set()
        for _ in range(LANE):
            await self._slots.acquire()
        while self._free:
            await self._free.pop().close()

    async def _take(self) -> "asyncpg.Connection[asyncpg.Record]":
        await self._slots.acquire()
        try:
            conn = await self._connection()
        except BaseException:
            self._slots.release()
            raise
        self._lent.add(conn)
        return conn

    async def _connection(self) -> "asyncpg.Connection[asyncpg.Record]":
        while self._free:
            if not (conn := self._free.pop()).is_closed():
                return conn
        if not self._shut.is_set():
            conn = await self._connect()
            if not self._shut.is_set():
                return conn
            conn.terminate()
        raise asyncpg.InterfaceError("the lane is closed")


class Store:
    """The pool, and the clock its users live on. `dsn` is for the connections that cannot be pooled.

    `witness` is called with each step's label before its transaction begins and after it has committed.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        lane: Lane,
        clock: Clock,
        dsn: str,
        witness: Witness | None = None,
    ) -> None:
        self.clock = clock
        self.dsn = dsn
        self.refused: Callable[[Exception], None] | None = None  # told of what the database would not write
        self._pool = pool
        self._lane = lane
        self._witness = witness

    @asynccontextmanager
    async def tx(self, label: str) -> AsyncIterator[Connection]:
        """A transaction: committed when the block ends, rolled back when it raises. `label` names the step."""
        with self.clock.hold():
            tell(self._witness, label, Moment.BEFORE)
            try:
                async with self._pool.acquire(timeout=_ACQUIRE) as conn, conn.transaction():
                    yield conn
            except Exception as error:
                error.add_note(f"in transaction {label!r}")
                self._tell_of(error)
                await self._heed(error)
                raise
            tell(self._witness, label, Moment.AFTER)

    def statement(self, label: str) -> AbstractAsyncContextManager[Connection]:
        """A connection for one statement, which is a transaction by itself."""
        return self._alone(self._pool.acquire(timeout=_ACQUIRE), label)

    def stroke(self, label: str) -> AbstractAsyncContextManager[Connection]:
        """The same for a step of an order, on the order path's own lane."""
        return self._alone(self._lane.lend(), label)

    @asynccontextmanager
    async def _alone(
        self, lent: AbstractAsyncContextManager[Connection], label: str
    ) -> AsyncIterator[Connection]:
        with self.clock.hold():
            tell(self._witness, label, Moment.BEFORE)
            try:
                async with lent as conn:
                    yield conn
            except Exception as error:
                error.add_note(f"in statement {label!r}")
                self._tell_of(error)
                await self._heed(error)
                raise
            tell(self._witness, label, Moment.AFTER)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """A connection for questions that change nothing; each statement sees what is committed by then."""
        with self.clock.hold():
            async with self._pool.acquire(timeout=_ACQUIRE) as conn:
                yield conn

    async def run(self, label: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """What `work` returns, from a transaction of its own; done again, whole, while others are in the way.

        `work` must touch nothing but its connection. Raises the last of three CONTENTION errors.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self.tx(label) as conn:
                    return await work(conn)
            except CONTENTION:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _tell_of(self, error: Exception) -> None:
        if self.refused is not None and isinstance(error, InvariantBroken):
            self.refused(error)

    async def _heed(self, error: Exception) -> None:
        """A server that only reads is not the one to write to: the next connection looks for another."""
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            await self.expire()

    async def answers(self) -> bool:
        """True when the server takes a new connection and answers on it; one that is full is there all the same."""
        with self.clock.hold():
            try:
                conn = await asyncpg.connect(self.dsn, timeout=_ACQUIRE)
            except asyncpg.TooManyConnectionsError:
                return True
            except Exception as error:
                if not is_outage(error):
                    raise
                return False
            try:
                await conn.execute("SELECT 1", timeout=_ACQUIRE)
            except Exception as error:
                if not is_outage(error):
                    raise
                return False
            finally:
                conn.terminate()
            return True

    def give_up(self) -> None:
        """Every connection is cut, and there will be no other: whoever asks from now on hears of an outage."""
        self._pool.terminate()
        self._lane.give_up()

    async def expire(self) -> None:
        """Every connection is replaced before its next use: after a failover the old ones reach the old server."""
        await self._pool.expire_connections()
        self._lane.expire()

    async def close(self) -> None:
        """Every connection is closed; one that does not end by itself is cut."""
        try:
            async with asyncio.timeout(_ANSWER):  # noqa: TID251 -- a socket's end is real time
                await self._lane.close()
                await self._pool.close()
        except TimeoutError:
            self.give_up()


async def open_store(
    dsn: str,
    clock: Clock,
    *,
    size: int = 8,
    name: str = "catalyst",
    witness: Witness | None = None,
    writable: bool = False,
) -> Store:
    """A store of at most `size` connections and a lane of two, the first of each open. Raises what asyncpg raises.

    With `writable`, a server that only reads is one that cannot be reached: after a failover the other one is found.
    Without it nobody sends orders, and the lane is opened by its first use.
    """

    settings = _settings(name, STATEMENT_TIMEOUT, LOCK_TIMEOUT)
    how: dict[str, Any] = {
        "max_cached_statement_lifetime": 0,  # what was prepared in the morning is prepared in the evening
        "command_timeout": _ANSWER,
        "timeout": _ANSWER,
        "target_session_attrs": _WRITES if writable else None,
    }

    async def beside() -> "asyncpg.Connection[asyncpg.Record]":
        # All that an order waits for is found by a key. A plan made of the first day's empty tables would read them
        # through, triggers' questions included, and be kept while they grow; so would one that hashes or merges
        # what one order says against all that there are.
        by_key = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
        conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            dsn, server_settings=settings | by_key, **how
        )
        try:
            await _teach(conn)
        except BaseException:
            conn.terminate()
            raise
        return conn

    main = await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        max_inactive_connection_lifetime=0,
        server_settings=settings,
        init=_teach,
        reset=_keep,
        **how,
    )
    lane = Lane(beside)
    try:
        if writable:
            await lane.warm()
    except BaseException:
        main.terminate()
        raise
    return Store(main, lane, clock, dsn, witness)


async def connect(
    dsn: str,
    name: str,
    *,
    statement_timeout: int = STATEMENT_TIMEOUT,
    lock_timeout: int = LOCK_TIMEOUT,
    answer: float | None = None,
    writable: bool = False,
) -> "asyncpg.Connection[asyncpg.Record]":
    """A connection outside the pool, with the same types and limits. Timeouts in milliseconds, 0 for none; `answer`
    in real seconds, where less than usual is enough. `writable` as in `open_store`."""
    within = _ANSWER if answer is None else answer
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        dsn,
        timeout=within,
        command_timeout=within if statement_timeout else None,
        target_session_attrs=_WRITES if writable else None,
        server_settings=_settings(name, statement_timeout, lock_timeout),
    )
    await _teach(conn)
    return conn


def _settings(name: str, statement_timeout: int, lock_timeout: int) -> dict[str, str]:
    return {
        "application_name": name,
        "timezone": "UTC",
        "search_path": "public",
        "synchronous_commit": "on",
        "random_page_cost": "1.1",  # what is open and of today is in memory: a key costs little more than its page
        "statement_timeout": str(statement_timeout),
        "lock_timeout": str(lock_timeout),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION),
        # A dead peer is noticed in seconds; ignored on a Unix socket.
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "jit": "off",
    }


async def _teach(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """jsonb travels as Python values, in its binary form: a version byte, then the text. The server is asked here, and
    not by the first order, how arrays travel."""
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=encode_json,
        decoder=lambda data: orjson.loads(data[1:]),
    )
    await conn.fetchval(
        "SELECT $1::text[] IS NULL AND $2::bigint[] IS NULL AND $3::numeric[] IS NULL", [], [], []
    )


async def _keep(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Hand a connection back as it is."""


def encode_json(value: object) -> bytes:
    """`value` as binary jsonb: Decimals as text, so that no digit is lost; nothing PostgreSQL would refuse."""
    try:
        text = orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        text = orjson.dumps(_storable(value), default=_plain, option=orjson.OPT_NON_STR_KEYS)
    if b"\\u0000" in text:
        text = orjson.dumps(_storable(value), default=_plain, option=orjson.OPT_NON_STR_KEYS)
    return b"\x01" + text


def storable(text: str, limit: int = 65_536) -> str:
    """`text` as PostgreSQL can hold it: no NUL, no lone surrogate, at most `limit` characters."""
    return text[:limit].replace("\x00", "�").encode("utf-8", "replace").decode()


def _storable(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list() | tuple():
            return [_storable(item) for item in value]
        case _:
            return value


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
