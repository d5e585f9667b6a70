"""Driver errors: which of them mean that the database is unavailable, or that another transaction conflicted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import asyncpg

from catalyst.domain.errors import DatabaseContention, DatabasePooled, DatabaseUnavailable

_CONTENTION_ERRORS: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)

_OUTAGE_ERRORS: Final = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
)
# Each session of a pooler shares servers with others: a statement is there twice, or not at all.
_POOLER_ERRORS: Final = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
# Every class of error that the driver raises; a TimeoutError is an OSError.
DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def is_outage(error: BaseException) -> bool:
    """Return true when `error` means that the database is unavailable, not that our request was wrong.

    An OSError counts only when the driver raised it: other code in the block may raise one too. A ValueError of
    the driver is a wrong argument or a wrong DSN.
    """
    if isinstance(error, OSError):
        return _is_raised_by_driver(error)
    return isinstance(error, _OUTAGE_ERRORS) and not isinstance(error, ValueError)


def _is_raised_by_driver(error: BaseException) -> bool:
    """Return true when the traceback of `error` passes through a module of asyncpg."""
    traceback = error.__traceback__
    while traceback is not None:
        if str(traceback.tb_frame.f_globals.get("__name__")).startswith("asyncpg."):
            return True
        traceback = traceback.tb_next
    return False


def raise_unavailable(error: BaseException) -> NoReturn:
    raise DatabaseUnavailable(_describe(error)) from error


def raise_translated(error: BaseException) -> None:
    """Raise DatabaseUnavailable or DatabaseContention when the driver's `error` means that; return otherwise.

    A prepared statement that another session made, and a refused setting, are the signs of a pooler.
    """
    if isinstance(error, _POOLER_ERRORS) or (
        isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in str(error)
    ):
        raise DatabasePooled(str(error).splitlines()[0]) from error
    if isinstance(error, _CONTENTION_ERRORS):
        raise DatabaseContention(_describe(error)) from error
    if is_outage(error):
        raise_unavailable(error)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the errors of the block as `Store` does; for statements on a connection outside the pool."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise_translated(error)
        raise
