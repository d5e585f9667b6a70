"""Stage 8 of 8: selects the trades to enter and gives each its signal id and client order id."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

import numpy as np
import pandas as pd

from catalyst.config.schema import PlanConfig
from catalyst.domain.ids import ENTRY_ROLE, NAMESPACE, client_order_id
from catalyst.domain.order import PositionSide
from catalyst.domain.price import round_nearest
from catalyst.domain.session import Session
from catalyst.pipeline.frame import StageFilter, float_values, require_aware, text_values
from catalyst.pipeline.proposal import to_decimal

STRATEGY: Final = "catalyst"


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned trade: dollars on tick, whole shares. `entry` None is a market entry; `entry_price` is the price used
    for its size."""

    signal_id: UUID
    client_order_id: str
    symbol: str
    side: PositionSide
    quantity: int
    entry: Decimal | None
    entry_price: Decimal
    stop: Decimal
    target: Decimal
    risk_amount: Decimal
    composite: float
    pattern: str | None
    decided_at: datetime


def signal_id(day: date, strategy: str, symbol: str, side: PositionSide, decided_at: datetime) -> UUID:
    """Return the id of a decision, derived from its facts, so that every process computes one and the same id."""
    at = f"{require_aware(decided_at):.6f}"
    return uuid5(NAMESPACE, f"{day.isoformat()}|{strategy}|{symbol}|{side.value}|{at}")


def entry_order_id(
    installation: str, day: date, strategy: str, signal: UUID, symbol: str, attempt: int = 1
) -> str:
    """Return the client order id of a signal's entry; equal at every call."""
    return client_order_id(
        installation, f"{day.isoformat()}|{strategy}|{signal}|{symbol}", ENTRY_ROLE, attempt
    )


def plan(
    frame: pd.DataFrame,
    session: Session,
    now: datetime,
    cfg: PlanConfig,
    *,
    installation: str,
    top_n: int,
    strategy: str = STRATEGY,
    slots: int | None = None,
) -> pd.DataFrame:
    """Keep the best `top_n` rows (at most `slots`, the free positions) and assign their ids.

    Reads   frame: side, entry, stop, target, quantity, risk_rank.
    Writes  decided_at, entry_type, signal_id, client_order_id (of the entry's first attempt), plan_rank.
    """
    stage_filter = StageFilter(frame, "plan")
    limit = top_n if slots is None else min(top_n, slots)
    ranks = stage_filter.keep_best(
        -float_values(frame, "risk_rank"), limit, "rank %d of %d approved; the plan takes %d"
    )
    signal_ids = np.full(len(frame), None, dtype=object)
    order_ids = signal_ids.copy()
    sides = text_values(frame, "side")
    for row in np.flatnonzero(stage_filter.remaining).tolist():
        symbol = str(frame.index[row])
        signal = signal_id(session.day, strategy, symbol, PositionSide(sides[row]), now)
        signal_ids[row] = str(signal)
        order_ids[row] = entry_order_id(installation, session.day, strategy, signal, symbol)
    return stage_filter.to_frame(
        decided_at=pd.Timestamp(now),
        entry_type=cfg.entry_type,
        signal_id=pd.array(signal_ids, dtype="str"),
        client_order_id=pd.array(order_ids, dtype="str"),
        plan_rank=ranks,
    )


def plans(frame: pd.DataFrame) -> list[Plan]:
    """Return the trades of a planned frame, best first, with prices as decimals on tick."""
    planned = frame[frame["refused_by"].isna() & frame["client_order_id"].notna()].sort_values("plan_rank")
    return [_plan_of_row(str(symbol), row) for symbol, row in planned.iterrows()]


def _plan_of_row(symbol: str, row: "pd.Series[Any]") -> Plan:
    entry = _price(row["entry"])
    return Plan(
        signal_id=UUID(str(row["signal_id"])),
        client_order_id=str(row["client_order_id"]),
        symbol=symbol,
        side=PositionSide(str(row["side"])),
        quantity=int(float(str(row["quantity"]))),
        entry=None if row["entry_type"] == "market" else entry,
        entry_price=entry,
        stop=_price(row["stop"]),
        target=_price(row["target"]),
        risk_amount=to_decimal(float(str(row["risk_amount"]))).quantize(Decimal("0.01")),
        composite=float(str(row["composite"])),
        pattern=None if pd.isna(row["pattern"]) else str(row["pattern"]),
        decided_at=pd.Timestamp(str(row["decided_at"])).to_pydatetime(),
    )


def _price(value: object) -> Decimal:
    return round_nearest(to_decimal(float(str(value))))
