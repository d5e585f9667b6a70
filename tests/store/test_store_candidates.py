"""Stored scans: the counts per stage, the candidates, each stage's results and the full frame."""

import os
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal

import asyncpg
import pytest
from store.raw_rows import AT, CYCLE, RawRows

from catalyst.store import candidates
from catalyst.store.candidates import (
    Candidate,
    FrameBlob,
    HeadlineRecord,
    IndicatorRecord,
    PatternRecord,
    Scan,
)

SCAN = Scan(
    cycle_id=CYCLE,
    started_at=AT,
    finished_at=AT + timedelta(seconds=2),
    universe=4129,
    counts={"scan": 200, "news": 35},
    milliseconds={"scan": 20.5, "news": 3.25},
)


def candidate(rank: int, **fields: object) -> Candidate:
    values: dict[str, object] = {
        "symbol": f"S{rank:03}",
        "rank_in_scan": rank,
        "stage_reached": "news",
        "verdict": "refused",
        "reason": "headline is an offering",
        "status": "refused",
        **fields,
    }
    return Candidate(**values)  # type: ignore[arg-type]


async def test_stored_scan_round_trips(raw_rows: RawRows):
    """Counts, times, all scores, headlines, patterns, indicators and the frame are read back byte for byte."""
    best = Candidate(
        symbol="AAPL",
        rank_in_scan=1,
        stage_reached="plan",
        verdict="passed",
        side="long",
        price=Decimal("190.01"),
        volume=Decimal(1_234_567),
        scan_score=0.9,
        momentum_score=0.8,
        volume_score=0.7,
        news_score=0.6,
        pattern_confidence=0.5,
        technical_score=0.4,
        composite_score=0.3,
        risk_score=0.2,
        signal_id="sig-1",
        detail={"risk": {"approved": True, "reasons": ["Risk within limits"]}},
    )
    headline = HeadlineRecord(
        "AAPL", "Apple beats", "benzinga", AT - timedelta(hours=1), AT, 0.7, 0.9, 0.63, "earnings"
    )
    pattern = PatternRecord(
        "AAPL",
        "bull_flag",
        "long",
        0.8,
        Decimal("190.5"),
        Decimal("188"),
        Decimal("196"),
        AT,
        AT,
        {"bars": 12},
    )
    values = IndicatorRecord("AAPL", 0.75, {"rsi": 61.5, "macd": None})
    frame = FrameBlob("parquet+zstd", 4129, os.urandom(300_000))
    scan = Scan(**{**asdict(SCAN), "frame": frame})
    async with raw_rows.conn.transaction():
        scan_id = await candidates.record(
            raw_rows.conn,
            scan,
            [best, candidate(2)],
            news=[headline],
            patterns=[pattern],
            indicators=[values],
        )
    (row,) = await candidates.scans_of(raw_rows.conn, CYCLE)
    assert (row.universe, row.counts, row.milliseconds) == (4129, SCAN.counts, SCAN.milliseconds)
    assert await candidates.latest_scan(raw_rows.conn) == row
    first, second = await candidates.of_scan(raw_rows.conn, scan_id)
    assert {name: getattr(first, name) for name in asdict(best)} == asdict(best)
    assert (second.verdict, second.reason, second.scanned_at) == ("refused", "headline is an offering", AT)
    assert await candidates.frame_of(raw_rows.conn, scan_id) == frame
    assert await candidates.headlines_of(raw_rows.conn, scan_id, "AAPL") == [headline]
    assert await candidates.patterns_of(raw_rows.conn, scan_id, "aapl") == [pattern]
    assert await candidates.indicators_of(raw_rows.conn, scan_id, "AAPL") == values
    assert await candidates.of_cycle(raw_rows.conn, CYCLE) == [first, second]
    assert await candidates.of_symbol(raw_rows.conn, "AAPL") == [first]


async def test_scan_insert_takes_constant_number_of_statements(raw_rows: RawRows):
    """A scan with 200 candidates and a thousand headlines takes as many statements as one with two."""

    async def statements(rows: int) -> int:
        seen = []
        raw_rows.conn.add_query_logger(seen.append)
        try:
            await candidates.record(
                raw_rows.conn,
                SCAN,
                [candidate(n) for n in range(1, rows + 1)],
                news=[
                    HeadlineRecord(f"S{n:03}", f"headline {m}", "x", AT, AT, 0.0)
                    for n in range(1, rows + 1)
                    for m in range(5)
                ],
            )
        finally:
            raw_rows.conn.remove_query_logger(seen.append)
        return len(seen)

    few, many = await statements(2), await statements(200)
    assert many == few
    assert await raw_rows.conn.fetchval("SELECT count(*) FROM scan_results") == 202
    assert await raw_rows.conn.fetchval("SELECT count(*) FROM news_sentiment") == 1010


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"rank_in_scan": 201}, asyncpg.CheckViolationError),
        ({"rank_in_scan": 1, "symbol": "OTHER"}, asyncpg.UniqueViolationError),
        ({"symbol": "S001"}, asyncpg.UniqueViolationError),
        ({"reason": None}, asyncpg.CheckViolationError),
        ({"stage_reached": "magic"}, asyncpg.CheckViolationError),
    ],
    ids=str,
)
async def test_scan_insert_is_atomic(raw_rows: RawRows, wrong: dict[str, object], error: type[Exception]):
    """One invalid row (rank, duplicate, refusal without reason, unknown stage) rolls back the whole scan."""

    async def record() -> None:
        async with raw_rows.conn.transaction():
            await candidates.record(raw_rows.conn, SCAN, [candidate(1), candidate(2, **wrong)])

    with pytest.raises(error):
        await record()
    assert await raw_rows.conn.fetchval("SELECT count(*) FROM scans") == 0


async def test_headline_with_unstorable_characters_is_cleaned(raw_rows: RawRows):
    """NUL and a lone surrogate in a headline are replaced."""
    news = [HeadlineRecord("AAPL", "a\x00b\ud800c", "wire", AT, AT, 0.0)]
    scan_id = await candidates.record(raw_rows.conn, SCAN, [], news=news)
    (stored,) = await candidates.headlines_of(raw_rows.conn, scan_id, "AAPL")
    assert stored.headline == "a�b?c"


async def test_candidate_records_proposal_and_order(raw_rows: RawRows):
    """A candidate's status goes from proposed to ordered and keeps its signal."""
    scan_id = await candidates.record(raw_rows.conn, SCAN, [candidate(1), candidate(2)])
    await candidates.set_status(raw_rows.conn, scan_id, "S001", status="proposed", signal_id="sig")
    await candidates.set_status(raw_rows.conn, scan_id, "S001", status="ordered")
    first, second = await candidates.of_scan(raw_rows.conn, scan_id)
    assert (first.status, first.signal_id) == ("ordered", "sig")
    assert (second.status, second.signal_id) == ("refused", None)


async def test_dropped_scan_frame_reads_as_missing(raw_rows: RawRows):
    """Deleting old frames keeps their scans."""
    scan_id = await candidates.record(
        raw_rows.conn, Scan(**{**asdict(SCAN), "frame": FrameBlob("f", 1, b"x")}), []
    )
    await raw_rows.conn.execute("DELETE FROM scan_frames")
    assert await candidates.frame_of(raw_rows.conn, scan_id) is None
    assert len(await candidates.scans_of(raw_rows.conn, CYCLE)) == 1
