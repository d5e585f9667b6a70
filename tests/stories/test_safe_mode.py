"""SAFE: an invariant does not hold. Entries stop, everything else goes on, one page is sent, and only a person who has
mended it leads out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from catalyst.daemon.runtime import supervisor
from catalyst.daemon.trading_state import safe_mode
from catalyst.store import orders
from catalyst.store.constraint_errors import IllegalEdge
from tests.stories.scenario import ENTRY, Desk, open_desk

MINUTES = 6  # longer than the pause between two looks, and the doubt after it


@asynccontextmanager
async def owner(desk: Desk, *tables: str) -> AsyncIterator[Any]:
    """Somebody with the owner's rights, the guards out of his way."""
    for table in tables:
        await desk.conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield desk.conn
    for table in tables:
        await desk.conn.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


async def latch(desk: Desk) -> str | None:
    reason: str | None = await desk.conn.fetchval(
        "SELECT reason FROM latches WHERE name = 'safe' AND cleared_at IS NULL"
    )
    return reason


async def test_a_quiet_day_has_no_doubts(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Entries, a stop, a target, a close: at no look is anything doubted, and the journal's head is in the log."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.holds("MSFT", 10)
        await desk.waits(minutes=MINUTES)
        desk.prints("AAPL", "194.05")
        desk.prints("MSFT", "187.95")
        await desk.waits(minutes=MINUTES)
        assert desk.held("AAPL") == desk.held("MSFT") == 0
        assert await latch(desk) is None
        await desk.agrees()
        head = await desk.conn.fetchval(
            "SELECT encode(hash, 'hex') FROM journal_chain ORDER BY link DESC LIMIT 1"
        )
    said = capsys.readouterr().out
    assert "invariant_doubted" not in said
    assert head in said


async def test_an_invariant_that_fails_twice_is_safe_mode(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A position's cost is not what its fills say: after the second look no entry is let through; the stop still
    works, a restart changes nothing, one page is sent, and resuming waits until the tables are right again."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        async with owner(desk, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost + 1")
        assert desk.parts is not None
        await desk.parts.safety.look()
        assert desk.parts.gate.open
        await desk.waits(minutes=MINUTES)
        assert (await latch(desk) or "").startswith("I9: AAPL")
        assert "I9" in (desk.parts.gate.refusal("MSFT") or "")
        assert "safe_mode_entered" in capsys.readouterr().out

        await desk.dies()
        await desk.opens()
        await desk.waits(minutes=MINUTES)
        assert "I9" in (desk.parts.gate.refusal("MSFT") or "")
        assert (await desk.alerts()).count("SAFE_MODE") == 1
        refused = await desk.tells("resume")
        assert not refused["ok"]
        assert "I9: AAPL" in refused["error"]

        async with owner(desk, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost - 1")
        assert (await desk.tells("resume"))["cleared"] == ["safe"]
        assert desk.parts.gate.open
        await desk.waits(minutes=MINUTES)
        assert await latch(desk) is None
        desk.prints("AAPL", "187.95")
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0


async def test_a_doubt_that_passes_is_none(database: str) -> None:
    """Wrong at one look and right at the next: nobody is told."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        async with owner(desk, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost + 1")
        await desk.parts.safety.look()
        async with owner(desk, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost - 1")
        await desk.waits(minutes=MINUTES)
        assert desk.parts.gate.open
        await desk.agrees()


async def test_safe_mode_protects_and_leaves(database: str) -> None:
    """In SAFE mode a partly filled entry still gets its stop, and the operator still leaves by the safe exit."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.admin("faults", {"kind": "partial", "symbol": "AAPL", "qty": "8"})
        await desk.enters("AAPL", 20, **ENTRY)
        assert desk.parts is not None
        desk.parts.gate.violated(safe_mode.Invariant.I5, "told by the story")
        await desk.waits(seconds=15)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await latch(desk) == "I5: told by the story"
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=15)
        assert desk.held("AAPL") == 0


async def test_a_broken_journal_is_safe_mode_at_once(database: str) -> None:
    """The owner rewrites a line: the next look names it, and no resume leads out."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        async with owner(desk, "order_events") as conn:
            seq = await conn.fetchval(
                "UPDATE order_events SET note = 'nothing' WHERE seq = (SELECT max(seq) FROM order_events) RETURNING seq"
            )
        assert desk.parts is not None
        await desk.parts.safety.look()
        assert f"line {seq}" in (desk.parts.gate.refusal("MSFT") or "")
        await desk.waits(seconds=1)
        refused = await desk.tells("resume")
        assert "I26" in refused["error"]


async def test_what_the_database_refuses_is_safe_mode_at_once(database: str) -> None:
    """A status along no edge is not written, and whoever tried has books that contradict themselves."""
    async with open_desk(database) as desk:
        entry = await desk.holds("AAPL", 20)
        assert desk.parts is not None
        with pytest.raises(IllegalEdge):
            async with desk.parts.store.tx("a mistake") as conn:
                await orders.move(
                    conn,
                    entry.order_id,
                    seen=orders.Status.FILLED,
                    then=orders.Status.ACCEPTED,
                    at=desk.clock.now(),
                    source="poll",
                    epoch=desk.parts.epoch,
                )
        assert "I6" in (desk.parts.gate.refusal("MSFT") or "")
        await desk.waits(seconds=2)
        assert (await latch(desk) or "").startswith("I6")
        assert (await desk.tells("resume"))["ok"]
        assert desk.parts.gate.open


async def test_a_loop_that_fails_is_safe_mode(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in one loop: it begins again, entries wait for a person, and a restart does not forget."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None

        async def fails() -> None:
            raise ZeroDivisionError("a fault of ours")

        with monkeypatch.context() as patch:
            patch.setattr(desk.parts.risk_watch, "_day_pnl", fails)
            patch.setattr(
                supervisor.log, "error", lambda *_, **__: None
            )  # its traceback takes seconds to print
            await desk.waits(seconds=62)
        assert "ZeroDivisionError" in (await latch(desk) or "")
        await desk.dies()
        await desk.opens()
        await desk.waits(seconds=5)
        assert "safe" in desk.parts.gate.reasons
        assert (await desk.tells("resume"))["ok"]
        assert desk.parts.gate.open
        assert (await desk.alerts()).count("SAFE_MODE") == 1


def test_the_second_look_comes_later_than_any_race() -> None:
    """Between two looks lies more than a broker's positions lag behind its fills."""
    assert timedelta(seconds=12) < safe_mode.AGAIN < safe_mode.EVERY
