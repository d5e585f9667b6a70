"""Unprotected time: measures how long a position had no working stop at the broker, and raises an alert over budget.

A gap runs from the first share until stops for exactly the shares held are confirmed, and again from the end of the
last stop. It is derived from rows alone, so that a restart measures the same gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.domain.order import Purpose, Status
from catalyst.domain.protection import UNACKNOWLEDGED_REASON, Protection, unfilled_entries
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.store import alerts, orders, positions, risk_events
from catalyst.store.pool import Store

log = structlog.get_logger()

OVER_BUDGET: Final = "UNPROTECTED_OVER_BUDGET"
CLOSED_LOOKBACK: Final = timedelta(days=1)
ALERT_WINDOW: Final = timedelta(days=1)


@dataclass
class UnprotectedTime:
    """Writes each gap to its position, and raises an alert when the unprotected seconds exceed the budget."""

    store: Store
    clock: Clock
    config: CurrentConfig
    unprotected: set[int] = field(default_factory=set)  # positions without a working stop; by position id
    # One more position is unprotected, or a database outage is suspected.
    unprotected_changed: ChangeSignal = field(default_factory=ChangeSignal)
    _alerted_gaps: set[tuple[int, datetime]] = field(default_factory=set)  # position id and start of the gap
    _last_position_ids: set[int] | None = None  # open at the last check; None: no check in this process run

    async def mark_protected(self, position: PositionRow, rows: Sequence[OrderRow]) -> None:
        """Write that the position is protected, with its unprotected seconds so far."""
        self.unprotected.discard(position.position_id)
        if position.protected_at is not None:
            return
        since = unprotected_since(position, rows)
        at = await self._protected_at(since, rows)
        unprotected_seconds = position.unprotected_seconds + _seconds(at - since)
        async with self.store.tx("protected") as conn:
            await positions.set_protection(
                conn, position.position_id, protected_at=at, unprotected_seconds=unprotected_seconds
            )
        log.info(
            "position_protected",
            symbol=position.symbol,
            qty=str(position.quantity),
            stop=str(position.stop_loss),
            target=str(position.take_profit),
            unprotected_seconds=str(unprotected_seconds),
        )
        await self._check_budget(position, since, at - since, unprotected_seconds)

    async def mark_unprotected(
        self, position: PositionRow, rows: Sequence[OrderRow], state: Protection
    ) -> None:
        """Write that the position is not protected; raise an alert when the gap exceeds the budget."""
        if position.position_id not in self.unprotected:
            self.unprotected.add(position.position_id)
            self.unprotected_changed.notify()
            log.warning(
                "position_unprotected", symbol=position.symbol, qty=str(position.quantity), state=state
            )
        if position.protected_at is not None:
            async with self.store.tx("unprotected") as conn:
                await positions.set_protection(
                    conn,
                    position.position_id,
                    protected_at=None,
                    unprotected_seconds=position.unprotected_seconds,
                )
        since = unprotected_since(position, rows)
        gap = self.clock.now() - since
        await self._check_budget(position, since, gap, position.unprotected_seconds + _seconds(gap))

    async def measure_closed(self, held: Sequence[PositionRow]) -> None:
        """Measure the positions that closed since the last check before their stop was confirmed.

        `held` are all open positions. The first check of a process run measures those of the last day.
        """
        ids = {position.position_id for position in held}
        has_closed = self._last_position_ids is None or bool(self._last_position_ids - ids)
        self._last_position_ids = ids
        self.unprotected &= ids
        if not has_closed:
            return
        async with self.store.read() as conn:
            closed = await positions.without_protection_time(conn, since=self.clock.now() - CLOSED_LOOKBACK)
        for position in closed:
            await self._measure_closed_position(position)

    async def _measure_closed_position(self, position: PositionRow) -> None:
        """Write the last gap of a position that closed without a confirmed stop.

        The gap ends with the last fill of its entry, which activates the legs, or else when the position closes.
        """
        assert position.exit_time is not None  # it is closed
        async with self.store.read() as conn:
            rows = await orders.of_position(conn, position.position_id)
        since = unprotected_since(position, rows)
        entries = {row.order_id: row for row in rows if row.order_purpose is Purpose.ENTRY}
        live_entries = [
            entries[row.parent_order_id]
            for row in rows
            if row.order_purpose is Purpose.STOP_LOSS and row.parent_order_id in entries
            if row.status is Status.FILLED or row.ended_at is None or row.ended_at >= position.exit_time
        ]
        until = position.exit_time
        if not position.unprotected_seconds and any(entry.status is Status.FILLED for entry in live_entries):
            async with self.store.read() as conn:
                filled_at = await orders.last_fill_at(conn, live_entries[0].order_id)
            until = min(until, filled_at or until)
        unprotected_seconds = position.unprotected_seconds + _seconds(until - since)
        async with self.store.tx("protected") as conn:
            await positions.set_protection(
                conn,
                position.position_id,
                protected_at=position.exit_time,
                unprotected_seconds=unprotected_seconds,
            )
        await self._check_budget(position, since, until - since, unprotected_seconds)

    async def _protected_at(self, since: datetime, rows: Sequence[OrderRow]) -> datetime:
        """Return when the stop became live: for a bracket the last fill of its entry, even when no daemon was running;
        otherwise now."""
        stops = [row for row in rows if row.order_purpose is Purpose.STOP_LOSS and row.is_working]
        entries = [
            row
            for row in rows
            if row.order_purpose is Purpose.ENTRY and row.status is Status.FILLED
            if {stop.parent_order_id for stop in stops} == {row.order_id}
        ]
        if not entries:
            return self.clock.now()
        async with self.store.read() as conn:
            at = await orders.last_fill_at(conn, entries[0].order_id)
        return self.clock.now() if at is None else max(since, at)

    async def _check_budget(
        self, position: PositionRow, since: datetime, gap: timedelta, unprotected_seconds: Decimal
    ) -> None:
        """Raise an alert when the unprotected seconds exceed the budget: once, then for each gap longer than it."""
        budget = Decimal(str(self.config.protection.unprotected_budget_seconds))
        alerted_before = any(position_id == position.position_id for position_id, _ in self._alerted_gaps)
        if unprotected_seconds <= budget or (alerted_before and _seconds(gap) <= budget):
            return
        if (position.position_id, since) in self._alerted_gaps:
            return
        self._alerted_gaps.add((position.position_id, since))
        seconds = f"{unprotected_seconds.quantize(Decimal('0.1')):f}"
        allowed = f"{budget.normalize():f}"
        message = (
            f"{position.symbol}: no working stop at the broker for {seconds} s (limit {allowed} s); "
            "check `catalyst positions`"
        )
        facts: dict[str, object] = {
            "position_id": position.position_id,
            "symbol": position.symbol,
            "quantity": str(position.quantity),
            "seconds": seconds,
            "budget": allowed,
        }
        log.critical("unprotected_over_budget", **facts)
        try:
            await self._raise_alert(position, since, message, facts)
        except (DatabaseUnavailable, DatabaseContention) as error:
            # A lock on the alert must not delay the stop; the next check raises it.
            self._alerted_gaps.discard((position.position_id, since))
            log.warning("alert_not_written", alert=OVER_BUDGET, symbol=position.symbol, error=str(error))

    async def _raise_alert(
        self, position: PositionRow, since: datetime, message: str, facts: dict[str, object]
    ) -> None:
        """Write the alert and its risk event in one transaction."""
        at = self.clock.now()
        async with self.store.tx("alert") as conn:
            created = await alerts.raise_alert(
                conn,
                OVER_BUDGET,
                message,
                subject=f"{position.position_id}:{since.isoformat()}",
                facts=facts,
                at=at,
                window=ALERT_WINDOW,
            )
            if created:
                await risk_events.put(
                    conn,
                    event_type=OVER_BUDGET,
                    severity="CRITICAL",
                    message=message,
                    facts=facts,
                    at=at,
                    cycle_id=position.cycle_id,
                )


def unprotected_since(position: PositionRow, rows: Sequence[OrderRow]) -> datetime:
    """Return since when the position has no working stop.

    It is the end of its last working stop, or of the target that a stop was held behind, or else its first fill.
    """
    unfilled = unfilled_entries(rows)
    parents_with_stop = {
        row.parent_order_id for row in rows if row.order_purpose is Purpose.STOP_LOSS and row.is_working
    }
    ends = [
        row.ended_at
        for row in rows
        if row.order_purpose is Purpose.STOP_LOSS
        or (
            row.order_purpose is Purpose.TAKE_PROFIT
            and (row.parent_order_id or row.order_id) in parents_with_stop
        )
        if row.ended_at is not None
        and row.status not in (Status.REJECTED, Status.FILLED, Status.REPLACED)
        and row.cancel_reason != UNACKNOWLEDGED_REASON
        and row.parent_order_id not in unfilled
        and (position.exit_time is None or row.ended_at < position.exit_time)
    ]
    return max([position.entry_time, *ends])


def _seconds(gap: timedelta) -> Decimal:
    return max(Decimal(0), Decimal(str(round(gap.total_seconds(), 3))))
