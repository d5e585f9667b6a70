"""Exits, protection and flattens during a database outage, and the import of their spool, after which
database and exchange agree to the cent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from catalyst import flat_proof_files
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.fault_points import Moment
from tests.dbfaults.postgres_proxy import PostgresProxy
from tests.dbfaults.proxied_scenario import (
    LoseCommitResponse,
    assert_sent_once,
    open_proxied_scenario,
    wait_for_entry_gate,
)
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Facts, Scenario


@asynccontextmanager
async def open_scenario_with_spool(
    database: str, folder: Path, **options: object
) -> AsyncIterator[tuple[Scenario, PostgresProxy, LoseCommitResponse]]:
    """Open a scenario with its spool in `folder`."""
    async with open_proxied_scenario(
        database, database={"spool": str(folder), "proofs": str(folder / "proofs")}, **options
    ) as scenario_and_faults:  # type: ignore[arg-type]
        yield scenario_and_faults


def pending_spool(folder: Path) -> Path | None:
    """Return the spool that is not imported yet."""
    return next(iter(folder.glob("*.spool")), None)


def spool_entries(folder: Path) -> list[Facts]:
    """Return every entry of the pending spool."""
    spool = pending_spool(folder)
    return [] if spool is None else [orjson.loads(line) for line in spool.read_bytes().splitlines()]


async def restore_database_and_start(scenario: Scenario, proxy: PostgresProxy) -> None:
    """End the outage and start a new daemon."""
    proxy.resume()
    await scenario.start()
    await scenario.advance(seconds=20)


async def test_sigterm_in_silent_database_outage_flattens_and_imports_spool(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM in a silent outage ends flat within 60 s with code 0 and a proof in the spool; the next start
    imports the spool and keeps the entry gate closed."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        proxy.stop_forwarding()
        requested_at = scenario.clock.now()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert (scenario.clock.now() - requested_at).total_seconds() <= 60
        assert scenario.held_qty("AAPL") == scenario.held_qty("MSFT") == 0
        assert not scenario.server.exchange.state.order_store.live()
        assert spool_entries(tmp_path)[-1]["kind"] == "proof"
        assert spool_entries(tmp_path)[-1]["flat"] is True
        log_line = next(
            line for line in capsys.readouterr().out.splitlines() if "outage_flatten_finished" in line
        )
        assert str(pending_spool(tmp_path)) in log_line

        await restore_database_and_start(scenario, proxy)
        assert pending_spool(tmp_path) is None
        for symbol in ("AAPL", "MSFT"):
            position = await scenario.position(symbol)
            assert position is not None
            assert position["status"] == "closed"
            assert position["close_reason"].startswith("SHUTDOWN")
            last = (await scenario.orders(symbol))[-1]
            assert (last["origin"], last["status"]) == ("outage", "filled")
            assert last["position_id"] == position["position_id"]
        journal = await scenario.conn.fetch("SELECT kind FROM order_events WHERE source = 'outage'")
        assert {"spool", "fill", "transition"} <= {row["kind"] for row in journal}
        assert await scenario.conn.fetchval("SELECT flat FROM flat_proofs") is True
        assert "SPOOL_IMPORTED" in await scenario.alert_events()
        assert scenario.components is not None
        assert "flatten" in scenario.components.gate.reasons
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize("fault", ["refused", "cut_at_the_latch", "cut_at_the_exits_row"])
async def test_sigterm_as_database_fails_flattens(database: str, tmp_path: Path, fault: str) -> None:
    """SIGTERM ends flat wherever the ordinary flatten is when the database fails, and the spool is imported
    later."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, commit_loss):
        await scenario.given_position("AAPL", 20)
        if fault == "refused":
            proxy.refuse_connections()
        else:
            label = "latch" if fault == "cut_at_the_latch" else "submit"
            commit_loss.run_before(label, proxy.refuse_connections)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert scenario.held_qty("AAPL") == 0
        assert not scenario.server.exchange.state.order_store.live()

        await restore_database_and_start(scenario, proxy)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_outage_flatten_cancels_an_entry_with_an_id_of_an_earlier_release(
    database: str, tmp_path: Path
) -> None:
    """An entry of ours without an installation in its id works when the database fails: SIGTERM cancels it."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        row = await scenario.submit_entry("AAPL", 20, **ENTRY, client_order_id=f"cat-{'0' * 32}-e")
        assert row.status != "rejected"
        await scenario.advance(seconds=10)
        assert scenario.components is not None
        assert not scenario.components.gate.symbols.has(SymbolReason.ANOTHER_CATALYST, "AAPL")
        proxy.refuse_connections()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert not scenario.server.exchange.state.order_store.live()


async def test_fraction_of_a_share_does_not_keep_an_outage_flatten_from_its_proof(
    database: str, tmp_path: Path
) -> None:
    """SIGTERM during a database outage with 20.4 shares at the broker sells our 20, and is proven."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        scenario.server.exchange.state.account.positions["AAPL"].qty += Decimal("0.4")
        proxy.refuse_connections()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert scenario.held_qty("AAPL") == Decimal("0.4")


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("DELETE /orders/*", Moment.BEFORE),
        ("DELETE /orders/*", Moment.AFTER),
        ("POST /orders", Moment.BEFORE),
        ("POST /orders", Moment.AFTER),
        ("GET /positions", Moment.AFTER),
    ],
)
async def test_crash_during_outage_flatten_continues_from_spool(
    database: str, tmp_path: Path, step: str, moment: Moment
) -> None:
    """After a crash during an outage flatten the next daemon continues from the spool to flat and sells
    nothing twice."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.stop_forwarding()
        scenario.stop.request("SIGTERM", flatten=True)
        await scenario.crash_at(step, moment)
        assert spool_entries(tmp_path)[0]["kind"] == "latch"
        await scenario.advance(seconds=5)

        proxy.resume()
        await scenario.start()
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        latch = await scenario.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert latch == "flatten"
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_spool_with_torn_last_line_is_imported_without_it(database: str, tmp_path: Path) -> None:
    """A spool with a torn last line is imported without this line; the line goes into quarantine and into the
    alert."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.stop_forwarding()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        spool = pending_spool(tmp_path)
        assert spool is not None
        content = spool.read_bytes()
        spool.write_bytes(content[:-20])

        await restore_database_and_start(scenario, proxy)
        assert pending_spool(tmp_path) is None
        assert await scenario.conn.fetchval("SELECT count(*) FROM quarantine WHERE source = 'spool'") == 1
        message = await scenario.conn.fetchval("SELECT message FROM alerts WHERE event = 'SPOOL_IMPORTED'")
        assert "damaged spool entries in quarantine: 1" in message
        assert await scenario.conn.fetchval("SELECT count(*) FROM flat_proofs WHERE flat") == 0
        await scenario.assert_consistent()


