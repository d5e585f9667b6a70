"""Blocking orders: orders that are not ours and reserve the shares of an exit.

Those of a person are cancelled. Those of another Catalyst on the account are left to it; a person gets an alert that
names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.daemon.exits.exit_alert import raise_exit_alert
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.legs import parent_of_leg
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.domain.errors import BrokerError, NotFound, OrderRejected
from catalyst.domain.ids import is_of_another_catalyst
from catalyst.domain.report import OrderReport
from catalyst.store import orders, ownership
from catalyst.store.pool import Store

log = structlog.get_logger()

ALERT_WINDOW: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class FoundOrders:
    """Open orders of a symbol: whether any of ours or of a person works, or the list could not be read; and those of
    another Catalyst."""

    any_to_wait_for: bool
    of_another_catalyst: tuple[OrderReport, ...] = ()


@dataclass
class BlockingOrders:
    """Cancels the orders of a person that reserve the shares of an exit."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    clock: Clock

    async def cancel_external(self, symbol: str) -> FoundOrders:
        """Cancel the external orders that the broker shows in the symbol; apply its reports of ours."""
        any_to_wait_for, anothers = False, list[OrderReport]()
        try:
            listed = await self.broker.orders(status="open", symbols=[symbol], priority=Priority.EXIT)
            any_to_wait_for = bool(listed.unreadable_rows)
            for report in listed:
                has_row = await self.ledger.apply_report(report, "poll")
                if await self._is_of_another_catalyst(report, has_row=has_row):
                    anothers.append(report)
                    continue
                any_to_wait_for = True
                if not has_row or await self._is_external(report.broker_id):
                    log.warning("external_order_cancel_requested", symbol=symbol, broker_id=report.broker_id)
                    await self.broker.cancel(report.broker_id)
        except OrderRejected as error:
            log.info("cancel_rejected", symbol=symbol, reason=str(error))
        except BrokerError as error:
            log.warning("external_cancel_failed", symbol=symbol, error=str(error))
            return FoundOrders(any_to_wait_for=True)
        return FoundOrders(any_to_wait_for, tuple(anothers))

    async def cancel_named(self, broker_id: str, reason: str) -> None:
        """Cancel an order that a rejection named; the broker's lists may not show it (a held leg)."""
        async with self.store.read() as conn:
            rows = await orders.by_broker_ids(conn, [broker_id])
        if rows and rows[0].origin != "external":
            await self.submission.cancel(rows[0], reason)
            return
        try:
            report = await self.broker.order(broker_id, priority=Priority.EXIT)
            if await self._is_of_another_catalyst(report, has_row=bool(rows)):
                return
            log.warning("external_order_cancel_requested", symbol=report.symbol, broker_id=broker_id)
            await self.broker.cancel(broker_id)
        except (OrderRejected, NotFound) as error:
            log.info("cancel_rejected", broker_id=broker_id, reason=str(error))
        except BrokerError as error:
            log.warning("cancel_unconfirmed", broker_id=broker_id, error=str(error))

    async def alert(self, symbol: str, found: Sequence[OrderReport]) -> None:
        """Raise one alert that names the orders of another Catalyst that keep the shares of an exit."""
        names = ", ".join(f"{order.broker_id} ({order.side} {order.quantity})" for order in found)
        is_new = await raise_exit_alert(
            self.store,
            "EXIT_BLOCKED",
            f"{symbol}: the exit of our shares waits, because orders of another Catalyst reserve them: cancel at"
            f" the broker {names}",
            subject=names,
            facts={"symbol": symbol, "broker_ids": [order.broker_id for order in found]},
            at=self.clock.now(),
            window=ALERT_WINDOW,
        )
        if is_new:
            log.critical("exit_blocked", symbol=symbol, orders=names)

    async def _is_of_another_catalyst(self, report: OrderReport, *, has_row: bool) -> bool:
        """Return true when another Catalyst sent the order, or the parent of this leg; the row decides where one
        exists. Raises BrokerError."""
        if has_row:
            async with self.store.read() as conn:
                return await ownership.is_of_another_catalyst(
                    conn, self.submission.installation, report.broker_id
                )
        parent = await parent_of_leg(self.broker, report)
        return is_of_another_catalyst((parent or report).client_order_id, self.submission.installation)

    async def _is_external(self, broker_id: str) -> bool:
        async with self.store.read() as conn:
            rows = await orders.by_broker_ids(conn, [broker_id])
        return any(row.origin == "external" for row in rows)
