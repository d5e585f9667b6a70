"""Unprotected time: measures how long shares had no working stop at the broker, and raises an alert over budget.

`domain/unprotected_time.py` computes every figure from rows alone, so a restart measures the same. The columns
`protected_at` and `unprotected_seconds` hold the last measurement: at each change, and when the position closed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.domain.protection import Protection
from catalyst.domain.rows import OrderRow, Orphan, PositionRow
from catalyst.domain.unprotected_time import Gap, orphan_gaps, position_gaps, seconds_of
from catalyst.store import alerts, orders, positions, risk_events
from catalyst.store.pool import Store

log = structlog.get_logger()

OVER_BUDGET: Final = "UNPROTECTED_OVER_BUDGET"
CLOSED_LOOKBACK: Final = timedelta(days=1)
ALERT_WINDOW: Final = timedelta(days=1)
MEASURE_INTERVAL: Final = timedelta(seconds=1)


@dataclass
class UnprotectedTime:
    """Writes the measured time to its position, and raises an alert when it exceeds the budget."""

    store: Store
    clock: Clock
    config: CurrentConfig
    unprotected: set[int] = field(default_factory=set)  # positions without a working stop; by position id
    resting: set[int] = field(default_factory=set)  # positions whose stop no venue has yet; by position id
    # Unprotected seconds of the open positions at their last measurement; by position id.
    measured_seconds: dict[int, Decimal] = field(default_factory=dict)
    # One more position is unprotected, or a database outage is suspected.
    unprotected_changed: ChangeSignal = field(default_factory=ChangeSignal)
    _alerted_gaps: set[tuple[str, datetime]] = field(
        default_factory=set
    )  # position or orphan; start of the gap
    _last_position_ids: set[int] | None = None  # open at the last check; None: no check in this process run
    _newest_position_id: int = 0  # of all positions seen
    _measured_at: datetime | None = None

    async def mark_protected(self, position: PositionRow, rows: Sequence[OrderRow]) -> None:
        """Write that the position is protected, with its unprotected seconds so far.

        While the broker has accepted the stop and no venue has it, it cannot trigger: the position is not protected.
        """
        self.unprotected.discard(position.position_id)
        gaps = (await self._gaps([position], {position.position_id: rows})).get(position.position_id, ())
        if gaps and gaps[-1].lasts:
            self._log_resting(position)
            if position.protected_at is not None:
                await self._write(position, None, gaps)
        else:
            self.resting.discard(position.position_id)
            at = position.protected_at
            if at is None or seconds_of(gaps) != position.unprotected_seconds:
                at = gaps[-1].ended if gaps else position.entry_time
                await self._write(position, at, gaps)
            if position.protected_at is None:
                log.info(
                    "position_protected",
                    symbol=position.symbol,
                    qty=str(position.quantity),
                    stop=str(position.stop_loss),
                    target=str(position.take_profit),
                    unprotected_seconds=str(seconds_of(gaps)),
                )
        await self._check_budget(position, gaps)

    def _log_resting(self, position: PositionRow) -> None:
        """Log, once for each time, that the stop of the position cannot trigger yet."""
        if position.position_id not in self.resting:
            self.resting.add(position.position_id)
            log.warning(
                "stop_waits_for_venue",
                symbol=position.symbol,
                qty=str(position.quantity),
                stop=str(position.stop_loss),
                note="the broker accepted stop and target; outside trading hours they work from the next open",
            )

    async def mark_unprotected(
        self, position: PositionRow, rows: Sequence[OrderRow], state: Protection
    ) -> None:
        """Write that the position is not protected; raise an alert when its time exceeds the budget."""
        self.resting.discard(position.position_id)
        if position.position_id not in self.unprotected:
            self.unprotected.add(position.position_id)
            self.unprotected_changed.notify()
            log.warning(
                "position_unprotected", symbol=position.symbol, qty=str(position.quantity), state=state
            )
        gaps = (await self._gaps([position], {position.position_id: rows})).get(position.position_id, ())
        if position.protected_at is not None:
            await self._write(position, None, gaps)
        await self._check_budget(position, gaps)

    async def measure_open(self, held: Sequence[PositionRow], rows: Mapping[int, Sequence[OrderRow]]) -> bool:
        """Raise an alert for each of these open positions over the budget; measure at most once a MEASURE_INTERVAL.

        Return true while a share of theirs has no working stop and no working exit.
        """
        now = self.clock.now()
        if not held or (self._measured_at is not None and now - self._measured_at < MEASURE_INTERVAL):
            return bool(held)
        self._measured_at = now
        gaps_of = await self._gaps(held, rows)
        for position in held:
            await self._check_budget(position, gaps_of.get(position.position_id, ()))
        return any(gaps and gaps[-1].lasts for gaps in gaps_of.values())

    async def measure_closed(self, held: Sequence[PositionRow]) -> None:
        """Write the unprotected seconds of the positions that closed since the last check.

        `held` are all open positions. The first check of a process run measures those of the last day.
        """
        ids = {position.position_id for position in held}
        is_first = self._last_position_ids is None
        gone = (self._last_position_ids or set()) - ids
        newest = self._newest_position_id
        self._last_position_ids = ids
        self._newest_position_id = max(newest, *ids, 0)
        self.unprotected &= ids
        self.resting &= ids
        self.measured_seconds = {
            key: self.measured_seconds[key] for key in ids & self.measured_seconds.keys()
        }
        if not (is_first or gone):
            return
        async with self.store.read() as conn:
            if is_first:
                closed = await positions.closed_since(conn, self.clock.now() - CLOSED_LOOKBACK)
            else:
                closed = await positions.closed_of(conn, sorted(gone), newer_than=newest)
            rows = await orders.of_positions(conn, [position.position_id for position in closed])
        gaps_of = await self._gaps(closed, rows)
        for position in closed:
            self._newest_position_id = max(self._newest_position_id, position.position_id)
            gaps = gaps_of.get(position.position_id)
            if gaps is None:  # a late fill has moved its entry to another position: what was measured stays
                continue
            if position.protected_at is None or seconds_of(gaps) != position.unprotected_seconds:
                await self._write(position, position.protected_at or position.exit_time, gaps)
            await self._check_budget(position, gaps)

    async def _gaps(
        self, measured: Sequence[PositionRow], rows: Mapping[int, Sequence[OrderRow]]
    ) -> dict[int, tuple[Gap, ...]]:
        """Return the gaps until now by position id, of those whose fills are known; `rows`: orders by position id."""
        order_ids = [row.order_id for position in measured for row in rows[position.position_id]]
        async with self.store.read() as conn:
            fills = await orders.fills_of(conn, order_ids)
        now = self.clock.now()
        return {
            position.position_id: gaps
            for position in measured
            if (gaps := position_gaps(position, rows[position.position_id], fills, now)) is not None
        }

    async def _write(self, position: PositionRow, protected_at: datetime | None, gaps: Sequence[Gap]) -> None:
        async with self.store.tx("unprotected" if protected_at is None else "protected") as conn:
            await positions.set_protection(
                conn, position, protected_at=protected_at, unprotected_seconds=seconds_of(gaps)
            )

    async def measure_orphan(self, orphan: Orphan, rows: Sequence[OrderRow]) -> None:
        """Raise an alert when orphan shares exceed the budget; `rows` are the orders sent for them."""
        async with self.store.read() as conn:
            fills = await orders.fills_of(conn, [row.order_id for row in rows])
        gaps = orphan_gaps(orphan, rows, fills, self.clock.now())
        await self._check_budget(orphan, gaps)

    async def _check_budget(self, shares: PositionRow | Orphan, gaps: Sequence[Gap]) -> None:
        """Raise an alert when the unprotected seconds exceed the budget: once, then for each gap longer than it."""
        budget = Decimal(str(self.config.protection.unprotected_budget_seconds))
        if isinstance(shares, PositionRow) and shares.exit_time is None:
            self.measured_seconds[shares.position_id] = seconds_of(gaps)
        key = f"orphan {shares.orphan_id}" if isinstance(shares, Orphan) else str(shares.position_id)
        for since in _gaps_over_budget(gaps, budget):
            if (key, since) not in self._alerted_gaps:
                try:
                    await self._alert(shares, f"{key}:{since.isoformat()}", seconds_of(gaps), budget)
                except (DatabaseUnavailable, DatabaseContention) as error:
                    # A lock on the alert must not delay the stop; the next check raises it.
                    log.warning(
                        "alert_not_written", alert=OVER_BUDGET, symbol=shares.symbol, error=str(error)
                    )
                else:
                    self._alerted_gaps.add((key, since))

    async def _alert(
        self, shares: PositionRow | Orphan, subject: str, unprotected_seconds: Decimal, budget: Decimal
    ) -> None:
        seconds = f"{unprotected_seconds.quantize(Decimal('0.1')):f}"
        allowed = f"{budget.normalize():f}"
        name = f"{shares.symbol} (orphan shares)" if isinstance(shares, Orphan) else shares.symbol
        message = (
            f"{name}: no working stop at the broker for {seconds} s (limit {allowed} s); "
            "check `catalyst positions`"
        )
        facts = {
            "position_id": shares.position_id,
            "symbol": shares.symbol,
            "quantity": str(shares.quantity),
            "seconds": seconds,
            "budget": allowed,
        }
        at = self.clock.now()
        async with self.store.tx("alert") as conn:
            created = await alerts.raise_alert(
                conn, OVER_BUDGET, message, subject=subject, facts=facts, at=at, window=ALERT_WINDOW
            )
            if created:
                await risk_events.put(
                    conn,
                    event_type=OVER_BUDGET,
                    severity="CRITICAL",
                    message=message,
                    facts=facts,
                    at=at,
                    cycle_id=shares.cycle_id,
                )
        if created:
            log.critical("unprotected_over_budget", **facts)


def _gaps_over_budget(gaps: Sequence[Gap], budget: Decimal) -> Iterator[datetime]:
    """Yield the starts of the gap in which the total exceeds the budget and of each later gap longer than it."""
    total, is_over = Decimal(0), False
    for gap in gaps:
        total += gap.seconds
        if total > budget and (not is_over or gap.seconds > budget):
            is_over = True
            yield gap.began