async def test_unreadable_spool_closes_entry_gate_until_it_is_readable(database: str, tmp_path: Path) -> None:
    """A spool that the disk does not give is no defect of ours: entries wait, nothing enters SAFE mode."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, _, _):
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        gate, spool = scenario.components.gate, scenario.components.outage_exit.spool
        spool.path.mkdir()  # reading it raises OSError
        await scenario.advance(seconds=60)
        assert set(gate.reasons) == {"database"}
        assert "spool cannot be imported" in gate.reasons["database"]
        spool.path.rmdir()
        await wait_for_entry_gate(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize("label", ["spool"])
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_crash_during_spool_import_imports_each_entry_once(
    database: str, tmp_path: Path, label: str, moment: Moment
) -> None:
    """After a crash before or after the commit of the import, the next start completes it and writes each row
    once."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.stop_forwarding()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        proxy.resume()
        await scenario.crash_during_start(label, moment)
        assert pending_spool(tmp_path) is not None
        await scenario.start()
        await scenario.advance(seconds=20)
        assert pending_spool(tmp_path) is None
        outage_orders = [o for o in await scenario.orders("AAPL") if o["origin"] == "outage"]
        assert [(o["attempts"], o["status"]) for o in outage_orders] == [(1, "filled")]
        assert await scenario.conn.fetchval("SELECT count(*) FROM flat_proofs WHERE flat") == 1
        assert (await scenario.alert_events()).count("SPOOL_IMPORTED") == 1
        await scenario.assert_consistent()


