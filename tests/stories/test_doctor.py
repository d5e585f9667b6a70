"""The doctor tells the truth: red within half a minute while something is broken, green while nothing is; every
finding comes with the command that mends it, and goes when it is mended."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.doctor.examination import examine
from catalyst.doctor.issues import FIXES, RECONCILE, Examination, Issue, Kind, Severity
from catalyst.store.pool import open_store
from tests.stories.scenario import ENTRY, Desk, open_desk
from tests.stories.test_safe_mode import owner

NOBODY = "00000000-0000-4000-8000-000000000000"


async def examined(desk: Desk, *, whole: bool = False, **changes: Any) -> Examination:
    """What the doctor says, on a connection and a broker client of its own; the story's time goes on meanwhile."""
    store = await open_store(desk.dsn, desk.clock, size=2, name="doctor")
    settings = replace(desk.settings, **changes)
    broker = AlpacaBroker(desk.clock, base_url=settings.trading_url, key="demo", secret="demo")
    looking = asyncio.ensure_future(
        examine(store, broker, settings, desk.clock, pace=desk.clock, whole_journal=whole)
    )
    try:
        for _ in range(60):
            await desk.waits(seconds=1)
            if looking.done():
                break
        found = await looking
    finally:
        await broker.close()
        await store.close()
    orjson.dumps(found.told, default=str)
    for one in found.issues:
        assert one.fix.startswith("catalyst ")
    return found


def kinds(found: Examination) -> set[str]:
    return {str(one.kind) for one in found.issues}


def the(found: Examination, kind: Kind) -> Issue:
    (one,) = [one for one in found.issues if one.kind is kind]
    return one


async def test_a_day_in_order_is_green(database: str) -> None:
    """Held and protected, leaving, flat: at no moment is anything found, and nothing is sent."""
    async with open_desk(database) as desk:
        found = await examined(desk)
        assert (found.status, found.exit_code, found.issues) == ("OK", 0, ())
        await desk.holds("AAPL", 20)
        found = await examined(desk)
        assert found.issues == ()
        told = found.told
        assert told["alpaca_connected"] is True
        assert told["alpaca_mode"] == "sim"
        assert told["summary"] == {"total_issues": 0, "critical": 0, "warnings": 0, "info": 0, "status": "OK"}
        assert found.pipeline["positions"] == {"total": 1, "open": 1}
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=5)
        assert (await examined(desk, whole=True)).issues == ()
        await desk.agrees()


async def test_the_daemon_is_down(database: str) -> None:
    """In market hours that is critical; when it is back it is not."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        found = await examined(desk)
        assert kinds(found) == {"DAEMON_DOWN"}
        assert (found.exit_code, the(found, Kind.DAEMON_DOWN).fix) == (2, "catalyst run")
        await desk.opens()
        await desk.waits(seconds=10)
        assert (await examined(desk)).issues == ()


async def test_the_broker_is_down(database: str) -> None:
    """A warning, what was not compared is said, and the tables are looked at all the same."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status", method="GET", route="/v2/positions", status=500, count=0)
        found = await examined(desk)
        assert {"ALPACA_ERROR", "RECONCILIATION_SKIPPED"} <= kinds(found)
        assert (found.exit_code, found.told["alpaca_mode"]) == (1, None)
        await desk.heals()
        await desk.waits(minutes=2)
        assert (await examined(desk)).issues == ()


