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
from catalyst.store.constraint_errors import IllegalOrderTransition
from tests.stories.scenario import ENTRY, Scenario, open_scenario

MINUTES = 6  # longer than the pause between two looks, and the doubt after it


@asynccontextmanager
async def as_owner(scenario: Scenario, *tables: str) -> AsyncIterator[Any]:
    """Somebody with the owner's rights, the guards out of his way."""
    for table in tables:
        await scenario.conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield scenario.conn
    for table in tables:
        await scenario.conn.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


async def safe_mode_latch(scenario: Scenario) -> str | None:
    reason: str | None = await scenario.conn.fetchval(
        "SELECT reason FROM latches WHERE name = 'safe' AND cleared_at IS NULL"
    )
    return reason


async def test_normal_day_suspects_no_invariant(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Entries, a stop, a target, a close: at no look is anything doubted, and the journal's head is in the log."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        await scenario.advance(minutes=MINUTES)
        scenario.print_trade("AAPL", "194.05")
        scenario.print_trade("MSFT", "187.95")
        await scenario.advance(minutes=MINUTES)
        assert scenario.held_qty("AAPL") == scenario.held_qty("MSFT") == 0
        assert await safe_mode_latch(scenario) is None
        await scenario.assert_consistent()
        head = await scenario.conn.fetchval(
            "SELECT encode(hash, 'hex') FROM journal_chain ORDER BY link DESC LIMIT 1"
        )
    said = capsys.readouterr().out
    assert "invariant_suspected" not in said
    assert head in said


async def test_invariant_failing_twice_enters_safe_mode(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A position's cost is not what its fills say: after the second look no entry is let through; the stop still
    works, a restart changes nothing, one page is sent, and resuming waits until the tables are right again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        async with as_owner(scenario, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost + 1")
        assert scenario.components is not None
        await scenario.components.safe_mode.check()
        assert scenario.components.gate.is_open
        await scenario.advance(minutes=MINUTES)
        assert (await safe_mode_latch(scenario) or "").startswith("I9: AAPL")
        assert "I9" in (scenario.components.gate.refusal("MSFT") or "")
        assert "safe_mode_entered" in capsys.readouterr().out

        await scenario.crash()
        await scenario.start()
        await scenario.advance(minutes=MINUTES)
        assert "I9" in (scenario.components.gate.refusal("MSFT") or "")
        assert (await scenario.alert_events()).count("SAFE_MODE") == 1
        refused = await scenario.send_command("resume")
        assert not refused["ok"]
        assert "I9: AAPL" in refused["error"]

        async with as_owner(scenario, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost - 1")
        assert (await scenario.send_command("resume"))["cleared"] == ["safe"]
        assert scenario.components.gate.is_open
        await scenario.advance(minutes=MINUTES)
        assert await safe_mode_latch(scenario) is None
        scenario.print_trade("AAPL", "187.95")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0


async def test_invariant_failing_once_is_ignored(database: str) -> None:
    """Wrong at one look and right at the next: nobody is told."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        async with as_owner(scenario, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost + 1")
        await scenario.components.safe_mode.check()
        async with as_owner(scenario, "positions") as conn:
            await conn.execute("UPDATE positions SET cost = cost - 1")
        await scenario.advance(minutes=MINUTES)
        assert scenario.components.gate.is_open
        await scenario.assert_consistent()


async def test_safe_mode_still_protects_and_exits(database: str) -> None:
    """In SAFE mode a partly filled entry still gets its stop, and the operator still leaves by the safe exit."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("faults", {"kind": "partial", "symbol": "AAPL", "qty": "8"})
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        assert scenario.components is not None
        scenario.components.gate.enter_safe_mode(safe_mode.Invariant.I5, "set by the test")
        await scenario.advance(seconds=15)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await safe_mode_latch(scenario) == "I5: set by the test"
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=15)
        assert scenario.held_qty("AAPL") == 0


async def test_broken_journal_enters_safe_mode_at_once(database: str) -> None:
    """The owner rewrites a line: the next look names it, and no resume leads out."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        async with as_owner(scenario, "order_events") as conn:
            seq = await conn.fetchval(
                "UPDATE order_events SET note = 'nothing' WHERE seq = (SELECT max(seq) FROM order_events) RETURNING seq"
            )
        assert scenario.components is not None
        await scenario.components.safe_mode.check()
        assert f"line {seq}" in (scenario.components.gate.refusal("MSFT") or "")
        await scenario.advance(seconds=1)
        refused = await scenario.send_command("resume")
        assert "I26" in refused["error"]


async def test_constraint_error_enters_safe_mode_at_once(database: str) -> None:
    """A status along no edge is not written, and whoever tried has books that contradict themselves."""
    async with open_scenario(database) as scenario:
        entry = await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        with pytest.raises(IllegalOrderTransition):
            async with scenario.components.store.tx("a mistake") as conn:
                await orders.transition(
                    conn,
                    entry.order_id,
                    from_status=orders.Status.FILLED,
                    to_status=orders.Status.ACCEPTED,
                    at=scenario.clock.now(),
                    source="poll",
                    epoch=scenario.components.epoch,
                )
        assert "I6" in (scenario.components.gate.refusal("MSFT") or "")
        await scenario.advance(seconds=2)
        assert (await safe_mode_latch(scenario) or "").startswith("I6")
        assert (await scenario.send_command("resume"))["ok"]
        assert scenario.components.gate.is_open


async def test_failing_loop_enters_safe_mode(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in one loop: it begins again, entries wait for a person, and a restart does not forget."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None

        async def fails() -> None:
            raise ZeroDivisionError("a fault of ours")

        with monkeypatch.context() as patch:
            patch.setattr(scenario.components.daily_loss_limit, "_day_pnl", fails)
            patch.setattr(
                supervisor.log, "error", lambda *_, **__: None
            )  # its traceback takes seconds to print
            await scenario.advance(seconds=62)
        assert "ZeroDivisionError" in (await safe_mode_latch(scenario) or "")
        await scenario.crash()
        await scenario.start()
        await scenario.advance(seconds=5)
        assert "safe" in scenario.components.gate.reasons
        assert (await scenario.send_command("resume"))["ok"]
        assert scenario.components.gate.is_open
        assert (await scenario.alert_events()).count("SAFE_MODE") == 1


def test_invariant_checks_are_further_apart_than_broker_lag() -> None:
    """Between two looks lies more than a broker's positions lag behind its fills."""
    assert timedelta(seconds=12) < safe_mode.RECHECK_AFTER < safe_mode.CHECK_INTERVAL
