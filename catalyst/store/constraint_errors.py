"""What the database itself refuses, as exceptions: the CT codes of the migrations.

asyncpg raises a registered class for the SQLSTATE it meets, so importing this module is enough for these to be
raised where the statement (or the commit) is awaited.
"""

from asyncpg import PostgresError, UniqueViolationError

from catalyst.domain.errors import AnotherDaemonRunning, IllegalTransition, InvariantBroken, StaleOrder

DuplicateRow = UniqueViolationError  # somebody else's row has the id, the fill or the place


class StaleEpoch(PostgresError, AnotherDaemonRunning):
    """Another daemon has taken over: stop sending at once."""

    sqlstate = "CT001"


class ExitExceedsPosition(PostgresError, InvariantBroken):
    """The exit would take more than the position holds; nothing was written."""

    sqlstate = "CT002"


class IllegalOrderTransition(PostgresError, IllegalTransition):
    """The order's status has no such edge."""

    sqlstate = "CT003"


class AppendOnlyViolation(PostgresError, InvariantBroken):
    """The statement would change what has been written for good."""

    sqlstate = "CT004"


class FilledQtyMismatch(PostgresError, InvariantBroken):
    """Filled quantity would fall, or differ from the sum of the executions."""

    sqlstate = "CT005"


class JournalLineMissing(PostgresError, InvariantBroken):
    """A status changed without its line in the journal."""

    sqlstate = "CT006"


class PositionEntryMismatch(PostgresError, InvariantBroken):
    """A position without a filled entry, or an entry's fill without its position."""

    sqlstate = "CT007"


class StaleRow(PostgresError, StaleOrder):
    """A row is no longer as its writer saw it; nothing of the statement was written."""

    sqlstate = "CT008"
