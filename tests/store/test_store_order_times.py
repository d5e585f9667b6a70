"""Times of an order that waits for a venue: since when a venue has it, after a crash and after an upgrade."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from shutil import copy

import asyncpg
import pytest
from store.raw_rows import RawRows

from catalyst.store import migrate

NOON = datetime(2026, 4, 8, 16, tzinfo=UTC)  # in New York
CLOSED = datetime(2026, 4, 8, 20, 3, tzinfo=UTC)
STOP = {
    "order_purpose": "stop_loss", "side": "sell", "order_type": "stop", "limit_price": None,
    "stop_price": Decimal("187.00"), "alpaca_order_id": "broker-stop", "broker_status": "accepted",
}  # fmt: skip


@pytest.mark.parametrize(
    ("submitted_at", "away", "since_start", "is_broker_time"),
    [
        (NOON, timedelta(minutes=10), timedelta(seconds=4), True),
        (NOON, timedelta(minutes=10), timedelta(minutes=2), False),  # this daemon has seen it wait
        (NOON, None, timedelta(seconds=4), False),  # the same daemon has seen it wait
        (
            NOON - timedelta(hours=4),
            timedelta(hours=2),
            timedelta(seconds=4),
            False,
        ),  # submitted before the open
        (CLOSED, timedelta(hours=18), timedelta(seconds=4), False),
    ],
)
async def test_stop_that_reached_its_venue_while_no_daemon_ran_counts_from_its_submission(
    raw_rows: RawRows,
    submitted_at: datetime,
    away: timedelta | None,
    since_start: timedelta,
    is_broker_time: bool,
) -> None:
    """A stop was accepted, the daemon died, and the next one finds it at the venue: in market hours it was there at
    once. Reports in between, or a stop that waits for the open, count from the receipt."""
    position_id = await raw_rows.insert_position()
    stop = await raw_rows.insert_order(
        **STOP, position_id=position_id, broker_submitted_at=submitted_at, updated_at=submitted_at
    )
    started_at = submitted_at + (away or timedelta(0))
    epoch = 1 if away is None else 2
    await raw_rows.conn.execute("UPDATE daemon SET epoch = $1, started_at = $2", epoch, started_at)
    reported_at = started_at + since_start
    await raw_rows.set_status(stop, "submitted", broker_status="new", updated_at=reported_at, epoch=epoch)
    times = await raw_rows.conn.fetchrow(
        "SELECT pending_at, acknowledged_at FROM orders WHERE order_id = $1", stop
    )
    assert tuple(times) == (submitted_at, submitted_at if is_broker_time else reported_at)


@pytest.fixture
def earlier_release(tmp_path: Path) -> Path:
    """Return a folder with the migrations before the times of a venue."""
    for path in migrate.MIGRATIONS_FOLDER.glob("*.sql"):
        if path.stem < "0009":
            copy(path, tmp_path)
    return tmp_path


async def test_upgrade_keeps_waiting_stops_without_protection(
    empty_database: str, earlier_release: Path
) -> None:
    """A working stop that no venue has when the database is upgraded is pending since its submission, although another
    daemon wrote it; an order at a venue is not pending."""
    await migrate.migrate(empty_database, folder=earlier_release)
    conn = await asyncpg.connect(empty_database)
    raw_rows = RawRows(conn)
    await raw_rows.insert_day()
    position_id = await raw_rows.insert_position()
    waiting = await raw_rows.insert_order(
        **STOP, position_id=position_id, quantity=Decimal(50), broker_submitted_at=NOON
    )
    working = await raw_rows.insert_order(
        **{**STOP, "alpaca_order_id": "other", "broker_status": "new"},
        position_id=position_id, quantity=Decimal(50),
    )  # fmt: skip
    for order_id in (waiting, working):
        await raw_rows.set_status(order_id, "submitted")
    await conn.execute("UPDATE daemon SET epoch = 2")
    await migrate.migrate(empty_database)
    pending = await conn.fetch("SELECT order_id, pending_at FROM orders WHERE pending_at IS NOT NULL")
    await conn.close()
    assert [tuple(row) for row in pending] == [(waiting, NOON)]
