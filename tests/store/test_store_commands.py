"""Operator commands: taken once, answered once, both sides notified."""

import asyncio
from datetime import datetime, timedelta

import pytest
from store.raw_rows import AT

from catalyst.clock import SystemClock
from catalyst.domain.errors import CatalystError
from catalyst.store import commands
from catalyst.store.notifications import listen
from catalyst.store.pool import Store, open_store
from tests.waiting import LIMIT_S, pause


async def _insert_command(store: Store, kind: str = "halt", **arguments: object) -> int:
    async with store.tx("command") as conn:
        return await commands.put(conn, kind, arguments, by="operator", at=AT)


async def _take_command(store: Store) -> commands.Command | None:
    async with store.tx("take") as conn:
        return await commands.take_next(conn, at=AT)


async def test_command_notifies_daemon_on_commit(store: Store):
    """The notification arrives with the commit; the row has the request and its author."""
    listener = await listen(store.dsn, commands.COMMAND_CHANNEL)
    command_id = await _insert_command(store, "close", symbol="AAPL")
    async with asyncio.timeout(LIMIT_S):
        await listener.notified.wait()
    command = await _take_command(store)
    assert command is not None
    assert (command.command_id, command.kind, command.arguments) == (command_id, "close", {"symbol": "AAPL"})
    assert (command.requested_by, command.taken_at, command.answered) == ("operator", AT, False)
    await listener.close()


async def test_commands_are_taken_once_in_order(store: Store):
    """Ten concurrent takers share five commands, each taken once; then none is left."""
    command_ids = [await _insert_command(store) for _ in range(5)]
    taken = await asyncio.gather(*(_take_command(store) for _ in range(10)))
    assert sorted(command.command_id for command in taken if command is not None) == command_ids
    assert await _take_command(store) is None
    async with store.read() as conn:
        assert [command.command_id for command in await commands.unfinished(conn)] == command_ids
        assert [command.command_id for command in await commands.recent(conn, 2)] == command_ids[:-3:-1]


async def test_oldest_waiting_command_is_taken_first(store: Store):
    """One taker takes the commands in their order of insertion; a withdrawn one is left out."""
    command_ids = [await _insert_command(store, kind) for kind in ("halt", "flatten", "resume", "scan")]
    async with store.tx("withdraw") as conn:
        assert await commands.withdraw(conn, command_ids[1], reason="the sender waited too long", at=AT)
    taken = [await _take_command(store) for _ in range(3)]
    assert [command.kind for command in taken if command is not None] == ["halt", "resume", "scan"]


async def test_each_lane_takes_its_own_kinds_and_the_last_all_others(store: Store):
    """A taker of some kinds leaves the others, one of all others takes also a kind that no release knows; every
    unanswered flatten is answered at once."""
    kinds = ("scan", "flatten", "dance", "halt", "flatten")
    ids = [await _insert_command(store, kind) for kind in kinds]
    exits = commands.CommandKinds(("flatten", "close"))
    others = commands.CommandKinds(without=("flatten", "close", "halt"))
    assert [kind for kind in kinds if kind in others] == ["scan", "dance"]
    async with store.tx("take") as conn:
        assert not await commands.is_waiting(conn, commands.CommandKinds(("close",)))
        taken = [
            await commands.take_next(conn, at=AT, kinds=lane) for lane in (exits, others, others, others)
        ]
        assert [each and each.command_id for each in taken] == [ids[1], ids[0], ids[2], None]
        assert await commands.is_waiting(conn, exits)
        assert not await commands.is_waiting(conn, others)
        await commands.answer_all(conn, "flatten", result={"flat": True}, at=AT)
        assert [each.kind for each in await commands.unfinished(conn)] == ["scan", "dance"]
        assert (await commands.get(conn, ids[4])).result == {"flat": True}


async def test_command_waiter_receives_answer_across_connections(database: str):
    """The waiter returns the answer on its own connection as soon as it is committed."""
    store = await open_store(database, SystemClock())
    command_id = await _insert_command(store)
    waiting = asyncio.create_task(commands.wait(store, command_id, max_wait=timedelta(minutes=1)))
    command = await _take_command(store)
    assert command is not None
    async with store.tx("answer") as conn:
        await commands.answer(conn, command.command_id, ok=True, result={"halted": True}, at=AT)
    answered = await waiting
    assert (answered.ok, answered.result, answered.answered_at) == (True, {"halted": True}, AT)
    await store.close()


async def test_command_wait_times_out_by_store_clock(store: Store, clock):
    """Without a daemon the wait times out by the store's clock and returns the unanswered command."""
    command_id = await _insert_command(store)
    waiting = asyncio.create_task(commands.wait(store, command_id, max_wait=timedelta(seconds=10)))
    while not waiting.done():
        await clock.advance(timedelta(seconds=1))
        await pause()
    assert not (await waiting).answered


async def test_second_command_answer_is_an_error(store: Store):
    """A second answer is an error, and the first stays."""
    command_id = await _insert_command(store)
    async with store.tx("answer") as conn:
        await commands.answer(conn, command_id, ok=False, result={"error": "unknown"}, at=AT)
        with pytest.raises(CatalystError, match="already answered"):
            await commands.answer(conn, command_id, ok=True, result={}, at=AT)
        assert (await commands.get(conn, command_id)).ok is False


async def test_withdrawn_command_is_never_taken(store: Store, later: datetime):
    """A client that stops waiting withdraws its command, unless the daemon has taken it."""
    first, second = await _insert_command(store), await _insert_command(store)
    async with store.tx("withdraw") as conn:
        assert await commands.withdraw(conn, first, reason="no daemon answered", at=later)
    taken = await _take_command(store)
    assert taken is not None
    assert taken.command_id == second
    async with store.tx("withdraw") as conn:
        assert not await commands.withdraw(conn, second, reason="too slow", at=later)
        assert (await commands.get(conn, first)).result == {"withdrawn": "no daemon answered"}


async def test_unknown_command_id_raises_key_error(store: Store):
    """An unknown id raises KeyError."""
    async with store.read() as conn:
        with pytest.raises(KeyError):
            await commands.get(conn, 1)
