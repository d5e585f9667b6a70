"""A small trading day, written with the functions of the store: a winner, a loser with two exit fills, an
unprotected open position, a pending proposal and a scan of five symbols."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO

import pandas as pd

from catalyst.domain.cycle import CycleStatus
from catalyst.domain.fill_decision import Circumstances
from catalyst.domain.order import PositionSide, Purpose, Side, Status, side_for
from catalyst.domain.report import Fill
from catalyst.domain.report_decision import decide
from catalyst.domain.rows import NewOrder
from catalyst.domain.session import Session
from catalyst.store import (
    alerts,
    candidates,
    cycles,
    daemon_epoch,
    exit_intents,
    orders,
    positions,
    proposals,
    report_rows,
    report_writes,
    trading_days,
)
from catalyst.store.candidates import Candidate, FrameBlob, HeadlineRecord, IndicatorRecord, PatternRecord
from catalyst.store.daemon_epoch import DaemonStatement, RunInfo
from catalyst.store.pool import Connection, Store

DAY = date(2026, 4, 8)
CYCLE = "20260408-080000"
ACCOUNT = "account-of-the-test"
DAY_BEGAN_AT = datetime(2026, 4, 8, 12, 0, tzinfo=UTC)
OPEN = datetime(2026, 4, 8, 13, 30, tzinfo=UTC)
STATEMENT = DaemonStatement(
    "sim", "supervised", "http://127.0.0.1:8600", "hash", 5, Decimal(2000), OPEN + timedelta(hours=1), None
)
SCANNED_AT = OPEN + timedelta(minutes=5)


async def write_day(store: Store) -> None:
    """Write the day as of 10:15 New York time."""
    async with store.tx("day") as conn:
        await trading_days.put(conn, [Session(DAY, OPEN, OPEN + timedelta(hours=6.5))])
        await daemon_epoch.begin_epoch(conn, ACCOUNT, RunInfo("0.1.0", "", "hash", "", 1), at=DAY_BEGAN_AT)
        await daemon_epoch.put_statement(conn, 1, STATEMENT)
        await cycles.open_day(
            conn, cycle_id=CYCLE, day=DAY, mode="supervised", max_positions=5, max_daily_loss=Decimal(2000),
            scan_frequency=1800, start_equity=Decimal(100_000), config_hash="hash", at=DAY_BEGAN_AT,
        )  # fmt: skip
        await cycles.advance(
            conn, CYCLE, from_status=CycleStatus.IDLE, to_status=CycleStatus.SCANNING, at=SCANNED_AT
        )
        await _scan(conn)
        await write_trade(
            conn, "AAPL", 1, [(100, "190.00")], [(100, "192.50")], "TAKE_PROFIT_HIT: AAPL", minutes=10
        )
        await write_trade(
            conn, "MSFT", 2, [(30, "400.00"), (20, "400.50")], [(25, "396.00"), (25, "395.00")], "STOP_LOSS_HIT: MSFT",
            minutes=20,
        )  # fmt: skip
        await write_trade(conn, "NVDA", 3, [(10, "900.00")], [], None, minutes=30)
        await _propose(conn)
        await alerts.raise_alert(
            conn, "JOB_FAILED", "the job scan failed", severity=alerts.WARNING, facts={}, at=SCANNED_AT
        )


async def _scan(conn: Connection) -> None:
    """Record a scan with three candidates of five symbols."""
    frame = pd.DataFrame(
        {
            "symbol": ["AAPL", "MSFT", "TSLA", "JUNK", "NVDA"],
            "price": [190.0, 400.0, 250.0, 0.5, 900.0],
            "scan_score": [0.9, 0.8, float("nan"), float("nan"), 0.7],
            "refused_by": [None, None, "scan", "universe", "pattern"],
            "reason": [None, None, "spread 80.0 bps, limit 50.0", "not tradable", "no pattern in 5 bars"],
        }
    )
    blob = BytesIO()
    frame.to_parquet(blob, index=False)
    counts = {"listed": 5, "universe": 4, "scan": 3, "news": 3, "pattern": 2, "plan": 2}
    rows = [
        Candidate("AAPL", 1, "plan", "passed", side="long", price=Decimal(190), scan_score=0.9, status="proposed",
                  signal_id="signal-1", detail={"stop": 188.0}),
        Candidate("MSFT", 2, "plan", "passed", side="long", price=Decimal(400), scan_score=0.8, signal_id="signal-2"),
        Candidate("NVDA", 3, "pattern", "refused", reason="no pattern in 5 bars", price=Decimal(900)),
    ]  # fmt: skip
    await candidates.record(
        conn,
        candidates.Scan(
            CYCLE, SCANNED_AT, SCANNED_AT + timedelta(seconds=1), 4, counts, {"scan": 12.5, "snapshots": 100.0},
            frame=FrameBlob("parquet", 5, blob.getvalue()),
        ),
        rows,
        news=[HeadlineRecord("AAPL", "Record quarter", "Wire", OPEN - timedelta(hours=1), OPEN, 0.8)],
        patterns=[PatternRecord("AAPL", "gap_and_go", "long", 0.7, Decimal(190), Decimal(188), Decimal(196))],
        indicators=[IndicatorRecord("AAPL", 0.75, {"rsi": 61.5})],
    )  # fmt: skip


async def write_trade(
    conn: Connection,
    symbol: str,
    number: int,
    entries: list[tuple[int, str]],
    exits: list[tuple[int, str]],
    reason: str | None,
    *,
    minutes: float,
    side: PositionSide = PositionSide.LONG,
) -> None:
    """Fill an entry slice by slice, then exit it slice by slice, one minute apart."""
    at = OPEN + timedelta(minutes=minutes)
    shares = Decimal(sum(quantity for quantity, _ in entries))
    is_long = side is PositionSide.LONG
    low, high = Decimal("10.00"), Decimal("2000.00")
    order_id = await orders.insert(
        conn,
        NewOrder(
            f"entry-{number}", symbol, Purpose.ENTRY, side, side_for(side, Purpose.ENTRY), shares, "limit", "day",
            "bracket", cycle_id=CYCLE, limit_price=Decimal(1000 if is_long else 100),
            bracket_stop=low if is_long else high, bracket_target=high if is_long else low,
            alpaca_order_id=f"broker-entry-{number}", signal_id=f"signal-{number}", epoch=1,
        ),
        status=Status.SUBMITTED, at=at, source="submit", note="test",
    )  # fmt: skip
    for quantity, price in entries:
        await _fill(conn, f"broker-entry-{number}", quantity, price, at)
    row = await orders.get(conn, order_id)
    assert row.position_id is not None
    assert row.filled_avg_price is not None
    sign = 1 if is_long else -1
    stop, target = row.filled_avg_price - 2 * sign, row.filled_avg_price + 6 * sign
    await positions.set_levels(conn, row.position_id, stop_loss=stop, take_profit=target, at=at)
    position = await positions.get(conn, row.position_id)
    await positions.set_protection(conn, position, protected_at=at, unprotected_seconds=Decimal("1.5"))
    if not exits:
        return
    sold_at = at + timedelta(seconds=1.5)  # until then nothing at the broker covers the shares
    await orders.insert(
        conn,
        NewOrder(
            f"exit-{number}", symbol, Purpose.EXIT, side, side_for(side, Purpose.EXIT), shares, "market", "day",
            "simple", cycle_id=CYCLE, position_id=row.position_id, alpaca_order_id=f"broker-exit-{number}", epoch=1,
        ),
        status=Status.SUBMITTED, at=sold_at, source="submit", note="test",
    )  # fmt: skip
    await exit_intents.create_intent(
        conn, row.position_id, reason=str(reason), purpose=Purpose.EXIT, requested_by="test", at=at
    )
    for quantity, price in exits:
        at += timedelta(minutes=1)
        await _fill(conn, f"broker-exit-{number}", quantity, price, at)


async def _fill(conn: Connection, broker_id: str, quantity: int, price: str, at: datetime) -> None:
    """Book one fill as the daemon does."""
    (row,) = await orders.by_broker_ids(conn, [broker_id])
    fill = Fill(broker_id, row.filled_qty + quantity, Decimal(quantity), Decimal(price), at)
    rows = await report_rows.lock(conn, (), (fill,), unlinked_symbols=frozenset())
    decision = decide(rows, None, (fill,), Circumstances(at, "stream"))
    assert decision is not None
    await report_writes.write(conn, decision, at=at, source="stream", epoch=1)


async def _propose(conn: Connection) -> None:
    """Insert a pending proposal for 12 AMD."""
    order_id = await orders.insert(
        conn,
        NewOrder(
            "proposed-1", "AMD", Purpose.ENTRY, PositionSide.LONG, Side.BUY, Decimal(12), "limit", "day", "bracket",
            cycle_id=CYCLE, limit_price=Decimal("150.00"), bracket_stop=Decimal("147.00"),
            bracket_target=Decimal("159.00"), signal_id="signal-proposed", epoch=1,
        ),
        status=Status.CREATED, at=OPEN + timedelta(minutes=40), source="submit", note="test",
    )  # fmt: skip
    row = await orders.get(conn, order_id)
    await proposals.put(
        conn, order_id=order_id, cycle_id=CYCLE, security_id=row.security_id,
        ticket={"side": "long", "quantity": 12, "entry": "150.00", "stop": "147.00", "target": "159.00",
                "risk": "36.00"},
        at=OPEN + timedelta(minutes=40), expires_at=OPEN + timedelta(minutes=50),
    )  # fmt: skip
