"""Discrepancy actions: record a confirmed discrepancy, and write off a position whose shares are missing."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.reconciliation.discrepancies import Discrepancy, DiscrepancyKind
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import WORKING, PositionSide, Purpose
from catalyst.domain.position import CloseReason, whole_shares
from catalyst.domain.session import trading_date
from catalyst.store import alerts, cycles, orders, orphans, quarantine
from catalyst.store.pool import Store
from catalyst.store.reconciliation import StoredHolding

log = structlog.get_logger()

EXTERNAL_ALERT_WINDOW: Final = timedelta(days=1)
# A lost database's orders of this time tell whose the shares are.
CATALYST_ORDER_WINDOW: Final = timedelta(days=14)


@dataclass
class DiscrepancyActions:
    """Acts on confirmed discrepancies. It never trades and invents no fill."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    clock: Clock
    config: CurrentConfig
    _recorded: set[str] = field(default_factory=set)  # texts of discrepancies in journal and quarantine

    async def record(self, discrepancy: Discrepancy, source: str) -> bool:
        """Record a confirmed discrepancy: an alert, and for our symbols quarantine, adjustment and orphan row.

        A symbol in which no Catalyst traded lately is not ours: its shares raise one alert a day, its other
        discrepancies are ignored. Shares of another Catalyst raise no alert: `AnotherCatalyst` does. A missing position
        gets no adjustment, because it is written off. Return true when the orphan loop takes over.
        """
        ours = discrepancy.symbol is None or discrepancy.symbol in self.ledger.last_known.symbols
        if not ours and discrepancy.kind is not DiscrepancyKind.ORPHAN:
            return False
        at = self.clock.now()
        anothers = discrepancy.kind is DiscrepancyKind.ORPHAN and self.ledger.symbols.has(
            SymbolReason.ANOTHER_CATALYST, discrepancy.symbol or ""
        )
        async with self.store.tx("discrepancy") as conn:
            if not ours and discrepancy.symbol is not None:
                ours = await orders.has_catalyst_order(
                    conn, discrepancy.symbol, since=at - CATALYST_ORDER_WINDOW
                )
            if not anothers and await self._alert_discrepancy(conn, discrepancy, ours=ours):
                log.error(
                    discrepancy.kind.lower(),
                    symbol=discrepancy.symbol,
                    discrepancy=discrepancy.text,
                    source=source,
                )
            if (
                ours
                and discrepancy.text not in self._recorded
                and discrepancy.kind is not DiscrepancyKind.PHANTOM
            ):
                payload = {"symbol": discrepancy.symbol, "discrepancy": discrepancy.text}
                if await quarantine.put_once(
                    conn, source=source, reason=discrepancy.text, payload=payload, at=at
                ):
                    await orders.journal(
                        conn,
                        None,
                        at=at,
                        source=source,
                        kind="adjustment",
                        note=discrepancy.text,
                        payload=payload,
                    )
            is_new_orphan = (
                ours
                and discrepancy.kind is DiscrepancyKind.ORPHAN
                and self.config.reconcile.orphans != "alert"
            )
            if is_new_orphan and discrepancy.symbol is not None:
                side = PositionSide.LONG if discrepancy.surplus > 0 else PositionSide.SHORT
                today = await cycles.of_day(conn, trading_date(at))
                await orphans.record(
                    conn,
                    discrepancy.symbol,
                    side,
                    abs(discrepancy.surplus),
                    at=at,
                    cycle_id=today.cycle_id if today else None,
                )
        self._recorded.add(discrepancy.text)
        if is_new_orphan:
            self.ledger.orphan_found.notify()
        return is_new_orphan

    async def write_off_missing(self, position: StoredHolding, source: str) -> None:
        """Write off a position whose shares the broker does not have and whose fills do not explain it.

        Does nothing while an exit of the position is working. Reads the single position, because a list alone is not
        enough, and first books the missing fills of each of its orders; an order whose fills cannot all be read and
        booked forbids it.
        """
        if position.is_orphan or not position.is_open:
            return
        async with self.store.read() as conn:
            rows = await orders.of_position(conn, position.holding_id)
        if any(
            row.status in WORKING and row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) for row in rows
        ):
            return
        try:
            broker_position = await self.broker.position(position.symbol)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=position.symbol, error=str(error))
            return
        if broker_position is not None and whole_shares(broker_position.quantity) != 0:
            return
        for row in rows:
            if row.alpaca_order_id is not None and not await self.ledger.fetch_missing_fills(
                row.alpaca_order_id, source
            ):
                return  # a fill that was not read may explain the missing shares
        await self.ledger.write_off(position.holding_id, f"{CloseReason.RECONCILED_PHANTOM}", source)

    async def _alert_discrepancy(self, conn: "orders.Conn", discrepancy: Discrepancy, *, ours: bool) -> bool:
        """Write the alert; false when it was written already within its window."""
        return await alerts.raise_alert(
            conn,
            discrepancy.kind,
            f"{discrepancy.text}; compare with the broker's app, then run `catalyst doctor`"
            if ours
            else discrepancy.text,
            severity=alerts.CRITICAL if ours else alerts.WARNING,
            subject=discrepancy.text,
            facts={"symbol": discrepancy.symbol},
            at=self.clock.now(),
            window=alerts.DEDUPE_WINDOW if ours else EXTERNAL_ALERT_WINDOW,
        )