async def test_stop_is_enforced_during_database_outage(database: str, tmp_path: Path) -> None:
    """Given an outage and a stop that does not trigger, when the price crosses the stop, then the daemon
    exits at the market through the spool; entries are allowed after the import."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        await scenario.inject_fault("no_trigger", symbol="AAPL", count=0)
        proxy.refuse_connections()
        await scenario.advance(seconds=10)
        assert "database" in scenario.components.gate.reasons
        for _ in range(20):
            scenario.print_trade("AAPL", "187.50")
            await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        assert spool_entries(tmp_path)

        proxy.resume()
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert [o["origin"] for o in await scenario.orders("AAPL")][-1] == "outage"
        await wait_for_entry_gate(scenario)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_hold_time_limit_is_enforced_during_database_outage(database: str, tmp_path: Path) -> None:
    """A position over its hold time is exited once during an outage, by the last known state; a younger
    position stays."""
    async with open_scenario_with_spool(database, tmp_path, positions={"max_hold_time_minutes": 5}) as (
        scenario,
        proxy,
        _,
    ):
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=4)
        await scenario.given_position("MSFT", 10)
        proxy.refuse_connections()
        await scenario.advance(seconds=90)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 10)
        proxy.resume()
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TIME_LIMIT: AAPL held 5 minutes")
        assert [o["origin"] for o in await scenario.orders("AAPL")][-1] == "outage"
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_positions_are_exited_before_close_during_database_outage(
    database: str, tmp_path: Path
) -> None:
    """All positions are exited ten minutes before the close during a database outage."""
    async with open_scenario_with_spool(database, tmp_path, now=at("15:48")) as (scenario, proxy, _):
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 20
        proxy.refuse_connections()
        await scenario.advance(minutes=4)
        assert scenario.held_qty("AAPL") == 0

        proxy.resume()
        await scenario.advance(seconds=90)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_outage_flatten_writes_proof_file_and_imports_it(database: str, tmp_path: Path) -> None:
    """An outage flatten writes a proof file with the last known head of the journal; the next start imports
    it."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=6)
        proxy.stop_forwarding()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        ((_, file),) = flat_proof_files.read_flat_proofs(
            scenario.settings.proofs_dir,
            scenario.settings.account_name(scenario.server.exchange.state.account.id),
        )
        assert (file["flat"], file["database"]) == (True, "unavailable")
        journal_head = file["journal"]
        assert journal_head["link"] > 0

        proxy.resume()
        await scenario.start()
        await scenario.advance(seconds=20)
        row = await scenario.conn.fetchrow("SELECT flat, cycle_id, facts FROM flat_proofs")
        assert row is not None
        assert (row["flat"], row["cycle_id"] is not None) == (True, True)
        facts = orjson.loads(row["facts"])
        assert facts["journal"] == journal_head
        assert (scenario.settings.proofs_dir / facts["file"]).exists()
        await scenario.assert_consistent()


