"""Scan records: the rows made from a scan's frame come back unchanged from the database."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalyst.daemon.trading_day import scan_records
from catalyst.daemon.trading_day.scan_records import ScanRecords, records_of
from catalyst.daemon.trading_day.scanner import ScanResult
from catalyst.pipeline.frame import decision_table, funnel
from catalyst.simulator.synthetic.intraday_profile import MarketRegime
from catalyst.store import candidates, cycles
from catalyst.store.candidates import Candidate, HeadlineRecord, IndicatorRecord, PatternRecord
from catalyst.store.pool import Store
from tests.pipeline.recorded_day import DATA, RecordedDay, generated_day, recorded_day, run_stages

AT = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)
CYCLE = "20260408-091500"
BAR = pd.Timestamp(AT - timedelta(minutes=25))
MISSING = float("nan")


def frame_of(rows: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return a frame with the columns of all stages; missing values are empty."""
    names = list(dict.fromkeys(name for row in (*ROWS.values(), *rows.values()) for name in row))
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=names)
    frame.index.name = "symbol"
    text_columns = [
        "side",
        "pattern",
        "catalyst",
        "headline",
        "refused_by",
        "reason",
        "verdict",
        "client_order_id",
        "signal_id",
    ]
    for name in text_columns:
        frame[name] = pd.array(
            frame[name].where(frame[name].notna(), None).to_numpy(dtype=object), dtype="str"
        )
    frame["pattern_from"] = pd.to_datetime(frame["pattern_from"], utc=True)
    return frame


ROWS: dict[str, dict[str, Any]] = {
    "AAPL": {
        "scan_rank": 1.0, "price": 190.01, "volume": 1_234_567.0, "scan_score": 0.9, "momentum_score": 0.8,
        "volume_score": 0.7, "news_score": 0.6, "pattern_confidence": 0.5, "agreement": 0.4, "composite": 0.3,
        "risk_score": 0.2, "side": "long", "pattern": "bull_flag", "pattern_trigger": 190.5, "pattern_stop": 188.0,
        "pattern_target": 196.25, "pattern_from": BAR, "pattern_bars": 12.0, "catalyst": "earnings",
        "headline": "Apple beats", "sentiment": 0.7, "news_count": 2.0, "client_order_id": "cat-1-e",
        "signal_id": "sig-1", "rsi": 61.5, "votes": 9.0, "quantity": 25.0, "risk_amount": 50.25,
        "verdict": "Risk within limits", "gap_pct": 1.23456789,
    },
    "TSLA": {
        "scan_rank": 2.0, "price": 250.0, "volume": 0.0, "scan_score": 0.8, "news_score": 0.5, "side": "short",
        "pattern": "", "agreement": 0.0, "rsi": MISSING, "refused_by": "technical", "reason": "RSI 12 below 15",
        "headline": "A headline without a source",
    },
    "PASS": {"scan_rank": 3.0, "price": 0.9999, "volume": 10.5, "scan_score": 0.7, "news_score": 0.5},
    "LATE": {
        "scan_rank": 201.0, "price": 12.0, "scan_score": 0.1, "refused_by": "news", "reason": "rank 201 of 201",
        "agreement": 0.9, "pattern": "bull_flag",
    },
    "THIN": {"price": 3.0, "refused_by": "scan", "reason": "no volume today"},
}  # fmt: skip
HEADLINES = pd.DataFrame(
    {
        "symbol": ["AAPL", "AAPL", "LATE"],
        "headline": ["Apple beats", "Apple falls", "Late news"],
        "source": ["benzinga", "other", "other"],
        "url": ["https://example.org/1", None, None],
        "published_at": [pd.Timestamp(AT - timedelta(hours=1))] * 3,
        "received_at": [pd.Timestamp(AT - timedelta(minutes=59))] * 3,
    }
)


