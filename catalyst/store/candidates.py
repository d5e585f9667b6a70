"""Candidates: the input and the decisions of each scan, written in one transaction.

Stored are the counts of each stage, the rows that passed the scan stage, the data each stage had of them, and
the whole frame, compressed, so that any symbol can be explained later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

from catalyst.store import securities
from catalyst.store.pool import Connection, storable_text


@dataclass(frozen=True, slots=True)
class FrameBlob:
    """The frame of all symbols as the caller compressed it; `format` names the encoding."""

    format: str
    rows: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scan:
    """One run of the pipeline. `counts` are rows left after each stage, `milliseconds` the time of each."""

    cycle_id: str
    started_at: datetime
    finished_at: datetime
    universe: int
    counts: Mapping[str, int]
    milliseconds: Mapping[str, float]
    degraded: str | None = None
    frame: FrameBlob | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One symbol that passed the scan stage, also when a later stage refused it. Scores as the stages gave them."""

    symbol: str
    rank_in_scan: int
    stage_reached: str
    verdict: str  # passed | refused
    reason: str | None = None
    side: str | None = None
    price: Decimal | None = None
    volume: Decimal | None = None
    scan_score: float | None = None
    momentum_score: float | None = None
    volume_score: float | None = None
    news_score: float | None = None
    pattern_confidence: float | None = None
    technical_score: float | None = None
    composite_score: float | None = None
    risk_score: float | None = None
    status: str = "candidate"  # candidate | refused | proposed | ordered
    signal_id: str | None = None
    detail: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class HeadlineRecord:
    """One headline used for a candidate; sentiment in [-1, 1], relevance in [0, 1]."""

    symbol: str
    headline: str
    source: str
    published_at: datetime
    received_at: datetime
    sentiment: float
    relevance: float = 1.0
    score: float | None = None
    catalyst: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PatternRecord:
    """One pattern found; levels in dollars, bars by their start, UTC."""

    symbol: str
    pattern: str
    side: str
    confidence: float
    trigger: Decimal | None = None
    invalidation: Decimal | None = None
    target: Decimal | None = None
    first_bar: datetime | None = None
    last_bar: datetime | None = None
    detail: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class IndicatorRecord:
    """The indicator values of one candidate."""

    symbol: str
    agreement: float | None
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ScanRow:
    """One stored scan."""

    scan_id: int
    cycle_id: str
    started_at: datetime
    finished_at: datetime
    universe: int
    counts: dict[str, int]
    milliseconds: dict[str, float]
    degraded: str | None


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One stored candidate, with the start of its scan."""

    scan_id: int
    scanned_at: datetime
    symbol: str
    rank_in_scan: int
    stage_reached: str
    verdict: str
    reason: str | None
    side: str | None
    price: Decimal | None
    volume: Decimal | None
    scan_score: float | None
    momentum_score: float | None
    volume_score: float | None
    news_score: float | None
    pattern_confidence: float | None
    technical_score: float | None
    composite_score: float | None
    risk_score: float | None
    status: str
    signal_id: str | None
    detail: dict[str, object]


_SCAN: Final = """
    SELECT scan_id, cycle_id, started_at, finished_at, universe, counts, milliseconds, degraded FROM scans
"""
_SCANS_OF_CYCLE: Final = _SCAN + " WHERE cycle_id = $1 ORDER BY scan_id"
_LATEST_SCAN: Final = _SCAN + " ORDER BY scan_id DESC LIMIT 1"

_SELECT: Final = """
    SELECT r.scan_id, scan.started_at AS scanned_at, s.symbol, r.rank_in_scan, r.stage_reached, r.verdict,
           r.reason, r.side, r.price, r.volume, r.scan_score, r.momentum_score, r.volume_score, r.news_score,
           r.pattern_confidence, r.technical_score, r.composite_score, r.risk_score, r.status, r.signal_id,
           r.detail
      FROM scan_results r JOIN scans scan USING (scan_id) JOIN securities s USING (security_id)
