"""Why a symbol was or was not traded: the stage that dropped it in each scan, and the numbers it was judged on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from io import BytesIO

from catalyst.report.day import TradeSummary, trade_of
from catalyst.store import candidates, cycles, reporting_queries, securities
from catalyst.store.candidates import CandidateRow, FrameBlob, HeadlineRecord, IndicatorRecord, PatternRecord
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Connection
from catalyst.store.reporting_queries import BookedFill


@dataclass(frozen=True, slots=True)
class SymbolScan:
    """What one scan made of the symbol. `stage` refused it, for `reason`; None: nothing refused it.

    `numbers` are those every symbol keeps; the rest is there for the candidates that passed the scan stage.
    """

    scan_id: int
    at: datetime
    listed: bool  # false: the symbol is not in the scan's frame at all
    stage: str | None
    reason: str | None
    numbers: dict[str, float | str] = field(default_factory=dict[str, float | str])
    candidate: CandidateRow | None = None
    order_id: int | None = None  # the entry this look led to
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
    """A symbol's day: every scan's look at it, oldest first, then what was ordered, filled and held."""

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


async def explain(conn: Connection, symbol: str, day: date | None = None) -> Explanation | None:
    """A symbol's day, by default the latest one; None when there is no such day, or nobody ever heard of it."""
    recent = await cycles.recent(conn, 1)
    cycle = await cycles.of_day(conn, day) if day else recent[0] if recent else None
    if cycle is None:
        return None
    symbol = symbol.upper()
    known = await securities.get(conn, symbol)
    shown = {row.scan_id: row for row in await candidates.of_symbol(conn, symbol, 500)}
    of_day = await reporting_queries.orders_of_day(conn, cycle.cycle_id)
    looks = []
    for scan in await candidates.scans_of(conn, cycle.cycle_id):
        blob = await candidates.frame_of(conn, scan.scan_id)
        look = _symbol_scan(scan.scan_id, scan.started_at, symbol, blob, shown.get(scan.scan_id))
        looks.append(await _with_details(conn, look, symbol, of_day))
    if known is None and not any(look.listed for look in looks):
        return None
    held = await reporting_queries.positions_of_symbol(conn, symbol)
    return Explanation(
        symbol=symbol,
        name=known.name if known else "",
        exchange=known.exchange if known else "",
        sector=known.sector if known else None,
        day=cycle.cycle_date,
        cycle_id=cycle.cycle_id,
        scans=tuple(looks),
        orders=tuple(order for order in of_day if order.symbol == symbol),
        fills=tuple(
            fill
            for fill in await reporting_queries.fills_of_day(conn, cycle.cycle_id)
            if fill.symbol == symbol
        ),
        trades=tuple(trade_of(row) for row in reversed(held) if row.cycle_id == cycle.cycle_id),
    )


def _symbol_scan(
    scan_id: int, at: datetime, symbol: str, blob: FrameBlob | None, candidate: CandidateRow | None
) -> SymbolScan:
    """From the scan's whole frame; from the candidate's row when the frame has been dropped since."""
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
    """The symbol's row of a kept frame, missing values left out; None when it is not in it."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(BytesIO(blob.data), filters=[("symbol", "==", symbol)])
    if not table.num_rows:
        return None
    values = table.slice(0, 1).to_pylist()[0]
    return {name: _rounded(value) for name, value in values.items() if _is_present(value)}


def _is_present(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _rounded(value: object) -> float | str:
    """Seven digits are what a float32 keeps."""
    return float(f"{value:.7g}") if isinstance(value, float) else str(value)


async def _with_details(
    conn: Connection, symbol_scan: SymbolScan, symbol: str, ordered: Sequence[OrderRow]
) -> SymbolScan:
    """The look with what the stages knew of a candidate, and the order it led to."""
    if symbol_scan.candidate is None:
        return symbol_scan
    signal = symbol_scan.candidate.signal_id
    led_to = (order.order_id for order in ordered if signal is not None and order.signal_id == signal)
    return replace(
        symbol_scan,
        order_id=next(led_to, None),
        headlines=tuple(await candidates.headlines_of(conn, symbol_scan.scan_id, symbol)),
        patterns=tuple(await candidates.patterns_of(conn, symbol_scan.scan_id, symbol)),
        indicators=await candidates.indicators_of(conn, symbol_scan.scan_id, symbol),
    )
