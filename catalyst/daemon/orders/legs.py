"""Legs that the broker lists alone, without the parent that tells whose they are."""

from datetime import timedelta
from typing import Final

from catalyst.broker.port import Broker, Priority
from catalyst.domain.ids import PREFIX
from catalyst.domain.report import OrderReport

LEG_CLASSES: Final = ("bracket", "oco", "oto")
PARENT_LOOKBACK: Final = timedelta(days=14)  # a leg that replaced another is newer than its parent


async def parent_of_leg(broker: Broker, report: OrderReport) -> OrderReport | None:
    """Return the parent of a leg that was read alone, as the broker does for a filled parent; None for another order.

    Raises BrokerError.
    """
    if report.legs or report.order_class not in LEG_CLASSES or report.client_order_id.startswith(PREFIX):
        return None
    after = None if report.submitted_at is None else report.submitted_at - PARENT_LOOKBACK
    parents = await broker.orders(status="all", after=after, symbols=[report.symbol], priority=Priority.EXIT)
    return next(
        (each for each in parents if any(leg.broker_id == report.broker_id for leg in each.legs)), None
    )