async def test_shares_that_only_one_side_has(database: str) -> None:
    """While no daemon runs, shares vanish from our tables, differ, and vanish at the broker: each by its name, none of
    it mended by the doctor itself."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        held = desk.server.exchange.account.positions["AAPL"]
        for there, kind, severity in (
            (21, Kind.QTY_MISMATCH, Severity.WARNING),
            (30, Kind.QTY_MISMATCH, Severity.CRITICAL),
            (-5, Kind.OVERSOLD, Severity.CRITICAL),
            (0, Kind.PHANTOM_POSITION, Severity.CRITICAL),
        ):
            held.qty = type(held.qty)(there)
            one = the(await examined(desk), kind)
            assert one.severity is severity
            assert (one.facts["db_qty"], one.facts["alpaca_qty"]) == (20, there)
            assert one.fix == RECONCILE
        held.qty = type(held.qty)(20)
        assert kinds(await examined(desk)) == {"DAEMON_DOWN"}


async def test_orphans_are_told_by_whose_they_are(database: str) -> None:
    """Shares of a symbol we traded are critical, a stranger's are only mentioned: nothing of ours is broken."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=5)
        desk.prints("MSFT", "300.00")
        await desk.waits(seconds=1)
        await desk.dies()
        for symbol in ("AAPL", "MSFT"):
            await desk.admin("order", {"symbol": symbol, "side": "buy", "qty": "7", "type": "market",
                                       "time_in_force": "day"})  # fmt: skip
        await desk.waits(seconds=2)
        found = await examined(desk)
        severities = {
            one.facts["symbol"]: one.severity for one in found.issues if one.kind is Kind.ORPHAN_POSITION
        }
        assert severities == {"AAPL": Severity.CRITICAL, "MSFT": Severity.INFO}


async def test_an_order_that_hangs(database: str) -> None:
    """An entry that nobody ends for five minutes is stuck; the legs that protect may rest all day."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("MSFT", 10, **{**ENTRY, "limit": "180.00", "stop": "178.00", "target": "199.00"})
        await desk.waits(seconds=2)
        await desk.dies()
        await desk.waits(minutes=6)
        one = the(await examined(desk), Kind.STUCK_ORDER)
        assert (one.facts["symbol"], one.severity) == ("MSFT", Severity.WARNING)
        assert float(str(one.facts["minutes_pending"])) >= 6
        await desk.opens()
        await desk.waits(seconds=30)
        assert (await examined(desk)).issues == ()


async def test_orders_the_sides_tell_differently(database: str) -> None:
    """Filled at the broker while nobody listened; cancelled in our tables by somebody; unknown to the broker; unknown
    to us."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=2)
        found = await examined(desk)
        assert {"ORDER_STATUS_MISMATCH", "PHANTOM_POSITION", "PNL_MISMATCH"} <= kinds(found)
        await desk.opens()
        await desk.waits(seconds=20)
        assert (await examined(desk)).issues == ()

        await desk.holds("MSFT", 10)
        await desk.dies()
        async with owner(desk, "orders") as conn:
            await conn.execute(
                "UPDATE orders SET alpaca_order_id = $1 WHERE order_purpose = 'stop_loss' AND status ="
                " ANY('{submitted,accepted}')",
                NOBODY,
            )
            await conn.execute("UPDATE orders SET alpaca_order_id = NULL WHERE order_purpose = 'entry'")
        found = await examined(desk)
        assert the(found, Kind.ORDER_NOT_FOUND).facts["alpaca_order_id"] == NOBODY
        assert "ORPHAN_ORDER" in kinds(found)


