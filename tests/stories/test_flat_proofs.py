"""Flat proofs: no order, no share and the same result to the cent on both sides, stored as a row and as a
file that survives the loss of the database."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from catalyst import flat_proof_files
from catalyst.daemon.shutdown import ExitCode
from catalyst.domain.fault_points import Moment
from catalyst.domain.invariants import Invariant
from tests.simulator.manual_feed import at
from tests.stories.scenario import Facts, Scenario, open_scenario
from tests.stories.test_safe_mode import as_owner, safe_mode_latch


def proof_files(scenario: Scenario) -> list[Facts]:
    """Return every proof file, oldest first."""
    return [
        dict(facts)
        for _, facts in flat_proof_files.read_flat_proofs(
            scenario.settings.proofs_dir,
            scenario.settings.account_name(scenario.server.exchange.state.account.id),
        )
    ]


async def proof_rows(scenario: Scenario) -> list[dict[str, Any]]:
    """Return every proof row, oldest first."""
    rows = await scenario.conn.fetch("SELECT * FROM flat_proofs ORDER BY proof_id")
    return [{**row, "facts": orjson.loads(row["facts"])} for row in rows]


async def test_flatten_writes_proof_row_and_file(database: str) -> None:
    """SIGTERM writes a proof with no orders and shares, equal results of database and exchange, and the head
    of the journal; the exit code is 0."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "189.37")
        await scenario.advance(seconds=2)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        (row,), (file,) = await proof_rows(scenario), proof_files(scenario)
        realized = await scenario.conn.fetchval("SELECT realized_pnl FROM positions")
        assert realized < 0
        for proof in (row["facts"], file):
            assert proof["proven"] is True
            assert proof["realized_database"] == proof["realized_broker"] == str(realized)
        assert (file["flat"], file["broker_orders"], file["broker_positions"]) == (True, 0, 0)
        assert (file["stored_orders"], file["stored_positions"]) == (0, 0)
        assert file["journal"] == row["facts"]["journal"]
        link = file["journal"]["link"]
        assert file["journal"]["hash"] == await scenario.conn.fetchval(
            "SELECT encode(hash, 'hex') FROM journal_chain WHERE link = $1", link
        )
        last_fill_seq = await scenario.conn.fetchval("SELECT max(seq) FROM order_events WHERE kind = 'fill'")
        assert file["journal"]["seq"] >= last_fill_seq


async def test_close_writes_flat_proof(database: str) -> None:
    """The close writes its own proof after the last broker report was applied."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "190.20", after=60)
        await scenario.advance(minutes=5)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        last = proof_files(scenario)[-1]
        assert last["cause"] == "end of day"
        assert last["proven"] is True
        assert [row["flat"] for row in await proof_rows(scenario)] == [True, True]
        assert not {"NOT_FLAT", "FLAT_NOT_PROVEN", "SAFE_MODE"} & set(await scenario.alert_events())


async def test_flat_is_not_proven_when_results_differ(database: str) -> None:
    """A flat account whose results differ between database and exchange gives exit code 2, an alert and SAFE
    mode."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        async with as_owner(scenario, "positions") as conn:
            await conn.execute("UPDATE positions SET realized_pnl = realized_pnl + 0.01")
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        (file,) = proof_files(scenario)
        assert file["flat"] is True
        assert file["proven"] is False
        assert "AAPL" in file["unproven_reason"]
        assert "FLAT_NOT_PROVEN" in await scenario.alert_events()
        assert (await safe_mode_latch(scenario) or "").startswith("I9: AAPL")


async def test_violation_after_proof_starts_next_run_in_safe_mode(database: str) -> None:
    """Given an invariant fails after the proof and the task that stores the latch ends first, then the latch
    is stored all the same, so the next run starts in SAFE mode."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        gate = scenario.components.gate

        def fail_invariant(step: str, moment: Moment) -> None:
            if step == "flat_proof" and moment is Moment.AFTER:
                gate.enter_safe_mode(Invariant.I9, "AAPL, set by the test")
                for task in asyncio.all_tasks():
                    if task.get_name() == "safe_mode":
                        task.cancel()

        scenario.crash_trigger.on_step = fail_invariant
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert await safe_mode_latch(scenario) == "I9: AAPL, set by the test"
        assert (await scenario.alert_events()).count("SAFE_MODE") == 1


async def test_flat_is_not_proven_when_fills_are_unreadable(database: str) -> None:
    """Without the broker's fills the account is not proven flat."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(
            "status", method="GET", route="/v2/account/activities/FILL", status=500, count=0
        )
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert scenario.held_qty("AAPL") == 0
        (file,) = proof_files(scenario)
        assert file["unproven_reason"] == "the broker's fills could not be read"


async def test_truncated_journal_is_detected_by_proof_file(database: str) -> None:
    """When the end of the journal and the proof rows were deleted, the proof file reveals it: the next start
    enters SAFE mode and names the file."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert (await scenario.send_command("flatten"))["flat"]
        await scenario.advance(seconds=2)
        await scenario.crash()
        async with as_owner(scenario, "order_events", "journal_chain", "flat_proofs") as conn:
            await conn.execute("DELETE FROM flat_proofs")
            await conn.execute("DELETE FROM journal_chain WHERE link > 5")
            await conn.execute("DELETE FROM order_events WHERE seq NOT IN (SELECT seq FROM journal_chain)")
        await scenario.start()
        await scenario.advance(seconds=5)
        reason = await safe_mode_latch(scenario) or ""
        assert reason.startswith("I26: the journal breaks at link")
        assert str(scenario.settings.proofs_dir) in reason


def test_unwritable_proof_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A proof file that cannot be written is logged and gives None."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert flat_proof_files.FlatProofFiles(blocked / "proofs", "account").write(at("10:00"), {}) is None
    assert "proof_write_failed" in capsys.readouterr().out


def test_incomplete_proof_file_is_ignored(tmp_path: Path) -> None:
    """An incomplete proof file is not read as a proof; a complete one is read as written."""
    written = flat_proof_files.FlatProofFiles(tmp_path, "account").write(at("10:00"), {"flat": True})
    assert written is not None
    (tmp_path / "account.99990101T000000.000000Z.json").write_text('{"flat": tr')
    (tmp_path / "account.99990101T000000.000000Z.part").write_text('{"flat": true')
    proofs = list(flat_proof_files.read_flat_proofs(tmp_path, "account"))
    assert [facts.get("flat") for _, facts in proofs] == [True, None]
    assert proofs[0][0] == written


async def test_flat_proof_retries_failed_position_read(database: str) -> None:
    """A proof retries a failed position read, and the exit code is 0."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=503, count=2)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert scenario.held_qty("AAPL") == 0
