"""A finished scan as the rows that are kept of it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING, Final

import pandas as pd

from catalyst.pipeline.frame import STAGES, reasons
from catalyst.store import candidates
from catalyst.store.candidates import Candidate, FrameBlob, Headline, Indicators, Pattern

if TYPE_CHECKING:
    from catalyst.daemon.trading_day.scanner import Scan

Row = Mapping[str, object]

FORMAT: Final = "parquet"
KEPT: Final = 200  # rows of a scan that are stored whole

_INDICATORS: Final = (
    "rsi", "macd", "macd_signal", "bollinger_place", "atr", "adx", "plus_di", "minus_di", "ema_9", "ema_20",
    "ema_50", "obv_slope", "stoch_k", "stoch_d", "vwap", "vwap_distance_pct", "daily_rsi", "daily_adx",
    "daily_ema_20", "daily_ema_50", "votes", "stop_atr",
)  # fmt: skip
_DETAIL: Final = (
    "gap_pct", "relative_volume", "dollar_volume", "spread_bps", "momentum_pct", "momentum_5m_pct",
    "momentum_15m_pct", "sentiment", "news_count",
    "catalyst", "pattern", "entry", "stop", "target", "stop_basis", "reward_risk", "quantity", "risk_amount",
    "correlation", "correlated_with", "sector", "verdict",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Records:
    """Everything `candidates.record` wants."""

    scan: candidates.Scan
    candidates: tuple[Candidate, ...]
    news: tuple[Headline, ...]
    patterns: tuple[Pattern, ...]
    indicators: tuple[Indicators, ...]


def records_of(found: "Scan", cycle_id: str) -> Records:
    """The stored form of a scan: at most 200 candidates, what each stage saw of them, the whole frame compressed."""
    frame = found.frame
    blob = BytesIO()
    reasons(frame).to_parquet(blob, compression="zstd", index=False)
    kept = frame[frame["scan_rank"].notna() & (frame["scan_rank"] <= KEPT)].sort_values("scan_rank")
    rows: list[tuple[str, Row]] = [
        (str(symbol), {str(name): value for name, value in row.items()})
        for symbol, row in zip(kept.index, kept.to_dict("records"), strict=True)
    ]
    return Records(
        candidates.Scan(
            cycle_id=cycle_id,
            started_at=found.started_at,
            finished_at=found.finished_at,
            universe=found.counts.get("universe", len(frame)),
            counts=found.counts,
            milliseconds=found.milliseconds,
            degraded=found.degraded,
            frame=FrameBlob(FORMAT, len(frame), blob.getvalue()),
        ),
        tuple(_candidate(symbol, row) for symbol, row in rows),
        tuple(_headlines(rows, found.headlines)),
        tuple(
            _pattern(symbol, row)
            for symbol, row in rows
            if isinstance(row.get("pattern"), str) and row["pattern"]
        ),
        tuple(
            Indicators(symbol, _number(row, "agreement"), {name: _number(row, name) for name in _INDICATORS})
            for symbol, row in rows
            if _number(row, "agreement") is not None
        ),
    )


def _candidate(symbol: str, row: Row) -> Candidate:
    refused = _word(row, "refused_by")
    planned = _word(row, "client_order_id") is not None and refused is None
    return Candidate(
        symbol=symbol,
        rank_in_scan=int(_number(row, "scan_rank") or 0),
        stage_reached=refused or STAGES[-1],
        verdict="passed" if refused is None else "refused",
        reason=_word(row, "reason"),
        side=_word(row, "side"),
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
        signal_id=_word(row, "signal_id"),
        detail={name: _plain(row[name]) for name in _DETAIL if name in row and _plain(row[name]) is not None},
    )


def _pattern(symbol: str, row: Row) -> Pattern:
    first = row.get("pattern_from")
    return Pattern(
        symbol=symbol,
        pattern=str(row["pattern"]),
        side=_word(row, "side") or "long",
        confidence=_number(row, "pattern_confidence") or 0.0,
        trigger=_decimal(row, "pattern_trigger"),
        invalidation=_decimal(row, "pattern_stop"),
        target=_decimal(row, "pattern_target"),
        first_bar=first.to_pydatetime() if isinstance(first, pd.Timestamp) else None,
        detail={"bars": _number(row, "pattern_bars")},
    )


def _headlines(rows: list[tuple[str, Row]], headlines: pd.DataFrame) -> Iterator[Headline]:
    """The weightiest headline of each candidate that had news."""
    if headlines.empty:
        return
    heard = {(str(told["symbol"]), str(told["headline"])): told for told in headlines.to_dict("records")}
    for symbol, row in rows:
        text = _word(row, "headline")
        told = heard.get((symbol, text)) if text is not None else None
        if text is None or told is None:
            continue
        yield Headline(
            symbol=symbol,
            headline=text,
            source=str(told["source"]),
            published_at=_instant(told["published_at"]),
            received_at=_instant(told["received_at"]),
            sentiment=_number(row, "sentiment") or 0.0,
            score=_number(row, "news_score"),
            catalyst=_word(row, "catalyst"),
            url=str(told["url"]) if isinstance(told["url"], str) else None,
        )


def _instant(value: object) -> datetime:
    return pd.Timestamp(str(value)).to_pydatetime()


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _word(row: Row, name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) and value else None


def _decimal(row: Row, name: str) -> Decimal | None:
    value = _number(row, name)
    return None if value is None else Decimal(str(round(value, 6)))


def _plain(value: object) -> object:
    """A value JSON can hold; missing is None."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, (int, float)) and math.isfinite(value):
        return round(float(value), 6)
    return None
