"""The reason why a symbol was or was not traded: the stage that refused it in each scan, and the scan's numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from io import BytesIO

from catalyst.config.listing_names import broker_symbol
from catalyst.domain.rows import OrderRow
from catalyst.report.day import ProposalDecision, TradeSummary, decision_of, trade_of
from catalyst.store import (
    candidates,
    cycles,
    daemon_epoch,
    positions,
    proposals,
    reporting_queries,
    securities,
)
from catalyst.store.candidates import CandidateRow, FrameBlob, HeadlineRecord, IndicatorRecord, PatternRecord
from catalyst.store.pool import Connection
from catalyst.store.reporting_queries import BookedFill


@dataclass(frozen=True, slots=True)
class SymbolScan:
    """The result of one scan for the symbol. `stage` refused it for `reason`; None when it passed every stage.

    `numbers` are stored for every symbol; the other details only for candidates that passed the scan stage.
    """

    scan_id: int
    at: datetime
    listed: bool  # false: the symbol is not in the scan's frame at all
    stage: str | None
    reason: str | None
    numbers: dict[str, float | str] = field(default_factory=dict[str, float | str])
    candidate: CandidateRow | None = None
    order_id: int | None = None  # the entry order made from this scan
    headlines: tuple[HeadlineRecord, ...] = ()
    patterns: tuple[PatternRecord, ...] = ()
    indicators: IndicatorRecord | None = None

    @property
    def verdict(self) -> str:
        if not self.listed:
            return "not among the broker's listings of that scan"
        if self.stage is None:
            return "passed every stage" + ("" if self.order_id is None else f": order {self.order_id}")
        return f"refused by {self.stage}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """A symbol's day: its result in every scan, oldest first, then its orders, fills and trades."""

    symbol: str
    name: str
    exchange: str
    sector: str | None
    day: date
    cycle_id: str
    scans: tuple[SymbolScan, ...]
    orders: tuple[OrderRow, ...]
    fills: tuple[BookedFill, ...]
    trades: tuple[TradeSummary, ...]
    decisions: tuple[ProposalDecision, ...]  # of persons about its proposals


async def explain(conn: Connection, symbol: str, day: date | None = None) -> Explanation | None:
    """Return a symbol's day, by default the latest; None without such a day, or for a symbol that was never listed."""
    recent = await cycles.recent(conn, 1)
    cycle = await cycles.of_day(conn, day) if day else recent[0] if recent else None
    if cycle is None:
        return None
    symbol = broker_symbol(symbol)
    security = await securities.get(conn, symbol)
    candidate_by_scan = {row.scan_id: row for row in await candidates.of_symbol(conn, symbol, 500)}
    day_orders = await reporting_queries.orders_of_day(conn, cycle.cycle_id)
    symbol_scans = []
    for scan in await candidates.scans_of(conn, cycle.cycle_id):
        blob = await candidates.frame_of(conn, scan.scan_id)
        symbol_scan = _symbol_scan(
            scan.scan_id, scan.started_at, symbol, blob, candidate_by_scan.get(scan.scan_id)
        )
        symbol_scans.append(await _with_details(conn, symbol_scan, symbol, day_orders))
    if security is None and not any(symbol_scan.listed for symbol_scan in symbol_scans):
        return None
    symbol_positions = await positions.with_unprotected_time(
        conn,
        await reporting_queries.positions_of_symbol(conn, symbol),
        (await daemon_epoch.current(conn)).heartbeat_at or cycle.updated_at,
    )
    return Explanation(
        symbol=symbol,
        name=security.name if security else "",
        exchange=security.exchange if security else "",
        sector=security.sector if security else None,
        day=cycle.cycle_date,
        cycle_id=cycle.cycle_id,
        scans=tuple(symbol_scans),
        orders=tuple(order for order in day_orders if order.symbol == symbol),
        fills=tuple(
            fill
            for fill in await reporting_queries.fills_of_day(conn, cycle.cycle_id)
            if fill.symbol == symbol
        ),
        trades=tuple(trade_of(row) for row in reversed(symbol_positions) if row.cycle_id == cycle.cycle_id),
        decisions=tuple(
            decision
            for row in await proposals.of_cycle(conn, cycle.cycle_id)
            if row.symbol == symbol and (decision := decision_of(row)) is not None
        ),
    )


def _symbol_scan(
    scan_id: int, at: datetime, symbol: str, blob: FrameBlob | None, candidate: CandidateRow | None
) -> SymbolScan:
    """Build the result of a scan from its stored frame, or from the candidate's row when the frame was dropped."""
    row = None if blob is None else frame_row(blob, symbol)
    if row is not None:
        stage, reason = row.pop("refused_by", None), row.pop("reason", None)
        row.pop("symbol", None)
        return SymbolScan(
            scan_id,
            at,
            True,
            None if stage is None else str(stage),
            None if reason is None else str(reason),
            row,
            candidate,
        )
    if candidate is not None:
        refused = candidate.verdict == "refused"
        stage = candidate.stage_reached if refused else None
        return SymbolScan(scan_id, at, True, stage, candidate.reason, {}, candidate)
    return SymbolScan(scan_id, at, False, None, None)


def frame_row(blob: FrameBlob, symbol: str) -> dict[str, float | str] | None:
    """Return the symbol's row of a stored frame without missing values; None when the symbol is not in it."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(BytesIO(blob.data), filters=[("symbol", "==", symbol)])
    if not table.num_rows:
        return None
    values = table.slice(0, 1).to_pylist()[0]
    return {name: _rounded(value) for name, value in values.items() if _is_present(value)}


def _is_present(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _rounded(value: object) -> float | str:
    """Round a float to the seven digits of a float32; convert other values to text."""
    return float(f"{value:.7g}") if isinstance(value, float) else str(value)


async def _with_details(
    conn: Connection, symbol_scan: SymbolScan, symbol: str, day_orders: Sequence[OrderRow]
) -> SymbolScan:
    """Add the stored headlines, patterns and indicators of a candidate, and the order made from it."""
    if symbol_scan.candidate is None:
        return symbol_scan
    signal = symbol_scan.candidate.signal_id
    entry_ids = (order.order_id for order in day_orders if signal is not None and order.signal_id == signal)
    return replace(
        symbol_scan,
        order_id=next(entry_ids, None),
        headlines=tuple(await candidates.headlines_of(conn, symbol_scan.scan_id, symbol)),
        patterns=tuple(await candidates.patterns_of(conn, symbol_scan.scan_id, symbol)),
        indicators=await candidates.indicators_of(conn, symbol_scan.scan_id, symbol),
    )
