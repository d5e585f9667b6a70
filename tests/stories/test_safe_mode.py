"""SAFE mode: after an invariant fails, entries stop, everything else goes on, one alert is raised, and only a
resume by the operator ends it."""

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

MINUTES = 6  # longer than the check interval and the recheck of a suspected violation


@asynccontextmanager
async def as_owner(scenario: Scenario, *tables: str) -> AsyncIterator[Any]:
    """Execute statements of the database owner, with the triggers of these tables off."""
    for table in tables:
        await scenario.conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield scenario.conn
    for table in tables:
        await scenario.conn.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


async def safe_mode_latch(scenario: Scenario) -> str | None:
    """Return the reason of the SAFE mode latch, or None."""
    reason: str | None = await scenario.conn.fetchval(
        "SELECT reason FROM latches WHERE name = 'safe' AND cleared_at IS NULL"
    )
    return reason


async def test_normal_day_suspects_no_invariant(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Entries, a stop, a target and a close make no check suspect an invariant; the head of the journal is in
    the log."""
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
    log_text = capsys.readouterr().out
    assert "invariant_suspected" not in log_text
    assert head in log_text


async def test_invariant_failing_twice_enters_safe_mode(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong cost blocks entries after the second check; the stop still works, a restart changes nothing,
    one alert is raised, and a resume is refused until the row is right."""
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
        answer = await scenario.send_command("resume")
        assert not answer["ok"]
        assert "I9: AAPL" in answer["error"]

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
    """An invariant that fails one check and holds at the next is not reported."""
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
    """In SAFE mode a partial entry still gets its stop, and the operator can close the position."""
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
    """A changed journal row is named at the next check, and a resume is refused."""
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
        answer = await scenario.send_command("resume")
        assert "I26" in answer["error"]


async def test_constraint_error_enters_safe_mode_at_once(database: str) -> None:
    """A forbidden status change is refused by the database and fails I6 at once."""
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
    """A programming error in a loop restarts the loop and enters SAFE mode, which survives a restart."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None

        async def raise_error() -> None:
            raise ZeroDivisionError("set by the test")

        with monkeypatch.context() as patch:
            patch.setattr(scenario.components.daily_loss_limit, "_day_pnl", raise_error)
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
    """The recheck and the check interval are longer than the lag of the broker's positions (12 s)."""
    assert timedelta(seconds=12) < safe_mode.RECHECK_AFTER < safe_mode.CHECK_INTERVAL