"""
_OF_SCAN: Final = _SELECT + " WHERE r.scan_id = $1 ORDER BY r.rank_in_scan"
_OF_CYCLE: Final = _SELECT + " WHERE scan.cycle_id = $1 ORDER BY r.scan_id, r.rank_in_scan"
_OF_SYMBOL: Final = _SELECT + " WHERE s.symbol = $1 ORDER BY r.scan_id DESC LIMIT $2"


async def record(
    conn: Connection,
    scan: Scan,
    candidates: Sequence[Candidate],
    *,
    news: Sequence[HeadlineRecord] = (),
    patterns: Sequence[PatternRecord] = (),
    indicators: Sequence[IndicatorRecord] = (),
) -> int:
    """Write the scan and all its rows in the caller's transaction; return the scan's id."""
    scan_id: int = await conn.fetchval(
        """
        INSERT INTO scans (cycle_id, started_at, finished_at, degraded, universe, counts, milliseconds)
        VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING scan_id
        """,
        scan.cycle_id,
        scan.started_at,
        scan.finished_at,
        scan.degraded,
        scan.universe,
        scan.counts,
        scan.milliseconds,
    )
    if scan.frame is not None:
        await conn.execute(
            "INSERT INTO scan_frames (scan_id, format, rows, frame) VALUES ($1, $2, $3, $4)",
            scan_id,
            scan.frame.format,
            scan.frame.rows,
            scan.frame.data,
        )
    named = {row.symbol for rows in (candidates, news, patterns, indicators) for row in rows}
    ids_by_symbol = await securities.get_or_create_ids(conn, sorted(named))
    await _copy_candidates(conn, scan_id, ids_by_symbol, candidates)
    await _copy_news(conn, scan_id, ids_by_symbol, news)
    await _copy_patterns(conn, scan_id, ids_by_symbol, patterns)
    await _copy_indicators(conn, scan_id, ids_by_symbol, indicators)
    return scan_id


async def _copy_candidates(
    conn: Connection, scan_id: int, ids_by_symbol: Mapping[str, int], candidates: Sequence[Candidate]
) -> None:
    if not candidates:
        return
    await conn.copy_records_to_table(
        "scan_results",
        columns=[
            "scan_id", "security_id", "rank_in_scan", "stage_reached", "verdict", "reason", "side", "price",
            "volume", "scan_score", "momentum_score", "volume_score", "news_score", "pattern_confidence",
            "technical_score", "composite_score", "risk_score", "status", "signal_id", "detail",
        ],
        records=[
            (
                scan_id, ids_by_symbol[c.symbol.upper()], c.rank_in_scan, c.stage_reached, c.verdict, c.reason, c.side,
                c.price, c.volume, c.scan_score, c.momentum_score, c.volume_score, c.news_score,
                c.pattern_confidence, c.technical_score, c.composite_score, c.risk_score, c.status, c.signal_id,
                c.detail,
            )
            for c in candidates
        ],
    )  # fmt: skip


async def _copy_news(
    conn: Connection, scan_id: int, ids_by_symbol: Mapping[str, int], news: Sequence[HeadlineRecord]
) -> None:
    if not news:
        return
    await conn.copy_records_to_table(
        "news_sentiment",
        columns=[
            "scan_id", "security_id", "headline", "source", "url", "catalyst", "published_at", "received_at",
            "sentiment", "relevance", "score",
        ],
        records=[
            (
                scan_id, ids_by_symbol[n.symbol.upper()], storable_text(n.headline, 1000), storable_text(n.source, 200),
                None if n.url is None else storable_text(n.url, 2000), n.catalyst, n.published_at, n.received_at,
                n.sentiment, n.relevance, n.score,
            )
            for n in news
        ],
    )  # fmt: skip


async def _copy_patterns(
    conn: Connection, scan_id: int, ids_by_symbol: Mapping[str, int], patterns: Sequence[PatternRecord]
) -> None:
    if not patterns:
        return
    await conn.copy_records_to_table(
        "pattern_analysis",
        columns=[
            "scan_id", "security_id", "pattern", "side", "confidence", "trigger", "invalidation", "target",
            "first_bar", "last_bar", "detail",
        ],
        records=[
            (
                scan_id, ids_by_symbol[p.symbol.upper()], p.pattern, p.side, p.confidence, p.trigger, p.invalidation,
                p.target, p.first_bar, p.last_bar, p.detail,
            )
            for p in patterns
        ],
    )  # fmt: skip


async def _copy_indicators(
    conn: Connection, scan_id: int, ids_by_symbol: Mapping[str, int], indicators: Sequence[IndicatorRecord]
) -> None:
    if not indicators:
        return
    await conn.copy_records_to_table(
        "technical_indicators",
        columns=["scan_id", "security_id", "agreement", "values"],
        records=[(scan_id, ids_by_symbol[i.symbol.upper()], i.agreement, i.values) for i in indicators],
    )


async def set_status(
    conn: Connection, scan_id: int, symbol: str, *, status: str, signal_id: str | None = None
) -> None:
    """Set the status of a candidate after the scan: `proposed`, `ordered` or `refused`."""
    await conn.execute(
        """
        UPDATE scan_results r SET status = $3, signal_id = coalesce($4, signal_id)
          FROM securities s WHERE s.security_id = r.security_id AND r.scan_id = $1 AND s.symbol = $2
        """,
        scan_id,
        symbol,
        status,
        signal_id,
    )


async def scans_of(conn: Connection, cycle_id: str) -> list[ScanRow]:
    """Return the scans of a cycle, oldest first."""
    return [ScanRow(**found) for found in await conn.fetch(_SCANS_OF_CYCLE, cycle_id)]


async def latest_scan(conn: Connection) -> ScanRow | None:
    """Return the newest scan."""
    found = await conn.fetchrow(_LATEST_SCAN)
    return None if found is None else ScanRow(**found)


async def of_scan(conn: Connection, scan_id: int) -> list[CandidateRow]:
    """Return the candidates of one scan, best first."""
    return [CandidateRow(**found) for found in await conn.fetch(_OF_SCAN, scan_id)]


async def of_cycle(conn: Connection, cycle_id: str) -> list[CandidateRow]:
    """Return the candidates of every scan of a cycle, by scan, best first."""
    return [CandidateRow(**found) for found in await conn.fetch(_OF_CYCLE, cycle_id)]


async def of_symbol(conn: Connection, symbol: str, limit: int = 20) -> list[CandidateRow]:
    """Return the latest candidates of a symbol, newest first."""
    return [CandidateRow(**found) for found in await conn.fetch(_OF_SYMBOL, symbol.upper(), limit)]


async def frame_of(conn: Connection, scan_id: int) -> FrameBlob | None:
    """Return the whole frame of a scan as it was stored; None when it was not stored or was deleted."""
    found = await conn.fetchrow("SELECT format, rows, frame FROM scan_frames WHERE scan_id = $1", scan_id)
    return None if found is None else FrameBlob(*found.values())


async def may_delete_frames(conn: Connection) -> bool:
    """Return true for the owner of the frames; the daemon's role may delete nothing."""
    return bool(await conn.fetchval("SELECT has_table_privilege('scan_frames', 'DELETE')"))