async def test_shares_without_a_stop(database: str) -> None:
    """The stop is gone at the broker while nobody runs: critical, and not mended unasked; the next start mends it."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        for order in list(desk.server.exchange.book.live()):
            await desk.admin("cancel", {"id": order.id})
        await desk.waits(seconds=2)
        one = the(await examined(desk), Kind.UNPROTECTED_POSITION)
        assert (one.severity, one.fix) == (Severity.CRITICAL, "catalyst close AAPL")
        await desk.opens()
        await desk.waits(seconds=30)
        assert (await examined(desk)).issues == ()


async def test_history_that_was_touched(database: str) -> None:
    """A state along no edge, fills that do not sum, a line rewritten: illegal history, by its invariant."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        for tables, do, undo, invariant in (
            (("orders",), "UPDATE orders SET filled_qty = 19 WHERE order_purpose = 'entry'",
             "UPDATE orders SET filled_qty = 20 WHERE order_purpose = 'entry'", "I7"),
            (("orders",), "UPDATE orders SET status = 'expired' WHERE order_purpose = 'entry'",
             "UPDATE orders SET status = 'filled' WHERE order_purpose = 'entry'", "I26"),
            (("positions",), "UPDATE positions SET quantity = 15", "UPDATE positions SET quantity = 20", "I3"),
            (("order_events",), "UPDATE order_events SET source = 'poll' WHERE seq = 1",
             "UPDATE order_events SET source = 'submit' WHERE seq = 1", "I26"),
        ):  # fmt: skip
            async with owner(desk, *tables) as conn:
                await conn.execute(do)
            found = await examined(desk)
            told = [one.facts["invariant"] for one in found.issues if one.kind is Kind.ILLEGAL_HISTORY]
            assert invariant in told, (do, kinds(found))
            async with owner(desk, *tables) as conn:
                await conn.execute(undo)
            assert kinds(await examined(desk)) == {"DAEMON_DOWN"}, undo


async def test_safe_mode_says_which_invariant(database: str) -> None:
    """While it is set the doctor names what it was set for; after a resume it does not."""
    async with open_desk(database) as desk:
        from catalyst.domain.invariants import Invariant

        assert desk.parts is not None
        desk.parts.gate.violated(Invariant.I5, "told by the story")
        await desk.waits(seconds=1)
        one = the(await examined(desk), Kind.SAFE_MODE)
        assert one.facts["invariants"] == ["I5"]
        assert one.fix == "catalyst resume"
        assert (await desk.tells("resume"))["ok"]
        assert (await examined(desk)).issues == ()


async def test_a_day_that_stands_still(database: str) -> None:
    """Nobody has written the cycle for half an hour, nor marked what is held for ten minutes."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        await desk.waits(minutes=11)
        found = await examined(desk)
        assert the(found, Kind.STALE_POSITION_DATA).severity is Severity.INFO
        assert "CYCLE_STALE" not in kinds(found)
        await desk.waits(minutes=20)
        assert the(await examined(desk), Kind.CYCLE_STALE).severity is Severity.WARNING
        await desk.opens()
        desk.prints("AAPL", "190.10")
        await desk.waits(minutes=2)
        assert (await examined(desk)).issues == ()


async def test_what_lies_around(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notices of the configuration are mentioned and change no exit code; a full disk is a warning."""
    async with open_desk(database) as desk:
        found = await examined(desk, notices=("CONFIG_WARNING something",))
        assert (kinds(found), found.exit_code, found.status) == ({"CONFIG_WARNING"}, 0, "OK")
        with monkeypatch.context() as patch:
            patch.setattr("catalyst.doctor.examination.LITTLE_DISK", 1 << 62)
            found = await examined(desk)
        assert (kinds(found), found.exit_code) == ({"DISK_LOW"}, 1)


async def test_a_clock_that_is_wrong(database: str) -> None:
    """Three seconds beside the broker's: a warning."""
    async with open_desk(database) as desk:
        await desk.faults("clock_skew", seconds=3, count=0)
        assert the(await examined(desk), Kind.CLOCK_SKEW).severity is Severity.WARNING
        await desk.heals()
        assert (await examined(desk)).issues == ()


async def test_the_daemon_reconciles_when_asked(database: str) -> None:
    """The command behind the safe fixes: it hears what was missed, orders nothing, and answers with what it found."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        before = await desk.submits("AAPL")
        answer = await desk.tells("reconcile")
        assert answer["ok"]
        assert answer["differences"] == []
        assert await desk.submits("AAPL") == before


def test_every_type_has_its_fix() -> None:
    """No type without a command, and none that is SQL."""
    assert set(FIXES) == set(Kind)
    assert all(fix.startswith("catalyst ") for fix in FIXES.values())