async def submit_resting_entry(scenario: Scenario, *, fills: int | None = None) -> None:
    """Submit an entry for 20 shares below the market; it fills, or `fills` shares of it, once the price
    falls."""
    scenario.print_trade("AAPL", "191.00")
    await scenario.advance(seconds=1)
    if fills is not None:
        await scenario.inject_fault("partial", symbol="AAPL", qty=str(fills), role="entry")
    await scenario.submit_entry("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
    await scenario.advance(seconds=3)
    assert scenario.held_qty("AAPL") == 0


async def test_position_opened_in_database_outage_is_monitored(database: str, tmp_path: Path) -> None:
    """A position opened during an outage, without a row and with a stop that does not trigger, is exited and
    imported later."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await submit_resting_entry(scenario)
        await scenario.inject_fault("no_trigger", symbol="AAPL", count=0)
        proxy.refuse_connections()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 20
        for _ in range(10):
            scenario.print_trade("AAPL", "187.50")
            await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0

        proxy.resume()
        await scenario.advance(seconds=40)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert [o["origin"] for o in await scenario.orders("AAPL")][-1] == "outage"
        await wait_for_entry_gate(scenario)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize("answered", [True, False])
async def test_partial_entry_in_database_outage_is_protected_once(
    database: str, tmp_path: Path, answered: bool
) -> None:
    """Given 8 of 20 shares fill during an outage, then the rest is cancelled after the grace and one OCO
    protects 8, whether its response arrives or not."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await submit_resting_entry(scenario, fills=8)
        proxy.refuse_connections()
        scenario.print_trade("AAPL", "190.00")
        if not answered:
            await scenario.inject_fault("drop", method="POST", route="/v2/orders")
        await scenario.advance(seconds=45)
        assert scenario.held_qty("AAPL") == 8
        live = {(o.type, o.qty) for o in scenario.server.exchange.state.order_store.live()}
        assert live == {("limit", 8), ("stop", 8)}
        assert [entry["kind"] for entry in spool_entries(tmp_path)].count("protect") == 1

        proxy.resume()
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["quantity"]) == ("open", 8)
        assert position["protected_at"] is not None
        working = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in working} == {("oco", 8)}
        assert "SPOOL_IMPORTED" in await scenario.alert_events()
        await assert_sent_once(scenario)
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_partial_entry_is_protected_promptly_when_database_fails(database: str, tmp_path: Path) -> None:
    """When the database fails after a partial fill, the shares are unprotected only for the entry's grace and
    its cancel, without waiting for the 30-second check."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        proxy.refuse_connections()
        await scenario.advance(seconds=18)
        assert scenario.held_qty("AAPL") == 8
        assert {(o.type, o.qty) for o in scenario.server.exchange.state.order_store.live()} == {
            ("limit", 8),
            ("stop", 8),
        }
        proxy.resume()
        await scenario.advance(seconds=60)
        await scenario.assert_consistent()


async def test_loss_limit_is_enforced_during_database_outage(database: str, tmp_path: Path) -> None:
    """During an outage the loss limit uses the broker's equity, exits everything and latches in the spool;
    the import writes latch, event and closed cycle, and entries stay rejected."""
    risk = {"max_daily_loss": 30, "warning_threshold_pct": 75}
    async with open_scenario_with_spool(database, tmp_path, risk=risk) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.refuse_connections()
        await scenario.advance(seconds=5)
        scenario.print_trade("AAPL", "188.30")
        await scenario.advance(seconds=100)
        assert scenario.held_qty("AAPL") == 0
        assert spool_entries(tmp_path)[0]["name"] == "emergency_stop"

        proxy.resume()
        await scenario.advance(seconds=90)
        assert (
            await scenario.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL")
            == "emergency_stop"
        )
        assert await scenario.conn.fetchval("SELECT status FROM trading_cycles") == "closed"
        events = "SELECT count(*) FROM risk_events WHERE event_type = 'EMERGENCY_STOP'"
        assert await scenario.conn.fetchval(events) == 1
        assert (
            await scenario.submit_entry("MSFT", 5, limit="190.10", stop="188.00", target="194.00")
        ).status == "rejected"
        assert await scenario.count_submitted("MSFT") == 0
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_loss_limit_holds_in_outage_when_transfers_cannot_be_read(
    database: str, tmp_path: Path
) -> None:
    """The broker never answers with the day's transfers: during a database outage the change of the equity counts."""
    risk = {"max_daily_loss": 30, "warning_threshold_pct": 75}
    async with open_scenario_with_spool(database, tmp_path, risk=risk) as (scenario, proxy, _):
        await scenario.crash()
        await scenario.conn.execute("DELETE FROM trading_cycles")
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/account/activities", status=500, count=0
        )
        await scenario.start()
        await scenario.given_position("AAPL", 20)
        proxy.refuse_connections()
        await scenario.advance(seconds=5)
        scenario.print_trade("AAPL", "188.30")
        await scenario.advance(seconds=100)
        assert scenario.held_qty("AAPL") == 0
        assert spool_entries(tmp_path)[0]["name"] == "emergency_stop"
        proxy.resume()
        await scenario.advance(seconds=90)
        await scenario.assert_consistent()


