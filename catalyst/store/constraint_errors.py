"""Constraint errors: exceptions for what the database refuses (the CT codes of the migrations).

asyncpg raises the registered class of an SQLSTATE. Importing this module registers these classes, so they are
raised where the statement or the commit is awaited.
"""

from asyncpg import PostgresError, UniqueViolationError

from catalyst.domain.errors import AnotherDaemonRunning, IllegalTransition, InvariantBroken, StaleOrder

DuplicateRow = UniqueViolationError  # another row has this id or fill, or is the open position


class StaleEpoch(PostgresError, AnotherDaemonRunning):
    """Another daemon has taken over: stop sending at once."""

    sqlstate = "CT001"


class ExitExceedsPosition(PostgresError, InvariantBroken):
    """The exit would sell more than the position holds; nothing was written."""

    sqlstate = "CT002"


class IllegalOrderTransition(PostgresError, IllegalTransition):
    """The order's status has no such edge."""

    sqlstate = "CT003"


class AppendOnlyViolation(PostgresError, InvariantBroken):
    """The statement would change an append-only row."""

    sqlstate = "CT004"


class FilledQtyMismatch(PostgresError, InvariantBroken):
    """The filled quantity would fall, or differ from the sum of the executions."""

    sqlstate = "CT005"


class JournalLineMissing(PostgresError, InvariantBroken):
    """A status changed without its journal line."""

    sqlstate = "CT006"


class PositionEntryMismatch(PostgresError, InvariantBroken):
    """A position without a filled entry, or an entry's fill without its position."""

    sqlstate = "CT007"


class StaleRow(PostgresError, StaleOrder):
    """A row differs from what its writer read; nothing of the statement was written."""

    sqlstate = "CT008"
