"""Scan records: converts a finished scan into the rows that store it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING, Final

import pandas as pd

from catalyst.pipeline.frame import STAGES, decision_table
from catalyst.store import candidates
from catalyst.store.candidates import Candidate, FrameBlob, HeadlineRecord, IndicatorRecord, PatternRecord

if TYPE_CHECKING:
    from catalyst.daemon.trading_day.scanner import ScanResult

FrameRow = Mapping[str, object]

FRAME_FORMAT: Final = "parquet"
MAX_STORED_CANDIDATES: Final = 200  # per scan, best rank first

_INDICATOR_COLUMNS: Final = (
    "rsi", "macd", "macd_signal", "bollinger_place", "atr", "adx", "plus_di", "minus_di", "ema_9", "ema_20",
    "ema_50", "obv_slope", "stoch_k", "stoch_d", "vwap", "vwap_distance_pct", "daily_rsi", "daily_adx",
    "daily_ema_20", "daily_ema_50", "votes", "stop_atr",
)  # fmt: skip
_DETAIL_COLUMNS: Final = (
    "gap_pct", "relative_volume", "dollar_volume", "spread_bps", "momentum_pct", "momentum_5m_pct",
    "momentum_15m_pct", "sentiment", "news_count",
    "catalyst", "pattern", "entry", "stop", "target", "stop_basis", "reward_risk", "quantity", "risk_amount",
    "correlation", "correlated_with", "sector", "verdict",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScanRecords:
    """Rows of one scan; the arguments of `candidates.record`."""

    scan: candidates.Scan
    candidates: tuple[Candidate, ...]
    news: tuple[HeadlineRecord, ...]
    patterns: tuple[PatternRecord, ...]
    indicators: tuple[IndicatorRecord, ...]


def records_of(scan_result: "ScanResult", cycle_id: str) -> ScanRecords:
    """Return the rows of a scan: the best MAX_STORED_CANDIDATES candidates with their news, patterns and indicators.

    The scan's own row has the decision table of the whole frame as compressed Parquet.
    """
    frame = scan_result.frame
    blob = BytesIO()
    decision_table(frame).to_parquet(blob, compression="zstd", index=False)
    stored = frame[frame["scan_rank"].notna() & (frame["scan_rank"] <= MAX_STORED_CANDIDATES)].sort_values(
        "scan_rank"
    )
    rows: list[tuple[str, FrameRow]] = [
        (str(symbol), {str(name): value for name, value in row.items()})
        for symbol, row in zip(stored.index, stored.to_dict("records"), strict=True)
    ]
    return ScanRecords(
        candidates.Scan(
            cycle_id=cycle_id,
            started_at=scan_result.started_at,
            finished_at=scan_result.finished_at,
            universe=scan_result.counts.get("universe", len(frame)),
            counts=scan_result.counts,
            milliseconds=scan_result.milliseconds,
            degraded=scan_result.degraded,
            frame=FrameBlob(FRAME_FORMAT, len(frame), blob.getvalue()),
        ),
        tuple(_candidate(symbol, row) for symbol, row in rows),
        tuple(_headlines(rows, scan_result.headlines)),
        tuple(
            _pattern(symbol, row)
            for symbol, row in rows
            if isinstance(row.get("pattern"), str) and row["pattern"]
        ),
        tuple(
            IndicatorRecord(
                symbol, _number(row, "agreement"), {name: _number(row, name) for name in _INDICATOR_COLUMNS}
            )
            for symbol, row in rows
            if _number(row, "agreement") is not None
        ),
    )


def _candidate(symbol: str, row: FrameRow) -> Candidate:
    """Return the candidate row of a symbol; `stage_reached` is the refusing stage, or the last one."""
    refused = _text(row, "refused_by")
    planned = _text(row, "client_order_id") is not None and refused is None
    return Candidate(
        symbol=symbol,
        rank_in_scan=int(_number(row, "scan_rank") or 0),
        stage_reached=refused or STAGES[-1],
        verdict="passed" if refused is None else "refused",
        reason=_text(row, "reason"),
        side=_text(row, "side"),
        price=_decimal(row, "price"),
        volume=_decimal(row, "volume"),
        scan_score=_number(row, "scan_score"),
        momentum_score=_number(row, "momentum_score"),
        volume_score=_number(row, "volume_score"),
        news_score=_number(row, "news_score"),
        pattern_confidence=_number(row, "pattern_confidence"),
        technical_score=_number(row, "agreement"),
        composite_score=_number(row, "composite"),
        risk_score=_number(row, "risk_score"),
        status="proposed" if planned else "candidate" if refused is None else "refused",
        signal_id=_text(row, "signal_id"),
        detail={
            name: _json_value(row[name])
            for name in _DETAIL_COLUMNS
            if name in row and _json_value(row[name]) is not None
        },
    )


def _pattern(symbol: str, row: FrameRow) -> PatternRecord:
    """Return the pattern that was found in a symbol's bars."""
    first = row.get("pattern_from")
    return PatternRecord(
        symbol=symbol,
        pattern=str(row["pattern"]),
        side=_text(row, "side") or "long",
        confidence=_number(row, "pattern_confidence") or 0.0,
        trigger=_decimal(row, "pattern_trigger"),
        invalidation=_decimal(row, "pattern_stop"),
        target=_decimal(row, "pattern_target"),
        first_bar=first.to_pydatetime() if isinstance(first, pd.Timestamp) else None,
        detail={"bars": _number(row, "pattern_bars")},
    )


def _headlines(rows: list[tuple[str, FrameRow]], headlines: pd.DataFrame) -> Iterator[HeadlineRecord]:
    """Return the headline with the greatest weight of each candidate that has news."""
    if headlines.empty:
        return
    headline_rows = {
        (str(headline_row["symbol"]), str(headline_row["headline"])): headline_row
        for headline_row in headlines.to_dict("records")
    }
    for symbol, row in rows:
        text = _text(row, "headline")
        headline_row = headline_rows.get((symbol, text)) if text is not None else None
        if text is None or headline_row is None:
            continue
        yield HeadlineRecord(
            symbol=symbol,
            headline=text,
            source=str(headline_row["source"]),
            published_at=_timestamp(headline_row["published_at"]),
            received_at=_timestamp(headline_row["received_at"]),
            sentiment=_number(row, "sentiment") or 0.0,
            score=_number(row, "news_score"),
            catalyst=_text(row, "catalyst"),
            url=str(headline_row["url"]) if isinstance(headline_row["url"], str) else None,
        )


def _timestamp(value: object) -> datetime:
    return pd.Timestamp(str(value)).to_pydatetime()


def _number(row: FrameRow, name: str) -> float | None:
    """Return a finite number; None when it is missing, NaN or infinite."""
    value = row.get(name)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _text(row: FrameRow, name: str) -> str | None:
    """Return a text; None when it is missing or empty."""
    value = row.get(name)
    return value if isinstance(value, str) and value else None


def _decimal(row: FrameRow, name: str) -> Decimal | None:
    """Return a number rounded to 6 decimals; None when it is missing."""
    value = _number(row, name)
    return None if value is None else Decimal(str(round(value, 6)))


def _json_value(value: object) -> object:
    """Return a text or a number rounded to 6 decimals; None for anything else and for empty, NaN and infinite."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, (int, float)) and math.isfinite(value):
        return round(float(value), 6)
    return None