async def test_outage_emergency_stop_is_retried_until_flat(database: str, tmp_path: Path) -> None:
    """While the broker's orders cannot be read, the outage emergency stop is retried; it exits once as soon
    as they can."""
    risk = {"max_daily_loss": 30, "warning_threshold_pct": 75}
    async with open_scenario_with_spool(database, tmp_path, risk=risk) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.refuse_connections()
        await scenario.advance(seconds=5)
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=503, count=0)
        scenario.print_trade("AAPL", "188.30")
        await scenario.advance(seconds=300)
        assert scenario.held_qty("AAPL") == 20
        await scenario.clear_faults()
        await scenario.advance(seconds=100)
        assert scenario.held_qty("AAPL") == 0
        entry_count = len(spool_entries(tmp_path))
        await scenario.advance(seconds=100)
        assert len(spool_entries(tmp_path)) == entry_count

        proxy.resume()
        await scenario.advance(seconds=90)
        assert await scenario.conn.fetchval("SELECT status FROM trading_cycles") == "closed"
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_carried_positions_are_kept_over_close_in_database_outage(
    database: str, tmp_path: Path
) -> None:
    """A daemon configured to hold over the close sells nothing in an outage."""
    positions: Facts = {"close_all_at_market_close": False}
    async with open_scenario_with_spool(database, tmp_path, now=at("15:48"), positions=positions) as (
        scenario,
        proxy,
        _,
    ):
        await scenario.given_position("AAPL", 20)
        proxy.refuse_connections()
        await scenario.advance(minutes=4)
        assert scenario.held_qty("AAPL") == 20
        assert spool_entries(tmp_path) == []


async def test_close_is_retried_until_database_returns(database: str, tmp_path: Path) -> None:
    """The day's end is retried until the cycle is completed and proven; only then the daemon with `once`
    exits."""
    async with open_scenario_with_spool(database, tmp_path, now=at("16:01")) as (scenario, proxy, _):
        await scenario.advance(seconds=45)
        proxy.refuse_connections()
        await scenario.advance(minutes=2)
        assert scenario._run_task is not None
        assert not scenario._run_task.done()
        proxy.resume()
        await scenario.advance(seconds=90)
        await scenario.advance(seconds=1)  # the clock does not wait for the last turns of the event loop
        assert scenario._run_task.done()
        assert await scenario.wait_for_exit() == 0
        assert await scenario.conn.fetchval("SELECT status FROM trading_cycles") == "completed"
        is_proven = await scenario.conn.fetchval(
            "SELECT facts ->> 'proven' FROM flat_proofs WHERE cause = 'end of day'"
        )
        assert is_proven == "true"


