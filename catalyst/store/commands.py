"""Operator commands: durable rows, each taken once and answered in its row."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from catalyst.clock import wait as wait_for
from catalyst.domain.errors import CatalystError
from catalyst.store.notifications import listen
from catalyst.store.pool import Connection, Store

if TYPE_CHECKING:
    from asyncpg import Record

COMMAND_CHANNEL: Final = "catalyst_commands"  # notifies the daemon
ANSWER_CHANNEL: Final = "catalyst_answers"  # notifies the sender of the command
# A notification may be lost with its connection; a poll costs little.
_POLL_INTERVAL: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class CommandKinds:
    """These kinds of commands, without `only` every kind, also those that only a later release knows; but not
    `without`."""

    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()

    def __contains__(self, kind: str) -> bool:
        return kind not in self.without and (self.only is None or kind in self.only)


ALL_KINDS: Final = CommandKinds()


@dataclass(frozen=True, slots=True)
class Command:
    """One command to the daemon. `ok` and `result` are None until it is answered."""

    command_id: int
    kind: str
    arguments: dict[str, object]
    requested_at: datetime
    requested_by: str
    taken_at: datetime | None
    answered_at: datetime | None
    ok: bool | None
    result: dict[str, object] | None

    @property
    def answered(self) -> bool:
        return self.answered_at is not None


_SELECT: Final = """
    SELECT command_id, kind, arguments, requested_at, requested_by, taken_at, answered_at, ok, result
      FROM commands
"""
_BY_ID: Final = _SELECT + " WHERE command_id = $1"
_UNFINISHED: Final = _SELECT + " WHERE taken_at IS NOT NULL AND answered_at IS NULL ORDER BY command_id"
_RECENT: Final = _SELECT + " ORDER BY command_id DESC LIMIT $1"


def _row(record: "Record") -> Command:
    return Command(**record)


async def put(conn: Connection, kind: str, arguments: Mapping[str, object], *, by: str, at: datetime) -> int:
    """Write a command; the commit notifies the daemon. Return its id."""
    command_id: int = await conn.fetchval(
        """
        INSERT INTO commands (kind, arguments, requested_at, requested_by) VALUES ($1, $2, $3, $4)
        RETURNING command_id
        """,
        kind,
        arguments,
        at,
        by,
    )
    return command_id


async def is_waiting(conn: Connection, kinds: CommandKinds) -> bool:
    """Return true when a command of these kinds waits to be taken."""
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT 1 FROM commands WHERE answered_at IS NULL AND taken_at IS NULL"
            " AND ($1::text[] IS NULL OR kind = ANY($1)) AND kind <> ALL ($2::text[]))",
            kinds.only,
            kinds.without,
        )
    )


async def take_next(conn: Connection, *, at: datetime, kinds: CommandKinds = ALL_KINDS) -> Command | None:
    """Take the oldest waiting command of these kinds; None when there is none. Two callers never get the same."""
    record = await conn.fetchrow(
        """
        UPDATE commands SET taken_at = $1
         WHERE command_id = (SELECT command_id FROM commands
                              WHERE answered_at IS NULL AND taken_at IS NULL
                                AND ($2::text[] IS NULL OR kind = ANY($2)) AND kind <> ALL ($3::text[])
                              ORDER BY command_id LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING command_id, kind, arguments, requested_at, requested_by, taken_at, answered_at, ok, result
        """,
        at,
        kinds.only,
        kinds.without,
    )
    return None if record is None else _row(record)


async def answer(
    conn: Connection, command_id: int, *, ok: bool, result: Mapping[str, object], at: datetime
) -> None:
    """Answer a command and notify its sender. Raises CatalystError when it was answered before."""
    command_found = await conn.fetchval(
        """
        UPDATE commands SET answered_at = $2, ok = $3, result = $4, taken_at = coalesce(taken_at, $2)
         WHERE command_id = $1 AND answered_at IS NULL RETURNING command_id
        """,
        command_id,
        at,
        ok,
        result,
    )
    if command_found is None:
        raise CatalystError(f"command {command_id} is already answered")


async def answer_all(conn: Connection, kind: str, *, result: Mapping[str, object], at: datetime) -> None:
    """Answer every unanswered command of a kind as carried out, and notify its sender."""
    await conn.execute(
        """
        UPDATE commands SET answered_at = $2, ok = true, result = $3, taken_at = coalesce(taken_at, $2)
         WHERE kind = $1 AND answered_at IS NULL
        """,
        kind,
        at,
        result,
    )


async def withdraw(conn: Connection, command_id: int, *, reason: str, at: datetime) -> bool:
    """Withdraw a command; false when the daemon has taken it.

    For a sender that stops waiting: a command to trade must not wait for a daemon that starts tomorrow.
    """
    command_found = await conn.fetchval(
        """
        UPDATE commands SET taken_at = $2, answered_at = $2, ok = false, result = $3
         WHERE command_id = $1 AND taken_at IS NULL AND answered_at IS NULL RETURNING command_id
        """,
        command_id,
        at,
        {"withdrawn": reason},
    )
    return command_found is not None


async def get(conn: Connection, command_id: int) -> Command:
    """Return the command with that id. Raises KeyError when there is none."""
    record = await conn.fetchrow(_BY_ID, command_id)
    if record is None:
        raise KeyError(command_id)
    return _row(record)


async def unfinished(conn: Connection) -> list[Command]:
    """Return commands that a daemon took and did not answer before it crashed, oldest first."""
    return [_row(record) for record in await conn.fetch(_UNFINISHED)]


async def recent(conn: Connection, limit: int = 20) -> list[Command]:
    """Return the latest commands, newest first."""
    return [_row(record) for record in await conn.fetch(_RECENT, limit)]


async def wait(store: Store, command_id: int, *, max_wait: timedelta) -> Command:
    """Return the command once it is answered, or as it is after `max_wait` of the store's clock."""
    deadline = store.clock.now() + max_wait
    listener = await listen(store.dsn, ANSWER_CHANNEL)
    try:
        while True:
            listener.notified.clear()
            async with store.read() as conn:
                command = await get(conn, command_id)
            remaining = deadline - store.clock.now()
            if command.answered or remaining <= timedelta(0):
                return command
            if listener.lost.is_set():
                await store.clock.sleep(min(_POLL_INTERVAL, remaining))
            else:
                await wait_for(store.clock, listener.notified, min(_POLL_INTERVAL, remaining))
    finally:
        await listener.close()
