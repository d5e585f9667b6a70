"""Retention: the frames of old scans go after the close, the results of every scan stay."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from catalyst.clock import ManualClock
from catalyst.config.schema import SessionMode
from catalyst.daemon.app import ExitCode
from catalyst.daemon.trading_day import retention
from catalyst.daemon.trading_day.retention import delete_old_frames
from catalyst.store import candidates, cycles, migrate
from catalyst.store.candidates import FrameBlob, Scan
from catalyst.store.pool import Store, connected, open_store
from tests.simulator.manual_feed import at
from tests.stories.scenario import open_scenario

AGE = timedelta(days=181)


async def record_scans(dsn: str, cycle_id: str, *starts: datetime) -> list[int]:
    """Store a scan with a frame at each time; return their ids."""
    scan = Scan(cycle_id, at("10:00"), at("10:00"), 10, {}, {}, frame=FrameBlob("f", 1, b"x"))
    async with connected(dsn, "test") as conn:
        return [
            await candidates.record(conn, replace(scan, started_at=start, finished_at=start), [])
            for start in starts
        ]


async def test_close_deletes_the_frames_of_old_scans(database: str) -> None:
    """After the close a frame of 181 days is deleted and one of 179 kept; both scans stay. The day ends as usual."""
    async with open_scenario(database, now=at("15:58")) as scenario:
        cycle_id = await scenario.conn.fetchval("SELECT cycle_id FROM trading_cycles")
        now = scenario.clock.now()
        old, recent = await record_scans(database, cycle_id, now - AGE, now - timedelta(days=179))
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        kept = await scenario.conn.fetch("SELECT scan_id FROM scan_frames")
        assert [row["scan_id"] for row in kept] == [recent]
        scans = await scenario.conn.fetchval(
            "SELECT count(*) FROM scans WHERE scan_id = ANY($1)", [old, recent]
        )
        assert scans == 2
        assert "JOB_FAILED" not in await scenario.alert_events()


async def test_backlog_goes_oldest_first_and_never_with_the_daemons_role(
    store: Store, database: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One day deletes a bounded number, the oldest; the daemon's role deletes nothing and raises nothing."""
    monkeypatch.setattr(retention, "MAX_FRAMES_A_DAY", 2)
    now = clock.now()
    async with store.tx("cycle") as conn:
        cycle, _ = await cycles.open_day(
            conn, cycle_id="20260408-101500", day=now.date(), mode=SessionMode.SUPERVISED, max_positions=5,
            max_daily_loss=Decimal(2000), scan_frequency=1800, start_equity=None, start_transfers=None,
            config_hash="hash", at=now,
        )  # fmt: skip
        await conn.execute(migrate.roles_sql())
    ids = await record_scans(
        database, cycle.cycle_id, *(now - AGE + timedelta(hours=hour) for hour in range(3))
    )
    separator = "&" if "?" in database else "?"
    daemons_store = await open_store(f"{database}{separator}role=catalyst_app", clock)
    await delete_old_frames(daemons_store, clock, keep_days=180)
    await daemons_store.close()
    async with store.read() as conn:
        assert await candidates.count_frames(conn, before=now) == 3
    await delete_old_frames(store, clock, keep_days=180)
    async with store.read() as conn:
        kept = await conn.fetch("SELECT scan_id FROM scan_frames")
    assert [row["scan_id"] for row in kept] == ids[2:]