def scan_of(frame: pd.DataFrame, headlines: pd.DataFrame, **changes: Any) -> ScanResult:
    """Return a finished scan with this frame and these headlines."""
    facts: dict[str, Any] = {
        "started_at": AT,
        "finished_at": AT + timedelta(seconds=2),
        "decided_at": AT + timedelta(seconds=1),
        "frame": frame,
        "counts": funnel(frame),
        "milliseconds": {"scan": 20.5, "news": 3.25},
        "degraded": None,
        "plans": (),
        "headlines": headlines,
    }
    return ScanResult(**(facts | changes))


async def record_scan(store: Store, records: ScanRecords) -> int:
    """Open the trading day, record the scan as the daemon does and return its id."""
    async with store.tx("test") as conn:
        await cycles.open_day(
            conn, cycle_id=CYCLE, day=date(2026, 4, 8), mode="supervised", max_positions=5,
            max_daily_loss=Decimal(2000), scan_frequency=1800, start_equity=Decimal(100_000), config_hash="hash",
            at=AT,
        )  # fmt: skip
        return await candidates.record(
            conn, records.scan, records.candidates,
            news=records.news, patterns=records.patterns, indicators=records.indicators,
        )  # fmt: skip


async def test_scan_record_round_trips_through_database(store: Store):
    """Candidates with scores and statuses, headline, pattern, indicators and the whole frame come back as
    recorded."""
    frame = frame_of(ROWS)
    records = records_of(scan_of(frame, HEADLINES, degraded="news: slow"), CYCLE)
    scan_id = await record_scan(store, records)
    async with store.read() as conn:
        (row,) = await candidates.scans_of(conn, CYCLE)
        stored = await candidates.of_scan(conn, scan_id)
        (headline,) = await candidates.headlines_of(conn, scan_id, "AAPL")
        (pattern,) = await candidates.patterns_of(conn, scan_id, "AAPL")
        values = {
            name: await candidates.indicators_of(conn, scan_id, name) for name in ROWS if name != "LATE"
        }
        blob = await candidates.frame_of(conn, scan_id)

    assert (row.universe, row.degraded, row.milliseconds) == (5, "news: slow", {"scan": 20.5, "news": 3.25})
    assert row.counts == funnel(frame)
    assert [candidate.symbol for candidate in stored] == ["AAPL", "TSLA", "PASS"]
    assert [
        {name: getattr(candidate, name) for name in asdict(expected)}
        for candidate, expected in zip(stored, records.candidates, strict=True)
    ] == [asdict(expected) for expected in records.candidates]
    best, refused, candidate = stored
    assert asdict(records.candidates[0]) == asdict(
        Candidate(
            "AAPL", 1, "plan", "passed", None, "long", Decimal("190.01"), Decimal(1_234_567), 0.9, 0.8, 0.7, 0.6,
            0.5, 0.4, 0.3, 0.2, "proposed", "sig-1",
            {
                "gap_pct": 1.234568, "sentiment": 0.7, "news_count": 2.0, "catalyst": "earnings",
                "pattern": "bull_flag", "quantity": 25.0, "risk_amount": 50.25, "verdict": "Risk within limits",
            },
        )
    )  # fmt: skip
    assert (refused.status, refused.stage_reached, refused.reason) == (
        "refused",
        "technical",
        "RSI 12 below 15",
    )
    assert (refused.side, refused.technical_score, refused.volume) == ("short", 0.0, 0)
    assert (candidate.status, candidate.stage_reached, candidate.side, candidate.price) == (
        "candidate", "plan", None, Decimal("0.9999"),
    )  # fmt: skip
    assert headline == HeadlineRecord(
        "AAPL", "Apple beats", "benzinga", AT - timedelta(hours=1), AT - timedelta(minutes=59), 0.7, 1.0, 0.6,
        "earnings", "https://example.org/1",
    )  # fmt: skip
    assert pattern == PatternRecord(
        "AAPL", "bull_flag", "long", 0.5, Decimal("190.5"), Decimal(188), Decimal("196.25"),
        AT - timedelta(minutes=25), None, {"bars": 12.0},
    )  # fmt: skip
    assert best.detail["verdict"] == "Risk within limits"
    assert values["PASS"] is None
    for name, rsi in (("AAPL", 61.5), ("TSLA", None)):
        indicators = values[name]
        assert isinstance(indicators, IndicatorRecord)
        assert (indicators.values["rsi"], indicators.values["macd"]) == (rsi, None)
    assert blob is not None
    assert (blob.format, blob.rows) == ("parquet", 5)
    pd.testing.assert_frame_equal(pd.read_parquet(BytesIO(blob.data)), decision_table(frame))