@pytest.mark.parametrize("lag", [30, 100])
async def test_outage_exit_fill_waits_for_its_entry_fill(database: str, tmp_path: Path, lag: int) -> None:
    """Given the fill of an entry is unknown and its shares were sold in an outage, when the account
    activities show the fill late, then the exit fill is booked on that position and on no other."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 10)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]  # stands for an earlier position
        await scenario.advance(seconds=5)
        await submit_resting_entry(scenario)
        await scenario.inject_fault("no_trigger", symbol="AAPL", count=0)
        await scenario.inject_fault("stream_drop", symbol="AAPL", role="entry", count=0)
        proxy.refuse_connections()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=10)
        for _ in range(10):
            scenario.print_trade("AAPL", "187.50")
            await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.inject_fault("empty", route="/v2/account/activities/FILL", count=0)
        proxy.resume()
        await scenario.advance(seconds=lag)
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        positions = await scenario.conn.fetch("SELECT * FROM positions ORDER BY position_id")
        assert [(row["entered_qty"], row["exited_qty"], row["status"]) for row in positions] == [
            (10, 10, "closed"), (20, 20, "closed"),
        ]  # fmt: skip
        assert positions[-1]["close_reason"].startswith("STOP_LOSS_HIT")
        filled = [order["origin"] for order in await scenario.orders("AAPL") if order["filled_qty"]]
        assert filled == ["catalyst", "catalyst", "catalyst", "outage"]  # no order follows
        assert not await scenario.conn.fetchval("SELECT count(*) FROM orphans")
        await wait_for_entry_gate(scenario)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_outage_flatten_exits_other_symbol_when_one_symbol_lags(database: str, tmp_path: Path) -> None:
    """After a crash of an outage flatten that cancelled both stops, the next run exits MSFT at once although
    the fill of AAPL's entry is not visible yet."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await scenario.given_position("MSFT", 10)
        await submit_resting_entry(scenario)
        await scenario.inject_fault("stream_drop", symbol="AAPL", role="entry", count=0)
        proxy.stop_forwarding()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=2)
        assert scenario.held_qty("AAPL") == 20
        scenario.stop.request("SIGTERM", flatten=True)
        await scenario.crash_at("POST /orders", Moment.BEFORE)
        assert scenario.server.exchange.state.order_store.live() == []
        await scenario.inject_fault("empty", route="/v2/account/activities/FILL", count=0)
        proxy.resume()
        await scenario.start()
        await scenario.advance(seconds=10)
        assert scenario.held_qty("MSFT") == 0
        await scenario.clear_faults()
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 0
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize("restarts", [False, True])
async def test_outage_protection_is_linked_when_entry_fill_arrives(
    database: str, tmp_path: Path, restarts: bool
) -> None:
    """An outage OCO is linked to its position when the entry fill arrives 100 s after the outage, also when the daemon
    restarts meanwhile; no second OCO is sent, and the stop closes the position with its reason."""
    async with open_scenario_with_spool(database, tmp_path) as (scenario, proxy, _):
        await submit_resting_entry(scenario, fills=8)
        await scenario.inject_fault("stream_drop", symbol="AAPL", role="entry", count=0)
        proxy.refuse_connections()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=45)
        assert scenario.held_qty("AAPL") == 8
        await scenario.inject_fault("empty", route="/v2/account/activities/FILL", count=0)
        proxy.resume()
        await scenario.advance(seconds=30)
        if restarts:
            await scenario.crash()
            await scenario.start()
        await scenario.advance(seconds=70)
        await scenario.clear_faults()
        await scenario.advance(seconds=20)
        assert {(o.type, o.qty) for o in scenario.server.exchange.state.order_store.live()} == {
            ("limit", 8),
            ("stop", 8),
        }
        orders = await scenario.orders("AAPL")
        assert not [order for order in orders if order["status"] == "rejected"]
        position = await scenario.position("AAPL")
        assert position is not None
        outage_orders = [order for order in orders if order["origin"] in ("outage", "broker")]
        assert {order["position_id"] for order in outage_orders} == {position["position_id"]}
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=90)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["close_reason"][:13]) == ("closed", "STOP_LOSS_HIT")
        assert not {"EXIT_WITHOUT_POSITION", "RECONCILED_PHANTOM", "OVERSOLD"} & set(
            await scenario.alert_events()
        )
        await assert_sent_once(scenario)
        await scenario.assert_consistent()
