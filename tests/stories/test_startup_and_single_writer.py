"""How a daemon begins: in one order, alone, and not for ever again when it keeps dying."""

import asyncio
import os
import subprocess
import sys
from collections.abc import MutableMapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.cli.app import exit_code
from catalyst.clock import Pause, SystemClock
from catalyst.daemon.trading_state import account_lease
from catalyst.daemon.trading_state.account_lease import Holding
from catalyst.daemon.trading_state.host_lock import Seat
from catalyst.domain.errors import AnotherDaemon, BrokerUnavailable, ConfigInvalid, DatabaseReplaced
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Purpose
from tests.stories.scenario import ENTRY, Desk, open_desk, until


async def first_of(desk: Desk, *names: str) -> list[str]:
    """Open the desk; the names, in the order in which each first stood in the log or was a step that was done."""
    seen: list[str] = []

    def note(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
        seen.append(str(event["event"]))
        return ""

    structlog.configure(processors=[note])
    try:
        opening = desk.opens()
        desk.fate.steps = seen  # the witness writes into the same list
        await opening
    finally:
        structlog.reset_defaults()
    places = {name: seen.index(name) for name in names if name in seen}
    assert places.keys() == set(names), f"never came: {set(names) - places.keys()} in {seen}"
    return sorted(names, key=places.__getitem__)


async def test_a_start_has_one_order(database: str) -> None:
    """Seat, database, lock, epoch, what was left, stream, the broker's orders, fills and positions (asked for at once),
    what the stream said meanwhile, READY; and no entry can leave before that."""
    before = [
        "after flock",
        "database_whole",
        "after lock",
        "after epoch",
        "unfinished_found",
        "after LISTEN trade_updates",
    ]
    shown = ["after GET /account/activities/FILL", "after GET /orders", "after GET /positions"]
    after = ["recovered", "daemon_ready"]
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        order = await first_of(desk, *before, *shown, *after)
        assert [each for each in order if each not in shown] == [*before, *after]
        assert sorted(order[len(before) : -len(after)]) == shown
        assert desk.parts is not None
        assert desk.parts.gate.open


async def test_a_fill_that_comes_during_recovery_is_kept_for_after_it(database: str) -> None:
    """The stream tells of a fill while recovery reads: it is heard once the broker's whole state is in the tables."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=2)
        await desk.dies()
        seen = desk.fate.steps

        def fill(step: str, moment: Moment) -> None:
            if (step, moment) == ("GET /account/activities/FILL", Moment.BEFORE):
                desk.fate.also = None
                desk.prints("AAPL", "190.00")

        opening = desk.opens()
        task = asyncio.ensure_future(opening)
        await asyncio.sleep(0)
        desk.fate.also = fill
        await task
        assert seen.count("after GET /orders") >= 1
        await desk.waits(seconds=5)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        assert position["protected_at"] is not None
        await desk.agrees()


async def test_f015_a_crash_loop_enters_nothing(database: str) -> None:
    """The sixth start within ten minutes: what is held is protected, nothing is entered, somebody is paged; a daemon
    that lives for ten minutes enters again."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        for _ in range(5):
            await desk.dies()
            await desk.opens()
        assert desk.parts is not None
        assert "boots" in desk.parts.gate.reasons
        assert "CRASH_LOOP" in await desk.alerts()
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        assert (await desk.enters("MSFT", 5, **ENTRY)).status == "rejected"
        assert await desk.submits("MSFT") == 0
        assert len(desk.server.exchange.book.live()) == 2  # the stop and the target of what is held
        await desk.waits(minutes=10)
        assert desk.parts.gate.open
        await desk.agrees()


# -- one writer


def test_f092_a_seat_is_taken_once(tmp_path: Path) -> None:
    """The second process is told who sits there; a seat that was left, or whose process died, is free."""
    first = Seat.take(tmp_path, "PA1", "process 12, since noon")
    with pytest.raises(AnotherDaemon, match="process 12, since noon"):
        Seat.take(tmp_path, "PA1", "process 13")
    Seat.take(tmp_path, "PA2", "process 13").leave()
    first.leave()
    script = (
        "import sys, pathlib, time; from catalyst.daemon.trading_state.host_lock import Seat;"
        "Seat.take(pathlib.Path(sys.argv[1]), 'PA1', 'a child'); print('sits', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"sits\n"
        with pytest.raises(AnotherDaemon, match="a child"):
            Seat.take(tmp_path, "PA1", "process 13")
        child.kill()
    Seat.take(tmp_path, "PA1", "process 13").leave()


def test_f092_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Without a place for the lock and the spool there is no start."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match=r"database\.spool"):
        Seat.take(tmp_path / "file", "PA1", "process 13")


async def test_f092_the_loser_says_who_holds_the_lock(database: str, tmp_path: Path) -> None:
    """Two daemons of two machines at one database: the second leaves with the first one's epoch, process and host."""
    async with open_desk(database) as desk:
        assert desk.parts is not None
        second = Desk(desk.clock, desk.market, desk.server, desk.dsn, desk.settings, desk.conn)
        spool = desk.settings.config.model_copy(
            update={"database": desk.settings.config.database.model_copy(update={"spool": tmp_path})}
        )
        object.__setattr__(second, "settings", _with_config(desk, spool))
        with pytest.raises(
            AnotherDaemon, match=rf"epoch {desk.parts.epoch}, process {os.getpid()} from this machine"
        ):
            await second.opens()
        await second._stack.aclose()


def _with_config(desk: Desk, config: Any) -> Any:
    from dataclasses import replace

    return replace(desk.settings, config=config)


async def _the_holding(desk: Desk) -> Holding:
    assert desk.parts is not None
    permit = desk.parts.broker._permit
    assert isinstance(permit, Holding)
    return permit


async def test_f092_after_a_stall_the_epoch_is_looked_at_before_anything_leaves(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still for longer than five seconds and was succeeded meanwhile sends nothing, not even
    before it has noticed; one that was not succeeded looks, and sends."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        held = await _the_holding(desk)
        assert desk.parts is not None
        stalled = {"by": 0.0}
        monkeypatch.setattr(Pause, "seconds", property(lambda _: stalled["by"]))
        before = len((await desk.admin("ledger"))["requests"])

        stalled["by"] = 6.0
        assert not held.holds()
        monkeypatch.setattr(held.lock._pause, "mark", lambda: stalled.update(by=0.0))
        await held.ask()  # it looked, and is allowed
        assert held.holds()

        stalled["by"] = 6.0
        await desk.conn.execute("UPDATE daemon SET epoch = epoch + 1")
        with pytest.raises(BrokerUnavailable, match="not ours"):
            await desk.parts.broker.cancel("whatever")
        sale = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "take_profit")
        with pytest.raises(BrokerUnavailable):
            await desk.parts.emergency.broker.cancel(sale["alpaca_order_id"])
        assert len((await desk.admin("ledger"))["requests"]) == before
        await until(lambda: desk._life is not None and desk._life.done())
        with pytest.raises(ExceptionGroup) as ended:
            desk._life.result()  # type: ignore[union-attr]
        assert ended.group_contains(AnotherDaemon, match="taken over")
        assert exit_code(ended.value) == 75
        await desk._stack.aclose()
        desk.parts = None


async def test_f092_a_lost_lock_stops_every_request_at_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backend is ended and it cannot be taken again: nothing leaves, though the process lives and the tables
    answer; what leaves without tables looks at the epoch there instead."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        held = await _the_holding(desk)
        assert desk.parts is not None

        async def refused(*_: object) -> None:
            return None

        monkeypatch.setattr(account_lease, "take_account_lock", refused)
        await desk.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'catalyst lock' AND datname = current_database()"
        )
        await until(lambda: "lock" in desk.parts.gate.reasons)  # type: ignore[union-attr]
        position = await desk.position("AAPL")
        assert position is not None
        before = len((await desk.admin("ledger?method=DELETE"))["requests"])
        await desk.parts.exits.ask(
            position["position_id"], reason="MANUAL: enough", purpose=Purpose.EXIT, by="trader"
        )
        await desk.waits(seconds=10)
        assert len((await desk.admin("ledger?method=DELETE"))["requests"]) == before
        assert desk.held("AAPL") == 20
        assert not held.over

        monkeypatch.undo()
        await desk.waits(seconds=40)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_f092_a_database_that_went_back_in_time_ends_the_daemon(database: str) -> None:
    """The epoch in the tables is older than ours: they are a copy of the past, and only a new start may go on."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.conn.execute("UPDATE daemon SET epoch = epoch - 1")
        await until(lambda: desk._life is not None and desk._life.done())
        with pytest.raises(ExceptionGroup) as ended:
            desk._life.result()  # type: ignore[union-attr]
        assert ended.group_contains(DatabaseReplaced)
        await desk._stack.aclose()
        desk.parts = None


async def test_a_request_held_up_in_its_thread_does_not_leave_late(database: str) -> None:
    """The permit is looked at again in the sending thread: what stalled between the question and the first byte
    stays here."""

    class Lapsing:
        async def ask(self) -> None:
            return

        def holds(self) -> bool:
            return False

    async with open_desk(database) as desk:
        broker = AlpacaBroker(
            SystemClock(), base_url=desk.server.url, key="demo", secret="demo", permit=Lapsing()
        )
        before = len((await desk.admin("ledger"))["requests"])
        with pytest.raises(BrokerUnavailable, match="who may send"):
            await broker.cancel("some-order")
        assert len((await desk.admin("ledger"))["requests"]) == before
        assert (await broker.account()).equity > Decimal(0)  # reading is free
        await broker.close()