async def test_scan_record_keeps_two_hundred_candidates_and_whole_frame(store: Store):
    """The best 200 candidates are stored as rows; the stored frame has every symbol."""
    rows = {
        f"S{n:03}": {
            **dict.fromkeys(ROWS["AAPL"]),
            "scan_rank": float(n),
            "price": 10.0,
            "scan_score": 1 - n / 999,
        }
        for n in range(1, 251)
    }
    frame = frame_of(
        {**rows, "THIN": {"scan_rank": np.nan, "refused_by": "scan", "reason": "no volume today"}}
    )
    records = records_of(scan_of(frame, pd.DataFrame()), CYCLE)
    scan_id = await record_scan(store, records)
    async with store.read() as conn:
        stored = await candidates.of_scan(conn, scan_id)
        blob = await candidates.frame_of(conn, scan_id)
    assert [candidate.rank_in_scan for candidate in stored] == list(range(1, 201))
    assert blob is not None
    assert set(pd.read_parquet(BytesIO(blob.data))["symbol"]) == set(frame.index)
    assert (records.news, records.patterns, records.indicators) == ((), (), ())


async def test_empty_scan_is_recorded_with_reasons(store: Store):
    """A scan without candidates and headlines is stored with the reason of each refused symbol."""
    frame = frame_of(ROWS).loc[["THIN"]]
    scan_id = await record_scan(store, records_of(scan_of(frame, pd.DataFrame()), CYCLE))
    async with store.read() as conn:
        assert await candidates.of_scan(conn, scan_id) == []
        blob = await candidates.frame_of(conn, scan_id)
    assert blob is not None
    assert pd.read_parquet(BytesIO(blob.data))["reason"].tolist() == ["no volume today"]


def test_non_finite_numbers_are_recorded_as_null():
    """Infinity and NaN are stored as null."""
    frame = frame_of(
        {"AAPL": {**ROWS["AAPL"], "risk_score": np.inf, "price": np.nan, "gap_pct": -np.inf, "rsi": np.inf}}
    )
    records = records_of(scan_of(frame, HEADLINES), CYCLE)
    (row,), (values,) = records.candidates, records.indicators
    assert (row.risk_score, row.price) == (None, None)
    assert "gap_pct" not in row.detail
    assert values.values["rsi"] is None


@pytest.mark.parametrize(
    "market_day", [lambda: generated_day(MarketRegime.GAP_UP), lambda: recorded_day("2026-04-08")][: 1 + DATA.is_dir()],
    ids=["generated", "recorded"][: 1 + DATA.is_dir()],
)  # fmt: skip
async def test_stored_columns_are_written_by_the_stages(store: Store, market_day: Callable[[], RecordedDay]):
    """On a market day every stored column is filled by some stage, and all of it fits the database."""
    day = market_day()
    now = day.at("10:00")
    frame = run_stages(day, now)
    assert set(scan_records._INDICATOR_COLUMNS) <= set(frame.columns)
    assert set(scan_records._DETAIL_COLUMNS) <= set(frame.columns)
    records = records_of(scan_of(frame, day.headlines), CYCLE)
    assert len(records.candidates) == 200
    for name in asdict(records.candidates[0]):
        if name != "symbol":
            assert any(getattr(candidate, name) is not None for candidate in records.candidates), name
    assert {candidate.status for candidate in records.candidates} == {"proposed", "refused"}
    assert records.news
    assert records.patterns
    scan_id = await record_scan(store, records)
    async with store.read() as conn:
        assert len(await candidates.of_scan(conn, scan_id)) == 200
