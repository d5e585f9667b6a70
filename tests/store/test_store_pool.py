"""The connection pool: transactions, types, limits, and the manual clock that waits for transactions."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalyst.clock import ManualClock
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.domain.fault_points import Moment
from catalyst.store.constraint_errors import IllegalOrderTransition, StaleEpoch
from catalyst.store.pool import (
    Connection,
    Store,
    connect,
    encode_json,
    open_store,
    storable_text,
)


async def test_failed_transaction_is_rolled_back_and_names_its_label(store: Store):
    """A block that raises is rolled back, and the error names its label."""

    async def step() -> None:
        async with store.tx("two sectors") as conn:
            await conn.execute("INSERT INTO sectors (name) VALUES ('Energy')")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        await step()
    assert caught.value.__notes__ == ["in transaction 'two sectors'"]
    async with store.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM sectors") == 0


async def test_manual_clock_waits_for_open_transaction(store: Store, clock: ManualClock):
    """A sleeper does not wake before the open transaction has committed."""
    sector_names = []

    async def sleeper() -> None:
        await clock.sleep(timedelta(seconds=1))
        async with store.read() as conn:
            sector_names.append(await conn.fetchval("SELECT name FROM sectors"))

    async def writer() -> None:
        async with store.tx("sector") as conn:
            began.set()
            await conn.execute("SELECT pg_sleep(0.05)")
            await conn.execute("INSERT INTO sectors (name) VALUES ('Energy')")

    began = asyncio.Event()
    tasks = [asyncio.create_task(sleeper()), asyncio.create_task(writer())]
    await began.wait()
    await clock.advance(timedelta(seconds=2))
    await asyncio.gather(*tasks)
    assert sector_names == ["Energy"]


async def test_fault_point_is_reached_before_and_after_commit(database: str, clock: ManualClock):
    """The fault point is reached before a step and, only when it committed, after it."""
    seen: list[tuple[str, Moment]] = []
    store = await open_store(database, clock, fault_point=lambda label, moment: seen.append((label, moment)))
    async with store.tx("one"):
        pass
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with store.statement("two") as conn:
            await conn.execute("SELECT 1/0")
    await store.close()
    assert seen == [("one", Moment.BEFORE), ("one", Moment.AFTER), ("two", Moment.BEFORE)]


async def test_deadlocked_transaction_is_repeated(store: Store):
    """Two transactions lock two rows in opposite order: both succeed, because the victim is repeated."""
    async with store.tx("seed") as conn:
        await conn.execute("INSERT INTO sectors (name) VALUES ('A'), ('B')")
    both = asyncio.Barrier(2)
    runs = []

    def work(first: str, second: str):
        async def lock(conn: Connection) -> str:
            runs.append(first)
            await conn.execute("SELECT 1 FROM sectors WHERE name = $1 FOR UPDATE", first)
            if len(runs) <= 2:
                await both.wait()
            await conn.execute("SELECT 1 FROM sectors WHERE name = $1 FOR UPDATE", second)
            return first

        return lock

    done = await asyncio.gather(store.run("ab", work("A", "B")), store.run("ba", work("B", "A")))
    assert sorted(done) == ["A", "B"]
    assert len(runs) >= 3  # on a slow machine they may deadlock again


async def test_persistent_contention_raises_after_three_attempts(store: Store):
    """After three attempts the last error is raised."""
    runs = []

    async def work(conn: Connection) -> None:
        runs.append(1)
        raise asyncpg.DeadlockDetectedError("again")

    with pytest.raises(DatabaseContention):
        await store.run("never", work)
    assert len(runs) == 3


async def test_sessions_have_timeouts_and_names(store: Store):
    """Each session has time-outs for statements, locks and idle transactions, and a name."""
    async with store.read() as conn:
        shown = [
            await conn.fetchval(f"SHOW {name}")
            for name in (
                "application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
                "synchronous_commit", "timezone",
            )
        ]  # fmt: skip
        assert shown == ["catalyst", "5s", "2s", "30s", "on", "UTC"]


async def test_numeric_is_decimal_and_jsonb_is_python_values(store: Store):
    """Numerics are read back digit for digit; jsonb holds Python values, with Decimals as text."""
    async with store.read() as conn:
        assert await conn.fetchval("SELECT $1::numeric", Decimal("0.1000")) == Decimal("0.1")
        assert str(await conn.fetchval("SELECT 187.9500::numeric")) == "187.9500"
        value = {"price": Decimal("187.95"), "n": 1, "none": None, "list": ["a", {"b": True}]}
        assert await conn.fetchval("SELECT $1::jsonb", value) == value | {"price": "187.95"}


_ANY_TEXT = st.text(st.characters(), max_size=30)
_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | _ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(_ANY_JSON, min_size=1, max_size=20))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_json_value_can_be_stored(database: str, values: list[object]):
    """Any received value can be stored as jsonb without an error: NUL, lone surrogates, NaN."""
    conn = await connect(database, "test")
    try:
        for value in values:
            await conn.fetchval("SELECT $1::jsonb", value)
    finally:
        await conn.close()


@given(_ANY_TEXT)
def test_storable_text_changes_only_unstorable_characters(text: str):
    """Only NUL and lone surrogates change; the result is never longer than the limit."""
    clean = storable_text(text)
    assert "\x00" not in clean
    assert clean.encode().decode() == clean
    if "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert clean == text
    assert len(storable_text(text, 3)) <= 3


def test_json_encoder_rejects_unknown_objects():
    """An object of an unknown type raises TypeError instead of being stored as a string."""
    with pytest.raises(TypeError):
        encode_json({"clock": object()})


def raise_sqlstate(sqlstate: str) -> str:
    """Return a statement that the server refuses with `sqlstate`."""
    return f"DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END $$"


@pytest.mark.parametrize("entry", ["tx", "statement", "order_statement", "read"])
async def test_store_translates_only_outage_and_contention(store: Store, entry: str):
    """A cut connection and a conflict leave the store as our classes, with the driver's error as their cause.

    A wrong statement or argument, a constraint's error and an error of other code in the block leave it unchanged.
    """
    step = getattr(store, entry)
    arguments = [] if entry == "read" else ["test"]

    async def execute(sql: str, *values: object) -> None:
        async with step(*arguments) as conn:
            await conn.execute(sql, *values)

    with pytest.raises(DatabaseUnavailable) as cut:
        await execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert isinstance(cut.value.__cause__, (asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError))
    for sqlstate, cause in (
        ("40P01", asyncpg.DeadlockDetectedError),
        ("40001", asyncpg.SerializationError),
        ("55P03", asyncpg.LockNotAvailableError),
    ):
        with pytest.raises(DatabaseContention) as conflict:
            await execute(raise_sqlstate(sqlstate))
        assert isinstance(conflict.value.__cause__, cause)
    with pytest.raises(asyncpg.UndefinedColumnError):
        await execute("SELECT nonsense")
    with pytest.raises(asyncpg.DataError):
        await execute("SELECT $1::integer", "one")
    with pytest.raises(StaleEpoch):
        await execute(raise_sqlstate("CT001"))
    with pytest.raises(IllegalOrderTransition):
        await execute(raise_sqlstate("CT003"))
    for own_error in (TimeoutError("of a broker"), FileNotFoundError("of a file"), KeyError("of code")):
        with pytest.raises(type(own_error)) as unchanged:
            async with step(*arguments):
                raise own_error
        assert unchanged.value is own_error


async def test_pool_reconnects_after_losing_its_connections(store: Store):
    """After the server ended every session the pool opens a new one."""
    async with store.read() as conn:
        await conn.fetchval("SELECT 1")
    killer = await asyncpg.connect(store.dsn)
    await killer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await killer.close()
    outages = 0
    while outages < 3:
        try:
            async with store.tx("again") as conn:
                await conn.execute("INSERT INTO sectors (name) VALUES ('Energy')")
            break
        except DatabaseUnavailable:
            outages += 1
    async with store.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM sectors") == 1


async def test_pool_replaces_expired_connections(store: Store):
    """After `expire` the next read has a new session."""
    async with store.read() as conn:
        before = await conn.fetchval("SELECT pg_backend_pid()")
    await store.expire()
    async with store.read() as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") != before
