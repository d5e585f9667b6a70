"""Upgrade of the earlier Catalyst's database: every state, counts and sums, kills, rollback, finalize."""

import os
from datetime import UTC, datetime

import pytest

from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import Moment
from catalyst.store import migrate
from catalyst.store.legacy import reversal
from catalyst.store.legacy.upgrade import Upgrade, upgrade
from catalyst.store.pool import connect
from tests.store import legacy_database as old

NOW = datetime(2026, 1, 5, 22, 0, tzinfo=UTC)
REALIZED = "SELECT sum(realized_pnl) FROM positions"


async def no_backup() -> str:
    """Stand for a backup where the test does not look at it."""
    return "memory"


async def upgraded(dsn: str) -> Upgrade:
    result = await upgrade(dsn, now=NOW, create_backup=no_backup)
    assert result is not None
    return result


@pytest.mark.parametrize("state", old.STATES)
async def test_each_state_is_upgraded_without_losing_a_row_or_a_cent(empty_database: str, state: str) -> None:
    """Each state of the scripts, half-done ones too: 83 entries, 16 open and 67 closed positions, the same P&L."""
    conn = await connect(empty_database, "test")
    await old.create(conn, state)
    realized = await conn.fetchval(REALIZED)
    by_row = await conn.fetch("SELECT position_id, realized_pnl FROM positions ORDER BY position_id")
    await upgraded(empty_database)
    assert await migrate.migrate(empty_database) == []
    counts = {
        (row["order_purpose"], row["side"], row["position_side"]): row["n"]
        for row in await conn.fetch(
            "SELECT order_purpose, side, position_side, count(*) AS n FROM orders WHERE order_purpose IN "
            "('entry', 'exit') GROUP BY 1, 2, 3"
        )
    }
    late = old.LATER_ORDERS in old.STATES[state]
    shorts = 22 + 8
    assert counts == {
        ("entry", "buy", "long"): 83 - shorts,
        ("entry", "sell", "short"): shorts + (1 if late else 0),
        ("exit", "sell", "long"): 67 - 22,
        ("exit", "buy", "short"): 22,
    }
    assert await conn.fetchval("SELECT count(*) FROM positions WHERE status = 'open'") == 16
    assert await conn.fetchval("SELECT count(*) FROM positions WHERE status = 'closed'") == 67
    assert await conn.fetchval(REALIZED) == realized
    assert await conn.fetch("SELECT position_id, realized_pnl FROM positions ORDER BY position_id") == by_row
    rebuilt = await conn.fetchval("SELECT count(*) FROM orders WHERE client_order_id LIKE 'legacy-exit-%'")
    assert rebuilt == (65 if late else 67)
    assert await conn.fetchval("SELECT count(*) FROM executions") == 83 + 67
    if late:
        legs = await conn.fetch(
            "SELECT order_purpose, side, position_id, status FROM orders WHERE parent_order_id IS NOT NULL ORDER BY 1"
        )
        assert [tuple(leg) for leg in legs] == [
            ("stop_loss", "sell", 70, "expired"),  # a day order of an earlier day
            ("take_profit", "sell", 70, "expired"),
        ]
        alone = await conn.fetchrow("SELECT * FROM orders WHERE alpaca_order_id = 'alone'")
        assert alone is not None
        assert (alone["order_purpose"], alone["status"], alone["position_id"]) == ("entry", "cancelled", None)
    await conn.close()


