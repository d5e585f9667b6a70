"""Blocking orders: cancels the orders that reserve the shares of an exit, ours and external ones."""

from dataclasses import dataclass

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.domain.errors import BrokerError, NotFound, OrderRejected
from catalyst.domain.order import Purpose
from catalyst.store import orders
from catalyst.store.pool import Store

log = structlog.get_logger()


@dataclass
class BlockingOrders:
    """Finds and cancels orders that the rows of the position do not show."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission

    async def cancel_named_order(self, broker_id: str, position_id: int, purpose: Purpose) -> None:
        """Cancel an order that a rejection named; the broker's lists may not show it (a held leg)."""
        async with self.store.read() as conn:
            rows = await orders.by_broker_ids(conn, [broker_id])
        if rows and rows[0].origin != "external":
            await self.submission.cancel(rows[0], purpose.upper())
            return
        log.warning("external_order_cancel_requested", broker_id=broker_id, position_id=position_id)
        try:
            await self.broker.cancel(broker_id)
        except (OrderRejected, NotFound) as error:
            log.info("cancel_rejected", broker_id=broker_id, reason=str(error))
        except BrokerError as error:
            log.warning("cancel_unconfirmed", broker_id=broker_id, error=str(error))

    async def cancel_external_orders(self, symbol: str) -> bool:
        """Cancel the external orders that the broker shows in the symbol; apply its reports of ours.

        Return true when it showed any open order or could not be read.
        """
        has_open_orders = False
        try:
            for report in await self.broker.orders(status="open", symbols=[symbol], priority=Priority.EXIT):
                has_open_orders = True
                if not await self.ledger.apply_report(report, "poll") or await self._is_external(
                    report.broker_id
                ):
                    log.warning("external_order_cancel_requested", symbol=symbol, broker_id=report.broker_id)
                    await self.broker.cancel(report.broker_id)
        except OrderRejected as error:
            log.info("cancel_rejected", symbol=symbol, reason=str(error))
        except BrokerError as error:
            log.warning("external_cancel_failed", symbol=symbol, error=str(error))
            return True
        return has_open_orders

    async def _is_external(self, broker_id: str) -> bool:
        async with self.store.read() as conn:
            rows = await orders.by_broker_ids(conn, [broker_id])
        return any(row.origin == "external" for row in rows)