async def count_frames(conn: Connection, *, before: datetime) -> int:
    """Return the number of frames of scans that started before that time."""
    count: int = await conn.fetchval(
        "SELECT count(*) FROM scan_frames JOIN scans USING (scan_id) WHERE started_at < $1", before
    )
    return count


async def delete_frames(conn: Connection, *, before: datetime, limit: int) -> int:
    """Delete the oldest frames of scans that started before that time, at most `limit`; return their number."""
    rows = await conn.fetch(
        """
        DELETE FROM scan_frames WHERE scan_id IN
               (SELECT f.scan_id FROM scan_frames f JOIN scans s USING (scan_id)
                 WHERE s.started_at < $1 ORDER BY f.scan_id LIMIT $2)
        RETURNING scan_id
        """,
        before,
        limit,
    )
    return len(rows)


async def headlines_of(conn: Connection, scan_id: int, symbol: str) -> list[HeadlineRecord]:
    """Return the headlines used for a candidate, newest first."""
    found = await conn.fetch(
        """
        SELECT s.symbol, n.headline, n.source, n.published_at, n.received_at, n.sentiment, n.relevance, n.score,
               n.catalyst, n.url
          FROM news_sentiment n JOIN securities s USING (security_id)
         WHERE n.scan_id = $1 AND s.symbol = $2 ORDER BY n.published_at DESC, n.news_id
        """,
        scan_id,
        symbol.upper(),
    )
    return [HeadlineRecord(**row) for row in found]


async def patterns_of(conn: Connection, scan_id: int, symbol: str) -> list[PatternRecord]:
    """Return the patterns found for a candidate, most confident first."""
    found = await conn.fetch(
        """
        SELECT s.symbol, p.pattern, p.side, p.confidence, p.trigger, p.invalidation, p.target, p.first_bar,
               p.last_bar, p.detail
          FROM pattern_analysis p JOIN securities s USING (security_id)
         WHERE p.scan_id = $1 AND s.symbol = $2 ORDER BY p.confidence DESC, p.pattern_id
        """,
        scan_id,
        symbol.upper(),
    )
    return [PatternRecord(**row) for row in found]


async def indicators_of(conn: Connection, scan_id: int, symbol: str) -> IndicatorRecord | None:
    """Return the indicator values of a candidate."""
    found = await conn.fetchrow(
        """
        SELECT s.symbol, t.agreement, t.values
          FROM technical_indicators t JOIN securities s USING (security_id)
         WHERE t.scan_id = $1 AND s.symbol = $2
        """,
        scan_id,
        symbol.upper(),
    )
    return None if found is None else IndicatorRecord(**found)