async def test_rows_that_map_to_nothing_are_kept_and_named(empty_database: str) -> None:
    """Positions without a fill become attempts of their order; an unknown status is kept; references follow merges."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "v6", attempts=True)
    result = await upgraded(empty_database)
    attempts = await conn.fetch(
        "SELECT status, rejection_reason, position_id FROM orders WHERE alpaca_order_id LIKE 'att-%' ORDER BY order_id"
    )
    assert [tuple(row) for row in attempts] == [
        ("cancelled", None, None),
        ("rejected", "the earlier system: rejected", None),
        ("expired", None, None),
        ("rejected", "the earlier system: not_found", None),
    ]
    assert (
        await conn.fetchval("SELECT count(*) FROM v_trade_attempts WHERE attempt_status = 'cancelled'") == 2
    )
    kept = [
        row["reason"] for row in await conn.fetch("SELECT reason FROM legacy_positions ORDER BY position_id")
    ]
    assert kept == [*(f"no fill: an attempt of order {number}" for number in range(84, 88)), "no fill"]
    assert any("1 order not copied" in note and "what_is_this" in note for note in result.notes), result.notes
    assert result.counts["positions"] == (88, 83, 5)
    cycles = await conn.fetch(
        "SELECT cycle_id, mode, status, halt_reason FROM trading_cycles ORDER BY 1 LIMIT 3"
    )
    assert [tuple(row) for row in cycles] == [
        ("20251201-143000", "supervised", "completed", None),
        ("20251202-143000", "supervised", "completed", "the earlier system left it failed"),
        ("20251203-143000", "autonomous", "completed", None),
    ]
    merged = await conn.fetchrow("SELECT cycle_id, new_cycle_id FROM legacy_trading_cycles")
    assert merged == ("20251201-160000", "20251201-143000")
    assert await conn.fetchval("SELECT count(*) FROM positions WHERE cycle_id = '20251201-143000'") > 0
    assert await conn.fetchval("SELECT count(*) FROM time_dimension") == 2
    scans = await conn.fetch(
        "SELECT id, rank, price, volume, composite_score, security_id, cycle_id FROM v_scan_results_legacy "
        "WHERE cycle_id = '20251201-143000' ORDER BY rank LIMIT 5"
    )
    assert [row["security_id"] for row in scans] == [1, 2, 3]  # 9 was aapl, which is 1 now
    times = await conn.fetch("SELECT scan_time_id FROM legacy_scan_results ORDER BY id")
    assert [row["scan_time_id"] for row in times] == [1, 1, 3]
    assert await conn.fetchval("SELECT severity FROM risk_events") == "WARNING"
    assert await conn.fetchval("SELECT get_or_create_security('new')") == 10
    await conn.close()


async def test_position_with_a_stale_status_counts_as_held(empty_database: str) -> None:
    """v6 seldom updated a status: an open position whose order is still accepted days later was filled; one of today
    was not, and its order goes on."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "v6")
    await conn.execute("UPDATE positions SET alpaca_status = 'accepted' WHERE position_id IN (70, 71)")
    await conn.execute("UPDATE positions SET entry_time = $1 WHERE position_id = 71", NOW)
    await upgraded(empty_database)
    rows = await conn.fetch(
        "SELECT status, filled_qty, position_id FROM orders WHERE alpaca_order_id IN ('alp-70', 'alp-71') ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("accepted", 0, None), ("filled", 80, 70)]
    await conn.close()


async def test_open_rows_of_one_symbol_and_side_become_one_position(empty_database: str) -> None:
    """The broker holds one position for a symbol and side; a second open row of it is merged, with its order."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "v6")
    await conn.execute(
        """
        INSERT INTO positions (security_id, side, quantity, entry_price, entry_time, status, alpaca_order_id,
                               alpaca_status, realized_pnl)
        SELECT security_id, side, 10, 200, entry_time - interval '1 day', 'open', 'alp-twin', 'filled', 2.50
          FROM positions WHERE position_id = 70
        """
    )
    before = await conn.fetchrow(
        "SELECT quantity, entry_price, entry_time FROM positions WHERE position_id = 70"
    )
    realized = await conn.fetchval(REALIZED)
    result = await upgraded(empty_database)
    assert before is not None
    merged = await conn.fetchrow("SELECT * FROM positions WHERE position_id = 70")
    assert merged is not None
    assert merged["quantity"] == before["quantity"] + 10
    assert merged["cost"] == before["quantity"] * before["entry_price"] + 2000
    assert merged["entry_time"] < before["entry_time"]
    assert await conn.fetchval("SELECT position_id FROM orders WHERE alpaca_order_id = 'alp-twin'") == 70
    assert result.counts["open positions"] == (17, 16, 1)
    assert await conn.fetchval(REALIZED) == realized
    await conn.close()


class Killed(Exception):
    """Ends the upgrade as a kill of its process does."""


async def test_kill_at_each_statement_changes_nothing(empty_database: str) -> None:
    """Killed before a statement, the database is as before, and the next run completes: all of them with
    EVERY_STATEMENT=1, else a sample. Killed after the commit, it is upgraded."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "phase_2_half")
    before = await old.digest(conn)
    dry = await upgrade(empty_database, now=NOW, create_backup=no_backup, dry_run=True)
    assert dry is not None
    assert await old.digest(conn) == before
    points = [*(statement.name for statement in dry.statements), "record", "commit"]
    kills = points if os.environ.get("EVERY_STATEMENT") else points[4::16] + points[-1:]

    for number, name in enumerate(kills):

        def kill(step: str, moment: Moment, name: str = name) -> None:
            if f"{step}" == name and moment is Moment.BEFORE:
                raise Killed

        with pytest.raises(Killed):
            await upgrade(empty_database, now=NOW, create_backup=no_backup, fault_point=kill)
        assert await old.digest(conn) == before, f"kill {number} before {name}"

    def kill_after_commit(step: str, moment: Moment) -> None:
        if step == "commit" and moment is Moment.AFTER:
            raise Killed

    with pytest.raises(Killed):
        await upgrade(empty_database, now=NOW, create_backup=no_backup, fault_point=kill_after_commit)
    print(f"{len(kills) + 1} kills, {len(dry.statements)} statements in the dry run")
    assert await upgrade(empty_database, now=NOW, create_backup=no_backup) is None
    assert await conn.fetchval("SELECT count(*) FROM legacy_upgrades") == 1
    assert await conn.fetchval("SELECT count(*) FROM positions") == 83
    await conn.close()


async def test_dry_run_names_each_statement_and_its_rows(empty_database: str) -> None:
    """It executes everything and rolls it back; its counts are those of the upgrade that follows."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "v6")
    dry = await upgrade(empty_database, now=NOW, create_backup=no_backup, dry_run=True)
    done = await upgraded(empty_database)
    assert dry is not None
    assert dry.backup is None
    assert [(s.name, s.sql, s.rows) for s in dry.statements] == [
        (s.name, s.sql, s.rows) for s in done.statements
    ]
    assert dry.counts == done.counts
    assert {s.name: s.rows for s in dry.statements}["copy the orders"] == 83
    await conn.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE trading_cycles SET status = 'monitoring', cycle_date = '2026-01-05' WHERE cycle_id LIKE '20251203%'",
         "20251203-143000 \\(monitoring\\)"),
        ("UPDATE trading_cycles SET status = 'trading', updated_at = '2026-01-05 21:50+00' WHERE cycle_id ~ '20251203'",
         "20251203-143000 \\(trading\\)"),
        ("ALTER TABLE positions DROP COLUMN alpaca_order_id", "its orders are nowhere"),
        ("DROP TABLE trading_cycles CASCADE", "trading_cycles is missing"),
        ("ALTER TABLE positions ALTER COLUMN position_id DROP DEFAULT, ALTER COLUMN position_id TYPE text",
         "positions.position_id is text"),
    ],
)  # fmt: skip
async def test_upgrade_is_refused_before_its_backup(empty_database: str, change: str, message: str) -> None:
    """An active cycle, missing tables or other ids refuse the upgrade, and nothing is written."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "v6")
    await conn.execute(change)

    async def fail() -> str:
        raise AssertionError("a backup is written")

    with pytest.raises(UserError, match=message):
        await upgrade(empty_database, now=NOW, create_backup=fail)
    await conn.close()


async def test_upgrade_without_a_backup_does_not_begin(empty_database: str) -> None:
    """A failed backup ends the run; a plain migration names the upgrade instead of failing in the middle."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "v6")
    before = await old.digest(conn)

    async def fail() -> str:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        await upgrade(empty_database, now=NOW, create_backup=fail)
    with pytest.raises(migrate.SchemaNotCurrent, match="earlier Catalyst"):
        await migrate.migrate(empty_database)
    assert await old.digest(conn) == before
    await conn.close()


async def test_rollback_restores_each_value_and_keeps_the_new_tables(empty_database: str) -> None:
    """After a rollback the old database is as before, indexes and functions too; the upgrade can be repeated."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "phase_1", attempts=True)
    before = await old.digest(conn)
    for minute in range(2):
        await upgraded(empty_database)
        done = await reversal.roll_back(empty_database, now=NOW.replace(minute=minute))
        assert (done.orders, done.positions) == (0, 0)
        assert await old.digest(conn) == before
        assert await conn.fetchval(f"SELECT count(*) FROM {done.schema}.positions") == 83
    await upgraded(empty_database)
    assert await conn.fetchval("SELECT count(*) FROM positions WHERE legacy") == 83
    await conn.close()


async def test_finalize_needs_a_day_on_the_new_tables(empty_database: str) -> None:
    """It drops the old tables only after a completed cycle, when no view reads them; then no rollback is left."""
    conn = await connect(empty_database, "test")
    await old.create(conn, "v6", attempts=True)
    await conn.execute("CREATE VIEW mine AS SELECT count(*) FROM positions")
    await upgraded(empty_database)
    with pytest.raises(UserError, match="no cycle was completed"):
        await reversal.finalize(empty_database, now=NOW)
    await conn.execute(
        """
        INSERT INTO trading_cycles (cycle_id, cycle_date, mode, status, max_positions, max_daily_loss, scan_frequency,
                                    start_time, end_time, updated_at, config_hash)
        VALUES ('20260106-093000', '2026-01-06', 'supervised', 'completed', 5, 2000, 1800, $1, $1, $1, 'hash')
        """,
        NOW,
    )
    with pytest.raises(UserError, match="these views read the old tables: mine"):
        await reversal.finalize(empty_database, now=NOW)
    await conn.execute("DROP VIEW mine")
    assert await reversal.finalize(empty_database, now=NOW) == 7
    assert await conn.fetchval("SELECT to_regnamespace('legacy')") is None
    assert await conn.fetchval("SELECT count(*) FROM legacy_positions") == 5
    for end in (reversal.finalize, reversal.roll_back):
        with pytest.raises(UserError, match="there is no upgrade to end"):
            await end(empty_database, now=NOW)
    await conn.close()
