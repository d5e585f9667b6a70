"""Flat is proven, not believed: no order, no share, and the result to the cent on both sides; a row, and a file that
stays when the database is gone."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from catalyst import flat_proof_files
from catalyst.daemon.shutdown import Exit
from catalyst.domain.fault_points import Moment
from catalyst.domain.invariants import Invariant
from tests.simulator.manual_feed import at
from tests.stories.scenario import Desk, Facts, open_desk
from tests.stories.test_safe_mode import latch, owner


def files_in(desk: Desk) -> list[Facts]:
    """Every proof that lies as a file, oldest first."""
    return [
        dict(facts)
        for _, facts in flat_proof_files.read(
            desk.settings.proofs_dir, desk.settings.account_name(desk.server.exchange.account.id)
        )
    ]


async def rows_of(desk: Desk) -> list[dict[str, Any]]:
    found = await desk.conn.fetch("SELECT * FROM flat_proofs ORDER BY proof_id")
    return [{**row, "facts": orjson.loads(row["facts"])} for row in found]


async def test_a_flatten_is_proven_by_row_and_file(database: str) -> None:
    """After SIGTERM: zero and zero, the same dollars by our tables and by the exchange's fills, the journal's head as
    it was then, and exit code 0."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "189.37")
        await desk.waits(seconds=2)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() is Exit.FLAT
        (row,), (file,) = await rows_of(desk), files_in(desk)
        realized = await desk.conn.fetchval("SELECT realized_pnl FROM positions")
        assert realized < 0
        for proof in (row["facts"], file):
            assert proof["proven"] is True
            assert proof["realized_tables"] == proof["realized_broker"] == str(realized)
        assert (file["flat"], file["broker_orders"], file["broker_positions"]) == (True, 0, 0)
        assert (file["stored_orders"], file["stored_positions"]) == (0, 0)
        assert file["journal"] == row["facts"]["journal"]
        link = file["journal"]["link"]
        assert file["journal"]["hash"] == await desk.conn.fetchval(
            "SELECT encode(hash, 'hex') FROM journal_chain WHERE link = $1", link
        )
        filled = await desk.conn.fetchval("SELECT max(seq) FROM order_events WHERE kind = 'fill'")
        assert file["journal"]["seq"] >= filled


async def test_the_close_is_proven(database: str) -> None:
    """The day's end leaves its own proof, after the last word of the broker was heard."""
    async with open_desk(database, now=at("15:49")) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "190.20", after=60)
        await desk.waits(minutes=5)
        assert await desk.leaves() is Exit.FLAT
        last = files_in(desk)[-1]
        assert last["cause"] == "the close of the day"
        assert last["proven"] is True
        assert [row["flat"] for row in await rows_of(desk)] == [True, True]
        assert not {"NOT_FLAT", "FLAT_UNPROVEN", "SAFE_MODE"} & set(await desk.alerts())


async def test_a_result_that_differs_is_no_proof(database: str) -> None:
    """Nothing is held, but the tables say another result than the exchange's fills: exit code 2, somebody is paged, and
    it is SAFE mode."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=5)
        async with owner(desk, "positions") as conn:
            await conn.execute("UPDATE positions SET realized_pnl = realized_pnl + 0.01")
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() is Exit.NOT_FLAT
        (file,) = files_in(desk)
        assert file["flat"] is True
        assert file["proven"] is False
        assert "AAPL" in file["missing"]
        assert "FLAT_UNPROVEN" in await desk.alerts()
        assert (await latch(desk) or "").startswith("I9: AAPL")


async def test_what_breaks_in_the_last_moment_is_latched_all_the_same(database: str) -> None:
    """The proof is written, and only then an invariant fails; whoever keeps the latch ends before writing it: the next
    life begins in SAFE mode all the same."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        gate = desk.parts.gate

        def breaks(step: str, moment: Moment) -> None:
            if step == "flat_proof" and moment is Moment.AFTER:
                gate.violated(Invariant.I9, "AAPL, says the story")
                for task in asyncio.all_tasks():
                    if task.get_name() == "safety":
                        task.cancel()

        desk.fate.also = breaks
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() is Exit.FLAT
        assert await latch(desk) == "I9: AAPL, says the story"
        assert (await desk.alerts()).count("SAFE_MODE") == 1


async def test_fills_that_cannot_be_read_are_no_proof(database: str) -> None:
    """The exchange's list of fills does not answer: what is not known is not said."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status", method="GET", route="/v2/account/activities/FILL", status=500, count=0)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() is Exit.NOT_FLAT
        assert desk.held("AAPL") == 0
        (file,) = files_in(desk)
        assert file["missing"] == "the broker's fills could not be read"


async def test_a_journal_that_lost_its_end_since_the_last_proof(database: str) -> None:
    """Its last lines vanish while no daemon runs, proofs in the tables included: the file remembers, the next start is
    SAFE, and it says which file."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert (await desk.tells("flatten"))["flat"]
        await desk.waits(seconds=2)
        await desk.dies()
        async with owner(desk, "order_events", "journal_chain", "flat_proofs") as conn:
            await conn.execute("DELETE FROM flat_proofs")
            await conn.execute("DELETE FROM journal_chain WHERE link > 5")
            await conn.execute("DELETE FROM order_events WHERE seq NOT IN (SELECT seq FROM journal_chain)")
        await desk.opens()
        await desk.waits(seconds=5)
        reason = await latch(desk) or ""
        assert reason.startswith("I26: the journal breaks at link")
        assert str(desk.settings.proofs_dir) in reason


def test_a_disk_that_will_not_have_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file can be made: it is said, and nobody believes there is one."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert flat_proof_files.Proofs(blocked / "proofs", "account").write(at("10:00"), {}) is None
    assert "proof_unwritable" in capsys.readouterr().out


def test_half_a_file_is_no_proof(tmp_path: Path) -> None:
    """What a death left of a file is not read as a proof, and a proof is read as it was written."""
    written = flat_proof_files.Proofs(tmp_path, "account").write(at("10:00"), {"flat": True})
    assert written is not None
    (tmp_path / "account.99990101T000000.000000Z.json").write_text('{"flat": tr')
    (tmp_path / "account.99990101T000000.000000Z.part").write_text('{"flat": true')
    found = list(flat_proof_files.read(tmp_path, "account"))
    assert [facts.get("flat") for _, facts in found] == [True, None]
    assert found[0][0] == written


async def test_a_broker_that_cannot_be_read_once_is_asked_again_for_the_proof(database: str) -> None:
    """Everything is sold, and the list of positions answers 503: the proof waits for it, and the exit code is 0."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status_before", method="GET", route="/v2/positions", status=503, count=2)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() is Exit.FLAT
        assert desk.held("AAPL") == 0
